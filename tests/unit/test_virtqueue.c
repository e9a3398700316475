/*
 * virtio/queue: both kinds of ring against a driver of our own; suppression
 * both ways, order, indirect tables, and a guest that writes nonsense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "virtio_driver.h"

#define BIT(n) (UINT64_C(1) << (n))
#define PACKED BIT(VIRTIO_F_RING_PACKED)
#define EVENT BIT(VIRTIO_F_EVENT_IDX)
#define INDIRECT BIT(VIRTIO_F_INDIRECT_DESC)
#define IN_ORDER BIT(VIRTIO_F_IN_ORDER)

#define MEM_SIZE MiB(2)
#define RING 0x10000
#define BUFS 0x100000

static struct guest_mem mem;
static struct vq q;
static struct drv d;
static struct vq_chain c;
static const char *broken;
static unsigned breaks;
static uint64_t written_bytes;

static void on_broken(void *arg, struct vq *vq, const char *why)
{
    (void)arg;
    (void)vq;
    broken = why;
    breaks++;
}

static void on_written(void *arg, uint64_t gpa, uint64_t len)
{
    (void)arg;
    if (gpa >= BUFS)
        written_bytes += len;
}

static int setup(void **state)
{
    static const struct mem_options plain;
    (void)state;
    mem.nregions = 0;
    if (mem_init(&mem, MEM_SIZE, &plain))
        return -1;
    mem.written = on_written;
    vq_init(&q, &mem, 0, 1024, on_broken, NULL);
    return vq_chain_init(&c, VQ_MAX_CHAIN);
}

static int teardown(void **state)
{
    (void)state;
    vq_fini(&q);
    vq_chain_fini(&c);
    mem_fini(&mem);
    return 0;
}

/* An empty ring, started. */
static void fresh(uint16_t size, uint64_t features)
{
    vq_stop(&q);
    vq_reset(&q);
    drv_init(&d, &mem, &q, RING, size, features);
    broken = NULL;
    breaks = 0;
    written_bytes = 0;
    assert_int_equal(vq_start(&q, features), 0);
}

static const uint64_t kinds[] = {0,      EVENT,          IN_ORDER,          EVENT | IN_ORDER,
                                 PACKED, PACKED | EVENT, PACKED | IN_ORDER, PACKED | EVENT | IN_ORDER};

static void test_one_buffer(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        uint32_t len;
        uint8_t bytes[64];
        fresh(8, kinds[k] | INDIRECT);
        for (unsigned indirect = 0; indirect < 2; indirect++) {
            assert_int_equal(vq_pop(&q, &c), 0);
            assert_int_equal(drv_get(&d, &len), -1);
            const struct drv_buf buf[] = {
                {BUFS, 16, false}, {BUFS + 0x1000, 5, false}, {BUFS + 0x2000, 7, true}, {BUFS + 0x3000, 100, true}};
            memset(mem_w(&mem, BUFS, 0x4000), 0, 0x4000);
            memcpy(mem_w(&mem, BUFS, 16), "0123456789abcdef", 16);
            memcpy(mem_w(&mem, BUFS + 0x1000, 5), "ghijk", 5);
            int id = drv_add(&d, buf, 4, indirect);
            assert_int_equal(vq_pop(&q, &c), 1);
            assert_int_equal(c.nr, 2);
            assert_int_equal(c.nw, 2);
            assert_int_equal(c.rlen, 21);
            assert_int_equal(c.wlen, 107);
            assert_int_equal(vq_read(&c, 10, bytes, 20), 11);
            assert_memory_equal(bytes, "abcdefghijk", 11);
            assert_int_equal(vq_read(&c, 0, bytes, 3), 3);
            assert_memory_equal(bytes, "012", 3);
            assert_int_equal(vq_read(&c, 21, bytes, 3), 0);
            assert_int_equal(vq_write(&c, 5, "VWXYZ", 5), 5);
            assert_memory_equal(mem_r(&mem, BUFS + 0x2005, 2), "VW", 2);
            assert_memory_equal(mem_r(&mem, BUFS + 0x3000, 4), "XYZ\0", 4);
            assert_int_equal(vq_write(&c, 106, "!!", 2), 1);
            written_bytes = 0;
            vq_push(&q, &c, 10);
            assert_int_equal(written_bytes, 10);
            assert_int_equal(drv_get(&d, &len), id);
            assert_int_equal(len, 10);
            assert_int_equal(drv_get(&d, &len), -1);
        }
        assert_null(broken);
    }
}

