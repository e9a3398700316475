/* What the files of the KVM accelerator share among themselves and with their tests. */
#ifndef XHYVE_ACCEL_KVM_PRIV_H
#define XHYVE_ACCEL_KVM_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "core/vm.h"
#include "util/log.h"
#include "x86/cpuid.h"
#include "x86/state.h"

#define KVM_IOAPIC_PINS 24
#define KVM_PIC_PINS 16
#define KVM_EXIT_REASONS 40 /* counted apart; the last one stands for all beyond */
#define KVM_MAX_MSRS 1024

/* The door to the kernel: tests put one of their own in its place. Results as of the system calls, errno included. */
struct kvm_sys {
    int (*open)(const char *path);
    int (*ioctl)(int fd, unsigned long request, void *arg);
};
extern const struct kvm_sys kvm_sys_host;

struct msr_list {
    unsigned n;
    struct kvm_msr_entry entry[KVM_MAX_MSRS]; /* reserved != 0: KVM did not take it */
};

struct kvm_vm {
    const struct kvm_sys *sys;
    struct vm *vm;
    int dev, fd; /* /dev/kvm and the VM */
    enum irqchip_mode mode;
    size_t run_len;             /* of a vCPU's shared pages */
    unsigned ring_page;         /* where among them the coalesced writes stand; 0: no such thing */
    bool user_msrs, msr_filter; /* MSRs that KVM does not know or is told to leave us end in our hands */
    struct kvm_cpuid2 *supported;
    uint32_t *msr_index; /* the MSRs that make up a vCPU's state */
    unsigned nmsrs;

    _Atomic bool intr; /* IRQCHIP_SPLIT: the 8259A's output */

    pthread_mutex_t routes_lock;
    struct kvm_irq_routing *routes; /* as KVM has them */
    pthread_mutex_t ring_lock;      /* who takes coalesced writes out */

    struct timer halt_timer; /* see halt.c */
    _Atomic bool halt_watch; /* it is armed */
    _Atomic unsigned halted; /* how many vCPUs have said that nothing wakes them */
    uint64_t cpu_time[VM_MAX_VCPUS];

    struct {
        bool valid;
        uint64_t tsc, at_ns, offset;
    } tsc; /* what the last set_state made of a TSC: the same for all vCPUs that are given the same */
};

struct kvm_vcpu {
    struct kvm_vm *kvm;
    struct vcpu *vcpu;
    int fd;
    struct kvm_run *run;
    struct kvm_coalesced_mmio_ring *ring; /* the VM's; NULL if there is none */
    struct msr_list *power_on;            /* the MSRs as KVM made them */

    pid_t pid, tid;
    _Atomic bool entered; /* in KVM_RUN, or about to be */

    /* IRQCHIP_USER. */
    uint8_t run_state; /* enum x86_run_state */
    bool has_timer;
    timer_t timer;
    uint64_t armed; /* its deadline, NO_DEADLINE: none */

    uint64_t exits[KVM_EXIT_REASONS]; /* for -o stats; the vCPU's thread writes */
    struct log_limit msr_log;
};

/* sys.c: -errno instead of -1; EINTR is tried again except for KVM_RUN. */
int kvm_ioctl(const struct kvm_vm *, int fd, unsigned long request, void *arg);
int kvm_ioctl_val(const struct kvm_vm *, int fd, unsigned long request, unsigned long arg);
int kvm_has(const struct kvm_vm *, unsigned cap); /* what KVM_CHECK_EXTENSION says of the VM; 0: no */
/* Opens /dev/kvm: a descriptor, or -errno with what to do in why[n]. */
int kvm_dev_open(const struct kvm_sys *, char *why, size_t n);

/* kvm.c: accel_ops.vm_open through a door of choice. */
int kvm_vm_open_through(const struct kvm_sys *, struct vm *, const char *irqchip, char *why, size_t n);

/* vcpu.c */
int kvm_vcpu_run(struct vcpu *, enum vcpu_exit *out);

/* kick.c: how a vCPU leaves KVM_RUN. On the vCPU's thread but for kvm_kick(). */
int kvm_kick_init(struct kvm_vcpu *);
void kvm_kick_fini(struct kvm_vcpu *);
void kvm_kick(struct vcpu *);
void kvm_timer_set(struct kvm_vcpu *, uint64_t deadline_ns); /* IRQCHIP_USER; NO_DEADLINE disarms */
int kvm_enter(struct kvm_vcpu *);                            /* KVM_RUN: 0 or -errno */

/* coalesced.c */
int kvm_coalesce(struct vm *, bool pio, uint64_t addr, unsigned size);
void kvm_coalesced_flush(struct kvm_vcpu *);

