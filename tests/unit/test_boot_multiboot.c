/* Multiboot: header search, ELF and raw images, boot information, machine state, damaged and truncated files. */
#include "boot_util.h"

#include <elf.h>
#include <errno.h>

#include "boot/layout.h"
#include "boot/multiboot.h"

#define MAGIC 0x1badb002u
#define LOAD_AT 0x400000

struct fixture {
    struct guest_mem mem;
    struct e820_map map;
    struct x86_state cpu;
    uint8_t image[16384];
    size_t len;
    char why[300];
};

static void put_header(uint8_t *at, uint32_t flags)
{
    put_le32(at, MAGIC);
    put_le32(at + 4, flags);
    put_le32(at + 8, -(MAGIC + flags));
}

/* A raw image whose header stands 0x40 bytes behind what is loaded, and 0x60 into the file. */
static void make_raw(struct fixture *f)
{
    memset(f->image, 0, sizeof(f->image));
    f->len = 6000;
    for (unsigned i = 0x20; i < f->len; i++)
        f->image[i] = (uint8_t)(i * 5);
    uint8_t *h = f->image + 0x60;
    put_header(h, 1u << 16 | 3);
    put_le32(h + 12, LOAD_AT + 0x40);
    put_le32(h + 16, LOAD_AT);
    put_le32(h + 20, LOAD_AT + 5000);
    put_le32(h + 24, LOAD_AT + 9000);
    put_le32(h + 28, LOAD_AT + 0x123);
}