/* Random traffic for many rounds: every buffer comes back once, with its length, in order where promised. */
static void test_traffic(void **state)
{
    (void)state;
    unsigned seed = 1;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        for (unsigned s = 0; s < 3; s++) {
            uint16_t size = (uint16_t[]){8, 64, kinds[k] & PACKED ? 37 : 256}[s];
            static struct vq_chain held[512];
            uint32_t want[DRV_MAX] = {0}, order[DRV_MAX], len;
            unsigned nheld = 0, norder = 0, returned = 0, added = 0;
            bool outstanding[DRV_MAX] = {false};
            fresh(size, kinds[k] | INDIRECT);
            for (unsigned round = 0; added < 70000 || nheld || norder; round++) {
                seed = seed * 1103515245 + 12345;
                unsigned r = seed >> 16;
                if (r % 3 == 0 && added < 70000) {
                    struct drv_buf buf[5];
                    unsigned n = 1 + r / 3 % 5;
                    bool indirect = r >> 9 & 1;
                    for (unsigned i = 0; i < n; i++)
                        buf[i] = (struct drv_buf){BUFS + 0x100 * (uint64_t)(added % 1024), 64 + i, i >= n / 2};
                    if (drv_room(&d, n, indirect)) {
                        uint16_t id = drv_add(&d, buf, n, indirect);
                        assert_false(outstanding[id]);
                        outstanding[id] = true;
                        want[id] = added % 60;
                        order[norder++] = id;
                        added++;
                    }
                } else if (r % 3 == 1 && nheld < ARRAY_LEN(held)) {
                    struct vq_chain *h = &held[nheld];
                    assert_int_equal(vq_chain_init(h, 5), 0);
                    int n = vq_pop(&q, h);
                    assert_true(n >= 0);
                    if (n && r >> 8 & 1) { /* change of mind */
                        vq_unpop(&q, h);
                        assert_int_equal(vq_pop(&q, h), 1);
                    }
                    nheld += (unsigned)n;
                    if (!n)
                        vq_chain_fini(h);
                } else if (nheld) {
                    unsigned i = r / 3 % nheld;
                    vq_push(&q, &held[i], want[held[i].id]);
                    vq_chain_fini(&held[i]);
                    held[i] = held[--nheld];
                }
                int id;
                while (r % 5 == 0 && (id = drv_get(&d, &len)) >= 0) {
                    assert_true(outstanding[id]);
                    assert_int_equal(len, want[id]);
                    outstanding[id] = false;
                    if (kinds[k] & IN_ORDER)
                        assert_int_equal(id, order[0]);
                    unsigned at = 0;
                    while (order[at] != (uint32_t)id)
                        at++;
                    memmove(&order[at], &order[at + 1], (--norder - at) * sizeof(order[0]));
                    returned++;
                }
                assert_true(round < 10000000);
            }
            assert_int_equal(returned, added);
            assert_int_equal(q.inflight, 0);
            assert_int_equal(q.slots, 0);
            assert_null(broken);
        }
    }
}

static const struct drv_buf one_in = {BUFS, 16, true};

static void pass(unsigned n)
{
    uint32_t len;
    for (unsigned i = 0; i < n; i++) {
        drv_add(&d, &one_in, 1, false);
        assert_int_equal(vq_pop(&q, &c), 1);
        vq_push(&q, &c, 16);
        assert_true(drv_get(&d, &len) >= 0);
    }
}

