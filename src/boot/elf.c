/*
 * Loading ELF kernels (System V ABI, gABI chapters 4 and 5) by physical
 * address, and finding Xen's PHYS32_ENTRY note. The file is not trusted: all
 * sums are made so that they cannot wrap.
 */
#include "boot/elf.h"

#include <errno.h>
#include <stdlib.h>

#include "boot/elf_format.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define MAX_PHNUM 256
#define MAX_NOTES (UINT64_C(1) << 20) /* bytes of a PT_NOTE segment that are searched */

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* A program header of either class. */
struct segment {
    uint32_t type;
    uint64_t off, vaddr, paddr, filesz, memsz;
};

bool elf_is(const struct boot_image *img)
{
    char magic[ELF_MAGIC_LEN];
    return boot_image_read(img, 0, magic, sizeof(magic)) == 0 && memcmp(magic, ELF_MAGIC, ELF_MAGIC_LEN) == 0;
}

static int read_failed(const struct boot_image *img, int err, char *why, size_t n)
{
    if (err == -EIO)
        return boot_fail(why, n, err, "kernel \"%s\" has become shorter than %llu bytes since it was opened", img->path,
                         (unsigned long long)img->size);
    return boot_fail(why, n, err, "kernel \"%s\": %s", img->path, strerror(-err));
}

/* Program header i of `raw`, in either class. */
static struct segment parse_phdr(const uint8_t *raw, bool is64)
{
    struct segment s = {.type = get_le32(raw)};
    if (is64) {
        s.off = get_le64(raw + offsetof(struct elf64_phdr, offset));
        s.vaddr = get_le64(raw + offsetof(struct elf64_phdr, vaddr));
        s.paddr = get_le64(raw + offsetof(struct elf64_phdr, paddr));
        s.filesz = get_le64(raw + offsetof(struct elf64_phdr, filesz));
        s.memsz = get_le64(raw + offsetof(struct elf64_phdr, memsz));
    } else {
        s.off = get_le32(raw + offsetof(struct elf32_phdr, offset));
        s.vaddr = get_le32(raw + offsetof(struct elf32_phdr, vaddr));
        s.paddr = get_le32(raw + offsetof(struct elf32_phdr, paddr));
        s.filesz = get_le32(raw + offsetof(struct elf32_phdr, filesz));
        s.memsz = get_le32(raw + offsetof(struct elf32_phdr, memsz));
    }
    return s;
}

/*
 * Searches one PT_NOTE segment. A damaged note ends the search: it is not what
 * the kernel is made of.
 */
static int find_pvh(const struct boot_image *img, const struct segment *s, struct elf_kernel *out)
{
    if (s->filesz < 12 || s->filesz > MAX_NOTES)
        return 0;
    uint8_t *notes = malloc(s->filesz);
    if (!notes)
        return -ENOMEM;
    int err = boot_image_read(img, s->off, notes, s->filesz);
    uint64_t at = 0;
    while (!err && s->filesz - at >= 12) {
        uint64_t namesz = get_le32(notes + at), descsz = get_le32(notes + at + 4);
        uint32_t type = get_le32(notes + at + 8);
        uint64_t name = at + 12, desc = name + align_up(namesz, 4), next = desc + align_up(descsz, 4);
        if (desc > s->filesz || descsz > s->filesz - desc)
            break;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && memcmp(notes + name, "Xen", 4) == 0 &&
            (descsz == 4 || descsz == 8)) {
            uint64_t entry = get_le(notes + desc, (unsigned)descsz);
            if (entry <= UINT32_MAX) {
                out->has_pvh = true;
                out->pvh_entry = (uint32_t)entry;
            }
        }
        if (next > s->filesz)
            break;
        at = next;
    }
    free(notes);
    return err;
}

static bool overlaps(uint64_t base, uint64_t len, uint64_t from, uint64_t to) { return base < to && from < base + len; }

static int load_segment(const struct boot_image *img, struct guest_mem *mem, uint64_t floor, unsigned index,
                        const struct segment *s, char *why, size_t n)
{
    unsigned long long from = s->paddr, to = s->paddr + s->memsz;
    if (s->memsz > MEM_HIGH_START || s->paddr > MEM_HIGH_START - s->memsz)
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\": ELF segment %u loads to 0x%llx, outside the 4 GiB that a kernel may be put in",
                         img->path, index, from);
    if (s->paddr < floor)
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\": ELF segment %u loads to 0x%llx, under 0x%llx where start-up data stands; "
                         "link it higher",
                         img->path, index, from, (unsigned long long)floor);
    if (overlaps(s->paddr, s->memsz, LAYOUT_EBDA, LAYOUT_HIGH))
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\": ELF segment %u loads to 0x%llx-0x%llx, over the firmware's tables at "
                         "0x%x-0x%x; link it elsewhere",
                         img->path, index, from, to - 1, LAYOUT_EBDA, LAYOUT_HIGH - 1);
    int err = boot_image_load(img, s->off, s->filesz, mem, s->paddr);
    if (!err)
        err = boot_zero(mem, s->paddr + s->filesz, s->memsz - s->filesz);
    if (err == -EFAULT)
        return boot_fail(why, n, -ENOMEM,
                         "kernel \"%s\" needs memory up to 0x%llx (%llu MiB), but the machine has %llu MiB below the "
                         "PCI hole; give it more with -m",
                         img->path, to, (unsigned long long)(align_up(to, MiB(1)) >> 20),
                         (unsigned long long)(mem->low_len >> 20));
    return err ? read_failed(img, err, why, n) : 0;
}

