/*
 * What the files of the Hypervisor.framework accelerator share among themselves
 * and with their tests. Sections are those of the Intel SDM, vol. 3.
 *
 * A vCPU of the framework belongs to the thread that made it: every function
 * that takes one is for that thread, but for hvf_kick().
 */
#ifndef XHYVE_ACCEL_HVF_PRIV_H
#define XHYVE_ACCEL_HVF_PRIV_H

#include <Hypervisor/hv.h>
#include <Hypervisor/hv_vmx.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/vm.h"
#include "cpu/cpu.h"
#include "util/log.h"
#include "x86/cpuid.h"
#include "x86/state.h"

#define HVF_EXIT_REASONS 80 /* counted apart; the last one stands for all beyond */
#define HVF_EXIT_FAILED (1u << 31)
#define HVF_FP_SIZE 4096 /* room for an XSAVE image of any processor that macOS runs on */

/* Interruption information (25.8.3, 25.9.2, 25.9.3) and pending debug exceptions (25.4.2). */
#define INFO_VALID 0x80000000u
#define NMI_UNBLOCKED_BY_IRET (1u << 12)
#define PENDING_DEBUG_BS (UINT64_C(1) << 14)
#define PENDING_DEBUG_ENABLED (UINT64_C(1) << 12) /* a breakpoint that is enabled was met */

#define CR4_VMXE (UINT64_C(1) << 13)
#define IA32_APIC_BASE 0x1bu
#define APIC_BASE_BSP (UINT64_C(1) << 8)
#define APIC_BASE_EXTD (UINT64_C(1) << 10)
#define APIC_BASE_EN (UINT64_C(1) << 11)
#define ACTIVITY_HLT 1 /* of the guest activity state (25.4.2) */

/* An entry in which the kick of hv_vcpu_interrupt() may have got lost is over by then. */
#define ENTRY_NS UINT64_C(10000000)

/* Local APICs in the kernel, 12.0: all or none. */
struct hvf_apic_api {
    hv_return_t (*set_bus_freq)(uint64_t hz);
    hv_return_t (*msi)(uint64_t addr, uint64_t data);
    hv_return_t (*send_ioapic_intr)(uint64_t entry);
    hv_return_t (*ctrl)(hv_vcpuid_t, hv_apic_ctrl_t);
    hv_return_t (*read)(hv_vcpuid_t, uint32_t offset, uint32_t *val);
    hv_return_t (*write)(hv_vcpuid_t, uint32_t offset, uint32_t val, bool *no_side_effect);
    hv_return_t (*get_state)(hv_vcpuid_t, hv_apic_state_ext_t *);
    hv_return_t (*put_state)(hv_vcpuid_t, const hv_apic_state_ext_t *);
    hv_return_t (*exit_info)(hv_vcpuid_t, hv_vm_exitinfo_t *);
    hv_return_t (*exit_init_ap)(hv_vcpuid_t, bool *targets, unsigned count);
    hv_return_t (*exit_startup_ap)(hv_vcpuid_t, bool *targets, unsigned count, uint64_t *rip);
    hv_return_t (*exit_ioapic_eoi)(hv_vcpuid_t, uint8_t *vector);
    hv_return_t (*exit_inject_excp)(hv_vcpuid_t, uint8_t *vector, bool *valid, uint32_t *code, bool *restart);
    hv_return_t (*get_idle_time)(hv_vcpuid_t, uint64_t *ns);
};

/* Calls later than macOS 10.15; NULL where this system lacks them. */
struct hvf_api {
    hv_return_t (*set_tsc_relative)(hv_vcpuid_t, int64_t offset); /* 11.0, both or none */
    uint64_t (*tsc_clock)(void);
    bool has_apic;
    struct hvf_apic_api apic;
};

/* hv_vmx_read_capability(): bits that must be 1 in the low half, bits that may be 1 in the high half. */
struct hvf_caps {
    uint64_t pin, proc, proc2, entry, exit;
    uint64_t timer_hz; /* of the preemption timer; 0: not told */
};

/* The controls of every vCPU at its start. */
struct hvf_controls {
    uint32_t pin, proc, proc2, entry, exit;
};

struct hvf_vm {
    struct vm *vm;
    struct hvf_api api;
    struct hvf_caps caps;
    struct hvf_controls controls;
    bool created, mapped;
    unsigned max_vcpus;
    _Atomic bool apic_page; /* APIC-access exits may be asked for */

    struct { /* irqchip=split: the local APICs are the framework's */
        bool on;
        bool has_base;             /* their state has IA32_APIC_BASE where its address is */
        bool x2apic;               /* they can be put into x2APIC mode */
        _Atomic bool intr;         /* the 8259A's output */
        _Atomic uint8_t who_skips; /* enum hvf_who_skips */
        pthread_rwlock_t lock;     /* writers: who replaces a local APIC's state; readers: who sends a message */
        pthread_mutex_t idle_lock; /* every vCPU's idle_from and idle_to */
    } split;

