/*
 * Linux kernels: synthetic bzImages through both entries, boot_params, initrd
 * placement, payloads of each format, every truncation; distribution kernels
 * where they have been fetched (build/guest).
 */
#include "boot_util.h"

#include <errno.h>
#include <fcntl.h>
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_LZMA
#include <lzma.h>
#endif
#ifdef HAVE_LZ4
#include <lz4.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "boot/e820.h"
#include "boot/layout.h"
#include "boot/linux.h"
#include "boot/linux_params.h"
#include "boot/unpack.h"

#define SETUP_SIZE 1024
#define CODE_SIZE 4096

struct fixture {
    struct guest_mem mem;
    struct e820_map map;
    struct x86_state cpu;
    uint8_t image[SETUP_SIZE + 65536];
    size_t len;
    char why[300];
};

/* A bzImage of protocol 2.15 whose code is a pattern. */
static void make_image(struct fixture *f)
{
    memset(f->image, 0, sizeof(f->image));
    f->len = SETUP_SIZE + CODE_SIZE;
    uint8_t *h = f->image;
    h[BP_SETUP_SECTS] = SETUP_SIZE / 512 - 1;
    put_le32(h + BP_SYSSIZE, CODE_SIZE / 16);
    put_le16(h + BP_BOOT_FLAG, 0xaa55);
    h[BP_JUMP] = 0xeb;
    h[BP_JUMP + 1] = 0x6a;
    memcpy(h + BP_HEADER, "HdrS", 4);
    put_le16(h + BP_VERSION, 0x20f);
    h[BP_LOADFLAGS] = LOADED_HIGH;
    put_le32(h + BP_INITRD_ADDR_MAX, 0x7fffffff);
    put_le32(h + BP_KERNEL_ALIGNMENT, 0x200000);
    h[BP_RELOCATABLE_KERNEL] = 1;
    put_le16(h + BP_XLOADFLAGS, XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G);
    put_le32(h + BP_CMDLINE_SIZE, 255);
    put_le64(h + BP_PREF_ADDRESS, 0x1000000);
    put_le32(h + BP_INIT_SIZE, 0x100000);
    for (unsigned i = 0; i < CODE_SIZE; i++)
        h[SETUP_SIZE + i] = (uint8_t)(i * 7 + 1);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    ram_init(&f->mem, MiB(32));
    e820_build(&f->map, &f->mem, true);
    make_image(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static int load(struct fixture *f, struct linux_boot *b)
{
    struct boot_file kernel = file_of(f->image, f->len, "kernel");
    b->kernel = &kernel;
    b->e820 = &f->map;
    f->why[0] = 0;
    int err = boot_linux_load(b, &f->mem, &f->cpu, f->why, sizeof(f->why));
    boot_file_close(&kernel);
    if (err) { /* an error is one line and names the file */
        assert_true(strlen(f->why) > 20);
        assert_null(strchr(f->why, '\n'));
    }
    return err;
}

static uint64_t walk(struct fixture *f, uint64_t va)
{
    uint64_t table = f->cpu.cr3;
    for (int shift = 39; shift >= 21; shift -= 9) {
        const uint8_t *t = mem_r(&f->mem, table & ~UINT64_C(0xfff), 4096);
        assert_non_null(t);
        uint64_t e = get_le64(t + 8 * (va >> shift & 511));
        if ((e & 3) != 3)
            return UINT64_MAX;
        if (shift == 21) {
            assert_true(e & 0x80);
            return (e & ~UINT64_C(0x1fffff)) + (va & 0x1fffff);
        }
        table = e;
    }
    return UINT64_MAX;
}

static void entry_64(void **state)
{
    struct fixture *f = *state;
    uint8_t seed[32] = {1, 2, 3};
    uint8_t initrd_data[5000];
    memset(initrd_data, 0x5a, sizeof(initrd_data));
    struct boot_file initrd = file_of(initrd_data, sizeof(initrd_data), "initrd");
    struct linux_boot b = {.initrd = &initrd,
                           .cmdline = "console=ttyS0 a=b",
                           .acpi_rsdp = 0xe1000,
                           .rng_seed = seed,
                           .rng_seed_len = sizeof(seed)};
    assert_int_equal(load(f, &b), 0);
    boot_file_close(&initrd);

    struct x86_state *s = &f->cpu;
    assert_int_equal(s->rip, 0x1000200);
    assert_int_equal(s->gpr[RSI], LAYOUT_PARAMS);
    assert_int_equal(s->efer, EFER_LME | EFER_LMA);
    assert_int_equal(s->cr0 & (CR0_PG | CR0_PE), CR0_PG | CR0_PE);
    assert_int_equal(s->cr4, CR4_PAE);
    assert_int_equal(s->rflags, 2);
    assert_int_equal(s->seg[SEG_CS].sel, 0x10);
    assert_int_equal(s->seg[SEG_DS].sel, 0x18);
    assert_true(s->seg[SEG_CS].attr & SEG_L);
    static const uint64_t addresses[] = {0, 0x1000200, 0x9fc00, 0xbfffffff, 0xfee00000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++)
        assert_int_equal(walk(f, addresses[i]), addresses[i]);
    assert_int_equal(walk(f, GiB(4)), UINT64_MAX);
    /* The GDT says what the hidden parts say: flat, 64-bit code, data. */
    const uint8_t *gdt = mem_r(&f->mem, s->gdtr.base, s->gdtr.limit + 1u);
    assert_int_equal(get_le64(gdt + 0x10), 0x00af9b000000ffff);
    assert_int_equal(get_le64(gdt + 0x18), 0x00cf93000000ffff);

    assert_memory_equal(mem_r(&f->mem, 0x1000000, CODE_SIZE), f->image + SETUP_SIZE, CODE_SIZE);
    const uint8_t *bp = mem_r(&f->mem, LAYOUT_PARAMS, 4096);
    assert_memory_equal(bp + BP_HEADER, "HdrS", 4);
    assert_int_equal(bp[BP_TYPE_OF_LOADER], 0xff);
    assert_int_equal(get_le32(bp + BP_CODE32_START), 0x1000000);
    assert_string_equal(mem_r(&f->mem, get_le32(bp + BP_CMD_LINE_PTR), 18), "console=ttyS0 a=b");
    assert_int_equal(get_le64(bp + BP_ACPI_RSDP_ADDR), 0xe1000);
    assert_int_equal(get_le32(bp + BP_RAMDISK_SIZE), 5000);
    assert_int_equal(get_le32(bp + BP_RAMDISK_IMAGE), MiB(32) - 8192);
    assert_memory_equal(mem_r(&f->mem, MiB(32) - 8192, 5000), initrd_data, 5000);
    const uint8_t *sd = mem_r(&f->mem, get_le64(bp + BP_SETUP_DATA), 48);
    assert_int_equal(get_le64(sd), 0);
    assert_int_equal(get_le32(sd + 8), 9);
    assert_int_equal(get_le32(sd + 12), 32);
    assert_memory_equal(sd + 16, seed, 32);
    assert_int_equal(bp[BP_E820_ENTRIES], f->map.n);
    for (unsigned i = 0; i < f->map.n; i++) {
        assert_int_equal(get_le64(bp + BP_E820_TABLE + 20 * i), f->map.entry[i].base);
        assert_int_equal(get_le64(bp + BP_E820_TABLE + 20 * i + 8), f->map.entry[i].len);
        assert_int_equal(get_le32(bp + BP_E820_TABLE + 20 * i + 16), f->map.entry[i].type);
    }
}

static void entry_32(void **state)
{
    struct fixture *f = *state;
    /* Protocol 2.06: not relocatable, loaded at 1 MiB; what came later is not written. */
    put_le16(f->image + BP_VERSION, 0x206);
    f->image[BP_JUMP + 1] = 0x3a;
    struct linux_boot b = {.acpi_rsdp = 0xe1000, .rng_seed = (const uint8_t *)"seed", .rng_seed_len = 4};
    assert_int_equal(load(f, &b), 0);
    assert_int_equal(f->cpu.rip, 0x100000);
    assert_int_equal(f->cpu.gpr[RSI], LAYOUT_PARAMS);
    assert_int_equal(f->cpu.gpr[RBX] | f->cpu.gpr[RDI] | f->cpu.gpr[RBP], 0);
    assert_int_equal(f->cpu.cr0 & (CR0_PG | CR0_PE), CR0_PE);
    assert_int_equal(f->cpu.efer, 0);
    assert_true(f->cpu.seg[SEG_CS].attr & SEG_DB);
    assert_int_equal(f->cpu.seg[SEG_CS].limit, UINT32_MAX);
    const uint8_t *bp = mem_r(&f->mem, LAYOUT_PARAMS, 4096);
    assert_int_equal(get_le64(bp + BP_ACPI_RSDP_ADDR), 0);
    assert_int_equal(get_le64(bp + BP_SETUP_DATA), 0);
    assert_int_equal(get_le64(bp + BP_PREF_ADDRESS), 0); /* behind the header's end */
    assert_memory_equal(mem_r(&f->mem, 0x100000, CODE_SIZE), f->image + SETUP_SIZE, CODE_SIZE);

    /* 2.15 without XLF_KERNEL_64 takes the 32-bit entry too. */
    make_image(f);
    put_le16(f->image + BP_XLOADFLAGS, 0);
    assert_int_equal(load(f, &b), 0);
    assert_int_equal(f->cpu.rip, 0x1000000);
    assert_int_equal(f->cpu.efer, 0);
}

static void refusals(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {0};
    char cmdline[300];
    memset(cmdline, 'x', sizeof(cmdline));
    cmdline[255] = 0;
    b.cmdline = cmdline;
    assert_int_equal(load(f, &b), 0);
    cmdline[255] = 'x';
    cmdline[256] = 0;
    assert_int_equal(load(f, &b), -E2BIG);
    assert_non_null(strstr(f->why, "255"));
    b.cmdline = NULL;

    put_le16(f->image + BP_VERSION, 0x205);
    assert_int_equal(load(f, &b), -ENOTSUP);
    assert_non_null(strstr(f->why, "2.05"));
    make_image(f);
    f->image[BP_LOADFLAGS] = 0;
    assert_int_equal(load(f, &b), -ENOTSUP);
    make_image(f);
    f->image[BP_HEADER] = 0;
    assert_int_equal(load(f, &b), -ENOEXEC);
    make_image(f);
    put_le16(f->image + BP_BOOT_FLAG, 0);
    assert_int_equal(load(f, &b), -ENOEXEC);
    make_image(f);
    put_le32(f->image + BP_INIT_SIZE, MiB(16) + 1); /* 32 MiB are one byte too few */
    assert_int_equal(load(f, &b), -ENOMEM);
    assert_non_null(strstr(f->why, "33 MiB"));
    put_le32(f->image + BP_INIT_SIZE, MiB(16));
    assert_int_equal(load(f, &b), 0);
    put_le32(f->image + BP_INIT_SIZE, UINT32_MAX);
    assert_int_equal(load(f, &b), -ENOMEM);
    make_image(f);
    put_le64(f->image + BP_PREF_ADDRESS, UINT64_MAX - 10);
    assert_int_equal(load(f, &b), -EINVAL);
    make_image(f);
    put_le32(f->image + BP_SYSSIZE, UINT32_MAX);
    assert_int_equal(load(f, &b), -EINVAL);
}

static void truncations(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {0};
    size_t whole = f->len;
    for (f->len = 1; f->len < whole; f->len++) {
        int err = load(f, &b);
        if (f->len > whole - 16)
            assert_int_equal(err, 0); /* the last paragraph may be short */
        else
            assert_true(err == -ENOEXEC || err == -EINVAL);
    }
    /* Any one byte of the header changed: refused or loaded, nothing else (ASan, UBSan). */
    for (unsigned i = BP_SETUP_SECTS; i < BP_HEADER_MAX; i++) {
        for (unsigned v = 0; v < 256; v += 51) {
            make_image(f);
            f->image[i] = (uint8_t)v;
            b.unpack = v & 1;
            load(f, &b);
        }
    }
}

static void initrd_places(void **state)
{
    struct fixture *f = *state;
    struct boot_file initrd = {.fd = -1, .path = "initrd", .size = MiB(4)};
    /* Only the sizes count here; nothing is read. */
    struct guest_mem m = {.low_len = GiB(3), .high_len = GiB(1)};
    uint64_t at;
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, true, &at, f->why, sizeof(f->why)), 0);
    assert_int_equal(at, GiB(2) - MiB(4));
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x38000000, false, &at, f->why, sizeof(f->why)), 0);
    assert_int_equal(at, 0x38000000 - MiB(4));
    initrd.size = 5;
    m.low_len = MiB(64) + 4096;
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, true, &at, f->why, sizeof(f->why)), 0);
    assert_int_equal(at, MiB(64));
    m.low_len = MiB(64);
    m.high_len = 0;
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, true, &at, f->why, sizeof(f->why)), -ENOMEM);
    assert_non_null(strstr(f->why, "-m"));
    /* Above 4 GiB where the kernel can, and only there. */
    m = (struct guest_mem){.low_len = GiB(3), .high_len = GiB(4)};
    initrd.size = GiB(2);
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, true, &at, f->why, sizeof(f->why)), 0);
    assert_int_equal(at, GiB(6));
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, false, &at, f->why, sizeof(f->why)), -ENOMEM);
    assert_non_null(strstr(f->why, "smaller"));
    /* A forged size must not wrap. */
    initrd.size = UINT64_MAX - 4096;
    assert_int_equal(linux_place_initrd(&initrd, &m, MiB(64), 0x80000000, true, &at, f->why, sizeof(f->why)), -ENOMEM);
}

