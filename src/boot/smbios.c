/* System Management BIOS Reference Specification 3.0 (and 2.8 for its 32-bit entry point): sections 5.2 and 7. */
#include "boot/smbios.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "boot/file.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define ENTRY_32 LAYOUT_SMBIOS
#define ENTRY_64 (LAYOUT_SMBIOS + 0x20)
#define TABLE (LAYOUT_SMBIOS + 0x40)
#define TABLE_MAX (LAYOUT_SMBIOS_SIZE - 0x40)

#define ENTRY_32_SIZE 0x1f
#define ENTRY_64_SIZE 0x18

enum {
    HANDLE_BIOS = 0x0000,
    HANDLE_SYSTEM = 0x0100,
    HANDLE_BOARD = 0x0200,
    HANDLE_CHASSIS = 0x0300,
    HANDLE_PROCESSOR = 0x0400,
    HANDLE_MEMORY_ARRAY = 0x1000,
    HANDLE_MEMORY_DEVICE = 0x1100,
    HANDLE_MEMORY_MAPPED = 0x1300,
    HANDLE_BOOT = 0x2000,
    HANDLE_END = 0x7f00,
    NO_HANDLE = 0xffff,
    NO_ERROR_HANDLE = 0xfffe,
};

struct writer {
    uint8_t *buf;
    size_t len, cap;
    bool overflow;
    unsigned count, largest; /* structures */
    size_t start;            /* of the one being written */
    unsigned strings;
};

/* Begins a structure of `size` bytes, header included; its fields are zero. NULL if there is no room. */
static uint8_t *begin(struct writer *w, unsigned type, unsigned size, unsigned handle)
{
    if (w->overflow || size > w->cap - w->len) {
        w->overflow = true;
        return NULL;
    }
    uint8_t *s = w->buf + w->len;
    w->start = w->len;
    w->len += size;
    w->strings = 0;
    memset(s, 0, size);
    s[0] = (uint8_t)type;
    s[1] = (uint8_t)size;
    put_le16(s + 2, (uint16_t)handle);
    return s;
}

/* Appends a string to the structure begun; returns its number. */
static uint8_t string(struct writer *w, const char *s)
{
    if (!s || !*s)
        return 0;
    size_t len = strlen(s) + 1;
    if (len > 65) /* what readers promise to take: 64 characters */
        len = 65;
    if (w->overflow || len > w->cap - w->len) {
        w->overflow = true;
        return 0;
    }
    memcpy(w->buf + w->len, s, len - 1);
    w->buf[w->len + len - 1] = 0;
    w->len += len;
    return (uint8_t)++w->strings;
}

static void end(struct writer *w)
{
    unsigned zeros = w->strings ? 1 : 2;
    if (w->overflow || zeros > w->cap - w->len) {
        w->overflow = true;
        return;
    }
    memset(w->buf + w->len, 0, zeros);
    w->len += zeros;
    w->count++;
    if (w->len - w->start > w->largest)
        w->largest = (unsigned)(w->len - w->start);
}

static void bios(struct writer *w, const struct smbios_params *p)
{
    uint8_t *s = begin(w, 0, 0x18, HANDLE_BIOS);
    if (!s)
        return;
    s[0x04] = string(w, "xhyve");
    s[0x05] = string(w, p->version);
    put_le16(s + 0x06, LAYOUT_SMBIOS >> 4);
    s[0x08] = string(w, "01/01/2025");
    put_le64(s + 0x0a, 1u << 7);        /* PCI */
    s[0x12] = 1u << 0;                  /* ACPI */
    s[0x13] = 1u << 4;                  /* a virtual machine */
    s[0x14] = s[0x16] = s[0x17] = 0xff; /* releases: none to tell */
    s[0x15] = 0xff;
    end(w);
}

static void put_uuid(uint8_t *to, const uint8_t u[16])
{
    /* The first three fields are little-endian since SMBIOS 2.6. */
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (unsigned i = 0; i < 16; i++)
        to[i] = u[order[i]];
}

