/*
 * A simulated Hypervisor.framework: Apple's calls, as tests/macos/include
 * declares them, over VMX as the SDM describes it (Vol. 3, chapters 25 to 28),
 * over the software CPU of src/cpu. So src/accel/hvf runs guests on Linux.
 *
 * It is meant to be stricter than a Mac: what a Mac may do is done, what it
 * need not do is not (hv_vcpu_invalidate_tlb() is needed after a change of
 * paging through the VMCS; fields that are undefined after an exit hold junk;
 * a hv_vcpu_interrupt() before the run may be lost).
 *
 * The environment variable HVSIM picks what is simulated, "name=value" with
 * commas between:
 *
 *     cpu=skylake | westmere   capabilities and CPUID (default skylake)
 *     macos=10.15 | 11 | 12    which calls there are (default 12)
 *     lost=on                  hv_vcpu_interrupt() of a vCPU that is not in hv_vcpu_run*() does nothing
 *     spurious=N               each Nth hv_vcpu_run*() comes back at once, as for an interrupt of the host's
 *     late=N                   an interrupt window opens the Nth time that it could
 *     faults=on                the first touch of a page that is mapped is an exit by an EPT violation
 *     vcpus=N                  how many vCPUs there may be (default 64)
 *     jit=off                  everything is interpreted
 *     busy=on, denied=on, novmx=on   hv_vm_create() fails: another hypervisor, no entitlement, no VT-x
 *     apic=off                 it takes no HV_VM_ACCEL_APIC, which macOS 12 has
 *     hlt=exit                 HLT exits to the client of a VM with APICs, too; else it stays in the kernel
 *     x2apic=kernel | exit | none   MSRs of x2APIC mode stay in the kernel; exit; the mode cannot be had
 *     advanced=on              RIP is behind a WRMSR of an APIC's that has exited for a consequence, not at it
 *     log=on                   says on stderr why an entry failed
 */
#ifndef XHYVE_TESTS_HVSIM_H
#define XHYVE_TESTS_HVSIM_H

#include <Hypervisor/Hypervisor.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "chipset/lapic.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "cpu/cpu.h"
#include "cpu/hooks.h"
#include "x86/cpuid.h"

enum hvsim_macos { MACOS_10_15, MACOS_11, MACOS_12 };
enum hvsim_x2apic { X2APIC_KERNEL, X2APIC_EXIT, X2APIC_NONE };

struct hvsim_options {
    const struct hvsim_model *model;
    enum hvsim_macos macos;
    enum hvsim_x2apic x2apic;
    bool lost, faults, nojit, busy, denied, novmx, log, noapic, hlt_exits, advanced;
    unsigned spurious, late, vcpus;
};

/* caps.c: a processor's VMX, as its capability MSRs say (SDM Vol. 3, appendix A): 0-settings low, 1-settings high. */
struct hvsim_model {
    const char *name;
    uint64_t pin, proc, proc2, entry, exit;
    uint64_t basic, misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1, vmcs_enum, ept_vpid;
    bool (*lacks)(enum x86_feature); /* what its CPUID does not have, of what the software CPU can do */
};
extern const struct hvsim_model hvsim_models[];
const struct hvsim_model *hvsim_find_model(const char *name);
void hvsim_cpuid_words(const struct hvsim_model *, uint32_t words[CPUID_WORDS]);

/* An event that goes or went through the IDT, as an interruption-information field has it. */
struct hvsim_event {
    uint32_t info, error, length;
};

struct hvsim_vcpu {
    struct vcpu core; /* what the CPU takes for its vCPU; its intc is ours (window.c) */
    struct cpu *cpu;
    pthread_t owner;
    uint64_t vmcs[VMCS_MAX / 2]; /* what is not in the CPU: controls, exit information */
    uint64_t cr4_vmxe;
    uint8_t activity;
    uint8_t tpr; /* the virtual-APIC page's, and the register HV_X86_TPR's */
    hv_gpaddr_t apic_gpa;
    bool apic_set;
    struct { /* MSRs that need no exit */
        uint32_t msr;
        hv_msr_flags_t access;
        bool managed;
    } msr[64];
    unsigned nmsrs;
    bool tsc_relative;

    /* running */
    jmp_buf leave;
    struct hvsim_event event; /* being delivered, or delivered last */
    bool injecting;           /* the next one is the hypervisor's */
    uint64_t dr7_seen;
    _Atomic uint32_t wants;   /* enum hvsim_want */
    _Atomic uint32_t running; /* in hv_vcpu_run*(): others wait for it to be 0 */
    uint64_t deadline, timer_at;
    unsigned runs, windows;
    bool flush_tlb, flush_code;
    const char *reason; /* why the last entry failed */
    uint64_t exits[80]; /* by reason */
    uint64_t exec_ns, idle_ns;

    struct lapic *apic, apic_room; /* HV_VM_ACCEL_APIC; else NULL */
    hv_apic_ctrl_t ctrl;
    enum hv_boot_state boot_state;
    bool nmi;              /* one of the APIC's waits */
    hv_vm_exitinfo_t info; /* what the last exit, or write of a register, has left to the client; and its details: */
    bool targets[VM_MAX_VCPUS];
    uint64_t ap_rip;
    uint32_t read_value;
    uint8_t eoi_vector;
};

enum hvsim_want {
    WANT_INTERRUPT = 1, /* hv_vcpu_interrupt() */
    WANT_WORLD = 2,     /* somebody changes the map of memory */
    WANT_TIMER = 4,     /* the deadline or the preemption timer has passed */
    WANT_NMI = 8,       /* a local APIC of the kernel's has got one */
};

#define HVSIM_SPACE_BITS 39 /* of guest-physical addresses that can be mapped */

