/*
 * bzImage header and boot_params: Linux Documentation/arch/x86/boot.rst
 * ("The Real-Mode Kernel Header") and zero-page.rst.
 */
#include "boot/linux_params.h"

#include <errno.h>

#include "boot/layout.h"
#include "util/bytes.h"

#define MIN_VERSION 0x206
#define MIN_HEADER_END 0x23c /* where the header of protocol 2.06 ends */
#define SECTOR 512
#define LOADER_UNDEFINED 0xff /* type_of_loader of one with no number assigned */
#define SETUP_RNG_SEED 9
#define SETUP_DATA_HEADER 16 /* next, type, len */

static int not_a_kernel(const struct boot_file *f, const char *found, char *why, size_t n)
{
    return boot_fail(why, n, -ENOEXEC,
                     "kernel \"%s\" is not a Linux kernel: %s; expected a bzImage (vmlinuz) or an ELF vmlinux", f->path,
                     found);
}

int linux_header_read(const struct boot_file *f, struct linux_header *h, char *why, size_t n)
{
    *h = (struct linux_header){0};
    size_t have = f->size < sizeof(h->raw) ? f->size : sizeof(h->raw);
    int err = boot_file_read(f, 0, h->raw, have);
    if (err)
        return boot_fail(why, n, err, "kernel \"%s\": %s", f->path,
                         err == -EIO ? "has become shorter since it was opened" : strerror(-err));
    if (have < BP_HEADER + 4)
        return not_a_kernel(f, "it is too short for a boot sector", why, n);
    if (get_le16(h->raw + BP_BOOT_FLAG) != LINUX_BOOT_FLAG)
        return not_a_kernel(f, "it has no boot sector signature (0xaa55 at 0x1fe)", why, n);
    if (get_le32(h->raw + BP_HEADER) != LINUX_HEADER_MAGIC)
        return not_a_kernel(f, "it has no setup header (\"HdrS\" at 0x202)", why, n);
    if (have < sizeof(h->raw))
        return boot_fail(why, n, -EINVAL, "kernel \"%s\" is truncated: it ends in its setup header, at %llu bytes",
                         f->path, (unsigned long long)f->size);

    h->version = get_le16(h->raw + BP_VERSION);
    if (h->version < MIN_VERSION)
        return boot_fail(why, n, -ENOTSUP,
                         "kernel \"%s\" speaks boot protocol %u.%02u, expected 2.06 or later (Linux 2.6.22); "
                         "use a newer kernel",
                         f->path, h->version >> 8, h->version & 0xff);
    h->end = BP_HEADER + h->raw[BP_JUMP + 1];
    if (h->end < MIN_HEADER_END || h->end > sizeof(h->raw))
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\" is damaged: its setup header ends at 0x%x, expected 0x%x to 0x%zx", f->path,
                         h->end, MIN_HEADER_END, sizeof(h->raw));
    memset(h->raw + h->end, 0, sizeof(h->raw) - h->end);
    if (!(h->raw[BP_LOADFLAGS] & LOADED_HIGH))
        return boot_fail(why, n, -ENOTSUP,
                         "kernel \"%s\" is a zImage, loaded under 1 MiB; expected a bzImage: build one with "
                         "\"make bzImage\"",
                         f->path);

    unsigned sects = h->raw[BP_SETUP_SECTS] ? h->raw[BP_SETUP_SECTS] : 4;
    h->setup_size = (sects + 1) * SECTOR;
    h->kernel_size = (uint64_t)get_le32(h->raw + BP_SYSSIZE) * 16;
    if (h->kernel_size == 0)
        return boot_fail(why, n, -EINVAL, "kernel \"%s\" is damaged: its header says that it has no code", f->path);
    if (h->setup_size + h->kernel_size > f->size) {
        /* The last paragraph need not be whole in the file. */
        if (f->size <= h->setup_size || h->setup_size + h->kernel_size - f->size >= 16)
            return boot_fail(why, n, -EINVAL,
                             "kernel \"%s\" is truncated: its header says %llu bytes, the file has %llu; copy it again",
                             f->path, (unsigned long long)h->setup_size + h->kernel_size, (unsigned long long)f->size);
        h->kernel_size = f->size - h->setup_size;
    }

    h->cmdline_size = get_le32(h->raw + BP_CMDLINE_SIZE);
    h->initrd_addr_max = get_le32(h->raw + BP_INITRD_ADDR_MAX);
    h->load_addr = LAYOUT_HIGH;
    h->needed = h->kernel_size;
    if (h->version >= 0x208) {
        h->payload_offset = get_le32(h->raw + BP_PAYLOAD_OFFSET);
        h->payload_length = get_le32(h->raw + BP_PAYLOAD_LENGTH);
    }
    if (h->version >= 0x20a) {
        uint64_t init_size = get_le32(h->raw + BP_INIT_SIZE);
        if (h->raw[BP_RELOCATABLE_KERNEL])
            h->load_addr = get_le64(h->raw + BP_PREF_ADDRESS);
        if (init_size > h->needed)
            h->needed = init_size;
        if (h->load_addr < LAYOUT_HIGH || h->load_addr >= MEM_HIGH_START)
            return boot_fail(why, n, -EINVAL, "kernel \"%s\" is damaged: it wants to be loaded at 0x%llx", f->path,
                             (unsigned long long)h->load_addr);
    }
    if (h->version >= 0x20c) {
        unsigned xloadflags = get_le16(h->raw + BP_XLOADFLAGS);
        h->entry64 = xloadflags & XLF_KERNEL_64;
        h->above_4g = xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G;
    }
    return 0;
}

