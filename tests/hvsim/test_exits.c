/* hvsim: instructions that exit, always or by a control, and what the VMCS tells of it. */
#include "guest.h"

/* CPUID; HLT, without and with an exit. */
static void test_cpuid_and_hlt(void **state)
{
    (void)state;
    mode64();
    CODE("\x0f\xa2\xf4");
    set_reg(HV_X86_RAX, 7);
    runs_to(VMX_REASON_CPUID);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    assert_int_equal(reg(HV_X86_RAX), 7);
    assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), 2);
    skip_insn();
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
    /* With the control off the vCPU sleeps, until it is interrupted. */
    clear_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_HLT);
    assert_int_equal(hv_vcpu_interrupt(&cpu0, 1), HV_SUCCESS);
    runs_to(VMX_REASON_IRQ);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
    assert_int_equal(hv_vcpu_run_until(cpu0, hv_tsc_clock() + 1000000), HV_SUCCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_REASON), VMX_REASON_VMX_TIMER_EXPIRED);
    assert_int_equal(vmcs(VMCS_GUEST_ACTIVITY_STATE), 1);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 3);
}

static void test_ports(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        unsigned n;
        uint64_t qual;
    } cases[] = {
        {"\xe4\x71", 2, 0x0071 << 16 | 1 << 6 | 1 << 3},             /* in al, 71h */
        {"\xe6\x70", 2, 0x0070 << 16 | 1 << 6},                      /* out 70h, al */
        {"\xec", 1, 0x3f8 << 16 | 1 << 3},                           /* in al, dx */
        {"\x66\xed", 2, 0x3f8 << 16 | 1 << 3 | 1},                   /* in ax, dx */
        {"\xef", 1, 0x3f8 << 16 | 3},                                /* out dx, eax */
        {"\x6e", 1, 0x3f8 << 16 | 1 << 4},                           /* outsb */
        {"\xf3\x6d", 2, 0x3f8 << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 3}, /* rep insd */
    };
    mode64();
    set_reg(HV_X86_RDX, 0x3f8);
    set_reg(HV_X86_RCX, 5);
    set_reg(HV_X86_RSI, 0x5000);
    set_reg(HV_X86_RDI, 0x6000);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        code(cases[i].code, cases[i].n);
        runs_to(VMX_REASON_IO);
        assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), cases[i].qual);
        assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), cases[i].n);
    }
    assert_int_equal(vmcs(VMCS_RO_GUEST_LIN_ADDR), 0x6000);
    assert_int_equal(vmcs(VMCS_RO_VMX_INSTR_INFO) >> 7 & 7, 2);
    assert_int_equal(reg(HV_X86_RCX), 5);
    /* A count of zero is no access. */
    set_reg(HV_X86_RCX, 0);
    CODE("\xf3\x6c\xf4");
    runs_to(VMX_REASON_HLT);
    /* Nor is what the I/O permission bitmap forbids. */
    segment(1, 0x2b, 0xa0fb, 0xffffffff);
    segment(2, 0x33, 0xc0f3, 0xffffffff);
    put64(TSS_AT + 4, STACK_TOP);
    CODE("\xec");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 13);
}

static void test_msrs(void **state)
{
    (void)state;
    mode64();
    set_reg(HV_X86_RCX, HV_MSR_IA32_LSTAR);
    CODE("\x0f\x32\xf4"); /* rdmsr; hlt */
    runs_to(VMX_REASON_RDMSR);
    assert_int_equal(hv_vcpu_write_msr(cpu0, HV_MSR_IA32_LSTAR, 0x12), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_enable_native_msr(cpu0, HV_MSR_IA32_LSTAR, true), HV_SUCCESS);
    assert_int_equal(hv_vcpu_write_msr(cpu0, HV_MSR_IA32_LSTAR, 0x1122334455), HV_SUCCESS);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RAX), 0x22334455);
    assert_int_equal(reg(HV_X86_RDX), 0x11);
    CODE("\x0f\x30\xf4"); /* wrmsr */
    set_reg(HV_X86_RAX, 0x99);
    runs_to(VMX_REASON_HLT);
    uint64_t val;
    assert_int_equal(hv_vcpu_read_msr(cpu0, HV_MSR_IA32_LSTAR, &val), HV_SUCCESS);
    assert_int_equal(val, 0x1100000099);
    assert_int_equal(hv_vcpu_enable_native_msr(cpu0, HV_MSR_IA32_LSTAR, false), HV_SUCCESS);
    CODE("\x0f\x30\xf4");
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(hv_vcpu_enable_native_msr(cpu0, 0x1b, true), HV_BAD_ARGUMENT);
    /* Managed: each direction by itself. */
    assert_int_equal(hv_vcpu_enable_managed_msr(cpu0, HV_MSR_IA32_STAR, true), HV_SUCCESS);
    assert_int_equal(hv_vcpu_set_msr_access(cpu0, HV_MSR_IA32_STAR, HV_MSR_READ), HV_SUCCESS);
    set_reg(HV_X86_RCX, HV_MSR_IA32_STAR);
    CODE("\x0f\x32\x0f\x30");
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
}

