/* The KVM accelerator: what becomes of exits, which a script makes up instead of a guest, of errors and of kicks. */
#if defined(__linux__) && defined(__x86_64__)

#include "kvm_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(accesses), TEST(other_exits), TEST(an_interrupt_waits_for_a_fault), TEST(run_fails), TEST(kicks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return 77; /* KVM is Linux' and x86-64's */ }

#endif
