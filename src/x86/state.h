/*
 * The architectural state of one logical processor: what a snapshot holds,
 * what boot loaders fill in and what accelerators get and set.
 */
#ifndef XHYVE_X86_STATE_H
#define XHYVE_X86_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/regs.h"

struct x86_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;  /* SEG_*: see x86/regs.h */
    uint16_t sel;
};

struct x86_table { /* GDTR, IDTR */
    uint64_t base;
    uint16_t limit;
};

enum x86_run_state { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI };

struct x86_state {
    uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8 ... R15 */
    uint64_t rip, rflags;
    struct x86_segment seg[SEG_COUNT];
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
    uint64_t dr[8]; /* 4 and 5 unused */

    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t tsc, tsc_at_ns; /* the TSC's value at that moment of os_clock_ns() */

    uint8_t xsave[832] __attribute__((aligned(64))); /* standard XSAVE layout: legacy area, header, YMM_Hi128 */

    uint8_t interrupt_shadow; /* STI or MOV SS was the last instruction */
    uint8_t nmi_blocked, nmi_pending;
    uint8_t run_state; /* enum x86_run_state */
};

/* Power-up state (SDM vol. 3 table 9-1): real mode at F000:FFF0; APs wait for SIPI. */
void x86_state_reset(struct x86_state *, bool bsp);

/* A flat 4 GiB segment of the given selector and type, ring 0, as boot protocols ask for. */
struct x86_segment x86_flat_segment(uint16_t sel, uint32_t attr);

#endif
