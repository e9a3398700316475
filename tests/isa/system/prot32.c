/*
 * Protected mode: segment limits and rights, gates and stack switches, call
 * gates with parameters, tasks, virtual-8086 mode, 16-bit code.
 */
#include "rt32.h"

#define INSN(name, text)                                                                                               \
    static void name(uint32_t a) { __asm__ volatile(text : "+a"(a) : : "ecx", "edx", "memory"); }
INSN(i_ud2, "ud2")
INSN(i_int3, "int3")
INSN(i_int20, "int $0x20")
INSN(i_cli, "cli")
INSN(i_load_fs, "mov %%eax, %%fs")
INSN(i_load_ss, "mov %%eax, %%ss")
INSN(i_fs_read, "mov %%fs:(%%eax), %%al")
INSN(i_fs_read4, "mov %%fs:(%%eax), %%eax")
INSN(i_fs_write, "mov %%al, %%fs:(%%eax)")
INSN(i_cs_write, "mov %%al, %%cs:(%%eax)")
INSN(i_bound, "push $10; push $5; bound %%eax, (%%esp); pop %%ecx; pop %%ecx")
INSN(i_into, "add $0x7fffffff, %%eax; into")
INSN(i_ltr, "ltr %%ax")
INSN(i_lldt, "lldt %%ax")

static unsigned with_fs(uint64_t desc, void (*fn)(uint32_t), uint32_t arg)
{
    gdt[SEL_TEST / 8] = desc;
    unsigned v = try_kernel(i_load_fs, SEL_TEST);
    return v == NONE ? try_kernel(fn, arg) : v;
}

static void limits(void)
{
    uint32_t base = 0x200000;
    uint64_t up = descriptor(base, 0xfff, 0x93), down = descriptor(base, 0xfff, 0x97),
             down_big = descriptor(base, 0xfff, 0x4097);
    expect("within the limit", with_fs(up, i_fs_read, 0xfff), NONE, 0);
    expect("beyond it", with_fs(up, i_fs_read, 0x1000), 13, 0);
    expect("four bytes at its end", with_fs(up, i_fs_read4, 0xffc), NONE, 0);
    expect("four bytes across its end", with_fs(up, i_fs_read4, 0xffd), 13, 0);
    expect("wraps around", with_fs(up, i_fs_read4, 0xfffffffe), 13, 0);
    expect("expand-down, below", with_fs(down, i_fs_read, 0xfff), 13, 0);
    expect("expand-down, inside", with_fs(down, i_fs_read, 0x1000), NONE, 0);
    expect("expand-down of 16 bits, above", with_fs(down, i_fs_read, 0x10000), 13, 0);
    expect("expand-down of 32 bits, above", with_fs(down_big, i_fs_read, 0x10000), NONE, 0);
    expect("expand-down, across the lower end", with_fs(down, i_fs_read4, 0xffe), 13, 0);
    expect("read-only, read", with_fs(descriptor(base, 0xfff, 0x91), i_fs_read, 0), NONE, 0);
    expect("read-only, written", with_fs(descriptor(base, 0xfff, 0x91), i_fs_write, 0), 13, 0);
    expect("readable code, read", with_fs(descriptor(base, 0xfff, 0x9b), i_fs_read, 0), NONE, 0);
    expect("readable code, written", with_fs(descriptor(base, 0xfff, 0x9b), i_fs_write, 0), 13, 0);
    expect("execute-only code cannot be loaded", with_fs(descriptor(base, 0xfff, 0x99), i_fs_read, 0), 13, SEL_TEST);
    expect("absent", with_fs(descriptor(base, 0xfff, 0x13), i_fs_read, 0), 11, SEL_TEST);
    expect("a system segment", with_fs(descriptor(base, 0xfff, 0x89), i_fs_read, 0), 13, SEL_TEST);
    expect("granularity", with_fs(descriptor(base, 0x1fffff, 0x8093), i_fs_read, 0x1fffff), NONE, 0);
    expect("granularity, beyond", with_fs(descriptor(base, 0x1fffff, 0x8093), i_fs_read, 0x200000), 13, 0);
    expect("FS null", try_kernel(i_load_fs, 0), NONE, 0);
    expect("used", try_kernel(i_fs_read, 0), 13, 0);
    expect("CS written", try_kernel(i_cs_write, 0x200000), 13, 0);
    expect("SS null", try_kernel(i_load_ss, 0), 13, 0);
    gdt[SEL_TEST / 8] = descriptor(base, 0xfff, 0x92);
    try_kernel(i_load_fs, SEL_TEST);
    check("accessed bit", gdt[SEL_TEST / 8] >> 40 & 1, 1);
    expect("BOUND inside", try_kernel(i_bound, 7), NONE, 0);
    expect("BOUND outside", try_kernel(i_bound, 11), 5, 0);
    expect("INTO", try_kernel(i_into, 5), 4, 0);
    expect("INTO without overflow", try_kernel(i_into, 0), NONE, 0);
}