    /* No page of this VM is known to hold code: the interpreter decodes each instruction anew. */
    struct guest_mem no_code;
    struct code_map *code;

    pthread_mutex_t dirty_lock;                              /* protections and bits change together */
    _Atomic(_Atomic unsigned long *) dirty[MEM_MAX_REGIONS]; /* a bit a page; NULL: was never under watch */
    bool watched[MEM_MAX_REGIONS];                           /* under dirty_lock: between START and STOP */

    struct {
        pthread_mutex_t lock;
        bool valid;
        uint64_t tsc, at_ns, offset;   /* what the last set_state made of a TSC */
        uint64_t seen_tsc, seen_ns;    /* host TSC and clock when they were last compared */
        _Atomic uint64_t shift;        /* added to every vCPU's offset: what the host's TSC lost while it slept */
        _Atomic uint64_t next_look_ns; /* when they are to be compared again */
    } tsc;
};

/* An event for the next entry, in the form of VM-entry interruption information (25.8.3). */
struct hvf_event {
    uint32_t info; /* 0: none */
    uint32_t error;
    uint32_t len; /* of the instruction, for software interrupts and exceptions */
};

struct hvf_vcpu {
    struct hvf_vm *hvf;
    struct vcpu *vcpu;
    hv_vcpuid_t id;
    bool made, native_tsc_aux;

    /* Executes what hardware cannot. Between such instructions only its MSRs that hardware does not keep count. */
    struct cpu *cpu;

    _Atomic bool kicked;  /* do not enter */
    _Atomic bool entered; /* in the guest, or about to be */

    uint8_t run_state; /* enum x86_run_state */
    bool nmi_pending;
    uint64_t efer, xcr0;            /* as the guest sees them */
    uint64_t cr4_guest;             /* CR4 bits that the guest may change without an exit */
    uint64_t tsc_offset, tsc_shift; /* the VMCS has their sum */
    uint32_t proc, entry_ctl;       /* controls as last written */
    struct hvf_event event;
    bool event_written; /* the VMCS has it; an exit clears the VMCS' valid bit */
    uint32_t idt_info;  /* IDT-vectoring information of this exit, 0: it did not interrupt a delivery */

    struct {                         /* irqchip=split */
        uint64_t base;               /* IA32_APIC_BASE */
        hv_apic_state_ext_t fresh;   /* as it was made */
        bool used;                   /* it may be other than that */
        uint64_t bound_ns;           /* the next entry lasts no longer */
        uint64_t idle_ns;            /* what the framework has counted so far */
        bool halted;                 /* the last entry ended in HLT, by its bound */
        uint64_t idle_from, idle_to; /* the last time that it was seen halted with interrupts off; 0, 0: it is not */
    } apic;

    bool entered_ever; /* at least one entry has not failed */
    bool apic_page_on; /* APIC-access exits, for the page at apic_page */
    uint64_t apic_page;

    uint32_t reason; /* of the last exit */
    uint64_t qualification;

    hv_return_t error; /* the first call of the framework that failed; then the vCPU cannot go on */
    const char *error_call;
    uint32_t error_field;

    uint64_t exits[HVF_EXIT_REASONS]; /* for -o stats; the vCPU's thread writes */
    uint64_t quick_mmio, slow_steps;
    struct log_limit msr_log;
    uint8_t fp[HVF_FP_SIZE] __attribute__((aligned(64)));
};

/* api.c */
void hvf_api_find(struct hvf_api *);
const char *hvf_strerror(hv_return_t); /* in words */

/* vm.c */
struct hvf_vm *hvf_of(const struct vm *);
int hvf_vm_open(struct vm *, const char *irqchip, char *why, size_t n);
void hvf_vm_close(struct vm *);
int hvf_vm_init(struct vm *);
void hvf_vm_fini(struct vm *);

/* dirty.c */
int hvf_dirty_log(struct vm *, const struct mem_region *, enum accel_dirty, unsigned long *bitmap);
bool hvf_dirty_fault(struct hvf_vm *, uint64_t gpa); /* the guest wrote to a page under watch; false: it is not */
void hvf_dirty_written(void *hvf, uint64_t gpa, uint64_t len);
void hvf_dirty_free(struct hvf_vm *);

/*
 * regs.c: registers and VMCS fields. A call that fails is remembered in
 * hv->error, and its value is 0; the run loop looks after each exit.
 */
