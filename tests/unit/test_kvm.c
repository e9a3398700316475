/*
 * The KVM accelerator as far as it can be had without running a guest: opening
 * it, the trial, interrupt routes, KVM's own chips and dirty pages on the real
 * /dev/kvm where there is one, and what becomes of calls that fail.
 */
#if defined(__linux__) && defined(__x86_64__)

#include "kvm_fixture.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

/* ---- opening ---- */

static void open_errors(void **state)
{
    static const struct {
        int error;
        const char *says;
    } cases[] = {
        {ENOENT, "kvm_intel or kvm_amd"},
        {EACCES, "permission denied"},
        {EMFILE, "Too many open files"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char why[256] = "";
        open_errno = cases[i].error;
        assert_int_equal(kvm_dev_open(&fake, why, sizeof(why)), -cases[i].error);
        if (!strstr(why, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", why, cases[i].says);
    }
}

static void vm_errors(void **state)
{
    static const struct {
        unsigned long request;
        int error;
    } cases[] = {
        {KVM_GET_API_VERSION, ENOTTY},    {KVM_CREATE_VM, EMFILE},          {KVM_CREATE_VM, EBUSY},
        {KVM_SET_TSS_ADDR, EINVAL},       {KVM_ENABLE_CAP, EINVAL},         {KVM_CREATE_VCPU, EMFILE},
        {KVM_GET_SUPPORTED_CPUID, E2BIG}, {KVM_GET_VCPU_MMAP_SIZE, EINVAL}, {KVM_GET_MSR_INDEX_LIST, E2BIG},
    };
    static const struct mem_options options;
    struct vm *vm;
    (void)state;
    need_kvm();
    assert_int_equal(vm_new(&vm, "test", 1, UINT64_C(1) << 20, &options), 0);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char why[256] = "";
        int before = dup(0);
        close(before);
        failing_request = cases[i].request;
        failing_errno = cases[i].error;
        assert_true(kvm_vm_open_through(&fake, vm, NULL, why, sizeof(why)) < 0);
        assert_true(strlen(why) > 10);
        assert_null(vm->accel_vm);
        int after = dup(0);
        close(after);
        assert_int_equal(before, after); /* no descriptor is left open */
    }
    failing_request = 0;
    char why[256] = "";
    assert_int_equal(kvm_vm_open_through(&fake, vm, "none", why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "irqchip=none"));
    vm_free(vm);
}

static void out_of_descriptors(void **state)
{
    static const struct mem_options options;
    struct rlimit old, none;
    struct vm *vm;
    char why[256] = "";
    (void)state;
    need_kvm();
    assert_int_equal(vm_new(&vm, "test", 1, UINT64_C(1) << 20, &options), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int next = dup(0);
    close(next);
    none = (struct rlimit){.rlim_cur = (rlim_t)next, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int err = kvm_vm_open_through(&kvm_sys_host, vm, NULL, why, sizeof(why));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(err, -EMFILE);
    assert_non_null(strstr(why, "Too many open files"));
    vm_free(vm);
}

/* ---- the trial ---- */

/* Whatever it says here, it says it soon, and gives a reason if it is no. */
static void probe(void **state)
{
    char why[256] = "";
    (void)state;
    uint64_t start = os_clock_ns();
    int verdict = kvm_probe(why, sizeof(why));
    assert_in_range(os_clock_ns() - start, 0, 5 * NS_PER_S);
    if (verdict)
        assert_true(strlen(why) > 10);
    else
        assert_string_equal(why, "");
}

static void trial_of_a_broken_kvm(void **state)
{
    char why[256] = "";
    (void)state;
    need_kvm();
    failing_request = KVM_RUN;
    failing_errno = EINVAL;
    assert_int_equal(kvm_trial(&fake, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "entering the guest"));
    failing_request = KVM_SET_SREGS;
    assert_true(kvm_trial(&fake, why, sizeof(why)) < 0);
    assert_non_null(strstr(why, "state"));
}

/* ---- routes, event descriptors, dirty pages ---- */

static void routes(void **state)
{
    static const char *const modes[] = {"split", "kernel"};
    (void)state;
    for (unsigned m = 0; m < 2; m++) {
        struct rig r;
        build(&r, modes[m], NULL);
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        assert_int_equal(kvm_set_route(r.vm, 0, 0xfee00000, 0x41), 0);
        assert_int_equal(kvm_set_route(r.vm, ACCEL_MSI_ROUTES - 1, 0xfee00000, 0x42), 0);
        assert_int_equal(kvm_set_route(r.vm, ACCEL_MSI_ROUTES, 0xfee00000, 0x42), -EINVAL);
        assert_int_equal(kvm_irqfd(r.vm, fd, 0, true), 0);
        assert_int_equal(kvm_irqfd(r.vm, fd, 0, false), 0);
        struct accel_io_event e = {.pio = true, .addr = 0x510, .size = 2, .match = true, .value = 3};
        assert_int_equal(kvm_ioeventfd(r.vm, fd, &e, true), 0);
        assert_int_equal(kvm_ioeventfd(r.vm, fd, &e, true), -EEXIST);
        assert_int_equal(kvm_ioeventfd(r.vm, fd, &e, false), 0);
        close(fd);
        tear_down(&r);
    }
}

/* A message reaches the local APIC of its destination, and nobody else's. */
static void messages(void **state)
{
    struct rig r;
    struct x86_state s;
    uint8_t page[ACCEL_LAPIC_PAGE];
    uint64_t base;
    (void)state;
    build(&r, "split", NULL);
    x86_state_reset(&s, true);
    assert_int_equal(kvm_set_state(r.vcpu, &s), 0);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, page), 0);
    assert_int_equal(kvm_msi(r.vm, 0xfee05000, 0x41, -1), 0);
    assert_int_equal(kvm_msi(r.vm, 0xfee00000, 0x41, -1), 0); /* software-disabled */
    page[0xf0] = 0xff;
    page[0xf1] = 1;
    assert_int_equal(kvm_set_lapic(r.vcpu, base, page), 0);
    assert_int_equal(kvm_msi(r.vm, 0xfee00000, 0x41, -1), 1);
    assert_int_equal(kvm_msi(r.vm, 0xfee00000, 0xc062, 9), 1); /* a level, of IOAPIC pin 9 */
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, page), 0);
    assert_true(page[0x200 + 0x10 * 2] & 2); /* IRR, vector 0x41 */
    assert_true(page[0x200 + 0x10 * 3] & 4); /* vector 0x62 */
    assert_true(page[0x180 + 0x10 * 3] & 4); /* TMR */
    tear_down(&r);
}

