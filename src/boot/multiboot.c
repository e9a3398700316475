/* Multiboot Specification 0.6.96: section 3.1 (header), 3.2 (machine state), 3.3 (boot information). */
#include "boot/multiboot.h"

#include <errno.h>

#include "boot/elf.h"
#include "boot/entry.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH 8192 /* the header is wholly within these first bytes */
#define LOADER_MAGIC 0x2badb002u

/* Header flags: those of bits 0-15 are demands. */
#define WANT_PAGE_ALIGN (1u << 0) /* modules always are */
#define WANT_MEMORY (1u << 1)     /* always given */
#define WANT_VIDEO (1u << 2)
#define HAS_ADDRESSES (1u << 16)

#define INFO_MEMORY (1u << 0)
#define INFO_CMDLINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_MMAP (1u << 6)
#define INFO_LOADER_NAME (1u << 9)

#define INFO_SIZE 120 /* 116 are defined */
#define MODULE_SIZE 16
#define MMAP_SIZE 24

static const char loader_name[] = "xhyve";

struct header {
    uint32_t offset; /* in the file */
    uint32_t flags, header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

/* What has been loaded, and where to begin. */
struct loaded {
    uint64_t start, end;
    uint32_t entry;
};

static int read_failed(const char *what, const struct boot_file *f, int err, char *why, size_t n)
{
    return boot_fail(why, n, err, "%s \"%s\": %s", what, f->path,
                     err == -EIO ? "has become shorter since it was opened" : strerror(-err));
}

static int find_header(const struct boot_file *f, struct header *h, char *why, size_t n)
{
    uint8_t buf[HEADER_SEARCH];
    size_t have = f->size < sizeof(buf) ? f->size : sizeof(buf);
    int err = boot_file_read(f, 0, buf, have);
    if (err)
        return read_failed("kernel", f, err, why, n);
    for (size_t at = 0; at + 12 <= have; at += 4) {
        uint32_t flags = get_le32(buf + at + 4);
        if (get_le32(buf + at) != HEADER_MAGIC || HEADER_MAGIC + flags + get_le32(buf + at + 8) != 0)
            continue;
        *h = (struct header){.offset = (uint32_t)at, .flags = flags};
        if (flags & WANT_VIDEO)
            return boot_fail(why, n, -ENOTSUP,
                             "kernel \"%s\" demands a video mode (multiboot flag 2), but this machine has no display; "
                             "build it without",
                             f->path);
        if (flags & 0xffff & ~(WANT_PAGE_ALIGN | WANT_MEMORY))
            return boot_fail(why, n, -ENOTSUP,
                             "kernel \"%s\" demands what is not known here: multiboot flags 0x%x, expected 0 to 3",
                             f->path, flags & 0xffff);
        if (!(flags & HAS_ADDRESSES))
            return 0;
        if (have - at < 32)
            return boot_fail(why, n, -EINVAL, "kernel \"%s\" is truncated: it ends in its multiboot header", f->path);
        h->header_addr = get_le32(buf + at + 12);
        h->load_addr = get_le32(buf + at + 16);
        h->load_end_addr = get_le32(buf + at + 20);
        h->bss_end_addr = get_le32(buf + at + 24);
        h->entry_addr = get_le32(buf + at + 28);
        return 0;
    }
    return boot_fail(why, n, -ENOEXEC,
                     "kernel \"%s\" is not a multiboot kernel: no multiboot 1 header (0x1badb002 and its checksum) in "
                     "its first 8 KiB",
                     f->path);
}

/* A kernel that says itself where its bytes go. */
static int load_raw(const struct boot_file *f, const struct header *h, struct guest_mem *mem, struct loaded *out,
                    char *why, size_t n)
{
    if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > h->offset)
        return boot_fail(
            why, n, -EINVAL,
            "kernel \"%s\" is damaged: its multiboot header stands at 0x%x of the file, but says that 0x%x "
            "bytes of what is loaded come before it",
            f->path, h->offset, h->header_addr - h->load_addr);
    uint64_t off = h->offset - (h->header_addr - h->load_addr), len = f->size - off;
    if (h->load_end_addr) {
        if (h->load_end_addr <= h->load_addr || h->load_end_addr - h->load_addr > len)
            return boot_fail(why, n, -EINVAL,
                             "kernel \"%s\" is truncated or damaged: its multiboot header loads 0x%x-0x%x, the file "
                             "has %llu bytes for that",
                             f->path, h->load_addr, h->load_end_addr, (unsigned long long)len);
        len = h->load_end_addr - h->load_addr;
    }
    uint64_t end = h->load_addr + len, bss_end = h->bss_end_addr ? h->bss_end_addr : end;
    if (bss_end < end)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\" is damaged: its .bss ends at 0x%llx, before its data (0x%llx)",
                         f->path, (unsigned long long)bss_end, (unsigned long long)end);
    if (h->load_addr < LAYOUT_HIGH && bss_end > LAYOUT_EBDA)
        return boot_fail(
            why, n, -EINVAL,
            "kernel \"%s\" loads to 0x%x-0x%llx, over the firmware's tables at 0x%x-0x%x; link it elsewhere", f->path,
            h->load_addr, (unsigned long long)bss_end - 1, LAYOUT_EBDA, LAYOUT_HIGH - 1);
    struct boot_image img = boot_image_file(f);
    int err = boot_image_load(&img, off, len, mem, h->load_addr);
    if (!err)
        err = boot_zero(mem, end, bss_end - end);
    if (err == -EFAULT)
        return boot_fail(why, n, -ENOMEM,
                         "kernel \"%s\" needs memory up to 0x%llx, but the machine has %llu MiB below the PCI hole; "
                         "give it more with -m",
                         f->path, (unsigned long long)bss_end, (unsigned long long)(mem->low_len >> 20));
    *out = (struct loaded){.start = h->load_addr, .end = bss_end, .entry = h->entry_addr};
    return err ? read_failed("kernel", f, err, why, n) : 0;
}

