/* pci/irqfd.c: descriptors that an accelerator turns into messages, exactly while these may be sent. */
#include "pci_fixture.h"

#define TABLE UINT64_C(0xc0010000)
#define PBA (TABLE + 0x1000)
#define SLOT 3
#define CALLS 3

static const struct pci_ops ops = {.name = "test"};
static struct pci_dev dev;
static unsigned cap;

/* An accelerator that checks what it is asked. */
static struct {
    struct pci_message route[CALLS];
    bool has_route[CALLS], attached[CALLS];
    unsigned changes, attaches; /* calls so far */
    int fail_route, fail_attach;
} accel;

static int set_route(void *arg, unsigned route, uint64_t addr, uint32_t data)
{
    assert_true(arg == &accel && route >= 40 && route < 40 + CALLS);
    accel.changes++;
    if (accel.fail_route)
        return accel.fail_route;
    accel.route[route - 40] = (struct pci_message){addr, data};
    accel.has_route[route - 40] = true;
    return 0;
}

static int irqfd(void *arg, int fd, unsigned route, bool add)
{
    unsigned i = route - 40;
    assert_true(arg == &accel && i < CALLS);
    assert_int_equal(fd, 100 + i);
    assert_int_not_equal(accel.attached[i], add); /* never twice */
    assert_true(accel.has_route[i]);              /* before it is used */
    accel.attaches += add;
    if (add && accel.fail_attach)
        return accel.fail_attach;
    accel.attached[i] = add;
    return 0;
}

static struct pci_irqfd call[CALLS];

static void start(void)
{
    memset(&accel, 0, sizeof(accel));
    pci_dev_init(&dev, &ops, 0x1234, 0x5678, 0xff0000, 1);
    pci_pm_init(&dev);
    pci_express_init(&dev);
    assert_int_equal(pci_msix_init(&dev, 4, 4), 0);
    assert_int_equal(pci_add(&pci, &dev, SLOT, 0), 0);
    cfg_out(SLOT, 0, PCI_BAR0 + 16, 4, (uint32_t)TABLE);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cap = find_cap(SLOT, PCI_CAP_MSIX);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
    for (unsigned i = 0; i < CALLS; i++) {
        call[i] = (struct pci_irqfd){
            .accel = {set_route, irqfd, &accel}, .fd = (int)(100 + i), .route = 40 + i, .vector = PCI_NO_VECTOR};
        pci_irqfd_add(&dev, &call[i]);
    }
    assert_int_equal(accel.changes, 0);
}

static void entry_out(unsigned v, uint64_t addr, uint32_t data, bool masked)
{
    bus_write(mmio, TABLE + 16 * v + 12, 4, 1);
    bus_write(mmio, TABLE + 16 * v, 8, addr);
    bus_write(mmio, TABLE + 16 * v + 8, 4, data);
    bus_write(mmio, TABLE + 16 * v + 12, 4, masked);
}

static void mask(unsigned v, bool masked) { bus_write(mmio, TABLE + 16 * v + 12, 4, masked); }

#define assert_at(i, address, value)                                                                                   \
    do {                                                                                                               \
        assert_true(accel.attached[i]);                                                                                \
        assert_int_equal(accel.route[i].addr, address);                                                                \
        assert_int_equal(accel.route[i].data, value);                                                                  \
    } while (0)

static void test_masks(void **state)
{
    start();
    entry_out(1, UINT64_C(0x1fee00000), 0x41, true);
    pci_irqfd_vector(&dev, &call[0], 1);
    assert_false(accel.attached[0]);
    assert_int_equal(accel.changes, 0);
    mask(1, false);
    assert_at(0, UINT64_C(0x1fee00000), 0x41);
    mask(1, true);
    assert_false(accel.attached[0]);

    /* A message that has not changed is not told again; another one is told before it is used. */
    mask(1, false);
    assert_int_equal(accel.changes, 1);
    assert_int_equal(accel.attaches, 2);
    entry_out(1, 0xfee01000, 0x42, false);
    assert_at(0, 0xfee01000, 0x42);
    assert_int_equal(accel.changes, 2);
    bus_write(mmio, TABLE + 16 + 8, 4, 0x43); /* while it is not masked: in place */
    assert_at(0, 0xfee01000, 0x43);
    assert_int_equal(accel.attaches, 3);

    /* What else keeps a message back. */
    cfg_out(SLOT, 0, cap + 2, 2, 0xc000);
    assert_false(accel.attached[0]);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
    assert_at(0, 0xfee01000, 0x43);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_false(accel.attached[0]);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_true(accel.attached[0]);
    unsigned pm = find_cap(SLOT, PCI_CAP_PM);
    cfg_out(SLOT, 0, pm + 4, 2, 3);
    assert_false(accel.attached[0]);
    cfg_out(SLOT, 0, pm + 4, 2, 0);
    assert_true(accel.attached[0]);
    cfg_out(SLOT, 0, cap + 2, 2, 0);
    assert_false(accel.attached[0]);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
    assert_true(accel.attached[0]);
    assert_int_equal(accel.changes, 3);
}