static void stack_faults(void)
{
    /* In ring 3, so that the handler has another stack. */
    gdt[SEL_TEST / 8] = descriptor(0x200000, 0xfff, 0x40f3);
    uint32_t words[5] = {0, SEL_UCODE | 3, 2, 0, SEL_TEST | 3};
    extern uint8_t push_twice[];
    words[0] = (uint32_t)push_twice;
    words[3] = 4;
    expect("push beyond the stack segment", try_iret(words, 5), 12, 0);
    check("the first push was done", trap.esp, 0);
    words[3] = 0xffe;
    extern uint8_t pop_once[];
    words[0] = (uint32_t)pop_once;
    expect("pop across its end", try_iret(words, 5), 12, 0);
}
__asm__(".text\npush_twice: push %eax\n push %eax\n ud2\npop_once: pop %eax\n ud2\n");

static uint32_t handler_esp, handler_ss;
static bool note(struct frame *f)
{
    handler_esp = (uint32_t)f;
    __asm__ volatile("mov %%ss, %0" : "=r"(handler_ss));
    return false;
}
static void interrupts(void)
{
    trap_hook = note;
    expect("UD2 in ring 3", try_user(i_ud2, 0), 6, 0);
    check("on the TSS's stack", handler_esp + 19 * 4, (uint32_t)ring0_stack_top);
    check("SS", handler_ss & 0xffff, SEL_KDATA);
    check("SS of ring 3", trap.ss & 0xffff, SEL_UDATA | 3);
    check("CS of ring 3", trap.cs & 0xffff, SEL_UCODE | 3);
    trap_hook = 0;
    expect("INT3 in ring 3", try_user(i_int3, 0), 3, 0);
    expect("INT 20h in ring 3", try_user(i_int20, 0), 13, 0x20 * 8 + 2);
    expect("CLI in ring 3", try_user(i_cli, 0), 13, 0);
    user_flags = 0x3002;
    expect("CLI with IOPL 3", try_user(i_cli, 0), NONE, 0);
    user_flags = 2;
    idt[0x20] = gate(SEL_KDATA, 0, 0x8e, 0);
    expect("gate to data", try_kernel(i_int20, 0), 13, SEL_KDATA);
    idt[0x20] = gate(0, 0, 0x8e, 0);
    expect("gate to null", try_kernel(i_int20, 0), 13, 0);
    idt[0x20] = gate(SEL_UCODE, 0, 0x8e, 0);
    expect("gate to an outer level", try_kernel(i_int20, 0), 13, SEL_UCODE);
    idt[0x20] = gate(SEL_KCODE, 0, 0x0e, 0);
    expect("gate absent", try_kernel(i_int20, 0), 11, 0x20 * 8 + 2);
    idt[0x20] = gate(SEL_KCODE, 0, 0x8c, 0);
    expect("call gate in the IDT", try_kernel(i_int20, 0), 13, 0x20 * 8 + 2);
    idt_set(0x20, SEL_KCODE, (uint32_t)isr_stubs + 16 * 0x20, 0x8e);
}