static int load_kernel(const struct boot_file *f, struct guest_mem *mem, struct loaded *out, char *why, size_t n)
{
    struct header h = {0};
    int err = find_header(f, &h, why, n);
    if (err)
        return err;
    uint64_t entry;
    struct boot_image img = boot_image_file(f);
    if (h.flags & HAS_ADDRESSES) {
        err = load_raw(f, &h, mem, out, why, n);
        entry = out->entry;
    } else if (elf_is(&img)) {
        struct elf_kernel elf;
        err = elf_load(&img, mem, 0, &elf, why, n);
        *out = (struct loaded){.start = elf.start, .end = elf.end};
        entry = elf.entry_physical;
    } else {
        return boot_fail(why, n, -ENOEXEC,
                         "kernel \"%s\" does not say where to load it: it is no ELF file, and its multiboot header has "
                         "no address fields (flag 16)",
                         f->path);
    }
    if (err)
        return err;
    if (entry < out->start || entry >= out->end)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\": its entry 0x%llx is outside what it loads, 0x%llx-0x%llx",
                         f->path, (unsigned long long)entry, (unsigned long long)out->start,
                         (unsigned long long)out->end - 1);
    out->entry = (uint32_t)entry;
    return 0;
}

/* A block of guest memory that is filled from front to back. */
struct block {
    uint8_t *host;
    uint64_t gpa, len, at;
};

static uint8_t *block_take(struct block *b, uint64_t len, uint32_t *gpa)
{
    uint8_t *p = b->host + b->at;
    *gpa = (uint32_t)(b->gpa + b->at);
    b->at += len;
    return p;
}

static uint32_t block_string(struct block *b, const char *s)
{
    uint32_t gpa;
    size_t len = strlen(s) + 1;
    memcpy(block_take(b, len, &gpa), s, len);
    return gpa;
}

static uint64_t info_size(const struct multiboot_boot *b)
{
    uint64_t size = ENTRY_GDT_SIZE + INFO_SIZE + (uint64_t)b->nmodules * MODULE_SIZE + b->e820->n * MMAP_SIZE +
                    sizeof(loader_name) + (b->cmdline ? strlen(b->cmdline) : 0) + 1;
    for (unsigned i = 0; i < b->nmodules; i++)
        size += (b->module[i].string ? strlen(b->module[i].string) : 0) + 1;
    return align_up(size, MEM_PAGE);
}

/*
 * The boot information goes right under the EBDA, where other loaders' does
 * not surprise a kernel that takes the memory behind itself without looking,
 * unless the kernel itself or sheer size forbids it.
 */
