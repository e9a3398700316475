/*
 * A virtual CPU's thread: runs the guest, sleeps while it is halted, parks and
 * serves calls on request.
 *
 * Two ways lead to it. `events` is a word of bits that anybody may set at any
 * moment, signal handlers included; the thread polls it, the accelerator's kick
 * makes it do so, and a halted thread sleeps on the word itself. What others
 * want of the thread's life (park, run, end, call) stands under a mutex; STOP
 * and CALL events only say that it is worth a look.
 */
#include "core/vcpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/vm.h"
#include "os/clock.h"
#include "os/thread.h"
#include "os/wait.h"
#include "util/bytes.h"
#include "util/log.h"

/* A request to a disk in the page cache is done sooner than that. */
enum { HALT_SPIN_NS = 50000 };

enum vcpu_thread_state { VCPU_NO_THREAD, VCPU_PARKED, VCPU_RUNNING, VCPU_END };

struct vcpu_call_entry {
    struct vcpu_call_entry *next;
    void (*fn)(struct vcpu *, void *arg);
    void *arg;
    bool done;
};

/* vcpu->sleep: the low bits say how, the others count, so that a look twice tells if it was the same sleep. */
enum { SLEEP_NOT, SLEEP_HALTED, SLEEP_HALTED_FOREVER, SLEEP_WAIT_SIPI, SLEEP_KIND = 3, SLEEP_ONE = 4 };

void vcpu_raise(struct vcpu *vcpu, uint32_t events)
{
    const struct accel_ops *accel = vcpu->vm ? vcpu->vm->accel : NULL;

    atomic_fetch_or(&vcpu->events, events);
    /* One who comes before the accelerator has made its vCPU needs no kick: the thread kicks itself when it has. */
    if (accel && accel->kick && atomic_load(&vcpu->kickable))
        accel->kick(vcpu);
    /* The sleeper sets `sleep`, then looks at `events`; we do it the other way round, so one of us sees the other. */
    if (atomic_load(&vcpu->sleep) & SLEEP_KIND)
        os_wake_all(&vcpu->events);
}

/* ---- sleeping ---- */

static bool all_asleep(struct vm *vm, uint32_t *sleeps)
{
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        sleeps[i] = atomic_load(&vm->vcpu[i]->sleep);
        uint32_t kind = sleeps[i] & SLEEP_KIND;
        if (kind != SLEEP_HALTED_FOREVER && (kind != SLEEP_WAIT_SIPI || i == 0))
            return false;
    }
    return true;
}

/*
 * Is this the end: does every vCPU sleep where none but another vCPU could wake
 * it? Each asks when it has gone to such a sleep, so the last one sees all. One
 * look is not enough: a vCPU looked at first may have been woken by one looked
 * at last, before that went to sleep. But if a second look finds the same
 * sleeps, all slept in between, and nobody had cleared what was sent before:
 * it stood in `events` when those were looked at.
 */
static bool nobody_left(struct vm *vm)
{
    uint32_t before[VM_MAX_VCPUS], after[VM_MAX_VCPUS];

    if (!all_asleep(vm, before))
        return false;
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        if (atomic_load(&vm->vcpu[i]->events))
            return false;
    }
    return all_asleep(vm, after) && memcmp(before, after, vm->nvcpus * sizeof(before[0])) == 0;
}

static bool has_events(void *arg)
{
    struct vcpu *vcpu = arg;
    return atomic_load_explicit(&vcpu->events, memory_order_relaxed);
}

static void vcpu_sleep(struct vcpu *vcpu, uint32_t kind, uint64_t deadline)
{
    if (deadline != NO_DEADLINE && deadline <= os_clock_ns())
        return;
    /* Awake as yet, so that who raises an event soon needs no system call for it. */
    if (spin_until(&vcpu->halt_spin, deadline, has_events, vcpu))
        return;
    uint32_t count = (atomic_load(&vcpu->sleep) & ~(uint32_t)SLEEP_KIND) + SLEEP_ONE;
    atomic_store(&vcpu->sleep, count | kind);
    if (!atomic_load(&vcpu->events)) {
        if (kind != SLEEP_HALTED && nobody_left(vcpu->vm))
            vm_request(vcpu->vm, VM_HALT);
        os_wait(&vcpu->events, 0, deadline);
    }
    atomic_store(&vcpu->sleep, count | SLEEP_NOT);
    spin_slept(&vcpu->halt_spin);
}

/* ---- the thread ---- */

static void serve_calls(struct vcpu *vcpu)
{
    while (vcpu->calls) {
        struct vcpu_call_entry *call = vcpu->calls;
        vcpu->calls = call->next;
        pthread_mutex_unlock(&vcpu->lock);
        call->fn(vcpu, call->arg);
        pthread_mutex_lock(&vcpu->lock);
        call->done = true;
        pthread_cond_broadcast(&vcpu->changed);
    }
}

