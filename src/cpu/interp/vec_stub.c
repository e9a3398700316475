/*
 * Emitting the stubs of cpu/interp/vec.h: x86-64 machine code, System V ABI.
 *
 *     rdi XSAVE image   rsi memory operand   rcx guest flags   r8 guest GPRs
 *     r9  MXCSR frame: [0] to load, [1] the host's, [2] what came out
 */
#include "cpu/interp/vec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "util/log.h"

#define CODE_SIZE MiB(1)
#define MAX_INSNS 16384
#define HASH_SIZE 4096
#define MAX_STUB 320

int vec_cache_new(struct vec_cache **out)
{
    struct vec_cache *vc = calloc(1, sizeof(*vc));
    if (!vc)
        return -ENOMEM;
    vc->hash = calloc(HASH_SIZE, sizeof(*vc->hash));
    vc->insns = calloc(MAX_INSNS, sizeof(*vc->insns));
    int err = vc->hash && vc->insns ? os_jitmem_new(&vc->code, CODE_SIZE) : -ENOMEM;
    if (err) {
        log_error("no memory for generated code, which vector instructions need: %s", strerror(-err));
        vec_cache_free(vc);
        return err;
    }
    *out = vc;
    return 0;
}

void vec_cache_free(struct vec_cache *vc)
{
    if (!vc)
        return;
    os_jitmem_free(&vc->code);
    free(vc->hash);
    free(vc->insns);
    free(vc);
}

void vec_cache_reset(struct vec_cache *vc)
{
    memset(vc->hash, 0, HASH_SIZE * sizeof(*vc->hash));
    vc->ninsns = 0;
    vc->used = 0;
}

struct emitter {
    uint8_t *p;
};

static void emit(struct emitter *e, const void *bytes, size_t n)
{
    memcpy(e->p, bytes, n);
    e->p += n;
}
#define EMIT(e, ...) emit(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void emit_disp(struct emitter *e, unsigned reg, uint32_t disp)
{
    EMIT(e, (uint8_t)(0x87 | (reg & 7) << 3)); /* [rdi + disp32] */
    put_le32(e->p, disp);
    e->p += 4;
}

static uint32_t low_of(unsigned n) { return 160 + 16 * n; }
static uint32_t high_of(unsigned n) { return 576 + 16 * n; }

static void load_vec(struct emitter *e, unsigned n, bool vex, bool ymm)
{
    if (!vex) { /* movups xmm, [rdi + low] */
        if (n >= 8)
            EMIT(e, 0x44);
        EMIT(e, 0x0f, 0x10);
        emit_disp(e, n, low_of(n));
        return;
    }
    uint8_t not_r = n >= 8 ? 0 : 0x80;
    EMIT(e, 0xc5, (uint8_t)(not_r | 0x78), 0x10); /* vmovups xmm, [rdi + low] */
    emit_disp(e, n, low_of(n));
    if (!ymm)
        return;
    /* vinsertf128 ymm, ymm, [rdi + high], 1 */
    EMIT(e, 0xc4, (uint8_t)(not_r | 0x63), (uint8_t)((~n & 15) << 3 | 0x05), 0x18);
    emit_disp(e, n, high_of(n));
    EMIT(e, 1);
}

static void store_vec(struct emitter *e, unsigned n, bool vex)
{
    if (!vex) { /* movups [rdi + low], xmm */
        if (n >= 8)
            EMIT(e, 0x44);
        EMIT(e, 0x0f, 0x11);
        emit_disp(e, n, low_of(n));
        return;
    }
    uint8_t not_r = n >= 8 ? 0 : 0x80;
    EMIT(e, 0xc5, (uint8_t)(not_r | 0x78), 0x11);
    emit_disp(e, n, low_of(n));
    /* vextractf128 [rdi + high], ymm, 1: a VEX.128 result has cleared it */
    EMIT(e, 0xc4, (uint8_t)(not_r | 0x63), 0x7d, 0x19);
    emit_disp(e, n, high_of(n));
    EMIT(e, 1);
}

