/*
 * Emitting x86-64 machine code (SDM vol. 2 chapter 2): bytes, moves, addresses,
 * jumps. Nothing here touches the arithmetic flags of the emitted code unless
 * its name says so.
 */
#ifndef XHYVE_CPU_JIT_EMIT_H
#define XHYVE_CPU_JIT_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Host registers. H_NONE: no base, no index. */
enum host_reg {
    H_NONE = -1,
    H_AX,
    H_CX,
    H_DX,
    H_BX,
    H_SP,
    H_BP,
    H_SI,
    H_DI,
    H_8,
    H_9,
    H_10,
    H_11,
    H_12,
    H_13,
    H_14,
    H_15,
    H_CTX = H_SP, /* the vCPU's context */
};

struct emit {
    uint8_t *p; /* in the writable mapping */
};

/* An address: base + (index << scale) + disp. */
struct addr {
    int8_t base, index; /* enum host_reg; the index is not H_SP */
    uint8_t scale;
    int32_t disp;
};

static inline struct addr at(int base, int32_t disp)
{
    return (struct addr){.base = (int8_t)base, .index = H_NONE, .disp = disp};
}
static inline struct addr at_index(int base, int index, unsigned scale, int32_t disp)
{
    return (struct addr){.base = (int8_t)base, .index = (int8_t)index, .scale = (uint8_t)scale, .disp = disp};
}

static inline void e8(struct emit *e, unsigned v) { *e->p++ = (uint8_t)v; }
static inline void e16(struct emit *e, unsigned v)
{
    e8(e, v);
    e8(e, v >> 8);
}
static inline void e32(struct emit *e, uint32_t v)
{
    memcpy(e->p, &v, 4);
    e->p += 4;
}
static inline void e64(struct emit *e, uint64_t v)
{
    memcpy(e->p, &v, 8);
    e->p += 8;
}

/* ModRM, SIB and displacement of a memory operand. */
static inline void e_mem(struct emit *e, unsigned reg, struct addr a)
{
    unsigned r = (reg & 7) << 3;
    if (a.base == H_NONE) {
        e8(e, r | 4);
        e8(e, (unsigned)(a.scale << 6) | (unsigned)((a.index == H_NONE ? 4 : a.index & 7) << 3) | 5);
        e32(e, (uint32_t)a.disp);
        return;
    }
    unsigned b = (unsigned)a.base & 7;
    unsigned mod = a.disp == 0 && b != 5 ? 0 : a.disp == (int8_t)a.disp ? 1 : 2;
    if (a.index == H_NONE && b != 4) {
        e8(e, mod << 6 | r | b);
    } else {
        e8(e, mod << 6 | r | 4);
        e8(e, (unsigned)(a.scale << 6) | (unsigned)((a.index == H_NONE ? 4 : a.index & 7) << 3) | b);
    }
    if (mod == 1)
        e8(e, (uint8_t)a.disp);
    else if (mod == 2)
        e32(e, (uint32_t)a.disp);
}

/* REX bits of a memory operand and a register. */
static inline unsigned rex_mem(unsigned reg, struct addr a)
{
    return (reg >> 3) << 2 | (a.index >= 8 ? 2u : 0) | (a.base >= 8 ? 1u : 0);
}

