/*
 * Is this KVM one that runs guests? Some make VMs, take every register and
 * then crawl, or fail at an instruction that every kernel has. So a tiny guest
 * (probe_guest.S) shows it, in a child process that does not outlive 200 ms.
 *
 * These are ms of the child's CPU time: on a busy machine a good KVM must not
 * fail for want of a processor. One that sleeps instead of working has longer.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "accel/kvm/kvm.h"
#include "accel/kvm/priv.h"
#include "accel/kvm/probe_guest.h"
#include "os/clock.h"
#include "util/bytes.h"

#define LIMIT_MS 200   /* of CPU time */
#define ASLEEP_MS 2000 /* of time */
#define REAP_MS 1000
#define SLOWEST 10 /* times slower than the host: no longer good enough */

static const char *const stages[] = {
    "entering the guest", "SSE", "CMPXCHG16B", "CPL 3 and back", "a timer interrupt", "a loop",
};

/* What parent and child share. */
struct trial {
    _Atomic unsigned stage; /* the last one passed: GUEST_LONG_MODE, ...; index of the next one in stages[] */
    _Atomic int verdict;    /* 1: not yet; 0 or -errno */
    char why[256];
};

/* ---- the guest's world ---- */

static void put_gate(uint8_t *idt, unsigned vector, const uint8_t *handler, unsigned dpl)
{
    uint64_t address = GUEST_CODE + (uint64_t)(handler - probe_guest);
    uint8_t *gate = idt + 16 * vector;
    put_le16(gate, (uint16_t)address);
    put_le16(gate + 2, GUEST_CS);
    gate[4] = 0;
    gate[5] = (uint8_t)(0x8e | dpl << 5); /* present, interrupt gate */
    put_le16(gate + 6, (uint16_t)(address >> 16));
    put_le64(gate + 8, address >> 32);
}

static void build_world(uint8_t *ram)
{
    probe_world_build(ram, probe_guest, (size_t)(probe_guest_end - probe_guest));
    put_le64(ram + GUEST_PDPT + 8 * (GUEST_APIC >> 30), GUEST_APIC_PD | PTE_P | PTE_W | PTE_U);
    put_le64(ram + GUEST_APIC_PD + 8 * (GUEST_APIC >> 21 & 511), GUEST_APIC | PTE_P | PTE_W | PTE_PCD | PTE_PS);

    for (unsigned v = 0; v < 32; v++)
        put_gate(ram + GUEST_IDT, v, probe_guest_fault, 0);
    put_gate(ram + GUEST_IDT, GUEST_TIMER_VECTOR, probe_guest_timer, 0);
    put_gate(ram + GUEST_IDT, GUEST_CALL_VECTOR, probe_guest_call, 3);
}

/* ---- running it ---- */

static uint64_t host_loop(void)
{
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < GUEST_LOOPS; i++) {
        uint32_t turns = GUEST_TURNS;
        uint64_t start = os_clock_ns();
        __asm__ volatile("1: decl %0\n\tjnz 1b" : "+r"(turns) : : "cc");
        uint64_t took = os_clock_ns() - start;
        best = took < best ? took : best;
    }
    return best;
}

/* Serves the guest until it is done or fails. *best: its fastest loop, in ns. */
static int watch(struct kvm_vcpu *kv, _Atomic unsigned *stage, uint64_t *best, char *why, size_t n)
{
    const struct kvm_run *run = kv->run;
    uint64_t start = 0;

    *best = UINT64_MAX;
    for (;;) {
        kv->run->immediate_exit = 0;
        int err = kvm_enter(kv);
        const char *at = stages[atomic_load(stage) < ARRAY_LEN(stages) ? atomic_load(stage) : 0];
        if (err == -EINTR || err == -EAGAIN)
            continue;
        if (err) {
            snprintf(why, n, "the trial guest failed at %s: KVM_RUN: %s", at, strerror(-err));
            return err;
        }
        if (run->exit_reason != KVM_EXIT_IO || run->io.port != GUEST_PORT || run->io.direction != KVM_EXIT_IO_OUT) {
            snprintf(why, n, "the trial guest failed at %s: exit %u (%s)", at, run->exit_reason,
                     kvm_exit_name(run->exit_reason));
            return -EIO;
        }
        uint64_t now = os_clock_ns();
        unsigned told = *((const uint8_t *)run + run->io.data_offset);
        switch (told) {
        case GUEST_LOOP_BEGINS: start = os_clock_ns(); break;
        case GUEST_LOOP_ENDS: *best = now - start < *best ? now - start : *best; break;
        case GUEST_DONE: return 0;
        case GUEST_WRONG:
        case GUEST_FAULT:
            snprintf(why, n, "the trial guest failed at %s: %s", at,
                     told == GUEST_FAULT ? "an exception" : "a wrong result");
            return -EIO;
        default: atomic_store(stage, told);
        }
    }
}

