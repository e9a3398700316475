/*
 * String instructions: MOVS STOS LODS SCAS CMPS with their repeat prefixes
 * (SDM vol. 2, vol. 1 section 7.3.9).
 *
 * A repeated instruction works page by page where its operands hit the TLB and
 * go upwards, else element by element. Registers always tell how far it has
 * come, so a fault in the middle is exact, and it can stop for an exit request
 * and be started again.
 */
#include "cpu/block.h"
#include "cpu/interp/operand.h"

/* One of the two operands: DS:rSI (or another segment) and ES:rDI. */
struct stream {
    unsigned reg, seg, kind;
};

static inline struct stream source(const struct op *op) { return (struct stream){RSI, OP_SEG(op), OP_EA_KIND(op)}; }
static inline struct stream destination(const struct cpu *cpu, const struct op *op)
{
    unsigned asize = OP_ASIZE(op), kind = EA_CHECK;
    if ((cpu->mode & MODE_SIZE) == MODE_64)
        kind = asize == 8 ? EA_64 : EA_FLAT;
    else if (asize == 4 && cpu->mode & MODE_FLAT_ES)
        kind = EA_FLAT;
    return (struct stream){RDI, SEG_ES, kind};
}

/* Registers in the address size. */
static inline uint64_t get_addr(const struct cpu *cpu, unsigned asize, unsigned r)
{
    return asize == 8 ? cpu->reg[r] : asize == 4 ? get32(cpu, r) : get16(cpu, r);
}
static inline void set_addr(struct cpu *cpu, unsigned asize, unsigned r, uint64_t v)
{
    if (asize == 2)
        set16(cpu, r, (uint16_t)v);
    else
        cpu->reg[r] = asize == 4 ? (uint32_t)v : v;
}
static inline void advance(struct cpu *cpu, unsigned asize, unsigned r, uint64_t delta)
{
    set_addr(cpu, asize, r, cpu->reg[r] + delta);
}

/* The linear address of the current element, checked. */
static inline uint64_t stream_linear(struct cpu *cpu, const struct op *op, struct stream s, unsigned size,
                                     unsigned access)
{
    uint64_t off = get_addr(cpu, OP_ASIZE(op), s.reg);
    switch (s.kind) {
    case EA_64:
    case EA_FLAT: return off;
    case EA_SEG: return off + cpu->seg[s.seg].base;
    default: return seg_linear(cpu, s.seg, off, size, access);
    }
}

/*
 * How many bytes can be reached upwards from the current element without a
 * page boundary, a wrap of the offset or the segment's limit: 0 if that is
 * not plain to see.
 */
static uint64_t stream_span(const struct cpu *cpu, const struct op *op, struct stream s, unsigned access, uint64_t *lin)
{
    unsigned asize = OP_ASIZE(op);
    uint64_t off = get_addr(cpu, asize, s.reg), room = 4096;
    *lin = off;
    if (s.kind == EA_SEG)
        *lin += cpu->seg[s.seg].base;
    else if (s.kind == EA_CHECK) {
        const struct x86_segment *d = &cpu->seg[s.seg];
        /* Readable or writable data that grows upwards; type bits: 1 writable, 2 expand-down, 3 code. */
        uint32_t type = d->attr & SEG_TYPE;
        bool plain = (d->attr & (SEG_P | SEG_S | SEG_UNUSABLE)) == (SEG_P | SEG_S) && !(type & 0xc) &&
                     (access == MMU_READ || type & 2);
        if ((cpu->mode & MODE_SIZE) == MODE_64 || !plain || off > d->limit)
            return 0;
        *lin = (uint32_t)(d->base + off);
        room = (uint64_t)d->limit - off + 1;
        if (asize == 2 && room > 0x10000 - off)
            room = 0x10000 - off;
    }
    uint64_t page = 4096 - (*lin & 4095);
    return page < room ? page : room;
}

/* The host addresses of as many elements as can be done at once (at most count), or 0. */
static uint64_t run_of(struct cpu *cpu, const struct op *op, struct stream s, unsigned size, unsigned access,
                       uint64_t count, void **host)
{
    uint64_t lin, n = stream_span(cpu, op, s, access, &lin) / size;
    if (n == 0)
        return 0;
    *host = access == MMU_READ ? mmu_hit_r(cpu, lin, 1) : mmu_hit_w(cpu, lin, 1);
    return !*host ? 0 : n < count ? n : count;
}