/* op reg, [a]: a one-byte opcode; w: 64 bits wide. */
static inline void e_op_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, struct addr a)
{
    unsigned rex = rex_mem(reg, a) | (w ? 8u : 0);
    if (rex)
        e8(e, 0x40 | rex);
    e8(e, opcode);
    e_mem(e, reg, a);
}
static inline void e_op_rr(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    unsigned rex = (reg >> 3) << 2 | rm >> 3 | (w ? 8u : 0);
    if (rex)
        e8(e, 0x40 | rex);
    e8(e, opcode);
    e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void e_mov(struct emit *e, unsigned dst, unsigned src) { e_op_rr(e, true, 0x89, src, dst); }
static inline void e_mov32(struct emit *e, unsigned dst, unsigned src) { e_op_rr(e, false, 0x89, src, dst); }
static inline void e_load(struct emit *e, unsigned dst, struct addr a) { e_op_mem(e, true, 0x8b, dst, a); }
static inline void e_load32(struct emit *e, unsigned dst, struct addr a) { e_op_mem(e, false, 0x8b, dst, a); }
static inline void e_store(struct emit *e, unsigned src, struct addr a) { e_op_mem(e, true, 0x89, src, a); }
static inline void e_store32(struct emit *e, unsigned src, struct addr a) { e_op_mem(e, false, 0x89, src, a); }
static inline void e_lea(struct emit *e, unsigned dst, struct addr a) { e_op_mem(e, true, 0x8d, dst, a); }
static inline void e_lea32(struct emit *e, unsigned dst, struct addr a) { e_op_mem(e, false, 0x8d, dst, a); }

static inline void e_mov_imm(struct emit *e, unsigned dst, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (dst >= 8)
            e8(e, 0x41);
        e8(e, 0xb8 | (dst & 7));
        e32(e, (uint32_t)v);
    } else if ((int64_t)v == (int32_t)v) {
        e8(e, 0x48 | dst >> 3);
        e8(e, 0xc7);
        e8(e, 0xc0 | (dst & 7));
        e32(e, (uint32_t)v);
    } else {
        e8(e, 0x48 | dst >> 3);
        e8(e, 0xb8 | (dst & 7));
        e64(e, v);
    }
}
/* mov dword [a], imm */
static inline void e_store_imm32(struct emit *e, struct addr a, uint32_t v)
{
    e_op_mem(e, false, 0xc7, 0, a);
    e32(e, v);
}

/* Instructions of BMI2 leave the flags alone. dst, src: two registers; map, pp, vvvv: fields of the VEX prefix. */
static inline void e_bmi(struct emit *e, unsigned map, bool w, unsigned vvvv, unsigned pp, unsigned opcode,
                         unsigned dst, unsigned src)
{
    e8(e, 0xc4);
    e8(e, (dst < 8 ? 0x80 : 0) | 0x40 | (src < 8 ? 0x20 : 0) | map);
    e8(e, (w ? 0x80 : 0) | (~vvvv & 15) << 3 | pp);
    e8(e, opcode);
    e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}
/* rorx dst, src, n */
static inline void e_rorx(struct emit *e, bool w, unsigned dst, unsigned src, unsigned n)
{
    e_bmi(e, 3, w, 0, 3, 0xf0, dst, src);
    e8(e, n);
}
/* shlx and shrx dst, src, count, all of them registers, of 64 bits */
static inline void e_shlx(struct emit *e, unsigned dst, unsigned src, unsigned n)
{
    e_bmi(e, 2, 1, n, 1, 0xf7, dst, src);
}
static inline void e_shrx(struct emit *e, unsigned dst, unsigned src, unsigned n)
{
    e_bmi(e, 2, 1, n, 3, 0xf7, dst, src);
}

/* pext dst, src, [a] */
static inline void e_pext(struct emit *e, unsigned dst, unsigned src, struct addr a)
{
    unsigned rxb = rex_mem(dst, a) ^ 7;
    e8(e, 0xc4);
    e8(e, rxb << 5 | 2);
    e8(e, 0x80 | (~src & 15) << 3 | 2);
    e8(e, 0xf5);
    e_mem(e, dst, a);
}

/* -- jumps: each returns the place of its displacement, for e_join() -- */

static inline uint8_t *e_jmp32(struct emit *e)
{
    e8(e, 0xe9);
    e32(e, 0);
    return e->p - 4;
}
static inline uint8_t *e_jcc32(struct emit *e, unsigned cc)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cc);
    e32(e, 0);
    return e->p - 4;
}
static inline uint8_t *e_call32(struct emit *e)
{
    e8(e, 0xe8);
    e32(e, 0);
    return e->p - 4;
}
static inline uint8_t *e_jrcxz(struct emit *e)
{
    e8(e, 0xe3);
    e8(e, 0);
    return e->p - 1;
}
static inline void e_join32(uint8_t *at32, const uint8_t *to)
{
    int32_t d = (int32_t)(to - (at32 + 4));
    memcpy(at32, &d, 4);
}
static inline void e_join8(uint8_t *at8, const uint8_t *to) { *at8 = (uint8_t)(to - (at8 + 1)); }
static inline void e_jmp_to(struct emit *e, const uint8_t *to) { e_join32(e_jmp32(e), to); }

enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

#endif
