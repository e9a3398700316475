/*
 * The KVM accelerator as far as it can be had without running a guest: VMs,
 * vCPUs, registers and CPUID on the real /dev/kvm where there is one, and what
 * becomes of calls that fail, through a door of the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined(__linux__) && defined(__x86_64__)

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/priv.h"
#include "chipset/lapic.h"
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

static void need_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        skip();
    close(fd);
}

static void build(struct rig *r, const char *irqchip, const char *model)
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

static void tear_down(struct rig *r)
{
    accel_kvm.vcpu_fini(r->vcpu);
    accel_kvm.vm_close(r->vm);
    vm_free(r->vm);
}

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

/* ---- registers ---- */

static void fill(struct x86_state *s)
{
    x86_state_reset(s, true);
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = UINT64_C(0x0101010101010101) * (i + 1);
    s->rip = 0x123456;
    s->rflags = RFL_FIXED | RFL_CF | RFL_IF;
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
    s->cr2 = 0xdead000;
    s->cr3 = 0x5000;
    s->cr4 = CR4_PAE | CR4_OSFXSR;
    s->cr8 = 5;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE;
    s->seg[SEG_CS] = x86_flat_segment(8, SEG_L | 11);
    s->seg[SEG_SS] = x86_flat_segment(16, SEG_DB | 3);
    s->seg[SEG_FS].base = UINT64_C(0x7f1234567000);
    s->gdtr = (struct x86_table){.base = UINT64_C(0xffff800000001000), .limit = 0x7f};
    s->idtr = (struct x86_table){.base = UINT64_C(0xffff800000002000), .limit = 0xfff};
    s->dr[0] = 0x1000;
    s->dr[7] = 0x402;
    s->star = UINT64_C(0x0023001000000000);
    s->lstar = UINT64_C(0xffffffff81000000);
    s->sfmask = 0x47700;
    s->kernel_gs_base = UINT64_C(0xffff888000000000);
    s->sysenter_eip = 0x1234;
    s->pat = UINT64_C(0x0007010600070106);
    s->mtrr_def_type = 0x806;
    s->mtrr_base[3] = 0x40000006;
    s->xsave[160] = 0x5a; /* XMM0 */
    s->xsave[160 + 16 * 15 + 7] = 0xa5;
    s->nmi_blocked = 1;
}

static void same_registers(const struct x86_state *a, const struct x86_state *b)
{
    assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(a->rflags, b->rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(a->seg[i].sel, b->seg[i].sel);
        assert_int_equal(a->seg[i].base, b->seg[i].base);
        assert_int_equal(a->seg[i].limit, b->seg[i].limit);
        assert_int_equal(a->seg[i].attr, b->seg[i].attr);
    }
    assert_int_equal(a->gdtr.base, b->gdtr.base);
    assert_int_equal(a->idtr.limit, b->idtr.limit);
    assert_int_equal(a->cr0, b->cr0);
    assert_int_equal(a->cr2, b->cr2);
    assert_int_equal(a->cr3, b->cr3);
    assert_int_equal(a->cr4, b->cr4);
    assert_int_equal(a->cr8, b->cr8);
    assert_int_equal(a->xcr0, b->xcr0);
    assert_int_equal(a->efer, b->efer);
    assert_int_equal(a->dr[0], b->dr[0]);
    assert_int_equal(a->dr[7], b->dr[7]);
    assert_int_equal(a->star, b->star);
    assert_int_equal(a->lstar, b->lstar);
    assert_int_equal(a->sfmask, b->sfmask);
    assert_int_equal(a->kernel_gs_base, b->kernel_gs_base);
    assert_int_equal(a->sysenter_eip, b->sysenter_eip);
    assert_int_equal(a->pat, b->pat);
    assert_int_equal(a->mtrr_def_type, b->mtrr_def_type);
    assert_int_equal(a->mtrr_base[3], b->mtrr_base[3]);
    assert_memory_equal(a->xsave, b->xsave, sizeof(a->xsave));
    assert_int_equal(a->nmi_blocked, b->nmi_blocked);
    assert_int_equal(a->run_state, b->run_state);
}

