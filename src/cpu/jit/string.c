/*
 * String instructions (SDM vol. 2; vol. 1 section 7.3.9) of 64-bit code with
 * 64-bit addresses.
 *
 * A single one is emitted in place. A repeated one calls C, which works page by
 * page on host memory: what is not plain memory in the TLB, and all work
 * downwards, is left to the interpreter. Between pages the registers tell how
 * far it has come, and it stops there if somebody wants the CPU.
 */
#include "cpu/jit/int.h"

#include "util/bytes.h"

typedef uint64_t u64_any __attribute__((may_alias, aligned(1)));
typedef uint32_t u32_any __attribute__((may_alias, aligned(1)));
typedef uint16_t u16_any __attribute__((may_alias, aligned(1)));

/* -- the C side of repeated ones; `arg` is log2 of the element's size, and REPNE -- */

#define ARG_LOG2 3
#define ARG_REPNE 4

static uint64_t element(const uint8_t *p, unsigned log2)
{
    switch (log2) {
    case 0: return *p;
    case 1: return *(const u16_any *)p;
    case 2: return *(const u32_any *)p;
    default: return *(const u64_any *)p;
    }
}

/* Elements from lin on that do not cross its page. */
static uint64_t in_page(uint64_t lin, unsigned log2) { return (4096 - (lin & 0xfff)) >> log2; }

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Both pages of an element that crosses from one to the next; the bytes in the first. 0: not plain memory. */
static unsigned reach_both(struct cpu *cpu, uint64_t lin, bool write, uint8_t *part[2])
{
    part[0] = jit_reach(cpu, lin, write);
    part[1] = jit_reach(cpu, align_down(lin, 4096) + 4096, write);
    return part[0] && part[1] ? 4096 - (unsigned)(lin & 0xfff) : 0;
}

static bool load_across(struct cpu *cpu, uint64_t lin, unsigned log2, uint64_t *v)
{
    uint8_t *part[2];
    unsigned size = 1u << log2, first = reach_both(cpu, lin, false, part);
    if (!first)
        return false;
    *v = 0;
    for (unsigned i = 0; i < size; i++)
        *v |= (uint64_t)(i < first ? part[0][i] : part[1][i - first]) << 8 * i;
    return true;
}
static bool store_across(struct cpu *cpu, uint64_t lin, unsigned log2, uint64_t v)
{
    uint8_t *part[2];
    unsigned size = 1u << log2, first = reach_both(cpu, lin, true, part);
    if (!first)
        return false;
    for (unsigned i = 0; i < size; i++, v >>= 8)
        *(i < first ? &part[0][i] : &part[1][i - first]) = (uint8_t)v;
    return true;
}

/* One element, wherever it lies. */
static bool load_one(struct cpu *cpu, uint64_t lin, unsigned log2, uint64_t *v)
{
    if (!in_page(lin, log2))
        return load_across(cpu, lin, log2, v);
    const uint8_t *p = jit_reach(cpu, lin, false);
    if (p)
        *v = element(p, log2);
    return p;
}
static bool store_one(struct cpu *cpu, uint64_t lin, unsigned log2, uint64_t v)
{
    if (!in_page(lin, log2))
        return store_across(cpu, lin, log2, v);
    uint8_t *p = jit_reach(cpu, lin, true);
    if (!p)
        return false;
    switch (log2) {
    case 0: *p = (uint8_t)v; break;
    case 1: *(u16_any *)p = (uint16_t)v; break;
    case 2: *(u32_any *)p = (uint32_t)v; break;
    default: *(u64_any *)p = v; break;
    }
    return true;
}

/* The host's own: the same order of elements, so that overlaps come out as they must, and as fast as it can. */
static void host_movs(void *to, const void *from, uint64_t n, unsigned log2)
{
#ifdef __x86_64__
    switch (log2) {
    case 0: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    case 1: __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    case 2: __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    default: __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n)::"memory"); break;
    }
#else
    (void)to, (void)from, (void)n, (void)log2;
#endif
}
static void host_stos(void *to, uint64_t v, uint64_t n, unsigned log2)
{
#ifdef __x86_64__
    switch (log2) {
    case 0: __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    case 1: __asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    case 2: __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(v) : "memory"); break;
    }
