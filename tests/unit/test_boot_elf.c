/* ELF kernels: PVH and direct entry, both classes; every truncation and damaged field is refused or harmless. */
#include "boot_util.h"

#include <elf.h>
#include <errno.h>

#include "boot/e820.h"
#include "boot/elf.h"
#include "boot/layout.h"
#include "boot/linux.h"
#include "boot/linux_params.h"
#include "boot/unpack.h"

#define CODE_AT 0x200000
#define CODE_SIZE 3000
#define BSS_SIZE 5000

struct fixture {
    struct guest_mem mem;
    struct e820_map map;
    struct x86_state cpu;
    uint8_t image[8192];
    size_t len, phoff, phentsize;
    bool is64;
    char why[300];
};

/* Two program headers: PT_LOAD and PT_NOTE with Xen's entry, behind another note. */
static void make_elf(struct fixture *f, bool is64, bool pvh)
{
    uint8_t *e = f->image;
    memset(e, 0, sizeof(f->image));
    f->is64 = is64;
    uint64_t code = 512, note = code + CODE_SIZE;
    for (unsigned i = 0; i < CODE_SIZE; i++)
        e[code + i] = (uint8_t)(i * 3 + 7);
    uint8_t *n = e + note;
    put_le32(n, 5); /* "GNU!" and its zero, padded to 8 */
    put_le32(n + 4, 3);
    put_le32(n + 8, 1);
    memcpy(n + 12, "GNU!", 5);
    n += 12 + 8 + 4;
    put_le32(n, 4);
    put_le32(n + 4, is64 ? 8 : 4);
    put_le32(n + 8, pvh ? 18 : 17);
    memcpy(n + 12, "Xen", 4);
    put_le32(n + 16, CODE_AT + 0x80);
    unsigned note_len = 24 + 16 + (is64 ? 8 : 4);
    f->len = note + note_len;

    uint64_t vaddr = is64 ? 0xffffffff80000000 + CODE_AT : 0xc0000000 + CODE_AT;
    Elf64_Ehdr h64 = {.e_type = ET_EXEC,
                      .e_machine = EM_X86_64,
                      .e_version = 1,
                      .e_entry = vaddr + 0x40,
                      .e_phoff = 64,
                      .e_phentsize = 56,
                      .e_phnum = 2};
    Elf32_Ehdr h32 = {.e_type = ET_EXEC,
                      .e_machine = EM_386,
                      .e_version = 1,
                      .e_entry = (uint32_t)vaddr + 0x40,
                      .e_phoff = 52,
                      .e_phentsize = 32,
                      .e_phnum = 2};
    Elf64_Phdr p64[2] = {{.p_type = PT_LOAD,
                          .p_offset = code,
                          .p_vaddr = vaddr,
                          .p_paddr = CODE_AT,
                          .p_filesz = CODE_SIZE,
                          .p_memsz = CODE_SIZE + BSS_SIZE},
                         {.p_type = PT_NOTE, .p_offset = note, .p_filesz = note_len, .p_memsz = note_len}};
    Elf32_Phdr p32[2] = {{.p_type = PT_LOAD,
                          .p_offset = (uint32_t)code,
                          .p_vaddr = (uint32_t)vaddr,
                          .p_paddr = CODE_AT,
                          .p_filesz = CODE_SIZE,
                          .p_memsz = CODE_SIZE + BSS_SIZE},
                         {.p_type = PT_NOTE, .p_offset = (uint32_t)note, .p_filesz = note_len, .p_memsz = note_len}};
    memcpy(h64.e_ident, "\177ELF\2\1\1", 7);
    memcpy(h32.e_ident, "\177ELF\1\1\1", 7);
    memcpy(e, is64 ? (void *)&h64 : (void *)&h32, is64 ? sizeof(h64) : sizeof(h32));
    f->phoff = is64 ? 64 : 52;
    f->phentsize = is64 ? 56 : 32;
    memcpy(e + f->phoff, is64 ? (void *)p64 : (void *)p32, 2 * f->phentsize);
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

static int load(struct fixture *f, struct linux_boot *b)
{
    struct boot_file kernel = file_of(f->image, f->len, "kernel");
    b->kernel = &kernel;
    b->e820 = &f->map;
    int err = boot_linux_load(b, &f->mem, &f->cpu, f->why, sizeof(f->why));
    boot_file_close(&kernel);
    if (err)
        assert_true(strlen(f->why) > 20);
    return err;
}

static void pvh(void **state)
{
    struct fixture *f = *state;
    struct boot_file initrd = file_of("initrd!", 7, "initrd");
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_elf(f, is64, true);
        memset(mem_w(&f->mem, CODE_AT, CODE_SIZE + BSS_SIZE), 0xee, CODE_SIZE + BSS_SIZE);
        struct linux_boot b = {.initrd = &initrd, .cmdline = "hello", .acpi_rsdp = 0xe1000};
        if (load(f, &b))
            fail_msg("%s", f->why);
        assert_int_equal(f->cpu.rip, CODE_AT + 0x80);
        assert_int_equal(f->cpu.cr0, CR0_PE | CR0_ET);
        assert_int_equal(f->cpu.cr4 | f->cpu.efer, 0);
        assert_int_equal(f->cpu.rflags, 2);
        assert_int_equal(f->cpu.seg[SEG_CS].limit, UINT32_MAX);
        assert_true(f->cpu.seg[SEG_CS].attr & SEG_DB);
        assert_int_equal(f->cpu.seg[SEG_TR].limit, 0x67);
        assert_int_equal(f->cpu.seg[SEG_TR].attr & 0xff, 0x8b);
        const uint8_t *si = mem_r(&f->mem, f->cpu.gpr[RBX], 56);
        assert_int_equal(get_le32(si), 0x336ec578);
        assert_int_equal(get_le32(si + 4), 1);
        assert_int_equal(get_le32(si + 12), 1);
        const uint8_t *mod = mem_r(&f->mem, get_le64(si + 16), 32);
        assert_int_equal(get_le64(mod + 8), 7);
        assert_memory_equal(mem_r(&f->mem, get_le64(mod), 7), "initrd!", 7);
        assert_string_equal(mem_r(&f->mem, get_le64(si + 24), 6), "hello");
        assert_int_equal(get_le64(si + 32), 0xe1000);
        assert_int_equal(get_le32(si + 48), f->map.n);
        const uint8_t *mm = mem_r(&f->mem, get_le64(si + 40), 24 * f->map.n);
        for (unsigned i = 0; i < f->map.n; i++) {
            assert_int_equal(get_le64(mm + 24 * i), f->map.entry[i].base);
            assert_int_equal(get_le64(mm + 24 * i + 8), f->map.entry[i].len);
            assert_int_equal(get_le32(mm + 24 * i + 16), f->map.entry[i].type);
        }
        assert_memory_equal(mem_r(&f->mem, CODE_AT, CODE_SIZE), f->image + 512, CODE_SIZE);
        static const uint8_t zero[BSS_SIZE];
        assert_memory_equal(mem_r(&f->mem, CODE_AT + CODE_SIZE, BSS_SIZE), zero, BSS_SIZE);
    }
    boot_file_close(&initrd);
}