static void make_elf(struct fixture *f, uint32_t paddr)
{
    memset(f->image, 0, sizeof(f->image));
    f->len = 0x1000 + 2000;
    Elf32_Ehdr h = {.e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_version = 1,
                    .e_entry = 0xc0000010,
                    .e_phoff = 52,
                    .e_phentsize = 32,
                    .e_phnum = 1};
    Elf32_Phdr p = {.p_type = PT_LOAD,
                    .p_offset = 0x1000,
                    .p_vaddr = 0xc0000000,
                    .p_paddr = paddr,
                    .p_filesz = 2000,
                    .p_memsz = 0x3000};
    memcpy(h.e_ident, "\177ELF\1\1\1", 7);
    memcpy(f->image, &h, sizeof(h));
    memcpy(f->image + 52, &p, sizeof(p));
    memset(f->image + 0x1000, 0x90, 2000);
    put_header(f->image + 0x1004, 1);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    ram_init(&f->mem, MiB(8));
    e820_build(&f->map, &f->mem, true);
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

static int load(struct fixture *f, struct multiboot_boot *b)
{
    struct boot_file kernel = file_of(f->image, f->len, "kernel");
    b->kernel = &kernel;
    b->e820 = &f->map;
    int err = boot_multiboot_load(b, &f->mem, &f->cpu, f->why, sizeof(f->why));
    boot_file_close(&kernel);
    if (err)
        assert_true(strlen(f->why) > 20);
    return err;
}

static const char *string_at(struct fixture *f, uint64_t gpa)
{
    const char *s = mem_r(&f->mem, gpa, 1);
    assert_non_null(s);
    return s;
}

/* Everything that the boot information says must be true. */
static void check_info(struct fixture *f, const char *cmdline, const struct multiboot_boot *b)
{
    assert_int_equal(f->cpu.gpr[RAX], 0x2badb002);
    assert_int_equal(f->cpu.cr0, CR0_PE | CR0_ET);
    assert_int_equal(f->cpu.rflags & (RFL_IF | RFL_VM), 0);
    for (unsigned s = 0; s <= SEG_GS; s++) {
        assert_int_equal(f->cpu.seg[s].base, 0);
        assert_int_equal(f->cpu.seg[s].limit, UINT32_MAX);
        assert_int_equal(f->cpu.seg[s].attr & 0xff, s == SEG_CS ? 0x9b : 0x93);
    }
    const uint8_t *i = mem_r(&f->mem, f->cpu.gpr[RBX], 116);
    assert_non_null(i);
    uint32_t flags = get_le32(i);
    assert_int_equal(flags, 1u << 0 | 1u << 2 | 1u << 3 | 1u << 6 | 1u << 9);
    assert_int_equal(get_le32(i + 4), 639);
    assert_int_equal(get_le32(i + 8), 7 * 1024);
    assert_string_equal(string_at(f, get_le32(i + 16)), cmdline);
    assert_string_equal(string_at(f, get_le32(i + 64)), "xhyve");
    uint32_t len = get_le32(i + 44);
    unsigned n = 0;
    const uint8_t *m = mem_r(&f->mem, get_le32(i + 48), len);
    for (uint32_t at = 0; at < len; at += get_le32(m + at) + 4, n++) {
        assert_int_equal(get_le64(m + at + 4), f->map.entry[n].base);
        assert_int_equal(get_le64(m + at + 12), f->map.entry[n].len);
        assert_int_equal(get_le32(m + at + 20), f->map.entry[n].type);
    }
    assert_int_equal(n, f->map.n);
    assert_int_equal(get_le32(i + 20), b->nmodules);
    const uint8_t *mod = mem_r(&f->mem, get_le32(i + 24), 16 * b->nmodules + 1);
    for (unsigned k = 0; k < b->nmodules; k++, mod += 16) {
        uint32_t start = get_le32(mod), end = get_le32(mod + 4);
        assert_int_equal(start % 4096, 0);
        assert_int_equal(end - start, b->module[k].file->size);
        assert_string_equal(string_at(f, get_le32(mod + 8)), b->module[k].string);
        uint8_t *want = malloc(end - start);
        assert_int_equal(boot_file_read(b->module[k].file, 0, want, end - start), 0);
        assert_memory_equal(mem_r(&f->mem, start, end - start), want, end - start);
        free(want);
    }
}

static void raw(void **state)
{
    struct fixture *f = *state;
    make_raw(f);
    uint8_t data[6000];
    memset(data, 0xa5, sizeof(data));
    struct boot_file m0 = file_of(data, sizeof(data), "m0"), m1 = file_of("x", 1, "m1");
    struct multiboot_module modules[] = {{&m0, "m0 with=args"}, {&m1, "m1"}};
    struct multiboot_boot b = {.cmdline = "kernel arg", .module = modules, .nmodules = 2};
    memset(mem_w(&f->mem, LOAD_AT, 9000), 0xee, 9000);
    if (load(f, &b))
        fail_msg("%s", f->why);
    assert_int_equal(f->cpu.rip, LOAD_AT + 0x123);
    assert_memory_equal(mem_r(&f->mem, LOAD_AT, 5000), f->image + 0x20, 5000);
    static const uint8_t zero[4000];
    assert_memory_equal(mem_r(&f->mem, LOAD_AT + 5000, 4000), zero, 4000);
    check_info(f, "kernel arg", &b);

    /* load_end_addr and bss_end_addr 0: all of the file, no .bss. */
    put_le32(f->image + 0x60 + 20, 0);
    put_le32(f->image + 0x60 + 24, 0);
    assert_int_equal(load(f, &b), 0);
    assert_memory_equal(mem_r(&f->mem, LOAD_AT, f->len - 0x20), f->image + 0x20, f->len - 0x20);
    check_info(f, "kernel arg", &b);
    boot_file_close(&m0);
    boot_file_close(&m1);
}

static void elf(void **state)
{
    struct fixture *f = *state;
    struct multiboot_boot b = {0};
    make_elf(f, LOAD_AT);
    if (load(f, &b))
        fail_msg("%s", f->why);
    assert_int_equal(f->cpu.rip, LOAD_AT + 0x10);
    assert_memory_equal(mem_r(&f->mem, LOAD_AT, 2000), f->image + 0x1000, 2000);
    check_info(f, "", &b);
    assert_true(f->cpu.gpr[RBX] < 0x9fc00);

    /* A kernel in low memory: the information then stands above it, and above 1 MiB. */
    make_elf(f, 0x7000);
    assert_int_equal(load(f, &b), 0);
    assert_int_equal(f->cpu.rip, 0x7010);
    assert_true(f->cpu.gpr[RBX] >= 0x100000);
    check_info(f, "", &b);
    make_elf(f, 0x9d000);
    assert_int_equal(load(f, &b), -EINVAL); /* reaches into the EBDA */
    make_elf(f, MiB(8) - 0x3000);
    assert_int_equal(load(f, &b), 0);
    make_elf(f, MiB(8) - 0x2000);
    assert_int_equal(load(f, &b), -ENOMEM);
}

static void header_search(void **state)
{
    struct fixture *f = *state;
    struct multiboot_boot b = {0};
    make_raw(f);
    f->image[0x60 + 8]++; /* checksum */
    assert_int_equal(load(f, &b), -ENOEXEC);
    assert_non_null(strstr(f->why, "multiboot"));
    /* A false magic before the true one; the last place that fits into 8 KiB; one that does not. */
    static const struct {
        uint32_t at;
        int err;
    } places[] = {{0, 0}, {0x64, 0}, {8192 - 32, 0}, {8192 - 28, -EINVAL}, {8192 - 12, -EINVAL}, {8192 - 8, -ENOEXEC}};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        memset(f->image, 0, sizeof(f->image));
        f->len = 8192 + 4096;
        put_le32(f->image + places[i].at / 2 / 4 * 4, MAGIC);
        uint8_t *h = f->image + places[i].at;
        put_header(h, 1u << 16);
        put_le32(h + 12, LOAD_AT + places[i].at);
        put_le32(h + 16, LOAD_AT);
        put_le32(h + 20, 0);
        put_le32(h + 28, LOAD_AT);
        assert_int_equal(load(f, &b), places[i].err);
    }
    make_raw(f);
    memmove(f->image + 0x62, f->image + 0x60, 32); /* not on a multiple of 4 */
    put_le16(f->image + 0x60, 0);
    assert_int_equal(load(f, &b), -ENOEXEC);
    make_raw(f);
    put_header(f->image + 0x60, 1u << 16 | 1u << 2);
    assert_int_equal(load(f, &b), -ENOTSUP);
    assert_non_null(strstr(f->why, "video"));
    put_header(f->image + 0x60, 1u << 16 | 1u << 9);
    assert_int_equal(load(f, &b), -ENOTSUP);
    put_header(f->image + 0x60, 1u << 17); /* neither addresses nor ELF; high flags are no demands */
    assert_int_equal(load(f, &b), -ENOEXEC);
}