void linux_header_synthesize(struct linux_header *h, bool is64)
{
    *h = (struct linux_header){
        .end = 0x268,
        .version = 0x20f,
        .cmdline_size = LINUX_CMDLINE_MAX,
        .initrd_addr_max = is64 ? 0x7fffffff : 0x37ffffff,
        .entry64 = is64,
        .above_4g = is64,
    };
    put_le16(h->raw + BP_BOOT_FLAG, LINUX_BOOT_FLAG);
    put_le32(h->raw + BP_HEADER, LINUX_HEADER_MAGIC);
    put_le16(h->raw + BP_VERSION, (uint16_t)h->version);
    h->raw[BP_LOADFLAGS] = LOADED_HIGH;
    put_le32(h->raw + BP_CMDLINE_SIZE, h->cmdline_size);
}

int linux_place_initrd(const struct boot_file *initrd, const struct guest_mem *mem, uint64_t kernel_end, uint64_t limit,
                       bool above_4g, uint64_t *gpa, char *why, size_t n)
{
    if (kernel_end < LAYOUT_HIGH)
        kernel_end = LAYOUT_HIGH;
    kernel_end = align_up(kernel_end, MEM_PAGE);
    uint64_t size = align_up(initrd->size, MEM_PAGE);
    uint64_t top = align_down(limit < mem->low_len ? limit : mem->low_len, MEM_PAGE);
    if (top > kernel_end && size <= top - kernel_end) {
        *gpa = top - size;
        return 0;
    }
    if (above_4g && size <= mem->high_len) {
        *gpa = MEM_HIGH_START + mem->high_len - size;
        return 0;
    }

    unsigned long long mib = align_up(initrd->size, MiB(1)) >> 20;
    unsigned long long room = top > kernel_end ? (top - kernel_end) >> 20 : 0;
    if (kernel_end + size <= limit && kernel_end + size <= MEM_LOW_END)
        return boot_fail(why, n, -ENOMEM,
                         "initrd \"%s\" does not fit: it has %llu MiB, and beside the kernel there are %llu MiB free; "
                         "give the machine %llu MiB or more with -m",
                         initrd->path, mib, room, (unsigned long long)(align_up(kernel_end + size, MiB(1)) >> 20));
    return boot_fail(why, n, -ENOMEM,
                     "initrd \"%s\" does not fit: it has %llu MiB, and this kernel takes at most %llu MiB (it must end "
                     "under 0x%llx); make it smaller",
                     initrd->path, mib, room, (unsigned long long)(limit < MEM_LOW_END ? limit : MEM_LOW_END));
}

int linux_load_initrd(const struct boot_file *initrd, struct guest_mem *mem, uint64_t gpa, char *why, size_t n)
{
    struct boot_image img = boot_image_file(initrd);
    int err = boot_image_load(&img, 0, initrd->size, mem, gpa);
    if (err)
        return boot_fail(why, n, err, "initrd \"%s\": %s", initrd->path,
                         err == -EIO ? "has become shorter since it was opened" : strerror(-err));
    return 0;
}

static int write_cmdline(const struct linux_boot *b, const struct linux_header *h, struct guest_mem *mem, char *why,
                         size_t n)
{
    const char *cmdline = b->cmdline ? b->cmdline : "";
    size_t len = strlen(cmdline);
    size_t max = h->cmdline_size < LAYOUT_CMDLINE_SIZE - 1 ? h->cmdline_size : LAYOUT_CMDLINE_SIZE - 1;
    if (len > max)
        return boot_fail(why, n, -E2BIG,
                         "the kernel command line has %zu characters, but kernel \"%s\" takes at most %zu; shorten it",
                         len, b->kernel->path, max);
    return mem_write(mem, LAYOUT_CMDLINE, cmdline, len + 1);
}

