/*
 * x87, MMX, SSE and AVX: run on the host's own units.
 *
 * For each distinct encoding a stub is generated once: it loads the vector
 * registers that the instruction names from the guest's XSAVE image, executes
 * the instruction itself with its memory operand replaced by [rsi] and its
 * general register by rax, and stores the results. Memory is read and written
 * in C, before and after, so a stub cannot fault.
 *
 * Only hosts that are x86-64 can do this; elsewhere vec_lower() knows nothing
 * and CPUID must not offer these features.
 */
#ifndef XHYVE_CPU_INTERP_VEC_H
#define XHYVE_CPU_INTERP_VEC_H

#include <stdbool.h>
#include <stdint.h>

#include "cpu/cpu.h"
#include "os/jitmem.h"
#include "x86/decode.h"

/*
 * Arguments: the XSAVE image, memory operand, (unused), guest flags in, guest GPRs, MXCSR frame. Returns host flags if
 * VEC_FLAGS.
 */
typedef uint64_t vec_stub(uint8_t *xsave, void *mem, uint64_t unused, uint64_t flags, uint64_t *gpr, uint32_t *mxcsr);

enum {
    VEC_LOAD = 1 << 0,     /* reads its memory operand */
    VEC_STORE = 1 << 1,    /* writes it */
    VEC_ALIGN = 1 << 2,    /* which must be aligned to its size */
    VEC_MXCSR = 1 << 3,    /* rounds or raises by MXCSR */
    VEC_FLAGS = 1 << 4,    /* writes the arithmetic flags */
    VEC_FLAGS_IN = 1 << 5, /* reads them (FCMOVcc) */
    VEC_VEX = 1 << 6,
    VEC_FULL = 1 << 7, /* MMX and x87: the whole legacy state goes in and out by FXRSTOR and FXSAVE */
    VEC_X87 = 1 << 8,
    VEC_NOWAIT = 1 << 9,   /* x87: does not look for pending exceptions first */
    VEC_CONTROL = 1 << 10, /* x87: leaves FIP, FDP and FOP alone */
    VEC_HALF = 1 << 11,    /* VCVTPS2PH */
    VEC_XMM = 1 << 12,     /* MMX with an XMM register beside it: asks for OSFXSR */
};

#define VEC_CODE_MAX 16 /* bytes of an instruction as emitted */
#define VEC_KEY_MAX (VEC_CODE_MAX + 4)

/* One distinct encoding. */
struct vec_insn {
    vec_stub *fn;
    uint16_t flags;
    uint16_t fop;     /* x87: last-instruction opcode */
    uint8_t mem_size; /* bytes of the memory operand, 0 if none */
    uint8_t natural;  /* its alignment by EFLAGS.AC */
    uint8_t key_len;
    uint8_t key[VEC_KEY_MAX]; /* the encoding as emitted, and the guest GPR behind it */
    struct vec_insn *next;
};

struct vec_cache {
    struct os_jitmem code;
    size_t used;
    struct vec_insn **hash;
    struct vec_insn *insns; /* an array */
    unsigned ninsns;
};

int vec_cache_new(struct vec_cache **out);
void vec_cache_free(struct vec_cache *);

/* How an instruction is to be emitted: filled by vec_lower.c, read by vec_stub.c. */
struct vec_plan {
    uint8_t code[VEC_CODE_MAX]; /* the instruction, operands replaced */
    uint8_t code_len;
    uint16_t flags;
    uint16_t vec_read, vec_write; /* XMM/YMM registers to load and store */
    bool ymm;                     /* 256 bits wide */
    int8_t gpr;                   /* guest register behind rax, or -1 */
    bool gpr_read, gpr_write;
    bool str_lengths; /* PCMPESTRx: lengths in RAX and RDX */
    bool str_index;   /* PCMPxSTRI: index to RCX */
    uint8_t mem_size, natural;
    uint16_t fop;
};

/*
 * What there is to know of a vector or x87 instruction; false: it is none that this CPU offers. Element-wise memory forms
 * (vec_mem.c) and x87 control (x87_env.c) have plans that say nothing: who asks must tell them apart first.
 */
bool vec_plan_of(const struct cpu *, const struct insn *, struct vec_plan *);

/* The cached stub for a plan, made if need be; NULL: the cache is full. */
struct vec_insn *vec_stub_get(struct vec_cache *, const struct vec_plan *);
void vec_cache_reset(struct vec_cache *);

/* Raises #UD, #NM as SSE, AVX and x87 instructions do before anything else. */
void vec_check_sse(struct cpu *);
void vec_check_avx(struct cpu *);
void vec_check_mmx(struct cpu *, bool xmm); /* xmm: an XMM register takes part */
void vec_check_x87(struct cpu *, bool waits);

/* What a use of MMX registers does to the x87 state: TOP is 0, all are valid. FXSAVE order is that of the stack. */
void vec_mmx_transition(struct cpu *);
/* TOP changes, the registers stay: their order in the image follows. */
void x87_turn(struct cpu *, unsigned top);

op_fn op_vec, op_vec_half, op_vec_sse_rr, op_x87, op_vec_full;
/* vec_mem.c: element-wise memory forms; op->imm tells which, op->reg, op->rm and op->disp's register numbers. */
bool vec_mem_lower(struct cpu *, const struct insn *, struct op *op);
/* x87_env.c: FWAIT, FNSTSW, FNSTENV, FLDENV, FNSAVE, FRSTOR. */
bool x87_lower(const struct insn *, struct op *op);

/* Places in the XSAVE image. */
static inline uint8_t *xmm_low(struct cpu *cpu, unsigned n) { return cpu->xsave + 160 + 16 * n; }
static inline uint8_t *xmm_high(struct cpu *cpu, unsigned n) { return cpu->xsave + 576 + 16 * n; }
#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_ST 32
#define XSAVE_X87_END 160 /* where the XMM registers begin */
#define FCW_BITS 0x1f3fu  /* that can be written; bit 6 is always set */

#define FSW_ES 0x80u
#define FSW_B 0x8000u

/*
 * An unmasked x87 exception waits. It is told from the flags and masks as the
 * host tells it, not from FSW.ES: were the two to differ, a stub would meet
 * #MF in the host.
 */
static inline bool x87_pending(const struct cpu *cpu)
{
    const uint8_t *x = cpu->xsave;
    return x[XSAVE_FSW] & ~x[XSAVE_FCW] & 0x3f;
}

/* FSW.ES and FSW.B follow from the flags and masks, whatever was loaded. */
static inline void x87_fix_summary(struct cpu *cpu)
{
    uint8_t *fsw = cpu->xsave + XSAVE_FSW;
    bool pending = x87_pending(cpu);
    fsw[0] = (uint8_t)((fsw[0] & ~FSW_ES) | (pending ? FSW_ES : 0));
    fsw[1] = (uint8_t)((fsw[1] & ~(FSW_B >> 8)) | (pending ? FSW_B >> 8 : 0));
}

#endif
