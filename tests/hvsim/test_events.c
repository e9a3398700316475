/* hvsim: events: the exception bitmap, injection, vectoring information, windows, shadows, NMIs. */
#include "guest.h"

#define VALID IRQ_INFO_VALID
#define UD_HANDLER (HANDLER_AT + 16 * 6)

/* An intercepted exception is told and not done. */
static void test_exception_bitmap(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 6);
    CODE("\x0f\x0b");
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_HARD_EXC | 6);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    assert_int_equal(reg(HV_X86_RSP), STACK_TOP);
    assert_int_equal(reg(HV_X86_RFLAGS) & 0x10000, 0x10000);
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 0);
    set_reg(HV_X86_RFLAGS, 2);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), UD_HANDLER);
    /* INT3 is a software exception, INT 3 an interrupt. */
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 3);
    CODE("\xcc");
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_SOFT_EXC | 3);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), 1);
    CODE("\xcd\x03");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 3);
    CODE("\xf1"); /* INT1 */
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 1);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_PRIV_SOFT_EXC | 1);
}

static void test_page_fault(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 14);
    set_reg(HV_X86_CR2, 0x1234);
    set_reg(HV_X86_RBX, 0x40000008);
    CODE("\x89\x03");
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_ERROR_VALID | IRQ_INFO_HARD_EXC | 14);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_ERROR), 2);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x40000008);
    assert_int_equal(reg(HV_X86_CR2), 0x1234);
    /* Only faults of reads: mask and match turn the bit's meaning round. */
    set_vmcs(VMCS_CTRL_PF_ERROR_MASK, 2);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 14);
    assert_int_equal(reg(HV_X86_CR2), 0x40000008);
    CODE("\x8b\x03");
    runs_to(VMX_REASON_EXC_NMI);
}

static void test_debug(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 1);
    set_reg(HV_X86_DR6, 0xffff0ff0);
    set_reg(HV_X86_DR0, 0x5000);
    set_vmcs(VMCS_GUEST_DR7, 0x400 | 1 | 0xd << 16); /* four bytes at 5000h, written */
    set_reg(HV_X86_RBX, 0x5000);
    CODE("\x89\x03\xf4");
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_HARD_EXC | 1);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 1);
    assert_int_equal(reg(HV_X86_DR6), 0xffff0ff0);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
    /* A single step; and one that is pending when the guest is entered. */
    set_vmcs(VMCS_GUEST_DR7, 0x400);
    set_reg(HV_X86_RFLAGS, 0x102);
    CODE("\x90\xf4");
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 1 << 14);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 1);
    set_vmcs(VMCS_GUEST_DEBUG_EXC, 1 << 14);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 1);
    /* An interrupt that goes in drops it. */
    set_reg(HV_X86_RFLAGS, 0x302);
    set_vmcs(VMCS_GUEST_DEBUG_EXC, 1 << 14);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_EXT_IRQ | 0x40);
    runs_to(VMX_REASON_HLT);
}

static uint64_t pushed(unsigned word)
{
    uint64_t v;
    memcpy(&v, ram + reg(HV_X86_RSP) + 8 * word, 8);
    return v;
}

/* What goes in through VM entry is delivered before the first instruction. */
static void test_injection(void **state)
{
    (void)state;
    static const struct {
        uint32_t info, length;
        bool error;
    } cases[] = {
        {VALID | IRQ_INFO_EXT_IRQ | 0x40, 0, false},
        {VALID | IRQ_INFO_NMI | 2, 0, false},
        {VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13, 0, true},
        {VALID | IRQ_INFO_HARD_EXC | 6, 0, false},
        {VALID | IRQ_INFO_SOFT_IRQ | 0x80, 2, false},
        {VALID | IRQ_INFO_SOFT_EXC | 3, 1, false},
        {VALID | IRQ_INFO_PRIV_SOFT_EXC | 1, 1, false},
    };
    mode64();
    CODE("\x90\x90\x90\x90\xf4");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_reg(HV_X86_RIP, CODE_AT);
        set_reg(HV_X86_RSP, STACK_TOP);
        set_reg(HV_X86_RFLAGS, 0x202);
        set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
        set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, cases[i].info);
        set_vmcs(VMCS_CTRL_VMENTRY_EXC_ERROR, 0x8);
        set_vmcs(VMCS_CTRL_VMENTRY_INSTR_LEN, cases[i].length);
        runs_to(VMX_REASON_HLT);
        assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * (cases[i].info & 0xff));
        assert_int_equal(pushed(cases[i].error), CODE_AT + cases[i].length);
        if (cases[i].error)
            assert_int_equal(pushed(0), 8);
        assert_int_equal(pushed(2 + cases[i].error), 0x202);
        assert_int_equal(vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO) & VALID, 0);
        assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), i == 1 ? GUEST_INTRBILITY_NMI_BLOCKING : 0);
    }
}

