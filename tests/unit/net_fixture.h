/* A NIC made by hand: it keeps what it receives, and has as much room as a test gives it. */
#ifndef NET_FIXTURE_H
#define NET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/net.h"
#include "os/clock.h"
#include "os/loop.h"

enum { NIC_FRAMES = 4096 };

struct nic_frame {
    unsigned queue;
    struct net_hdr hdr;
    size_t len;
    uint8_t *data;
};

struct nic {
    struct net_backend *b;
    struct loop *loop;
    struct nic_frame got[NIC_FRAMES];
    unsigned ngot, taken; /* received, and looked at by the test */
    unsigned room;        /* frames that still fit */
    size_t bytes;         /* of a frame */
    bool more_later;      /* a frame that is longer finds no room for now, and not never */
    unsigned flushes, ready, links;
    unsigned unflushed;
    size_t spoilt; /* bytes */
    bool link;
    void (*on_ready)(struct nic *);
    uint8_t memory[NET_MAX_FRAME + 1];
    struct iovec iov[3];
};

static size_t nic_room(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov)
{
    struct nic *nic = arg;
    if (!nic->room || nic->ngot == NIC_FRAMES || (want > nic->bytes && nic->more_later))
        return 0;
    /* In three pieces, two of them odd. */
    nic->iov[0] = (struct iovec){nic->memory, nic->bytes < 13 ? nic->bytes : 13};
    nic->iov[1] = (struct iovec){nic->memory + 13, nic->bytes < 114 ? 0 : 101};
    size_t rest = nic->bytes < 13 ? 0 : nic->bytes - 13 - nic->iov[1].iov_len;
    nic->iov[2] = (struct iovec){nic->memory + 13 + nic->iov[1].iov_len, rest};
    nic->memory[nic->bytes] = 0xa5; /* must stay */
    *iov = nic->iov;
    *niov = 3;
    return nic->bytes;
}

static void nic_put(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr)
{
    struct nic *nic = arg;
    assert_true(len <= nic->bytes);
    assert_int_equal(nic->memory[nic->bytes], 0xa5);
    struct nic_frame *f = &nic->got[nic->ngot++];
    *f = (struct nic_frame){.queue = queue, .hdr = *hdr, .len = len, .data = malloc(len)};
    memcpy(f->data, nic->memory, len);
    nic->room--;
    nic->unflushed++;
}

static void nic_spoilt(void *arg, unsigned queue, size_t len)
{
    struct nic *nic = arg;
    assert_true(len <= nic->bytes);
    nic->spoilt += len;
}

static void nic_flush(void *arg, unsigned queue)
{
    struct nic *nic = arg;
    assert_true(nic->unflushed > 0); /* not for nothing */
    nic->unflushed = 0;
    nic->flushes++;
}

static void nic_ready(void *arg, unsigned queue)
{
    struct nic *nic = arg;
    nic->ready++;
    if (nic->on_ready)
        nic->on_ready(nic);
}

static void nic_link(void *arg, bool up)
{
    struct nic *nic = arg;
    nic->link = up;
    nic->links++;
}

static const struct net_client nic_client = {.rx_room = nic_room,
                                             .rx_put = nic_put,
                                             .rx_spoilt = nic_spoilt,
                                             .rx_flush = nic_flush,
                                             .tx_ready = nic_ready,
                                             .link = nic_link};

static inline struct nic *nic_new(struct loop *loop, struct net_backend *b)
{
    struct nic *nic = calloc(1, sizeof(*nic));
    assert_non_null(nic);
    nic->loop = loop;
    nic->b = b;
    nic->room = NIC_FRAMES;
    nic->bytes = NET_MAX_FRAME;
    nic->link = true;
    return nic;
}

static inline void nic_free(struct nic *nic)
{
    for (unsigned i = 0; i < nic->ngot; i++)
        free(nic->got[i].data);
    free(nic);
}

/* Serves the loop until the condition holds; fails after ten seconds of nothing. */
#define SERVE(loop_, condition)                                                                                        \
    do {                                                                                                               \
        uint64_t serve_end = os_clock_ns() + 10 * NS_PER_S;                                                            \
        while (!(condition)) {                                                                                         \
            assert_int_equal(loop_turn(loop_, NS_PER_S / 1000), 0);                                                    \
            if (os_clock_ns() > serve_end)                                                                             \
                fail_msg("waited in vain for: %s", #condition);                                                        \
        }                                                                                                              \
    } while (0)

/* The next frame that has come, or NULL. */
static inline struct nic_frame *nic_next(struct nic *nic)
{
    assert_int_equal(nic->unflushed, 0);
    return nic->taken < nic->ngot ? &nic->got[nic->taken++] : NULL;
}

static inline unsigned nic_send_hdr(struct nic *nic, unsigned queue, const struct net_hdr *hdr, const void *data,
                                    size_t len)
{
    struct iovec iov[2] = {{(void *)data, len / 3}, {(uint8_t *)data + len / 3, len - len / 3}};
    struct net_frame f = {.iov = iov, .niov = 2, .hdr = *hdr};
    return net_send(nic->b, queue, &f, 1);
}

static inline unsigned nic_send(struct nic *nic, const void *data, size_t len)
{
    static const struct net_hdr plain;
    return nic_send_hdr(nic, 0, &plain, data, len);
}

/* A frame whose content depends on seed. */
static inline void make_frame(uint8_t *f, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        f[i] = (uint8_t)((i * 7 + seed * 13) ^ (i >> 8));
    if (len >= 14) {
        memset(f, 0xff, 6);
        f[12] = 0x88;
        f[13] = 0xb5; /* for local experiments */
    }
}

#endif
