/*
 * core/vcpu and core/vm with an accelerator made of C functions: nothing that
 * is raised is lost, parked is parked, halted sleeps, and the end is noticed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/vm.h"
#include "os/clock.h"
#include "os/wait.h"
#include "util/bytes.h"

#define ALL_EVENTS (VCPU_EV_INTR | VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI | VCPU_EV_TIMER | VCPU_EV_ACCEL)

/* ---- the accelerator ---- */

struct guest; /* what the "guest" of one vCPU does */
typedef int guest_fn(struct vcpu *, struct guest *, enum vcpu_exit *);

struct guest {
    guest_fn *fn;
    _Atomic uint32_t kicked; /* sticky until run() returns for it */
    _Atomic uint32_t runs, taken, seen;
    _Atomic bool inside;
    bool init_fails;
    unsigned inits, finis;
    uint64_t until;
};

struct machine {
    struct vm *vm;
    struct guest guest[8];
    unsigned vm_inits, vm_finis;
    _Atomic uint32_t token;
};
static struct machine *m;

static struct guest *guest_of(struct vcpu *vcpu) { return &m->guest[vcpu->id]; }

static int fake_vm_init(struct vm *vm)
{
    (void)vm;
    m->vm_inits++;
    return 0;
}

static void fake_vm_fini(struct vm *vm)
{
    (void)vm;
    m->vm_finis++;
}

static int fake_vcpu_init(struct vcpu *vcpu)
{
    struct guest *g = guest_of(vcpu);
    assert_true(pthread_equal(pthread_self(), vcpu->thread));
    if (g->init_fails)
        return -ENODEV;
    g->inits++;
    vcpu->accel = g;
    return 0;
}

static void fake_vcpu_fini(struct vcpu *vcpu)
{
    assert_true(pthread_equal(pthread_self(), vcpu->thread));
    vcpu->accel = NULL;
    guest_of(vcpu)->finis++;
}

static void fake_kick(struct vcpu *vcpu)
{
    struct guest *g = vcpu->accel;
    if (!g)
        abort(); /* kicked before it exists, or after */
    atomic_store(&g->kicked, 1);
    os_wake_all(&g->kicked);
}

/* The guest computes until kicked. */
static int spin(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    (void)vcpu;
    while (!atomic_exchange(&g->kicked, 0))
        os_wait(&g->kicked, 0, NO_DEADLINE);
    atomic_fetch_add(&g->taken, (atomic_fetch_and(&vcpu->events, ~(uint32_t)ALL_EVENTS) & ALL_EVENTS) != 0);
    *out = VCPU_EXIT_KICKED;
    return 0;
}

/* HLT again and again; each wake-up takes what is there. */
static int halt(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    atomic_exchange(&g->kicked, 0);
    uint32_t events = atomic_fetch_and(&vcpu->events, ~(uint32_t)ALL_EVENTS) & ALL_EVENTS;
    if (events) {
        atomic_fetch_or(&g->seen, events);
        atomic_fetch_add(&g->taken, 1);
        os_wake_all(&g->taken);
    }
    *out = VCPU_EXIT_HALT;
    return 0;
}

static int fake_run(struct vcpu *vcpu, enum vcpu_exit *out)
{
    struct guest *g = guest_of(vcpu);
    assert_true(pthread_equal(pthread_self(), vcpu->thread));
    assert_false(atomic_exchange(&g->inside, true));
    atomic_fetch_add(&g->runs, 1);
    os_wake_all(&g->runs);
    int error = g->fn(vcpu, g, out);
    atomic_store(&g->inside, false);
    return error;
}

static const struct accel_ops fake_accel = {
    .name = "fake",
    .vm_init = fake_vm_init,
    .vm_fini = fake_vm_fini,
    .vcpu_init = fake_vcpu_init,
    .vcpu_fini = fake_vcpu_fini,
    .run = fake_run,
    .kick = fake_kick,
};

/* ---- around it ---- */

static const struct mem_options plain;

static void make(unsigned nvcpus, guest_fn *fn)
{
    m = calloc(1, sizeof(*m));
    assert_int_equal(vm_new(&m->vm, "test", nvcpus, MiB(1), &plain), 0);
    for (unsigned i = 0; i < nvcpus; i++)
        m->guest[i].fn = fn;
}

static void boot(unsigned nvcpus, guest_fn *fn)
{
    make(nvcpus, fn);
    assert_int_equal(vm_start(m->vm, &fake_accel), 0);
}