static int run_guest(struct vm *vm, _Atomic unsigned *stage, char *why, size_t n)
{
    struct vcpu *vcpu = vm->vcpu[0];
    struct cpuid_table table;
    uint32_t offered[CPUID_WORDS];
    struct x86_state state;
    uint8_t lapic[ACCEL_LAPIC_PAGE];
    uint64_t base, guest;

    kvm_offered(vm, offered);
    if (cpuid_build(&table, NULL, offered, NULL, vm->tsc_hz, NS_PER_S, why, n))
        return -EINVAL;
    vm->cpuid = &table;
    build_world(vm->mem.region[0].host);
    probe_world_state(&state);
    state.idtr.limit = GUEST_IDT_LIMIT;
    int err = kvm_set_cpuid(vcpu, &table);
    if (!err)
        err = kvm_set_state(vcpu, &state);
    if (!err) /* all that a machine does before its first entry */
        err = kvm_get_lapic(vcpu, &base, lapic);
    if (!err)
        err = kvm_set_lapic(vcpu, base, lapic);
    if (err) {
        snprintf(why, n, "KVM does not take the state of a vCPU: %s", strerror(-err));
        return err;
    }
    err = watch(vcpu->accel, stage, &guest, why, n);
    if (err)
        return err;
    uint64_t host = host_loop();
    if (guest > host * SLOWEST) {
        snprintf(why, n,
                 "it runs guests %llu times slower than the host, so it does not use the processor's virtualisation",
                 (unsigned long long)(guest / (host ? host : 1)));
        return -EIO;
    }
    return 0;
}

static int trial(const struct kvm_sys *sys, _Atomic unsigned *stage, char *why, size_t n)
{
    struct vm *vm;
    struct mem_options options = {0};
    int err = vm_new(&vm, "trial", 1, GUEST_RAM, &options);
    if (err) {
        snprintf(why, n, "no memory for a trial guest: %s", strerror(-err));
        return err;
    }
    err = kvm_vm_open_through(sys, vm, NULL, why, n);
    if (!err) {
        err = accel_kvm.vm_init(vm);
        if (!err)
            err = accel_kvm.vcpu_init(vm->vcpu[0]);
        if (err)
            snprintf(why, n, "KVM cannot make a vCPU: %s", strerror(-err));
    }
    if (!err) {
        if (vm->irqchip == IRQCHIP_USER) {
            snprintf(why, n, "this kernel's KVM has no local APIC");
            err = -EOPNOTSUPP;
        } else {
            err = run_guest(vm, stage, why, n);
        }
        accel_kvm.vcpu_fini(vm->vcpu[0]);
    }
    accel_kvm.vm_close(vm);
    vm_free(vm);
    return err;
}

int kvm_trial(const struct kvm_sys *sys, char *why, size_t n)
{
    _Atomic unsigned stage = 0;
    return trial(sys, &stage, why, n);
}

/* ---- the child ---- */

static void child(struct trial *t)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC); /* the verdict is all that is to be heard of it */
    if (quiet >= 0)
        dup2(quiet, STDERR_FILENO);
    int err = trial(&kvm_sys_host, &t->stage, t->why, sizeof(t->why));
    atomic_store(&t->verdict, err);
    _exit(0);
}

/* True once the other end of the pipe, which is the child's, has closed. */
static bool ended(int fd, uint64_t until)
{
    for (;;) {
        uint64_t now = os_clock_ns();
        struct pollfd p = {.fd = fd};
        int r = poll(&p, 1, now < until ? (int)((until - now + 999999) / 1000000) : 0);
        if (r > 0)
            return true;
        if (r == 0 || errno != EINTR)
            return false;
    }
}

static uint64_t cpu_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec ts;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ts))
        return UINT64_MAX;
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* True: the child has come to its end in time. */
static bool wait_for(pid_t pid, int fd)
{
    const uint64_t ms = 1000000;
    uint64_t used = 0, last = os_clock_ns() + ASLEEP_MS * ms;
    for (;;) {
        uint64_t now = os_clock_ns(), next = now + LIMIT_MS * ms - used;
        if (ended(fd, next < last ? next : last))
            return true;
        used = cpu_ns(pid);
        if (used >= LIMIT_MS * ms || os_clock_ns() >= last)
            return false;
    }
}

static int judge(const struct trial *t, bool in_time, char *why, size_t n)
{
    int verdict = atomic_load(&t->verdict);
    unsigned stage = atomic_load(&t->stage);
    const char *at = stages[stage < ARRAY_LEN(stages) ? stage : 0];
    if (verdict <= 0) {
        snprintf(why, n, "%s", t->why);
        return verdict;
    }
    if (in_time)
        snprintf(why, n, "the trial of /dev/kvm died at %s", at);
    else
        snprintf(why, n, "/dev/kvm makes a VM, but its trial guest was still at %s after %u ms of work", at, LIMIT_MS);
    return -EIO;
}

int kvm_probe(char *why, size_t n)
{
    int pipe_fd[2];
    if (n)
        why[0] = '\0';
    /* What needs no trial: a device that cannot be opened. */
    int dev = kvm_dev_open(&kvm_sys_host, why, n);
    if (dev < 0)
        return dev;
    close(dev);

    struct trial *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (t == MAP_FAILED || pipe2(pipe_fd, O_CLOEXEC) < 0) {
        int err = -errno;
        snprintf(why, n, "no trial of /dev/kvm: %s", strerror(-err));
        if (t != MAP_FAILED)
            munmap(t, sizeof(*t));
        return err;
    }
    atomic_init(&t->verdict, 1);
    pid_t pid = fork();
    if (pid == 0)
        child(t);
    close(pipe_fd[1]);
    int err = pid < 0 ? -errno : 0;
    if (err) {
        snprintf(why, n, "no trial of /dev/kvm: %s", strerror(-err));
    } else {
        bool in_time = wait_for(pid, pipe_fd[0]);
        kill(pid, SIGKILL);
        /* One that a kernel does not let die is left to it. */
        bool gone = ended(pipe_fd[0], os_clock_ns() + REAP_MS * UINT64_C(1000000));
        (void)waitpid(pid, NULL, gone ? 0 : WNOHANG);
        err = judge(t, in_time, why, n);
    }
    close(pipe_fd[0]);
    munmap(t, sizeof(*t));
    return err;
}
