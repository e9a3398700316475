/* Entry by Multiboot (32-bit protected mode), page tables, long mode, exception stubs. */
    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .section .start, "ax"
    .code32
    .globl _start
_start:
    cli
    cld
    mov $kernel_stack_top, %esp
    /* Identity: four GiB in 2 MiB pages, ring 0. */
    mov $pdpt_low + 0, %edi
    mov $pd_low + 3, %eax
    mov $4, %ecx
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 1b
    mov $pd_low, %edi
    mov $0x83, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    /* The first GiB again, for ring 3. */
    movl $pd_user + 7, pdpt_user
    mov $pd_user, %edi
    mov $0x87, %eax
    mov $512, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    movl $pdpt_low + 3, pml4
    movl $pdpt_user + 7, pml4 + 8
    movl $test_pdpt + 7, pml4 + 16
    movl $test_pd + 7, test_pdpt
    movl $test_pt + 7, test_pd

    mov $0x20, %eax               /* PAE */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax               /* SCE, LME, NXE */
    wrmsr
    mov %cr0, %eax
    and $0x1fffffff, %eax
    or $0x80010021, %eax          /* PG, WP, NE, PE */
    mov %eax, %cr0
    lgdt gdtr
    ljmp $0x08, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    lea kernel_stack_top(%rip), %rsp
    call rt_main

    .text
/* unsigned try_kernel(fn, arg) */
    .globl try_kernel
try_kernel:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, try_sp(%rip)
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    mov $256, %eax
try_end:
    mov try_sp(%rip), %rsp
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    movq $0, try_sp(%rip)
    ret

/* unsigned try_user(fn, arg): ends by INT 80h */
    .globl try_user
try_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rsp, try_sp(%rip)
    movabs $0x8000000000, %rcx
    add %rcx, %rdi
    lea user_stack_top - 8(%rip), %rax
    lea user_return(%rip), %rdx
    add %rcx, %rdx
    mov %rdx, (%rax)
    add %rcx, %rax
    pushq $0x23
    push %rax
    pushq user_flags(%rip)
    pushq $0x2b
    push %rdi
    mov %rsi, %rdi
    iretq
user_return:
    int $0x80
    hlt

    .globl isr_common
isr_common:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call rt_trap
    mov %rbp, %rsp
    test %eax, %eax
    jz 1f
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq
1:  mov trap + 120(%rip), %eax
    cmp $0x80, %eax
    jne try_end
    mov $256, %eax
    jmp try_end

/* 256 stubs of 16 bytes; those with an error code push none of their own. */
    .balign 16
    .globl isr_stubs
isr_stubs:
    .set n, 0
    .rept 256
    .balign 16
    .if !(n == 8 || (n >= 10 && n <= 14) || n == 17)
    pushq $0
    .endif
    pushq $n
    jmp isr_common
    .set n, n + 1
    .endr

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        /* 08 ring 0 code, 64 bits */
    .quad 0x00cf93000000ffff        /* 10 ring 0 data */
    .quad 0x00cffb000000ffff        /* 18 ring 3 code, 32 bits */
    .quad 0x00cff3000000ffff        /* 20 ring 3 data */
    .quad 0x00affb000000ffff        /* 28 ring 3 code, 64 bits */
    .quad 0, 0                      /* 30 TSS */
    .quad 0x00cf9b000000ffff        /* 40 ring 0 code, 32 bits */
    .fill 23, 8, 0
gdtr:
    .word 32 * 8 - 1
    .quad gdt
    .globl user_flags
user_flags: .quad 2
    .globl try_sp
try_sp: .quad 0

    .bss
    .balign 4096
    .globl pml4, test_pdpt, test_pd, test_pt
pml4:      .skip 4096
pdpt_low:  .skip 4096
pd_low:    .skip 4096 * 4
pdpt_user: .skip 4096
pd_user:   .skip 4096
test_pdpt: .skip 4096
test_pd:   .skip 4096
test_pt:   .skip 4096
    .skip 16384
    .globl kernel_stack_top, ist_stack_top, user_stack_top
kernel_stack_top:
    .skip 8192
ist_stack_top:
    .skip 8192
user_stack_top:
