/*
 * Native fuzz: one instruction on the host's CPU and in the interpreter, from
 * the same registers, flags and memory; every defined bit of the outcome is
 * compared.
 *
 *     gen.c     makes cases: an encoding of a row of the form tables and a
 *               state in which it does something interesting
 *     native.c  runs a batch of cases on this CPU, in a child process
 *     soft.c    runs a case in the interpreter, or as generated code
 *     flags.c   which flags an instruction leaves undefined
 *     main.c    compares, reports, counts
 */
#ifndef XHYVE_TESTS_FUZZ_H
#define XHYVE_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/form.h"
#include "x86/decode.h"

#define BATCH 1024

/* Every case has a slot of its own in the code area, filled with INT3 around the instruction. */
#define CODE_BASE UINT64_C(0x23450000)
#define SLOT_SIZE 256
#define SLOT_ENTRY 128
#define CODE_SIZE (BATCH * SLOT_SIZE)

/* Data: two writable pages, a hole, a read-only page, a hole. Nothing is mapped before it either. */
#define DATA_BASE UINT64_C(0x12340000)
#define DATA_SIZE 0x2000
#define DATA_READONLY (DATA_BASE + 0x3000)
#define DATA_SPAN 0x4000

#define GS_BASE UINT64_C(0x0f001230) /* what a gs: override adds in 64-bit mode */

/*
 * A batch runs in one mode. In the last two, DS, ES, SS and GS start a page
 * before the data and CS at the code (16-bit code: at its own 64 KiB), with
 * limits that cut the read-only page in halves. SS of 16-bit code expands down
 * and leaves out the page before the data; GS is read-only, FS null.
 */
enum fuzz_mode { FUZZ_64, FUZZ_32, FUZZ_SEG32, FUZZ_SEG16, FUZZ_MODES };
#define SEG_BASE (DATA_BASE - 0x1000)
#define SEG_LIMIT 0x47ff
#define SEG_DOWN_LIMIT 0x0fff
#define CODE16_SLOTS (0x10000 / SLOT_SIZE)

static inline unsigned fuzz_bits(enum fuzz_mode m) { return m == FUZZ_64 ? 64 : m == FUZZ_SEG16 ? 16 : 32; }
static inline bool fuzz_segmented(enum fuzz_mode m) { return m >= FUZZ_SEG32; }
/* What CS adds to RIP. */
static inline uint64_t fuzz_code_base(enum fuzz_mode m, unsigned slot)
{
    return m == FUZZ_SEG32 ? CODE_BASE : m == FUZZ_SEG16 ? CODE_BASE + slot / CODE16_SLOTS * 0x10000 : 0;
}

struct fuzz_state {
    uint64_t reg[16], rip, rflags;
    uint8_t xsave[832] __attribute__((aligned(64))); /* standard format; used by cases with `vector_state` */
};

#define NO_VECTOR 0xff

struct fuzz_outcome {
    struct fuzz_state s;
    uint32_t vector, error; /* the exception, or NO_VECTOR */
    uint64_t cr2;
    uint64_t memory; /* hash of the writable data */
};

struct fuzz_poke {
    uint64_t addr; /* in the writable data; 0: none */
    uint8_t bytes[16];
};

/* A larger piece of data, for vector and x87 instructions. */
struct fuzz_image {
    uint64_t addr; /* 0: none */
    uint16_t len;
    uint8_t bytes[832];
};

struct fuzz_case {
    uint8_t bytes[16];
    uint8_t len;
    uint8_t mode; /* enum fuzz_mode */
    bool vector_state;
    uint16_t slot;
    uint64_t rip; /* of its entry: an offset in CS */
    ZydisMnemonic mnemonic;
    op_fn *fn; /* what it was lowered to */
    struct fuzz_poke poke[2];
    struct fuzz_image image;
    struct fuzz_state in;
    struct fuzz_outcome native;
};

/* Shared with the child. */
struct fuzz_batch {
    volatile uint32_t next; /* the case being run */
    uint32_t end;
    struct fuzz_case cases[BATCH];
};

struct rng {
    uint64_t s;
};
static inline uint64_t rng_next(struct rng *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * UINT64_C(0x2545f4914f6cdd1d);
}
static inline uint32_t rng_below(struct rng *r, uint32_t n) { return (uint32_t)((rng_next(r) >> 32) * n >> 32); }
/* A number of the sort that finds bugs: edges of all widths, single bits, small and random ones. */
uint64_t rng_value(struct rng *);

static inline uint64_t memory_hash(const void *p0, const void *p1)
{
    uint64_t h[4] = {1, 2, 3, 4};
    const uint64_t *p[2] = {p0, p1};
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < 512; i += 4)
            for (unsigned j = 0; j < 4; j++) {
                h[j] = (h[j] ^ p[k][i + j]) * UINT64_C(0x9e3779b97f4a7c15);
                h[j] ^= h[j] >> 29; /* or the topmost bits would be lost below */
            }
    return h[0] ^ h[1] << 1 ^ h[2] << 2 ^ h[3] << 3;
}

/* -- soft.c -- */
struct soft;
struct soft *soft_new(void);
/* From now on what can be translated is. -errno. */
int soft_translate(struct soft *);
uint64_t soft_translated(const struct soft *); /* cases that ran as generated code */
void soft_free(struct soft *);
void soft_lower(struct soft *, const struct fuzz_case *, const struct insn *, struct op *op);
void soft_run(struct soft *, const struct fuzz_case *, struct fuzz_outcome *out);
uint8_t *soft_page(struct soft *, unsigned page); /* data page 0 or 1, or the read-only one as 3 */
/* Instead of soft_translate(): blocks in lockstep. */
int soft_lockstep(struct soft *, const char *options);
bool soft_run_block(struct soft *, const struct fuzz_case *, const uint8_t *code, unsigned len, uint64_t *compared);
bool soft_has(const struct soft *, unsigned feature);
uint64_t soft_fs_base(void);

/* -- gen.c: false if the row cannot be encoded, or not so. -- */
bool gen_case(struct soft *, struct rng *, const struct form *, unsigned size, enum fuzz_mode, unsigned slot,
              struct fuzz_case *out);

/* A case of random bytes: an instruction of the tables, or none at all. */
bool gen_raw(struct soft *, struct rng *, enum fuzz_mode, unsigned slot, struct fuzz_case *out);

/* -- native.c -- */
struct native {
    struct fuzz_batch *batch; /* shared with the child */
    uint8_t *code;            /* CODE_SIZE, as the child sees it at CODE_BASE */
    uint8_t *data;            /* DATA_SPAN, as the child sees it at DATA_BASE */
    bool can[FUZZ_MODES];     /* which modes this kernel lets us run */
};
int native_init(struct native *);
/* Runs cases [from, to); returns the index of the first that was not completed (`to` if all were). */
unsigned native_run(struct native *, unsigned from, unsigned to);

/* -- flags.c: the bits of RFLAGS that say something after this case, and what else the manual leaves open -- */
uint64_t defined_flags(const struct fuzz_case *, const struct insn *, bool exact);
bool outcome_undefined(const struct fuzz_case *, const struct insn *);
bool fault_order_undefined(const struct insn *);

#endif
