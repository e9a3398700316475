/* The local APICs of the simulated framework's kernel: who may call what when, and what the guest sees of them. */
#include <pthread.h>

#include "guest.h"
#include "os/clock.h"

#define ICR 0x300
#define VECTOR 0x41

static int make_apic_vm(void **state)
{
    (void)state;
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ram, MAP_FAILED);
    assert_int_equal(hv_vm_create(HV_VM_ACCEL_APIC), HV_SUCCESS);
    assert_int_equal(hv_vm_set_apic_bus_freq(1000000000), HV_SUCCESS);
    assert_int_equal(hv_vm_map(ram, 0, RAM_SIZE, HV_MEMORY_READ | HV_MEMORY_WRITE | HV_MEMORY_EXEC), HV_SUCCESS);
    assert_int_equal(hv_vcpu_create(&cpu0, HV_VCPU_DEFAULT), HV_SUCCESS);
    return 0;
}
#define APIC_TEST(fn) cmocka_unit_test_setup_teardown(fn, make_apic_vm, free_vm)

static bool put(uint32_t off, uint32_t val)
{
    bool clean = true;
    assert_int_equal(hv_vcpu_apic_write(cpu0, off, val, &clean), HV_SUCCESS);
    return clean;
}
static uint32_t get(uint32_t off)
{
    uint32_t val = 0;
    assert_int_equal(hv_vcpu_apic_read(cpu0, off, &val), HV_SUCCESS);
    return val;
}
static hv_vm_exitinfo_t info(void)
{
    hv_vm_exitinfo_t code = 0;
    assert_int_equal(hv_vcpu_exit_info(cpu0, &code), HV_SUCCESS);
    return code;
}
static hv_apic_state_ext_t state_of(void)
{
    hv_apic_state_ext_t s = {.version = HV_APIC_STATE_EXT_VER};
    assert_int_equal(hv_vcpu_apic_get_state(cpu0, &s), HV_SUCCESS);
    return s;
}
static void into_x2apic(void)
{
    hv_apic_state_ext_t s = state_of();
    s.state.apic_gpa |= 0x400;
    assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_SUCCESS);
}

static void only_where_it_exists(void **state)
{
    (void)state;
    hvsim_setenv("macos=11");
    assert_int_equal(hv_vm_create(HV_VM_ACCEL_APIC), HV_BAD_ARGUMENT);
    assert_null(__wrap_dlsym(NULL, "hv_vcpu_apic_read"));
    hvsim_setenv("apic=off");
    assert_int_equal(hv_vm_create(HV_VM_ACCEL_APIC), HV_UNSUPPORTED);
    hvsim_setenv(NULL);
    assert_non_null(__wrap_dlsym(NULL, "hv_vcpu_apic_read"));
}

static void without_the_flag(void **state)
{
    (void)state;
    uint32_t val;
    bool clean;
    hv_vm_exitinfo_t code;
    hv_apic_state_ext_t s = {.version = HV_APIC_STATE_EXT_VER};
    assert_int_equal(hv_vcpu_apic_read(cpu0, 0x30, &val), HV_UNSUPPORTED);
    assert_int_equal(hv_vcpu_apic_write(cpu0, 0x80, 0, &clean), HV_UNSUPPORTED);
    assert_int_equal(hv_vcpu_apic_get_state(cpu0, &s), HV_UNSUPPORTED);
    assert_int_equal(hv_vcpu_exit_info(cpu0, &code), HV_UNSUPPORTED);
    assert_int_equal(hv_vcpu_apic_ctrl(cpu0, HV_APIC_CTRL_IOAPIC_EOI), HV_UNSUPPORTED);
    assert_int_equal(hv_vm_lapic_msi(0xfee00000, VECTOR), HV_UNSUPPORTED);
    assert_int_equal(hv_vm_set_apic_bus_freq(1000000000), HV_UNSUPPORTED);
}

static void *in_another_thread(void *arg)
{
    uint32_t val;
    bool clean;
    hv_apic_state_ext_t s = {.version = HV_APIC_STATE_EXT_VER};
    (void)arg;
    bool good = hv_vcpu_apic_read(cpu0, 0x30, &val) == HV_BAD_ARGUMENT &&
                hv_vcpu_apic_write(cpu0, 0x80, 0, &clean) == HV_BAD_ARGUMENT &&
                hv_vcpu_apic_get_state(cpu0, &s) == HV_BAD_ARGUMENT && hv_vm_lapic_msi(0xfee00000, 0x50) == HV_SUCCESS;
    return good ? arg : NULL;
}