/* A control for each of these decides; without it the instruction is executed and HLT comes. */
static void test_controls(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        unsigned n;
        uint32_t field, bit, reason;
    } cases[] = {
        {"\x0f\x31\xf4", 3, VMCS_CTRL_CPU_BASED, CPU_BASED_RDTSC, VMX_REASON_RDTSC},
        {"\x0f\x01\x38\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_INVLPG, VMX_REASON_INVLPG},
        {"\x0f\x01\xc9\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_MWAIT, VMX_REASON_MWAIT},
        {"\x0f\x01\xc8\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_MONITOR, VMX_REASON_MONITOR},
        {"\xf3\x90\xf4", 3, VMCS_CTRL_CPU_BASED, CPU_BASED_PAUSE, VMX_REASON_PAUSE},
        {"\x0f\x23\xc0\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_MOV_DR, VMX_REASON_MOV_DR},
        {"\x0f\x20\xd8\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_CR3_STORE, VMX_REASON_MOV_CR},
        {"\x0f\x22\xd8\xf4", 4, VMCS_CTRL_CPU_BASED, CPU_BASED_CR3_LOAD, VMX_REASON_MOV_CR},
        {"\x44\x0f\x20\xc0\xf4", 5, VMCS_CTRL_CPU_BASED, CPU_BASED_CR8_STORE, VMX_REASON_MOV_CR},
        {"\x44\x0f\x22\xc2\xf4", 5, VMCS_CTRL_CPU_BASED, CPU_BASED_CR8_LOAD, VMX_REASON_MOV_CR},
        {"\x0f\x09\xf4", 3, VMCS_CTRL_CPU_BASED2, CPU_BASED2_WBINVD, VMX_REASON_WBINVD},
    };
    mode64();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_reg(HV_X86_RAX, TABLES_AT);
        set_reg(HV_X86_RDX, 0);
        code(cases[i].code, cases[i].n);
        runs_to(VMX_REASON_HLT);
        set_reg(HV_X86_RAX, TABLES_AT);
        set_bits(cases[i].field, cases[i].bit);
        code(cases[i].code, cases[i].n);
        runs_to(cases[i].reason);
        assert_int_equal(reg(HV_X86_RIP), CODE_AT);
        assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), cases[i].n - 1);
        clear_bits(cases[i].field, cases[i].bit);
    }
}

/* These #UD unless a control allows them. */
static void test_enabling_controls(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        unsigned n;
        uint32_t bit;
    } cases[] = {
        {"\x0f\x01\xf9\xf4", 4, CPU_BASED2_RDTSCP},
        {"\x66\x0f\x38\x82\x00\xf4", 6, CPU_BASED2_INVPCID}, /* invpcid rax, [rax]: of type 2, flushes all */
    };
    mode64();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_reg(HV_X86_RAX, 0x5000);
        put64(0x5000, 0);
        put64(0x5008, 0);
        code(cases[i].code, cases[i].n);
        set_reg(HV_X86_RSP, STACK_TOP);
        runs_to(VMX_REASON_HLT);
        assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 6);
        set_bits(VMCS_CTRL_CPU_BASED2, cases[i].bit);
        code(cases[i].code, cases[i].n);
        runs_to(VMX_REASON_HLT);
        assert_int_not_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 6);
    }
}