/* -- call gates -- */

uint32_t seen[8];
extern uint8_t gate32_entry[], gate16_entry[];
__asm__(".text\n"
        "gate32_entry:\n"
        "    push %ds\n    mov $0x10, %eax\n    mov %eax, %ds\n"
        "    mov %esp, seen\n"
        "    mov 4(%esp), %eax\n    mov %eax, seen + 4\n"   /* EIP */
        "    mov 8(%esp), %eax\n    mov %eax, seen + 8\n"   /* CS */
        "    mov 12(%esp), %eax\n    mov %eax, seen + 12\n" /* last parameter */
        "    mov 16(%esp), %eax\n    mov %eax, seen + 16\n"
        "    mov 20(%esp), %eax\n    mov %eax, seen + 20\n" /* ESP */
        "    mov 24(%esp), %eax\n    mov %eax, seen + 24\n" /* SS */
        "    pop %ds\n"
        "    lret $8\n");
uint32_t esp_before, esp_after;
static void call_gate(uint32_t a)
{
    (void)a;
    __asm__ volatile("mov %%esp, esp_before; push $0x1111; push $0x2222; lcall %0, $0; mov %%esp, esp_after"
                     :
                     : "i"(SEL_TEST | 3)
                     : "eax", "memory");
}
static void gates(void)
{
    gdt[SEL_TEST / 8] = gate(SEL_KCODE, (uint32_t)gate32_entry, 0xec, 2);
    expect("call gate from ring 3", try_user(call_gate, 0), NONE, 0);
    check("on the inner stack", seen[0], (uint32_t)ring0_stack_top - 7 * 4);
    check("CS", seen[2] & 0xffff, SEL_UCODE | 3);
    check("parameter", seen[3], 0x2222);
    check("parameter", seen[4], 0x1111);
    check("ESP", seen[5], esp_before - 8);
    check("SS", seen[6] & 0xffff, SEL_UDATA | 3);
    check("RETF n releases both stacks", esp_after, esp_before);
    gdt[SEL_TEST / 8] = gate(SEL_KCODE, (uint32_t)gate32_entry, 0x8c, 2);
    expect("of DPL 0", try_user(call_gate, 0), 13, SEL_TEST);
    gdt[SEL_TEST / 8] = gate(SEL_KCODE, (uint32_t)gate32_entry, 0x6c, 2);
    expect("absent", try_user(call_gate, 0), 11, SEL_TEST);
    gdt[SEL_TEST / 8] = gate(SEL_KDATA, (uint32_t)gate32_entry, 0xec, 2);
    expect("to data", try_user(call_gate, 0), 13, SEL_KDATA);
    gdt[SEL_TEST / 8] = gate(0, (uint32_t)gate32_entry, 0xec, 2);
    expect("to null", try_user(call_gate, 0), 13, 0);
}

/* -- 16-bit code -- */

extern uint8_t code16[], code16_end[];
__asm__(".text\n"
        "    .balign 4096\n"
        "code16:\n    .code16\n"
        "    push %ax\n" /* two bytes on a 32-bit stack */
        "    mov %sp, %bx\n"
        "    pop %ax\n"
        "    mov $0xffff, %cx\n"
        "    add $2, %cx\n" /* 16-bit arithmetic */
        "    jcxz 1f\n"
        "    mov $0x1234, %dx\n"
        "1:  lretl\n"
        "    .code32\n"
        "code16_end:\n");