static void direct(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {.cmdline = "hello"};
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_elf(f, is64, false);
        if (load(f, &b))
            fail_msg("%s", f->why);
        assert_int_equal(f->cpu.rip, CODE_AT + 0x40); /* moved from its virtual address */
        assert_int_equal(f->cpu.gpr[RSI], LAYOUT_PARAMS);
        assert_int_equal(f->cpu.efer, is64 ? EFER_LME | EFER_LMA : 0);
        const uint8_t *bp = mem_r(&f->mem, LAYOUT_PARAMS, 4096);
        assert_memory_equal(bp + BP_HEADER, "HdrS", 4);
        assert_int_equal(get_le16(bp + BP_BOOT_FLAG), 0xaa55);
        assert_int_equal(bp[BP_E820_ENTRIES], f->map.n);
    }
}

/* One field of the load segment set to a value: which error? Offsets are those of either class. */
static int with(struct fixture *f, size_t off64, size_t off32, uint64_t v)
{
    uint64_t old = 0;
    uint8_t *at = f->image + f->phoff + (f->is64 ? off64 : off32);
    unsigned size = f->is64 ? 8 : 4;
    struct linux_boot b = {0};
    memcpy(&old, at, size);
    put_le(at, v, size);
    int err = load(f, &b);
    memcpy(at, &old, size);
    return err;
}
#define WITH(f, field, v) with(f, offsetof(Elf64_Phdr, field), offsetof(Elf32_Phdr, field), v)