static void end(void)
{
    vm_join(m->vm);
    for (unsigned i = 0; i < m->vm->nvcpus; i++)
        assert_int_equal(m->guest[i].inits, m->guest[i].finis);
    assert_int_equal(m->vm_inits, m->vm_finis);
    vm_free(m->vm);
    free(m);
    m = NULL;
}

/* Until *word is at least n; a lost wake-up shows here, after 20 s. */
static void await(_Atomic uint32_t *word, uint32_t n)
{
    uint64_t deadline = os_clock_ns() + 20 * NS_PER_S;
    uint32_t now;
    while ((now = atomic_load(word)) < n) {
        assert_true(os_clock_ns() < deadline);
        os_wait(word, now, os_clock_ns() + NS_PER_S / 100);
    }
}

/* The main loop, as the machine runs it: ends when the VM wants something. */
static enum vm_stop main_loop(void)
{
    assert_int_equal(loop_run(m->vm->loop), 0);
    return atomic_load(&m->vm->stop);
}

/* What a test provokes on purpose need not be on its output. */
static int quiet_saved;

static void quiet(bool on)
{
    if (on) {
        int null = open("/dev/null", O_WRONLY);
        quiet_saved = dup(STDERR_FILENO);
        dup2(null, STDERR_FILENO);
        close(null);
    } else {
        dup2(quiet_saved, STDERR_FILENO);
        close(quiet_saved);
    }
}

/* ---- tests ---- */

static void test_life(void **state)
{
    (void)state;
    boot(2, spin);
    assert_int_equal(m->guest[0].runs, 0); /* parked from the start */
    vm_resume(m->vm);
    await(&m->guest[0].runs, 1);
    await(&m->guest[1].runs, 1);
    vm_pause(m->vm);
    assert_false(m->guest[0].inside || m->guest[1].inside);
    vm_pause(m->vm);
    vm_resume(m->vm);
    vm_resume(m->vm);
    end(); /* from running */

    boot(1, spin);
    end(); /* from parked */

    make(3, spin);
    vm_join(m->vm); /* never started */
    m->guest[1].init_fails = true;
    assert_int_equal(vm_start(m->vm, &fake_accel), -ENODEV);
    assert_null(m->vm->accel);
    assert_int_equal(m->guest[0].finis, 1);
    assert_int_equal(m->guest[2].inits, 0);
    m->guest[1].init_fails = false;
    assert_int_equal(vm_start(m->vm, &fake_accel), 0);
    vm_resume(m->vm);
    await(&m->guest[2].runs, 1);
    end();
}

static void test_arguments(void **state)
{
    struct vm *vm = (struct vm *)1;
    (void)state;
    assert_int_equal(vm_new(&vm, "x", 0, MiB(1), &plain), -EINVAL);
    assert_null(vm);
    assert_int_equal(vm_new(&vm, "x", VM_MAX_VCPUS + 1, MiB(1), &plain), -EINVAL);
    assert_int_equal(vm_new(&vm, "x", 1, 1, &plain), -EINVAL);
    assert_null(vm);
    vm_free(NULL);

    make(1, spin);
    m->vm->vcpu[0]->host_cpu = 100000;
    quiet(true);
    assert_int_equal(vm_start(m->vm, &fake_accel), -EINVAL);
    quiet(false);
    m->vm->vcpu[0]->host_cpu = sched_getcpu();
    assert_int_equal(vm_start(m->vm, &fake_accel), 0);
    end();
}

static void test_park_storm(void **state)
{
    (void)state;
    boot(3, spin);
    m->guest[2].fn = halt;
    for (unsigned i = 0; i < 1500; i++) {
        vm_resume(m->vm);
        if (i % 3 == 0)
            await(&m->guest[i % 2].runs, 1);
        if (i % 5 == 0) {
            for (unsigned k = 0; k < 3; k++)
                vcpu_park(m->vm->vcpu[k]); /* taken back before or after it was seen */
            vm_resume(m->vm);
        }
        vm_pause(m->vm);
        uint32_t runs[3];
        for (unsigned k = 0; k < 3; k++) {
            assert_false(m->guest[k].inside);
            runs[k] = m->guest[k].runs;
        }
        vcpu_raise(m->vm->vcpu[i % 3], VCPU_EV_INTR); /* wakes no parked one */
        sched_yield();
        for (unsigned k = 0; k < 3; k++)
            assert_int_equal(m->guest[k].runs, runs[k]);
    }
    /* An unpark right after a park must leave it running. */
    vm_resume(m->vm);
    for (unsigned i = 0; i < 1500; i++) {
        vcpu_park(m->vm->vcpu[0]);
        vcpu_unpark(m->vm->vcpu[0]);
    }
    uint32_t taken = m->guest[0].taken;
    vcpu_raise(m->vm->vcpu[0], VCPU_EV_NMI);
    await(&m->guest[0].taken, taken + 1);
    end();
}

