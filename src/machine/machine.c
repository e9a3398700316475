/*
 * Set-up in an order that matters: everything is opened and every thread made
 * before the sandbox closes; the sandbox closes before the first guest
 * instruction. Then one loop: run, stop, and serve the reason.
 */
#include "machine/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/table.h"
#include "machine/devices.h"
#include "machine/firmware.h"
#include "machine/pc.h"
#include "os/clock.h"
#include "os/power.h"
#include "os/sandbox.h"
#include "os/signals.h"
#include "os/tty.h"
#include "util/bytes.h"
#include "util/log.h"
#include "x86/cpuid.h"

struct machine {
    const struct vm_config *config;
    const struct accel_ops *accel; /* NULL: not opened */
    struct vm *vm;
    struct pc *pc;
    struct firmware firmware;
    bool files_open;
    struct cpuid_table cpuid;
    struct x86_state bsp;
    int vcpu_error;         /* what a call of a vCPU came to */
    uint64_t term_ns;       /* when the first SIGTERM came; 0: none yet */
    bool quit;              /* a signal asked for the end, whatever else goes on */
    int pid_file_fd;        /* -1: none */
    struct os_power *power; /* NULL: the host tells nobody when it has slept */
    char *accel_options;
    char why[512];
};

/*
 * Bounds on what comes between the guest and its end, over those that devices
 * have (machine/devices.c): until it runs again after a reset, and until the
 * process is gone.
 */
enum { RESTART_S = 90, END_S = 60 };

static int error_status(const struct vm_config *c) { return c->bhyve_exit_codes ? 4 : 1; }

/* -- accelerator -- */

static const struct accel_ops *choose_accel(const struct vm_config *c)
{
    char reason[256];
    if (strcmp(c->accel, "auto") != 0) {
        const struct accel_ops *accel = accel_find(c->accel);
        const char *why = accel ? NULL : accel_absent(c->accel);
        if (why)
            log_error("-a %s: not in this build: %s; -a soft runs everywhere", c->accel, why);
        else if (!accel)
            log_error("-a %s: expected auto or an accelerator of this build: xhyve -v lists them", c->accel);
        return accel;
    }
    for (const struct accel_ops *const *a = accel_table; *a; a++) {
        if ((*a)->probe(reason, sizeof(reason)) == 0)
            return *a;
        log_warn("%s: %s; trying the next accelerator", (*a)->name, reason);
    }
    log_error("no accelerator works here: see xhyve -v");
    return NULL;
}

void machine_print_version(void)
{
    char reason[256];
    printf("xhyve %s\n", XHYVE_VERSION);
    printf("kernel payloads:"
#ifdef HAVE_ZLIB
           " gzip"
#endif
#ifdef HAVE_LZMA
           " xz"
#endif
#ifdef HAVE_LZ4
           " lz4"
#endif
#ifdef HAVE_ZSTD
           " zstd"
#endif
           "\n"
           "disks: raw"
#ifdef HAVE_LIBURING
           " io_uring"
#endif
#ifdef HAVE_LIBNBD
           " nbd"
#endif
           "\n");
    for (const struct accel_ops *const *a = accel_table; *a; a++) {
        int err = (*a)->probe(reason, sizeof(reason));
        printf("accelerator %s: %s%s\n", (*a)->name, err ? "no: " : "works", err ? reason : "");
    }
}

/* -- the pid file -- */

static int write_pid_file(struct machine *m)
{
    const char *path = m->config->pid_file;
    char text[32];
    if (!path)
        return 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        snprintf(m->why, sizeof(m->why), "-F %s: %s", path,
                 errno == EEXIST ? "the file exists already; remove it if no xhyve with this pid file runs"
                                 : strerror(errno));
        return -errno;
    }
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    m->pid_file_fd = fd;
    if (write(fd, text, (size_t)n) != n) {
        snprintf(m->why, sizeof(m->why), "-F %s: cannot be written: %s", path, strerror(errno));
        return -EIO;
    }
    return 0;
}

