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
static inline bool flag_pf(const struct cpu *c) { return !__builtin_parity((unsigned)c->fs & 0xff); }
static inline bool flag_af(const struct cpu *c) { return c->fc >> 3 & 1; }

/* The whole of RFLAGS, and its arithmetic part (RFL_ARITH bits of v). */
static inline uint32_t cpu_rflags(const struct cpu *c)
{
    return c->eflags | (flag_cf(c) ? RFL_CF : 0) | (flag_pf(c) ? RFL_PF : 0) | (flag_af(c) ? RFL_AF : 0) |
           (flag_zf(c) ? RFL_ZF : 0) | (flag_sf(c) ? RFL_SF : 0) | (flag_of(c) ? RFL_OF : 0);
}
static inline void cpu_set_arith_flags(struct cpu *c, uint32_t v)
{
    bool cf = v & RFL_CF, of = v & RFL_OF;
    c->fz = !(v & RFL_ZF);
    /* bit 0 alone has odd parity, none has even */
    c->fs = (int64_t)((v & RFL_SF ? UINT64_C(1) << 63 : 0) | (v & RFL_PF ? 0 : 1));
    c->fc = (cf ? FC_CF : 0) | (cf != of ? FC_CF_XOR_OF : 0) | (v & RFL_AF ? FC_AF : 0);
}
/* Everything at once; the caller has masked what it may not change. AC and VM: cpu_mode_changed(). */
static inline void cpu_set_rflags(struct cpu *c, uint32_t v)
{
    cpu_set_arith_flags(c, v);
    c->eflags = (v & ~RFL_ARITH) | RFL_FIXED;
}

#endif