/* Fills in what the file header says and finds the program headers. */
static int check_header(const struct boot_image *img, struct elf_kernel *out, uint64_t *phoff, unsigned *phnum,
                        char *why, size_t n)
{
    uint8_t h[sizeof(struct elf64_ehdr)] = {0};
    uint64_t have = img->size < sizeof(h) ? img->size : sizeof(h);
    int err = boot_image_read(img, 0, h, have);
    if (err)
        return read_failed(img, err, why, n);
    out->is64 = h[ELF_CLASS] == ELF_CLASS_64;
    size_t ehsize = out->is64 ? sizeof(struct elf64_ehdr) : sizeof(struct elf32_ehdr);
    if (have < ehsize)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\" is truncated: %llu bytes are no whole ELF header (%zu)",
                         img->path, (unsigned long long)img->size, ehsize);
    if (memcmp(h, ELF_MAGIC, ELF_MAGIC_LEN) || (h[ELF_CLASS] != ELF_CLASS_32 && h[ELF_CLASS] != ELF_CLASS_64) ||
        h[ELF_DATA] != ELF_DATA_LSB || h[ELF_VERSION] != ELF_VERSION_CURRENT)
        return boot_fail(why, n, -ENOEXEC, "kernel \"%s\" is not a little-endian ELF file", img->path);

    /* The class changes the place of what follows e_version only. */
    unsigned type = get_le16(h + offsetof(struct elf64_ehdr, type));
    unsigned machine = get_le16(h + offsetof(struct elf64_ehdr, machine));
    if (machine != ELF_MACHINE_X86_64 && machine != ELF_MACHINE_386)
        return boot_fail(why, n, -ENOEXEC, "kernel \"%s\" is for another processor: ELF machine %u, expected %u or %u",
                         img->path, machine, ELF_MACHINE_386, ELF_MACHINE_X86_64);
    if (type != ELF_TYPE_EXEC && type != ELF_TYPE_DYN)
        return boot_fail(why, n, -ENOEXEC, "kernel \"%s\" is no ELF executable: its type is %u, expected %u", img->path,
                         type, ELF_TYPE_EXEC);
    unsigned phentsize;
    if (out->is64) {
        out->entry = get_le64(h + offsetof(struct elf64_ehdr, entry));
        *phoff = get_le64(h + offsetof(struct elf64_ehdr, phoff));
        phentsize = get_le16(h + offsetof(struct elf64_ehdr, phentsize));
        *phnum = get_le16(h + offsetof(struct elf64_ehdr, phnum));
    } else {
        out->entry = get_le32(h + offsetof(struct elf32_ehdr, entry));
        *phoff = get_le32(h + offsetof(struct elf32_ehdr, phoff));
        phentsize = get_le16(h + offsetof(struct elf32_ehdr, phentsize));
        *phnum = get_le16(h + offsetof(struct elf32_ehdr, phnum));
    }
    unsigned want = out->is64 ? sizeof(struct elf64_phdr) : sizeof(struct elf32_phdr);
    if (*phnum == 0 || *phnum > MAX_PHNUM || phentsize != want)
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\" has %u ELF program headers of %u bytes; expected 1 to %u of %u", img->path,
                         *phnum, phentsize, MAX_PHNUM, want);
    uint64_t bytes = (uint64_t)*phnum * want;
    if (*phoff > img->size || bytes > img->size - *phoff)
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\" is truncated: its program headers are at 0x%llx, but it has %llu bytes",
                         img->path, (unsigned long long)*phoff, (unsigned long long)img->size);
    return 0;
}

int elf_load(const struct boot_image *img, struct guest_mem *mem, uint64_t floor, struct elf_kernel *out, char *why,
             size_t n)
{
    *out = (struct elf_kernel){.start = UINT64_MAX};
    uint64_t phoff = 0;
    unsigned phnum = 0;
    int err = check_header(img, out, &phoff, &phnum, why, n);
    if (err)
        return err;
    out->entry_physical = out->entry;

    size_t phentsize = out->is64 ? sizeof(struct elf64_phdr) : sizeof(struct elf32_phdr);
    bool moved = false;
    for (unsigned i = 0; i < phnum; i++) {
        uint8_t raw[sizeof(struct elf64_phdr)];
        err = boot_image_read(img, phoff + i * phentsize, raw, phentsize);
        if (err)
            return read_failed(img, err, why, n);
        struct segment s = parse_phdr(raw, out->is64);
        if (s.type != ELF_PT_LOAD && s.type != ELF_PT_NOTE)
            continue;
        if (s.off > img->size || s.filesz > img->size - s.off)
            return boot_fail(why, n, -EINVAL,
                             "kernel \"%s\" is truncated: ELF segment %u ends %llu bytes behind the file's %llu",
                             img->path, i, (unsigned long long)(s.filesz - (s.off < img->size ? img->size - s.off : 0)),
                             (unsigned long long)img->size);
        if (s.type == ELF_PT_NOTE) {
            err = find_pvh(img, &s, out);
            if (err)
                return read_failed(img, err, why, n);
            continue;
        }
        if (s.memsz == 0)
            continue;
        if (s.filesz > s.memsz)
            return boot_fail(why, n, -EINVAL,
                             "kernel \"%s\" is damaged: ELF segment %u has more bytes in the file than in memory",
                             img->path, i);
        err = load_segment(img, mem, floor, i, &s, why, n);
        if (err)
            return err;
        if (s.paddr < out->start)
            out->start = s.paddr;
        if (s.paddr + s.memsz > out->end)
            out->end = s.paddr + s.memsz;
        if (!moved && out->entry >= s.vaddr && out->entry - s.vaddr < s.memsz) {
            out->entry_physical = out->entry - s.vaddr + s.paddr;
            moved = true;
        }
    }
    if (out->end == 0)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\": the ELF file has nothing to load (no PT_LOAD segment)",
                         img->path);
    return 0;
}
