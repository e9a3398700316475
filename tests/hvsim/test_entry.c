/* hvsim: VM entries that fail, each for the one thing that is wrong. */
#include "guest.h"

#define FAILED (VMX_REASON_VMENTRY_GUEST | 1u << 31)

enum mode { MODE_REAL16, MODE_PROT32, MODE_LONG64 };

struct wrong {
    enum mode mode;
    uint32_t field;
    uint64_t val;
    const char *why;
};

static void set_mode(enum mode mode)
{
    if (mode == MODE_LONG64)
        mode64();
    else
        mode32(0, 0);
    if (mode == MODE_REAL16)
        set_reg(HV_X86_CR0, 0x30);
}

/* One field of a guest that runs. */
static const struct wrong wrongs[] = {
    {MODE_PROT32, VMCS_GUEST_CR0, 0x11, "CR0: NE is 0"},
    {MODE_PROT32, VMCS_GUEST_CR0, UINT64_C(0x100000031), "CR0: bits that must be 0"},
    {MODE_REAL16, VMCS_GUEST_CR0, 0x80000030, "CR0: PG without PE"},
    {MODE_PROT32, VMCS_GUEST_CR4, 0, "CR4: VMXE is 0"},
    {MODE_PROT32, VMCS_GUEST_CR4, 0x1002000, "CR4: bits that must be 0"},
    {MODE_LONG64, VMCS_GUEST_CR0, 0x31, "IA-32e mode guest: CR0.PG is 0"},
    {MODE_LONG64, VMCS_GUEST_CR4, 0x2000, "IA-32e mode guest: CR4.PAE is 0"},
    {MODE_PROT32, VMCS_GUEST_CR4, 0x22000, "CR4.PCIDE outside IA-32e mode"},
    {MODE_LONG64, VMCS_GUEST_CR3, UINT64_C(1) << 50, "CR3: beyond the physical-address width"},
    {MODE_PROT32, VMCS_GUEST_SYSENTER_ESP, UINT64_C(1) << 50, "IA32_SYSENTER_ESP: not canonical"},
    {MODE_PROT32, VMCS_GUEST_SYSENTER_EIP, UINT64_C(1) << 50, "IA32_SYSENTER_EIP: not canonical"},
    {MODE_LONG64, VMCS_GUEST_IA32_EFER, 0x100, "IA32_EFER: LMA is not as the IA-32e mode guest control"},
    {MODE_LONG64, VMCS_GUEST_IA32_EFER, 0x502, "IA32_EFER: reserved bits"},
    {MODE_LONG64, VMCS_GUEST_IA32_EFER, 0x400, "IA32_EFER: LMA and LME differ with paging on"},
    {MODE_PROT32, VMCS_GUEST_TR_AR, 0x89, "TR: not a busy TSS"},
    {MODE_PROT32, VMCS_GUEST_TR_AR, 0x1008b, "TR: unusable"},
    {MODE_PROT32, VMCS_GUEST_TR_AR, 0x0b, "TR: not present"},
    {MODE_PROT32, VMCS_GUEST_TR_AR, 0x9b, "TR: not a system segment"},
    {MODE_PROT32, VMCS_GUEST_TR_AR, 0x808b, "TR: limit and granularity"},
    {MODE_PROT32, VMCS_GUEST_TR, 0x1c, "TR: in the LDT"},
    {MODE_LONG64, VMCS_GUEST_TR_AR, 0x83, "TR: not a busy TSS"},
    {MODE_PROT32, VMCS_GUEST_LDTR_AR, 0x83, "LDTR: not an LDT"},
    {MODE_PROT32, VMCS_GUEST_LDTR_AR, 0x02, "LDTR: not present"},
    {MODE_PROT32, VMCS_GUEST_FS_BASE, UINT64_C(1) << 50, "FS: base is not canonical"},
    {MODE_LONG64, VMCS_GUEST_CS_BASE, UINT64_C(1) << 32, "CS: bits 63:32 of the base"},
    {MODE_LONG64, VMCS_GUEST_DS_BASE, UINT64_C(1) << 32, "SS, DS or ES: bits 63:32 of the base"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0xc09a, "CS: type"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0xc08b, "CS: a system segment"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0xc0fb, "CS: DPL is not that of SS"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0xc01b, "CS: not present"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0x409b, "CS: limit and granularity"},
    {MODE_PROT32, VMCS_GUEST_CS_AR, 0xc19b, "CS: reserved bits"},
    {MODE_LONG64, VMCS_GUEST_CS_AR, 0xe09b, "CS: both L and D"},
    {MODE_PROT32, VMCS_GUEST_SS_AR, 0xc091, "SS: type"},
    {MODE_PROT32, VMCS_GUEST_SS_AR, 0xc013, "SS: not present"},
    {MODE_REAL16, VMCS_GUEST_SS_AR, 0xc0f3, "CS: DPL is not that of SS"},
    {MODE_PROT32, VMCS_GUEST_DS_AR, 0xc092, "DS, ES, FS or GS: not accessed"},
    {MODE_PROT32, VMCS_GUEST_GS_AR, 0xc099, "DS, ES, FS or GS: code that cannot be read"},
    {MODE_PROT32, VMCS_GUEST_ES_AR, 0x4093, "DS, ES, FS or GS: limit and granularity"},
    {MODE_PROT32, VMCS_GUEST_RIP, UINT64_C(1) << 32, "RIP: not of the mode"},
    {MODE_LONG64, VMCS_GUEST_RIP, UINT64_C(1) << 50, "RIP: not of the mode"},
    {MODE_PROT32, VMCS_GUEST_RFLAGS, 0, "RFLAGS: reserved bits"},
    {MODE_PROT32, VMCS_GUEST_RFLAGS, 0xa, "RFLAGS: reserved bits"},
    {MODE_LONG64, VMCS_GUEST_RFLAGS, 0x20002, "RFLAGS: VM outside protected mode"},
    {MODE_PROT32, VMCS_GUEST_RFLAGS, 0x20002, "virtual-8086 mode: a segment's base is not its selector's"},
    {MODE_PROT32, VMCS_GUEST_GDTR_BASE, UINT64_C(1) << 50, "GDTR or IDTR: base is not canonical"},
    {MODE_PROT32, VMCS_GUEST_IDTR_LIMIT, 0x10000, "GDTR or IDTR: bits 31:16 of the limit"},
    {MODE_PROT32, VMCS_GUEST_ACTIVITY_STATE, 4, "activity state: reserved"},
    {MODE_PROT32, VMCS_GUEST_INTERRUPTIBILITY, 32, "interruptibility: reserved bits"},
    {MODE_PROT32, VMCS_GUEST_INTERRUPTIBILITY, 3, "interruptibility: STI and MOV SS at once"},
    {MODE_PROT32, VMCS_GUEST_INTERRUPTIBILITY, 1, "interruptibility: STI with IF 0"},
    {MODE_PROT32, VMCS_GUEST_INTERRUPTIBILITY, 4, "interruptibility: SMI outside system-management mode"},
    {MODE_PROT32, VMCS_GUEST_DEBUG_EXC, 0x20, "pending debug exceptions: reserved bits"},
    {MODE_PROT32, VMCS_GUEST_IA32_DEBUGCTL, 4, NULL}, /* not loaded: not looked at */
    {MODE_PROT32, VMCS_GUEST_IA32_PAT, 2, NULL},
};