#else
    (void)to, (void)v, (void)n, (void)log2;
#endif
}

/* The flags of CMP a, b. */
static void compare(struct cpu *cpu, uint64_t a, uint64_t b, unsigned log2)
{
#ifdef __x86_64__
    uint16_t f;
    unsigned shift = 64 - (8u << log2);
    uint8_t low;
    /* At the top of a word all flags but AF and PF are those of the narrow comparison; these come from the low bytes. */
    __asm__("cmpb %b2, %b1; lahf" : "=a"(f) : "q"(a), "q"(b) : "cc");
    low = (uint8_t)(f >> 8) & (RFL_AF | RFL_PF);
    __asm__("cmpq %2, %1; lahf; seto %%al" : "=a"(f) : "r"(a << shift), "r"(b << shift) : "cc");
    cpu->words.flags = (uint16_t)((f & ~((RFL_AF | RFL_PF) << 8) & 0xff01) | low << 8);
#else
    (void)cpu, (void)a, (void)b, (void)log2;
#endif
}

static uint64_t for_interpreter(struct cpu *cpu) { return jit_leave_for(cpu, cpu->words.rip, JIT_INTERP); }

/* Elements are left: whether somebody wants the CPU first. */
static bool wanted(const struct cpu *cpu) { return atomic_load_explicit(&cpu->exit_request, memory_order_relaxed); }

static uint64_t rep_movs(struct cpu *cpu, uint64_t arg)
{
    const unsigned log2 = arg & ARG_LOG2;
    uint64_t *const reg = cpu->reg;
    if (UNLIKELY(cpu->eflags & RFL_DF))
        return for_interpreter(cpu);
    while (reg[RCX]) {
        uint64_t n = least(in_page(reg[RSI], log2), in_page(reg[RDI], log2)), v;
        if (LIKELY(n)) {
            const void *from = jit_reach(cpu, reg[RSI], false);
            void *to = from ? jit_reach(cpu, reg[RDI], true) : NULL;
            if (!to)
                return for_interpreter(cpu);
            n = least(n, reg[RCX]);
            host_movs(to, from, n, log2);
        } else {
            if (!load_one(cpu, reg[RSI], log2, &v) || !store_one(cpu, reg[RDI], log2, v))
                return for_interpreter(cpu);
            n = 1;
        }
        reg[RSI] += n << log2;
        reg[RDI] += n << log2;
        reg[RCX] -= n;
        if (UNLIKELY(reg[RCX] && wanted(cpu)))
            return jit_leave_for(cpu, cpu->words.rip, JIT_LOOKUP);
    }
    return CALL_GO_ON;
}

static uint64_t rep_stos(struct cpu *cpu, uint64_t arg)
{
    const unsigned log2 = arg & ARG_LOG2;
    uint64_t *const reg = cpu->reg;
    if (UNLIKELY(cpu->eflags & RFL_DF))
        return for_interpreter(cpu);
    while (reg[RCX]) {
        uint64_t n = in_page(reg[RDI], log2);
        if (LIKELY(n)) {
            void *to = jit_reach(cpu, reg[RDI], true);
            if (!to)
                return for_interpreter(cpu);
            n = least(n, reg[RCX]);
            host_stos(to, reg[RAX], n, log2);
        } else {
            if (!store_across(cpu, reg[RDI], log2, reg[RAX]))
                return for_interpreter(cpu);
            n = 1;
        }
        reg[RDI] += n << log2;
        reg[RCX] -= n;
        if (UNLIKELY(reg[RCX] && wanted(cpu)))
            return jit_leave_for(cpu, cpu->words.rip, JIT_LOOKUP);
    }
    return CALL_GO_ON;
}

