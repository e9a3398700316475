/*
 * Real mode: the interrupt vector table, faults, far calls, segment limits
 * that protected mode has left behind.
 */
#include "rt32.h"

/*
 * The program runs at 0700:0000, its results go to 0700:0800 as words. Its
 * fault handlers note vector, IP, CS and FLAGS, and go on at `resume`.
 */
extern uint8_t blob[], blob_end[], blob_entry[], blob_handlers[];
__asm__(
    ".text\n    .code16\n"
    ".set B, blob\n"
    ".macro result reg\n    mov \\reg, %es:(%di)\n    add $2, %di\n.endm\n"
    ".macro fault insn:vararg\n    movw $9f - B, %cs:(resume - B)\n    \\insn\n9:\n.endm\n"
    "blob:\n"
    "resume: .word 0\n"
    "back: .long 0\n    .word 8\n"
    "short_idt: .word 0x20 * 4 - 1\n    .long 0\n"
    "full_idt: .word 0x3ff\n    .long 0\n"
    "pmode_idt: .word 0\n    .long 0\n"
    "    .balign 16\n"
    "blob_entry:\n" /* 16-bit protected mode */
    "    mov $0x38, %ax\n    mov %ax, %ss\n    mov %ax, %ds\n    mov %ax, %es\n    mov %ax, %gs\n"
    "    mov %cr0, %eax\n    and $-2, %eax\n    mov %eax, %cr0\n"
    "    ljmp $0x700, $1f - B\n"
    "1:  xor %ax, %ax\n    mov %ax, %ss\n    mov $0x6ff0, %sp\n"
    "    mov $0x700, %ax\n    mov %ax, %ds\n    mov %ax, %es\n    mov $0x800, %di\n"
    "    lidt full_idt - B\n"
    /* INT n */
    "    pushw $0x0302\n    popf\n" /* TF set: not traced below, as vector 1 returns */
    "    pushw $0x0202\n    popf\n"
    "    int $0x21\n"
    "    pushf\n    pop %ax\n    and $0xfd7, %ax\n    result %ax\n"
    /* faults */
    "    xor %cx, %cx\n    fault div %cx\n"
    "    mov $0xffff, %bx\n    fault mov (%bx), %ax\n"
    "    fault lldt %ax\n"
    "    fault .byte 0x8e, 0xc8\n" /* MOV CS */
    "    fault ud2\n"
    "    pushw $10\n    pushw $5\n    mov %sp, %bp\n    mov $11, %ax\n    fault bound %ax, (%bp)\n    add $4, %sp\n"
    "    lidt short_idt - B\n    fault int $0x21\n    lidt full_idt - B\n"
    /* the stack wraps at 64 KiB */
    "    mov %sp, %bp\n    xor %sp, %sp\n    push %bp\n    result %sp\n    pop %ax\n    mov %bp, %sp\n    sub %bp, "
    "%ax\n    result %ax\n"
    /* far calls */
    "    pushw $0x77\n    lcall $0x700, $far_fn - B\n"
    "    pushl $0x88\n    lcallw *far_ptr - B\n    pop %ax\n"
    "    result %sp\n"
    /* FLAGS: IOPL and NT can be set */
    "    pushw $0x7002\n    popf\n    pushf\n    pop %ax\n    and $0x7000, %ax\n    result %ax\n    pushw $0x202\n    "
    "popf\n"
    /* segments: base is selector * 16 */
    "    mov $0x780, %ax\n    mov %ax, %fs\n    mov %fs:0, %ax\n    mov 0x800, %bx\n    sub %bx, %ax\n    result %ax\n"
    /* GS has kept a limit of 4 GiB: loaded in protected mode, changed by a MOV since */
    "    mov $0x10, %ax\n"
    "    mov %cr0, %edx\n    or $1, %edx\n    mov %edx, %cr0\n    mov %ax, %gs\n    and $-2, %edx\n    mov %edx, %cr0\n"
    "    xor %ax, %ax\n    mov %ax, %gs\n"
    "    mov $0x100000, %ebx\n    mov %gs:(%ebx), %ax\n    result %ax\n"
    /* and DS has not */
    "    fault mov (%ebx), %ax\n"
    /* back */
    "    mov %cr0, %eax\n    or $1, %eax\n    mov %eax, %cr0\n"
    "    data32 ljmp *back - B\n"
    "far_ptr: .word far_fn - B, 0x700\n"
    "far_fn:\n    mov %sp, %bp\n    mov 2(%bp), %ax\n    result %ax\n    mov 4(%bp), %ax\n    result %ax\n    lretw "
    "$2\n"
    /* handlers */
    "blob_handlers:\n"
    ".set n, 0\n"
    ".rept 34\n"
    "    .balign 8\n    pushw $n\n    jmp handler\n"
    "    .set n, n + 1\n"
    ".endr\n"
    "handler:\n"
    "    push %bp\n    mov %sp, %bp\n    push %ax\n"
    "    pushf\n    pop %ax\n"
    "    cmpw $1, 2(%bp)\n    je 3f\n"
    "    and $0x300, %ax\n    or 2(%bp), %ax\n    result %ax\n" /* vector, with IF and TF as they are now */
    "    mov 4(%bp), %ax\n    result %ax\n"
    "    mov 6(%bp), %ax\n    result %ax\n"
    "    mov 8(%bp), %ax\n    and $0x300, %ax\n    result %ax\n"
    "    cmpw $0x21, 2(%bp)\n    je 3f\n"
    "    mov %cs:(resume - B), %ax\n    mov %ax, 4(%bp)\n"
    "3:  pop %ax\n    pop %bp\n    add $2, %sp\n    iretw\n"
    "blob_end:\n    .code32\n"
    "go_real:\n"
    "    push %ebx\n    push %ebp\n    push %esi\n    push %edi\n"
    "    mov %esp, saved_esp\n"
    "    sidt 0x7000 + pmode_idt - blob\n"
    "    movl $come_back, 0x7000 + back - blob\n"
    "    ljmp $0x30, $blob_entry - blob + 0x7000\n"
    "come_back:\n"
    "    mov $0x10, %eax\n    mov %eax, %ss\n    mov %eax, %ds\n    mov %eax, %es\n    mov %eax, %fs\n    mov %eax, "
    "%gs\n"
    "    mov saved_esp, %esp\n"
    "    lidt 0x7000 + pmode_idt - blob\n"
    "    pop %edi\n    pop %esi\n    pop %ebp\n    pop %ebx\n    ret\n");