static void test_each_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        const struct wrong *w = &wrongs[i];
        set_mode(w->mode);
        CODE("\xf4");
        uint64_t before = vmcs(w->field);
        set_vmcs(w->field, w->val);
        runs_to(w->why ? FAILED : VMX_REASON_HLT);
        if (w->why) {
            assert_string_equal(hvsim_last_reason(cpu0), w->why);
            assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0);
        } else {
            assert_null(hvsim_last_reason(cpu0));
        }
        set_vmcs(w->field, before);
    }
}

static void expect(const char *why)
{
    runs_to(FAILED);
    assert_string_equal(hvsim_last_reason(cpu0), why);
}

/* Two fields that do not go together. */
static void test_combinations(void **state)
{
    (void)state;
    mode32(0, 0);
    CODE("\xf4");
    set_bits(VMCS_CTRL_VMENTRY_CONTROLS, VMENTRY_LOAD_DBG_CONTROLS | VMENTRY_LOAD_IA32_PAT);
    set_vmcs(VMCS_GUEST_IA32_DEBUGCTL, 4);
    expect("IA32_DEBUGCTL: reserved bits");
    set_vmcs(VMCS_GUEST_IA32_DEBUGCTL, 0);
    set_vmcs(VMCS_GUEST_IA32_PAT, 2);
    expect("IA32_PAT: reserved memory type");
    set_vmcs(VMCS_GUEST_IA32_PAT, UINT64_C(0x0007040600070406));
    set_vmcs(VMCS_GUEST_DR7, UINT64_C(1) << 32);
    expect("DR7: bits 63:32");
    set_vmcs(VMCS_GUEST_DR7, 0x400);
    runs_to(VMX_REASON_HLT);

    set_vmcs(VMCS_GUEST_ACTIVITY_STATE, 1);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 2);
    expect("activity state: not active, with blocking by STI or MOV SS");
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 0);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | 6);
    expect("activity state: HLT, and an event is injected that cannot end it");
    set_vmcs(VMCS_GUEST_ACTIVITY_STATE, 3);
    expect("activity state: shutdown or wait-for-SIPI, and an event is injected");
    set_vmcs(VMCS_GUEST_ACTIVITY_STATE, 0);

    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, IRQ_INFO_VALID | IRQ_INFO_EXT_IRQ | 0x40);
    expect("RFLAGS: an interrupt is injected with IF 0");
    set_reg(HV_X86_RFLAGS, 0x202);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 1);
    expect("interruptibility: an interrupt is injected in the shadow of STI or MOV SS");
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, IRQ_INFO_VALID | IRQ_INFO_NMI | 2);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 2);
    expect("interruptibility: an NMI is injected in the shadow of MOV SS");
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, GUEST_INTRBILITY_NMI_BLOCKING);
    expect("interruptibility: an NMI is injected with NMIs blocked");
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, 0);

    set_reg(HV_X86_RFLAGS, 0x302);
    set_vmcs(VMCS_GUEST_INTERRUPTIBILITY, 2);
    expect("pending debug exceptions: BS is 0 with TF 1");
    set_reg(HV_X86_RFLAGS, 0x202);
    set_vmcs(VMCS_GUEST_DEBUG_EXC, 1 << 14);
    expect("pending debug exceptions: BS is 1 with TF 0");
}