/* ---- payloads ---- */

#define VMLINUX_SIZE 20000

/* An ELF64 whose one segment, all of the file, loads to 2 MiB and is entered 0x200 further on. */
static void make_vmlinux(uint8_t *e)
{
    for (unsigned i = 0; i < VMLINUX_SIZE; i++)
        e[i] = (uint8_t)(i * i >> 7);
    memset(e, 0, 120);
    memcpy(e, "\177ELF\2\1\1", 7);
    put_le16(e + 16, 2);
    put_le16(e + 18, 62);
    put_le32(e + 20, 1);
    put_le64(e + 24, 0x200200);
    put_le64(e + 32, 64);
    put_le16(e + 54, 56);
    put_le16(e + 56, 1);
    put_le32(e + 64, 1);
    put_le64(e + 64 + 16, 0xffffffff80200000);
    put_le64(e + 64 + 24, 0x200000);
    put_le64(e + 64 + 32, VMLINUX_SIZE);
    put_le64(e + 64 + 40, VMLINUX_SIZE + 5000);
}

struct packer {
    const char *format;
    size_t (*pack)(const uint8_t *in, uint8_t *out, size_t cap);
};

#ifdef HAVE_ZLIB
static size_t pack_gzip(const uint8_t *in, uint8_t *out, size_t cap)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = VMLINUX_SIZE, .next_out = out, .avail_out = (uInt)cap};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out - 4; /* ends in the size already */
}
#endif