/* The driver's wishes for interrupts, at every position of the ring. */
static void test_interrupts(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        for (unsigned start = 0; start < 70; start++) {
            uint32_t len;
            fresh(32, kinds[k]);
            if (start == 69 && !(kinds[k] & PACKED)) /* the free-running index wraps */
                pass(65530);
            else
                pass(start);
            vq_should_notify(&q);
            assert_false(vq_should_notify(&q)); /* nothing new */

            drv_irq(&d, DRV_IRQ_ON, 0);
            pass(1);
            assert_true(vq_should_notify(&q));
            assert_false(vq_should_notify(&q));

            drv_irq(&d, DRV_IRQ_OFF, 0);
            drv_add(&d, &one_in, 1, false);
            assert_int_equal(vq_pop(&q, &c), 1);
            vq_push(&q, &c, 16);
            assert_false(vq_should_notify(&q));
            assert_true(drv_get(&d, &len) >= 0);

            if (!(kinds[k] & EVENT))
                continue;
            /* At the 5th from here: one by one, and then in one batch that steps over it. */
            drv_irq(&d, DRV_IRQ_AT, 4);
            for (unsigned i = 0; i < 20; i++) {
                pass(1);
                assert_int_equal(vq_should_notify(&q), i == 4);
            }
            drv_irq(&d, DRV_IRQ_AT, 4);
            pass(20);
            assert_true(vq_should_notify(&q));
            drv_irq(&d, DRV_IRQ_AT, 20);
            pass(20);
            assert_false(vq_should_notify(&q));
            pass(1);
            assert_true(vq_should_notify(&q));
            drv_irq(&d, DRV_IRQ_AT, 0); /* whole rounds of the ring unasked */
            pass(150);
            assert_true(vq_should_notify(&q));
        }
    }
}

/* The device's wishes for notifications. */
static void test_kicks(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        for (unsigned start = 0; start < 70; start++) {
            fresh(32, kinds[k]);
            drv_add(&d, &one_in, 1, false);
            assert_true(drv_kick(&d)); /* a new queue wants to hear of its first buffer */
            assert_int_equal(vq_pop(&q, &c), 1);
            vq_push(&q, &c, 0);
            uint32_t len;
            drv_get(&d, &len);
            pass(start);
            drv_kick(&d);

            assert_false(vq_kicks_on(&q));
            drv_add(&d, &one_in, 1, false);
            assert_true(drv_kick(&d));
            drv_add(&d, &one_in, 1, false);
            if (kinds[k] & EVENT) /* it was told once, and has not looked yet */
                assert_false(drv_kick(&d));
            assert_true(vq_kicks_on(&q)); /* they came before */

            vq_kicks_off(&q);
            while (vq_pop(&q, &c) > 0)
                vq_push(&q, &c, 0);
            if (!(kinds[k] & EVENT) || kinds[k] & PACKED) {
                drv_kick(&d);
                drv_add(&d, &one_in, 1, false);
                assert_false(drv_kick(&d));
                assert_true(vq_kicks_on(&q));
            }
        }
    }
}

static void test_order(void **state)
{
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        struct vq_chain h[3];
        uint32_t len;
        int id[3];
        fresh(8, IN_ORDER | (packed ? PACKED : 0));
        for (unsigned i = 0; i < 3; i++) {
            const struct drv_buf buf[] = {{BUFS, 8, false}, {BUFS + 64, 32, true}};
            id[i] = drv_add(&d, buf, 2, false);
            assert_int_equal(vq_chain_init(&h[i], 8), 0);
            assert_int_equal(vq_pop(&q, &h[i]), 1);
        }
        vq_push(&q, &h[2], 3);
        vq_push(&q, &h[1], 2);
        assert_int_equal(drv_get(&d, &len), -1);
        assert_false(vq_should_notify(&q)); /* nothing to be seen */
        vq_push(&q, &h[0], 1);
        assert_true(vq_should_notify(&q));
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(drv_get(&d, &len), id[i]);
            assert_int_equal(len, i + 1);
            vq_chain_fini(&h[i]);
        }
    }
}

/* -- a hostile driver -- */

static void must_break(const char *why)
{
    assert_int_equal(vq_pop(&q, &c), -EPROTO);
    assert_int_equal(breaks, 1);
    assert_non_null(strstr(broken, why));
    assert_int_equal(vq_pop(&q, &c), 0); /* and that is the end of it */
    assert_false(vq_kicks_on(&q));
    assert_false(vq_should_notify(&q));
    assert_int_equal(breaks, 1);
}

/* Makes descriptor 0 available, whatever it is. */
static void offer(void)
{
    if (d.packed) {
        w16(&d, d.desc + 14, r16(&d, d.desc + 14) | D_AVAIL);
    } else {
        w16(&d, d.driver + 4 + 2 * (uint64_t)(d.avail % d.size), 0);
        w16(&d, d.driver + 2, ++d.avail);
    }
}

