/* AML encoding: ACPI 6.4, sections 20.2 (grammar) and 6.4 (resource descriptors). */
#include "boot/aml.h"

#include "util/bytes.h"

enum {
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_IF = 0xa0,
    OP_ELSE = 0xa1,
    EXT_REGION = 0x80,
    EXT_FIELD = 0x81,
    EXT_DEVICE = 0x82,
};

void aml_byte(struct aml *a, uint8_t b)
{
    if (a->len == a->cap)
        a->overflow = true;
    else
        a->buf[a->len++] = b;
}

void aml_bytes(struct aml *a, const void *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        aml_byte(a, ((const uint8_t *)p)[i]);
}

static void put(struct aml *a, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        aml_byte(a, (uint8_t)(v >> (8 * i)));
}

/* ---- names and data ---- */

static void name_seg(struct aml *a, const char *s, size_t len)
{
    for (size_t i = 0; i < 4; i++)
        aml_byte(a, i < len ? (uint8_t)s[i] : '_');
}

void aml_name(struct aml *a, const char *path)
{
    if (*path == '\\')
        aml_byte(a, (uint8_t)*path++);
    unsigned segs = *path != 0;
    for (const char *p = path; *p; p++)
        segs += *p == '.';
    if (segs == 0)
        aml_byte(a, 0); /* NullName: the root alone */
    if (segs == 2)
        aml_byte(a, OP_DUAL_NAME);
    if (segs > 2) {
        aml_byte(a, OP_MULTI_NAME);
        aml_byte(a, (uint8_t)segs);
    }
    for (unsigned i = 0; i < segs; i++) {
        size_t len = strcspn(path, ".");
        name_seg(a, path, len);
        path += len + (path[len] == '.');
    }
}

void aml_int(struct aml *a, uint64_t v)
{
    if (v <= 1) {
        aml_byte(a, (uint8_t)v); /* ZeroOp, OneOp */
        return;
    }
    unsigned size = v <= UINT8_MAX ? 1 : v <= UINT16_MAX ? 2 : v <= UINT32_MAX ? 4 : 8;
    aml_byte(a, size == 1 ? OP_BYTE : size == 2 ? OP_WORD : size == 4 ? OP_DWORD : OP_QWORD);
    put(a, v, size);
}

void aml_string(struct aml *a, const char *s)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex_digit(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10); }

void aml_eisaid(struct aml *a, const char *id)
{
    /* Three letters of 5 bits, four hexadecimal digits: big-endian. */
    uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 | (uint32_t)(id[2] - '@') << 16;
    for (unsigned i = 0; i < 4; i++)
        v |= hex_digit(id[3 + i]) << (12 - 4 * i);
    aml_byte(a, OP_DWORD);
    put(a, __builtin_bswap32(v), 4);
}

/* ---- blocks: a length, known at the end, stands at the beginning ---- */

static unsigned pkg_length(uint8_t *out, size_t len)
{
    /* len counts itself: 1 byte up to 63, then a lead byte with 4 bits and 1 to 3 bytes more. */
    if (len + 1 < 0x40) {
        out[0] = (uint8_t)(len + 1);
        return 1;
    }
    unsigned more = len + 2 < 1u << 12 ? 1 : len + 3 < 1u << 20 ? 2 : 3;
    len += more + 1;
    out[0] = (uint8_t)(more << 6 | (len & 0xf));
    for (unsigned i = 0; i < more; i++)
        out[1 + i] = (uint8_t)(len >> (4 + 8 * i));
    return more + 1;
}

static void open_block(struct aml *a)
{
    if (a->depth == AML_DEPTH) {
        a->overflow = true;
        return;
    }
    a->open[a->depth++] = a->len;
}

static void insert(struct aml *a, size_t at, const uint8_t *bytes, size_t n)
{
    if (a->overflow || n > a->cap - a->len) {
        a->overflow = true;
        return;
    }
    memmove(a->buf + at + n, a->buf + at, a->len - at);
    memcpy(a->buf + at, bytes, n);
    a->len += n;
}

void aml_end(struct aml *a)
{
    if (!a->depth) {
        a->overflow = true;
        return;
    }
    size_t at = a->open[--a->depth];
    uint8_t length[4];
    unsigned n = pkg_length(length, a->len - at);
    insert(a, at, length, n);
}

void aml_scope(struct aml *a, const char *path)
{
    aml_byte(a, OP_SCOPE);
    open_block(a);
    aml_name(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, EXT_DEVICE);
    open_block(a);
    aml_name(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nargs, bool serialized)
{
    aml_byte(a, OP_METHOD);
    open_block(a);
    aml_name(a, name);
    aml_byte(a, (uint8_t)(nargs | (serialized ? 8 : 0)));
}

void aml_if(struct aml *a)
{
    aml_byte(a, OP_IF);
    open_block(a);
}

void aml_else(struct aml *a)
{
    aml_byte(a, OP_ELSE);
    open_block(a);
}

void aml_package(struct aml *a, unsigned nelements)
{
    aml_byte(a, OP_PACKAGE);
    open_block(a);
    aml_byte(a, (uint8_t)nelements);
    if (nelements > UINT8_MAX)
        a->overflow = true;
}

void aml_name_op(struct aml *a, const char *name)
{
    aml_byte(a, OP_NAME);
    aml_name(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
    aml_name_op(a, name);
    aml_int(a, v);
}

void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
    aml_name_op(a, name);
    aml_eisaid(a, id);
}

void aml_name_string(struct aml *a, const char *name, const char *s)
{
    aml_name_op(a, name);
    aml_string(a, s);
}

void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t off, uint64_t len)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, EXT_REGION);
    aml_name(a, name);
    aml_byte(a, (uint8_t)space);
    aml_int(a, off);
    aml_int(a, len);
}