#ifdef HAVE_LZMA
static size_t pack_xz(const uint8_t *in, uint8_t *out, size_t cap)
{
    size_t n = 0;
    lzma_options_lzma opt;
    assert_false(lzma_lzma_preset(&opt, 6));
    lzma_filter filters[] = {{LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &opt}, {LZMA_VLI_UNKNOWN, NULL}};
    assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in, VMLINUX_SIZE, out, &n, cap),
                     LZMA_OK);
    return n;
}

static size_t pack_lzma(const uint8_t *in, uint8_t *out, size_t cap)
{
    lzma_options_lzma opt;
    assert_false(lzma_lzma_preset(&opt, 6));
    lzma_stream z = LZMA_STREAM_INIT;
    assert_int_equal(lzma_alone_encoder(&z, &opt), LZMA_OK);
    z.next_in = in;
    z.avail_in = VMLINUX_SIZE;
    z.next_out = out;
    z.avail_out = cap;
    assert_int_equal(lzma_code(&z, LZMA_FINISH), LZMA_STREAM_END);
    lzma_end(&z);
    return z.total_out;
}
#endif

#ifdef HAVE_LZ4
static size_t pack_lz4(const uint8_t *in, uint8_t *out, size_t cap)
{
    put_le32(out, 0x184c2102);
    size_t at = 4;
    for (unsigned from = 0; from < VMLINUX_SIZE; from += VMLINUX_SIZE / 2) { /* two blocks */
        int n = LZ4_compress_default((const char *)in + from, (char *)out + at + 4, VMLINUX_SIZE / 2,
                                     (int)(cap - at - 4));
        assert_true(n > 0);
        put_le32(out + at, (uint32_t)n);
        at += 4 + (size_t)n;
    }
    return at;
}
#endif