/* Does what STOP and CALL events are about. False: the thread ends. */
static bool serve_requests(struct vcpu *vcpu)
{
    /* Cleared before the look: what comes later sets them anew. */
    atomic_fetch_and(&vcpu->events, ~(uint32_t)(VCPU_EV_STOP | VCPU_EV_CALL));
    pthread_mutex_lock(&vcpu->lock);
    for (;;) {
        serve_calls(vcpu);
        if (vcpu->want != VCPU_PARKED)
            break;
        if (vcpu->state != VCPU_PARKED) {
            vcpu->state = VCPU_PARKED;
            pthread_cond_broadcast(&vcpu->changed);
        }
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    }
    bool go_on = vcpu->want == VCPU_RUNNING;
    pthread_mutex_unlock(&vcpu->lock);
    return go_on;
}

/* The guest has come to its end: the machine decides how it goes on. */
static void end_of_run(struct vcpu *vcpu, enum vm_stop why)
{
    vm_request(vcpu->vm, why);
    vcpu_park(vcpu);
}

static void run_once(struct vcpu *vcpu)
{
    enum vcpu_exit why = VCPU_EXIT_ERROR;
    int error = vcpu->vm->accel->run(vcpu, &why);

    if (error) {
        log_error("vCPU %u: the accelerator \"%s\" failed: %s", vcpu->id, vcpu->vm->accel->name, strerror(-error));
        why = VCPU_EXIT_ERROR;
    }
    vcpu->last_exit = why;
    switch (why) {
    case VCPU_EXIT_KICKED: return;
    case VCPU_EXIT_HALT:
        vcpu_sleep(vcpu, SLEEP_HALTED, vcpu->intc ? vcpu->intc->deadline(vcpu->intc_dev) : NO_DEADLINE);
        return;
    case VCPU_EXIT_HALT_FOREVER: vcpu_sleep(vcpu, SLEEP_HALTED_FOREVER, NO_DEADLINE); return;
    case VCPU_EXIT_WAIT_SIPI: vcpu_sleep(vcpu, SLEEP_WAIT_SIPI, NO_DEADLINE); return;
    case VCPU_EXIT_TRIPLE_FAULT: end_of_run(vcpu, VM_TRIPLE_FAULT); return;
    case VCPU_EXIT_DEBUG:
        log_error("vCPU %u: stopped for a debugger, and none is there", vcpu->id);
        end_of_run(vcpu, VM_ERROR);
        return;
    case VCPU_EXIT_ERROR: end_of_run(vcpu, VM_ERROR); return;
    }
    log_error("vCPU %u: unknown exit %d from the accelerator", vcpu->id, (int)why);
    end_of_run(vcpu, VM_ERROR);
}

static int thread_init(struct vcpu *vcpu)
{
    const struct accel_ops *accel = vcpu->vm->accel;

    if (vcpu->host_cpu >= 0) {
        int error = os_thread_pin(vcpu->host_cpu);
        if (error) {
            log_error("vCPU %u cannot be pinned to host CPU %d: %s", vcpu->id, vcpu->host_cpu, strerror(-error));
            return error;
        }
    }
    int error = accel->vcpu_init ? accel->vcpu_init(vcpu) : 0;
    if (!error) {
        atomic_store(&vcpu->kickable, true);
        if (accel->kick)
            accel->kick(vcpu);
    }
    return error;
}

static void *thread_main(void *arg)
{
    struct vcpu *vcpu = arg;
    int error = thread_init(vcpu);

    pthread_mutex_lock(&vcpu->lock);
    vcpu->init_error = error;
    vcpu->state = error ? VCPU_END : VCPU_PARKED;
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
    if (error)
        return NULL;

    while (!(atomic_load(&vcpu->events) & (VCPU_EV_STOP | VCPU_EV_CALL)) || serve_requests(vcpu))
        run_once(vcpu);

    atomic_store(&vcpu->kickable, false);
    if (vcpu->vm->accel->vcpu_fini)
        vcpu->vm->accel->vcpu_fini(vcpu);
    return NULL;
}

/* ---- the thread, seen by others ---- */

void vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned id)
{
    memset(vcpu, 0, sizeof(*vcpu));
    vcpu->vm = vm;
    vcpu->id = id;
    vcpu->apic_id = id;
    vcpu->host_cpu = -1;
    vcpu->halt_spin.most = HALT_SPIN_NS;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->changed, NULL);
}

void vcpu_fini(struct vcpu *vcpu)
{
    pthread_cond_destroy(&vcpu->changed);
    pthread_mutex_destroy(&vcpu->lock);
}