static void registers(void **state)
{
    struct rig r;
    struct x86_state in, out;
    (void)state;
    build(&r, "split", NULL);
    fill(&in);
    in.tsc_at_ns = os_clock_ns();
    assert_int_equal(kvm_set_state(r.vcpu, &in), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    same_registers(&in, &out);

    in.run_state = X86_WAIT_SIPI;
    assert_int_equal(kvm_set_state(r.vcpu, &in), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    assert_int_equal(out.run_state, X86_WAIT_SIPI);

    /* A reset leaves nothing behind. */
    struct x86_state power_on;
    x86_state_reset(&power_on, true);
    assert_int_equal(kvm_set_state(r.vcpu, &power_on), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    same_registers(&power_on, &out);
    tear_down(&r);
}

static void paravirtual_msrs_end_at_a_reset(void **state)
{
    const uint32_t system_time = 0x4b564d01;
    struct rig r;
    struct x86_state s;
    uint64_t val;
    (void)state;
    build(&r, "split", NULL);
    struct kvm_vcpu *kv = r.vcpu->accel;
    if (kvm_msr_set(kv, system_time, 0x2001)) {
        tear_down(&r);
        skip();
    }
    x86_state_reset(&s, true);
    assert_int_equal(kvm_set_state(r.vcpu, &s), 0);
    assert_int_equal(kvm_msr_get(kv, system_time, &val), 0);
    assert_int_equal(val, 0);
    tear_down(&r);
}

static void tsc(void **state)
{
    struct rig r;
    struct x86_state s;
    (void)state;
    build(&r, "split", NULL);
    x86_state_reset(&s, true);
    s.tsc = 1000000;
    s.tsc_at_ns = os_clock_ns();
    assert_int_equal(kvm_set_state(r.vcpu, &s), 0);
    char why[256];
    if (kvm_trial(&kvm_sys_host, why, sizeof(why))) { /* one that runs no guests keeps no TSC either */
        tear_down(&r);
        skip();
    }
    uint64_t now = kvm_tsc_now(r.vcpu);
    assert_in_range(now, s.tsc, s.tsc + 10 * r.vm->tsc_hz);
    uint64_t at = kvm_tsc_to_ns(r.vcpu, now + r.vm->tsc_hz);
    uint64_t ns = os_clock_ns();
    assert_in_range(at, ns, ns + NS_PER_S);
    assert_int_equal(kvm_tsc_to_ns(r.vcpu, 1), 0);
    tear_down(&r);
}

static void local_apic(void **state)
{
    struct rig r;
    uint8_t in[ACCEL_LAPIC_PAGE], out[ACCEL_LAPIC_PAGE];
    uint64_t base;
    (void)state;
    build(&r, "split", NULL);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, in), 0);
    assert_int_equal(base, 0xfee00900);
    in[0x80] = 0x30; /* TPR */
    in[0xf1] = 1;    /* enabled */
    in[0x350] = 0;
    in[0x351] = 7; /* LINT0: ExtINT */
    in[0x352] = 0;
    assert_int_equal(kvm_set_lapic(r.vcpu, base, in), 0);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, out), 0);
    assert_int_equal(out[0x80], 0x30);
    assert_int_equal(out[0x351], 7);
    /* And into x2APIC mode, whose ID register has 32 bits. */
    memset(in + 0x20, 0, 4);
    assert_int_equal(kvm_set_lapic(r.vcpu, base | 0x400, in), 0);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, out), 0);
    assert_int_equal(base, 0xfee00d00);
    tear_down(&r);
}

/* ---- CPUID ---- */

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < c->nent; i++)
        if (c->entries[i].function == function && c->entries[i].index == index)
            return &c->entries[i];
    return NULL;
}

static void cpuid(void **state)
{
    struct rig r;
    const struct kvm_cpuid_entry2 *e;
    (void)state;
    for (unsigned user = 0; user < 2; user++) {
        build(&r, user ? "user" : "split", NULL);
        struct kvm_cpuid2 *c = kvm_cpuid_leaves(r.vm->accel_vm, &r.cpuid, 9);
        assert_non_null(c);
        e = leaf(c, 0x40000000, 0);
        assert_non_null(e);
        assert_memory_equal(&e->ebx, "KVMKVMKVM\0\0\0", 12);
        assert_true(e->eax >= 0x40000001);
        e = leaf(c, 0x40000001, 0);
        assert_non_null(e);
        if (user) /* nothing that KVM's local APIC would have to do */
            assert_int_equal(e->eax & (1u << 6 | 1u << 7 | 1u << 11 | 1u << 14), 0);
        e = leaf(c, 1, 0);
        assert_int_equal(e->ebx >> 24, 9);
        if (user)
            assert_int_equal(e->ecx & 1u << 24, 0);           /* no TSC deadline that KVM would swallow */
        assert_int_equal(e->ecx & 1u << 5, 0);                /* no VMX, */
        assert_true(e->ecx & 1u << 31);                       /* but a hypervisor */
        assert_int_equal(leaf(c, 0x80000001, 0)->ecx & 4, 0); /* no SVM */
        e = leaf(c, 0xb, 0);
        assert_int_equal(e->edx, 9);
        e = leaf(c, 0x16, 0);
        assert_int_equal(e->eax, r.vm->tsc_hz / 1000000);
        e = leaf(c, 7, 0);
        assert_int_equal(e->ebx & (1u << 16), 0); /* no AVX-512 without a place for its state */
        free(c);
        tear_down(&r);
    }
}