#ifdef HAVE_ZSTD
static size_t pack_zstd(const uint8_t *in, uint8_t *out, size_t cap)
{
    size_t n = ZSTD_compress(out, cap, in, VMLINUX_SIZE, 19);
    assert_false(ZSTD_isError(n));
    return n;
}
#endif

static const struct packer packers[] = {
#ifdef HAVE_ZLIB
    {"gzip", pack_gzip},
#endif
#ifdef HAVE_LZMA
    {"xz", pack_xz},     {"lzma", pack_lzma},
#endif
#ifdef HAVE_LZ4
    {"lz4", pack_lz4},
#endif
#ifdef HAVE_ZSTD
    {"zstd", pack_zstd},
#endif
    {NULL, NULL},
};

static void payloads(void **state)
{
    struct fixture *f = *state;
    uint8_t *vmlinux = malloc(VMLINUX_SIZE);
    make_vmlinux(vmlinux);
    for (size_t i = 0; packers[i].pack; i++) {
        make_image(f);
        uint8_t *payload = f->image + SETUP_SIZE + 512;
        size_t n = packers[i].pack(vmlinux, payload, 60000) + 4;
        put_le32(payload + n - 4, VMLINUX_SIZE);
        size_t code = align_up(512 + n, 16);
        f->len = SETUP_SIZE + code;
        put_le32(f->image + BP_SYSSIZE, (uint32_t)(code / 16));
        put_le32(f->image + BP_PAYLOAD_OFFSET, 512);
        put_le32(f->image + BP_PAYLOAD_LENGTH, (uint32_t)n);
        struct linux_boot b = {.unpack = true, .cmdline = "x"};
        int err = load(f, &b);
        if (err)
            fail_msg("%s: %s", packers[i].format, f->why);
        assert_int_equal(f->cpu.rip, 0x200200);
        assert_int_equal(f->cpu.gpr[RSI], LAYOUT_PARAMS);
        assert_int_equal(f->cpu.efer, EFER_LME | EFER_LMA);
        assert_memory_equal(mem_r(&f->mem, 0x200000, VMLINUX_SIZE), vmlinux, VMLINUX_SIZE);
        memset(mem_w(&f->mem, 0x200000, VMLINUX_SIZE), 0, VMLINUX_SIZE);

        /* Every byte of the payload damaged in turn: an error or the right kernel, never more. */
        for (size_t k = 0; k < n; k += n / 200 + 1) {
            payload[k] ^= 0x41;
            load(f, &b);
            payload[k] ^= 0x41;
        }
        /* Every payload length. */
        for (size_t k = 0; k < n; k += n / 200 + 1) {
            put_le32(f->image + BP_PAYLOAD_LENGTH, (uint32_t)k);
            if (load(f, &b) == 0)
                fail_msg("%s: %zu of %zu bytes were enough", packers[i].format, k, n);
        }
        put_le32(f->image + BP_PAYLOAD_LENGTH, UINT32_MAX);
        assert_int_equal(load(f, &b), -EINVAL);
    }
    memcpy(f->image + SETUP_SIZE + 512, "BZh9", 4);
    put_le32(f->image + BP_PAYLOAD_LENGTH, 100);
    struct linux_boot b = {.unpack = true};
    assert_int_equal(load(f, &b), -ENOTSUP);
    assert_non_null(strstr(f->why, "bzip2"));
    free(vmlinux);
}

