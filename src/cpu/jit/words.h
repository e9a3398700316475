/*
 * What generated code finds in its context beside the guest's registers: a part
 * of struct cpu, at a constant offset from the host's rsp.
 */
#ifndef XHYVE_CPU_JIT_WORDS_H
#define XHYVE_CPU_JIT_WORDS_H

#include <stdint.h>

/* Why generated code came back. */
enum jit_reason {
    JIT_LOOKUP,   /* go on at `rip`: no code known, a guard failed, or somebody wants the CPU */
    JIT_LINK,     /* the same, and exit `link` can be joined to the code of `rip` */
    JIT_INTERP,   /* the instruction at `rip` is for the interpreter */
    JIT_TARGET,   /* the jump or return at `tmp` leads to `rip`, and then adds `drop` to the stack pointer */
    JIT_DISPATCH, /* before `rip` the dispatcher is to look around: the mode has changed, an interrupt waits */
};

/* What generated code may have in the host's registers: jit/vec_state.c. */
enum jit_live {
    LIVE_SSE, /* XMM and YMM registers and MXCSR, and SSE instructions are allowed */
    LIVE_AVX, /* the same, and AVX instructions are */
    LIVE_X87, /* x87 and MMX */
    JIT_LIVES
};

struct jit_words {
    uint64_t host_rsp;
    uint64_t entry;     /* where to begin */
    uint64_t rip;       /* where generated code left */
    uint64_t tmp;       /* of one instruction */
    uint64_t delta[16]; /* of a block: see elide.c */
    /*
     * Masks for PEXT (jit.pext): page number to TLB index, what must be zero in an offset that lies in the page (and is
     * aligned), RIP to index in a jump table.
     */
    uint64_t index_mask;
    uint64_t page_mask[6]; /* by log2 of the alignment asked for: 1, 2, 4, ... 32 bytes */
    uint64_t jump_mask;
    uint64_t blocks_run, insns_run; /* counted only when stats are asked for; whole blocks */
    uint32_t reason;                /* enum jit_reason */
    uint32_t link;                  /* number of an exit */
    uint32_t drop;                  /* bytes that a return takes from the stack */
    uint16_t flags;                 /* arithmetic flags while in C: OF in bit 0, and what LAHF gives in bits 8-15 */

    uint64_t bounce_delta; /* r10 for an operand in `bounce` */
    uint8_t bounce[32];    /* what was loaded from two pages */

    /* Vector registers. */
    uint32_t away[JIT_LIVES]; /* 0: live; else they are not, or may not be */
    uint32_t host_mxcsr, guest_mxcsr;
    uint64_t mxcsr_bits, fcw_bits; /* masks for PEXT: those bits that decide whether MXCSR or FCW can be live */
    uint8_t uppers;                /* of a call of C: the upper halves are not all zero */
    uint8_t vec[512] __attribute__((aligned(32))); /* and all registers */
};

#endif