/* Nothing of the bitmap intercepts an injected exception; it wakes who halts. */
static void test_injection_is_not_intercepted(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 6 | 1u << 1);
    CODE("\xf4");
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_HARD_EXC | 6);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), UD_HANDLER);
    set_vmcs(VMCS_GUEST_ACTIVITY_STATE, 1);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_HARD_EXC | 1);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16);
}

/* An exit amid a delivery tells what was being delivered. */
static void test_vectoring(void **state)
{
    (void)state;
    mode64();
    set_bits(VMCS_GUEST_CR4, 0);
    /* The stack is in memory that is not there. */
    put64(TABLES_AT + 0x2008, 0x40000087);
    set_reg(HV_X86_RSP, 0x201000);
    CODE("\x0f\x0b");
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO), VALID | IRQ_INFO_HARD_EXC | 6);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    assert_int_equal(reg(HV_X86_RSP), 0x201000);
    /* A software interrupt has a length. */
    CODE("\xcd\x80");
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO), VALID | IRQ_INFO_SOFT_IRQ | 0x80);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), 2);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    /* An injected NMI: blocked from then on. */
    CODE("\x90");
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_NMI | 2);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO), VALID | IRQ_INFO_NMI | 2);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), GUEST_INTRBILITY_NMI_BLOCKING);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
    /* A fault in the delivery that the bitmap names; without it, a double fault, which is no delivery's. */
    set_reg(HV_X86_RSP, 0x40000000);
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 14);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13);
    set_vmcs(VMCS_CTRL_VMENTRY_EXC_ERROR, 0x18);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO) & 0xff, 14);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO), VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_ERROR), 0x18);
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 8);
    set_reg(HV_X86_RSP, 0x40000000);
    set_reg(HV_X86_IDT_LIMIT, 13 * 16 - 1); /* #GP within #GP */
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO), VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 8);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO) & VALID, 0);
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 0);
    set_reg(HV_X86_IDT_LIMIT, 0);
    CODE("\x0f\x0b");
    runs_to(VMX_REASON_TRIPLE_FAULT);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO) & VALID, 0);
}

/* The window for interrupts opens when IF is set and nothing shadows it. */
static void test_interrupt_window(void **state)
{
    (void)state;
    mode64();
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_IRQ_WND);
    CODE("\x90\xfb\x90\xf4"); /* nop; sti; nop; hlt */
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 3);
    /* Open at the entry: not one instruction. */
    CODE("\x90");
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    /* Behind MOV SS, one later. */
    CODE("\x8e\xd0\x90\x90");
    set_reg(HV_X86_RFLAGS, 2);
    set_reg(HV_X86_RAX, 16);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
    CODE("\xfb\x8e\xd0\x90\x90");
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 4);
    /* A shadow that is there at the entry. */
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_STI_BLOCKING);
    CODE("\x90\x90");
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 1);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
    /* And POPF. */
    set_reg(HV_X86_RFLAGS, 2);
    put64(STACK_TOP, 0x202);
    set_reg(HV_X86_RSP, STACK_TOP);
    CODE("\x9d\x90\x90");
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 1);
}

/* An exit by the instruction behind STI or MOV SS has its shadow. */
static void test_shadows(void **state)
{
    (void)state;
    mode64();
    CODE("\xfb\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), GUEST_INTRBILITY_STI_BLOCKING);
    /* STI with IF set already makes none. */
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
    CODE("\xfb\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
    set_reg(HV_X86_RAX, 16);
    CODE("\x8e\xd0\x0f\xa2");
    runs_to(VMX_REASON_CPUID);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), GUEST_INTRBILITY_MOVSS_BLOCKING);
    /* Executed, it ends. */
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
    CODE("\x8e\xd0\x90\x0f\xa2");
    runs_to(VMX_REASON_CPUID);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
}