static void sixteen(void)
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) p = {0, SEL_TEST};
    uint32_t eax = 0xaaaa5555, ebx, ecx = 0x77770000, edx = 0, esp;
    gdt[SEL_TEST / 8] = descriptor((uint32_t)code16, 0xfff, 0x9b);
    __asm__ volatile("mov %%esp, %0; lcall *%5"
                     : "=&S"(esp), "+a"(eax), "=b"(ebx), "+c"(ecx), "+d"(edx)
                     : "m"(p)
                     : "memory");
    check("PUSH AX takes two bytes", ebx & 0xffff, (esp - 8 - 2) & 0xffff);
    check("CX wraps", ecx, 0x77770001);
    check("jumped on", edx, 0x1234);
    check("EAX is whole", eax, 0xaaaa5555);
    gdt[SEL_TEST / 8] = descriptor((uint32_t)code16, 4, 0x9b);
}

/* -- tasks -- */

static struct tss32 other;
static uint8_t other_stack[4096];
uint32_t task_seen[8];
extern uint8_t task_entry[], task_int_entry[];
__asm__(".text\n"
        "task_entry:\n"
        "    mov %eax, task_seen\n"
        "    str %ecx\n    mov %ecx, task_seen + 4\n"
        "    pushfl\n    popl task_seen + 8\n"
        "    mov %cr0, %ecx\n    mov %ecx, task_seen + 12\n"
        "    clts\n"
        "    incl %eax\n"
        "    iretl\n"
        "    jmp task_entry\n"
        "task_int_entry:\n"
        "    popl task_seen + 16\n" /* the error code */
        "    str %ecx\n    mov %ecx, task_seen + 4\n"
        "    movl $trap_landing, tss + 32\n" /* go on there */
        "    iretl\n"
        "    jmp task_int_entry\n");
