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

/* Explicit operands, destination first: R general register, M memory, I immediate, X anything. */
enum form_pattern {
    PAT_ANY, /* whatever: the handler looks at OP_IS_MEM() itself */
    PAT_NONE,
    PAT_R, PAT_M, PAT_I,
    PAT_R_R, PAT_R_M, PAT_M_R, PAT_R_I, PAT_M_I,
    PAT_R_R_I, PAT_R_M_I, PAT_M_R_I, /* IMUL, SHLD, RORX */
    PAT_R_R_R, PAT_R_R_M, PAT_R_M_R, /* VEX-encoded BMI: ANDN, BZHI, SHLX ... */
};

enum { FORM_LOCK = 1 /* LOCK allowed on the memory form */, FORM_NO64 = 2 /* #UD in 64-bit mode */, FORM_ONLY64 = 4,
       FORM_END = 8 /* ends a block: the handler always leaves by NULL or a chain */,
       FORM_NOFUZZ = 16 /* privileged or not reproducible natively */ };

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
extern const struct form_table forms_alu, forms_mov, forms_shift, forms_muldiv, forms_bits, forms_stack, forms_branch, forms_string;
extern const struct form_table forms_system, forms_segment, forms_far, forms_io, forms_state;

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

/* Handlers that others use. */
op_fn op_ud; /* raises #UD */

#endif