/* state.c, msr.c: all on the vCPU's thread. */
int kvm_get_state(struct vcpu *, struct x86_state *);
int kvm_set_state(struct vcpu *, const struct x86_state *);
int kvm_state_init(struct kvm_vcpu *);                   /* what INIT does, for IRQCHIP_USER */
int kvm_state_startup(struct kvm_vcpu *, uint32_t page); /* what a start-up IPI does */
int kvm_get_lapic(struct vcpu *, uint64_t *apic_base, uint8_t page[ACCEL_LAPIC_PAGE]);
int kvm_set_lapic(struct vcpu *, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE]);
int kvm_msr_indices(struct kvm_vm *);                         /* fills msr_index */
int kvm_msrs_get(const struct kvm_vcpu *, struct msr_list *); /* entries have indices; failures are marked */
int kvm_msrs_set(const struct kvm_vcpu *, struct msr_list *); /* marked entries are left out */
int kvm_msr_get(const struct kvm_vcpu *, uint32_t index, uint64_t *val);
int kvm_msr_set(const struct kvm_vcpu *, uint32_t index, uint64_t val);
int kvm_msrs_power_on(struct kvm_vcpu *); /* remembers them */
int kvm_get_msr_state(struct kvm_vcpu *, struct x86_state *);
int kvm_set_msr_state(struct kvm_vcpu *, const struct x86_state *);

/* tsc.c */
int kvm_tsc_khz(struct kvm_vm *);
int kvm_tsc_set(struct kvm_vcpu *, uint64_t tsc, uint64_t at_ns);
uint64_t kvm_tsc_now(struct vcpu *);
uint64_t kvm_tsc_to_ns(struct vcpu *, uint64_t tsc);

/* irqchip.c: before vCPUs, in the mode of the VM. 0; -errno with a reason. */
int kvm_irqchip_init(struct kvm_vm *, char *why, size_t n);
void kvm_irqchip_fini(struct kvm_vm *);
int kvm_msi(struct vm *, uint64_t addr, uint32_t data, int pin);
void kvm_set_intr(struct vm *, bool level);
void kvm_set_pin(struct vm *, enum irqchip_chip, unsigned pin, bool level);
int kvm_reset_irqchip(struct vm *, uint16_t elcr, uint8_t ioapic_id);
void kvm_connect_pit(struct vm *, bool connected);
int kvm_set_route(struct vm *, unsigned route, uint64_t addr, uint32_t data);
int kvm_irqfd(struct vm *, int fd, unsigned route, bool add);
int kvm_ioeventfd(struct vm *, int fd, const struct accel_io_event *, bool add);
void kvm_inject_extint(struct kvm_vcpu *); /* IRQCHIP_SPLIT, before an entry of vCPU 0 */

/* userapic.c: IRQCHIP_USER, around each entry. */
bool kvm_userapic_enter(struct kvm_vcpu *, uint32_t events, enum vcpu_exit *out, int *err); /* true: leave with *out */
void kvm_userapic_left(struct kvm_vcpu *);
bool kvm_userapic_rdmsr(struct kvm_vcpu *, uint32_t msr, uint64_t *val, bool *fault); /* false: not its business */
bool kvm_userapic_wrmsr(struct kvm_vcpu *, uint32_t msr, uint64_t val, bool *fault);

/* halt.c: the end of a guest whose HLT stays in the kernel. */
void kvm_halt_init(struct kvm_vm *);
void kvm_halt_fini(struct kvm_vm *);
void kvm_halt_exit(struct kvm_vcpu *);   /* it has exited: look some time later */
void kvm_halt_report(struct kvm_vcpu *); /* VCPU_EV_ACCEL: says if it sleeps for good */

/* cpuid.c */
int kvm_supported_cpuid(struct kvm_vm *);
void kvm_offered(struct vm *, uint32_t *words);
int kvm_set_cpuid(struct vcpu *, const struct cpuid_table *);
/* The leaves of one vCPU. Freed by the caller; NULL: no memory. */
struct kvm_cpuid2 *kvm_cpuid_leaves(const struct kvm_vm *, const struct cpuid_table *, uint32_t apic_id);

/* dump.c: what is known of a vCPU that cannot go on, on stderr. */
void kvm_dump(struct kvm_vcpu *);
const char *kvm_exit_name(unsigned reason);

/* probe.c */
int kvm_probe(char *why, size_t n);
/* The same with a door of choice and without the time limit, in this process: what the child does. */
int kvm_trial(const struct kvm_sys *, char *why, size_t n);

#endif