#define SEL_OTHER (SEL_TEST + 8)
static void task_init(uint32_t eip)
{
    other = (struct tss32){.eip = eip,
                           .eflags = 2,
                           .eax = 0x4711,
                           .esp = (uint32_t)other_stack + sizeof other_stack,
                           .es = SEL_KDATA,
                           .cs = SEL_KCODE,
                           .ss = SEL_KDATA,
                           .ds = SEL_KDATA,
                           .fs = SEL_KDATA,
                           .gs = SEL_KDATA,
                           .cr3 = read_cr3(),
                           .iomap = sizeof other};
    gdt[SEL_OTHER / 8] = descriptor((uint32_t)&other, sizeof other - 1, 0x89);
}
static void call_task(uint32_t a)
{
    uint32_t ebx = 0x1234, esi = 0x5678;
    (void)a;
    __asm__ volatile("lcall %2, $0" : "+b"(ebx), "+S"(esi) : "i"(SEL_OTHER) : "memory");
    check("EBX survives", ebx, 0x1234);
    check("ESI survives", esi, 0x5678);
}
extern uint8_t trap_landing[];
static void raise_gp(uint32_t a)
{
    __asm__ volatile("mov %%eax, %%ds\ntrap_landing: mov $0x10, %%eax; mov %%eax, %%ds" : "+a"(a) : : "memory");
}
static void tasks(void)
{
    task_init((uint32_t)task_entry);
    expect("CALL of a task and IRET", try_kernel(call_task, 0), NONE, 0);
    check("its EAX", task_seen[0], 0x4711);
    check("TR", task_seen[1] & 0xffff, SEL_OTHER);
    check("NT", task_seen[2] >> 14 & 1, 1);
    check("TS", task_seen[3] >> 3 & 1, 1);
    check("link", other.link & 0xffff, SEL_TSS);
    check("not busy afterwards", gdt[SEL_OTHER / 8] >> 40 & 0xff, 0x89);
    check("we are busy", gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
    check("its EAX is kept", other.eax, 0x4712);
    check("its NT is cleared", other.eflags >> 14 & 1, 0);
    uint32_t str;
    __asm__ volatile("str %0" : "=r"(str));
    check("our TR", str & 0xffff, SEL_TSS);
    expect("CALL of it again", try_kernel(call_task, 0), NONE, 0);
    check("goes on behind its IRET", task_seen[0], 0x4712);

    gdt[SEL_OTHER / 8] |= (uint64_t)2 << 40;
    expect("CALL of a busy task", try_kernel(call_task, 0), 13, SEL_OTHER);
    task_init((uint32_t)task_entry);
    gdt[SEL_OTHER / 8] &= ~((uint64_t)0x80 << 40);
    expect("CALL of an absent one", try_kernel(call_task, 0), 11, SEL_OTHER);
    task_init((uint32_t)task_entry);
    gdt[SEL_OTHER / 8] = descriptor((uint32_t)&other, 102, 0x89);
    expect("CALL of a short one", try_kernel(call_task, 0), 10, SEL_OTHER);
    expect("LTR of a busy one", try_kernel(i_ltr, SEL_TSS), 13, SEL_TSS);
    expect("LLDT of a TSS", try_kernel(i_lldt, SEL_OTHER), 13, SEL_OTHER);

    /* A task gate for #GP. */
    uint64_t old = idt[13];
    task_init((uint32_t)task_int_entry);
    idt[13] = gate(SEL_OTHER, 0, 0x85, 0);
    expect("#GP by a task gate", try_kernel(raise_gp, 0xf8), NONE, 0);
    check("error code on its stack", task_seen[4], 0xf8);
    check("TR there", task_seen[1] & 0xffff, SEL_OTHER);
    idt[13] = old;
    /* INT n to a task whose gate has DPL 0, from ring 3. */
    idt[0x20] = gate(SEL_OTHER, 0, 0x85, 0);
    expect("INT n by a task gate of DPL 0", try_user(i_int20, 0), 13, 0x20 * 8 + 2);
    idt_set(0x20, SEL_KCODE, (uint32_t)isr_stubs + 16 * 0x20, 0x8e);
    write_cr0(read_cr0() & ~8u);
}

/* -- virtual-8086 mode -- */

static void v86_run(const char *what, const uint8_t *code, unsigned n, uint32_t flags, unsigned vector, uint32_t error)
{
    uint8_t *at = (uint8_t *)0x20000;
    for (unsigned i = 0; i < n; i++)
        at[i] = code[i];
    /* EIP CS EFLAGS ESP SS ES DS FS GS */
    uint32_t words[9] = {0x0, 0x2000, flags | 1 << 17 | 2, 0x800, 0x3000, 0x1111, 0x2222, 0x3333, 0x4444};
    expect(what, try_iret(words, 9), vector, error);
}
#define V86(what, flags, vector, error, ...)                                                                           \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        v86_run(what, code_, sizeof code_, flags, vector, error);                                                      \
    } while (0)