static void test_always(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        unsigned n, reason;
    } cases[] = {
        {"\x0f\x08", 2, VMX_REASON_INVD},
        {"\x0f\x01\xc1", 3, VMX_REASON_VMCALL},
        {"\x0f\x01\xc2", 3, VMX_REASON_VMLAUNCH},
        {"\x0f\x01\xd1", 3, VMX_REASON_XSETBV},
    };
    mode64();
    set_bits(VMCS_GUEST_CR4, 0x40000); /* OSXSAVE */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        code(cases[i].code, cases[i].n);
        runs_to(cases[i].reason);
        assert_int_equal(vmcs(VMCS_RO_VMEXIT_INSTR_LEN), cases[i].n);
    }
    /* Outside CPL 0 a #GP comes first. */
    segment(1, 0x2b, 0xa0fb, 0xffffffff);
    segment(2, 0x33, 0xc0f3, 0xffffffff);
    put64(TSS_AT + 4, STACK_TOP);
    CODE("\x0f\x08");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 13);
}

/* Masks and shadows: what is read, what exits, what is written. */
static void test_cr0_and_cr4(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_CR0_MASK, 0x60000028); /* CD NW NE TS */
    set_vmcs(VMCS_CTRL_CR0_SHADOW, 0x00000008);
    set_vmcs(VMCS_CTRL_CR4_MASK, 0x2080);
    set_vmcs(VMCS_CTRL_CR4_SHADOW, 0x80);
    CODE("\x0f\x20\xc0\x0f\x20\xe3\x0f\x06"); /* mov rax, cr0; mov rbx, cr4; clts */
    runs_to(VMX_REASON_MOV_CR);
    assert_int_equal(reg(HV_X86_RAX), 0x80010019);
    assert_int_equal(reg(HV_X86_RBX), 0xa0);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 2 << 4);
    set_vmcs(VMCS_CTRL_CR0_SHADOW, 0); /* CLTS has nothing to do, and does nothing */
    CODE("\x0f\x06\x0f\x22\xc1");      /* clts; mov cr0, rcx */
    set_reg(HV_X86_RCX, 0x80050011);   /* AM is the guest's */
    set_bits(VMCS_GUEST_CR0, 8);
    CODE("\x0f\x06\x0f\x22\xc1\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_CR0), 0x80050039);
    set_reg(HV_X86_RCX, 0x80050031); /* NE is not */
    CODE("\x0f\x22\xc1");
    runs_to(VMX_REASON_MOV_CR);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 1 << 8);
    set_reg(HV_X86_RCX, 0xa4); /* TSD is the guest's */
    CODE("\x0f\x22\xe1\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_CR4), 0x2024);
    set_reg(HV_X86_RCX, 0x24);
    CODE("\x0f\x22\xe1");
    runs_to(VMX_REASON_MOV_CR);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 4 | 1 << 8);
    /* LMSW: PE can be set, not cleared; TS differs from the shadow. */
    set_reg(HV_X86_RAX, 9);
    CODE("\x0f\x01\xf0");
    runs_to(VMX_REASON_MOV_CR);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 3 << 4 | 9 << 16);
    /* A CR3 target does not exit. */
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_CR3_LOAD);
    set_vmcs(VMCS_CTRL_CR3_COUNT, 1);
    set_vmcs(VMCS_CTRL_CR3_VALUE0, TABLES_AT);
    set_reg(HV_X86_RAX, TABLES_AT);
    CODE("\x0f\x22\xd8\xf4");
    runs_to(VMX_REASON_HLT);
    set_vmcs(VMCS_CTRL_CR3_COUNT, 0);
    CODE("\x0f\x22\xd8");
    runs_to(VMX_REASON_MOV_CR);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 3);
    CODE("\x0f\x23\xfb"); /* mov dr7, rbx */
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_MOV_DR);
    runs_to(VMX_REASON_MOV_DR);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 7 | 3 << 8);
}

/* The time that the guest reads. */
static void test_tsc(void **state)
{
    (void)state;
    mode64();
    set_vmcs(VMCS_CTRL_TSC_OFFSET, (uint64_t)1 << 60);
    CODE("\x0f\x31\xf4");
    uint64_t before = hv_tsc_clock();
    runs_to(VMX_REASON_HLT);
    uint64_t tsc = (reg(HV_X86_RDX) << 32 | reg(HV_X86_RAX)) - ((uint64_t)1 << 60);
    assert_true(tsc >= before && tsc <= hv_tsc_clock());
}

