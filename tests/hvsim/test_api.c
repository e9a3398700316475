/* hvsim: the framework's own rules: threads, arguments, life, capabilities, memory, and the switches of HVSIM. */
#include "guest.h"

#include <pthread.h>

static void *other_thread(void *arg)
{
    uint64_t v;
    (void)arg;
    assert_int_equal(hv_vcpu_read_register(cpu0, HV_X86_RIP, &v), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_write_register(cpu0, HV_X86_RIP, 0), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vmx_vcpu_read_vmcs(cpu0, VMCS_GUEST_RIP, &v), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_run(cpu0), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_destroy(cpu0), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_interrupt(&cpu0, 1), HV_SUCCESS); /* anybody may */
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t thread;
    hv_vcpuid_t second;
    pthread_create(&thread, NULL, other_thread, NULL);
    pthread_join(thread, NULL);
    assert_int_equal(hv_vcpu_create(&second, HV_VCPU_DEFAULT), HV_BUSY);
}

static void test_arguments(void **state)
{
    (void)state;
    uint64_t v;
    uint8_t fp[4096];
    hv_vcpuid_t none = 77;
    static const uint32_t refused[] = {VMCS_CTRL_EPTP,
                                       VMCS_CTRL_IO_BITMAP_A,
                                       VMCS_CTRL_MSR_BITMAPS,
                                       VMCS_HOST_CR3,
                                       VMCS_HOST_RIP,
                                       VMCS_VPID,
                                       0x1234,
                                       VMCS_MAX,
                                       0x2011 /* the high half of a field */};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(hv_vmx_vcpu_read_vmcs(cpu0, refused[i], &v), HV_BAD_ARGUMENT);
        assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, refused[i], 0), HV_BAD_ARGUMENT);
    }
    assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, VMCS_RO_EXIT_REASON, 0), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, VMCS_GUEST_CS, 0x10000), HV_BAD_ARGUMENT); /* 16 bits */
    assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, VMCS_GUEST_CS_LIMIT, UINT64_C(1) << 32), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_read_register(cpu0, HV_X86_REGISTERS_MAX, &v), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_read_register(cpu0, HV_X86_RIP, NULL), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_write_register(cpu0, HV_X86_XCR0, 0), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_read_fpstate(cpu0, fp, 100), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_interrupt(&none, 1), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_run(none), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vm_map(ram + 1, 0x40000000, 4096, 7), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vm_map(ram, 0x40000001, 4096, 7), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vm_map(ram, 0x40000000, 0, 7), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vm_map(ram, 0, 4096, 7), HV_ERROR); /* mapped already */
    assert_int_equal(hv_vm_unmap(0x40000000, 4096), HV_ERROR);
    assert_int_equal(hv_vm_protect(RAM_SIZE - 4096, 8192, 1), HV_ERROR);
}

static void test_life(void **state)
{
    (void)state;
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_BUSY);
    assert_int_equal(hv_vm_destroy(), HV_BUSY); /* it has a vCPU */
    assert_int_equal(hv_vcpu_destroy(cpu0), HV_SUCCESS);
    assert_int_equal(hv_vm_unmap(0, RAM_SIZE), HV_SUCCESS);
    assert_int_equal(hv_vm_destroy(), HV_SUCCESS);
    assert_int_equal(hv_vm_destroy(), HV_NO_DEVICE);
    assert_int_equal(hv_vm_map(ram, 0, RAM_SIZE, 7), HV_NO_DEVICE);
    assert_int_equal(hv_vcpu_create(&cpu0, 0), HV_NO_DEVICE);
    hvsim_setenv("busy=on");
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_BUSY);
    hvsim_setenv("denied=on");
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_DENIED);
    hvsim_setenv("denied=on,macos=10.15");
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_ERROR);
    hvsim_setenv("novmx=on");
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_UNSUPPORTED);
    hvsim_setenv("vcpus=0");
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_SUCCESS);
    assert_int_equal(hv_vcpu_create(&cpu0, 0), HV_NO_RESOURCES);
    assert_int_equal(hv_vm_destroy(), HV_SUCCESS);
    hvsim_setenv("");
    munmap(ram, RAM_SIZE);
    make_vm(NULL);
}