/* An event for a computing guest: whenever it is raised, before, during or between runs, run() returns for it. */
static void test_kick_not_lost(void **state)
{
    (void)state;
    make(1, spin);
    vcpu_raise(m->vm->vcpu[0], VCPU_EV_INTR); /* before there is an accelerator */
    assert_int_equal(vm_start(m->vm, &fake_accel), 0);
    vm_resume(m->vm);
    await(&m->guest[0].taken, 1);
    vm_pause(m->vm);
    vcpu_raise(m->vm->vcpu[0], VCPU_EV_NMI); /* parked */
    vm_resume(m->vm);
    await(&m->guest[0].taken, 2);
    assert_int_equal(m->vm->vcpu[0]->events & ALL_EVENTS, 0);
    for (uint32_t i = 0; i < 5000; i++) {
        uint32_t taken = m->guest[0].taken;
        vcpu_raise(m->vm->vcpu[0], VCPU_EV_INTR);
        uint64_t deadline = os_clock_ns() + 20 * NS_PER_S;
        while (m->guest[0].taken == taken) {
            assert_true(os_clock_ns() < deadline);
            sched_yield();
        }
    }
    end();
}

static void test_halt_wakes(void **state)
{
    (void)state;
    boot(1, halt);
    vm_resume(m->vm);
    for (uint32_t i = 0; i < 5000; i++) {
        uint32_t event = UINT32_C(1) << i % 8;
        if (!(event & ALL_EVENTS))
            continue;
        uint32_t taken = m->guest[0].taken;
        vcpu_raise(m->vm->vcpu[0], event);
        await(&m->guest[0].taken, taken + 1);
    }
    assert_int_equal(m->guest[0].seen, ALL_EVENTS);
    /* And between events it sleeps: run() is not called over and over. */
    uint32_t runs = m->guest[0].runs;
    for (int i = 0; i < 100; i++)
        sched_yield();
    assert_true(m->guest[0].runs - runs <= 1);
    end();
}

/* ---- the local APIC's deadline ---- */

static uint64_t fake_deadline(void *dev)
{
    struct guest *g = dev;
    return g->until;
}

static const struct intc_ops deadline_ops = {.deadline = fake_deadline};

static int halt_until(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    if (os_clock_ns() >= g->until) {
        atomic_fetch_add(&g->taken, 1);
        g->until = g->taken < 5 ? os_clock_ns() + 1000000 : NO_DEADLINE;
    }
    return halt(vcpu, g, out);
}

static void test_halt_deadline(void **state)
{
    (void)state;
    boot(1, halt_until);
    struct vcpu *vcpu = m->vm->vcpu[0];
    vcpu->intc = &deadline_ops;
    vcpu->intc_dev = &m->guest[0];
    m->guest[0].until = os_clock_ns() + 1000000;
    vm_resume(m->vm);
    await(&m->guest[0].taken, 5);
    assert_true(m->guest[0].runs < 50); /* slept in between */
    /* Nothing to wait for any more; a new, near deadline comes with its event. */
    vm_pause(m->vm);
    m->guest[0].until = os_clock_ns() + 500000;
    uint32_t taken = m->guest[0].taken;
    vm_resume(m->vm);
    await(&m->guest[0].taken, taken + 1);
    end();
}

/* ---- calls ---- */

static void called(struct vcpu *vcpu, void *arg)
{
    assert_true(pthread_equal(pthread_self(), vcpu->thread));
    assert_false(guest_of(vcpu)->inside);
    ++*(unsigned *)arg;
}

static void called_outer(struct vcpu *vcpu, void *arg)
{
    vcpu_call(vcpu, called, arg); /* from its own thread: at once */
    ++*(unsigned *)arg;
}

static void called_without_thread(struct vcpu *vcpu, void *arg)
{
    (void)vcpu;
    ++*(unsigned *)arg;
}

