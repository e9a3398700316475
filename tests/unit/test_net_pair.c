/* net/pair: the cable for tests of others, and what all backends promise: links, room, order, stop and start. */
#include "net_fixture.h"

#include <errno.h>

struct rig {
    struct loop *loop;
    struct net_backend *b[2];
    struct nic *nic[2];
};

static void set_up(struct rig *r, unsigned queues, unsigned room)
{
    assert_int_equal(loop_new(&r->loop), 0);
    assert_int_equal(net_pair(r->loop, queues, room, &r->b[0], &r->b[1]), 0);
    for (int i = 0; i < 2; i++)
        r->nic[i] = nic_new(r->loop, r->b[i]);
}

static void tear_down(struct rig *r)
{
    for (int i = 0; i < 2; i++) {
        net_close(r->b[i]);
        nic_free(r->nic[i]);
    }
    net_close(NULL);
    loop_free(r->loop);
}

static void turn(struct rig *r)
{
    for (int i = 0; i < 3; i++)
        assert_int_equal(loop_turn(r->loop, 0), 0);
}

static void test_link(void **state)
{
    struct rig r;
    set_up(&r, 1, 4);
    assert_int_equal(net_start(r.b[0], &nic_client, r.nic[0]), 0);
    assert_false(r.nic[0]->link); /* nobody at the other end */
    assert_int_equal(net_start(r.b[1], &nic_client, r.nic[1]), 0);
    assert_true(r.nic[0]->link);
    assert_int_equal(r.nic[1]->links, 0);
    net_stop(r.b[0]);
    net_stop(r.b[0]);
    assert_false(r.nic[1]->link);
    assert_int_equal(net_start(r.b[0], &nic_client, r.nic[0]), 0);
    assert_true(r.nic[1]->link);
    net_close(r.b[0]);
    assert_false(r.nic[1]->link);
    r.b[0] = NULL;
    uint8_t f[60];
    make_frame(f, 60, 1);
    assert_int_equal(nic_send(r.nic[1], f, 60), 1);
    assert_int_equal(r.b[1]->stats.tx_dropped, 1);
    tear_down(&r);
}

static void test_frames(void **state)
{
    struct rig r;
    uint8_t f[2000];
    struct net_hdr h = {.flags = NET_HDR_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};

    set_up(&r, 2, 4);
    for (int i = 0; i < 2; i++)
        assert_int_equal(net_start(r.b[i], &nic_client, r.nic[i]), 0);
    /* Four are under way at most. */
    for (unsigned i = 0; i < 4; i++) {
        make_frame(f, 100 + i, i);
        assert_int_equal(nic_send(r.nic[0], f, 100 + i), 1);
    }
    assert_int_equal(nic_send(r.nic[0], f, 100), 0);
    assert_int_equal(r.nic[1]->ngot, 0); /* from the loop, not from inside */
    turn(&r);
    assert_int_equal(r.nic[0]->ready, 1);
    assert_int_equal(r.nic[1]->flushes, 1);
    for (unsigned i = 0; i < 4; i++) {
        struct nic_frame *g = nic_next(r.nic[1]);
        make_frame(f, 100 + i, i);
        assert_int_equal(g->len, 100 + i);
        assert_memory_equal(g->data, f, g->len);
    }
    /* What the other end cannot finish is not taken for good; when it says that it can, it is. */
    assert_int_equal(nic_send_hdr(r.nic[0], 0, &h, f, 100), 1);
    assert_int_equal(r.b[0]->stats.tx_dropped, 1);
    assert_int_equal(net_set_offloads(r.b[1], NET_CAN_CSUM), 0);
    assert_int_equal(nic_send_hdr(r.nic[0], 0, &h, f, 100), 1);
    turn(&r);
    assert_memory_equal(&nic_next(r.nic[1])->hdr, &h, sizeof(h));
    /* Queues: on those that the other end uses. */
    memset(&h, 0, sizeof(h));
    assert_int_equal(nic_send_hdr(r.nic[0], 1, &h, f, 100), 1);
    turn(&r);
    assert_int_equal(nic_next(r.nic[1])->queue, 0);
    assert_int_equal(net_set_queues(r.b[1], 2), 0);
    assert_int_equal(nic_send_hdr(r.nic[0], 1, &h, f, 100), 1);
    turn(&r);
    assert_int_equal(nic_next(r.nic[1])->queue, 1);
    assert_int_equal(net_set_queues(r.b[1], 3), -EINVAL);
    /* No room, then some. */
    r.nic[1]->room = 0;
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(nic_send(r.nic[0], f, 100), 1);
    turn(&r);
    assert_int_equal(nic_send(r.nic[0], f, 100), 0);
    turn(&r);
    assert_int_equal(r.nic[0]->ready, 1);
    r.nic[1]->room = 1;
    net_rx_kick(r.b[1], 0);
    turn(&r);
    assert_int_equal(r.nic[0]->ready, 2);
    /* A reset drops what was under way. */
    net_stop(r.b[1]);
    assert_int_equal(net_start(r.b[1], &nic_client, r.nic[1]), 0);
    r.nic[1]->room = 10;
    unsigned had = r.nic[1]->ngot;
    turn(&r);
    assert_int_equal(r.nic[1]->ngot, had);
    assert_int_equal(nic_send(r.nic[0], f, 100), 1);
    turn(&r);
    assert_int_equal(r.nic[1]->ngot, had + 1);
    tear_down(&r);
}

static void test_wrong(void **state)
{
    struct rig r;
    struct net_backend *a, *b;
    set_up(&r, 1, 1);
    assert_int_equal(net_pair(r.loop, 0, 1, &a, &b), -EINVAL);
    assert_int_equal(net_pair(r.loop, NET_MAX_QUEUES + 1, 1, &a, &b), -EINVAL);
    assert_int_equal(net_pair(r.loop, 1, 0, &a, &b), -EINVAL);
    tear_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_link),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