static void system_info(struct writer *w, const struct smbios_params *p)
{
    uint8_t *s = begin(w, 1, 0x1b, HANDLE_SYSTEM);
    if (!s)
        return;
    s[0x04] = string(w, "xhyve");
    s[0x05] = string(w, "xhyve virtual machine");
    s[0x06] = string(w, p->version);
    s[0x07] = string(w, p->serial ? p->serial : "None");
    put_uuid(s + 0x08, p->uuid);
    s[0x18] = 6; /* woken by the power switch */
    s[0x19] = string(w, "None");
    s[0x1a] = string(w, "Virtual Machine");
    end(w);
}

static void board(struct writer *w, const struct smbios_params *p)
{
    uint8_t *s = begin(w, 2, 0x0f, HANDLE_BOARD);
    if (!s)
        return;
    s[0x04] = string(w, "xhyve");
    s[0x05] = string(w, "xhyve");
    s[0x06] = string(w, p->version);
    s[0x07] = string(w, "None");
    s[0x09] = 1; /* hosts the rest */
    put_le16(s + 0x0b, HANDLE_CHASSIS);
    s[0x0d] = 0x0a; /* motherboard */
    end(w);
}

static void chassis(struct writer *w, const struct smbios_params *p)
{
    uint8_t *s = begin(w, 3, 0x16, HANDLE_CHASSIS);
    if (!s)
        return;
    s[0x04] = string(w, "xhyve");
    s[0x05] = 1; /* other */
    s[0x06] = string(w, p->version);
    s[0x07] = string(w, "None");
    s[0x09] = s[0x0a] = s[0x0b] = 3; /* boot-up, power supply and thermal state: safe */
    s[0x0c] = 3;                     /* security: none */
    end(w);
}

static void processor(struct writer *w, const struct smbios_params *p, unsigned socket)
{
    char name[24];
    snprintf(name, sizeof(name), "CPU %u", socket);
    uint8_t *s = begin(w, 4, 0x30, HANDLE_PROCESSOR + socket);
    if (!s)
        return;
    unsigned threads = p->cores * p->threads;
    s[0x04] = string(w, name);
    s[0x05] = 3; /* central processor */
    s[0x06] = 1; /* family: other */
    s[0x07] = string(w, p->cpu_vendor ? p->cpu_vendor : "Unknown");
    put_le32(s + 0x08, p->cpu_signature);
    put_le32(s + 0x0c, p->cpu_features);
    s[0x10] = string(w, p->cpu_brand ? p->cpu_brand : "Unknown");
    s[0x18] = 0x41;                /* populated, enabled */
    s[0x19] = 1;                   /* upgrade: other */
    put_le16(s + 0x1a, NO_HANDLE); /* caches */
    put_le16(s + 0x1c, NO_HANDLE);
    put_le16(s + 0x1e, NO_HANDLE);
    s[0x23] = s[0x24] = (uint8_t)(p->cores < 0xff ? p->cores : 0xff);
    s[0x25] = (uint8_t)(threads < 0xff ? threads : 0xff);
    put_le16(s + 0x26, (uint16_t)(1u << 2 | (p->cores > 1) << 3 | (p->threads > 1) << 4)); /* 64-bit, cores, threads */
    put_le16(s + 0x28, 1);
    put_le16(s + 0x2a, (uint16_t)p->cores);
    put_le16(s + 0x2c, (uint16_t)p->cores);
    put_le16(s + 0x2e, (uint16_t)threads);
    end(w);
}

static void memory_array(struct writer *w, uint64_t bytes)
{
    uint8_t *s = begin(w, 16, 0x17, HANDLE_MEMORY_ARRAY);
    if (!s)
        return;
    s[0x04] = 3; /* on the board; system memory; no error correction */
    s[0x05] = 3;
    s[0x06] = 3;
    uint64_t kib = bytes >> 10;
    put_le32(s + 0x07, kib < 0x80000000 ? (uint32_t)kib : 0x80000000);
    put_le16(s + 0x0b, NO_ERROR_HANDLE);
    put_le16(s + 0x0d, 1);
    put_le64(s + 0x0f, kib < 0x80000000 ? 0 : bytes);
    end(w);
}

