/*
 * Writes ACPI Machine Language (ACPI 6.4, chapter 20) and resource descriptors
 * (section 6.4) into a buffer. Nothing fails on the way: a writer that has run
 * out of room stays `overflow`, and its owner looks at that once, at the end.
 */
#ifndef XHYVE_BOOT_AML_H
#define XHYVE_BOOT_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AML_DEPTH 16

struct aml {
    uint8_t *buf;
    size_t len, cap;
    bool overflow;
    unsigned depth;
    size_t open[AML_DEPTH]; /* where the length of each open block goes */
    size_t template_at;     /* of the open resource template's bytes */
};

enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_DECREMENT = 0x76,
    AML_SHIFT_LEFT = 0x79,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_FIND_SET_RIGHT_BIT = 0x82,
    AML_CREATE_DWORD_FIELD = 0x8a,
    AML_CREATE_WORD_FIELD = 0x8b,
    AML_LEQUAL = 0x93,
    AML_RETURN = 0xa4,
};

enum aml_space { AML_SYSTEM_IO = 1, AML_PCI_CONFIG = 2 };

void aml_byte(struct aml *, uint8_t);
#define aml_op(a, op) aml_byte(a, (uint8_t)(op))
void aml_bytes(struct aml *, const void *, size_t);

/* A name as in ASL: "\\_SB.PCI0"; short segments are padded with underscores. */
void aml_name(struct aml *, const char *path);
void aml_int(struct aml *, uint64_t); /* in the shortest form */
void aml_string(struct aml *, const char *);
void aml_eisaid(struct aml *, const char *id); /* "PNP0A03", as a DWORD */

/* Blocks that end with aml_end(). */
void aml_scope(struct aml *, const char *path);
void aml_device(struct aml *, const char *name);
void aml_method(struct aml *, const char *name, unsigned nargs, bool serialized);
void aml_if(struct aml *);   /* the predicate follows, then statements */
void aml_else(struct aml *); /* after the end of an if */
void aml_package(struct aml *, unsigned nelements);
void aml_end(struct aml *);

/* Name(NAME, ...): the object follows, or comes with it. */
void aml_name_op(struct aml *, const char *name);
void aml_name_int(struct aml *, const char *name, uint64_t);
void aml_name_eisaid(struct aml *, const char *name, const char *id);
void aml_name_string(struct aml *, const char *name, const char *);

/* OperationRegion(NAME, space, offset, len) */
void aml_region(struct aml *, const char *name, enum aml_space, uint64_t off, uint64_t len);
/* Field(REGION, ByteAcc, NoLock, Preserve) { ... }: a block of aml_field()s; NULL skips bits. */
void aml_fields(struct aml *, const char *region);
void aml_field(struct aml *, const char *name, unsigned bits);

/* ResourceTemplate() { ... } */
void aml_template(struct aml *);
void aml_template_end(struct aml *);
void aml_res_io(struct aml *, uint16_t base, uint16_t len);
void aml_res_irq(struct aml *, uint16_t mask); /* edge, active high, exclusive */
void aml_res_irq_flags(struct aml *, uint16_t mask, bool level, bool low, bool shared);
void aml_res_memory32(struct aml *, uint32_t base, uint32_t len);     /* fixed, read-write */
void aml_res_bus_window(struct aml *, uint16_t first, uint16_t last); /* what a bridge hands down */
void aml_res_io_window(struct aml *, uint16_t first, uint16_t last);
void aml_res_memory_window(struct aml *, uint64_t first, uint64_t last); /* 32 or 64 bits, as it takes */
void aml_res_memory64(struct aml *, uint64_t base, uint64_t len);        /* consumed, above 4 GiB too */

#endif