int vcpu_start(struct vcpu *vcpu)
{
    char name[16];
    snprintf(name, sizeof(name), "vcpu%u", vcpu->id);

    vcpu->want = VCPU_PARKED;
    atomic_fetch_or(&vcpu->events, VCPU_EV_STOP); /* so it looks before its first run */
    /* Held until the thread's identity is written down, which the thread itself asks for. */
    pthread_mutex_lock(&vcpu->lock);
    int error = os_thread_new(&vcpu->thread, name, thread_main, vcpu);
    if (error) {
        pthread_mutex_unlock(&vcpu->lock);
        return error;
    }
    while (vcpu->state == VCPU_NO_THREAD)
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    error = vcpu->init_error;
    pthread_mutex_unlock(&vcpu->lock);
    if (error) {
        pthread_join(vcpu->thread, NULL);
        vcpu->state = VCPU_NO_THREAD;
    }
    return error;
}

void vcpu_park(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->want == VCPU_RUNNING)
        vcpu->want = VCPU_PARKED;
    pthread_mutex_unlock(&vcpu->lock);
    vcpu_raise(vcpu, VCPU_EV_STOP);
}

void vcpu_unpark(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->want == VCPU_PARKED) {
        vcpu->want = VCPU_RUNNING;
        /* From now on it counts as running: a wait that follows must not mistake it for still parked. */
        vcpu->state = VCPU_RUNNING;
        pthread_cond_broadcast(&vcpu->changed);
    }
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_wait_parked(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    while (vcpu->state == VCPU_RUNNING)
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_join(struct vcpu *vcpu)
{
    if (vcpu->state == VCPU_NO_THREAD)
        return;
    /* Parked first, so that the last kick is over before accel->vcpu_fini takes away what it kicks. */
    vcpu_park(vcpu);
    vcpu_wait_parked(vcpu);
    pthread_mutex_lock(&vcpu->lock);
    vcpu->want = VCPU_END;
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
    pthread_join(vcpu->thread, NULL);
    vcpu->state = VCPU_NO_THREAD;
}

void vcpu_call(struct vcpu *vcpu, void (*fn)(struct vcpu *, void *arg), void *arg)
{
    struct vcpu_call_entry call = {.fn = fn, .arg = arg};

    pthread_mutex_lock(&vcpu->lock);
    if (vcpu->state == VCPU_NO_THREAD || pthread_equal(pthread_self(), vcpu->thread)) {
        pthread_mutex_unlock(&vcpu->lock);
        fn(vcpu, arg);
        return;
    }
    struct vcpu_call_entry **last = &vcpu->calls;
    while (*last)
        last = &(*last)->next;
    *last = &call;
    pthread_cond_broadcast(&vcpu->changed); /* it may be parked ... */
    pthread_mutex_unlock(&vcpu->lock);
    vcpu_raise(vcpu, VCPU_EV_CALL); /* ... or not */

    pthread_mutex_lock(&vcpu->lock);
    while (!call.done)
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    pthread_mutex_unlock(&vcpu->lock);
}

/* ---- the guest's accesses ---- */

/* With -e an access that nobody answers ends the VM; without, it is what reads as ones. */
static void check_port(struct vcpu *vcpu, uint16_t port, unsigned size, const char *what)
{
    struct vm *vm = vcpu->vm;

    if (!vm->strict_io || bus_claims(vm->pio, port))
        return;
    if (atomic_load(&vm->stop) == VM_RUNNING)
        log_error("vCPU %u: %u-byte %s port 0x%x, which no device claims (-e ends the VM here)", vcpu->id, size, what,
                  port);
    vm_request(vm, VM_ERROR);
}

uint32_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    check_port(vcpu, port, size, "read of");
    return (uint32_t)bus_read(vcpu->vm->pio, port, size);
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint32_t val)
{
    check_port(vcpu, port, size, "write to");
    bus_write(vcpu->vm->pio, port, size, val);
}

static bool in_apic_page(struct vcpu *vcpu, uint64_t gpa, uint32_t *off)
{
    uint64_t base;

    if (!vcpu->intc || !vcpu->intc->page || !vcpu->intc->page(vcpu->intc_dev, &base) || gpa - base >= MEM_PAGE)
        return false;
    *off = (uint32_t)(gpa - base);
    return true;
}

uint64_t vcpu_mmio_read(struct vcpu *vcpu, uint64_t gpa, unsigned size)
{
    uint32_t off;

    if (in_apic_page(vcpu, gpa, &off)) {
        uint32_t val = vcpu->intc->mmio_read(vcpu->intc_dev, off & ~UINT32_C(3));
        return (val >> (8 * (off & 3))) & size_mask(size);
    }
    return bus_read(vcpu->vm->mmio, gpa, size);
}

void vcpu_mmio_write(struct vcpu *vcpu, uint64_t gpa, unsigned size, uint64_t val)
{
    uint32_t off;

    if (in_apic_page(vcpu, gpa, &off)) {
        if (size >= 4 && off % 4 == 0)
            vcpu->intc->mmio_write(vcpu->intc_dev, off, (uint32_t)val);
        return;
    }
    bus_write(vcpu->vm->mmio, gpa, size, val);
}