static void test_hostile_start(void **state)
{
    static const struct {
        uint64_t features, desc, driver, device;
        uint16_t size;
    } bad[] = {
        {0, RING, 0x18000, 0x1a000, 0},
        {0, RING, 0x18000, 0x1a000, 24},
        {0, RING, 0x18000, 0x1a000, 2048},
        {0, RING + 8, 0x18000, 0x1a000, 16},
        {0, RING, 0x18001, 0x1a000, 16},
        {0, RING, 0x18000, 0x1a002, 16},
        {0, MEM_SIZE - 128, 0x18000, 0x1a000, 16},
        {0, RING, MEM_SIZE - 32, 0x1a000, 16},
        {0, RING, 0x18000, MEM_SIZE - 64, 16},
        {0, UINT64_MAX - 15, 0x18000, 0x1a000, 16},
        {PACKED, RING, 0x18000, 0x1a000, 0},
        {PACKED, RING, 0x18000, 0x1a000, 1025},
        {PACKED, RING + 8, 0x18000, 0x1a000, 16},
        {PACKED, RING, 0x18002, 0x1a000, 16},
        {PACKED, RING, 0x18000, 0x1a001, 16},
        {PACKED, MEM_SIZE - 128, 0x18000, 0x1a000, 16},
        {PACKED, RING, MEM_SIZE, 0x1a000, 16},
        {PACKED, RING, 0x18000, GiB(3), 16},
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        vq_stop(&q);
        vq_reset(&q);
        q.s.desc = bad[i].desc;
        q.s.driver = bad[i].driver;
        q.s.device = bad[i].device;
        q.s.size = bad[i].size;
        breaks = 0;
        assert_int_equal(vq_start(&q, bad[i].features), -EINVAL);
        assert_int_equal(breaks, 1);
        assert_int_equal(vq_pop(&q, &c), 0);
    }
}

static void test_hostile_descriptors(void **state)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags;
        const char *why;
    } bad[] = {
        {BUFS, 0, 0, "no bytes"},
        {BUFS, 0, D_WRITE, "no bytes"},
        {MEM_SIZE, 1, 0, "not in memory"},
        {MEM_SIZE - 1, 2, D_WRITE, "not in memory"},
        {UINT64_MAX, 2, D_WRITE, "not in memory"},
        {UINT64_MAX - 7, 16, 0, "not in memory"},
        {BUFS, UINT32_MAX, D_WRITE, "not in memory"},
        {BUFS, 0, D_INDIRECT, "whole number"},
        {BUFS, 24, D_INDIRECT, "whole number"},
        {MEM_SIZE - 16, 32, D_INDIRECT, "table is not in memory"},
        {BUFS, 32, D_INDIRECT | D_NEXT, "where none may be"},
    };
    (void)state;
    for (unsigned packed = 0; packed < 2; packed++)
        for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
            fresh(8, INDIRECT | (packed ? PACKED : 0));
            wdesc(&d, d.desc, 0, bad[i].addr, bad[i].len, bad[i].flags, 1);
            offer();
            must_break(bad[i].why);
        }
    for (unsigned packed = 0; packed < 2; packed++) { /* not negotiated */
        fresh(8, packed ? PACKED : 0);
        wdesc(&d, d.desc, 0, BUFS, 32, D_INDIRECT, 1);
        offer();
        must_break("where none may be");

        fresh(8, packed ? PACKED : 0); /* what is read comes first */
        wdesc(&d, d.desc, 0, BUFS, 32, D_NEXT | D_WRITE, 1);
        wdesc(&d, d.desc, 1, BUFS, 32, 0, 1);
        offer();
        must_break("follows one to be written");

        fresh(8, packed ? PACKED : 0); /* more than the device has room for */
        struct vq_chain small;
        assert_int_equal(vq_chain_init(&small, 2), 0);
        for (unsigned i = 0; i < 3; i++)
            wdesc(&d, d.desc, i, BUFS, 32, i < 2 ? D_NEXT : 0, (uint16_t)(i + 1));
        offer();
        assert_int_equal(vq_pop(&q, &small), -EPROTO);
        assert_non_null(strstr(broken, "too long"));
        vq_chain_fini(&small);
    }
}

