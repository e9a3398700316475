/*
 * Native fuzz of the vector and x87 instructions, whose forms are in no table:
 *
 *     vec_enum.c   walks all opcodes and finds those that lowering takes
 *     vec_state.c  registers, control words and memory that find bugs
 *     vec_gen.c    makes a case: an encoding, a state, an address
 *     vec_main.c   compares, reports, counts
 */
#ifndef XHYVE_TESTS_VEC_FUZZ_H
#define XHYVE_TESTS_VEC_FUZZ_H

#include "fuzz.h"

enum vec_encoding { VEC_LEGACY, VEC_X87_ESC, VEC_VEX_ENC, VEC_FWAIT };

/* One opcode, and what of ModRM belongs to it. */
struct vec_template {
    uint8_t encoding; /* enum vec_encoding */
    uint8_t map;      /* 1: 0F, 2: 0F38, 3: 0F3A */
    uint8_t pp;       /* none, 66, F3, F2 */
    uint8_t opcode;
    uint8_t w, l;
    bool memory;
    uint8_t reg, rm; /* 8: any */
    uint16_t mnemonic;
    uint16_t isa_set; /* ZydisISASet */
};

struct vec_set {
    struct vec_template *t; /* by mnemonic */
    size_t n, room;
    size_t *first; /* of each mnemonic that there is, and n behind the last */
    size_t nmnemonics;
};

/* What the soft CPU takes in this mode, and what it does not though it is valid. */
void vec_enumerate(struct soft *, enum fuzz_mode, struct vec_set *taken, struct vec_set *refused);
void vec_set_free(struct vec_set *);

struct vec_spelling {
    bool segment, address_size, more; /* prefixes that an encoding may do without */
};
/* Bytes of an instruction of the template, of random operands, and then some. Returns their number, at most 15. */
unsigned vec_encode(const struct vec_template *, struct rng *, enum fuzz_mode, struct vec_spelling, uint8_t out[16]);

bool vec_gen_case(struct soft *, struct rng *, const struct vec_template *, enum fuzz_mode, unsigned slot,
                  struct fuzz_case *out);

/* A whole image, consistent in itself. */
void vec_random_image(struct rng *, uint8_t image[832]);
/* Sixteen bytes as an operand. */
void vec_random_operand(struct rng *, uint8_t out[16]);
/* An x87 operand in memory. */
void vec_random_x87_operand(struct rng *, uint8_t out[16]);
/* FNSTENV's image, or FNSAVE's, in the given format. Returns its length. */
unsigned vec_random_env(struct rng *, bool wide, bool registers, uint8_t out[108]);

#endif