/* ---- running ---- */

static struct accel_log {
    unsigned n;
    uint64_t off[16], val[16];
    unsigned size[16];
} seen;

static void seen_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    (void)dev;
    if (seen.n < 16) {
        seen.off[seen.n] = off;
        seen.size[seen.n] = size;
        seen.val[seen.n++] = val;
    }
}

static uint64_t seen_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    (void)size;
    return 0x10 + off;
}

static const struct io_ops seen_ops = {.read = seen_read, .write = seen_write};
static unsigned step;

/* A string output of three words; then an access of 7 bytes; then the end. */
static void script_io(struct kvm_run *run)
{
    static const uint16_t words[3] = {0x1111, 0x2222, 0x3333};
    switch (step++) {
    case 0:
        run->exit_reason = KVM_EXIT_IO;
        run->io.direction = KVM_EXIT_IO_OUT;
        run->io.port = 0x300;
        run->io.size = 2;
        run->io.count = 3;
        run->io.data_offset = 4096;
        memcpy((char *)run + 4096, words, sizeof(words));
        break;
    case 1:
        run->exit_reason = KVM_EXIT_MMIO;
        run->mmio.phys_addr = 0xd0000001;
        run->mmio.len = 7;
        run->mmio.is_write = 1;
        memcpy(run->mmio.data, "\1\2\3\4\5\6\7", 7);
        break;
    case 2:
        run->exit_reason = KVM_EXIT_IO;
        run->io.direction = KVM_EXIT_IO_IN;
        run->io.port = 0x304;
        run->io.size = 1;
        run->io.count = 2;
        run->io.data_offset = 4096;
        break;
    default:
        assert_int_equal(*((uint8_t *)run + 4096), 0x14);
        assert_int_equal(*((uint8_t *)run + 4097), 0x14);
        run->exit_reason = KVM_EXIT_SHUTDOWN;
    }
}

static void accesses(void **state)
{
    struct rig r;
    enum vcpu_exit out;
    struct io_range port = {.base = 0x300, .len = 8, .ops = &seen_ops, .name = "test"};
    struct io_range page = {.base = 0xd0000000, .len = 0x1000, .ops = &seen_ops, .name = "test"};
    (void)state;
    build(&r, "split", NULL);
    assert_int_equal(bus_add(r.vm->pio, &port), 0);
    assert_int_equal(bus_add(r.vm->mmio, &page), 0);
    step = 0;
    seen.n = 0;
    on_run = script_io;
    assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
    assert_int_equal(out, VCPU_EXIT_TRIPLE_FAULT);
    assert_true(seen.n >= 6);
    assert_int_equal(seen.val[0], 0x1111);
    assert_int_equal(seen.val[2], 0x3333);
    /* In pieces that a bus knows, the bytes in their places: one at 1 (4 bytes made smaller by alignment), ... */
    uint64_t bytes = 0;
    for (unsigned i = 3; i < seen.n; i++)
        for (unsigned b = 0; b < seen.size[i]; b++)
            bytes |= (seen.val[i] >> 8 * b & 0xff) << 8 * (seen.off[i] + b);
    assert_int_equal(bytes, UINT64_C(0x0706050403020100));
    on_run = NULL;
    tear_down(&r);
}

static uint8_t eoi_of;
static void note_eoi(void *arg, uint8_t vector)
{
    (void)arg;
    eoi_of = vector;
}

static void script_exits(struct kvm_run *run)
{
    switch (step++) {
    case 0:
        run->exit_reason = KVM_EXIT_IOAPIC_EOI;
        run->eoi.vector = 0x51;
        break;
    case 1: /* an MSR that nobody knows */
        assert_int_equal(eoi_of, 0x51);
        run->exit_reason = KVM_EXIT_X86_RDMSR;
        run->msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
        run->msr.index = 0x12345;
        run->msr.data = 7;
        run->msr.error = 0;
        break;
    case 2:
        assert_int_equal(run->msr.error, 1);
        run->exit_reason = KVM_EXIT_X86_RDMSR;
        run->msr.error = 0;
        run->msr.data = 7;
        break;
    default:
        assert_int_equal(run->msr.error, 0); /* -w has been set meanwhile */
        assert_int_equal(run->msr.data, 0);
        run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
        run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
        run->internal.ndata = 0;
    }
}

static struct vm *ignoring;
static void script_exits_w(struct kvm_run *run)
{
    script_exits(run);
    ignoring->ignore_unknown_msrs = step == 3;
}