static void *caller_thread(void *arg)
{
    unsigned *n = arg;
    for (unsigned i = 0; i < 1000; i++)
        vcpu_call(m->vm->vcpu[0], called, n);
    return NULL;
}

static void test_calls(void **state)
{
    unsigned n = 0;
    (void)state;
    make(1, spin);
    vcpu_call(m->vm->vcpu[0], called_without_thread, &n);
    assert_int_equal(n, 1);
    assert_int_equal(vm_start(m->vm, &fake_accel), 0);
    for (unsigned i = 0; i < 200; i++)
        vcpu_call(m->vm->vcpu[0], called, &n);
    assert_int_equal(n, 201);
    assert_int_equal(m->guest[0].runs, 0); /* still parked */

    vm_resume(m->vm);
    for (unsigned i = 0; i < 1000; i++)
        vcpu_call(m->vm->vcpu[0], called, &n);
    vcpu_call(m->vm->vcpu[0], called_outer, &n);
    assert_int_equal(n, 1203);

    /* From several threads, while it is parked and let go. */
    unsigned counts[2] = {0};
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&t[i], NULL, caller_thread, &counts[i]), 0);
    for (int i = 0; i < 300; i++) {
        vm_pause(m->vm);
        vm_resume(m->vm);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(counts[i], 1000);
    }
    end();

    n = 0;
    boot(1, halt);
    vm_resume(m->vm);
    for (unsigned i = 0; i < 1000; i++)
        vcpu_call(m->vm->vcpu[0], called, &n); /* out of its sleep */
    assert_int_equal(n, 1000);
    end();
}

/* ---- the end of all ---- */

static int dead(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    halt(vcpu, g, out);
    *out = vcpu->id == 0 ? VCPU_EXIT_HALT_FOREVER : VCPU_EXIT_WAIT_SIPI;
    return 0;
}

static void test_halt_forever(void **state)
{
    (void)state;
    for (unsigned nvcpus = 1; nvcpus <= 3; nvcpus++) {
        boot(nvcpus, dead);
        vm_resume(m->vm);
        assert_int_equal(main_loop(), VM_HALT);
        /* A reset: the machine sets it going again, and it is noticed again. */
        vm_pause(m->vm);
        atomic_store(&m->vm->stop, VM_RUNNING);
        vm_resume(m->vm);
        assert_int_equal(main_loop(), VM_HALT);
        end();
    }
}

/* Not the end: somebody may still be woken by an interrupt, computes, or the bootstrap processor waits for a start. */
static void test_not_halted(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        boot(2, dead);
        if (i == 0)
            m->guest[1].fn = halt;
        else if (i == 1)
            m->guest[1].fn = spin;
        else
            m->vm->vcpu[0]->id = 2; /* makes `dead` take it for an application processor */
        m->guest[2].fn = dead;
        vm_resume(m->vm);
        for (uint32_t k = 1; k <= 50; k++) {
            for (int v = 0; v < 2; v++)
                vcpu_raise(m->vm->vcpu[v], VCPU_EV_INTR);
            loop_turn(m->vm->loop, 0);
            sched_yield();
        }
        vm_pause(m->vm);
        assert_int_equal(m->vm->stop, VM_RUNNING);
        if (i == 2)
            m->vm->vcpu[0]->id = 0;
        end();
    }
}

/*
 * All sleep for ever but for a token that each, woken by an NMI, hands on to
 * another before it sleeps again. As long as it travels, the VM is alive; when
 * the last one drops it, it is not.
 */
#define HOPS 20000

static int relay(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    atomic_exchange(&g->kicked, 0);
    if (atomic_fetch_and(&vcpu->events, ~(uint32_t)ALL_EVENTS) & VCPU_EV_NMI) {
        uint32_t hop = atomic_fetch_add(&m->token, 1);
        if (hop < HOPS)
            vcpu_raise(m->vm->vcpu[(vcpu->id + 1 + hop % (m->vm->nvcpus - 1)) % m->vm->nvcpus], VCPU_EV_NMI);
    }
    *out = vcpu->id == 0 || m->token % 2 ? VCPU_EXIT_HALT_FOREVER : VCPU_EXIT_WAIT_SIPI;
    return 0;
}

static void test_halt_race(void **state)
{
    (void)state;
    for (unsigned nvcpus = 2; nvcpus <= 4; nvcpus++) {
        boot(nvcpus, relay);
        vcpu_raise(m->vm->vcpu[1], VCPU_EV_NMI);
        vm_resume(m->vm);
        assert_int_equal(main_loop(), VM_HALT);
        assert_int_equal(m->token, HOPS + 1); /* not a moment earlier */
        end();
    }
}

