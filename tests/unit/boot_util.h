/* What the boot tests share: a machine's memory, temporary files, running a tool. */
#ifndef XHYVE_TESTS_BOOT_UTIL_H
#define XHYVE_TESTS_BOOT_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot/file.h"
#include "boot/platform.h"
#include "core/mem.h"
#include "util/bytes.h"

static inline void ram_init(struct guest_mem *mem, uint64_t size)
{
    struct mem_options opt = {0};
    assert_int_equal(mem_init(mem, size, &opt), 0);
}

static inline uint8_t sum8(const uint8_t *p, size_t n)
{
    uint8_t s = 0;
    while (n--)
        s = (uint8_t)(s + *p++);
    return s;
}

/* A fresh directory under TMPDIR; removed by tmp_remove(). */
static inline char *tmp_make(void)
{
    const char *base = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof(path), "%s/xhyve-test-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

static inline int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int run(const char *fmt, ...)
{
    char cmd[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    int status = system(cmd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void tmp_remove(char *dir)
{
    assert_int_equal(run("rm -rf '%s'", dir), 0);
    free(dir);
}

static inline void put_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static inline bool have_tool(const char *name)
{
    return run("command -v %s >/dev/null 2>&1 || test -x /usr/sbin/%s", name, name) == 0;
}

/* Skips the running test, and says why. */
#define NEED_TOOL(name, package)                                                                                       \
    do {                                                                                                               \
        if (!have_tool(name)) {                                                                                        \
            fprintf(stderr, "skipped: %s is not installed (Debian: %s)\n", name, package);                             \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)

/* A file that lives in memory only, for the loaders. */
static inline struct boot_file file_of(const void *data, size_t len, const char *name)
{
    char path[] = "/tmp/xhyve-file-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, data, len), len);
    return (struct boot_file){.fd = fd, .path = name, .size = len};
}

/* A machine like the one that pc.c builds, with ncpus processors. */
static inline void platform_example(struct platform *p, uint32_t *ids, unsigned ncpus, struct platform_intx intx[128])
{
    for (unsigned i = 0; i < ncpus; i++)
        ids[i] = i;
    for (unsigned i = 0; i < 128; i++)
        intx[i] = (struct platform_intx){
            .dev = (uint8_t)(i / 4), .pin = i % 4, .link = (uint8_t)((i / 4 + i) % 8), .gsi = 16 + (i / 4 + i) % 8};
    static const struct platform_ports reserved[] = {{0x61, 1}, {0x80, 1}, {0x92, 1}, {0xcf9, 1}};
    *p = (struct platform){
        .ncpus = ncpus,
        .apic_id = ids,
        .lapic_base = 0xfee00000,
        .cpu_signature = 0x306a9,
        .cpu_features = 0x1783fbff,
        .has_ioapic = true,
        .ioapic_id = 0,
        .ioapic_base = 0xfec00000,
        .ioapic_pins = 24,
        .sci_irq = 9,
        .pm1_evt = 0x400,
        .pm1_cnt = 0x404,
        .pm_tmr = 0x408,
        .pm_tmr_32 = true,
        .gpe0 = 0x420,
        .gpe0_len = 4,
        .smi_cmd = 0xb2,
        .acpi_enable = 0xa0,
        .acpi_disable = 0xa1,
        .s5_type = 5,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .rtc_century = 0x32,
        .hpet_base = 0xfed00000,
        .hpet_id = 0x80868201,
        .ecam_base = 0xe0000000,
        .ecam_buses = 256,
        .mmio32_base = 0xc0000000,
        .mmio32_len = 0x20000000,
        .mmio64_base = UINT64_C(0x800000000),
        .mmio64_len = UINT64_C(0x800000000),
        .intx = intx,
        .nintx = 128,
        .has_lpc = true,
        .lpc_dev = 31,
        .pirq_reg = {0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b},
        .pirq_irqs = 0xdef8 & ~(1u << 8),
        .com = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}},
        .has_rtc = true,
        .has_i8042 = true,
        .has_ps2_mouse = true,
        .fwcfg_port = 0x510,
        .reserved = reserved,
        .nreserved = ARRAY_LEN(reserved),
    };
}

#endif