uint64_t hvf_reg(struct hvf_vcpu *, hv_x86_reg_t);
void hvf_set_reg(struct hvf_vcpu *, hv_x86_reg_t, uint64_t);
uint64_t hvf_vmcs(struct hvf_vcpu *, uint32_t field);
void hvf_set_vmcs(struct hvf_vcpu *, uint32_t field, uint64_t);
/* A field that Apple does not say is ours to write: as it stands after hv_vcpu_create() will do, too. */
void hvf_try_vmcs(struct hvf_vcpu *, uint32_t field, uint64_t);
void hvf_failed(struct hvf_vcpu *, hv_return_t, const char *call, uint32_t field);
uint64_t hvf_gpr(struct hvf_vcpu *, unsigned n); /* n as in encodings: RAX RCX RDX RBX RSP ... */
void hvf_set_gpr(struct hvf_vcpu *, unsigned n, uint64_t);
void hvf_set_gpr_part(struct hvf_vcpu *, unsigned n, unsigned size,
                      uint64_t); /* 1, 2: the rest stays; 4: it is cleared */
/*
 * Ends the instruction that has exited: RIP beyond it, its shadows over, a
 * single-step trap pending if TF asks for it.
 */
void hvf_skip(struct hvf_vcpu *, unsigned len);
void hvf_skip_exit(struct hvf_vcpu *); /* its length is the exit's */

/* vcpu.c */
int hvf_vcpu_init(struct vcpu *);
void hvf_vcpu_fini(struct vcpu *);
int hvf_vcpu_run(struct vcpu *, enum vcpu_exit *out);
void hvf_kick(struct vcpu *);

/* controls.c */
/* What the VMCS of a vCPU starts with. 0; -ENOTSUP with what the host lacks in why[n]. */
int hvf_controls_compute(const struct hvf_caps *, struct hvf_controls *, char *why, size_t n);
int hvf_caps_read(struct hvf_caps *, char *why, size_t n);
void hvf_controls_write(struct hvf_vcpu *);
void hvf_set_proc(struct hvf_vcpu *, uint32_t bits, bool on); /* primary controls that come and go */
void hvf_set_ia32e(struct hvf_vcpu *, bool on);               /* the entry control of that name */

/* exit.c: serves the exit. True: leave run() with *out. */
bool hvf_exit(struct hvf_vcpu *, enum vcpu_exit *out);
const char *hvf_exit_name(unsigned reason); /* basic exit reason */

/* inject.c */
void hvf_raise(struct hvf_vcpu *, unsigned vector); /* #UD and the like: no error code */
void hvf_raise_error(struct hvf_vcpu *, unsigned vector, uint32_t error);
bool hvf_trap_owed(struct hvf_vcpu *);
/* Why an entry may fail: an exit in a shadow with TF need not save the step that is pending. True: it is pending now. */
bool hvf_step_missing(struct hvf_vcpu *);
void hvf_inject(struct hvf_vcpu *);        /* before an entry: what goes in, and which windows are asked for */
void hvf_collect(struct hvf_vcpu *);       /* after an exit: has the event gone in? */
void hvf_reinject(struct hvf_vcpu *);      /* this exit came amid a delivery that hardware is to begin again */
void hvf_nmi_unblocked(struct hvf_vcpu *); /* bit 12 of qualification or interruption information: IRET was undone */
/* The event of a delivery in IDT-vectoring form, as one for the next entry. */
struct hvf_event hvf_event_again(uint32_t idt_info, uint32_t error, uint32_t len);