/* How many of n elements are passed: up to and including the first that ends it. *a and *b: the last ones compared. */
static uint64_t cmps_run(const uint8_t *p, const uint8_t *q, uint64_t n, unsigned log2, bool while_equal, uint64_t *a,
                         uint64_t *b)
{
    uint64_t i = 0, bytes = n << log2;
    if (while_equal) { /* by words up to the one that differs; what is left of it says how */
        uint64_t at = 0;
        while (at + 8 <= bytes && *(const u64_any *)(p + at) == *(const u64_any *)(q + at))
            at += 8;
        i = at >> log2;
        if (i == n)
            i--;
    }
    do {
        *a = element(p + (i << log2), log2);
        *b = element(q + (i << log2), log2);
        i++;
    } while (i < n && (*a == *b) == while_equal);
    return i;
}

/* Flags are written at the end only: a fault on the way shows those from before. */
static uint64_t rep_cmps(struct cpu *cpu, uint64_t arg)
{
    const unsigned log2 = arg & ARG_LOG2;
    const bool while_equal = !(arg & ARG_REPNE);
    uint64_t *const reg = cpu->reg;
    if (UNLIKELY(cpu->eflags & RFL_DF))
        return for_interpreter(cpu);
    while (reg[RCX]) {
        uint64_t n = least(in_page(reg[RSI], log2), in_page(reg[RDI], log2)), a, b;
        if (LIKELY(n)) {
            const uint8_t *q = jit_reach(cpu, reg[RDI], false), *p = q ? jit_reach(cpu, reg[RSI], false) : NULL;
            if (!p)
                return for_interpreter(cpu);
            n = cmps_run(p, q, least(n, reg[RCX]), log2, while_equal, &a, &b);
        } else {
            if (!load_one(cpu, reg[RDI], log2, &b) || !load_one(cpu, reg[RSI], log2, &a))
                return for_interpreter(cpu);
            n = 1;
        }
        reg[RSI] += n << log2;
        reg[RDI] += n << log2;
        reg[RCX] -= n;
        if (!reg[RCX] || (a == b) != while_equal) {
            compare(cpu, a, b, log2);
            return CALL_GO_ON;
        }
        if (UNLIKELY(wanted(cpu)))
            return jit_leave_for(cpu, cpu->words.rip, JIT_LOOKUP);
    }
    return CALL_GO_ON;
}

static uint64_t rep_scas(struct cpu *cpu, uint64_t arg)
{
    const unsigned log2 = arg & ARG_LOG2;
    const bool while_equal = !(arg & ARG_REPNE);
    const uint64_t a = cpu->reg[RAX] & size_mask(1u << log2);
    uint64_t *const reg = cpu->reg;
    if (UNLIKELY(cpu->eflags & RFL_DF))
        return for_interpreter(cpu);
    while (reg[RCX]) {
        uint64_t n = least(in_page(reg[RDI], log2), reg[RCX]), b, i = 0;
        if (LIKELY(n)) {
            const uint8_t *q = jit_reach(cpu, reg[RDI], false);
            if (!q)
                return for_interpreter(cpu);
            do
                b = element(q + (i++ << log2), log2);
            while (i < n && (a == b) == while_equal);
        } else {
            if (!load_across(cpu, reg[RDI], log2, &b))
                return for_interpreter(cpu);
            i = 1;
        }
        reg[RDI] += i << log2;
        reg[RCX] -= i;
        if (!reg[RCX] || (a == b) != while_equal) {
            compare(cpu, a, b, log2);
            return CALL_GO_ON;
        }
        if (UNLIKELY(wanted(cpu)))
            return jit_leave_for(cpu, cpu->words.rip, JIT_LOOKUP);
    }
    return CALL_GO_ON;
}

/* -- single ones -- */

/* One byte of opcode with the operand at [r10 + r15], of that width; `opcode` is the byte-wide one. */
static void sized(struct tr *t, unsigned log2, unsigned opcode, unsigned reg)
{
    if (log2 == 1)
        e8(&t->e, 0x66);
    e_op_mem(&t->e, log2 == 3, opcode | (log2 > 0), reg, HOST_OPERAND);
}

static void reach(struct tr *t, unsigned guest, unsigned log2, bool write)
{
    e_mov(&t->e, H_15, (unsigned)host_of(guest));
    tr_check(t, 1u << log2, write, 1);
}

static void advance(struct tr *t, unsigned guest, unsigned log2)
{
    e_lea(&t->e, (unsigned)host_of(guest), at(host_of(guest), 1 << log2));
}