static void emit_stub(struct emitter *e, const struct vec_plan *p)
{
    bool vex = p->flags & VEC_VEX, full = p->flags & VEC_FULL;

    if (full)
        EMIT(e, 0x48, 0x0f, 0xae, 0x0f); /* fxrstor64 [rdi] */
    for (unsigned n = 0; n < 16 && !full; n++)
        if (p->vec_read >> n & 1)
            load_vec(e, n, vex, p->ymm);
    if (p->gpr >= 0 && p->gpr_read)
        EMIT(e, 0x49, 0x8b, 0x40, (uint8_t)(8 * p->gpr)); /* mov rax, [r8 + 8n] */
    if (p->str_lengths)
        EMIT(e, 0x49, 0x8b, 0x00, 0x49, 0x8b, 0x50, 0x10); /* mov rax, [r8]; mov rdx, [r8 + 16] */
    if (p->flags & VEC_MXCSR)
        EMIT(e, 0x41, 0x0f, 0xae, 0x11); /* ldmxcsr [r9] */
    if (p->flags & VEC_FLAGS_IN)
        EMIT(e, 0x51, 0x9d); /* push rcx; popfq */

    emit(e, p->code, p->code_len);

    if (p->flags & VEC_FLAGS)
        EMIT(e, 0x9c, 0x58); /* pushfq; pop rax: no instruction has both a general register and flags for results */
    if (p->flags & VEC_MXCSR)
        EMIT(e, 0x41, 0x0f, 0xae, 0x59, 0x08, 0x41, 0x0f, 0xae, 0x51, 0x04); /* stmxcsr [r9+8]; ldmxcsr [r9+4] */
    if (p->gpr >= 0 && p->gpr_write)
        EMIT(e, 0x49, 0x89, 0x40, (uint8_t)(8 * p->gpr));
    if (p->str_index)
        EMIT(e, 0x49, 0x89, 0x48, 0x08); /* mov [r8 + 8], rcx */
    for (unsigned n = 0; n < 16 && !full; n++)
        if (p->vec_write >> n & 1)
            store_vec(e, n, vex);
    if (full) /* fxsave64 [rdi]; fninit; ldmxcsr [r9+4] */
        EMIT(e, 0x48, 0x0f, 0xae, 0x07, 0xdb, 0xe3, 0x41, 0x0f, 0xae, 0x51, 0x04);
    if (vex)
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    EMIT(e, 0xc3);
}

static uint32_t hash_key(const uint8_t *key, unsigned n)
{
    uint32_t h = 2166136261u;
    for (unsigned i = 0; i < n; i++)
        h = (h ^ key[i]) * 16777619u;
    return h % HASH_SIZE;
}

struct vec_insn *vec_stub_get(struct vec_cache *vc, const struct vec_plan *p)
{
    uint8_t key[VEC_KEY_MAX];
    unsigned n = p->code_len;
    memcpy(key, p->code, n);
    key[n++] = (uint8_t)p->gpr;
    key[n++] = p->mem_size;
    key[n++] = (uint8_t)(p->fop >> 8);
    key[n++] = (uint8_t)p->fop;
    uint32_t h = hash_key(key, n);
    for (struct vec_insn *v = vc->hash[h]; v; v = v->next)
        if (v->key_len == n && memcmp(v->key, key, n) == 0)
            return v;
    if (vc->ninsns == MAX_INSNS || vc->used + MAX_STUB > vc->code.size)
        return NULL;

    struct vec_insn *v = &vc->insns[vc->ninsns++];
    struct emitter e = {vc->code.rw + vc->used};
    emit_stub(&e, p);
    v->fn = (vec_stub *)(uintptr_t)(vc->code.rx + vc->used);
    vc->used = align_up((size_t)(e.p - vc->code.rw), 16);
    v->flags = p->flags;
    v->fop = p->fop;
    v->mem_size = p->mem_size;
    v->natural = p->natural;
    v->key_len = (uint8_t)n;
    memcpy(v->key, key, n);
    v->next = vc->hash[h];
    vc->hash[h] = v;
    return v;
}
