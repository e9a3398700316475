/*
 * Who holds the vector and x87 registers. Between runs of generated code the
 * guest's are in cpu->xsave. Generated code takes them into the host's own
 * before its first instruction that needs them, and the way out puts them back
 * ("live" is what is in the host's registers): the XMM and YMM registers with
 * MXCSR, and the x87 and MMX registers with their control words, each on its
 * own.
 *
 * They are taken only where instructions of that kind may run (CR0.EM and TS,
 * CR4.OSFXSR and OSXSAVE, XCR0) and raise nothing (all exceptions masked in
 * MXCSR, in FCW): else the instruction is for the interpreter. All of these
 * stay as they are while generated code runs; instructions that load MXCSR or
 * FCW check what they load.
 *
 * The last instruction's FIP, FDP and FOP stay in cpu->xsave all the time:
 * the host's say where generated code lies.
 *
 * C code that is called from generated code and returns to it finds the XMM
 * and YMM registers put aside, MXCSR at its default, and must not touch the
 * x87, which may be live.
 */
#include "cpu/jit/int.h"

#include "cpu/interp/vec.h"
#include "util/bytes.h"

#define IMAGE(offset, shift) at(H_CTX, CTX(xsave).disp + (int32_t)(offset) + (shift))
#define LOW(n) (160 + 16 * (n))
#define HIGH(n) (576 + 16 * (n))
#define HEADER 512

#define MXCSR_MASKS 0x1f80u
#define FCW_MASKS 0x3fu

static const uint32_t host_mxcsr = 0x1f80;

void jit_vector_init(struct jit_words *w)
{
    for (unsigned i = 0; i < JIT_LIVES; i++)
        w->away[i] = 1;
    w->host_mxcsr = host_mxcsr;
    w->mxcsr_bits = ~UINT64_C(0xffff) | MXCSR_MASKS;
    w->fcw_bits = FCW_MASKS;
}

/* -- instructions -- */

/* movups xmm, [a] and back: the upper halves stay */
static void movups(struct emit *e, unsigned opcode, unsigned reg, struct addr a)
{
    unsigned rex = rex_mem(reg, a);
    if (rex)
        e8(e, 0x40 | rex);
    e8(e, 0x0f);
    e8(e, opcode);
    e_mem(e, reg, a);
}

/* A VEX instruction on a register, a second one (0 where there is none), and memory. */
static void vex_mem(struct emit *e, unsigned map, unsigned pp, bool wide, unsigned opcode, unsigned reg, unsigned vvvv,
                    struct addr a)
{
    e8(e, 0xc4);
    e8(e, (rex_mem(reg, a) ^ 7) << 5 | map);
    e8(e, (~vvvv & 15) << 3 | (wide ? 4u : 0) | pp);
    e8(e, opcode);
    e_mem(e, reg, a);
}

enum { MAP_0F = 1, MAP_0F3A = 3, PP_66 = 1 };

static void load_ymm(struct emit *e, unsigned reg, struct addr a) { vex_mem(e, MAP_0F, 0, true, 0x10, reg, 0, a); }
static void store_ymm(struct emit *e, unsigned reg, struct addr a) { vex_mem(e, MAP_0F, 0, true, 0x11, reg, 0, a); }
static void load_halves(struct emit *e, unsigned n, int32_t shift)
{
    vex_mem(e, MAP_0F, 0, false, 0x10, n, 0, IMAGE(LOW(n), shift));
    vex_mem(e, MAP_0F3A, PP_66, true, 0x18, n, n, IMAGE(HIGH(n), shift)); /* vinsertf128 ymm, ymm, [], 1 */
    e8(e, 1);
}
static void store_halves(struct emit *e, unsigned n)
{
    vex_mem(e, MAP_0F, 0, false, 0x11, n, 0, IMAGE(LOW(n), 0));
    vex_mem(e, MAP_0F3A, PP_66, true, 0x19, n, 0, IMAGE(HIGH(n), 0)); /* vextractf128 [], ymm, 1 */
    e8(e, 1);
}
static void vzeroupper(struct emit *e)
{
    e8(e, 0xc5);
    e8(e, 0xf8);
    e8(e, 0x77);
}
/* ldmxcsr (2), stmxcsr (3), xsave64 (4), xrstor64 (5) */
static void op_0fae(struct emit *e, unsigned reg, struct addr a)
{
    unsigned rex = rex_mem(0, a) | (reg >= 4 ? 8u : 0);
    if (rex)
        e8(e, 0x40 | rex);
    e8(e, 0x0f);
    e8(e, 0xae);
    e_mem(e, reg, a);
}
enum { LDMXCSR = 2, STMXCSR, XSAVE, XRSTOR };