static void v86(void)
{
    V86("UD2", 0, 6, 0, 0x0f, 0x0b);
    check("VM in the image", trap.eflags >> 17 & 1, 1);
    check("CS", trap.cs & 0xffff, 0x2000);
    check("SS", trap.ss & 0xffff, 0x3000);
    check("ES", trap.v86_es & 0xffff, 0x1111);
    check("DS", trap.v86_ds & 0xffff, 0x2222);
    check("FS", trap.v86_fs & 0xffff, 0x3333);
    check("GS", trap.v86_gs & 0xffff, 0x4444);
    check("data segments are null in the handler", (trap.ds | trap.es | trap.fs | trap.gs) & 0xffff, 0);
    V86("CLI with IOPL 0", 0, 13, 0, 0xfa);
    V86("CLI with IOPL 3", 0x3000, 6, 0, 0xfa, 0x0f, 0x0b);
    V86("PUSHF with IOPL 0", 0, 13, 0, 0x9c);
    V86("PUSHF with IOPL 3", 0x3000, 6, 0, 0x9c, 0x0f, 0x0b);
    check("SP", trap.esp & 0xffff, 0x7fe);
    V86("INT n with IOPL 0", 0, 13, 0, 0xcd, 0x80);
    V86("INT n with IOPL 3", 0x3000, NONE, 0, 0xcd, 0x80);
    V86("INT3 with IOPL 0", 0, 3, 0, 0xcc);
    V86("HLT", 0x3000, 13, 0, 0xf4);
    V86("MOV CR0", 0x3000, 13, 0, 0x0f, 0x20, 0xc0);
    V86("LAR", 0, 6, 0, 0x0f, 0x02, 0xc0);
    V86("LLDT", 0, 6, 0, 0x0f, 0x00, 0xd0);
    V86("ARPL", 0, 6, 0, 0x63, 0xc0);
    V86("IN without a bitmap", 0x3000, 13, 0, 0xe4, 0xe0);
    V86("MOV DS", 0, 6, 0, 0xb8, 0x34, 0x12, 0x8e, 0xd8, 0x0f, 0x0b);
    check("DS", trap.v86_ds & 0xffff, 0x1234);
    V86("a store and a load", 0, 6, 0, 0xb8, 0x00, 0x21, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0xcd, 0xab, 0xa1, 0x10,
        0x00, 0x0f, 0x0b);
    check("AX", trap.eax & 0xffff, 0xabcd);
    check("at DS * 16 + 10h", *(uint16_t *)0x21010, 0xabcd);
    V86("offset FFFFh, a word", 0, 13, 0, 0xa1, 0xff, 0xff);
    V86("far jump", 0, 6, 0, 0xea, 0x06, 0x00, 0x00, 0x20, 0x90, 0x0f, 0x0b);
    check("IP", trap.eip, 6);
    V86("IRET with IOPL 3", 0x3000, 6, 0, 0x68, 0x02, 0x30, 0x68, 0x00, 0x20, 0x68, 0x0d, 0x00, 0xcf, 0x90, 0x90, 0x90,
        0x0f, 0x0b);
    V86("IRET with IOPL 0", 0, 13, 0, 0xcf);
    V86("STI with IOPL 0", 0, 13, 0, 0xfb);
    V86("32-bit operand", 0, 6, 0, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0x0b);
    check("EAX", trap.eax, 0x12345678);
}

static void irets(void)
{
    uint32_t words[5] = {(uint32_t)i_ud2, SEL_UCODE | 3, 2, (uint32_t)user_stack_top, SEL_UDATA | 3};
    expect("IRET to ring 3", try_iret(words, 5), 6, 0);
    words[4] = SEL_UDATA;
    expect("with a wrong RPL of SS", try_iret(words, 5), 13, SEL_UDATA);
    words[4] = SEL_KDATA | 3;
    expect("with SS of DPL 0", try_iret(words, 5), 13, SEL_KDATA);
    words[4] = 0;
    expect("with SS null", try_iret(words, 5), 13, 0);
    words[4] = SEL_UDATA | 3;
    words[1] = SEL_KCODE | 3;
    expect("RPL 3 for code of DPL 0", try_iret(words, 5), 13, SEL_KCODE);
    words[1] = SEL_KDATA;
    expect("to data", try_iret(words, 5), 13, SEL_KDATA);
    words[1] = 0;
    expect("to null", try_iret(words, 5), 13, 0);
    /* DS of ring 0 does not survive the way out. */
    words[1] = SEL_UCODE | 3;
    expect("out with DS of ring 0", try_iret(words, 5), 6, 0);
    check("DS is null there", trap.ds & 0xffff, 0);
    words[0] = 0xfffffff0;
    gdt[SEL_TEST / 8] = descriptor(0, 0xffff, 0x40fb);
    words[1] = SEL_TEST | 3;
    expect("beyond the limit of CS", try_iret(words, 5), 13, 0);
}

void payload(void)
{
    limits();
    stack_faults();
    interrupts();
    gates();
    sixteen();
    tasks();
    v86();
    irets();
}
