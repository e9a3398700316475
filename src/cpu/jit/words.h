/*
 * What generated code finds in its context beside the guest's registers: a part
 * of struct cpu, at a constant offset from the host's rsp.
 */
#ifndef XHYVE_CPU_JIT_WORDS_H
#define XHYVE_CPU_JIT_WORDS_H

#include <stdint.h>

/* Why generated code came back. */
enum jit_reason {
    JIT_LOOKUP, /* go on at `rip`: no code known, a guard failed, or somebody wants the CPU */
    JIT_LINK,   /* the same, and exit `link` can be joined to the code of `rip` */
    JIT_INTERP, /* the instruction at `rip` is for the interpreter */
};

struct jit_words {
    uint64_t host_rsp;
    uint64_t entry; /* where to begin */
    uint64_t rip;   /* where generated code left */
    uint64_t tmp;   /* of one instruction */
    /* Masks for PEXT: page number to TLB index, and what must be zero in an offset that lies in the page (and is aligned). */
    uint64_t index_mask;
    uint64_t page_mask[6]; /* by log2 of the alignment asked for: 1, 2, 4, ... 32 bytes */
    uint64_t jump_mask;
    uint64_t arith_mask;            /* the arithmetic flags */
    uint64_t blocks_run, insns_run; /* counted only when stats are asked for; whole blocks */
    uint32_t reason;                /* enum jit_reason */
    uint32_t link;                  /* number of an exit */
    uint16_t flags;                 /* arithmetic flags while in C: OF in bit 0, and what LAHF gives in bits 8-15 */
};

#endif