static uint64_t place_info(uint64_t size, const struct loaded *k, uint64_t *modules_from)
{
    uint64_t low_end = align_down(LAYOUT_EBDA, MEM_PAGE);
    *modules_from = align_up(k->end > LAYOUT_HIGH ? k->end : LAYOUT_HIGH, MEM_PAGE);
    if (k->start >= LAYOUT_HIGH && size <= KiB(256))
        return low_end - size;
    uint64_t at = *modules_from;
    *modules_from += size;
    return at;
}

static int load_module(const struct multiboot_module *m, struct guest_mem *mem, uint64_t gpa, char *why, size_t n)
{
    struct boot_image img = boot_image_file(m->file);
    if (m->file->size > mem->low_len || gpa > mem->low_len - m->file->size)
        return boot_fail(
            why, n, -ENOMEM,
            "module \"%s\" does not fit: it has %llu MiB, and from 0x%llx on the machine has %llu MiB free; "
            "give it more with -m",
            m->file->path, (unsigned long long)(align_up(m->file->size, MiB(1)) >> 20), (unsigned long long)gpa,
            (unsigned long long)(gpa < mem->low_len ? (mem->low_len - gpa) >> 20 : 0));
    int err = boot_image_load(&img, 0, m->file->size, mem, gpa);
    return err ? read_failed("module", m->file, err, why, n) : 0;
}

static void put_mmap(uint8_t *at, const struct e820_map *map)
{
    for (unsigned i = 0; i < map->n; i++, at += MMAP_SIZE) {
        put_le32(at, MMAP_SIZE - 4); /* the size field does not count itself */
        put_le64(at + 4, map->entry[i].base);
        put_le64(at + 12, map->entry[i].len);
        put_le32(at + 20, map->entry[i].type);
    }
}

int boot_multiboot_load(const struct multiboot_boot *b, struct guest_mem *mem, struct x86_state *bsp, char *why,
                        size_t n)
{
    struct loaded k = {0};
    if (b->nmodules > MULTIBOOT_MAX_MODULES)
        return boot_fail(why, n, -E2BIG, "%u multiboot modules, expected at most %u", b->nmodules,
                         MULTIBOOT_MAX_MODULES);
    int err = load_kernel(b->kernel, mem, &k, why, n);
    if (err)
        return err;

    uint64_t module_at, size = info_size(b), gpa = place_info(size, &k, &module_at);
    struct block block = {.host = mem_w(mem, gpa, size), .gpa = gpa, .len = size};
    if (!block.host)
        return boot_fail(why, n, -ENOMEM,
                         "kernel \"%s\": no %llu KiB free behind it for the boot information; give the machine more "
                         "memory with -m",
                         b->kernel->path, (unsigned long long)(size >> 10));
    memset(block.host, 0, size);

    uint32_t gdt, info_at, modules_at, mmap_at;
    block_take(&block, ENTRY_GDT_SIZE, &gdt);
    uint8_t *info = block_take(&block, INFO_SIZE, &info_at);
    uint8_t *modules = block_take(&block, b->nmodules * MODULE_SIZE, &modules_at);
    put_mmap(block_take(&block, b->e820->n * MMAP_SIZE, &mmap_at), b->e820);

    put_le32(info, INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME);
    put_le32(info + 4, LAYOUT_EBDA >> 10);
    put_le32(info + 8, (uint32_t)((mem->low_len - LAYOUT_HIGH) >> 10));
    put_le32(info + 16, block_string(&block, b->cmdline ? b->cmdline : ""));
    put_le32(info + 20, b->nmodules);
    put_le32(info + 24, modules_at);
    put_le32(info + 44, b->e820->n * MMAP_SIZE);
    put_le32(info + 48, mmap_at);
    put_le32(info + 64, block_string(&block, loader_name));
    for (unsigned i = 0; i < b->nmodules; i++, modules += MODULE_SIZE) {
        const struct multiboot_module *m = &b->module[i];
        err = load_module(m, mem, module_at, why, n);
        if (err)
            return err;
        put_le32(modules, (uint32_t)module_at);
        put_le32(modules + 4, (uint32_t)(module_at + m->file->size));
        put_le32(modules + 8, block_string(&block, m->string ? m->string : ""));
        module_at = align_up(module_at + m->file->size, MEM_PAGE);
    }
    mem_written(mem, gpa, size);

    err = entry_protected(bsp, mem, gdt, k.entry);
    bsp->gpr[RAX] = LOADER_MAGIC;
    bsp->gpr[RBX] = info_at;
    return err;
}