static uint8_t *jcc8(struct emit *e, unsigned cc)
{
    e8(e, 0x70 | cc);
    e8(e, 0);
    return e->p - 1;
}

static struct addr word_at(struct addr a, int32_t shift) { return at(H_CTX, a.disp + shift); }
#define WORD(member, shift) word_at(CTX(words.member), shift)

/* ZF: the XMM registers are live. Changes rcx. */
static void test_live(struct emit *e, int32_t shift)
{
    e_load32(e, H_CX, WORD(away[LIVE_SSE], shift));
    e_op_mem(e, false, 0x23, H_CX, WORD(away[LIVE_AVX], shift)); /* and ecx, [] */
}

/* -- into the host's registers -- */

/* ecx |= bits of the word at `a`, or those that are clear. Changes r10 and the flags. */
static void add_bits(struct emit *e, struct addr a, bool set, uint32_t bits)
{
    e_load32(e, H_10, a);
    if (!set) {
        e8(e, 0x41); /* not r10d */
        e8(e, 0xf7);
        e8(e, 0xd2);
    }
    e8(e, 0x41); /* and r10d, bits */
    e8(e, 0x81);
    e8(e, 0xe2);
    e32(e, bits);
    e_op_rr(e, false, 0x09, H_10, H_CX); /* or ecx, r10d */
}

/* ecx = 0 if registers of this kind may be live; ZF accordingly. Changes r10. */
static void why_not(struct emit *e, enum jit_live kind, int32_t shift)
{
    e_mov_imm(e, H_CX, 0);
    if (kind == LIVE_AVX) {
        add_bits(e, word_at(CTX(cr4), shift), false, CR4_OSXSAVE);
        add_bits(e, word_at(CTX(xcr0), shift), false, 6);
    } else if (kind == LIVE_SSE) {
        add_bits(e, word_at(CTX(cr4), shift), false, CR4_OSFXSR);
    }
    if (kind == LIVE_X87)
        add_bits(e, IMAGE(XSAVE_FCW, shift), false, FCW_MASKS);
    else
        add_bits(e, IMAGE(XSAVE_MXCSR, shift), false, MXCSR_MASKS);
    add_bits(e, word_at(CTX(cr0), shift), true, kind == LIVE_AVX ? CR0_TS : CR0_TS | CR0_EM);
}

/*
 * Upper halves that are zero are not loaded: as long as the host knows them to
 * be zero, SSE instructions need not keep them.
 */
static void load_xmm(struct emit *e, int32_t shift)
{
    load_ymm(e, 0, IMAGE(HIGH(0), shift));
    for (unsigned n = 2; n < 16; n += 2) /* vorps ymm0, ymm0, [] */
        vex_mem(e, MAP_0F, 0, true, 0x56, 0, 0, IMAGE(HIGH(n), shift));
    e8(e, 0xc4); /* vptest ymm0, ymm0 */
    e8(e, 0xe2);
    e8(e, 0x7d);
    e8(e, 0x17);
    e8(e, 0xc0);
    uint8_t *some = e_jcc32(e, CC_NE);
    vzeroupper(e);
    for (unsigned n = 0; n < 16; n++)
        movups(e, 0x10, n, IMAGE(LOW(n), shift));
    uint8_t *done = e_jmp32(e);
    e_join32(some, e->p);
    for (unsigned n = 0; n < 16; n++)
        load_halves(e, n, shift);
    e_join32(done, e->p);
    op_0fae(e, LDMXCSR, IMAGE(XSAVE_MXCSR, shift));
    for (unsigned kind = LIVE_SSE; kind <= LIVE_AVX; kind++) {
        why_not(e, (enum jit_live)kind, shift);
        e_store32(e, H_CX, WORD(away[kind], shift));
    }
}

