/*
 * Zydis' results, remembered. What an encoding means is decided by its head:
 * prefixes, opcode, ModRM and SIB (SDM vol. 2 section 2.1). Displacement and
 * immediate stand behind the head, and their sizes follow from it. So the
 * result for one instruction serves for all with the same head, once the two
 * values are put in.
 *
 * Only heads whose end is found without knowing much are looked at: the
 * one-byte opcodes and those of the 0Fh map, without VEX and the like. And a
 * result is kept only if Zydis agrees where the head ends: then all that the
 * meaning depends on was compared.
 */
#include "x86/decode_cache.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_LOG 10
#define MAX_HEAD 8
#define MAX_OPERANDS 5

struct entry {
    uint64_t head; /* the first bytes, the rest zero */
    uint8_t len;   /* of the head; 0: nothing here */
    uint8_t bits;
    int8_t disp, imm; /* the operand that has the displacement, or the immediate; -1: none */
    struct insn in;
};

struct insn_cache {
    uint64_t asked, known;
    struct entry entry[1 << ENTRIES_LOG];
};

struct insn_cache *insn_cache_new(void) { return calloc(1, sizeof(struct insn_cache)); }

void insn_cache_free(struct insn_cache *c) { free(c); }

void insn_cache_counts(const struct insn_cache *c, uint64_t *asked, uint64_t *known)
{
    *asked = c ? c->asked : 0;
    *known = c ? c->known : 0;
}

/* -- heads -- */

/* Opcodes with a ModRM byte: a row for sixteen, a bit for each. */
static const uint16_t modrm_1[16] = {0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0,      0,      0x0a08, 0,
                                     0x7fff, 0,      0,      0,      0x00c3, 0xff0f, 0,      0xc0c0};
static const uint16_t modrm_0f[16] = {0x341f, 0xffff, 0xffff, 0,      0xffff, 0xffff, 0xffff, 0xff7f,
                                      0,      0xffff, 0xf8f8, 0xffff, 0x00ff, 0xffff, 0xffff, 0xffff};

static bool has_modrm(const uint16_t rows[16], uint8_t opcode) { return rows[opcode >> 4] >> (opcode & 15) & 1; }

static bool is_prefix(unsigned bits, uint8_t b)
{
    switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3: return true;
    default: return bits == 64 && b >> 4 == 4; /* REX */
    }
}

/* VEX, EVEX and XOP, or what they are where they are not; the maps 0F38h, 0F3Ah and that of 3DNow!. */
static bool is_beyond(uint8_t opcode) { return opcode == 0x62 || opcode == 0x8f || (opcode & 0xfe) == 0xc4; }
static bool is_beyond_0f(uint8_t opcode) { return opcode == 0x0f || (opcode & 0xf8) == 0x38; }

/* Bytes of the head; 0: it is not one of ours, or does not end within n. */
static size_t head_length(unsigned bits, const uint8_t *p, size_t n)
{
    size_t i = 0;
    bool narrow = false; /* 67h */
    if (n > MAX_HEAD)
        n = MAX_HEAD;
    for (; i < n && is_prefix(bits, p[i]); i++)
        narrow |= p[i] == 0x67;
    if (i == n)
        return 0;
    uint8_t opcode = p[i++];
    bool escape = opcode == 0x0f;
    if (escape) {
        if (i == n)
            return 0;
        opcode = p[i++];
    }
    if (escape ? is_beyond_0f(opcode) : is_beyond(opcode))
        return 0;
    if (!has_modrm(escape ? modrm_0f : modrm_1, opcode))
        return i;
    if (i == n)
        return 0;
    uint8_t modrm = p[i++];
    if (modrm >> 6 != 3 && (modrm & 7) == 4 && (bits == 64 || !narrow)) /* no SIB with addresses of 16 bits */
        i++;
    return i <= n ? i : 0;
}

static uint64_t load(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    memcpy(&v, p, n < 8 ? n : 8);
    return v;
}

/* -- results -- */

static int64_t sign_extend(uint64_t v, unsigned bits) { return (int64_t)(v << (64 - bits)) >> (64 - bits); }

/* Remembers a result of Zydis, if only displacement and immediate can be different next time. */
static void keep(struct entry *e, unsigned bits, uint64_t head, size_t len, const struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    unsigned tail = (z->raw.disp.size + z->raw.imm[0].size) / 8, disps = 0, imms = 0;
    e->len = 0;
    if (len + tail != z->length || z->raw.imm[1].size || z->operand_count > MAX_OPERANDS)
        return;
    e->disp = e->imm = -1;
    for (unsigned i = 0; i < z->operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
            return;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.disp.has_displacement) {
            e->disp = (int8_t)i;
            disps++;
        } else if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->encoding != ZYDIS_OPERAND_ENCODING_NONE) {
            e->imm = (int8_t)i;
            imms++;
        }
    }
    if (disps != (z->raw.disp.size != 0) || imms != (z->raw.imm[0].size != 0))
        return;
    e->head = head;
    e->len = (uint8_t)len;
    e->bits = (uint8_t)bits;
    e->in = *in;
}

/* The result for other bytes with the same head, in its place. */
static struct insn *recall(struct entry *e, const uint8_t *bytes)
{
    struct insn *in = &e->in;
    in->bytes = bytes;
    if (e->disp >= 0) {
        unsigned size = in->z.raw.disp.size;
        int64_t v = sign_extend(load(bytes + in->z.raw.disp.offset, size / 8), size);
        in->z.raw.disp.value = v;
        in->op[e->disp].mem.disp.value = v;
    }
    if (e->imm >= 0) {
        unsigned size = in->z.raw.imm[0].size;
        uint64_t v = load(bytes + in->z.raw.imm[0].offset, size / 8);
        if (in->z.raw.imm[0].is_signed)
            v = (uint64_t)sign_extend(v, size);
        in->z.raw.imm[0].value.u = v;
        in->op[e->imm].imm.value.u = v;
    }
    return in;
}

int insn_decode_in_place(struct insn_cache *c, unsigned bits, const uint8_t *bytes, size_t n, struct insn *room,
                         struct insn **out)
{
    size_t len = c ? head_length(bits, bytes, n) : 0;
    *out = room;
    if (!len)
        return insn_decode(bits, 0, bytes, n, room);
    uint64_t head = load(bytes, len);
    struct entry *e = &c->entry[(head * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - ENTRIES_LOG)];
    c->asked++;
    if (e->head == head && e->len == len && e->bits == bits && e->in.z.length <= n) {
        c->known++;
        *out = recall(e, bytes);
        return 0;
    }
    int err = insn_decode(bits, 0, bytes, n, room);
    if (!err)
        keep(e, bits, head, len, room);
    return err;
}

int insn_decode_cached(struct insn_cache *c, unsigned bits, const uint8_t *bytes, size_t n, struct insn *out)
{
    struct insn *found;
    int err = insn_decode_in_place(c, bits, bytes, n, out, &found);
    if (found != out) { /* those operands that it may have */
        memcpy(out, found, offsetof(struct insn, op) + MAX_OPERANDS * sizeof out->op[0]);
        out->bytes = bytes;
    }
    return err;
}
