/*
 * Lazy arithmetic flags.
 *
 * An instruction stores its sign-extended result in fz and fs and a vector of
 * carry-outs in fc; each flag is computed when somebody asks:
 *
 *     ZF = (fz == 0)      SF = (fs < 0)      PF = even parity of fs bits 7:0
 *     CF = fc bit 31      OF = fc bit 31 ^ bit 30      AF = fc bit 3
 *
 * Two result words, so that POPF and SAHF can set any combination.
 */
#ifndef XHYVE_CPU_FLAGS_H
#define XHYVE_CPU_FLAGS_H

#include "cpu/cpu.h"

#define FC_CF (1u << 31)
#define FC_CF_XOR_OF (1u << 30)
#define FC_AF (1u << 3)

static inline bool flag_cf(const struct cpu *c) { return c->fc >> 31; }
static inline bool flag_zf(const struct cpu *c) { return c->fz == 0; }
static inline bool flag_sf(const struct cpu *c) { return c->fs < 0; }
static inline bool flag_of(const struct cpu *c) { return (c->fc ^ c->fc << 1) >> 31; }
static inline bool flag_af(const struct cpu *c) { return c->fc >> 3 & 1; }
static inline bool flag_pf(const struct cpu *c)
{
    unsigned v = (unsigned)c->fs & 0xff;
    return 0x9669u >> ((v ^ v >> 4) & 15) & 1; /* one bit for each nibble value: even parity */
}

/* The whole of RFLAGS, and its arithmetic part (RFL_ARITH bits of v). */
static inline uint32_t cpu_rflags(const struct cpu *c)
{
    return c->eflags | (uint32_t)flag_cf(c) | (uint32_t)flag_pf(c) << 2 | (uint32_t)flag_af(c) << 4 |
           (uint32_t)flag_zf(c) << 6 | (uint32_t)flag_sf(c) << 7 | (uint32_t)flag_of(c) << 11;
}
static inline void cpu_set_arith_flags(struct cpu *c, uint32_t v)
{
    c->fz = ~v & RFL_ZF;
    /* bit 0 alone has odd parity, none has even */
    c->fs = (int64_t)((uint64_t)(v & RFL_SF) << 56 | (~v >> 2 & 1));
    c->fc = (v & RFL_CF) << 31 | ((v ^ v >> 11) & 1) << 30 | (v & RFL_AF) >> 1;
}
/* Everything at once; the caller has masked what it may not change. AC and VM: cpu_mode_changed(). */
static inline void cpu_set_rflags(struct cpu *c, uint32_t v)
{
    cpu_set_arith_flags(c, v);
    c->eflags = (v & ~RFL_ARITH) | RFL_FIXED;
}

/* CF and OF alone; the others stay. */
static inline void flags_set_cf_of(struct cpu *c, unsigned cf, unsigned of)
{
    c->fc = (c->fc & FC_AF) | cf << 31 | (cf ^ of) << 30;
}
/* CF alone: OF must keep its value, and so bit 30 follows bit 31. */
static inline void flags_set_cf(struct cpu *c, unsigned cf) { flags_set_cf_of(c, cf, flag_of(c)); }

/* ZF alone (CMPXCHG8B, LSL ...): fs keeps SF and PF. */
static inline void flags_set_zf(struct cpu *c, bool zf) { c->fz = !zf; }

/*
 * The condition of Jcc, SETcc and CMOVcc: cc is bits 3:0 of the opcode. A
 * constant cc folds to a few instructions.
 */
static inline bool flag_condition(const struct cpu *c, unsigned cc)
{
    bool v;
    switch (cc >> 1) {
    case 0: v = flag_of(c); break;
    case 1: v = flag_cf(c); break;
    case 2: v = flag_zf(c); break;
    case 3: v = (unsigned)flag_cf(c) | flag_zf(c); break;
    case 4: v = flag_sf(c); break;
    case 5: v = flag_pf(c); break;
    case 6: v = flag_sf(c) != flag_of(c); break;
    default: v = (unsigned)flag_zf(c) | (flag_sf(c) != flag_of(c)); break;
    }
    return v != (cc & 1);
}

#endif
