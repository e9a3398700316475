/* core/mem: the split at 3 GiB, the doors and their edges, zeroing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/mem.h"
#include "util/bytes.h"

static const struct mem_options plain;

static void test_sizes(void **state)
{
    struct guest_mem m;
    (void)state;
    assert_int_equal(mem_init(&m, 0, &plain), -EINVAL);
    assert_int_equal(mem_init(&m, MiB(1) - MEM_PAGE, &plain), -EINVAL);
    assert_int_equal(mem_init(&m, MiB(1) + 512, &plain), -EINVAL);
    assert_int_equal(mem_init(&m, UINT64_MAX - 4095, &plain), -EINVAL);
    assert_int_equal(mem_init(&m, UINT64_C(1) << 44, &plain), -ENOMEM); /* more than any host that runs this has */
    assert_int_equal(m.nregions, 0);
    mem_fini(&m);

    assert_int_equal(mem_init(&m, MiB(1), &plain), 0);
    assert_int_equal(m.nregions, 1);
    assert_int_equal(m.low_len, MiB(1));
    assert_int_equal(m.high_len, 0);
    mem_fini(&m);
}

static void test_doors(void **state)
{
    struct guest_mem m;
    (void)state;
    assert_int_equal(mem_init(&m, MiB(2), &plain), 0);
    const uint8_t *host = m.region[0].host;
    assert_int_equal((uintptr_t)host % MiB(2), 0); /* huge pages of guest and host coincide */
    assert_ptr_equal(mem_r(&m, 0, 1), host);
    assert_ptr_equal(mem_w(&m, 0, MiB(2)), host);
    assert_ptr_equal(mem_r(&m, MiB(2) - 1, 1), host + MiB(2) - 1);
    assert_null(mem_r(&m, MiB(2) - 1, 2));
    assert_null(mem_w(&m, MiB(2) - 1, 2));
    assert_null(mem_r(&m, MiB(2), 0));
    assert_null(mem_r(&m, MiB(2), 1));
    assert_null(mem_r(&m, 1, MiB(2)));
    assert_null(mem_r(&m, 4, SIZE_MAX));
    assert_null(mem_r(&m, UINT64_MAX, 1));
    assert_null(mem_r(&m, UINT64_MAX - 3, 8));
    assert_null(mem_r(&m, MEM_HIGH_START, 1));
    assert_null(mem_find(&m, MiB(2)));
    assert_ptr_equal(mem_find(&m, MiB(2) - 1), &m.region[0]);
    mem_fini(&m);
}

struct written {
    unsigned calls;
    uint64_t gpa, len;
};

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    struct written *w = arg;
    w->calls++;
    w->gpa = gpa;
    w->len = len;
}

static void test_copies(void **state)
{
    struct guest_mem m;
    struct written w = {0};
    char buf[8] = "1234567";
    (void)state;
    assert_int_equal(mem_init(&m, MiB(1), &plain), 0);
    assert_int_equal(mem_write(&m, 0x1234, "hello", 6), 0); /* nobody to tell yet */
    m.written = on_written;
    m.written_arg = &w;
    assert_int_equal(mem_read(&m, 0x1234, buf, 6), 0);
    assert_string_equal(buf, "hello");
    assert_int_equal(w.calls, 0);

    assert_int_equal(mem_write(&m, 0x2000, "x", 1), 0);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.gpa, 0x2000);
    assert_int_equal(w.len, 1);

    /* Half outside: nothing of it happens. */
    assert_int_equal(mem_write(&m, MiB(1) - 2, "abcd", 4), -EFAULT);
    assert_int_equal(mem_read(&m, MiB(1) - 2, buf, 4), -EFAULT);
    assert_string_equal(buf, "hello");
    assert_int_equal(*(const uint8_t *)mem_r(&m, MiB(1) - 2, 1), 0);
    assert_int_equal(w.calls, 1);
    mem_written(&m, 0, 0);
    assert_int_equal(w.calls, 1);

    /* A machine reset: zeroes, and the accelerator hears of it. */
    mem_zero(&m);
    assert_int_equal(w.calls, 2);
    assert_int_equal(w.len, MiB(1));
    assert_int_equal(mem_read(&m, 0x1234, buf, 6), 0);
    assert_memory_equal(buf, "\0\0\0\0\0\0", 6);
    mem_fini(&m);
}

