/*
 * A decoded instruction, as the interpreter runs it.
 *
 * Decoding an x86 instruction takes longer than executing it, so it is done
 * once: Zydis -> struct op, kept in blocks keyed by physical address and code
 * mode (cpu/block.h). 32 bytes, the handler first.
 */
#ifndef XHYVE_CPU_OP_H
#define XHYVE_CPU_OP_H

#include <stdint.h>

struct cpu;
struct op;

/*
 * A handler executes one instruction and returns the op to run next: op + 1,
 * a chained block's first op, or NULL to return to the dispatcher, which goes
 * on at cpu->rip. A fault leaves by cpu_raise(): memory is read and checked
 * first and registers are written last, so that the instruction can restart.
 */
typedef const struct op *op_fn(struct cpu *, const struct op *);

struct op {
    op_fn *fn;
    uint64_t
        imm; /* immediate, sign-extended; a direct branch's displacement; VEX.vvvv register for BMI; handlers may agree on more with their lowering */
    int64_t disp; /* of the memory operand; second immediate of ENTER, far pointers: the selector */
    uint8_t reg;  /* register operand: index 0-15; for 8-bit ones the byte offset in cpu->reg (8*n, AH..BH: 8*n+1) */
    uint8_t rm;   /* r/m operand when it is a register, likewise */
    uint8_t base, index; /* of the memory operand: 0-15, REG_ZERO or REG_IP */
    uint8_t ea;          /* EA_* kind in bits 0-1, scale (shift) in bits 2-3, segment in bits 4-6, OP_MEM in bit 7 */
    uint8_t len;         /* bytes in bits 0-3; OP_LOCK, OP_REP, OP_REPNE */
    uint16_t
        off; /* offset of the first byte in its page in bits 0-11; operand size log2 in 12-13, address size log2 in 14-15 */
};

enum { REG_ZERO = 16, REG_IP = 17, REG_FILE = 18 }; /* pseudo registers in cpu->reg[] */

enum {
    EA_64,  /* base + index + disp; no segment base (64-bit mode) */
    EA_SEG, /* the same plus a segment base: FS and GS in 64-bit mode */
    EA_FLAT, /* truncated to 32 bits; segment flat (base 0, 4 GiB, writable) or 64-bit mode with a 67h prefix and no base */
    EA_CHECK, /* anything else: 16-bit, segment bases, limits and rights (seg_linear()) */
};
#define OP_MEM 0x80
#define OP_LOCK 0x10
#define OP_REP 0x20   /* F3: REP, REPE */
#define OP_REPNE 0x40 /* F2 */

#define OP_EA_KIND(op) ((op)->ea & 3)
#define OP_SCALE(op) ((op)->ea >> 2 & 3)
#define OP_SEG(op) ((op)->ea >> 4 & 7)
#define OP_IS_MEM(op) (((op)->ea & OP_MEM) != 0)
#define OP_LEN(op) ((op)->len & 15)
#define OP_OFF(op) ((op)->off & 0xfff)
#define OP_SIZE(op) (1u << ((op)->off >> 12 & 3))  /* operand size in bytes */
#define OP_ASIZE(op) (1u << ((op)->off >> 14 & 3)) /* address size in bytes: 2, 4, 8 */

/*
 * What code bytes mean depends on this; part of a block's key.
 */
enum code_mode {
    MODE_16 = 0,
    MODE_32 = 1,
    MODE_64 = 2,
    MODE_SIZE = 3,         /* mask of the above: CS.L and CS.D */
    MODE_STACK32 = 1 << 2, /* SS.B (outside 64-bit mode) */
    MODE_FLAT_CS = 1 << 3, /* usable, base 0, limit 4 GiB - 1, and for SS, DS, ES writable: no checks needed */
    MODE_FLAT_SS = 1 << 4,
    MODE_FLAT_DS = 1 << 5,
    MODE_FLAT_ES = 1 << 6,
    MODE_STEP = 1 << 7,  /* one instruction a block: TF, interrupt shadow, breakpoints */
    MODE_LIMIT = 1 << 8, /* the same, near the limit of CS */
    MODE_REAL = 1 << 9,  /* real or virtual-8086 mode: some encodings are undefined there */
};

#endif