static void test_nmi(void **state)
{
    (void)state;
    mode64();
    /* An NMI handler: IRETQ. */
    ram[HANDLER_AT + 32] = 0x48;
    ram[HANDLER_AT + 33] = 0xcf;
    CODE("\x90\x90\xf4");
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, VALID | IRQ_INFO_NMI | 2);
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_VIRTUAL_NMI_WND);
    runs_to(VMX_REASON_VIRTUAL_NMI_WND); /* when it is over */
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
    /* Blocked by what the hypervisor says. */
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_NMI_BLOCKING);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), GUEST_INTRBILITY_NMI_BLOCKING);
}

/* IRET that does not come to its end has let NMIs in all the same, and the exit says so. */
static void test_iret_unblocks(void **state)
{
    (void)state;
    mode64();
    put64(TABLES_AT + 0x2008, 0x40000087); /* no memory there */
    set_reg(HV_X86_RSP, 0x201000);
    CODE("\x48\xcf");
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_NMI_BLOCKING);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x181 | 1 << 12);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
    set_reg(HV_X86_RSP, 0x40000000);
    set_vmcs(VMCS_CTRL_EXC_BITMAP, 1u << 14);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_NMI_BLOCKING);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO) >> 12 & 1, 1);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), 0);
    /* Nobody else does. */
    CODE("\x58"); /* pop rax */
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_NMI_BLOCKING);
    runs_to(VMX_REASON_EXC_NMI);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_IRQ_INFO) >> 12 & 1, 0);
    assert_int_equal(vmcs(VMCS_GUEST_INTERRUPTIBILITY), GUEST_INTRBILITY_NMI_BLOCKING);
}

static void test_task_switch(void **state)
{
    (void)state;
    mode32(0, 0);
    put64(GDT_AT + 32, UINT64_C(0x0000890000000067) | (uint64_t)0xc000 << 16);
    CODE("\xea\x00\x00\x00\x00\x20\x00"); /* ljmp $0x20, $0 */
    runs_to(VMX_REASON_TASK);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x20 | 2u << 30);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), 7);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    /* A task gate for #UD. */
    put64(IDT_AT + 6 * 8, (uint64_t)0x20 << 16 | UINT64_C(0x8500) << 32);
    CODE("\x0f\x0b");
    runs_to(VMX_REASON_TASK);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x20 | 3u << 30);
    assert_int_equal(vmcs(VMCS_RO_IDT_VECTOR_INFO), VALID | IRQ_INFO_HARD_EXC | 6);
}

static void test_timer(void **state)
{
    (void)state;
    mode64();
    CODE("\xeb\xfe");
    set_bits(VMCS_CTRL_PIN_BASED, PIN_BASED_PREEMPTION_TIMER);
    set_vmcs(VMCS_GUEST_VMX_TIMER_VALUE, 1000);
    runs_to(VMX_REASON_VMX_TIMER_EXPIRED);
    assert_int_equal(vmcs(VMCS_GUEST_VMX_TIMER_VALUE), 1000);
    set_bits(VMCS_CTRL_VMEXIT_CONTROLS, VMEXIT_SAVE_VMX_TIMER);
    runs_to(VMX_REASON_VMX_TIMER_EXPIRED);
    assert_int_equal(vmcs(VMCS_GUEST_VMX_TIMER_VALUE), 0);
    runs_to(VMX_REASON_VMX_TIMER_EXPIRED);
    clear_bits(VMCS_CTRL_VMEXIT_CONTROLS, VMEXIT_SAVE_VMX_TIMER);
    clear_bits(VMCS_CTRL_PIN_BASED, PIN_BASED_PREEMPTION_TIMER);
    assert_int_equal(hv_vcpu_run_until(cpu0, hv_tsc_clock() + 100000), HV_SUCCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_REASON), VMX_REASON_VMX_TIMER_EXPIRED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_exception_bitmap),
        TEST(test_page_fault),
        TEST(test_debug),
        TEST(test_injection),
        TEST(test_injection_is_not_intercepted),
        TEST(test_vectoring),
        TEST(test_interrupt_window),
        TEST(test_shadows),
        TEST(test_nmi),
        TEST(test_iret_unblocks),
        TEST(test_task_switch),
        TEST(test_timer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
