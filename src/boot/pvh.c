/* PVH entry: Xen's public/arch-x86/hvm/start_info.h and docs/misc/pvh. */
#include "boot/pvh.h"

#include <errno.h>

#include "boot/entry.h"
#include "boot/layout.h"
#include "boot/linux_params.h"
#include "util/bytes.h"

#define START_MAGIC 0x336ec578u
#define START_SIZE 56
#define MODULE_SIZE 32
#define MEMMAP_SIZE 24

#define MODULE_AT LAYOUT_SETUP_DATA
#define MEMMAP_AT (LAYOUT_SETUP_DATA + MODULE_SIZE)

_Static_assert(MODULE_SIZE + E820_MAX * MEMMAP_SIZE <= LAYOUT_SETUP_DATA_SIZE, "the memory map must fit");

static void put_memmap(uint8_t *at, const struct e820_map *map)
{
    for (unsigned i = 0; i < map->n; i++, at += MEMMAP_SIZE) {
        put_le64(at, map->entry[i].base);
        put_le64(at + 8, map->entry[i].len);
        put_le32(at + 16, map->entry[i].type); /* the same numbers */
    }
}

int pvh_enter(const struct linux_boot *b, const struct elf_kernel *elf, struct guest_mem *mem, struct x86_state *bsp,
              char *why, size_t n)
{
    if (elf->pvh_entry < elf->start || elf->pvh_entry >= elf->end)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\": its PVH entry 0x%x is outside what it loads, 0x%llx-0x%llx",
                         b->kernel->path, elf->pvh_entry, (unsigned long long)elf->start,
                         (unsigned long long)elf->end - 1);
    const char *cmdline = b->cmdline ? b->cmdline : "";
    size_t len = strlen(cmdline);
    if (len > LINUX_CMDLINE_MAX)
        return boot_fail(why, n, -E2BIG,
                         "the kernel command line has %zu characters, but kernel \"%s\" takes at most %u; shorten it",
                         len, b->kernel->path, LINUX_CMDLINE_MAX);

    uint64_t initrd = 0;
    int err = 0;
    if (b->initrd) {
        uint64_t limit = elf->is64 ? MEM_HIGH_START : 0x38000000; /* i386 Linux maps no more at its start */
        err = linux_place_initrd(b->initrd, mem, elf->end, limit, false, &initrd, why, n);
        if (!err)
            err = linux_load_initrd(b->initrd, mem, initrd, why, n);
        if (err)
            return err;
    }

    uint8_t *data = mem_w(mem, LAYOUT_SETUP_DATA, LAYOUT_SETUP_DATA_SIZE);
    uint8_t start[START_SIZE] = {0};
    err = mem_write(mem, LAYOUT_CMDLINE, cmdline, len + 1);
    if (!data || err)
        return boot_fail(why, n, -EFAULT, "kernel \"%s\": its start-up parameters do not fit into memory",
                         b->kernel->path);
    memset(data, 0, LAYOUT_SETUP_DATA_SIZE);
    if (b->initrd) {
        put_le64(data, initrd);
        put_le64(data + 8, b->initrd->size);
    }
    put_memmap(data + MODULE_SIZE, b->e820);
    mem_written(mem, LAYOUT_SETUP_DATA, LAYOUT_SETUP_DATA_SIZE);

    put_le32(start, START_MAGIC);
    put_le32(start + 4, 1); /* version: with a memory map */
    put_le32(start + 12, b->initrd != NULL);
    put_le64(start + 16, b->initrd ? MODULE_AT : 0);
    put_le64(start + 24, LAYOUT_CMDLINE);
    put_le64(start + 32, b->acpi_rsdp);
    put_le64(start + 40, MEMMAP_AT);
    put_le32(start + 48, b->e820->n);
    err = mem_write(mem, LAYOUT_PARAMS, start, sizeof(start));
    if (!err)
        err = entry_protected(bsp, mem, LAYOUT_GDT, elf->pvh_entry);
    bsp->gpr[RBX] = LAYOUT_PARAMS;
    return err;
}
