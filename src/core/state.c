/*
 * Save, load and reset by tables of fields.
 *
 * A section, integers little-endian:
 *
 *     u8 n, n bytes       name of the section
 *     u32                 version
 *     u32                 number of fields, each of them:
 *         u8 n, n bytes       name
 *         u8                  bytes an element: 1, 2, 4 or 8
 *         u32                 elements
 *         bytes               values
 */
#include "core/state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static uint64_t element_get(const struct state_field *f, const void *dev, uint32_t i)
{
    const uint8_t *p = (const uint8_t *)dev + f->offset + (size_t)i * f->size;
    union {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
    } v;
    memcpy(&v, p, f->size);
    return f->size == 1 ? v.u8 : f->size == 2 ? v.u16 : f->size == 4 ? v.u32 : v.u64;
}

static void element_set(const struct state_field *f, void *dev, uint32_t i, uint64_t value)
{
    uint8_t *p = (uint8_t *)dev + f->offset + (size_t)i * f->size;
    union {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
    } v = {0};
    switch (f->size) {
    case 1: v.u8 = (uint8_t)value; break;
    case 2: v.u16 = (uint16_t)value; break;
    case 4: v.u32 = (uint32_t)value; break;
    default: v.u64 = value; break;
    }
    memcpy(p, &v, f->size);
}

/* A table is our own work: a wrong one is found by the first test that uses it. */
static void check_table(const struct state_desc *desc)
{
    assert(strlen(desc->name) <= UINT8_MAX);
    for (uint32_t i = 0; i < desc->nfields; i++) {
        const struct state_field *f = &desc->fields[i];
        assert(f->size == 1 || f->size == 2 || f->size == 4 || f->size == 8);
        assert(f->offset + (uint64_t)f->size * f->count <= desc->size);
        assert(strlen(f->name) <= UINT8_MAX && f->since <= desc->version);
        (void)f;
    }
}

void state_reset(const struct state_desc *desc, void *dev)
{
    check_table(desc);
    for (uint32_t i = 0; i < desc->nfields; i++) {
        for (uint32_t k = 0; k < desc->fields[i].count; k++)
            element_set(&desc->fields[i], dev, k, desc->fields[i].reset);
    }
}

/* ---- save ---- */

static void put_name(uint8_t **p, const char *name)
{
    size_t n = strlen(name);
    *(*p)++ = (uint8_t)n;
    memcpy(*p, name, n);
    *p += n;
}

static void put_int(uint8_t **p, uint64_t value, unsigned size)
{
    put_le(*p, value, size);
    *p += size;
}

int state_save(const struct state_desc *desc, const void *dev, struct state_blob *out)
{
    size_t need = 1 + strlen(desc->name) + 4 + 4;

    check_table(desc);
    for (uint32_t i = 0; i < desc->nfields; i++) {
        const struct state_field *f = &desc->fields[i];
        need += 1 + strlen(f->name) + 1 + 4 + (size_t)f->size * f->count;
    }
    if (out->cap - out->len < need) {
        size_t cap = 2 * out->cap + need;
        uint8_t *data = realloc(out->data, cap);
        if (!data)
            return -ENOMEM;
        out->data = data;
        out->cap = cap;
    }

    uint8_t *p = out->data + out->len;
    put_name(&p, desc->name);
    put_int(&p, desc->version, 4);
    put_int(&p, desc->nfields, 4);
    for (uint32_t i = 0; i < desc->nfields; i++) {
        const struct state_field *f = &desc->fields[i];
        put_name(&p, f->name);
        put_int(&p, f->size, 1);
        put_int(&p, f->count, 4);
        for (uint32_t k = 0; k < f->count; k++)
            put_int(&p, element_get(f, dev, k), f->size);
    }
    out->len += need;
    assert(p == out->data + out->len);
    return 0;
}

/* ---- load ---- */

struct reader {
    const uint8_t *p;
    size_t left;
};

struct wire_field {
    const uint8_t *name, *values;
    uint8_t name_len, size;
    uint32_t count;
};

/* The next n bytes, or NULL. */
static const uint8_t *take(struct reader *r, uint64_t n)
{
    if (n > r->left)
        return NULL;
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static bool take_name(struct reader *r, const uint8_t **name, uint8_t *len)
{
    const uint8_t *n = take(r, 1);
    if (!n)
        return false;
    *len = *n;
    *name = take(r, *len);
    return *name != NULL;
}

static bool take_u32(struct reader *r, uint32_t *value)
{
    const uint8_t *p = take(r, 4);
    if (!p)
        return false;
    *value = get_le32(p);
    return true;
}

static bool take_field(struct reader *r, struct wire_field *w)
{
    const uint8_t *size;
    if (!take_name(r, &w->name, &w->name_len) || !(size = take(r, 1)) || !take_u32(r, &w->count))
        return false;
    w->size = *size;
    w->values = take(r, (uint64_t)w->size * w->count);
    return w->values != NULL;
}

static bool same_name(const uint8_t *name, uint8_t len, const char *want)
{
    return strlen(want) == len && memcmp(name, want, len) == 0;
}

static const struct state_field *find_field(const struct state_desc *desc, const struct wire_field *w)
{
    for (uint32_t i = 0; i < desc->nfields; i++) {
        if (same_name(w->name, w->name_len, desc->fields[i].name))
            return &desc->fields[i];
    }
    return NULL;
}

static bool load_values(const struct state_field *f, void *dev, const struct wire_field *w)
{
    for (uint32_t k = 0; k < f->count; k++) {
        uint64_t v = get_le(w->values + (size_t)k * f->size, f->size);
        if (f->boolean && v > 1)
            return false;
        element_set(f, dev, k, v);
    }
    return true;
}

/* The table's field f from the section's nfields fields at r; a field that the file is too old for is left as it is. */
static bool load_field(const struct state_field *f, void *dev, struct reader r, uint32_t nfields, uint32_t version)
{
    struct wire_field w;

    for (uint32_t i = 0; i < nfields; i++) {
        if (!take_field(&r, &w))
            return false;
        if (same_name(w.name, w.name_len, f->name))
            return load_values(f, dev, &w);
    }
    return f->since > version;
}

static bool load_section(const struct state_desc *desc, void *dev, struct reader *r)
{
    const uint8_t *name;
    uint8_t name_len;
    uint32_t version, nfields;
    struct wire_field w;

    if (!take_name(r, &name, &name_len) || !same_name(name, name_len, desc->name) || !take_u32(r, &version) ||
        version > desc->version || !take_u32(r, &nfields) || nfields > desc->nfields)
        return false;

    /* First all of the file's fields against the table, then the table's against the file: no field twice, none lost. */
    struct reader fields = *r;
    for (uint32_t i = 0; i < nfields; i++) {
        if (!take_field(r, &w))
            return false;
        const struct state_field *f = find_field(desc, &w);
        if (!f || f->size != w.size || f->count != w.count || f->since > version)
            return false;
    }
    for (uint32_t i = 0; i < desc->nfields; i++) {
        if (!load_field(&desc->fields[i], dev, fields, nfields, version))
            return false;
    }
    return true;
}

int state_load(const struct state_desc *desc, void *dev, const uint8_t *data, size_t len, size_t *pos)
{
    state_reset(desc, dev);
    if (*pos > len)
        return -EINVAL;
    struct reader r = {.p = data + *pos, .left = len - *pos};
    if (!load_section(desc, dev, &r)) {
        state_reset(desc, dev);
        return -EINVAL;
    }
    *pos = len - r.left;
    return 0;
}