/* -- signals -- */

/*
 * SIGTERM presses the power button, if the guest's system listens to it. One
 * that comes later than the grace time ends the VM; so do the other signals, but
 * for a SIGHUP from somebody whose disks have grown.
 */
#define TERM_GRACE_NS (3 * NS_PER_S)
static void on_signal(void *arg, int signal, bool hangup)
{
    struct machine *m = arg;
    if (signal == SIGWINCH) {
        if (m->pc)
            devices_window_changed(m->pc);
        return;
    }
    if (signal == SIGHUP && !hangup) {
        if (m->pc)
            pc_refresh_disks(m->pc);
        return;
    }
    if (signal == SIGTERM) {
        if (!m->term_ns)
            m->term_ns = os_clock_ns();
        if (os_clock_ns() - m->term_ns < TERM_GRACE_NS && pc_power_button(m->pc))
            return;
    }
    m->quit = true;
    vm_request(m->vm, VM_POWEROFF);
}

/* -- set-up -- */

static void set_initial_state(struct vcpu *vcpu, void *arg)
{
    struct machine *m = arg;
    struct x86_state ap;
    const struct x86_state *s = &m->bsp;
    if (vcpu->id != 0) {
        x86_state_reset(&ap, false);
        ap.tsc_at_ns = m->bsp.tsc_at_ns;
        s = &ap;
    }
    int err = pc_set_lapic(m->pc, vcpu);
    if (!err)
        err = vcpu->vm->accel->set_state(vcpu, s);
    if (err)
        m->vcpu_error = err; /* one after the other: calls */
}

static void set_cpuid(struct vcpu *vcpu, void *arg)
{
    struct machine *m = arg;
    int err = vcpu->vm->accel->set_cpuid(vcpu, &m->cpuid);
    if (err)
        m->vcpu_error = err;
}

static int failed(struct machine *m, const char *what, int err)
{
    if (err && !m->why[0])
        snprintf(m->why, sizeof(m->why), "accelerator %s: %s: %s", m->accel->name, what, strerror(-err));
    return err;
}

/* Memory and processors as the firmware would leave them. vCPUs parked. */
static int load(struct machine *m)
{
    x86_state_reset(&m->bsp, true);
    int err = firmware_load(&m->firmware, m->pc, &m->bsp, m->why, sizeof(m->why));
    if (err)
        return err;
    m->bsp.tsc = 0;
    m->bsp.tsc_at_ns = os_clock_ns(); /* one moment for all: their TSCs agree */
    for (unsigned i = 0; i < m->vm->nvcpus; i++)
        vcpu_call(m->vm->vcpu[i], set_initial_state, m);
    return failed(m, "a vCPU's state", m->vcpu_error);
}

static int build_cpuid(struct machine *m, const struct accel_ops *accel)
{
    const struct vm_config *c = m->config;
    struct cpuid_topology topology = {c->cpus, c->sockets, c->cores, c->threads};
    uint32_t offered[CPUID_WORDS] = {0};
    char reason[256];
    accel->offered(m->vm, offered);
    int err = cpuid_build(&m->cpuid, c->cpu_model, offered, &topology, m->vm->tsc_hz, LAPIC_TIMER_HZ, reason,
                          sizeof(reason));
    if (err)
        snprintf(m->why, sizeof(m->why), "-o cpu=%s: %s", c->cpu_model ? c->cpu_model : "max", reason);
    return err;
}

static int set_accel_options(struct machine *m, const struct accel_ops *accel)
{
    const struct vm_config *c = m->config;
    if (c->jit && !accel->translates) {
        snprintf(m->why, sizeof(m->why), "-o %s: the accelerator %s has no translator; -a soft does", c->jit,
                 accel->name);
        return -EINVAL;
    }
    if (!c->jit && !c->stats)
        return 0;
    if (asprintf(&m->accel_options, "%s%s%s", c->jit ? c->jit : "", c->jit && c->stats ? "," : "",
                 c->stats ? "stats=exit" : "") < 0) {
        m->accel_options = NULL;
        snprintf(m->why, sizeof(m->why), "out of memory");
        return -ENOMEM;
    }
    m->vm->accel_options = m->accel_options;
    return 0;
}