/*
 * The count of a repeated instruction, 1 for another one. With a 67h prefix in
 * 64-bit mode the count, and the registers in the set `index`, lose their upper
 * halves even if nothing is done: so it is on Intel's processors.
 */
static inline uint64_t begin(struct cpu *cpu, const struct op *op, unsigned index)
{
    unsigned asize = OP_ASIZE(op);
    if (!(op->len & (OP_REP | OP_REPNE)))
        return 1;
    if (UNLIKELY(asize == 4)) {
        advance(cpu, 4, RCX, 0);
        if (index & 1u << RSI)
            advance(cpu, 4, RSI, 0);
        if (index & 1u << RDI)
            advance(cpu, 4, RDI, 0);
    }
    return get_addr(cpu, asize, RCX);
}

static inline bool repeated(const struct op *op) { return op->len & (OP_REP | OP_REPNE); }

/* Upwards and not one at a time: worth looking for runs. */
static inline bool runs_allowed(const struct cpu *cpu) { return !(cpu->eflags & RFL_DF) && !(cpu->mode & MODE_STEP); }

static inline uint64_t step_of(const struct cpu *cpu, unsigned size)
{
    return cpu->eflags & RFL_DF ? -(uint64_t)size : size;
}

/* After some work with elements left: true if the dispatcher is to be asked first (interrupts, single step). */
static inline bool must_leave(const struct cpu *cpu) { return cpu->mode & MODE_STEP || cpu_wanted(cpu); }

static const struct op *again(struct cpu *cpu, const struct op *op) { return cpu_jump(cpu, cpu_rip(cpu, op)); }

/* -- bulk work on host memory -- */

static void copy_run(void *to, const void *from, uint64_t n, unsigned size)
{
    uint64_t ahead = (uint64_t)((uintptr_t)to - (uintptr_t)from);
    if (ahead == 0 || ahead >= n * size) {
        memmove(to, from, n * size); /* not memcpy: `to` may overlap from below */
        return;
    }
    /* The copy reads what it has written: a pattern is repeated. */
    u8_mem *t = to, *f = (void *)(uintptr_t)from;
    for (uint64_t i = 0; i < n; i++, t += size, f += size)
        switch (size) {
        case 1: *t = *f; break;
        case 2: *(u16_mem *)t = *(u16_mem *)f; break;
        case 4: *(u32_mem *)t = *(u32_mem *)f; break;
        default: *(u64_mem *)t = *(u64_mem *)f; break;
        }
}

static void fill_run(void *to, uint64_t v, uint64_t n, unsigned size)
{
    uint64_t ones = size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << 8 * size) - 1;
    if ((v & ones) == (UINT64_C(0x0101010101010101) * (v & 0xff) & ones)) {
        memset(to, (int)(v & 0xff), n * size);
        return;
    }
    switch (size) {
    case 2:
        for (u16_any *t = to, *end = t + n; t < end; t++)
            *t = (uint16_t)v;
        break;
    case 4:
        for (u32_any *t = to, *end = t + n; t < end; t++)
            *t = (uint32_t)v;
        break;
    default:
        for (u64_any *t = to, *end = t + n; t < end; t++)
            *t = v;
        break;
    }
}

/* -- MOVS, STOS, LODS -- */

