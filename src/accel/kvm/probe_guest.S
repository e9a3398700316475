/*
 * A guest of a hundred instructions. Each of its stages is something that no
 * kernel does without and that some KVM or other has been seen to fail at:
 * code in long mode with paging; SSE; CMPXCHG16B; CPL 3 and back; a timer
 * interrupt; and loops that nothing interrupts, for their speed. It tells what
 * it has passed by writing to a port. It runs wherever it is copied to.
 */
#include "accel/kvm/probe_guest.h"

        .macro  tell what
        movb    $\what, %al
        outb    %al, $GUEST_PORT
        .endm

        .section .rodata, "a", @progbits
        .code64
        .globl  probe_guest, probe_guest_end, probe_guest_fault, probe_guest_timer, probe_guest_call
probe_guest:
        /* Translations are thrown away and walked for again. */
        movq    %cr3, %rax
        movq    %rax, %cr3
        movq    GUEST_DATA, %rax
        tell    GUEST_LONG_MODE

        /* Four times 7 + 7, through memory. */
        movl    $7, %eax
        movd    %eax, %xmm0
        pshufd  $0, %xmm0, %xmm0
        movdqa  %xmm0, %xmm1
        paddd   %xmm1, %xmm0
        movdqa  %xmm0, GUEST_DATA
        cmpl    $14, GUEST_DATA + 12
        jne     wrong
        tell    GUEST_SSE

        /* Once with the value that is there, once with another. */
        movl    $GUEST_DATA, %edi
        movq    (%rdi), %rax
        movq    8(%rdi), %rdx
        movl    $1, %ebx
        movl    $2, %ecx
        lock cmpxchg16b (%rdi)
        jne     wrong
        cmpq    $2, 8(%rdi)
        jne     wrong
        lock cmpxchg16b (%rdi)
        je      wrong
        cmpq    $1, %rax
        jne     wrong
        tell    GUEST_CMPXCHG16B

        pushq   $GUEST_USER_SS
        pushq   $GUEST_USER_STACK
        pushq   $2
        pushq   $GUEST_USER_CS
        leaq    user(%rip), %rax
        pushq   %rax
        iretq
user:
        pushq   %rax
        popq    %rbx
        cmpq    %rax, %rbx
        jne     bad_user
        int     $GUEST_CALL_VECTOR
bad_user:
        hlt     /* faults */

probe_guest_call:
        cmpq    $GUEST_USER_CS, 8(%rsp)
        jne     wrong
        cmpq    $GUEST_USER_SS, 32(%rsp)
        jne     wrong
        movw    %cs, %ax
        testb   $3, %al
        jne     wrong
        movl    $GUEST_STACK, %esp
        tell    GUEST_CPL3

        movl    $GUEST_APIC, %esi
        movl    $0x1ff, 0xf0(%rsi)                      /* spurious vector, APIC on */
        movl    $0xb, 0x3e0(%rsi)                       /* divide by 1 */
        movl    $GUEST_TIMER_VECTOR, 0x320(%rsi)        /* one shot */
        movl    $0, GUEST_DATA
        movl    $GUEST_TIMER_NS, 0x380(%rsi)
        sti
1:      pause
        cmpl    $0, GUEST_DATA
        je      1b
        cli
        tell    GUEST_TIMER

        movl    $GUEST_LOOPS, %ebp
2:      tell    GUEST_LOOP_BEGINS
        movl    $GUEST_TURNS, %ecx
3:      decl    %ecx
        jnz     3b
        tell    GUEST_LOOP_ENDS
        decl    %ebp
        jnz     2b
        tell    GUEST_DONE
4:      hlt
        jmp     4b

wrong:  tell    GUEST_WRONG
        jmp     4b

probe_guest_fault:
        tell    GUEST_FAULT
        jmp     4b

probe_guest_timer:
        incl    GUEST_DATA
        movl    $0, 0xb0(%rsi)                          /* EOI */
        iretq
probe_guest_end:

        .section .note.GNU-stack, "", @progbits
