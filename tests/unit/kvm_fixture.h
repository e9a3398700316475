/* KVM through a door of the test's own, which fails where it is told, and a VM with one vCPU on the test's thread. */
#ifndef XHYVE_TESTS_KVM_FIXTURE_H
#define XHYVE_TESTS_KVM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/priv.h"
#include "os/clock.h"

/* ---- a door that fails where it is told ---- */

static int open_errno;                /* of open, 0: as the host */
static unsigned long failing_request; /* of ioctl, 0: none */
static int failing_errno;
static void (*on_run)(struct kvm_run *); /* instead of KVM_RUN */
static struct kvm_run *current_run;
static unsigned given; /* interrupts that KVM was handed */

static int fake_open(const char *path)
{
    if (!open_errno)
        return kvm_sys_host.open(path);
    errno = open_errno;
    return -1;
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
    if (request == failing_request) {
        errno = failing_errno;
        return -1;
    }
    if (request == KVM_INTERRUPT)
        given++;
    if (request == KVM_RUN && on_run) {
        if (current_run->immediate_exit) {
            errno = EINTR;
            return -1;
        }
        on_run(current_run);
        return 0;
    }
    return kvm_sys_host.ioctl(fd, request, arg);
}

static const struct kvm_sys fake = {.open = fake_open, .ioctl = fake_ioctl};

static int reset_door(void **state)
{
    (void)state;
    open_errno = 0;
    failing_request = 0;
    on_run = NULL;
    return 0;
}

/* ---- a VM with one vCPU, on this thread ---- */

struct rig {
    struct vm *vm;
    struct vcpu *vcpu;
    struct cpuid_table cpuid;
};

static inline void need_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        skip();
    close(fd);
}

static inline void build(struct rig *r, const char *irqchip, const char *model)
{
    static const struct mem_options options;
    uint32_t offered[CPUID_WORDS];
    char why[256] = "";

    need_kvm();
    assert_int_equal(vm_new(&r->vm, "test", 1, UINT64_C(1) << 20, &options), 0);
    r->vcpu = r->vm->vcpu[0];
    if (kvm_vm_open_through(&fake, r->vm, irqchip, why, sizeof(why)))
        fail_msg("%s", why);
    kvm_offered(r->vm, offered);
    if (cpuid_build(&r->cpuid, model, offered, NULL, r->vm->tsc_hz, NS_PER_S, why, sizeof(why)))
        fail_msg("%s", why);
    r->vm->cpuid = &r->cpuid;
    assert_int_equal(accel_kvm.vm_init(r->vm), 0);
    assert_int_equal(accel_kvm.vcpu_init(r->vcpu), 0);
    assert_int_equal(kvm_set_cpuid(r->vcpu, &r->cpuid), 0);
    current_run = ((struct kvm_vcpu *)r->vcpu->accel)->run;
}

static inline void tear_down(struct rig *r)
{
    accel_kvm.vcpu_fini(r->vcpu);
    accel_kvm.vm_close(r->vm);
    vm_free(r->vm);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, reset_door, reset_door)

#endif