/* Writes the chain of setup_data; *head is its address, 0 if it is empty. */
static int write_setup_data(const struct linux_boot *b, const struct linux_header *h, struct guest_mem *mem,
                            uint64_t *head)
{
    *head = 0;
    if (!b->rng_seed || !b->rng_seed_len || h->version < 0x209)
        return 0;
    if (b->rng_seed_len > LINUX_RNG_SEED_MAX)
        return -EINVAL;
    uint8_t *at = mem_w(mem, LAYOUT_SETUP_DATA, LAYOUT_SETUP_DATA_SIZE);
    if (!at)
        return -EFAULT;
    memset(at, 0, LAYOUT_SETUP_DATA_SIZE);
    put_le32(at + 8, SETUP_RNG_SEED);
    put_le32(at + 12, b->rng_seed_len);
    memcpy(at + SETUP_DATA_HEADER, b->rng_seed, b->rng_seed_len);
    mem_written(mem, LAYOUT_SETUP_DATA, LAYOUT_SETUP_DATA_SIZE);
    *head = LAYOUT_SETUP_DATA;
    return 0;
}

static void put_e820(uint8_t *bp, const struct e820_map *map)
{
    for (unsigned i = 0; i < map->n; i++) {
        uint8_t *e = bp + BP_E820_TABLE + 20 * i;
        put_le64(e, map->entry[i].base);
        put_le64(e + 8, map->entry[i].len);
        put_le32(e + 16, map->entry[i].type);
    }
    bp[BP_E820_ENTRIES] = (uint8_t)map->n;
}

int linux_params_write(const struct linux_boot *b, const struct linux_header *h, uint64_t kernel_end,
                       struct guest_mem *mem, char *why, size_t n)
{
    int err = write_cmdline(b, h, mem, why, n);
    if (err == -E2BIG)
        return err;

    uint64_t setup_data = 0, initrd = 0, initrd_size = 0;
    if (!err)
        err = write_setup_data(b, h, mem, &setup_data);
    if (!err && b->initrd) {
        err = linux_place_initrd(b->initrd, mem, kernel_end, h->initrd_addr_max + 1, h->above_4g, &initrd, why, n);
        if (!err)
            err = linux_load_initrd(b->initrd, mem, initrd, why, n);
        if (err)
            return err;
        initrd_size = b->initrd->size;
    }

    uint8_t *bp = err ? NULL : mem_w(mem, LAYOUT_PARAMS, LAYOUT_PARAMS_SIZE);
    if (!bp)
        return boot_fail(why, n, err ? err : -EFAULT, "kernel \"%s\": its start-up parameters do not fit into memory",
                         b->kernel->path);
    memset(bp, 0, LAYOUT_PARAMS_SIZE);
    memcpy(bp + BP_SETUP_SECTS, h->raw + BP_SETUP_SECTS, h->end - BP_SETUP_SECTS);
    bp[BP_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    put_le32(bp + BP_CODE32_START, (uint32_t)h->load_addr);
    put_le32(bp + BP_CMD_LINE_PTR, LAYOUT_CMDLINE);
    put_le32(bp + BP_RAMDISK_IMAGE, (uint32_t)initrd);
    put_le32(bp + BP_RAMDISK_SIZE, (uint32_t)initrd_size);
    if (h->above_4g) {
        put_le32(bp + BP_EXT_RAMDISK_IMAGE, (uint32_t)(initrd >> 32));
        put_le32(bp + BP_EXT_RAMDISK_SIZE, (uint32_t)(initrd_size >> 32));
    }
    if (h->version >= 0x209)
        put_le64(bp + BP_SETUP_DATA, setup_data);
    if (h->version >= 0x20e)
        put_le64(bp + BP_ACPI_RSDP_ADDR, b->acpi_rsdp);
    uint64_t above_1m = (mem->low_len - LAYOUT_HIGH) >> 10;
    put_le32(bp + BP_ALT_MEM_K, (uint32_t)above_1m);
    put_le16(bp + BP_EXT_MEM_K, (uint16_t)(above_1m < 0xfc00 ? above_1m : 0xfc00));
    put_e820(bp, b->e820);
    mem_written(mem, LAYOUT_PARAMS, LAYOUT_PARAMS_SIZE);
    return 0;
}