/* cr.c */
uint64_t hvf_cr0(struct hvf_vcpu *); /* as the guest sees them */
uint64_t hvf_cr4(struct hvf_vcpu *);
void hvf_write_crs(struct hvf_vcpu *, uint64_t cr0, uint64_t cr4); /* unchecked */
uint64_t hvf_cr4_guest_bits(const struct cpuid_table *); /* those a guest with these features may change alone */
bool hvf_exit_cr(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_exit_dr(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_exit_xsetbv(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_set_efer(struct hvf_vcpu *, uint64_t val); /* false: #GP */

/* io.c, mmio.c, task.c, apic.c */
bool hvf_exit_io(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_exit_ept_violation(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_exit_apic_access(struct hvf_vcpu *, enum vcpu_exit *);
bool hvf_exit_task(struct hvf_vcpu *, enum vcpu_exit *);
void hvf_apic_page_follow(struct hvf_vcpu *); /* after a change of IA32_APIC_BASE */
void hvf_apic_page_off(struct hvf_vcpu *);
/* An access to a device at gpa by the instruction at RIP. */
bool hvf_mmio(struct hvf_vcpu *, uint64_t gpa, bool write, enum vcpu_exit *out);

/* Up to n bytes of code from `back` before RIP on; how many there are. */
unsigned hvf_code_bytes(struct hvf_vcpu *, unsigned back, uint8_t *bytes, unsigned n);

/* split.c: local APICs of the framework's (irqchip=split). */
/* Before hv_vm_create(): can it be had? 0; -errno with what was expected, what was found and what to do in why[n]. */
int hvf_split_probe(struct hvf_vm *, char *why, size_t n);
int hvf_split_open(struct hvf_vm *, char *why, size_t n); /* after it, before the first vCPU */
int hvf_split_vcpu_init(struct hvf_vcpu *);               /* 0 or -errno, told */
/* The exit is one of a local APIC's, which the VMCS alone does not tell: served, and *leave as hvf_exit() has it. */
bool hvf_split_exit(struct hvf_vcpu *, enum vcpu_exit *out, bool *leave);
int hvf_set_lapic(struct vcpu *, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE]);
int hvf_get_lapic(struct vcpu *, uint64_t *apic_base, uint8_t page[ACCEL_LAPIC_PAGE]);
int hvf_msi(struct vm *, uint64_t addr, uint32_t data, int pin);
void hvf_set_intr(struct vm *, bool level);

/* idle.c: how long an entry may last where HLT does not end it, and whether all vCPUs have halted for good. */
uint64_t hvf_entry_bound(const struct hvf_vcpu *);
void hvf_idle_look(struct hvf_vcpu *, uint64_t entered_ns); /* after each exit */
void hvf_idle_waits(struct hvf_vcpu *, bool for_sipi);      /* for SIPI, or no more: it has been told to go on */

/* step.c: the interpreter on a vCPU's state. True: leave run() with *out. */
bool hvf_step(struct hvf_vcpu *, enum vcpu_exit *out); /* executes the instruction at RIP */
bool hvf_deliver(struct hvf_vcpu *, struct hvf_event, enum vcpu_exit *out);

/* msr.c: false: #GP. */
bool hvf_rdmsr(struct hvf_vcpu *, uint32_t msr, uint64_t *val);
bool hvf_wrmsr(struct hvf_vcpu *, uint32_t msr, uint64_t val);
int hvf_msrs_native(struct hvf_vcpu *); /* those that need no exit. 0 or -errno, told */
void hvf_get_native_msrs(struct hvf_vcpu *, struct x86_state *);
void hvf_set_native_msrs(struct hvf_vcpu *, const struct x86_state *);

/* tsc.c */
int hvf_tsc_init(struct hvf_vm *, char *why, size_t n);
uint64_t hvf_tsc_now(struct vcpu *);
uint64_t hvf_tsc_to_ns(struct vcpu *, uint64_t tsc);
void hvf_tsc_set(struct hvf_vcpu *, uint64_t tsc, uint64_t at_ns);
void hvf_tsc_write(struct hvf_vcpu *, uint64_t tsc); /* by the guest, now */
void hvf_tsc_write_adjust(struct hvf_vcpu *, uint64_t adjust);
/* Before an entry: has the host's TSC lost time, or its clock jumped? Then the guest's TSC follows the clock. */
void hvf_tsc_follow(struct hvf_vcpu *, uint64_t now_ns);

/* state.c */
int hvf_get_state(struct vcpu *, struct x86_state *);
int hvf_set_state(struct vcpu *, const struct x86_state *);
void hvf_state_read(struct hvf_vcpu *, struct x86_state *); /* all but MSRs that hardware does not keep */
void hvf_state_write(struct hvf_vcpu *, const struct x86_state *from,
                     const struct x86_state *to);         /* what differs; from NULL: all */
void hvf_state_init(struct hvf_vcpu *);                   /* what INIT does */
void hvf_state_startup(struct hvf_vcpu *, uint32_t page); /* what a start-up IPI does */

/* cpuid.c */
void hvf_offered(struct vm *, uint32_t *words);
int hvf_set_cpuid(struct vcpu *, const struct cpuid_table *);
bool hvf_exit_cpuid(struct hvf_vcpu *, enum vcpu_exit *);

/* dump.c: what is known of a vCPU that cannot go on, on stderr. */
void hvf_dump(struct hvf_vcpu *, const char *why);
/* check.c: the first check on the guest state that VM entry would fail (27.3.1); NULL if none does. */
const char *hvf_failing_check(struct hvf_vcpu *);

/* probe.c */
int hvf_probe(char *why, size_t n);
/* Why the framework makes no VM or vCPU, and what to do. */
void hvf_explain_vm(hv_return_t, char *why, size_t n);
void hvf_explain_vcpu(hv_return_t, const struct hvf_vm *, unsigned vcpu, char *why, size_t n);

/* stats.c */
void hvf_stats(struct vm *);

#endif