extern void go_real(void);
uint32_t saved_esp;

static const uint16_t *at = (const uint16_t *)0x7800;
static const uint8_t *code = (const uint8_t *)0x7000;

static uint16_t next(void) { return *at++; }
static void fault(const char *what, unsigned vector, unsigned opcode)
{
    check(what, next(), vector); /* IF and TF clear */
    check(what, code[next()], opcode);
    check(what, next(), 0x700);
    check("FLAGS saved", next(), 0x200);
}

void payload(void)
{
    for (unsigned i = 0; i < (unsigned)(blob_end - blob); i++)
        ((volatile uint8_t *)0x7000)[i] = blob[i];
    for (unsigned i = 0; i < 34; i++)
        ((volatile uint32_t *)4)[(int)i - 1] = 0x700 << 16 | (uint32_t)(((blob_handlers - blob + 7) & ~7) + 8 * i);
    go_real();

    check("INT 21h: vector, IF and TF clear", next(), 0x21);
    check("IP behind it", code[next() - 2], 0xcd);
    check("CS", next(), 0x700);
    check("FLAGS saved", next(), 0x200);
    check("FLAGS restored", next(), 0x202);
    fault("divide error", 0, 0xf7);
    fault("a word at FFFFh", 13, 0x8b);
    fault("LLDT in real mode", 6, 0x0f);
    fault("MOV to CS", 6, 0x8e);
    fault("UD2", 6, 0x0f);
    fault("BOUND", 5, 0x62);
    fault("beyond the limit of the IDT", 13, 0xcd);
    check("SP wraps", next(), 0xfffe);
    check("and back", next(), 0);
    check("far call: CS", next(), 0x700);
    check("its parameter", next(), 0x77);
    check("far call by pointer: CS", next(), 0x700);
    check("its parameter", next(), 0x88);
    check("SP after RETF n", next(), 0x6ff0);
    check("IOPL and NT", next(), 0x7000);
    check("FS base", next(), 0);
    check("big real mode", next(), *(const uint16_t *)0x100000);
    fault("DS beyond 64 KiB", 13, 0x67);
}