/* ---- real kernels ---- */

static void real_kernel(const char *path, bool is64)
{
    struct boot_file kernel;
    char why[300];
    if (boot_file_open(&kernel, path, "kernel", why, sizeof(why))) {
        fprintf(stderr, "skipped: %s\n", why);
        skip();
    }
    struct guest_mem mem;
    struct e820_map map;
    struct x86_state cpu;
    ram_init(&mem, MiB(256));
    e820_build(&map, &mem, true);
    struct linux_boot b = {.kernel = &kernel, .e820 = &map, .cmdline = "console=ttyS0"};
    if (boot_linux_load(&b, &mem, &cpu, why, sizeof(why)))
        fail_msg("%s", why);
    uint64_t packed_rip = cpu.rip;
    mem_zero(&mem);
    b.unpack = true;
    if (boot_linux_load(&b, &mem, &cpu, why, sizeof(why)))
        fail_msg("%s", why);
    printf("# %s: entry 0x%llx, unpacked 0x%llx\n", path, (unsigned long long)packed_rip, (unsigned long long)cpu.rip);
    /* startup_32 or startup_64 of a vmlinux stands at its load address; the packed 64-bit entry is 0x200 further on. */
    assert_int_equal(cpu.rip, packed_rip & ~UINT64_C(0xfff));
    assert_int_equal(cpu.efer, is64 ? EFER_LME | EFER_LMA : 0);
    assert_int_equal(packed_rip & 0xfff, is64 ? 0x200 : 0);
    assert_int_not_equal(get_le64(mem_r(&mem, cpu.rip, 8)), 0);
    mem_fini(&mem);
    boot_file_close(&kernel);
}

