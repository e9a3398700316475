/*
 * virtio/pci: notifications and interrupts as descriptors of an accelerator
 * that is not there: they follow the BAR and the vectors, and a queue may be
 * lent to somebody else.
 */
#include "virtio_toy.h"

#include <unistd.h>

#include "pci/bridges.h"

static struct {
    int fd;
    uint64_t addr;
} events[8];
static bool events_closed;

static int fake_ioeventfd(void *arg, int fd, const struct accel_io_event *e, bool add)
{
    assert_false(e->pio || events_closed);
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        if (add ? !events[i].addr : events[i].addr == e->addr) {
            assert_true(add || events[i].fd == fd);
            events[i].fd = fd;
            events[i].addr = add ? e->addr : 0;
            return 0;
        }
    return -ENOSPC;
}

static void test_events(void **state)
{
    const struct virtio_pci_events hooks = {.ioeventfd = fake_ioeventfd};
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1);
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    assert_int_equal(virtio_pci_set_events(&toy.dev, &hooks), 0);
    negotiate(f);
    set_queue(&d, 1, 8, f);
    driver_ok();
    turn();
    for (unsigned move = 0; move < 2; move++) {
        unsigned n = 0, mine = 0;
        for (unsigned i = 0; i < ARRAY_LEN(events); i++) {
            n += events[i].addr != 0;
            if (events[i].addr == place(2) + 4)
                mine = i;
        }
        assert_int_equal(n, 2);
        assert_int_equal(events[mine].addr, place(2) + 4);
        drv_add(&d, &one_in, 1, false);
        uint64_t one = 1;
        assert_int_equal(write(events[mine].fd, &one, 8), 8);
        turn(); /* the file */
        turn(); /* what it posted */
        assert_true(drv_get(&d, &len) >= 0);
        cfg_w(PCI_BAR0 + 16, 4, MMIO_BASE + 0x8000000);
        cfg_w(PCI_BAR0 + 20, 4, 0);
    }
    cfg_w(PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        assert_int_equal(events[i].addr, 0);
    cfg_w(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_true(events[0].addr && events[1].addr);

    /* Another function's BAR in the same place: who is lower wins, and the notifications with it. */
    for (unsigned slot = SLOT - 1; slot <= SLOT + 1; slot += 2) {
        assert_int_equal(pci_dummy_new(&pci, slot, 0), 0);
        pci_cfg_write(&pci, slot, 0, PCI_BAR0 + 16, 4, (uint32_t)bar(4));
        pci_cfg_write(&pci, slot, 0, PCI_BAR0 + 20, 4, 0);
        pci_cfg_write(&pci, slot, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        bool theirs = slot < SLOT;
        assert_int_equal(events[0].addr != 0, !theirs);
        assert_int_equal(events[1].addr != 0, !theirs);
        pci_cfg_write(&pci, slot, 0, PCI_COMMAND, 2, 0);
        assert_true(events[0].addr && events[1].addr);
    }
    assert_int_equal(virtio_pci_set_events(&toy.dev, NULL), 0); /* the accelerator is about to go */
    for (unsigned i = 0; i < ARRAY_LEN(events); i++)
        assert_int_equal(events[i].addr, 0);
    events_closed = true;
    cfg_w(PCI_COMMAND, 2, 0);
}

/* An accelerator's interrupts: of one descriptor. */
static struct {
    int fd; /* -1: none */
    uint32_t data;
} call_of = {.fd = -1};

static int fake_route(void *arg, unsigned route, uint64_t addr, uint32_t data)
{
    assert_true(route == 7 && addr == 0xfee00000);
    call_of.data = data;
    return 0;
}

static int fake_irqfd(void *arg, int fd, unsigned route, bool add)
{
    assert_int_equal(route, 7);
    assert_int_equal(call_of.fd, add ? -1 : fd);
    call_of.fd = add ? fd : -1;
    return 0;
}

/* A queue is lent: what the driver says goes by, and what somebody else says is an interrupt. */
static void test_lend(void **state)
{
    const struct virtio_pci_events hooks = {
        .ioeventfd = fake_ioeventfd, .irqfds = {fake_route, fake_irqfd, NULL}, .first_route = 7};
    const uint64_t f = VIRTIO_BIT(VIRTIO_F_VERSION_1), one = 1;
    int kick_fd = -1, call_fd = -1;
    struct drv d;
    memset(events, 0, sizeof(events));
    events_closed = false;
    add_toy(&transitional);
    const struct virtio_transport *t = &toy.dev.transport;
    toy.dev.lendable = 1;
    assert_int_equal(t->lend(t->arg, 0, &kick_fd, &call_fd), -EOPNOTSUPP);
    assert_int_equal(virtio_pci_set_events(&toy.dev, &hooks), 0);
    enable_msix();
    negotiate(f);
    set_queue(&d, 0, 8, f);
    wr(0x1a, 2, 1);
    driver_ok();
    turn();
    assert_int_equal(t->lend(t->arg, 1, &kick_fd, &call_fd), -EOPNOTSUPP);
    assert_int_equal(t->lend(t->arg, 0, &kick_fd, &call_fd), 0);
    assert_int_equal(call_of.fd, call_fd);
    assert_int_equal(call_of.data, 0x41);

    unsigned before = toy.notifies[0];
    assert_int_equal(write(kick_fd, &one, 8), 8);
    turn();
    turn();
    assert_int_equal(toy.notifies[0], before);
    t->take_back(t->arg, 0); /* and nothing is lost */
    turn();
    turn();
    assert_int_equal(toy.notifies[0], before + 1);

    unsigned at = cap(PCI_CAP_MSIX, 0);
    uint64_t entry = bar(cfg(at + 4, 4) & 7) + (cfg(at + 4, 4) & ~7u) + 16, pba = bar(cfg(at + 8, 4) & 7);
    pba += cfg(at + 8, 4) & ~7u;
    bus_write(mmio, entry + 12, 4, 1); /* masked: it is kept by us */
    assert_int_equal(call_of.fd, -1);
    assert_int_equal(write(call_fd, &one, 8), 8);
    turn();
    assert_int_equal(messages, 0);
    assert_int_equal(bus_read(mmio, pba, 8), 2);
    bus_write(mmio, entry + 12, 4, 0);
    assert_int_equal(messages, 1);
    assert_int_equal(call_of.fd, call_fd);
    wr(0x16, 2, 0);
    wr(0x1a, 2, 2); /* another vector */
    assert_int_equal(call_of.data, 0x42);
    cfg_w(at + 2, 2, 0); /* by wire */
    assert_int_equal(call_of.fd, -1);
    assert_int_equal(write(call_fd, &one, 8), 8);
    turn();
    assert_int_equal(bus_read(mmio, place(3), 1), 1);
    cfg_w(at + 2, 2, 0x8000);
    assert_int_equal(call_of.fd, call_fd);
    wr(0x14, 1, 0);
    turn();
    assert_int_equal(call_of.fd, -1); /* a reset device has no vectors */
    wr(0x16, 2, 0);
    wr(0x1a, 2, 2);
    assert_int_equal(call_of.fd, call_fd);
    assert_int_equal(virtio_pci_set_events(&toy.dev, NULL), 0);
    assert_int_equal(call_of.fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lend, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
