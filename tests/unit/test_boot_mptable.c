/* The MP table: found as a guest finds it, checked entry by entry. */
#include "boot_util.h"

#include "boot/layout.h"
#include "boot/mptable.h"

struct fixture {
    struct guest_mem mem;
    struct platform p;
    uint32_t ids[PLATFORM_MAX_CPUS];
    struct platform_intx intx[128];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    ram_init(&f->mem, MiB(2));
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

struct found {
    unsigned count[5], isa[16], pci, bsp;
    const uint8_t *isa_entry[16];
};

/* Searches 0xf0000-0xfffff for the pointer, as the specification says, and walks the table. */
static void walk(struct fixture *f, struct found *r)
{
    static const uint8_t size[5] = {20, 8, 8, 8, 8};
    const uint8_t *mp = NULL;
    for (uint64_t at = 0xf0000; at < 0x100000 && !mp; at += 16) {
        const uint8_t *p = mem_r(&f->mem, at, 16);
        if (memcmp(p, "_MP_", 4) == 0 && sum8(p, 16u * p[8]) == 0)
            mp = p;
    }
    assert_non_null(mp);
    assert_int_equal(mp[9], 4);
    assert_int_equal(mp[11], 0); /* there is a table */
    const uint8_t *t = mem_r(&f->mem, get_le32(mp + 4), 44);
    assert_memory_equal(t, "PCMP", 4);
    unsigned len = get_le16(t + 4), at = 44, n = 0, last = 0;
    assert_int_equal(sum8(t, len), 0);
    assert_int_equal(get_le32(t + 36), 0xfee00000);
    memset(r, 0, sizeof(*r));
    for (; at < len; n++) {
        const uint8_t *e = t + at;
        assert_in_range(e[0], last, 4); /* in ascending order of type */
        last = e[0];
        r->count[e[0]]++;
        if (e[0] == 0)
            r->bsp += (e[3] & 3) == 3;
        if (e[0] == 3 && e[4] == 1) {
            assert_in_range(e[5], 0, 15);
            r->isa[e[5]]++;
            r->isa_entry[e[5]] = e;
        }
        if (e[0] == 3 && e[4] == 0) {
            const struct platform_intx *row = &f->p.intx[r->pci++];
            assert_int_equal(e[5], row->dev << 2 | row->pin);
            assert_int_equal(e[7], row->gsi);
        }
        at += size[e[0]];
    }
    assert_int_equal(at, len);
    assert_int_equal(get_le16(t + 34), n);
}

static void entries(void **state)
{
    struct fixture *f = *state;
    static const unsigned counts[] = {1, 2, 64};
    char why[200];
    struct found r;
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        platform_example(&f->p, f->ids, counts[i], f->intx);
        assert_int_equal(mptable_install(&f->p, &f->mem, why, sizeof(why)), 0);
        walk(f, &r);
        assert_int_equal(r.count[0], counts[i]);
        assert_int_equal(r.bsp, 1);
        assert_int_equal(r.count[1], 2);
        assert_int_equal(r.count[2], 1);
        assert_int_equal(r.count[3], 15 + 128);
        assert_int_equal(r.count[4], 2);
        for (unsigned irq = 0; irq < 16; irq++)
            assert_int_equal(r.isa[irq], irq != 2);
        assert_int_equal(r.isa_entry[0][7], 2); /* the PIT on pin 2 */
        assert_int_equal(r.isa_entry[4][7], 4);
        assert_int_equal(get_le16(r.isa_entry[4] + 2), 0);
        assert_int_equal(get_le16(r.isa_entry[9] + 2), 0xd); /* SCI: level, high */
    }
}

static void small_and_large(void **state)
{
    struct fixture *f = *state;
    char why[200];
    struct found r;
    platform_example(&f->p, f->ids, PLATFORM_MAX_CPUS, f->intx);
    assert_int_equal(mptable_install(&f->p, &f->mem, why, sizeof(why)), 0);
    walk(f, &r);
    assert_int_equal(r.count[0], 255); /* ids 0 to 254 */
    platform_example(&f->p, f->ids, 1, f->intx);
    f->p.has_ioapic = false;
    assert_int_equal(mptable_install(&f->p, &f->mem, why, sizeof(why)), 0);
    walk(f, &r);
    assert_int_equal(r.count[2] + r.count[3], 0);
    assert_int_equal(r.count[4], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(entries, setup, teardown),
        cmocka_unit_test_setup_teardown(small_and_large, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
