/*
 * The translator: guest instructions into the host's own, for 64-bit code on
 * x86-64 hosts. docs/soft-cpu.md tells the whole story.
 *
 * Each vCPU has a code cache of its own, so nothing here is locked; stores by
 * other CPUs arrive through the mailbox of cpu/code.h. All functions are for
 * the vCPU's thread.
 */
#ifndef XHYVE_CPU_JIT_JIT_H
#define XHYVE_CPU_JIT_JIT_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/cpu.h"
#include "x86/cpuid.h"

struct block;
struct jit;

/*
 * What is asked of the translator (-o jit, -o jit.NAME). Each optimisation can
 * be switched off; what is below them makes rare ways frequent, for tests.
 */
struct jit_options {
    bool on;
    bool chain;      /* blocks are joined, indirect jumps looked up: else each block ends in the dispatcher */
    bool elide;      /* TLB checks that an earlier one answers are left out */
    bool flags;      /* flags known to be dead are overwritten by checks */
    bool pext;       /* checks that keep the flags use PEXT; off by default where the host takes long for it */
    bool recent;     /* accesses look first at the page that they touched last */
    bool string;     /* repeated string instructions as host memory operations */
    bool superblock; /* blocks go on behind conditional jumps */
    bool vector;     /* vector and x87 instructions are the host's own */
    bool tlb2;       /* page walks ask the second-level TLB first; the interpreter's do as well */
    bool slow;       /* every memory access takes the cold path first */
    bool lockstep;   /* each block is compared with the interpreter: jit/lockstep.c; implies no chain, no superblock */
    bool perf;       /* /tmp/perf-PID.map */
    bool stats;      /* count what costs time to count (-o stats=exit) */
    uint64_t cache;  /* bytes of generated code, for each vCPU */
    uint64_t threshold;            /* times that a block is interpreted before it is translated */
    uint64_t exits;                /* generated code is left without a reason once in so many times; 0: never */
    uint64_t tlb;                  /* first-level entries that hold something at the same time: 1 to TLB_ENTRIES */
    uint32_t without[CPUID_WORDS]; /* features that the host is taken not to have */
};

void jit_options_default(struct jit_options *);
/* text: "name=value,...", NULL for the defaults. 0; -EINVAL with one line in why[n], -ENOMEM. Any thread. */
int jit_options_parse(struct jit_options *, const char *text, char *why, size_t n);

/* NULL, or which feature the translator needs and this host does not have. Any thread. */
const char *jit_host_lacks(const struct jit_options *);

/* Whether the code that runs now is of the kind that is translated. */
static inline bool jit_serves(const struct cpu *cpu)
{
    const uint32_t flat32 = MODE_32 | MODE_STACK32 | MODE_FLAT_CS | MODE_FLAT_SS | MODE_FLAT_DS | MODE_FLAT_ES;
    /* Privilege levels 1 and 2 share the TLB's sets with 0, but not what they may do. */
    return cpu->jit && (cpu->mode == MODE_64 || cpu->mode == flat32) && cpu->tlb != &cpu->tlb_sets[TLB_USER_AC] &&
           cpu->cpl % 3 == 0;
}

/*
 * Gives a CPU of cpu_new() its translator; cpu_free() takes it away.
 * The options are vm->accel_options. -ENOTSUP: the CPU is to be interpreted, since jit=off, or the host lacks a
 * feature, or gives no memory for generated code (a warning has said so); other errors: options that cannot be kept.
 */
int jit_new(struct cpu *);
void jit_free(struct cpu *);

/*
 * Runs generated code from cpu->rip on until there is none. False: the
 * instruction at cpu->rip is to be interpreted. May raise (a fetch).
 */
bool jit_run(struct cpu *);
/* Whether that instruction is in the midst of generated code: else none begins there. */
bool jit_was_left(const struct cpu *);
/* A block that had no generated code when it was looked for: whether it need not be looked for again. */
bool jit_lets_wait(struct cpu *, const struct block *);
/* A block was interpreted; compiles it when that has happened often enough. */
void jit_count(struct cpu *, struct block *);

/*
 * For tests: translates what is at cpu->rip, without waiting for it to be worth while. False: its first instruction is
 * for the interpreter. Who changes the code later calls jit_invalidate() himself, unless it was interpreted before.
 * May raise (a fetch).
 */
bool jit_at_once(struct cpu *);

/* Code of these 64-byte chunks of a guest page was overwritten; all code is void. */
void jit_invalidate(struct cpu *, uint64_t gpa, uint64_t chunks);
void jit_flush(struct cpu *);
/* The 2^shift bytes around lin are translated anew; all pages are, or all that are not global. */
void jit_unmap_page(struct cpu *, uint64_t lin, unsigned shift);
void jit_unmap(struct cpu *, bool globals);
/* The TLB has lost entries. */
void jit_forget_recent(struct cpu *);

struct jit_stats {
    uint64_t blocks, insns, bytes, links, flushes, dropped;
    uint64_t enters, interps;
    uint64_t left_request, left_guard, left_in_page, left_cross_page,
        left_indirect;      /* generated code was left, but not for the interpreter */
    uint64_t fills, filled; /* TLB misses of generated code; those after which it went on */
    uint64_t solos;         /* others that went on in a solo block */
};
const struct jit_stats *jit_stats(const struct jit *);
/* Logs them as those of CPU n. Its thread, or when it has stopped. */
void jit_stats_print(struct cpu *, unsigned n);

#endif