static int build_vm(struct machine *m, const struct accel_ops *accel)
{
    const struct vm_config *c = m->config;
    struct mem_options mem = {.wired = c->mem_wired, .core_dump = c->mem_in_core};

    int err = vm_new(&m->vm, c->name, c->cpus, c->mem_size, &mem);
    if (err) {
        char size[32];
        snprintf(m->why, sizeof(m->why), "-m: the host cannot give %s of memory%s: %s",
                 config_size(c->mem_size, size, sizeof(size)), c->mem_wired ? " and wire it (-S)" : "",
                 err == -EINVAL ? "it is too much" : strerror(-err));
        return err;
    }
    struct vm *vm = m->vm;
    vm->ignore_unknown_msrs = !c->strict_msr;
    vm->strict_io = c->strict_io;
    vm->exit_on_hlt = c->exit_on_hlt;
    vm->exit_on_pause = c->exit_on_pause;
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vm->vcpu[i]->host_cpu = c->pin[i];
    vm->tsc_hz = accel->tsc_hz;
    err = set_accel_options(m, accel);
    if (err)
        return err;
    if (accel->vm_open) {
        err = accel->vm_open(vm, c->irqchip, m->why, sizeof(m->why));
    } else if (c->irqchip && strcmp(c->irqchip, "user") != 0) {
        snprintf(m->why, sizeof(m->why), "-o irqchip=%s: the accelerator %s has user only", c->irqchip, accel->name);
        err = -EINVAL;
    }
    if (err)
        return err;
    m->accel = accel;
    err = build_cpuid(m, accel);
    if (err)
        return err;
    vm->cpuid = &m->cpuid;
    err = signals_watch(vm->loop, on_signal, m);
    if (err) {
        snprintf(m->why, sizeof(m->why), "signals: %s", strerror(-err));
        return err;
    }
    signals_guard_terminal();
    err = pc_new(&m->pc, vm, c, m->why, sizeof(m->why));
    if (err)
        return err;
    err = failed(m, "the VM cannot be started", vm_start(vm, accel));
    for (unsigned i = 0; i < vm->nvcpus && !err; i++)
        vcpu_call(vm->vcpu[i], set_cpuid, m);
    if (!err)
        err = failed(m, "CPUID", m->vcpu_error);
    return err ? err : failed(m, "interrupt controllers", pc_started(m->pc));
}

static int set_up(struct machine *m)
{
    const struct accel_ops *accel = choose_accel(m->config);
    if (!accel)
        return -ENODEV; /* said already */
    int err = firmware_open(&m->firmware, m->config, m->why, sizeof(m->why));
    m->files_open = !err;
    if (!err)
        err = build_vm(m, accel);
    if (!err)
        err = load(m);
    if (!err)
        err = write_pid_file(m);
    return err;
}

static void remove_pid_file(struct machine *m)
{
    if (m->pid_file_fd < 0)
        return;
    close(m->pid_file_fd);
    unlink(m->config->pid_file);
}

static void tear_down(struct machine *m)
{
    signals_deadline(END_S);
    if (pc_stop(m->pc)) { /* what a device writes to, and its thread runs on, cannot be taken away */
        pc_abandon(m->pc);
        remove_pid_file(m);
        tty_restore();
        _exit(error_status(m->config));
    }
    os_power_end(m->power);
    if (m->vm)
        vm_join(m->vm);
    if (m->accel && m->accel->vm_close)
        m->accel->vm_close(m->vm);
    pc_free(m->pc);
    vm_free(m->vm);
    if (m->files_open)
        firmware_close(&m->firmware);
    remove_pid_file(m);
}

/* -- running -- */