static void test_hostile_split(void **state)
{
    (void)state;
    fresh(8, 0);
    wdesc(&d, d.desc, 0, BUFS, 8, D_NEXT, 0); /* itself */
    offer();
    must_break("loops");

    fresh(8, 0);
    for (unsigned i = 0; i < 8; i++)
        wdesc(&d, d.desc, i, BUFS, 8, D_NEXT, (uint16_t)((i + 1) % 8));
    offer();
    must_break("loops");

    fresh(8, 0);
    wdesc(&d, d.desc, 0, BUFS, 8, D_NEXT, 8);
    offer();
    must_break("out of its table");

    fresh(8, INDIRECT);
    wdesc(&d, d.desc, 0, BUFS, 32, D_INDIRECT, 0);
    wdesc(&d, BUFS, 0, BUFS, 8, D_NEXT, 2);
    offer();
    must_break("out of its table");

    fresh(8, INDIRECT);
    wdesc(&d, d.desc, 0, BUFS, 32, D_INDIRECT, 0);
    wdesc(&d, BUFS, 0, BUFS, 8, D_NEXT, 1);
    wdesc(&d, BUFS, 1, BUFS, 8, D_NEXT, 0);
    offer();
    must_break("loops");

    fresh(8, INDIRECT);
    wdesc(&d, d.desc, 0, BUFS, 32, D_INDIRECT, 0);
    wdesc(&d, BUFS, 0, BUFS, 32, D_INDIRECT, 0);
    offer();
    must_break("where none may be");

    fresh(8, INDIRECT); /* a table as long as memory */
    wdesc(&d, d.desc, 0, 0x80000, 0x180000, D_INDIRECT, 0);
    for (unsigned i = 0; i < 2000; i++)
        wdesc(&d, 0x80000, i, BUFS, 8, D_NEXT, (uint16_t)(i + 1));
    offer();
    must_break("too long");

    fresh(8, INDIRECT); /* that is allowed: direct ones, then a table */
    wdesc(&d, d.desc, 0, BUFS, 8, D_NEXT, 3);
    wdesc(&d, d.desc, 3, BUFS + 0x1000, 16, D_INDIRECT, 0);
    wdesc(&d, BUFS + 0x1000, 0, BUFS, 8, D_WRITE, 0);
    offer();
    assert_int_equal(vq_pop(&q, &c), 1);
    assert_int_equal(c.nr, 1);
    assert_int_equal(c.nw, 1);

    fresh(8, 0);
    w16(&d, d.driver + 4, 8);
    w16(&d, d.driver + 2, 1);
    must_break("names no descriptor");

    fresh(8, 0);
    w16(&d, d.driver + 2, 9);
    must_break("index jumps");
    fresh(8, 0);
    w16(&d, d.driver + 2, 0xffff); /* backwards */
    must_break("index jumps");
    fresh(8, 0);
    w16(&d, d.driver + 2, 9); /* found by the look after switching notifications on */
    assert_false(vq_kicks_on(&q));
    assert_int_equal(breaks, 1);

    fresh(8, 0); /* the same buffer over and over, none given back */
    wdesc(&d, d.desc, 0, BUFS, 8, 0, 0);
    for (unsigned i = 0; i < 8; i++) {
        offer();
        assert_int_equal(vq_pop(&q, &c), 1);
    }
    offer();
    must_break("more buffers than it has entries");
    vq_push(&q, &c, 0); /* what was under way ends quietly */
    assert_int_equal(r16(&d, d.device + 2), 0);
}

static void test_hostile_packed(void **state)
{
    (void)state;
    fresh(8, PACKED);
    for (unsigned i = 0; i < 8; i++)
        wdesc(&d, d.desc, i, BUFS, 8, D_NEXT, 0);
    offer();
    must_break("longer than the ring has room");

    fresh(8, PACKED | INDIRECT);
    wdesc(&d, d.desc, 0, BUFS, 8, D_NEXT, 0);
    wdesc(&d, d.desc, 1, BUFS, 16, D_INDIRECT, 0);
    offer();
    must_break("where none may be");

    fresh(8, PACKED | INDIRECT); /* in a table only WRITE counts */
    wdesc(&d, d.desc, 0, BUFS, 32, D_INDIRECT, 5);
    wdesc(&d, BUFS, 0, BUFS, 8, D_NEXT | D_INDIRECT, 77);
    wdesc(&d, BUFS, 1, BUFS, 8, D_WRITE | D_NEXT, 88);
    offer();
    assert_int_equal(vq_pop(&q, &c), 1);
    assert_int_equal(c.id, 5);
    assert_int_equal(c.nr + c.nw, 2);

    fresh(8, PACKED | INDIRECT);
    wdesc(&d, d.desc, 0, 0x80000, 0x180000, D_INDIRECT, 0);
    for (unsigned i = 0; i < 2000; i++)
        wdesc(&d, 0x80000, i, BUFS, 8, 0, 0);
    offer();
    must_break("too long");

    fresh(8, PACKED); /* slots that the device holds, made available a second time */
    for (unsigned i = 0; i < 8; i++)
        wdesc(&d, d.desc, i, BUFS, 8, D_AVAIL, (uint16_t)i);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(vq_pop(&q, &c), 1);
    assert_int_equal(vq_pop(&q, &c), 0);
    wdesc(&d, d.desc, 0, BUFS, 8, D_USED, 0);
    must_break("longer than the ring has room");

    fresh(8, PACKED); /* a position that no ring of this size has, out of a file */
    vq_stop(&q);
    q.s.avail_idx = 8;
    assert_int_equal(vq_start(&q, PACKED), -EINVAL);
}

