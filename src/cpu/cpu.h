/*
 * The context of one software CPU. It belongs to its vCPU's thread; the only
 * words others touch are `exit_request` and the mailbox of cpu/code.h.
 */
#ifndef XHYVE_CPU_CPU_H
#define XHYVE_CPU_CPU_H

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/vcpu.h"
#include "cpu/jit/words.h"
#include "cpu/op.h"
#include "util/log.h"
#include "x86/cpuid.h"
#include "x86/state.h"

struct os_alarm;
struct block_cache; /* cpu/block.h */
struct code_map;    /* cpu/code.h: which guest pages hold code, shared by a VM's CPUs */
struct vec_cache;   /* cpu/interp/vec.h: native stubs */
struct jit;         /* cpu/jit/jit.h */
struct cpu_hooks;   /* cpu/hooks.h */

/* The guest's TSC counts nanoseconds of os_clock_ns(): 1 GHz. */
#define SOFT_TSC_HZ UINT64_C(1000000000)

#define TLB_ENTRIES 4096

/*
 * A first-level TLB entry. An access of `size` bytes at `lin` hits when
 * lin + neg_page <= 4096 - size: one compare answers tag, permission, page
 * crossing and canonical form. Pages of devices, of code (for writes) and
 * watched by debug registers are never entered.
 */
struct tlb_entry {
    uint64_t neg_page; /* minus the linear address of the page */
    uint64_t delta;    /* host address minus linear address */
};

static inline uint8_t *tlb_host(const struct tlb_entry *e, uint64_t lin)
{
    return (uint8_t *)(uintptr_t)(lin + e->delta);
}

struct tlb_set {
    struct tlb_entry r[TLB_ENTRIES], w[TLB_ENTRIES];
};

/* KERNEL_AC: EFLAGS.AC=1 lifts SMAP. USER_AC: alignment is checked, so nothing is ever entered there. */
enum tlb_mode { TLB_USER, TLB_KERNEL, TLB_KERNEL_AC, TLB_USER_AC, TLB_MODES };

struct cpu {
    /* -- touched by every instruction -- */
    uint64_t reg[REG_FILE]; /* GPRs, REG_ZERO = 0, REG_IP = RIP minus page offset of the running code */
    /*
     * Arithmetic flags, lazily: ZF = (fz == 0), SF = (fs < 0), PF = parity of
     * the low byte of fs; fc holds CF in bit 31, CF^OF in bit 30, AF in bit 3
     * (a carry-out vector). See cpu/flags.h.
     */
    uint64_t fz;
    int64_t fs;
    uint32_t fc;
    uint32_t eflags;     /* all but the arithmetic flags: RFL_FIXED, TF, IF, DF, IOPL, NT, RF, VM, AC, VIF, VIP, ID */
    struct tlb_set *tlb; /* the current of tlb_sets: cpu_mode_changed() */
    const struct op *op; /* the instruction being executed */
    _Atomic uint32_t exit_request; /* anybody may set it: the dispatcher is entered at the next block boundary */
    uint32_t
        irq_unsure; /* an interrupt may wait that EFLAGS.IF kept out: who sets that asks. Right behind exit_request */
    uint32_t mode;  /* enum code_mode of the running code */
    uint64_t rip;   /* valid in the dispatcher only; within a block: cpu_rip() */
    uint8_t cpl;
    bool long_mode;   /* EFER.LMA */
    bool rmw_pending; /* cpu/mmu.h: mmu_rmw_done() has work */
    struct jit_words words;
    struct jit *jit; /* NULL: everything is interpreted */

    /* -- system registers -- */
    struct x86_segment seg[SEG_COUNT];
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0;
    uint64_t dr[8];
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss, mcg_status;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t pdpte[4];  /* PAE paging: loaded with CR3 */
    int64_t tsc_offset; /* guest TSC = os_clock_ns() + tsc_offset */
    int64_t tsc_adjust; /* IA32_TSC_ADJUST */

    /* -- vector and x87 state: the standard XSAVE image; YMM n = xsave[160+16n] and xsave[576+16n] -- */
    uint8_t xsave[832] __attribute__((aligned(64)));

