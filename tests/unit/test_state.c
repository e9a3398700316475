/* core/state: reset values, the round trip, older files, and files that somebody made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/state.h"
#include "util/bytes.h"

struct chip {
    uint8_t a;
    uint16_t b;
    void *host; /* not the guest's: must survive everything */
    uint32_t c[3];
    uint64_t d;
    bool on;
    bool lanes[4];
    uint8_t grid[2][3];
    _Atomic uint32_t pending;
    uint32_t young;
};

static const struct state_field chip_fields[] = {
    STATE_FIELD(struct chip, a, 1, 0x12),    STATE_FIELD(struct chip, b, 1, 0xfedc),
    STATE_ARRAY(struct chip, c, 1, 0x10000), STATE_FIELD(struct chip, d, 1, UINT64_MAX),
    STATE_FIELD(struct chip, on, 1, true),   STATE_ARRAY(struct chip, lanes, 1, 0),
    STATE_ARRAY2(struct chip, grid, 1, 3),   STATE_FIELD(struct chip, pending, 1, 0),
    STATE_FIELD(struct chip, young, 2, 77),
};
static const struct state_desc chip_desc = STATE_DESC("chip", 2, struct chip, chip_fields);
/* The same as an older xhyve knew it. */
static const struct state_desc old_desc = {"chip", 1, sizeof(struct chip), chip_fields, ARRAY_LEN(chip_fields) - 1};

static void fill(struct chip *c)
{
    c->a = 1;
    c->b = 0x2345;
    c->host = c;
    c->c[0] = 3;
    c->c[1] = 0x89abcdef;
    c->c[2] = 5;
    c->d = 0x0123456789abcdef;
    c->on = false;
    c->lanes[2] = true;
    c->grid[1][2] = 99;
    c->pending = 0x80000001;
    c->young = 6;
}

static void assert_reset(const struct chip *c)
{
    assert_int_equal(c->a, 0x12);
    assert_int_equal(c->b, 0xfedc);
    for (int i = 0; i < 3; i++)
        assert_int_equal(c->c[i], 0x10000);
    assert_true(c->d == UINT64_MAX);
    assert_true(c->on);
    for (int i = 0; i < 4; i++)
        assert_false(c->lanes[i]);
    for (int i = 0; i < 6; i++)
        assert_int_equal(c->grid[i / 3][i % 3], 3);
    assert_int_equal(c->pending, 0);
    assert_int_equal(c->young, 77);
}

static void assert_filled(const struct chip *c)
{
    assert_int_equal(c->a, 1);
    assert_int_equal(c->b, 0x2345);
    assert_int_equal(c->c[1], 0x89abcdef);
    assert_true(c->d == 0x0123456789abcdef);
    assert_false(c->on);
    assert_true(c->lanes[2] && !c->lanes[1]);
    assert_int_equal(c->grid[1][2], 99);
    assert_int_equal(c->grid[0][0], 3);
    assert_int_equal(c->pending, 0x80000001);
}

static void test_reset(void **state)
{
    struct chip c;
    (void)state;
    memset(&c, 0x55, sizeof(c));
    c.host = &c;
    state_reset(&chip_desc, &c);
    assert_reset(&c);
    assert_ptr_equal(c.host, &c);
}

static void test_round_trip(void **state)
{
    struct chip c = {0}, d = {0};
    struct state_blob blob = {0};
    size_t pos = 0;
    (void)state;
    state_reset(&chip_desc, &c);
    assert_int_equal(state_save(&chip_desc, &c, &blob), 0);
    fill(&c);
    assert_int_equal(state_save(&chip_desc, &c, &blob), 0);

    d.host = &d;
    fill(&d);
    d.host = &d;
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), 0);
    assert_reset(&d);
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), 0);
    assert_filled(&d);
    assert_int_equal(d.young, 6);
    assert_ptr_equal(d.host, &d);
    assert_int_equal(pos, blob.len);
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), -EINVAL); /* no third one */
    pos = blob.len + 1;
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), -EINVAL);
    free(blob.data);
}

/* The format is a promise to files that exist: it changes only on purpose. */
static void test_format(void **state)
{
    static const uint8_t want[] = {2, 'p', 'i', 3, 0, 0, 0, 1, 0, 0, 0, 1, 'b', 2, 1, 0, 0, 0, 0x45, 0x23};
    static const struct state_field fields[] = {STATE_FIELD(struct chip, b, 1, 0)};
    static const struct state_desc desc = STATE_DESC("pi", 3, struct chip, fields);
    struct chip c = {.b = 0x2345};
    struct state_blob blob = {0};
    (void)state;
    assert_int_equal(state_save(&desc, &c, &blob), 0);
    assert_int_equal(blob.len, sizeof(want));
    assert_memory_equal(blob.data, want, sizeof(want));
    free(blob.data);
}