static void arguments(void **state)
{
    (void)state;
    pthread_t thread;
    void *good;
    uint32_t val;
    uint64_t freq[] = {15999999, 2000000001};
    bool clean;
    assert_int_equal(pthread_create(&thread, NULL, in_another_thread, &good), 0);
    pthread_join(thread, &good);
    assert_non_null(good);

    assert_int_equal(hv_vcpu_apic_read(cpu0, 0x34, &val), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_apic_read(cpu0, 0x400, &val), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_apic_read(cpu0, 0x30, NULL), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_apic_write(cpu0, 0x81, 0, &clean), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vm_lapic_msi(0x1000, VECTOR), HV_BAD_ARGUMENT); /* the whole address */
    assert_int_equal(hv_vm_set_apic_bus_freq(1000000000), HV_BUSY);     /* there is a vCPU */
    assert_int_equal(hv_vcpu_destroy(cpu0), HV_SUCCESS);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(hv_vm_set_apic_bus_freq(freq[i]), HV_BAD_ARGUMENT);
    assert_int_equal(hv_vcpu_create(&cpu0, HV_VCPU_DEFAULT), HV_SUCCESS);

    hv_apic_state_ext_t s = {.version = 99};
    assert_int_equal(hv_vcpu_apic_get_state(cpu0, &s), HV_BAD_ARGUMENT);
    s = state_of();
    s.version = 99;
    assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_BAD_ARGUMENT);
    s = state_of();
    s.state.apic_gpa = 0xfee00500; /* x2APIC mode of one that is off */
    assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_BAD_ARGUMENT);
}

static void state_there_and_back(void **state)
{
    (void)state;
    put(0xf0, 0x1ff);
    put(0x80, 0x30);
    put(0x350, 0x10700);
    hv_apic_state_ext_t s = state_of();
    assert_int_equal(s.state.apic_gpa, 0xfee00900);
    assert_int_equal(s.state.svr, 0x1ff);
    assert_int_equal(s.state.tpr, 0x30);
    put(0xf0, 0xff);
    put(0x80, 0);
    assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_SUCCESS);
    assert_int_equal(get(0xf0), 0x1ff);
    assert_int_equal(get(0x80), 0x30);
    assert_int_equal(get(0x350), 0x10700);

    s.state.irr[VECTOR / 32] = 1u << VECTOR % 32;
    s.state.apic_id = 3;
    assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_SUCCESS);
    assert_int_equal(get(0x200 + 16 * (VECTOR / 32)), 1u << VECTOR % 32);
    assert_int_equal(get(0x20) >> 24, 3);
}

/* The guest halts with interrupts on; a message comes; its handler halts, in the end for good. */
static void message_wakes(void **state)
{
    (void)state;
    uint64_t idle = 0;
    mode64();
    put(0xf0, 0x1ff);
    ram[HANDLER_AT + 16 * VECTOR] = 0xe6; /* OUT 0x10, AL: an exit that tells */
    ram[HANDLER_AT + 16 * VECTOR + 1] = 0x10;
    CODE("\xfb\xf4"); /* STI; HLT */
    assert_int_equal(hv_vcpu_run_until(cpu0, os_clock_ns() + 20000000), HV_SUCCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_REASON), VMX_REASON_VMX_TIMER_EXPIRED); /* HLT has not exited */
    assert_int_equal(hv_vcpu_get_idle_time(cpu0, &idle), HV_SUCCESS);
    assert_true(idle > 10000000);
    assert_int_equal(hv_vm_lapic_msi(0xfee00000, VECTOR), HV_SUCCESS);
    runs_to(VMX_REASON_IO);
    assert_int_equal(info(), HV_VM_EXITINFO_VMX);
    assert_int_equal(get(0x100 + 16 * (VECTOR / 32)), 1u << VECTOR % 32); /* in service: the kernel has delivered it */
}

static void hlt_may_exit(void **state)
{
    (void)state;
    hvsim_setenv("hlt=exit");
    mode64();
    CODE("\xf4");
    runs_to(VMX_REASON_HLT);
}

static void nmi(void **state)
{
    (void)state;
    mode64();
    ram[HANDLER_AT + 16 * 2] = 0xe6;
    ram[HANDLER_AT + 16 * 2 + 1] = 0x10;
    CODE("\xf4"); /* interrupts off */
    assert_int_equal(hv_vm_lapic_msi(0xfee00000, 0x400), HV_SUCCESS);
    runs_to(VMX_REASON_IO);
    assert_int_equal(reg(HV_X86_RIP), HANDLER_AT + 16 * 2);
}

/* A level-triggered vector's EOI goes to the client if it has asked for it. */
static void level_eoi(void **state)
{
    (void)state;
    uint8_t vector = 0;
    for (unsigned asked = 0; asked < 2; asked++) {
        assert_int_equal(hv_vcpu_apic_ctrl(cpu0, asked ? HV_APIC_CTRL_IOAPIC_EOI : 0), HV_SUCCESS);
        put(0xf0, 0x1ff);
        hv_apic_state_ext_t s = state_of();
        s.state.isr[VECTOR / 32] = s.state.tmr[VECTOR / 32] = 1u << VECTOR % 32;
        assert_int_equal(hv_vcpu_apic_put_state(cpu0, &s), HV_SUCCESS);
        assert_int_equal(put(0xb0, 0), !asked);
        assert_int_equal(hv_vcpu_exit_ioapic_eoi(cpu0, &vector), asked ? HV_SUCCESS : HV_ERROR);
    }
    assert_int_equal(vector, VECTOR);
    assert_true(put(0xb0, 0)); /* nothing in service */
}