static void load_x87(struct emit *e, int32_t shift)
{
    e_store(e, H_AX, WORD(tmp, shift));
    e_mov(e, H_CX, H_DX);
    e_load(e, H_15, IMAGE(HEADER, shift));
    for (unsigned i = 0; i < 64; i += 8) { /* XSTATE_BV, and nothing else: mov qword [], i == 0 */
        e_op_mem(e, true, 0xc7, 0, IMAGE(HEADER + i, shift));
        e32(e, i == 0);
    }
    e_mov_imm(e, H_AX, 1);
    e_mov_imm(e, H_DX, 0);
    op_0fae(e, XRSTOR, IMAGE(0, shift));
    e_store(e, H_15, IMAGE(HEADER, shift));
    e_mov(e, H_DX, H_CX);
    e_load(e, H_AX, WORD(tmp, shift));
    e_store_imm32(e, WORD(away[LIVE_X87], shift), 0);
}

/* Called by a cold path: r15 = RIP of the instruction, rcx and r10 are free, flags stay. */
static void emit_load(struct emit *e, struct jit *jit, enum jit_live kind)
{
    const int32_t shift = 16; /* the return address, and the flags */
    e8(e, 0x9c);              /* pushfq */
    why_not(e, kind, shift);
    uint8_t *no = e_jcc32(e, CC_NE);
    if (kind == LIVE_X87)
        load_x87(e, shift);
    else
        load_xmm(e, shift);
    e8(e, 0x9d); /* popfq */
    e8(e, 0xc3);
    e_join32(no, e->p);
    e8(e, 0x9d);
    e_lea(e, H_SP, at(H_SP, 8));
    e_jmp_to(e, jit->mem.rw + jit->leave_interp);
}

void jit_vector_stubs(struct emit *e, struct jit *jit)
{
    for (unsigned kind = 0; kind < JIT_LIVES; kind++) {
        jit->load[kind] = jit_offset(jit, e->p);
        emit_load(e, jit, (enum jit_live)kind);
    }
}

/* -- back to the image -- */

/* Where all general registers but rsp are free, and the flags. */
void jit_vector_save(struct emit *e)
{
    test_live(e, 0);
    uint8_t *none = e_jcc32(e, CC_NE);
    for (unsigned n = 0; n < 16; n++)
        store_halves(e, n);
    vzeroupper(e);
    op_0fae(e, STMXCSR, IMAGE(XSAVE_MXCSR, 0));
    op_0fae(e, LDMXCSR, CTX(words.host_mxcsr));
    e_store_imm32(e, CTX(words.away[LIVE_SSE]), 1);
    e_store_imm32(e, CTX(words.away[LIVE_AVX]), 1);
    e_join32(none, e->p);

    e_load32(e, H_CX, CTX(words.away[LIVE_X87]));
    e_op_rr(e, false, 0x85, H_CX, H_CX); /* test ecx, ecx */
    none = e_jcc32(e, CC_NE);
    e_load32(e, H_CX, IMAGE(4, 0)); /* its upper half: FOP */
    e_load(e, H_SI, IMAGE(XSAVE_FIP, 0));
    e_load(e, H_DI, IMAGE(XSAVE_FDP, 0));
    e_load(e, H_8, IMAGE(HEADER, 0));
    e_mov_imm(e, H_AX, 1);
    e_mov_imm(e, H_DX, 0);
    op_0fae(e, XSAVE, IMAGE(0, 0));
    e_store(e, H_8, IMAGE(HEADER, 0));
    e_store(e, H_DI, IMAGE(XSAVE_FDP, 0));
    e_store(e, H_SI, IMAGE(XSAVE_FIP, 0));
    e8(e, 0xc1); /* shr ecx, 16 */
    e8(e, 0xe9);
    e8(e, 16);
    e8(e, 0x66); /* mov [fop], cx */
    e_op_mem(e, false, 0x89, H_CX, IMAGE(XSAVE_FOP, 0));
    e8(e, 0xdb); /* fninit */
    e8(e, 0xe3);
    e_store_imm32(e, CTX(words.away[LIVE_X87]), 1);
    e_join32(none, e->p);
}