static void hostile(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {0};
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_elf(f, is64, true);
        assert_int_equal(load(f, &b), 0);
        assert_int_equal(WITH(f, p_filesz, CODE_SIZE + BSS_SIZE + 1), -EINVAL);
        assert_int_equal(WITH(f, p_memsz, CODE_SIZE - 1), -EINVAL);
        assert_int_equal(WITH(f, p_memsz, MiB(6) + 1), -ENOMEM);
        assert_int_equal(WITH(f, p_offset, f->len - CODE_SIZE + 1), -EINVAL);
        assert_int_equal(WITH(f, p_offset, UINT64_MAX), -EINVAL);
        assert_int_equal(WITH(f, p_paddr, 0x1000), -EINVAL);
        assert_non_null(strstr(f->why, "0x100000"));
        assert_int_equal(WITH(f, p_paddr, 0xfffff), -EINVAL);
        assert_int_equal(WITH(f, p_paddr, UINT64_MAX), -EINVAL);
        assert_int_equal(WITH(f, p_paddr, MiB(8) - 100), -ENOMEM);
        assert_int_equal(WITH(f, p_paddr, 0xfee00000), -ENOMEM);
        assert_int_equal(WITH(f, p_memsz, UINT64_MAX), -EINVAL);
        assert_int_equal(WITH(f, p_paddr, CODE_AT + 0x100), -EINVAL); /* the entry is left outside */
        assert_int_equal(load(f, &b), 0);

        for (unsigned i = 0; i < 20 + f->phentsize * 2 + 64; i++) {
            for (unsigned v = 0; v < 256; v += 17) {
                uint8_t old = f->image[i];
                f->image[i] = (uint8_t)v;
                load(f, &b);
                f->image[i] = old;
            }
        }
        size_t whole = f->len;
        for (f->len = 1; f->len < whole; f->len++) {
            if (load(f, &b) == 0)
                fail_msg("%zu of %zu bytes were enough", f->len, whole);
            if (f->len >= 4)
                assert_non_null(strstr(f->why, "truncated"));
        }
        f->image[18] = 40; /* ARM */
        assert_int_equal(load(f, &b), -ENOEXEC);
        assert_non_null(strstr(f->why, "processor"));
    }
}

static void notes(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {0};
    make_elf(f, true, true);
    uint8_t *first = f->image + 512 + CODE_SIZE;
    static const uint32_t sizes[] = {0, 1, 7, 100, 0x7fffffff, 0xfffffff0, 0xffffffff};
    for (unsigned field = 0; field < 2; field++) {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            make_elf(f, true, true);
            put_le32(first + 4 * field, sizes[i]);
            assert_int_equal(load(f, &b), 0); /* then it has no PVH entry, or the same */
            make_elf(f, true, true);
            put_le32(first + 24 + 4 * field, sizes[i]);
            assert_int_equal(load(f, &b), 0);
        }
    }
}

/* A note segment cut off anywhere: what lies behind is not looked at (ASan). */
static void notes_cut(void **state)
{
    struct fixture *f = *state;
    struct linux_boot b = {0};
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_elf(f, is64, true);
        uint8_t *filesz = f->image + f->phoff + f->phentsize + (is64 ? 32 : 16);
        uint32_t whole = get_le32(filesz);
        for (uint32_t n = 0; n < whole; n++) {
            put_le32(filesz, n);
            assert_int_equal(load(f, &b), 0);
            assert_int_equal(f->cpu.gpr[RSI], LAYOUT_PARAMS); /* not by the PVH entry */
        }
    }
}

/* A vmlinux as unpacked from the distribution's kernel, given as a file of its own: it has a PVH entry. */
static void real_vmlinux(void **state)
{
    struct fixture *f = *state;
    struct boot_file kernel;
    struct linux_header h;
    const char *path = access("guest/cloud/vmlinuz", F_OK) ? "build/guest/cloud/vmlinuz" : "guest/cloud/vmlinuz";
    if (boot_file_open(&kernel, path, "kernel", f->why, sizeof(f->why))) {
        fprintf(stderr, "skipped: %s\n", f->why);
        skip();
    }
    uint8_t *data;
    uint64_t size;
    assert_int_equal(linux_header_read(&kernel, &h, f->why, sizeof(f->why)), 0);
    if (unpack_payload(&kernel, &h, GiB(1), &data, &size, f->why, sizeof(f->why)))
        fail_msg("%s", f->why);
    boot_file_close(&kernel);
    struct boot_file vmlinux = file_of(data, size, "vmlinux");
    unpack_free(data, size);

    struct linux_boot b = {.kernel = &vmlinux, .e820 = &f->map};
    assert_int_equal(boot_linux_load(&b, &f->mem, &f->cpu, f->why, sizeof(f->why)), -ENOMEM); /* 8 MiB */
    struct guest_mem mem;
    ram_init(&mem, MiB(128));
    if (boot_linux_load(&b, &mem, &f->cpu, f->why, sizeof(f->why)))
        fail_msg("%s", f->why);
    printf("# PVH entry 0x%llx\n", (unsigned long long)f->cpu.rip);
    assert_true(f->cpu.rip > 0x1000000);
    assert_int_equal(f->cpu.gpr[RBX], LAYOUT_PARAMS);
    assert_int_equal(f->cpu.efer, 0);
    mem_fini(&mem);
    boot_file_close(&vmlinux);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pvh, setup, teardown),
        cmocka_unit_test_setup_teardown(direct, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(notes, setup, teardown),
        cmocka_unit_test_setup_teardown(notes_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(real_vmlinux, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