static void init_and_startup(void **state)
{
    (void)state;
    bool to[4] = {0};
    uint64_t rip = 0;
    assert_true(put(ICR, 0xc4500)); /* to all others, of which there are none */
    put(0x310, 0);
    assert_false(put(ICR, 0x4500)); /* INIT to 0: itself */
    assert_int_equal(info(), HV_VM_EXITINFO_INIT_AP);
    assert_int_equal(hv_vcpu_exit_startup_ap(cpu0, to, 4, &rip), HV_ERROR); /* it is not that */
    assert_int_equal(hv_vcpu_exit_init_ap(cpu0, to, 4), HV_SUCCESS);
    assert_true(to[0] && !to[1]);
    assert_false(put(ICR, 0x4608));
    assert_int_equal(hv_vcpu_exit_startup_ap(cpu0, to, 4, &rip), HV_SUCCESS);
    assert_int_equal(rip, 0x8000);
}

static void x2apic_in_the_kernel(void **state)
{
    (void)state;
    mode64();
    into_x2apic();
    CODE("\xb9\x03\x08\x00\x00\x0f\x32\xf4\x90\x0f\x30"); /* RDMSR 0x803; HLT */
    assert_int_equal(hv_vcpu_run_until(cpu0, os_clock_ns() + 5000000), HV_SUCCESS);
    assert_int_equal(vmcs(VMCS_RO_EXIT_REASON), VMX_REASON_VMX_TIMER_EXPIRED);
    assert_int_equal(reg(HV_X86_RAX) & 0xff, 0x14);

    /* A fault is told, and so is INIT, at the instruction. */
    CODE("\x0f\x30");
    set_vmcs(VMCS_GUEST_ACTIVITY_STATE, 0);
    set_reg(HV_X86_RCX, 0x80d);
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(info(), HV_VM_EXITINFO_INJECT_EXCP);
    uint8_t vector;
    bool valid, restart;
    uint32_t error = 1;
    assert_int_equal(hv_vcpu_exit_inject_excp(cpu0, &vector, &valid, &error, &restart), HV_SUCCESS);
    assert_true(vector == 13 && valid && restart && error == 0);
    set_reg(HV_X86_RCX, 0x830);
    set_reg(HV_X86_RAX, 0x4500);
    set_reg(HV_X86_RDX, 0);
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(info(), HV_VM_EXITINFO_INIT_AP);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT);
    hvsim_setenv("advanced=on");
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(reg(HV_X86_RIP), CODE_AT + 2);
    hvsim_setenv("x2apic=exit");
    CODE("\x0f\x30");
    runs_to(VMX_REASON_WRMSR);
    assert_int_equal(info(), HV_VM_EXITINFO_VMX);
}

static void no_x2apic(void **state)
{
    (void)state;
    hvsim_setenv("x2apic=none");
    hv_apic_state_ext_t s = state_of();
    assert_int_equal(s.state.apic_gpa, 0xfee00000);
}

static void page_reads_come_with_their_value(void **state)
{
    (void)state;
    uint32_t val = 0;
    mode32(0, 0);
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_SECONDARY_CTLS);
    assert_int_equal(hv_vmx_vcpu_set_apic_address(cpu0, 0xfee00000), HV_SUCCESS);
    set_bits(VMCS_CTRL_CPU_BASED2, CPU_BASED2_VIRTUAL_APIC);
    CODE("\xa1\x30\x00\xe0\xfe\xa3\x80\x00\xe0\xfe"); /* MOV EAX, [0xfee00030]; MOV [0xfee00080], EAX */
    runs_to(VMX_REASON_APIC_ACCESS);
    assert_int_equal(info(), HV_VM_EXITINFO_APIC_ACCESS_READ);
    assert_int_equal(hv_vcpu_exit_apic_access_read(cpu0, &val), HV_SUCCESS);
    assert_int_equal(val & 0xff, 0x14);
    skip_insn();
    runs_to(VMX_REASON_APIC_ACCESS);
    assert_int_equal(info(), HV_VM_EXITINFO_VMX);
    assert_int_equal(vmcs(VMCS_RO_EXIT_QUALIFIC), 0x1080);
    assert_int_equal(hv_vcpu_exit_apic_access_read(cpu0, &val), HV_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_where_it_exists),
        TEST(without_the_flag),
        APIC_TEST(arguments),
        APIC_TEST(state_there_and_back),
        APIC_TEST(message_wakes),
        APIC_TEST(hlt_may_exit),
        APIC_TEST(nmi),
        APIC_TEST(level_eoi),
        APIC_TEST(init_and_startup),
        APIC_TEST(x2apic_in_the_kernel),
        APIC_TEST(no_x2apic),
        APIC_TEST(page_reads_come_with_their_value),
    };
    return cmocka_run_group_tests_name("hvsim_apic", tests, NULL, NULL);
}