/* What the qualification tells apart. */
static void test_qualifications(void **state)
{
    (void)state;
    mode32(0, 0);
    CODE("\xf4");
    set_vmcs(VMCS_GUEST_LINK_POINTER, 0x1000);
    expect("VMCS link pointer: not all ones");
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 4);
    set_vmcs(VMCS_GUEST_LINK_POINTER, UINT64_MAX);
    /* PAE paging: the PDPTEs come from the VMCS, not from memory. */
    put64(TABLES_AT + 0x3000, 0);
    put64(TABLES_AT + 0x4000, 0x87);
    set_reg(HV_X86_CR0, 0x80000031);
    set_reg(HV_X86_CR4, 0x2020);
    set_reg(HV_X86_CR3, TABLES_AT + 0x3000);
    for (uint32_t i = 0; i < 4; i++)
        set_vmcs(VMCS_GUEST_PDPTE0 + 2 * i, TABLES_AT + 0x4000 + 1);
    set_vmcs(VMCS_GUEST_PDPTE3, TABLES_AT + 0x4000 + 3);
    expect("PDPTE: reserved bits");
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 2);
    set_vmcs(VMCS_GUEST_PDPTE3, 2); /* not present: not looked at */
    assert_int_equal(hv_vcpu_invalidate_tlb(cpu0), HV_SUCCESS);
    runs_to(VMX_REASON_HLT);
}