static int restart(struct machine *m)
{
    int err = pc_reset(m->pc, &m->quit);
    if (err)
        return err;
    mem_zero(&m->vm->mem);
    for (unsigned i = 0; i < m->vm->nvcpus; i++)
        atomic_store(&m->vm->vcpu[i]->events, 0);
    m->term_ns = 0;
    err = load(m);
    if (err)
        log_error("the guest cannot be restarted: %s", m->why);
    return err;
}

/* Until the guest has ended; returns why. */
static enum vm_stop run(struct machine *m)
{
    for (;;) {
        vm_resume(m->vm);
        int err = loop_run(m->vm->loop);
        signals_deadline(RESTART_S);
        vm_pause(m->vm);
        if (err) {
            log_error("event loop: %s", strerror(-err));
            return VM_ERROR;
        }
        enum vm_stop why = (enum vm_stop)atomic_load(&m->vm->stop);
        bool again = (why == VM_RESET && !m->config->reboot_exits) ||
                     (why == VM_TRIPLE_FAULT && m->config->triple_fault_resets);
        if (!again)
            return why;
        if (m->quit) /* came while the guest was already on its way into a reset */
            return VM_POWEROFF;
        if (restart(m))
            return m->quit ? VM_POWEROFF : VM_ERROR;
        signals_deadline(0);
        atomic_store(&m->vm->stop, VM_RUNNING);
    }
}

static int exit_status(const struct machine *m, enum vm_stop why)
{
    static const struct {
        enum vm_stop why;
        int ours, bhyve;
    } table[] = {
        {VM_POWEROFF, 0, 1}, {VM_ERROR, 1, 4}, {VM_RESET, 2, 0}, {VM_TRIPLE_FAULT, 3, 3}, {VM_HALT, 4, 2},
    };
    if (why == VM_EXIT_STATUS)
        return atomic_load(&m->vm->exit_status);
    for (unsigned i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].why == why)
            return m->config->bhyve_exit_codes ? table[i].bhyve : table[i].ours;
    return 1;
}

/* The host has slept, and its clock has gone on: processors that sleep towards a deadline look at it again. */
static void woke(void *arg)
{
    struct machine *m = arg;
    log_info("the host has slept: the guest's clocks go on");
    for (unsigned i = 0; i < m->vm->nvcpus; i++)
        vcpu_raise(m->vm->vcpu[i], 0);
}

/* Not being told is no reason not to run: the clocks are right all the same, only some deadlines late. */
static void watch_power(struct machine *m)
{
    int err = os_power_watch(&m->power, woke, m);
    if (err && err != -ENOSYS)
        log_warn("the host does not say when it has slept (%s): after that the guest may be late", strerror(-err));
}

int machine_run(const struct vm_config *config)
{
    struct machine *m = calloc(1, sizeof(*m));
    if (!m) {
        log_error("out of memory");
        return 1;
    }
    sandbox_prepare();
    os_clock_exact();
    m->config = config;
    m->pid_file_fd = -1;
    int status = error_status(config);
    int err = set_up(m);
    if (!err) {
        err = signals_deadline_init(
            "xhyve: the machine has not come to an end in time: what a device does on the host, "
            "or a processor, does not end\n",
            config->pid_file, status);
        if (err)
            snprintf(m->why, sizeof(m->why), "a timer: %s", strerror(-err));
    }
    if (!err)
        watch_power(m);
    if (!err) {
        struct sandbox_needs needs = {.kvm = m->accel->needs_kvm};
        pc_needs(m->pc, &needs);
        err = sandbox_enter(&needs);
        if (err)
            snprintf(m->why, sizeof(m->why), "the sandbox cannot be entered: %s", strerror(-err));
    }
    if (err) {
        if (m->why[0])
            log_error("%s", m->why);
    } else {
        enum vm_stop why = run(m);
        if (why == VM_TRIPLE_FAULT)
            log_warn("triple fault: the guest has stopped");
        if (config->stats && m->vm->accel->stats)
            m->vm->accel->stats(m->vm);
        status = exit_status(m, why);
    }
    tear_down(m);
    tty_restore();
    free(m->accel_options);
    free(m);
    return status;
}