/* Random bytes in the rings and tables: an answer in any case, and nothing outside of memory. */
static void test_random_rings(void **state)
{
    (void)state;
    unsigned seed = 7;
    uint64_t popped = 0;
    for (unsigned round = 0; round < 20000; round++) {
        fresh(8, kinds[round % ARRAY_LEN(kinds)] | INDIRECT);
        uint8_t *ring = mem_w(&mem, RING, 0x10000);
        for (unsigned i = 0; i < 8; i++) /* so that some of it is good */
            wdesc(&d, d.desc, i, BUFS + 0x1000 * (uint64_t)i, 64, d.packed && i % 4 ? D_AVAIL : 0, (uint16_t)i);
        offer();
        for (unsigned i = 0; i < 24; i++) {
            seed = seed * 1103515245 + 12345;
            unsigned area = (seed >> 8) % 3 * 0x4000, r = seed >> 12;
            unsigned at = area == 0x4000 ? 0x8000 + r % 24 : area ? 0xa000 + r % 80 : r % 128;
            ring[at] = (uint8_t)(seed >> 24 & (r & 1 ? 0xff : 7));
        }
        for (unsigned i = 0; i < 12; i++)
            if (vq_pop(&q, &c) > 0) {
                popped++;
                assert_true(c.nr + c.nw > 0 && c.nr + c.nw <= VQ_MAX_CHAIN);
                for (unsigned j = 0; j < c.nr + c.nw; j++) {
                    const uint8_t *p = c.iov[j].iov_base, *ram = mem.region[0].host;
                    assert_true(p >= ram && c.iov[j].iov_len <= MEM_SIZE - (size_t)(p - ram));
                }
                vq_push(&q, &c, 1);
                vq_should_notify(&q);
                vq_kicks_on(&q);
            }
        assert_true(breaks <= 1);
    }
    assert_true(popped > 1000); /* the test looks at something */
}

static void test_save(void **state)
{
    (void)state;
    for (unsigned k = 0; k < ARRAY_LEN(kinds); k++) {
        struct state_blob blob = {0};
        size_t pos = 0;
        uint32_t len;
        fresh(8, kinds[k]);
        pass(13);
        drv_add(&d, &one_in, 1, false);
        assert_int_equal(vq_save(&q, &blob), 0);
        struct vq_state before = q.s;
        vq_stop(&q);
        vq_reset(&q);
        assert_int_equal(q.s.size, 1024);
        assert_int_equal(vq_load(&q, blob.data, blob.len, &pos), 0);
        assert_int_equal(pos, blob.len);
        assert_int_equal(q.s.avail_idx, before.avail_idx);
        assert_int_equal(vq_start(&q, kinds[k]), 0);
        assert_int_equal(vq_pop(&q, &c), 1);
        vq_push(&q, &c, 16);
        assert_true(drv_get(&d, &len) >= 0);
        pass(20);

        pos = 0;
        struct vq small;
        vq_init(&small, &mem, 0, 4, NULL, NULL);
        assert_int_equal(vq_load(&small, blob.data, blob.len, &pos), -EINVAL);
        assert_int_equal(pos, 0);
        free(blob.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_buffer),
        cmocka_unit_test(test_traffic),
        cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_kicks),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_hostile_start),
        cmocka_unit_test(test_hostile_descriptors),
        cmocka_unit_test(test_hostile_split),
        cmocka_unit_test(test_hostile_packed),
        cmocka_unit_test(test_random_rings),
        cmocka_unit_test(test_save),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
