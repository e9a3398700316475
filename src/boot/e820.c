/* The memory map (ACPI 6.4, section 15) and the words of the BIOS data area that speak of memory. */
#include "boot/e820.h"

#include <errno.h>

#include "boot/layout.h"
#include "util/bytes.h"

static int append(struct e820_map *m, uint64_t base, uint64_t len, uint32_t type)
{
    if (!len)
        return 0;
    if (m->n) {
        struct e820_entry *last = &m->entry[m->n - 1];
        if (last->type == type && last->base + last->len == base) {
            last->len += len;
            return 0;
        }
    }
    if (m->n == E820_MAX)
        return -ENOSPC;
    m->entry[m->n++] = (struct e820_entry){base, len, type};
    return 0;
}

int e820_add(struct e820_map *map, uint64_t base, uint64_t len, enum e820_type type)
{
    if (!len || base + len - 1 < base || base + len == 0)
        return -EINVAL;
    uint64_t end = base + len;
    struct e820_map out = {.n = 0};
    bool placed = false;
    int err = 0;

    for (unsigned i = 0; i < map->n && !err; i++) {
        const struct e820_entry *e = &map->entry[i];
        uint64_t e_end = e->base + e->len;
        if (e->base < base)
            err = append(&out, e->base, (e_end < base ? e_end : base) - e->base, e->type);
        if (!err && !placed && e_end > base) {
            err = append(&out, base, len, type);
            placed = true;
        }
        if (!err && e_end > end) {
            uint64_t from = e->base > end ? e->base : end;
            err = append(&out, from, e_end - from, e->type);
        }
    }
    if (!err && !placed)
        err = append(&out, base, len, type);
    if (!err)
        *map = out;
    return err;
}

void e820_build(struct e820_map *map, const struct guest_mem *mem, bool acpi)
{
    map->n = 0;
    append(map, 0, LAYOUT_EBDA, E820_RAM);
    append(map, LAYOUT_EBDA, LAYOUT_EBDA_SIZE, E820_RESERVED);
    append(map, LAYOUT_FACS, LAYOUT_FACS_SIZE, acpi ? E820_NVS : E820_RESERVED);
    append(map, LAYOUT_ACPI, LAYOUT_ACPI_SIZE, acpi ? E820_ACPI : E820_RESERVED);
    append(map, LAYOUT_SMBIOS, LAYOUT_HIGH - LAYOUT_SMBIOS, E820_RESERVED);
    if (mem->low_len > LAYOUT_HIGH)
        append(map, LAYOUT_HIGH, mem->low_len - LAYOUT_HIGH, E820_RAM);
    append(map, MEM_HIGH_START, mem->high_len, E820_RAM);
}

int e820_write_bda(struct guest_mem *mem, const uint16_t com_port[4])
{
    uint8_t *bda = mem_w(mem, LAYOUT_BDA, 0x100);
    if (!bda)
        return -EFAULT;
    memset(bda, 0, 0x100);
    unsigned ports = 0;
    for (unsigned i = 0; i < 4; i++) {
        put_le16(bda + 2 * i, com_port[i]);
        ports += com_port[i] != 0;
    }
    put_le16(bda + 0x0e, LAYOUT_EBDA >> 4);
    put_le16(bda + 0x10, (uint16_t)(ports << 9));
    put_le16(bda + 0x13, LAYOUT_EBDA >> 10);
    mem_written(mem, LAYOUT_BDA, 0x100);
    return 0;
}