/* Meson runs tests in the build folder, a person perhaps above it. */
static const char *fetched(const char *name)
{
    static char path[64];
    snprintf(path, sizeof(path), "guest/%s/vmlinuz", name);
    if (access(path, F_OK))
        snprintf(path, sizeof(path), "build/guest/%s/vmlinuz", name);
    return path;
}

static void real_cloud(void **state)
{
    (void)state;
    const char *path = getenv("XHYVE_TEST_KERNEL");
    real_kernel(path ? path : fetched("cloud"), true);
}

static void real_generic(void **state)
{
    (void)state;
    real_kernel(fetched("generic"), true);
}

static void real_pae(void **state)
{
    (void)state;
    real_kernel(fetched("pae"), false);
}

static void real_i386(void **state)
{
    (void)state;
    real_kernel(fetched("i386"), false);
}

/* ---- files and the memory map ---- */

static void files(void **state)
{
    (void)state;
    struct boot_file f;
    char why[300], path[300];
    char *dir = tmp_make();
    assert_int_equal(boot_file_open(&f, dir, "kernel", why, sizeof(why)), -EISDIR);
    assert_non_null(strstr(why, "directory"));
    assert_int_equal(f.fd, -1);
    snprintf(path, sizeof(path), "%s/x", dir);
    assert_int_equal(boot_file_open(&f, path, "kernel", why, sizeof(why)), -ENOENT);
    put_file(path, "", 0);
    assert_int_equal(boot_file_open(&f, path, "kernel", why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "empty"));
    assert_int_equal(run("mkfifo '%s/p'", dir), 0);
    snprintf(path, sizeof(path), "%s/p", dir);
    assert_int_equal(boot_file_open(&f, path, "kernel", why, sizeof(why)), -EINVAL); /* and does not hang */
    snprintf(path, sizeof(path), "%s/x", dir);
    put_file(path, "abcdef", 6);
    assert_int_equal(boot_file_open(&f, path, "kernel", why, sizeof(why)), 0);
    assert_int_equal(f.size, 6);
    char buf[8];
    assert_int_equal(boot_file_read(&f, 4, buf, 2), 0);
    assert_memory_equal(buf, "ef", 2);
    assert_int_equal(boot_file_read(&f, 4, buf, 3), -EIO);
    struct boot_image img = boot_image_file(&f);
    assert_int_equal(boot_image_read(&img, 5, buf, 2), -EINVAL);
    assert_int_equal(boot_image_read(&img, UINT64_MAX, buf, 2), -EINVAL);
    boot_file_close(&f);
    boot_file_close(&f);
    tmp_remove(dir);
}