void aml_fields(struct aml *a, const char *region)
{
    aml_byte(a, OP_EXT);
    aml_byte(a, EXT_FIELD);
    open_block(a);
    aml_name(a, region);
    aml_byte(a, 0x01); /* ByteAcc, NoLock, Preserve */
}

void aml_field(struct aml *a, const char *name, unsigned bits)
{
    uint8_t length[4];
    if (name)
        aml_name(a, name);
    else
        aml_byte(a, 0);
    /* Here the length is that of the field in bits, and does not count itself. */
    if (bits < 0x40) {
        aml_byte(a, (uint8_t)bits);
    } else {
        length[0] = (uint8_t)(1 << 6 | (bits & 0xf));
        length[1] = (uint8_t)(bits >> 4);
        aml_bytes(a, length, 2);
    }
}

/* ---- resource templates ---- */

void aml_template(struct aml *a)
{
    aml_byte(a, OP_BUFFER);
    open_block(a);
    a->template_at = a->len;
}

void aml_template_end(struct aml *a)
{
    aml_byte(a, 0x79); /* end tag; checksum 0: not to be checked */
    aml_byte(a, 0);
    uint8_t size[9];
    struct aml s = {.buf = size, .cap = sizeof(size)};
    aml_int(&s, a->len - a->template_at);
    insert(a, a->template_at, size, s.len);
    aml_end(a);
}

void aml_res_io(struct aml *a, uint16_t base, uint16_t len)
{
    /* One descriptor has 8 bits for the length. */
    while (len) {
        uint8_t part = len > 0x80 ? 0x80 : (uint8_t)len;
        aml_byte(a, 0x47);
        aml_byte(a, 1); /* 16-bit decode */
        put(a, base, 2);
        put(a, base, 2);
        aml_byte(a, 1);
        aml_byte(a, part);
        base = (uint16_t)(base + part);
        len = (uint16_t)(len - part);
    }
}

void aml_res_irq(struct aml *a, uint16_t mask)
{
    aml_byte(a, 0x22);
    put(a, mask, 2);
}

void aml_res_irq_flags(struct aml *a, uint16_t mask, bool level, bool low, bool shared)
{
    aml_byte(a, 0x23);
    put(a, mask, 2);
    aml_byte(a, (uint8_t)((level ? 0 : 0x01) | (low ? 0x08 : 0) | (shared ? 0x10 : 0)));
}

void aml_res_memory32(struct aml *a, uint32_t base, uint32_t len)
{
    aml_byte(a, 0x86);
    put(a, 9, 2);
    aml_byte(a, 1); /* read-write */
    put(a, base, 4);
    put(a, len, 4);
}

enum { SPACE_MEMORY, SPACE_IO, SPACE_BUS };
#define SPACE_PRODUCED 0x0c /* both ends fixed, decoded positively, handed down */
#define SPACE_CONSUMED 0x0d

/* An address space descriptor with fields of `size` bytes: WORD 0x88, DWORD 0x87, QWORD 0x8a. */
static void address_space(struct aml *a, unsigned size, unsigned type, unsigned flags, unsigned type_flags,
                          uint64_t first, uint64_t last)
{
    aml_byte(a, size == 2 ? 0x88 : size == 4 ? 0x87 : 0x8a);
    put(a, 3 + 5 * size, 2);
    aml_byte(a, (uint8_t)type);
    aml_byte(a, (uint8_t)flags);
    aml_byte(a, (uint8_t)type_flags);
    put(a, 0, size); /* granularity */
    put(a, first, size);
    put(a, last, size);
    put(a, 0, size); /* translation */
    put(a, last - first + 1, size);
}

void aml_res_bus_window(struct aml *a, uint16_t first, uint16_t last)
{
    address_space(a, 2, SPACE_BUS, SPACE_PRODUCED, 0, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
    address_space(a, 2, SPACE_IO, SPACE_PRODUCED, 3, first, last); /* ISA and non-ISA addresses */
}

void aml_res_memory_window(struct aml *a, uint64_t first, uint64_t last)
{
    address_space(a, last <= UINT32_MAX ? 4 : 8, SPACE_MEMORY, SPACE_PRODUCED, 1, first,
                  last); /* read-write, uncached */
}

void aml_res_memory64(struct aml *a, uint64_t base, uint64_t len)
{
    address_space(a, 8, SPACE_MEMORY, SPACE_CONSUMED, 1, base, base + len - 1);
}