static void test_memory(void **state)
{
    (void)state;
    mode32(0, 0);
    /* Nothing there. */
    set_reg(HV_X86_RBX, 0xfee00020);
    CODE("\x8b\x03"); /* mov eax, [ebx] */
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x181);
    assert_int_equal(vmcs(VMCS_GUEST_PHYSICAL_ADDRESS), 0xfee00020);
    assert_int_equal(vmcs(VMCS_RO_GUEST_LIN_ADDR), 0xfee00020);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    assert_int_equal(reg(HV_X86_RFLAGS) & RFL_RF, RFL_RF);
    CODE("\x89\x03");
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x182);
    /* Read only: reads, writes that exit, and go on when they may. */
    assert_int_equal(hv_vm_protect(0x5000, 0x1000, HV_MEMORY_READ | HV_MEMORY_EXEC), HV_SUCCESS);
    set_reg(HV_X86_RBX, 0x5ffc);
    CODE("\x8b\x03\x89\x0b\xf4");
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x182 | 5 << 3);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
    assert_int_equal(hv_vm_protect(0x5000, 0x1000, 7), HV_SUCCESS);
    set_reg(HV_X86_RCX, 0x12345678);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(ram[0x5fff], 0x12);
    /* Protected again after the TLB has it. */
    assert_int_equal(hv_vm_protect(0x5000, 0x1000, HV_MEMORY_READ), HV_SUCCESS);
    CODE("\x89\x0b\xf4");
    runs_to(VMX_REASON_EPT_VIOLATION);
    /* An access of two pages, the second of which may not be written: nothing is. */
    set_reg(HV_X86_RBX, 0x4ffe);
    ram[0x4ffe] = 1;
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_GUEST_PHYSICAL_ADDRESS), 0x5000);
    assert_int_equal(ram[0x4ffe], 1);
    /* A fetch. */
    set_reg(HV_X86_RIP, 0x5000);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x184 | 1 << 3);
}

/* Paging structures: a walk that finds none, or may not set A. */
static void test_walks(void **state)
{
    (void)state;
    mode64();
    set_reg(HV_X86_CR3, 0x40000000);
    CODE("\xf4");
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x81);
    set_reg(HV_X86_CR3, TABLES_AT);
    assert_int_equal(hv_vm_protect(TABLES_AT, 0x1000, HV_MEMORY_READ), HV_SUCCESS);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x82 | 1 << 3);
    assert_int_equal(vmcs(VMCS_GUEST_PHYSICAL_ADDRESS), TABLES_AT);
    assert_int_equal(hv_vm_protect(TABLES_AT, 0x1000, 7), HV_SUCCESS);
    runs_to(VMX_REASON_HLT);
    assert_int_equal(ram[TABLES_AT] & 0x20, 0x20);
}

static void test_apic_page(void **state)
{
    (void)state;
    mode32(0, 0);
    assert_int_equal(hv_vmx_vcpu_set_apic_address(cpu0, 0xfee00010), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vmx_vcpu_set_apic_address(cpu0, 0xfee00000), HV_SUCCESS);
    set_bits(VMCS_CTRL_CPU_BASED2, CPU_BASED2_VIRTUAL_APIC);
    set_reg(HV_X86_RBX, 0xfee000b0);
    CODE("\x89\x03");
    runs_to(VMX_REASON_APIC_ACCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x10b0);
    assert_int_equal(reg(HV_X86_RFLAGS) & RFL_RF, RFL_RF);
    CODE("\x8b\x03");
    runs_to(VMX_REASON_APIC_ACCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x00b0);
}

/* Stores of the process itself reach decoded code, once it has told. */
static void test_code_changes(void **state)
{
    (void)state;
    mode64();
    CODE("\xb8\x01\x00\x00\x00\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RAX), 1);
    CODE("\xb8\x02\x00\x00\x00\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RAX), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_cpuid_and_hlt),
        TEST(test_ports),
        TEST(test_msrs),
        TEST(test_controls),
        TEST(test_enabling_controls),
        TEST(test_always),
        TEST(test_cr0_and_cr4),
        TEST(test_tsc),
        TEST(test_memory),
        TEST(test_walks),
        TEST(test_apic_page),
        TEST(test_code_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