static void check_map(const struct e820_map *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        assert_true(m->entry[i].len > 0);
        if (i)
            assert_true(m->entry[i - 1].base + m->entry[i - 1].len <= m->entry[i].base);
    }
}

static uint32_t type_at(const struct e820_map *m, uint64_t a)
{
    for (unsigned i = 0; i < m->n; i++) {
        if (a >= m->entry[i].base && a - m->entry[i].base < m->entry[i].len)
            return m->entry[i].type;
    }
    return 0;
}

static void memory_map(void **state)
{
    (void)state;
    struct guest_mem mem = {.low_len = GiB(3), .high_len = GiB(1)};
    struct e820_map m;
    e820_build(&m, &mem, true);
    check_map(&m);
    assert_int_equal(type_at(&m, 0), E820_RAM);
    assert_int_equal(type_at(&m, 0x9fbff), E820_RAM);
    assert_int_equal(type_at(&m, 0x9fc00), E820_RESERVED);
    assert_int_equal(type_at(&m, 0xa0000), 0);
    assert_int_equal(type_at(&m, LAYOUT_FACS), E820_NVS);
    assert_int_equal(type_at(&m, LAYOUT_ACPI), E820_ACPI);
    assert_int_equal(type_at(&m, 0xfffff), E820_RESERVED);
    assert_int_equal(type_at(&m, 0x100000), E820_RAM);
    assert_int_equal(type_at(&m, GiB(3) - 1), E820_RAM);
    assert_int_equal(type_at(&m, GiB(3)), 0);
    assert_int_equal(type_at(&m, GiB(4)), E820_RAM);
    assert_int_equal(type_at(&m, GiB(5)), 0);
    assert_int_equal(e820_add(&m, 0xe0000000, 0x10000000, E820_RESERVED), 0);
    assert_int_equal(type_at(&m, 0xe0000000), E820_RESERVED);
    assert_int_equal(type_at(&m, 0xefffffff), E820_RESERVED);
    assert_int_equal(e820_add(&m, MiB(10), MiB(1), E820_RESERVED), 0); /* out of the middle */
    assert_int_equal(type_at(&m, MiB(10) - 1), E820_RAM);
    assert_int_equal(type_at(&m, MiB(10)), E820_RESERVED);
    assert_int_equal(type_at(&m, MiB(11)), E820_RAM);
    assert_int_equal(e820_add(&m, GiB(3) - MiB(1), GiB(1) + MiB(2), E820_NVS), 0); /* over several */
    assert_int_equal(type_at(&m, GiB(3) - MiB(1) - 1), E820_RAM);
    assert_int_equal(type_at(&m, 0xe0000000), E820_NVS);
    assert_int_equal(type_at(&m, GiB(4) + MiB(1)), E820_RAM);
    check_map(&m);
    assert_int_equal(e820_add(&m, 5, 0, E820_RAM), -EINVAL);
    assert_int_equal(e820_add(&m, UINT64_MAX, 2, E820_RAM), -EINVAL);
    unsigned n = 0;
    while (e820_add(&m, MiB(100) + n * MiB(2), MiB(1), E820_RESERVED) == 0)
        n++;
    assert_in_range(n, 20, 40);
    check_map(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(entry_64, setup, teardown),
        cmocka_unit_test_setup_teardown(entry_32, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(truncations, setup, teardown),
        cmocka_unit_test_setup_teardown(initrd_places, setup, teardown),
        cmocka_unit_test_setup_teardown(payloads, setup, teardown),
        cmocka_unit_test(real_cloud),
        cmocka_unit_test(real_generic),
        cmocka_unit_test(real_pae),
        cmocka_unit_test(real_i386),
        cmocka_unit_test(files),
        cmocka_unit_test(memory_map),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