static void memory_device(struct writer *w, uint64_t bytes)
{
    uint8_t *s = begin(w, 17, 0x28, HANDLE_MEMORY_DEVICE);
    if (!s)
        return;
    put_le16(s + 0x04, HANDLE_MEMORY_ARRAY);
    put_le16(s + 0x06, NO_ERROR_HANDLE);
    put_le16(s + 0x08, 0xffff); /* widths: unknown */
    put_le16(s + 0x0a, 0xffff);
    uint64_t mib = bytes >> 20;
    put_le16(s + 0x0c, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
    put_le32(s + 0x1c, mib < 0x7fff ? 0 : (uint32_t)mib);
    s[0x0e] = 9; /* DIMM */
    s[0x10] = string(w, "DIMM 0");
    s[0x12] = 7; /* RAM */
    put_le16(s + 0x13, 1u << 1);
    s[0x17] = string(w, "xhyve");
    end(w);
}

static void memory_mapped(struct writer *w, unsigned index, uint64_t base, uint64_t len)
{
    uint8_t *s = len ? begin(w, 19, 0x1f, HANDLE_MEMORY_MAPPED + index) : NULL;
    if (!s)
        return;
    uint64_t last = base + len - 1;
    if (last >> 10 < UINT32_MAX) {
        put_le32(s + 0x04, (uint32_t)(base >> 10));
        put_le32(s + 0x08, (uint32_t)(last >> 10));
    } else {
        put_le32(s + 0x04, UINT32_MAX);
        put_le32(s + 0x08, UINT32_MAX);
        put_le64(s + 0x0f, base);
        put_le64(s + 0x17, last);
    }
    put_le16(s + 0x0c, HANDLE_MEMORY_ARRAY);
    s[0x0e] = 1;
    end(w);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + p[i]);
    return (uint8_t)-sum;
}

static void entry_points(uint8_t *area, const struct writer *w)
{
    uint8_t *e = area + (ENTRY_32 - LAYOUT_SMBIOS);
    memcpy(e, "_SM_", 4);
    e[0x05] = ENTRY_32_SIZE;
    e[0x06] = 2;
    e[0x07] = 8;
    put_le16(e + 0x08, (uint16_t)w->largest);
    memcpy(e + 0x10, "_DMI_", 5);
    put_le16(e + 0x16, (uint16_t)w->len);
    put_le32(e + 0x18, TABLE);
    put_le16(e + 0x1c, (uint16_t)w->count);
    e[0x1e] = 0x28;
    e[0x15] = checksum(e + 0x10, ENTRY_32_SIZE - 0x10);
    e[0x04] = checksum(e, ENTRY_32_SIZE);

    e = area + (ENTRY_64 - LAYOUT_SMBIOS);
    memcpy(e, "_SM3_", 5);
    e[0x06] = ENTRY_64_SIZE;
    e[0x07] = 3;
    e[0x0a] = 1;
    put_le32(e + 0x0c, (uint32_t)w->len);
    put_le64(e + 0x10, TABLE);
    e[0x05] = checksum(e, ENTRY_64_SIZE);
}

int smbios_install(const struct smbios_params *p, struct guest_mem *mem, char *why, size_t n)
{
    uint8_t *area = mem_w(mem, LAYOUT_SMBIOS, LAYOUT_SMBIOS_SIZE);
    if (!area)
        return boot_fail(why, n, -EFAULT, "no memory for the SMBIOS tables under 1 MiB");
    memset(area, 0, LAYOUT_SMBIOS_SIZE);
    struct writer w = {.buf = area + (TABLE - LAYOUT_SMBIOS), .cap = TABLE_MAX};
    bios(&w, p);
    system_info(&w, p);
    board(&w, p);
    chassis(&w, p);
    for (unsigned i = 0; i < p->sockets && !w.overflow; i++)
        processor(&w, p, i);
    memory_array(&w, mem->low_len + mem->high_len);
    memory_device(&w, mem->low_len + mem->high_len);
    memory_mapped(&w, 0, 0, mem->low_len);
    memory_mapped(&w, 1, MEM_HIGH_START, mem->high_len);
    begin(&w, 32, 0x0b, HANDLE_BOOT); /* status 0: booted without errors */
    end(&w);
    begin(&w, 127, 4, HANDLE_END);
    end(&w);
    if (!w.overflow)
        entry_points(area, &w);
    mem_written(mem, LAYOUT_SMBIOS, LAYOUT_SMBIOS_SIZE);
    if (w.overflow)
        return boot_fail(why, n, -E2BIG, "the SMBIOS tables of %u processor sockets do not fit into %u KiB; use fewer",
                         p->sockets, LAYOUT_SMBIOS_SIZE >> 10);
    return 0;
}