static void hostile(void **state)
{
    struct fixture *f = *state;
    struct multiboot_boot b = {0};
    static const uint32_t values[] = {0,          1,           0x1000,         0x9fc00,    0xfffff,
                                      0x100000,   LOAD_AT - 1, LOAD_AT + 0x41, MiB(8) - 1, MiB(8),
                                      0xc0000000, 0x7fffffff,  0xffffffff};
    for (unsigned field = 12; field < 32; field += 4) {
        for (size_t i = 0; i < ARRAY_LEN(values); i++) {
            make_raw(f);
            put_le32(f->image + 0x60 + field, values[i]);
            load(f, &b);
        }
    }
    make_raw(f);
    put_le32(f->image + 0x60 + 12, LOAD_AT - 1); /* header before its load address */
    assert_int_equal(load(f, &b), -EINVAL);
    make_raw(f);
    put_le32(f->image + 0x60 + 12, LOAD_AT + 0x61); /* load address before the file */
    assert_int_equal(load(f, &b), -EINVAL);
    assert_non_null(strstr(f->why, "0x61 bytes"));
    make_raw(f);
    put_le32(f->image + 0x60 + 20, LOAD_AT + 6000); /* more than the file has */
    assert_int_equal(load(f, &b), -EINVAL);
    assert_non_null(strstr(f->why, "truncated"));
    make_raw(f);
    put_le32(f->image + 0x60 + 24, LOAD_AT + 10);
    assert_int_equal(load(f, &b), -EINVAL);
    make_raw(f);
    put_le32(f->image + 0x60 + 24, MiB(9));
    assert_int_equal(load(f, &b), -ENOMEM);
    make_raw(f);
    put_le32(f->image + 0x60 + 28, LOAD_AT + 9000);
    assert_int_equal(load(f, &b), -EINVAL);

    make_raw(f);
    size_t whole = f->len;
    for (f->len = 1; f->len < whole; f->len += f->len < 200 ? 1 : 13)
        assert_int_equal(load(f, &b) == 0, f->len >= 0x20 + 5000);
    make_elf(f, LOAD_AT);
    whole = f->len;
    for (f->len = 1; f->len < whole; f->len += f->len < 200 ? 1 : 13)
        assert_int_not_equal(load(f, &b), 0);
}

static void modules_too_big(void **state)
{
    struct fixture *f = *state;
    make_raw(f);
    uint8_t *data = calloc(1, MiB(4));
    struct boot_file m = file_of(data, MiB(4) - 0x3000, "m"), n = file_of(data, MiB(4) - 0x3000 + 1, "n");
    struct multiboot_module modules[] = {{&m, "m"}};
    struct multiboot_boot b = {.module = modules, .nmodules = 1};
    assert_int_equal(load(f, &b), 0); /* to the last byte */
    check_info(f, "", &b);
    modules[0].file = &n;
    assert_int_equal(load(f, &b), -ENOMEM);
    assert_non_null(strstr(f->why, "-m"));
    b.nmodules = MULTIBOOT_MAX_MODULES + 1;
    assert_int_equal(load(f, &b), -E2BIG);
    boot_file_close(&m);
    boot_file_close(&n);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(raw, setup, teardown),
        cmocka_unit_test_setup_teardown(elf, setup, teardown),
        cmocka_unit_test_setup_teardown(header_search, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(modules_too_big, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
