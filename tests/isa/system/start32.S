/* Entry by Multiboot, the runtime's tables and exception stubs, 32 bits. */
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
    lgdt gdtr
    ljmp $0x08, $1f
1:  mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    call rt_main

    .text
    .macro save
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushfl
    mov %esp, try_sp
    .endm

/* unsigned try_kernel(fn, arg) */
    .globl try_kernel
try_kernel:
    save
    mov 24(%esp), %eax
    push 28(%esp)
    call *%eax
    mov $256, %eax
try_end:
    mov try_sp, %esp
    popfl
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    movl $0, try_sp
    ret

/* unsigned try_user(fn, arg) */
    .globl try_user
try_user:
    save
    mov 24(%esp), %edx
    mov 28(%esp), %ecx
    mov $user_stack_top - 8, %eax
    movl $user_return, (%eax)
    mov %ecx, 4(%eax)
    pushl $0x23
    push %eax
    pushl user_flags
    pushl $0x1b
    push %edx
    mov $0x23, %eax
    mov %eax, %ds
    mov %eax, %es
    iretl
user_return:
    int $0x80
    hlt

/* unsigned try_iret(words, n) */
    .globl try_iret
try_iret:
    save
    mov 24(%esp), %edx
    mov 28(%esp), %ecx
1:  dec %ecx
    push (%edx,%ecx,4)
    test %ecx, %ecx
    jnz 1b
    iretl

isr_common:
    pushal
    push %ds
    push %es
    push %fs
    push %gs
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    cld
    mov %esp, %ebp
    push %ebp
    call rt_trap
    mov %ebp, %esp
    test %al, %al
    jz 1f
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popal
    add $8, %esp
    iretl
1:  mov trap + 48, %eax
    cmp $0x80, %eax
    jne try_end
    mov $256, %eax
    jmp try_end

    .balign 16
    .globl isr_stubs
isr_stubs:
    .set n, 0
    .rept 256
    .balign 16
    .if !(n == 8 || (n >= 10 && n <= 14) || n == 17)
    pushl $0
    .endif
    pushl $n
    jmp isr_common
    .set n, n + 1
    .endr

    .data
    .balign 16
    .globl gdt, user_flags, try_sp
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 08 ring 0 code */
    .quad 0x00cf93000000ffff        /* 10 ring 0 data */
    .quad 0x00cffb000000ffff        /* 18 ring 3 code */
    .quad 0x00cff3000000ffff        /* 20 ring 3 data */
    .quad 0                         /* 28 TSS */
    .quad 0x00009b000000ffff        /* 30 ring 0 code, 16 bits */
    .quad 0x000093000000ffff        /* 38 ring 0 data, 16 bits */
    .fill 56, 8, 0
gdtr:
    .word 64 * 8 - 1
    .long gdt
user_flags: .long 2
try_sp: .long 0

    .bss
    .balign 4096
    .skip 16384
    .globl kernel_stack_top, ring0_stack_top, user_stack_top
kernel_stack_top:
    .skip 8192
ring0_stack_top:
    .skip 8192
user_stack_top:
    .skip 16