/* -- around a call of C -- */

void jit_vector_park(struct emit *e, const struct jit *jit, int32_t shift)
{
    if (!jit->vector)
        return;
    test_live(e, shift);
    uint8_t *none = e_jcc32(e, CC_NE);
    for (unsigned n = 0; n < 16; n++)
        store_ymm(e, n, WORD(vec[32 * n], shift));
    for (unsigned n = 1; n < 16; n++) /* vorps ymm0, ymm0, [] */
        vex_mem(e, MAP_0F, 0, true, 0x56, 0, 0, WORD(vec[32 * n], shift));
    e8(e, 0xc4); /* vextractf128 xmm0, ymm0, 1 */
    e8(e, 0xe3);
    e8(e, 0x7d);
    e8(e, 0x19);
    e8(e, 0xc0);
    e8(e, 1);
    e8(e, 0xc4); /* vptest xmm0, xmm0 */
    e8(e, 0xe2);
    e8(e, 0x79);
    e8(e, 0x17);
    e8(e, 0xc0);
    e8(e, 0x0f); /* setnz [] */
    e8(e, 0x95);
    e_mem(e, 0, WORD(uppers, shift));
    vzeroupper(e);
    op_0fae(e, STMXCSR, WORD(guest_mxcsr, shift));
    op_0fae(e, LDMXCSR, WORD(host_mxcsr, shift));
    e_join32(none, e->p);
}

void jit_vector_unpark(struct emit *e, const struct jit *jit, int32_t shift)
{
    if (!jit->vector)
        return;
    test_live(e, shift);
    uint8_t *none = e_jcc32(e, CC_NE);
    op_0fae(e, LDMXCSR, WORD(guest_mxcsr, shift));
    e8(e, 0x80); /* cmp byte [], 0 */
    e_mem(e, 7, WORD(uppers, shift));
    e8(e, 0);
    uint8_t *some = jcc8(e, CC_NE);
    uint8_t *clean = e_jmp32(e);
    e_join8(some, e->p);
    for (unsigned n = 0; n < 16; n++)
        load_ymm(e, n, WORD(vec[32 * n], shift));
    uint8_t *done = e_jmp32(e);
    e_join32(clean, e->p);
    for (unsigned n = 0; n < 16; n++)
        movups(e, 0x10, n, WORD(vec[32 * n], shift));
    e_join32(done, e->p);
    e_join32(none, e->p);
}

/* -- in a block -- */

void tr_live(struct tr *t, enum jit_live kind)
{
    struct emit *e = &t->e;
    if (t->live & 1u << kind)
        return;
    t->live |= (uint8_t)(1u << kind);
    struct jit_cold_live *c = &t->cold[t->ncold++];
    c->kind = kind;
    c->rip = t->rip;
    if (t->live_in) {
        e_load32(e, H_CX, CTX(words.away[kind]));
        uint8_t *here = e_jrcxz(e);
        c->jump = e_jmp32(e);
        e_join8(here, e->p);
    } else {
        e_op_mem(e, false, 0x83, 7, CTX(words.away[kind])); /* cmp dword [], 0 */
        e8(e, 0);
        c->jump = e_jcc32(e, CC_NE);
    }
    c->back = e->p;
}

void tr_live_paths(struct tr *t)
{
    struct emit *e = &t->e;
    for (unsigned i = 0; i < t->ncold; i++) {
        const struct jit_cold_live *c = &t->cold[i];
        e_join32(c->jump, e->p);
        e_mov_imm(e, H_15, c->rip);
        e_join32(e_call32(e), t->jit->mem.rw + t->jit->load[c->kind]);
        e_jmp_to(e, c->back);
    }
}
