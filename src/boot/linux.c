/*
 * Loading Linux: Documentation/arch/x86/boot.rst ("Loading The Rest of The
 * Kernel", "32-bit Boot Protocol", "64-bit Boot Protocol").
 */
#include "boot/linux.h"

#include <errno.h>
#include <stdlib.h>

#include "boot/elf.h"
#include "boot/entry.h"
#include "boot/layout.h"
#include "boot/linux_params.h"
#include "boot/pvh.h"
#include "boot/unpack.h"
#include "util/bytes.h"

#define ENTRY64_OFFSET 0x200 /* of the 64-bit entry in the protected-mode kernel */

static int enter(struct x86_state *bsp, struct guest_mem *mem, bool is64, uint64_t entry)
{
    int err = is64 ? entry_long(bsp, mem, LAYOUT_GDT, LAYOUT_PAGE_TABLES, entry)
                   : entry_protected(bsp, mem, LAYOUT_GDT, (uint32_t)entry);
    bsp->gpr[RSI] = LAYOUT_PARAMS;
    return err;
}

static int load_packed(const struct linux_boot *b, const struct linux_header *h, struct guest_mem *mem, uint64_t *end,
                       char *why, size_t n)
{
    *end = h->load_addr + h->needed;
    if (*end > mem->low_len)
        return boot_fail(why, n, -ENOMEM,
                         "kernel \"%s\" needs memory up to 0x%llx, but the machine has %llu MiB below the PCI hole; "
                         "give it %llu MiB or more with -m",
                         b->kernel->path, (unsigned long long)*end, (unsigned long long)(mem->low_len >> 20),
                         (unsigned long long)(align_up(*end, MiB(1)) >> 20));
    struct boot_image img = boot_image_file(b->kernel);
    int err = boot_image_load(&img, h->setup_size, h->kernel_size, mem, h->load_addr);
    if (err)
        return boot_fail(why, n, err, "kernel \"%s\": %s", b->kernel->path,
                         err == -EIO ? "has become shorter since it was opened" : strerror(-err));
    return 0;
}

/* A vmlinux is entered as its own decompressor would, at e_entry with boot_params in RSI: is there code? */
static int check_entry(const struct linux_boot *b, const struct elf_kernel *elf, char *why, size_t n)
{
    if (elf->entry_physical < elf->start || elf->entry_physical >= elf->end)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\": its entry 0x%llx is outside what it loads, 0x%llx-0x%llx",
                         b->kernel->path, (unsigned long long)elf->entry, (unsigned long long)elf->start,
                         (unsigned long long)elf->end - 1);
    return 0;
}

static int load_elf(const struct linux_boot *b, struct guest_mem *mem, struct x86_state *bsp, char *why, size_t n)
{
    struct boot_image img = boot_image_file(b->kernel);
    struct linux_header h;
    struct elf_kernel elf;
    int err = elf_load(&img, mem, LAYOUT_HIGH, &elf, why, n);
    if (err)
        return err;
    if (elf.has_pvh)
        return pvh_enter(b, &elf, mem, bsp, why, n);
    linux_header_synthesize(&h, elf.is64);
    h.load_addr = elf.start;
    err = check_entry(b, &elf, why, n);
    if (!err)
        err = linux_params_write(b, &h, elf.end, mem, why, n);
    return err ? err : enter(bsp, mem, elf.is64, elf.entry_physical);
}

static int load_unpacked(const struct linux_boot *b, struct linux_header *h, struct guest_mem *mem, uint64_t *end,
                         struct elf_kernel *elf, char *why, size_t n)
{
    uint8_t *data = NULL;
    struct boot_image img = {.path = b->kernel->path};
    uint64_t max = mem->low_len + MiB(64); /* sections that are not loaded, and relocations */
    int err = unpack_payload(b->kernel, h, max, &data, &img.size, why, n);
    if (err)
        return err;
    img.data = data;
    err = elf_load(&img, mem, LAYOUT_HIGH, elf, why, n);
    unpack_free(data, img.size);
    if (!err)
        err = check_entry(b, elf, why, n);
    h->load_addr = elf->start;
    *end = elf->end;
    return err;
}

int boot_linux_load(const struct linux_boot *b, struct guest_mem *mem, struct x86_state *bsp, char *why, size_t n)
{
    if (mem->low_len < MiB(2))
        return boot_fail(why, n, -ENOMEM, "the machine has too little memory to boot Linux; give it more with -m");
    struct boot_image img = boot_image_file(b->kernel);
    if (elf_is(&img))
        return load_elf(b, mem, bsp, why, n);

    struct linux_header h;
    int err = linux_header_read(b->kernel, &h, why, n);
    if (err)
        return err;
    uint64_t end = 0;
    struct elf_kernel elf = {0};
    err = b->unpack ? load_unpacked(b, &h, mem, &end, &elf, why, n) : load_packed(b, &h, mem, &end, why, n);
    if (!err)
        err = linux_params_write(b, &h, end, mem, why, n);
    if (err)
        return err;
    if (b->unpack)
        return enter(bsp, mem, elf.is64, elf.entry_physical);
    return enter(bsp, mem, h.entry64, h.load_addr + (h.entry64 ? ENTRY64_OFFSET : 0));
}
