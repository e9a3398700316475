/*
 * How a payload starts: multiboot 1 entry (32-bit protected mode, no paging),
 * our own GDT, long mode if it was compiled for that, then rt_main(). The
 * entry of the other processors and of the interrupts are here, too.
 */
#include "rt/layout.h"

#define MAGIC 0x1badb002
#define FLAGS 3

    .section .multiboot, "ax"
    .balign 4
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)

    .text
    .code32
    .globl _start
_start:
    cli
    cld
    movl %eax, multiboot_magic
    movl %ebx, multiboot_info
    lgdt gdt_pointer
    ljmp $CODE32, $1f
1:  movl $boot_stack_end, %esp
    call load_segments
#ifdef __x86_64__
    /* The first 4 GiB one to one, in pages of 2 MiB. */
    movl $pdpt + 3, pml4
    movl $pd + 3, %eax
    movl $pdpt, %edi
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 2b
    movl $0x83, %eax
    movl $pd, %edi
    movl $2048, %ecx
3:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 3b
    call enter_long
    ljmp $CODE64, $4f
    .code64
4:  movl $boot_stack_end, %esp
#endif
    xorl %ebp, %ebp
    call rt_main
5:  cli
    hlt
    jmp 5b

    .code32
load_segments:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    ret

#ifdef __x86_64__
/* Returns in the 32-bit code segment of long mode. */
enter_long:
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ret
#endif

/* ---- another processor: copied to TRAMPOLINE, entered there in real mode by a start-up IPI ---- */

    .globl trampoline, trampoline_end
    .balign 16
    .code16
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl TRAMPOLINE + (trampoline_gdt - trampoline)
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ap_start
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_end:

    .code32
    .balign 16
ap_start:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    /* The stack is that of the initial APIC id. */
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movl %ebx, %edi
    incl %ebx
    shll $12, %ebx
    leal ap_stacks(%ebx), %esp
    cld
#ifdef __x86_64__
    movl %edi, %ebx
    call enter_long
    ljmp $CODE64, $1f
    .code64
1:  movl %esp, %esp
    movl %ebx, %edi
#else
    pushl $0
    pushl $0
    pushl $0
    pushl %edi
#endif
    call ap_main
2:  cli
    hlt
    jmp 2b

/* ---- interrupts: vector and error code (or 0) on the stack, then all registers ---- */

#ifdef __x86_64__
    .code64
#else
    .code32
#endif
    .globl interrupt_stubs
    .balign 16
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
    .else
    push $0
    .endif
    push $vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
#ifdef __x86_64__
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    cld
    call rt_interrupt
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
#else
    pushal
    pushl %esp
    cld
    call rt_interrupt
    addl $4, %esp
    popal
    addl $8, %esp
    iretl
#endif

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* CODE32 */
    .quad 0x00cf93000000ffff /* DATA */
    .quad 0x00af9b000000ffff /* CODE64 */
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt

    .bss
    .globl multiboot_magic, multiboot_info
multiboot_magic:
    .long 0
multiboot_info:
    .long 0
    .balign 4096
#ifdef __x86_64__
pml4:
    .space 4096
pdpt:
    .space 4096
pd:
    .space 4 * 4096
#endif
boot_stack:
    .space 16384
boot_stack_end:
ap_stacks:
    .space 4096 * MAX_CPUS

    .section .note.GNU-stack, "", @progbits