static void test_vectors(void **state)
{
    start();
    entry_out(0, 0xfee00000, 0x40, false);
    entry_out(3, 0xfee03000, 0x43, false);
    pci_irqfd_vector(&dev, &call[0], 3);
    pci_irqfd_vector(&dev, &call[1], 3); /* two of one vector */
    pci_irqfd_vector(&dev, &call[2], 0);
    assert_at(0, 0xfee03000, 0x43);
    assert_at(1, 0xfee03000, 0x43);
    assert_at(2, 0xfee00000, 0x40);
    mask(3, true);
    assert_false(accel.attached[0] || accel.attached[1]);
    assert_true(accel.attached[2]);
    mask(3, false);
    pci_irqfd_vector(&dev, &call[0], 0);
    assert_at(0, 0xfee00000, 0x40);
    pci_irqfd_vector(&dev, &call[0], PCI_NO_VECTOR);
    assert_false(accel.attached[0]);
    pci_irqfd_vector(&dev, &call[0], 4); /* there is none */
    assert_false(accel.attached[0]);
    pci_irqfd_vector(&dev, &call[0], 1); /* masked since the reset */
    assert_false(accel.attached[0]);
    pci_irqfd_remove(&dev, &call[1]);
    assert_false(accel.attached[1]);
    mask(3, true);
    mask(3, false);
    pci_irqfd_vector(&dev, &call[1], 0); /* it is nobody's now */
    assert_false(accel.attached[1]);
    pci_irqfd_remove(&dev, &call[1]);
    assert_true(accel.attached[2]);
}

/* What a device notifies is pending while its vector is masked, whatever the descriptor does. */
static void test_pending(void **state)
{
    start();
    entry_out(2, 0xfee02000, 0x42, true);
    pci_irqfd_vector(&dev, &call[0], 2);
    pci_notify(&dev, 2);
    assert_int_equal(bus_read(mmio, PBA, 8), 4);
    assert_int_equal(sent.n, 0);
    mask(2, false);
    assert_int_equal(sent.n, 1);
    assert_int_equal(bus_read(mmio, PBA, 8), 0);
    assert_at(0, 0xfee02000, 0x42);
}

static void test_reset(void **state)
{
    start();
    entry_out(2, 0xfee02000, 0x42, false);
    pci_irqfd_vector(&dev, &call[0], 2);
    assert_true(accel.attached[0]);
    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_false(accel.attached[0]);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_at(0, 0xfee02000, 0x42);
    free(blob.data);
    unsigned express = find_cap(SLOT, PCI_CAP_EXPRESS);
    cfg_out(SLOT, 0, express + 8, 2, 0x8000); /* the function's own */
    assert_false(accel.attached[0]);
}

/* An accelerator that will not: the descriptor is left to its owner, and it is asked again with the next change. */
static void test_refused(void **state)
{
    start();
    entry_out(2, 0xfee02000, 0x42, false);
    accel.fail_route = -ENOSPC;
    pci_irqfd_vector(&dev, &call[0], 2);
    assert_false(accel.attached[0]);
    assert_int_equal(accel.attaches, 0);
    accel.fail_route = 0;
    accel.fail_attach = -EINVAL;
    mask(2, true);
    mask(2, false);
    assert_false(accel.attached[0]);
    assert_int_equal(accel.attaches, 1);
    accel.fail_attach = 0;
    mask(2, true);
    mask(2, false);
    assert_at(0, 0xfee02000, 0x42);
    accel.fail_route = -ENOSPC; /* a message that cannot be told must not go out as the old one */
    bus_write(mmio, TABLE + 32 + 8, 4, 0x77);
    assert_false(accel.attached[0]);
    accel.fail_route = 0;
    bus_write(mmio, TABLE + 32 + 8, 4, 0x42); /* and what was known of the route is not trusted */
    assert_at(0, 0xfee02000, 0x42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PCI_TEST(test_masks), PCI_TEST(test_vectors), PCI_TEST(test_pending),
        PCI_TEST(test_reset), PCI_TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