static void other_exits(void **state)
{
    struct rig r;
    enum vcpu_exit out;
    (void)state;
    build(&r, "split", NULL);
    r.vm->upcalls.eoi = note_eoi;
    ignoring = r.vm;
    step = 0;
    on_run = script_exits_w;
    assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
    assert_int_equal(out, VCPU_EXIT_ERROR); /* and its registers stand on stderr */
    on_run = NULL;
    tear_down(&r);
}

/* An interrupt waits while an MSR access faults; KVM would drop it if it were handed over before the fault. */
static void script_waiting_interrupt(struct kvm_run *run)
{
    run->ready_for_interrupt_injection = 1;
    run->if_flag = 1;
    switch (step++) {
    case 0: /* a read that nobody serves */
        run->exit_reason = KVM_EXIT_X86_RDMSR;
        run->msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
        run->msr.index = 0x12345;
        run->msr.error = 0;
        break;
    case 1:
        assert_int_equal(run->msr.error, 1);
        assert_int_equal(given, 0);
        assert_int_equal(run->request_interrupt_window, 1);
        run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
        break;
    case 2: /* a string input may fault where it stores */
        assert_int_equal(given, 1);
        run->exit_reason = KVM_EXIT_IO;
        run->io.direction = KVM_EXIT_IO_IN;
        run->io.port = 0x304;
        run->io.size = 1;
        run->io.count = 1;
        run->io.data_offset = 4096;
        break;
    default: assert_int_equal(given, 1); run->exit_reason = KVM_EXIT_SHUTDOWN;
    }
}

static struct vm *raising;

/* The 8259A's output rises while the guest runs, and stays. */
static void script_first_raise(struct kvm_run *run)
{
    if (step == 0)
        accel_kvm.set_intr(raising, true);
    script_waiting_interrupt(run);
}

/* A source of interrupts that always has one more. */
static int always_ack(void *pic)
{
    (void)pic;
    return 0x30;
}

static void an_interrupt_waits_for_a_fault(void **state)
{
    struct rig r;
    enum vcpu_exit out;
    (void)state;
    build(&r, "split", NULL);
    r.vm->upcalls.pic_ack = always_ack;
    step = 0;
    given = 0;
    on_run = script_first_raise;
    raising = r.vm;
    assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
    assert_int_equal(out, VCPU_EXIT_TRIPLE_FAULT);
    on_run = NULL;
    tear_down(&r);
}

static void run_fails(void **state)
{
    static const int errors[] = {EFAULT, EINVAL, ENOMEM, EIO};
    struct rig r;
    enum vcpu_exit out;
    (void)state;
    build(&r, "split", NULL);
    for (unsigned i = 0; i < 4; i++) {
        failing_request = KVM_RUN;
        failing_errno = errors[i];
        out = VCPU_EXIT_KICKED;
        assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
        assert_int_equal(out, VCPU_EXIT_ERROR);
    }
    tear_down(&r);
}

static unsigned runs;
static void count_runs(struct kvm_run *run)
{
    runs++;
    run->exit_reason = KVM_EXIT_INTR;
    atomic_fetch_or(&ignoring->vcpu[0]->events, VCPU_EV_STOP);
}

static void kicks(void **state)
{
    struct rig r;
    enum vcpu_exit out;
    (void)state;
    build(&r, "split", NULL);
    ignoring = r.vm;
    on_run = count_runs;
    /* A request from before the entry: nothing is executed. */
    runs = 0;
    atomic_store(&r.vcpu->events, VCPU_EV_CALL);
    kvm_kick(r.vcpu);
    assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(runs, 0);
    assert_int_equal(atomic_load(&r.vcpu->events), VCPU_EV_CALL); /* core's to take */
    /* One that comes while it runs. */
    atomic_store(&r.vcpu->events, 0);
    assert_int_equal(kvm_vcpu_run(r.vcpu, &out), 0);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(runs, 1);
    on_run = NULL;
    tear_down(&r);
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

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, reset_door, reset_door)
    const struct CMUnitTest tests[] = {
        TEST(open_errors),
        TEST(vm_errors),
        TEST(out_of_descriptors),
        TEST(registers),
        TEST(paravirtual_msrs_end_at_a_reset),
        TEST(tsc),
        TEST(local_apic),
        TEST(cpuid),
        TEST(accesses),
        TEST(other_exits),
        TEST(an_interrupt_waits_for_a_fault),
        TEST(run_fails),
        TEST(kicks),
        TEST(routes),
        TEST(messages),
        TEST(kernel_chips),
        TEST(dirty_pages),
        TEST(probe),
        TEST(trial_of_a_broken_kvm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return 77; /* KVM is Linux' and x86-64's */ }

#endif