static void test_versions(void **state)
{
    struct chip c = {0}, d = {0};
    struct state_blob blob = {0};
    size_t pos = 0;
    (void)state;
    fill(&c);
    memset(c.grid, 3, sizeof(c.grid));
    c.grid[1][2] = 99;
    /* An older file: what it lacks has its reset value. */
    assert_int_equal(state_save(&old_desc, &c, &blob), 0);
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), 0);
    assert_filled(&d);
    assert_int_equal(d.young, 77);
    assert_int_equal(pos, blob.len);
    /* The same content under the newer version lacks a field without excuse. */
    blob.data[5] = 2;
    pos = 0;
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), -EINVAL);
    assert_reset(&d);
    /* A newer file than we are, even one that looks alike. */
    blob.len = 0;
    pos = 0;
    assert_int_equal(state_save(&chip_desc, &c, &blob), 0);
    blob.data[5] = 3;
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), -EINVAL);
    assert_reset(&d);
    blob.data[5] = 1; /* nor can an old file know what came later */
    assert_int_equal(state_load(&chip_desc, &d, blob.data, blob.len, &pos), -EINVAL);
    assert_reset(&d);
    blob.len = 0;
    assert_int_equal(state_save(&chip_desc, &c, &blob), 0);
    assert_int_equal(state_load(&old_desc, &d, blob.data, blob.len, &pos), -EINVAL);
    assert_int_equal(pos, 0);
    free(blob.data);
}

/* Loads from a copy that ends where the data ends, so the sanitizer sees a byte too far. */
static int load_copy(struct chip *d, const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    size_t pos = 0;
    memcpy(copy, data, len);
    fill(d);
    int error = state_load(&chip_desc, d, copy, len, &pos);
    if (error) {
        assert_int_equal(error, -EINVAL);
        assert_int_equal(pos, 0);
        assert_reset(d);
    } else {
        assert_true(pos <= len);
    }
    free(copy);
    return error;
}

static void test_hostile(void **state)
{
    struct chip c = {0}, d = {0};
    struct state_blob blob = {0};
    (void)state;
    fill(&c);
    assert_int_equal(state_save(&chip_desc, &c, &blob), 0);
    for (size_t len = 0; len < blob.len; len++)
        assert_int_equal(load_copy(&d, blob.data, len), -EINVAL);
    assert_int_equal(load_copy(&d, blob.data, blob.len), 0);

    unsigned accepted = 0;
    for (size_t i = 0; i < blob.len; i++) {
        for (unsigned v = 0; v < 256; v++) {
            uint8_t was = blob.data[i];
            blob.data[i] = (uint8_t)v;
            accepted += load_copy(&d, blob.data, blob.len) == 0;
            /* A bool is never anything but true or false. */
            uint8_t on;
            memcpy(&on, &d.on, 1);
            assert_true(on <= 1);
            blob.data[i] = was;
        }
    }
    assert_true(accepted > 0);

    srand(3);
    for (unsigned round = 0; round < 20000; round++) {
        uint8_t copy[512];
        assert_true(blob.len <= sizeof(copy));
        memcpy(copy, blob.data, blob.len);
        for (int k = 0; k < 4; k++)
            copy[(size_t)rand() % blob.len] = (uint8_t)(rand() % 4 ? rand() : 0xff);
        load_copy(&d, copy, (size_t)rand() % 3 ? blob.len : (size_t)rand() % blob.len);
    }
    free(blob.data);
}

/* Too wide or too many: each must be refused on its own. */
static void test_wrong_shape(void **state)
{
    struct chip c = {0}, d = {0};
    struct state_blob blob = {0};
    (void)state;
    static const struct state_field wide[] = {{.name = "a", .offset = offsetof(struct chip, b), .count = 1, .size = 2}};
    static const struct state_field many[] = {
        {.name = "a", .offset = offsetof(struct chip, grid), .count = 2, .size = 1}};
    static const struct state_field unknown[] = {{.name = "z", .offset = 0, .count = 1, .size = 1}};
    static const struct state_field good[] = {{.name = "a", .offset = 0, .count = 1, .size = 1, .reset = 4}};
    const struct state_desc desc[] = {{"x", 1, sizeof(c), wide, 1},
                                      {"x", 1, sizeof(c), many, 1},
                                      {"x", 1, sizeof(c), unknown, 1},
                                      {"y", 1, sizeof(c), good, 1},
                                      {"x", 1, sizeof(c), good, 1}};
    for (unsigned i = 0; i < 5; i++) {
        size_t pos = 0;
        blob.len = 0;
        assert_int_equal(state_save(&desc[i], &c, &blob), 0);
        assert_int_equal(state_load(&desc[4], &d, blob.data, blob.len, &pos), i == 4 ? 0 : -EINVAL);
        assert_int_equal(d.a, i == 4 ? 0 : 4);
    }
    free(blob.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),    cmocka_unit_test(test_round_trip), cmocka_unit_test(test_format),
        cmocka_unit_test(test_versions), cmocka_unit_test(test_hostile),    cmocka_unit_test(test_wrong_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