struct hvsim {
    pthread_mutex_t lock; /* the VM's life, the map of memory, who is a vCPU */
    pthread_cond_t changed;
    bool created;
    unsigned stopping; /* those who change the map: no vCPU enters meanwhile */
    struct hvsim_options options;
    struct vm vm;                   /* what the CPUs take for their VM: its memory is the map */
    uint8_t *perm[MEM_MAX_REGIONS]; /* HV_MEMORY_*, a page each */
    struct guest_mem space;         /* all there could be, for the code map */
    struct code_map *code;
    struct cpuid_table cpuid;
    hv_vm_options_t flags;
    struct hvsim_vcpu *vcpu[VM_MAX_VCPUS];
    unsigned nvcpus;
    struct lapic_bus bus;
    uint64_t bus_freq;
};

extern struct hvsim hvsim; /* of the process, as the framework's is */

/* vm.c */
void *__wrap_dlsym(void *handle, const char *name); /* what the program's calls of dlsym() become */
const struct hvsim_options *hvsim_options(void);
void hvsim_setenv(
    const char *text); /* for tests: instead of HVSIM, before hv_vm_create(); NULL: the environment again */
/* The vCPU of that id if it is this thread's; NULL and *err otherwise. */
struct hvsim_vcpu *hvsim_mine(hv_vcpuid_t id, hv_return_t *err);
uint8_t hvsim_perm(uint64_t gpa);     /* HV_MEMORY_*, 0: nothing there */
bool hvsim_first_touch(uint64_t gpa); /* faults=on, and nobody has touched that page, which is mapped */
/* The host's own processes have changed guest memory: what was decoded of it is void. Any thread. */
void hvsim_written(uint64_t gpa, uint64_t len);
/* Around guest code: those who change the map wait until nobody is in between, and are waited for. */
void hvsim_enter_world(struct hvsim_vcpu *);
void hvsim_leave_world(struct hvsim_vcpu *);

/* vmcs.c */
#define CTRL(v, field) ((v)->vmcs[(field) / 2])
void hvsim_vmcs_reset(struct hvsim_vcpu *);
void hvsim_vmcs_refresh(
    struct hvsim_vcpu *); /* after the guest ran: what was written of its state is no more as written */
bool hvsim_pin(const struct hvsim_vcpu *, uint32_t bit);
bool hvsim_proc(const struct hvsim_vcpu *, uint32_t bit);
bool hvsim_proc2(const struct hvsim_vcpu *, uint32_t bit);
uint64_t hvsim_rflags(const struct hvsim_vcpu *);

/* entry.c, entry_guest.c: NULL, or which check has failed; *qual is the exit qualification then. */
const char *hvsim_check_controls(const struct hvsim_vcpu *);
const char *hvsim_check_guest(const struct hvsim_vcpu *, uint64_t *qual);

/* exit.c: leaves the run with this reason; fields that the reason does not define hold junk. */
_Noreturn void hvsim_exit(struct hvsim_vcpu *, unsigned reason, uint64_t qual);
/* The same, with fields set by the caller. The instruction's length, or 0: undefined. */
void hvsim_record(struct hvsim_vcpu *, uint32_t reason, uint64_t qual, unsigned length);
_Noreturn void hvsim_leave(struct hvsim_vcpu *);
/* After hvsim_record(), for a fault: it is IRET's, which had let NMIs in. */
bool hvsim_iret_unblocked(struct hvsim_vcpu *);

/* insn.c, memory.c, event.c: what the CPU tells us (cpu/hooks.h). */
bool hvsim_wants(struct cpu *, const struct insn *);
bool hvsim_insn(struct cpu *, const struct op *);
bool hvsim_memory(struct cpu *, uint64_t lin, uint64_t gpa, unsigned access);
void hvsim_event(struct cpu *, const struct event *);
void hvsim_task(struct cpu *, uint16_t sel, unsigned why);

/* cr.c: control and debug registers: true if it was executed here. */
bool hvsim_mov_to_cr(struct hvsim_vcpu *, const struct op *);
bool hvsim_mov_from_cr(struct hvsim_vcpu *, const struct op *);
bool hvsim_clts(struct hvsim_vcpu *);
bool hvsim_lmsw(struct hvsim_vcpu *, const struct op *);
bool hvsim_smsw(struct hvsim_vcpu *, const struct op *);

/* msr.c */
hv_msr_flags_t hvsim_msr_access(const struct hvsim_vcpu *, uint32_t msr);

/* window.c: what the CPU takes for its local APIC: windows, the TPR, deadlines. */
extern const struct intc_ops hvsim_intc;
void hvsim_raise(struct hvsim_vcpu *, enum hvsim_want); /* any thread */

/* apic.c: local APICs in the kernel. */
void hvsim_apic_open(void);
bool hvsim_apic_create(struct hvsim_vcpu *); /* if the VM has them */
void hvsim_apic_destroy(struct hvsim_vcpu *);
uint64_t hvsim_apic_deadline(const struct hvsim_vcpu *); /* of its timer, in os_clock_ns() time */
/* RDMSR or WRMSR at CPL 0: true if it was executed here. */
bool hvsim_apic_msr(struct hvsim_vcpu *, bool write);
void hvsim_apic_access(struct hvsim_vcpu *, uint64_t gpa, bool read); /* after hvsim_record() */

static inline struct hvsim_vcpu *hvsim_of(const struct cpu *cpu) { return cpu->hooks_arg; }

/* For tests: the check that the last entry of this thread's vCPU failed, or NULL. How often it left by a reason. */
const char *hvsim_last_reason(hv_vcpuid_t);
uint64_t hvsim_exits(hv_vcpuid_t, unsigned reason);

#endif
