/*
 * Save, load and reset of what a guest can see, by tables of fields.
 *
 * A device keeps its guest-visible state in one struct and describes it once:
 *
 *     static const struct state_field pit_fields[] = {
 *         STATE_FIELD(struct pit_state, port61, 1, 0),
 *         STATE_ARRAY(struct pit_state, count, 1, 0x10000),
 *     };
 *     const struct state_desc pit_desc = STATE_DESC("pit", 1, struct pit_state, pit_fields);
 *
 * Integers only (1, 2, 4 or 8 bytes, bool included). On the wire a section is
 * its name, its version, and each field as name, element size, count and
 * little-endian values, so a newer xhyve reads an older file: a field younger
 * than the file (`since`) keeps its reset value; one that is missing without
 * that excuse, or that the table lacks, is an error.
 *
 * The values themselves are the device's to check after a load: a file may
 * come from anywhere, and an index in it may point anywhere.
 */
#ifndef XHYVE_CORE_STATE_H
#define XHYVE_CORE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct state_field {
    const char *name;
    uint32_t offset;
    uint32_t count; /* elements */
    uint8_t size;   /* bytes an element */
    uint8_t since;  /* the version of the section that brought it */
    bool boolean;   /* 0 and 1 are its only values: anything else in a file is an error */
    uint64_t reset; /* value of each element after a reset */
};

struct state_desc {
    const char *name;
    uint32_t version;
    uint32_t size; /* of the struct */
    const struct state_field *fields;
    uint32_t nfields;
};

/* clang-format off */
#define STATE_IS_BOOL(lvalue) _Generic((lvalue), bool: true, default: false)
/* clang-format on */
#define STATE_FIELD(type, member, since_, reset_)                                                                      \
    {                                                                                                                  \
        .name = #member, .offset = offsetof(type, member), .count = 1, .size = sizeof(((type *)0)->member),            \
        .since = since_, .boolean = STATE_IS_BOOL(((type *)0)->member), .reset = reset_                                \
    }
#define STATE_ARRAY(type, member, since_, reset_)                                                                      \
    {                                                                                                                  \
        .name = #member, .offset = offsetof(type, member),                                                             \
        .count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]), .size = sizeof(((type *)0)->member[0]), \
        .since = since_, .boolean = STATE_IS_BOOL(((type *)0)->member[0]), .reset = reset_                             \
    }
/* The same for an array of arrays. */
#define STATE_ARRAY2(type, member, since_, reset_)                                                                     \
    {                                                                                                                  \
        .name = #member, .offset = offsetof(type, member),                                                             \
        .count = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0][0]),                                      \
        .size = sizeof(((type *)0)->member[0][0]), .since = since_,                                                    \
        .boolean = STATE_IS_BOOL(((type *)0)->member[0][0]), .reset = reset_                                           \
    }
#define STATE_DESC(name_, version_, type, fields_)                                                                     \
    {                                                                                                                  \
        .name = name_, .version = version_, .size = sizeof(type), .fields = fields_,                                   \
        .nfields = sizeof(fields_) / sizeof(fields_[0])                                                                \
    }

/* A growing buffer of saved sections; zero-initialise, free data when done. */
struct state_blob {
    uint8_t *data;
    size_t len, cap;
};

/* Gives every field its reset value; what the table does not name is left alone. */
void state_reset(const struct state_desc *, void *dev);

/* Appends a section. 0, or -ENOMEM with the blob as it was. */
int state_save(const struct state_desc *, const void *dev, struct state_blob *out);

/*
 * Reads the section at data[*pos] and moves *pos behind it. 0, or -EINVAL:
 * truncated, or name, version, field, size or count is not what the table
 * says; dev then holds reset values and *pos is unchanged.
 */
int state_load(const struct state_desc *, void *dev, const uint8_t *data, size_t len, size_t *pos);

#endif
