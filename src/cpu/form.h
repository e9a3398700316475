/*
 * The table of instruction forms: what the decoder knows, in one place. A row
 * names a Zydis mnemonic, a pattern of explicit operands, the CPUID feature it
 * needs and a handler for each operand size. The interpreter's lowering takes
 * the first row that matches; the native fuzzer walks the same rows.
 */
#ifndef XHYVE_CPU_FORM_H
#define XHYVE_CPU_FORM_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/op.h"
#include "x86/cpuid.h"

/*
 * Visible operands, destination first: R general register, M memory, I
 * immediate, S segment, C control and D debug register.
 *
 * A named pattern fills the op by position: the first register goes to
 * op->reg, a second one to op->rm, VEX.vvvv in third place or in the middle to
 * op->imm. PAT_ANY fills it by encoding: ModRM.rm goes to op->rm, another
 * register to op->reg (a further one to op->rm). Immediates: op->imm, the
 * second one (ENTER, selector of a far pointer) op->disp. Instructions whose
 * only memory operand is hidden (strings, XLAT, MONITOR) have base, segment
 * and kind of the overridable one in op->ea without OP_MEM.
 *
 * Direct near branches have their displacement in op->imm and their target
 * relative to cpu->reg[REG_IP] in op->disp.
 */
enum form_pattern {
    PAT_ANY, /* whatever: the handler looks at OP_IS_MEM() itself */
    PAT_NONE,
    PAT_R,
    PAT_M,
    PAT_I,
    PAT_R_R,
    PAT_R_M,
    PAT_M_R,
    PAT_R_I,
    PAT_M_I,
    PAT_R_R_I,
    PAT_R_M_I,
    PAT_M_R_I, /* IMUL, SHLD, RORX */
    PAT_R_R_R,
    PAT_R_R_M,
    PAT_R_M_R, /* VEX-encoded BMI: ANDN, BZHI, SHLX ... */
    PAT_M_R_R, /* SHLD by CL */
    PAT_R_R8,
    PAT_R_M8, /* the source alone is of 8 bits: MOVZX, MOVSX, CRC32 */
    PAT_S,
    PAT_R_S,
    PAT_M_S,
    PAT_S_R,
    PAT_S_M,
    PAT_R_C,
    PAT_C_R,
    PAT_R_D,
    PAT_D_R,
    /* Far branches (meta.branch_type FAR) match these and nothing else: ptr16:16/32 (imm = offset, disp = selector), m16:n, RETF, RETF imm. */
    PAT_FAR_P,
    PAT_FAR_M,
    PAT_FAR,
    PAT_FAR_I, /* the last ones: lower.c compares */
};

enum {
    FORM_LOCK = 1, /* LOCK allowed on the memory form; a row without does not match it */
    FORM_NO64 = 2, /* #UD in 64-bit mode */
    FORM_ONLY64 = 4,
    FORM_END = 8,     /* ends a block: the handler always leaves by NULL or a chain */
    FORM_NOFUZZ = 16, /* privileged or not reproducible natively */
    FORM_EA64 = 32,   /* a fast variant: matches memory operands of kind EA_64 only */
    FORM_BASE = 128,  /* a faster variant: kind EA_64 without an index register */
    FORM_NEAR = 64,   /* a fast variant: RIP is not truncated, the branch target lies in the same page */
};

struct form {
    uint16_t mnemonic; /* ZydisMnemonic */
    uint8_t pattern;
    uint8_t flags;
    uint16_t feature; /* enum x86_feature, 0 = always there */
    op_fn *fn[4];     /* by operand size 1, 2, 4, 8; NULL = no such form */
};

/* One table a topic; form.c lists them all. */
struct form_table {
    const struct form *rows;
    size_t nrows;
};
extern const struct form_table forms_alu, forms_mov, forms_shift, forms_muldiv, forms_bits, forms_stack, forms_branch,
    forms_string;
extern const struct form_table forms_system, forms_control, forms_segment, forms_far, forms_call, forms_io, forms_state;

/*
 * An instruction taken apart by Zydis, in the mode given: see x86/decode.h.
 * lower_insn() fills *op (off and fn too); what no row matches goes to
 * vec_lower(), and what that does not know gets a handler that raises #UD.
 * Sets *ends if the block ends with it.
 */
struct insn;
void lower_insn(struct cpu *, const struct insn *, unsigned page_off, struct op *op, bool *ends);

/* x87, MMX, SSE, AVX: cpu/interp/vec.c. False if it is not one of its. */
bool vec_lower(struct cpu *, const struct insn *, struct op *op);

/* All rows of a mnemonic, in the order of the tables: their number, and *rows to the first. Any thread. */
size_t form_rows(ZydisMnemonic, const struct form *const **rows);

/* Handlers that others use. */
op_fn op_ud; /* raises #UD */

#endif