static void kernel_chips(void **state)
{
    struct rig r;
    (void)state;
    build(&r, "kernel", NULL);
    assert_int_equal(kvm_reset_irqchip(r.vm, 0x0e20, 3), 0);
    struct kvm_vm *kvm = r.vm->accel_vm;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_SLAVE};
    assert_int_equal(kvm_ioctl(kvm, kvm->fd, KVM_GET_IRQCHIP, &chip), 0);
    assert_int_equal(chip.chip.pic.elcr, 0x0e);
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    kvm_set_pin(r.vm, IRQCHIP_IOAPIC, 17, true);
    assert_int_equal(kvm_ioctl(kvm, kvm->fd, KVM_GET_IRQCHIP, &chip), 0);
    assert_int_equal(chip.chip.ioapic.id, 3);
    assert_true(chip.chip.ioapic.irr >> 17 & 1);
    assert_int_equal(chip.chip.ioapic.redirtbl[5].fields.mask, 1);
    kvm_set_pin(r.vm, IRQCHIP_IOAPIC, 17, false);
    kvm_connect_pit(r.vm, false);
    struct kvm_pit_state2 pit;
    assert_int_equal(kvm_ioctl(kvm, kvm->fd, KVM_GET_PIT2, &pit), 0);
    assert_true(pit.flags & KVM_PIT_FLAGS_HPET_LEGACY);
    tear_down(&r);
}

static void dirty_pages(void **state)
{
    struct rig r;
    unsigned long bitmap[256 / (8 * sizeof(unsigned long))];
    (void)state;
    build(&r, "split", NULL);
    const struct mem_region *ram = &r.vm->mem.region[0];
    assert_int_equal(accel_kvm.dirty_log(r.vm, ram, ACCEL_DIRTY_START, NULL), 0);
    memset(bitmap, 0xff, sizeof(bitmap));
    assert_int_equal(accel_kvm.dirty_log(r.vm, ram, ACCEL_DIRTY_FETCH, bitmap), 0);
    assert_int_equal(bitmap[0], 0); /* nothing has run */
    assert_int_equal(accel_kvm.dirty_log(r.vm, ram, ACCEL_DIRTY_STOP, NULL), 0);
    struct mem_region none = {.gpa = 0x12345000};
    assert_int_equal(accel_kvm.dirty_log(r.vm, &none, ACCEL_DIRTY_START, NULL), -ENOENT);
    tear_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(open_errors), TEST(vm_errors), TEST(out_of_descriptors), TEST(probe),       TEST(trial_of_a_broken_kvm),
        TEST(routes),      TEST(messages),  TEST(kernel_chips),       TEST(dirty_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return 77; /* KVM is Linux' and x86-64's */ }

#endif