/* Work downwards is for the interpreter. */
static void require_upwards(struct tr *t)
{
    struct emit *e = &t->e;
    e_load32(e, H_10, CTX(eflags));
    tr_bits(t, H_CX, H_10, __builtin_ctz(RFL_DF), 1);
    uint8_t *up = e_jrcxz(e);
    tr_interp(t);
    e_join8(up, e->p);
}

static void movs(struct tr *t, unsigned log2)
{
    reach(t, RSI, log2, false);
    sized(t, log2, 0x8a, H_CX);
    e_store(&t->e, H_CX, CTX(words.tmp));
    reach(t, RDI, log2, true);
    e_load(&t->e, H_CX, CTX(words.tmp));
    sized(t, log2, 0x88, H_CX);
    advance(t, RSI, log2);
    advance(t, RDI, log2);
}
static void stos(struct tr *t, unsigned log2)
{
    reach(t, RDI, log2, true);
    sized(t, log2, 0x88, H_AX);
    advance(t, RDI, log2);
}
static void lods(struct tr *t, unsigned log2)
{
    reach(t, RSI, log2, false);
    sized(t, log2, 0x8a, H_AX);
    advance(t, RSI, log2);
}
static void scas(struct tr *t, unsigned log2)
{
    reach(t, RDI, log2, false);
    sized(t, log2, 0x3a, H_AX);
    advance(t, RDI, log2);
}
static void cmps(struct tr *t, unsigned log2)
{
    reach(t, RDI, log2, false);
    sized(t, log2, 0x8a, H_CX);
    e_store(&t->e, H_CX, CTX(words.tmp));
    reach(t, RSI, log2, false);
    e_load(&t->e, H_CX, CTX(words.tmp));
    sized(t, log2, 0x38, H_CX);
    advance(t, RSI, log2);
    advance(t, RDI, log2);
}

/* -- which -- */

static const struct string {
    ZydisMnemonic by_size[4];
    jit_plain_fn *rep;
    void (*one)(struct tr *, unsigned log2);
} strings[] = {
#define STRING(name, rep, one)                                                                                         \
    {                                                                                                                  \
        {ZYDIS_MNEMONIC_##name##B, ZYDIS_MNEMONIC_##name##W, ZYDIS_MNEMONIC_##name##D, ZYDIS_MNEMONIC_##name##Q}, rep, \
            one                                                                                                        \
    }
    STRING(MOVS, rep_movs, movs), STRING(STOS, rep_stos, stos), STRING(LODS, NULL, lods),
    STRING(SCAS, rep_scas, scas), STRING(CMPS, rep_cmps, cmps),
};

static const struct string *string_of(const struct insn *in, unsigned *log2)
{
    if (in->z.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || in->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return NULL; /* SSE has a MOVSD and a CMPSD too */
    for (unsigned i = 0; i < sizeof strings / sizeof strings[0]; i++)
        for (*log2 = 0; *log2 < 4; ++*log2)
            if (strings[i].by_size[*log2] == in->z.mnemonic)
                return &strings[i];
    return NULL;
}

static bool far_segment(const struct insn *in)
{
    for (unsigned i = 0; i < in->z.operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (in->op[i].mem.segment == ZYDIS_REGISTER_FS || in->op[i].mem.segment == ZYDIS_REGISTER_GS))
            return true;
    return false;
}

bool tr_string(struct tr *t)
{
    unsigned log2;
    const struct string *s = string_of(t->in, &log2);
    uint8_t prefix = 0;
    if (!s || !t->jit->opt.string || t->in->z.address_width != 64 || far_segment(t->in))
        return false;
    for (unsigned i = 0; i < t->in->z.raw.prefix_count; i++)
        if (t->in->z.raw.prefixes[i].value == 0xf3 || t->in->z.raw.prefixes[i].value == 0xf2)
            prefix = t->in->z.raw.prefixes[i].value;
    if (!prefix) {
        require_upwards(t);
        s->one(t, log2);
        return true;
    }
    if (!s->rep)
        return false;
    tr_call_plain(t, s->rep, log2 | (prefix == 0xf2 ? ARG_REPNE : 0));
    return true;
}
