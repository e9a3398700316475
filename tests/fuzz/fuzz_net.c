/*
 * Fuzz target: what a guest hands to a network backend (frames and their
 * headers, over a cable to another NIC and into checksums), and the options of a
 * person.
 */
#include "fuzz.h"
#include "net/impl.h"
#include "util/bytes.h"

#include <stdio.h>
#include <string.h>

/* -- a NIC that receives -- */

static uint8_t memory[NET_MAX_FRAME];
static struct iovec room_iov[2];
static size_t room;
static unsigned budget;

static size_t rx_room(void *arg, unsigned queue, size_t want, const struct iovec **iov, unsigned *niov)
{
    if (!budget)
        return 0;
    room_iov[0] = (struct iovec){memory, room / 3};
    room_iov[1] = (struct iovec){memory + room / 3, room - room / 3};
    *iov = room_iov;
    *niov = 2;
    return room;
}

static void rx_put(void *arg, unsigned queue, size_t len, const struct net_hdr *hdr)
{
    must(budget > 0 && len >= NET_MIN_FRAME && len <= room && queue < 2);
    must(!(hdr->flags & NET_HDR_NEEDS_CSUM) || (size_t)hdr->csum_start + hdr->csum_offset + 2 <= len);
    must(hdr->gso_type == NET_GSO_NONE || (hdr->gso_size && (hdr->flags & NET_HDR_NEEDS_CSUM)));
    budget--;
}

static void nothing(void *arg, unsigned queue) {}
static void link_changed(void *arg, bool up) {}

static const struct net_client client = {rx_room, rx_put, NULL, nothing, nothing, link_changed};

static struct net_hdr take_hdr(struct fuzz_input *in)
{
    struct net_hdr h = {.flags = take8(in), .gso_type = take8(in)};
    h.hdr_len = take16(in);
    h.gso_size = take16(in);
    h.csum_start = take16(in);
    h.csum_offset = take16(in);
    return h;
}

static void cable(struct fuzz_input *in)
{
    static uint8_t data[NET_MAX_FRAME + 100];
    struct loop *loop;
    struct net_backend *end[2];

    must(loop_new(&loop) == 0 && net_pair(loop, 2, 4, &end[0], &end[1]) == 0);
    while (in->left) {
        uint8_t what = take8(in);
        struct net_backend *b = end[what >> 7];
        switch (what & 7) {
        case 0: net_start(b, &client, NULL); break;
        case 1:
            if (take8(in) < 32)
                net_stop(b);
            break;
        case 2: net_set_offloads(b, take8(in)); break;
        case 3: net_set_queues(b, take8(in) % 4); break;
        case 4:
            budget = take8(in) % 8;
            room = (size_t)take16(in) % (NET_MAX_FRAME + 1);
            net_rx_kick(b, take8(in) % 4);
            break;
        case 5: must(loop_turn(loop, 0) == 0); break;
        default: {
            struct iovec iov[4];
            struct net_frame f[3];
            unsigned n = 1 + take8(in) % 3;
            for (unsigned i = 0; i < n; i++) {
                f[i] = (struct net_frame){.iov = iov, .niov = take8(in) % 5, .hdr = take_hdr(in)};
                for (unsigned k = 0; i == 0 && k < 4; k++)
                    iov[k] = (struct iovec){data, (size_t)take16(in) % sizeof(data)};
            }
            must(net_send(b, take8(in) % 4, f, n) <= n);
        }
        }
    }
    net_close(end[0]);
    net_close(end[1]);
    loop_free(loop);
}

static void finish(struct fuzz_input *in)
{
    struct net_backend b = {.info.send = take8(in)};
    struct net_frame f = {.hdr = take_hdr(in), .niov = 1};
    size_t len;

    if (!in->left)
        return;
    uint8_t *copy = malloc(in->left); /* exact, for the sanitizer */
    must(copy != NULL);
    memcpy(copy, in->data, in->left);
    struct iovec iov = {copy, in->left};
    f.iov = &iov;
    if (net_frame_ok(&b, &f, &len)) {
        must(len == in->left);
        if (net_finish(copy, len, &f.hdr) == 0 && f.hdr.gso_type == NET_GSO_TCPV4) {
            size_t ip = copy[12] == 0x81 ? 18 : 14;
            must((size_t)(copy[ip + 2] << 8 | copy[ip + 3]) == len - ip);
            must(net_sum_fold(net_sum(0, copy + ip, (size_t)(copy[ip] & 15) * 4)) == 0xffff);
        }
    }
    free(copy);
}

static void options(struct fuzz_input *in)
{
    struct net_options o;
    char text[256], why[256];

    net_options_init(&o);
    while (in->left) {
        size_t n = 0;
        for (char c; in->left && n < sizeof(text) - 1 && (c = (char)take8(in)) && c != ',';)
            text[n++] = c;
        text[n] = '\0';
        why[0] = '\0';
        int r = net_option(&o, text, why, sizeof(why));
        must(r == 0 || r == 1 || (r < 0 && why[0]));
    }
    must(o.nforwards <= NET_MAX_FORWARDS && o.queues >= 1 && o.queues <= NET_MAX_QUEUES);
    if (net_options_check(&o, why, sizeof(why)) == 0)
        must(o.kind == NET_USER || (o.kind == NET_VMNET && o.vmnet != NET_VMNET_BRIDGED) || o.name[0]);
    if (o.has_mac)
        must(!(o.mac[0] & 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};

    switch (take8(&in) % 3) {
    case 0: cable(&in); break;
    case 1: finish(&in); break;
    case 2: options(&in); break;
    }
    return 0;
}