/* Controls that the host does not allow, or demands. */
static void test_capabilities(void **state)
{
    (void)state;
    uint64_t cap, zero, one;
    static const struct {
        hv_vmx_capability_t cap;
        uint32_t field;
    } all[] = {{HV_VMX_CAP_PINBASED, VMCS_CTRL_PIN_BASED},
               {HV_VMX_CAP_PROCBASED, VMCS_CTRL_CPU_BASED},
               {HV_VMX_CAP_PROCBASED2, VMCS_CTRL_CPU_BASED2},
               {HV_VMX_CAP_ENTRY, VMCS_CTRL_VMENTRY_CONTROLS},
               {HV_VMX_CAP_EXIT, VMCS_CTRL_VMEXIT_CONTROLS}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_int_equal(hv_vmx_read_capability(all[i].cap, &cap), HV_SUCCESS);
        assert_int_equal(hv_vmx_vcpu_get_cap_write_vmcs(cpu0, all[i].field, &zero, &one), HV_SUCCESS);
        assert_int_equal(zero, (uint32_t)cap);
        assert_int_equal(one, cap >> 32);
        assert_int_equal(zero & ~one, 0);
        for (unsigned bit = 0; bit < 32; bit++) {
            uint64_t b = UINT64_C(1) << bit;
            if (zero & b)
                assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, all[i].field, zero & ~b), HV_BAD_ARGUMENT);
            if (!(one & b))
                assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, all[i].field, zero | b), HV_BAD_ARGUMENT);
        }
        set_vmcs(all[i].field, one);
        set_vmcs(all[i].field, zero);
    }
    assert_int_equal(hv_vmx_read_capability(HV_VMX_CAP_CR4_FIXED0, &cap), HV_SUCCESS);
    assert_int_equal(cap, 0x2000);
    assert_int_equal(hv_vmx_read_capability(17, &cap), HV_BAD_ARGUMENT);
}

/* An old processor and an old system have less. */
static void test_westmere(void **state)
{
    (void)state;
    uint64_t v, cap;
    free_vm(NULL);
    hvsim_setenv("cpu=westmere,macos=10.15");
    make_vm(NULL);
    assert_int_equal(hv_vmx_read_capability(HV_VMX_CAP_PROCBASED2, &cap), HV_SUCCESS);
    assert_int_equal(cap >> 32 & (CPU_BASED2_INVPCID | CPU_BASED2_RDRAND | CPU_BASED2_XSAVES_XRSTORS), 0);
    assert_int_equal(hv_vmx_read_capability(HV_VMX_CAP_BASIC, &v), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, VMCS_CTRL_XSS_EXITING_BITMAP, 0), HV_BAD_ARGUMENT);
    assert_null(__wrap_dlsym(NULL, "hv_vcpu_set_tsc_relative"));
    assert_int_equal(hv_vcpu_write_register(cpu0, HV_X86_XCR0, 7), HV_BAD_ARGUMENT); /* no AVX */
    mode64();
    CODE("\xc5\xf8\x77"); /* vzeroupper */
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 6);
    hvsim_setenv("macos=11");
    assert_non_null(__wrap_dlsym(NULL, "hv_vcpu_set_tsc_relative"));
    assert_null(__wrap_dlsym(NULL, "hv_vcpu_vmx_status"));
}

/* hv_vcpu_interrupt() before the run: kept, or lost. */
static void test_interrupt(void **state)
{
    (void)state;
    mode64();
    CODE("\x90\xf4");
    assert_int_equal(hv_vcpu_interrupt(&cpu0, 1), HV_SUCCESS);
    runs_to(VMX_REASON_IRQ);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    runs_to(VMX_REASON_HLT);
    free_vm(NULL);
    hvsim_setenv("lost=on");
    make_vm(NULL);
    mode64();
    CODE("\x90\xf4");
    assert_int_equal(hv_vcpu_interrupt(&cpu0, 1), HV_SUCCESS);
    runs_to(VMX_REASON_HLT);
}

/* An exit for nothing: but what was to be injected has gone in. */
static void test_spurious(void **state)
{
    (void)state;
    free_vm(NULL);
    hvsim_setenv("spurious=2");
    make_vm(NULL);
    mode64();
    CODE("\x0f\xa2");
    runs_to(VMX_REASON_CPUID);
    set_vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO, IRQ_INFO_VALID | IRQ_INFO_HARD_EXC | 6);
    runs_to(VMX_REASON_IRQ);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 6);
    assert_int_equal(vmcs(VMCS_CTRL_VMENTRY_IRQ_INFO) & IRQ_INFO_VALID, 0);
    runs_to(VMX_REASON_HLT);
}