#define TRANSFERS(bits)                                                                                                \
    HANDLER(movs##bits)                                                                                                \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        const struct stream s = source(op), d = destination(cpu, op);                                                  \
        const unsigned asize = OP_ASIZE(op);                                                                           \
        const uint64_t step = step_of(cpu, SIZE);                                                                      \
        uint64_t count = begin(cpu, op, 1u << RSI | 1u << RDI);                                                        \
        while (count) {                                                                                                \
            void *from, *to;                                                                                           \
            uint64_t n = 0;                                                                                            \
            if (count > 1 && runs_allowed(cpu)) {                                                                      \
                n = run_of(cpu, op, s, SIZE, MMU_READ, count, &from);                                                  \
                n = n ? run_of(cpu, op, d, SIZE, MMU_WRITE, n, &to) : 0;                                               \
            }                                                                                                          \
            if (n)                                                                                                     \
                copy_run(to, from, n, SIZE);                                                                           \
            else {                                                                                                     \
                uint##bits##_t v = ld##bits(cpu, stream_linear(cpu, op, s, SIZE, MMU_READ));                           \
                st##bits(cpu, stream_linear(cpu, op, d, SIZE, MMU_WRITE), v);                                          \
                n = 1;                                                                                                 \
            }                                                                                                          \
            advance(cpu, asize, RSI, n *step);                                                                         \
            advance(cpu, asize, RDI, n *step);                                                                         \
            count -= n;                                                                                                \
            if (repeated(op)) {                                                                                        \
                set_addr(cpu, asize, RCX, count);                                                                      \
                if (count && must_leave(cpu))                                                                          \
                    return again(cpu, op);                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(stos##bits)                                                                                                \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        const struct stream d = destination(cpu, op);                                                                  \
        const unsigned asize = OP_ASIZE(op);                                                                           \
        const uint64_t step = step_of(cpu, SIZE);                                                                      \
        uint64_t count = begin(cpu, op, 1u << RDI);                                                                    \
        while (count) {                                                                                                \
            void *to;                                                                                                  \
            uint64_t n = count > 1 && runs_allowed(cpu) ? run_of(cpu, op, d, SIZE, MMU_WRITE, count, &to) : 0;         \
            if (n)                                                                                                     \
                fill_run(to, cpu->reg[RAX], n, SIZE);                                                                  \
            else {                                                                                                     \
                st##bits(cpu, stream_linear(cpu, op, d, SIZE, MMU_WRITE), get##bits(cpu, RAX));                        \
                n = 1;                                                                                                 \
            }                                                                                                          \
            advance(cpu, asize, RDI, n *step);                                                                         \
            count -= n;                                                                                                \
            if (repeated(op)) {                                                                                        \
                set_addr(cpu, asize, RCX, count);                                                                      \
                if (count && must_leave(cpu))                                                                          \
                    return again(cpu, op);                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(lods##bits)                                                                                                \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        const struct stream s = source(op);                                                                            \
        const unsigned asize = OP_ASIZE(op);                                                                           \
        uint64_t count = begin(cpu, op, 0);                                                                            \
        while (count) {                                                                                                \
            uint##bits##_t v = ld##bits(cpu, stream_linear(cpu, op, s, SIZE, MMU_READ));                               \
            set##bits(cpu, RAX, v);                                                                                    \
            advance(cpu, asize, RSI, step_of(cpu, SIZE));                                                              \
            count--;                                                                                                   \
            if (repeated(op)) {                                                                                        \
                set_addr(cpu, asize, RCX, count);                                                                      \
                if (count && must_leave(cpu))                                                                          \
                    return again(cpu, op);                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        return op + 1;                                                                                                 \
    }
TRANSFERS(8)
TRANSFERS(16)
TRANSFERS(32)
TRANSFERS(64)

/*
 * -- SCAS, CMPS: go on while ZF is as the prefix says --
 *
 * The flags of a repeated one are not written before its end: a fault on the
 * way shows those from before it (SDM vol. 2, REP). CMPS reads ES:rDI first,
 * as Intel's processors do.
 */

#define COMPARISONS(bits)                                                                                              \
    HANDLER(scas##bits)                                                                                                \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        const struct stream d = destination(cpu, op);                                                                  \
        const unsigned asize = OP_ASIZE(op);                                                                           \
        const uint64_t step = step_of(cpu, SIZE);                                                                      \
        const uint##bits##_t a = get##bits(cpu, RAX);                                                                  \
        const bool while_equal = op->len & OP_REP;                                                                     \
        uint64_t count = begin(cpu, op, 0);                                                                            \
        while (count) {                                                                                                \
            void *at;                                                                                                  \
            uint##bits##_t b;                                                                                          \
            uint64_t n = count > 1 && runs_allowed(cpu) ? run_of(cpu, op, d, SIZE, MMU_READ, count, &at) : 0;          \
            if (n) {                                                                                                   \
                u##bits##_mem *p = at;                                                                                 \
                uint64_t i = 0;                                                                                        \
                do                                                                                                     \
                    b = p[i++];                                                                                        \
                while (i < n && (a == b) == while_equal);                                                              \
                n = i;                                                                                                 \
            } else {                                                                                                   \
                b = ld##bits(cpu, stream_linear(cpu, op, d, SIZE, MMU_READ));                                          \
                n = 1;                                                                                                 \
            }                                                                                                          \
            advance(cpu, asize, RDI, n *step);                                                                         \
            count -= n;                                                                                                \
            if (!repeated(op)) {                                                                                       \
                sub_c##bits(cpu, a, b, 0);                                                                             \
                break;                                                                                                 \
            }                                                                                                          \
            set_addr(cpu, asize, RCX, count);                                                                          \
            bool done = !count || (a == b) != while_equal;                                                             \
            if (done || cpu->mode & MODE_STEP)                                                                         \
                sub_c##bits(cpu, a, b, 0);                                                                             \
            if (done)                                                                                                  \
                break;                                                                                                 \
            if (must_leave(cpu))                                                                                       \
                return again(cpu, op);                                                                                 \
        }                                                                                                              \
        return op + 1;                                                                                                 \
    }                                                                                                                  \
    HANDLER(cmps##bits)                                                                                                \
    {                                                                                                                  \
        enum { SIZE = bits / 8 };                                                                                      \
        const struct stream s = source(op), d = destination(cpu, op);                                                  \
        const unsigned asize = OP_ASIZE(op);                                                                           \
        const uint64_t step = step_of(cpu, SIZE);                                                                      \
        const bool while_equal = op->len & OP_REP;                                                                     \
        uint64_t count = begin(cpu, op, 0);                                                                            \
        while (count) {                                                                                                \
            void *from, *to;                                                                                           \
            uint##bits##_t a, b;                                                                                       \
            uint64_t n = 0;                                                                                            \
            if (count > 1 && runs_allowed(cpu)) {                                                                      \
                n = run_of(cpu, op, s, SIZE, MMU_READ, count, &from);                                                  \
                n = n ? run_of(cpu, op, d, SIZE, MMU_READ, n, &to) : 0;                                                \
            }                                                                                                          \
            if (n) {                                                                                                   \
                u##bits##_mem *p = from, *q = to;                                                                      \
                uint64_t i = 0;                                                                                        \
                do {                                                                                                   \
                    a = p[i];                                                                                          \
                    b = q[i++];                                                                                        \
                } while (i < n && (a == b) == while_equal);                                                            \
                n = i;                                                                                                 \
            } else {                                                                                                   \
                b = ld##bits(cpu, stream_linear(cpu, op, d, SIZE, MMU_READ));                                          \
                a = ld##bits(cpu, stream_linear(cpu, op, s, SIZE, MMU_READ));                                          \
                n = 1;                                                                                                 \
            }                                                                                                          \
            advance(cpu, asize, RSI, n *step);                                                                         \
            advance(cpu, asize, RDI, n *step);                                                                         \
            count -= n;                                                                                                \
            if (!repeated(op)) {                                                                                       \
                sub_c##bits(cpu, a, b, 0);                                                                             \
                break;                                                                                                 \
            }                                                                                                          \
            set_addr(cpu, asize, RCX, count);                                                                          \
            bool done = !count || (a == b) != while_equal;                                                             \
            if (done || cpu->mode & MODE_STEP)                                                                         \
                sub_c##bits(cpu, a, b, 0);                                                                             \
            if (done)                                                                                                  \
                break;                                                                                                 \
            if (must_leave(cpu))                                                                                       \
                return again(cpu, op);                                                                                 \
        }                                                                                                              \
        return op + 1;                                                                                                 \
    }
COMPARISONS(8)
COMPARISONS(16)
COMPARISONS(32)
COMPARISONS(64)

/* -- the table: MOVSD and CMPSD with operands are SSE's -- */

#define M(name) ZYDIS_MNEMONIC_##name
#define ROWS(mnemonic, name)                                                                                           \
    {M(mnemonic##B), PAT_NONE, 0, 0, {[0] = name##8}}, {M(mnemonic##W), PAT_NONE, 0, 0, {[1] = name##16}},             \
        {M(mnemonic##D), PAT_NONE, 0, 0, {[2] = name##32}},                                                            \
    {                                                                                                                  \
        M(mnemonic##Q), PAT_NONE, 0, 0, { [3] = name##64 }                                                             \
    }

static const struct form rows[] = {
    ROWS(MOVS, movs), ROWS(STOS, stos), ROWS(LODS, lods), ROWS(SCAS, scas), ROWS(CMPS, cmps),
};
TABLE(forms_string, rows);