static int triple(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    (void)vcpu, (void)g;
    *out = VCPU_EXIT_TRIPLE_FAULT;
    return 0;
}

static int debug(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    (void)vcpu, (void)g;
    *out = VCPU_EXIT_DEBUG;
    return 0;
}

static int fails(struct vcpu *vcpu, struct guest *g, enum vcpu_exit *out)
{
    (void)vcpu, (void)g;
    *out = VCPU_EXIT_HALT; /* not looked at */
    return -EIO;
}

static void test_fatal_exits(void **state)
{
    static const struct {
        guest_fn *fn;
        enum vm_stop why;
    } cases[] = {{triple, VM_TRIPLE_FAULT}, {debug, VM_ERROR}, {fails, VM_ERROR}};
    (void)state;
    quiet(true);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        boot(2, spin);
        m->guest[1].fn = cases[i].fn;
        vm_resume(m->vm);
        enum vm_stop why = main_loop();
        vcpu_wait_parked(m->vm->vcpu[1]);
        uint32_t runs = m->guest[1].runs;
        vm_pause(m->vm);
        assert_int_equal(why, cases[i].why);
        assert_int_equal(runs, 1);
        /* After a reset it runs as if nothing had been. */
        m->guest[1].fn = spin;
        atomic_store(&m->vm->stop, VM_RUNNING);
        vm_resume(m->vm);
        await(&m->guest[1].runs, 2);
        end();
    }
    quiet(false);
}

static void test_requests(void **state)
{
    (void)state;
    make(1, spin);
    vm_request(m->vm, VM_RESET);
    vm_request(m->vm, VM_POWEROFF);
    vm_request_exit(m->vm, 9);
    assert_int_equal(main_loop(), VM_RESET); /* the first one counts */
    assert_int_equal(m->vm->exit_status, 0);
    atomic_store(&m->vm->stop, VM_RUNNING);
    vm_request_exit(m->vm, 9);
    assert_int_equal(main_loop(), VM_EXIT_STATUS);
    assert_int_equal(m->vm->exit_status, 9);
    end();
}

static void mask_of(struct vcpu *vcpu, void *arg)
{
    (void)vcpu;
    pthread_sigmask(SIG_SETMASK, NULL, arg);
}

/* Signals to the process are the main thread's; a thread's own faults stay its own, or nobody restores the terminal. */
static void test_signals(void **state)
{
    static const int blocked[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGALRM, SIGWINCH, SIGUSR1, SIGPIPE};
    static const int open_[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t mask;
    (void)state;
    boot(1, spin);
    vcpu_call(m->vm->vcpu[0], mask_of, &mask);
    for (unsigned i = 0; i < ARRAY_LEN(blocked); i++)
        assert_int_equal(sigismember(&mask, blocked[i]), 1);
    for (unsigned i = 0; i < ARRAY_LEN(open_); i++)
        assert_int_equal(sigismember(&mask, open_[i]), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGTERM), 0); /* ours is as it was */
    end();
}

/* ---- accesses ---- */

static uint64_t io_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    return (0x8877665544332211 >> 8 * (off % 8)) & size_mask(size);
}

static uint64_t io_written;

static void io_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    (void)dev, (void)off, (void)size;
    io_written = val;
}

static const struct io_ops io = {.read = io_read, .write = io_write};

static void test_pio(void **state)
{
    (void)state;
    make(1, spin);
    struct vcpu *v = m->vm->vcpu[0];
    struct io_range r = {.base = 0x3f8, .len = 8, .ops = &io, .name = "ports"};
    assert_int_equal(bus_add(m->vm->pio, &r), 0);
    assert_int_equal(vcpu_pio_read(v, 0x3f8, 1), 0x11);
    assert_int_equal(vcpu_pio_read(v, 0x3f9, 1), 0x22);
    assert_int_equal(vcpu_pio_read(v, 0x3f8, 4), 0x44332211);
    assert_int_equal(vcpu_pio_read(v, 0x3f6, 4), 0x2211ffff);
    assert_int_equal(vcpu_pio_read(v, 0x80, 1), 0xff);
    assert_int_equal(vcpu_pio_read(v, 0xffff, 4), 0xffffffff);
    vcpu_pio_write(v, 0x3f8, 1, 0x12345678);
    assert_int_equal(io_written, 0x78);
    vcpu_pio_write(v, 0x80, 1, 1);
    assert_int_equal(m->vm->stop, VM_RUNNING);

    m->vm->strict_io = true;
    vcpu_pio_write(v, 0x3f8, 1, 5);
    assert_int_equal(m->vm->stop, VM_RUNNING);
    quiet(true);
    assert_int_equal(vcpu_pio_read(v, 0x81, 1), 0xff);
    quiet(false);
    assert_int_equal(m->vm->stop, VM_ERROR);
    end();
}