static void test_wired(void **state)
{
    const struct mem_options wired = {.wired = true, .core_dump = true};
    struct guest_mem m;
    char c = 1;
    (void)state;
    int error = mem_init(&m, MiB(1), &wired);
    if (error == -ENOMEM || error == -EPERM || error == -EAGAIN) {
        print_message("this host lets us wire no memory\n");
        skip();
    }
    assert_int_equal(error, 0);
    assert_int_equal(mem_write(&m, 5, &c, 1), 0);
    mem_zero(&m); /* wired pages cannot be given back: must be cleared all the same */
    assert_int_equal(mem_read(&m, 5, &c, 1), 0);
    assert_int_equal(c, 0);
    mem_fini(&m);
}

static void test_split(void **state)
{
    struct guest_mem m;
    (void)state;
    int error = mem_init(&m, GiB(3) + MiB(1), &plain);
    if (error == -ENOMEM) {
        print_message("this host has too little memory\n");
        skip();
    }
    assert_int_equal(error, 0);
    assert_int_equal(m.nregions, 2);
    assert_int_equal(m.low_len, GiB(3));
    assert_int_equal(m.high_len, MiB(1));
    assert_ptr_equal(mem_w(&m, MEM_LOW_END - 1, 1), m.region[0].host + GiB(3) - 1);
    assert_null(mem_r(&m, MEM_LOW_END, 1));
    assert_null(mem_r(&m, MEM_LOW_END - 1, 2));
    assert_null(mem_r(&m, MEM_HIGH_START - 1, 2));
    assert_ptr_equal(mem_w(&m, MEM_HIGH_START, MiB(1)), m.region[1].host);
    assert_null(mem_w(&m, MEM_HIGH_START, MiB(1) + 1));
    assert_null(mem_w(&m, MEM_HIGH_START + MiB(1), 1));
    assert_int_equal(mem_write(&m, MEM_HIGH_START, "z", 1), 0);
    mem_zero(&m);
    assert_int_equal(*(const char *)mem_r(&m, MEM_HIGH_START, 1), 0);
    mem_fini(&m);
}

static void test_rom(void **state)
{
    static uint8_t rom[4096] = {7};
    struct guest_mem m;
    char c = 9;
    (void)state;
    assert_int_equal(mem_init(&m, MiB(1), &plain), 0);
    m.region[m.nregions++] = (struct mem_region){.gpa = GiB(4) - 4096, .len = 4096, .host = rom, .readonly = true};
    assert_ptr_equal(mem_r(&m, GiB(4) - 4096, 4096), rom);
    assert_null(mem_w(&m, GiB(4) - 4096, 1));
    assert_int_equal(mem_write(&m, GiB(4) - 4096, &c, 1), -EFAULT);
    mem_zero(&m);
    assert_int_equal(rom[0], 7);
    mem_fini(&m); /* its owner's, not ours to free */
    assert_int_equal(rom[0], 7);
}

/* One byte past either end of RAM there is nothing: not other memory of ours. */
static void test_guards(void **state)
{
    (void)state;
    for (int end = 0; end < 2; end++) {
        pid_t child = fork();
        if (child == 0) {
            struct guest_mem m;
            if (mem_init(&m, MiB(1), &plain))
                _exit(9);
            signal(SIGSEGV, SIG_DFL); /* not cmocka's */
            *(volatile uint8_t *)(end ? m.region[0].host + MiB(1) : m.region[0].host - 1) = 1;
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),  cmocka_unit_test(test_doors), cmocka_unit_test(test_copies),
        cmocka_unit_test(test_wired),  cmocka_unit_test(test_split), cmocka_unit_test(test_rom),
        cmocka_unit_test(test_guards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