/* Controls that are wrong are no exit: nothing of the VMCS changes but the error. */
static void test_controls(void **state)
{
    (void)state;
    static const struct {
        uint32_t info, error, length;
        const char *why;
    } cases[] = {
        {IRQ_INFO_VALID | 1 << 8 | 3, 0, 0, "injection: reserved type"},
        {IRQ_INFO_VALID | 7 << 8, 0, 0, "injection: other event without a monitor trap flag"},
        {IRQ_INFO_VALID | IRQ_INFO_NMI | 3, 0, 0, "injection: an NMI with a vector other than 2"},
        {IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | 32, 0, 0, "injection: a hardware exception with a vector above 31"},
        {IRQ_INFO_VALID | 1 << 12 | 0x40, 0, 0, "injection: reserved bits"},
        {IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | 13, 0, 0,
         "injection: error code given where there is none, or not given where there is one"},
        {IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 6, 0, 0,
         "injection: error code given where there is none, or not given where there is one"},
        {IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13, 0x10000, 0,
         "injection: reserved bits of the error code"},
        {IRQ_INFO_VALID | IRQ_INFO_SOFT_IRQ | 0x80, 0, 16, "injection: instruction length"},
    };
    mode32(0, 0);
    CODE("\xf4");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, cases[i].info);
        set_vmcs(VMCS_CTRL_VMENTRY_EXC_ERROR, cases[i].error);
        set_vmcs(VMCS_CTRL_VMENTRY_INSTR_LEN, cases[i].length);
        assert_int_equal(hv_vcpu_run_until(cpu0, HV_DEADLINE_FOREVER), HV_ERROR);
        assert_string_equal(hvsim_last_reason(cpu0), cases[i].why);
        assert_int_equal(vmcs(VMCS_RO_INSTR_ERROR), 7);
        assert_int_equal(vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO), cases[i].info);
    }
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, 0);
    set_vmcs(VMCS_CTRL_CR3_COUNT, 5);
    assert_int_equal(hv_vcpu_run(cpu0), HV_ERROR);
    set_vmcs(VMCS_CTRL_CR3_COUNT, 0);
    set_bits(VMCS_CTRL_CPU_BASED2, CPU_BASED2_VIRTUAL_APIC);
    assert_int_equal(hv_vcpu_run(cpu0), HV_ERROR);
    assert_string_equal(hvsim_last_reason(cpu0), "controls: virtualized APIC accesses without an APIC address");
    clear_bits(VMCS_CTRL_CPU_BASED2, CPU_BASED2_VIRTUAL_APIC);
    set_bits(VMCS_CTRL_VMEXIT_CONTROLS, VMEXIT_SAVE_VMX_TIMER);
    assert_int_equal(hv_vcpu_run(cpu0), HV_ERROR);
    clear_bits(VMCS_CTRL_VMEXIT_CONTROLS, VMEXIT_SAVE_VMX_TIMER);
    runs_to(VMX_REASON_HLT);
    /* In real mode no exception has an error code. */
    set_reg(HV_X86_CR0, 0x30);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | IRQ_INFO_ERROR_VALID | 13);
    assert_int_equal(hv_vcpu_run(cpu0), HV_ERROR);
}

/* Virtual-8086 and real mode run. */
static void test_other_modes(void **state)
{
    (void)state;
    mode32(0, 0);
    CODE("\xf4");
    set_reg(HV_X86_CR0, 0x30);
    for (uint32_t i = 0; i < 6; i++) {
        segment(i, 0, i == 1 ? 0x9b : 0x93, 0xffff);
    }
    runs_to(VMX_REASON_HLT);
    mode32(0, 0);
    for (uint32_t i = 0; i < 6; i++)
        segment(i, 0, 0xf3, 0xffff);
    set_reg(HV_X86_RFLAGS, 0x20002);
    CODE("\xf4");
    put64(TSS_AT + 4, UINT64_C(0x1000007000));
    runs_to(VMX_REASON_HLT); /* #GP, at CPL 0: HLT is privileged */
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_field), TEST(test_combinations), TEST(test_qualifications),
        TEST(test_controls),   TEST(test_other_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