static void test_late(void **state)
{
    (void)state;
    free_vm(NULL);
    hvsim_setenv("late=3");
    make_vm(NULL);
    mode64();
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_IRQ_WND);
    set_reg(HV_X86_RFLAGS, 0x202);
    CODE("\xeb\x00\xeb\x00\xeb\x00\xf4");
    runs_to(VMX_REASON_IRQ_WND);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 4);
}

static void test_first_touch(void **state)
{
    (void)state;
    free_vm(NULL);
    hvsim_setenv("faults=on");
    make_vm(NULL);
    mode32(0, 0);
    CODE("\x8b\x03\xf4");
    set_reg(HV_X86_RBX, 0x5000);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x184);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x181);
    assert_int_equal(vmcs(VMCS_GUEST_PHYSICAL_ADDRESS), 0x5000);
    runs_to(VMX_REASON_HLT);
}

/* Vector state: components whose bit is clear are initialised. */
static void test_fpstate(void **state)
{
    (void)state;
    static uint8_t fp[4096];
    assert_int_equal(hv_vcpu_read_fpstate(cpu0, fp, sizeof fp), HV_SUCCESS);
    assert_true(fp[512] == 7 || fp[512] == 3);
    memset(fp + 160, 0xaa, 256);
    assert_int_equal(hv_vcpu_write_fpstate(cpu0, fp, sizeof fp), HV_SUCCESS);
    memset(fp, 0, sizeof fp);
    assert_int_equal(hv_vcpu_read_fpstate(cpu0, fp, sizeof fp), HV_SUCCESS);
    assert_int_equal(fp[160], 0xaa);
    fp[512] &= 5;
    assert_int_equal(hv_vcpu_write_fpstate(cpu0, fp, sizeof fp), HV_SUCCESS);
    assert_int_equal(hv_vcpu_read_fpstate(cpu0, fp, sizeof fp), HV_SUCCESS);
    assert_int_equal(fp[160], 0);
    fp[26] = 1; /* a reserved bit of MXCSR */
    assert_int_equal(hv_vcpu_write_fpstate(cpu0, fp, sizeof fp), HV_BAD_ARGUMENT);
}

/* Unmapping the middle leaves the ends; what was mapped where nothing was is seen at once. */
static void test_map(void **state)
{
    (void)state;
    mode32(0, 0);
    assert_int_equal(hv_vm_unmap(0x40000, 0x10000), HV_SUCCESS);
    set_reg(HV_X86_RBX, 0x40000);
    CODE("\x8b\x03\xf4");
    runs_to(VMX_REASON_EPT_VIOLATION);
    set_reg(HV_X86_RBX, 0x50000);
    put64(0x50000, 0x5555);
    CODE("\x8b\x03\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RAX), 0x5555);
    assert_int_equal(hv_vm_map(ram + 0x50000, 0x40000, 0x10000, 7), HV_SUCCESS);
    set_reg(HV_X86_RBX, 0x40000);
    CODE("\x8b\x03\xf4");
    runs_to(VMX_REASON_HLT);
    assert_int_equal(reg(HV_X86_RAX), 0x5555);
}

/* While a vCPU runs, another thread may change the map: the vCPU sees it. */
static void *protect_later(void *arg)
{
    (void)arg;
    while (*(volatile uint8_t *)(ram + 0x5000) < 10) /* the guest counts */
        ;
    assert_int_equal(hv_vm_protect(0x5000, 0x1000, HV_MEMORY_READ), HV_SUCCESS);
    return NULL;
}

static void test_protect_running(void **state)
{
    (void)state;
    pthread_t thread;
    mode64();
    set_reg(HV_X86_RBX, 0x5000);
    CODE("\xff\x03\xeb\xfc"); /* inc dword [rbx]; jmp */
    pthread_create(&thread, NULL, protect_later, NULL);
    runs_to(VMX_REASON_EPT_VIOLATION);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x182 | 1 << 3);
    uint32_t count, again;
    memcpy(&count, ram + 0x5000, 4);
    pthread_join(thread, NULL);
    runs_to(VMX_REASON_EPT_VIOLATION);
    memcpy(&again, ram + 0x5000, 4);
    assert_int_equal(count, again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_threads),     TEST(test_arguments), TEST(test_life),     TEST(test_capabilities),
        TEST(test_westmere),    TEST(test_interrupt), TEST(test_spurious), TEST(test_late),
        TEST(test_first_touch), TEST(test_fpstate),   TEST(test_map),      TEST(test_protect_running),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