    /* -- exceptions (cpu/exc.h) -- */
    jmp_buf fault; /* where cpu_raise() goes */
    struct {
        bool pending;    /* raised, not yet delivered */
        bool delivering; /* through the IDT: a fault now means a double fault */
        uint8_t vector;
        uint8_t kind; /* enum exc_kind */
        uint32_t error;
        uint8_t first; /* the vector whose delivery faulted */
        bool nested;   /* raised during a delivery */
        bool injected; /* not raised but pending by somebody's wish, with any kind; who says too whether there is */
        bool injected_error;     /* an error code */
        uint8_t injected_length; /* of the instruction that software interrupts and exceptions come from */
        uint32_t debug; /* #DB: the bits of DR6 that tell why. For hooks, as are the next two: DR6 and CR2 as before */
        uint64_t dr6_before, cr2_before;
    } exc;
    uint32_t db_status; /* DR6 bits of a pending #DB trap */
    uint8_t shadow;     /* instructions left in the STI / MOV SS shadow: 1 = the next one is not interruptible */
    bool shadow_db;     /* MOV SS: debug traps are held too */
    uint8_t in_shadow;  /* for hooks: the instruction being executed is in the shadow of 1: STI, 2: MOV SS */
    bool nmi_blocked, nmi_pending;
    uint8_t run_state; /* enum x86_run_state */

    /* -- translation -- */
    struct tlb_set *tlb_sets; /* TLB_MODES of them */
    uint64_t bounce[8];       /* cpu/mmu.h: a read-modify-write that is not plain RAM */
    uint64_t rmw_lin;
    unsigned rmw_size;
    uint32_t fetch_gen;  /* mmu.c counts up at every flush: translations of older generations are void */
    uint32_t code_epoch; /* counts invalidations that arrived by mail: cpu/code.c */
    struct block_cache *blocks;
    struct code_map *code;
    struct vec_cache *vec;

    uint64_t random[32]; /* RDRAND, RDSEED: words of os_random() not yet given out */
    unsigned random_left;

    /* -- outside world -- */
    struct vcpu *vcpu;
    const struct cpuid_table *cpuid; /* feature gates look here, through cpu_has() */
    struct os_alarm *alarm;
    uint64_t alarm_deadline;
    uint64_t icount; /* instructions run, about */
    uint32_t pauses; /* PAUSE instructions: see interp/mov.c */
    struct log_limit msr_log;
    const struct cpu_hooks *hooks; /* or NULL */
    void *hooks_arg;
};

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* RIP of the instruction being executed, and of the next one. */
static inline uint64_t cpu_rip_mask(const struct cpu *cpu)
{
    return (cpu->mode & MODE_SIZE) == MODE_64 ? ~UINT64_C(0) : UINT64_C(0xffffffff);
}
static inline uint64_t cpu_rip(const struct cpu *cpu, const struct op *op)
{
    return (cpu->reg[REG_IP] + OP_OFF(op)) & cpu_rip_mask(cpu);
}
static inline uint64_t cpu_next_rip(const struct cpu *cpu, const struct op *op)
{
    return (cpu->reg[REG_IP] + OP_OFF(op) + OP_LEN(op)) & cpu_rip_mask(cpu);
}

/* Leaves the block for the dispatcher, going on at rip. */
static inline const struct op *cpu_jump(struct cpu *cpu, uint64_t rip)
{
    cpu->rip = rip;
    return NULL;
}

/* Makes the dispatcher look around (interrupts, mode) before the next instruction. */
static inline const struct op *cpu_resync(struct cpu *cpu, const struct op *op)
{
    return cpu_jump(cpu, cpu_next_rip(cpu, op));
}

/*
 * Recomputes cpu->mode, cpu->cpl's TLB set and long_mode after any change of
 * CS, SS, DS, ES, CR0, EFER, CPL, EFLAGS.AC/VM or CR4.SMAP. Who changes one of
 * these ends the block (returns cpu_resync() or cpu_jump()); for EFLAGS.AC and
 * CPL alone cpu_select_tlb() is enough.
 */
void cpu_mode_changed(struct cpu *);
static inline void cpu_select_tlb(struct cpu *cpu)
{
    enum tlb_mode mode = cpu->cpl != 3 ? cpu->eflags & RFL_AC ? TLB_KERNEL_AC : TLB_KERNEL
                         : UNLIKELY((cpu->eflags & RFL_AC) && (cpu->cr0 & CR0_AM)) ? TLB_USER_AC
                                                                                   : TLB_USER;
    cpu->tlb = &cpu->tlb_sets[mode];
}

/* cpu/run.c. Makes a CPU in power-up state on the vCPU's thread, without a translator; NULL if out of memory. */
struct cpu *cpu_new(struct vcpu *, struct code_map *);
void cpu_free(struct cpu *);
/* Runs until an exit; see core/accel.h. */
int cpu_run(struct cpu *, enum vcpu_exit *out);
/* Executes exactly one instruction, faults delivered: for the MMIO emulation of other accelerators and tests. */
int cpu_step(struct cpu *, enum vcpu_exit *out);

void cpu_reset(struct cpu *, bool init); /* power-up, or INIT */
void cpu_get_state(struct cpu *, struct x86_state *);
void cpu_set_state(struct cpu *, const struct x86_state *);

uint64_t cpu_tsc(const struct cpu *);

#endif