#define APIC UINT64_C(0xfee00000)

static bool apic_on;
static uint32_t apic_off, apic_val;
static unsigned apic_writes;

static bool apic_page(void *dev, uint64_t *base)
{
    (void)dev;
    *base = APIC;
    return apic_on;
}

static uint32_t apic_read(void *dev, uint32_t off)
{
    (void)dev;
    assert_int_equal(off % 4, 0);
    return 0xa1b2c300 + off / 4;
}

static void apic_write(void *dev, uint32_t off, uint32_t val)
{
    (void)dev;
    apic_off = off;
    apic_val = val;
    apic_writes++;
}

static const struct intc_ops apic_ops = {.page = apic_page, .mmio_read = apic_read, .mmio_write = apic_write};

static void test_apic_page(void **state)
{
    (void)state;
    make(1, spin);
    struct vcpu *v = m->vm->vcpu[0];
    struct io_range r = {.base = APIC, .len = 0x2000, .ops = &io, .name = "under it"};
    assert_int_equal(bus_add(m->vm->mmio, &r), 0);
    assert_int_equal(vcpu_mmio_read(v, APIC, 1), 0x11); /* no local APIC at all */
    v->intc = &apic_ops;
    assert_int_equal(vcpu_mmio_read(v, APIC, 1), 0x11); /* disabled */
    apic_on = true;
    assert_int_equal(vcpu_mmio_read(v, APIC + 0x20, 4), 0xa1b2c308);
    assert_int_equal(vcpu_mmio_read(v, APIC + 0x21, 1), 0xc3);
    assert_int_equal(vcpu_mmio_read(v, APIC + 0x22, 2), 0xa1b2);
    assert_int_equal(vcpu_mmio_read(v, APIC + 0x23, 4), 0xa1);
    assert_true(vcpu_mmio_read(v, APIC + 0x20, 8) == 0xa1b2c308);
    assert_true(vcpu_mmio_read(v, APIC + 0xfff, 8) == 0xa1);
    vcpu_mmio_write(v, APIC + 0xb0, 4, 0xdeadbeef);
    assert_int_equal(apic_off, 0xb0);
    assert_int_equal(apic_val, 0xdeadbeef);
    vcpu_mmio_write(v, APIC + 0x300, 8, 0x1122334455667788);
    assert_int_equal(apic_off, 0x300);
    assert_int_equal(apic_val, 0x55667788);
    assert_int_equal(apic_writes, 2);
    io_written = 77;
    vcpu_mmio_write(v, APIC + 0xb0, 1, 1);
    vcpu_mmio_write(v, APIC + 0xb0, 2, 1);
    vcpu_mmio_write(v, APIC + 0xb1, 4, 1);
    vcpu_mmio_write(v, APIC + 0xb4 + 2, 8, 1);
    assert_int_equal(apic_writes, 2);
    assert_int_equal(io_written, 77); /* nor does it reach what is below */
    assert_int_equal(vcpu_mmio_read(v, APIC + 0x1000, 4), 0x44332211);
    vcpu_mmio_write(v, APIC + 0x1000, 4, 3);
    assert_int_equal(io_written, 3);
    apic_on = false;
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),          cmocka_unit_test(test_arguments),    cmocka_unit_test(test_park_storm),
        cmocka_unit_test(test_kick_not_lost), cmocka_unit_test(test_halt_wakes),   cmocka_unit_test(test_halt_deadline),
        cmocka_unit_test(test_calls),         cmocka_unit_test(test_halt_forever), cmocka_unit_test(test_not_halted),
        cmocka_unit_test(test_halt_race),     cmocka_unit_test(test_fatal_exits),  cmocka_unit_test(test_requests),
        cmocka_unit_test(test_signals),       cmocka_unit_test(test_pio),          cmocka_unit_test(test_apic_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
