/* virtio/pci: the legacy interface in an I/O BAR: its registers, its rings, its interrupts. */
#include "virtio_toy.h"

static void test_legacy(void **state)
{
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    unsigned pirq = pci_pirq(SLOT, 1);
    assert_int_equal(lrd(0, 4), TOY_FEATURES & UINT32_MAX);
    lwr(18, 1, 0);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    lwr(4, 4, 1u << 5 | 1u << 7);
    lwr(14, 2, 0);
    assert_int_equal(lrd(12, 2), 256);
    assert_int_equal(lrd(8, 4), 0);
    legacy_ring(&d, RING(0), 256);
    lwr(8, 4, RING(0) >> 12);
    assert_int_equal(lrd(8, 4), RING(0) >> 12);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK);
    assert_int_equal(lrd(18, 1), 7);
    turn();
    assert_int_equal(toy.starts, 1);
    assert_int_equal(toy.dev.features, 1u << 5); /* what was never offered is not negotiated */

    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 0);
    turn();
    assert_int_equal(drv_get(&d, &len), 0);
    assert_true(gsi[pirq].level);
    assert_int_equal(lrd(19, 1), 1);
    assert_false(gsi[pirq].level);

    /* Configuration space moves when MSI-X is enabled. */
    assert_int_equal(lrd(20, 4), 0x04030201);
    assert_int_equal(lrd(28, 4), 0x0c0b0a09);
    enable_msix();
    assert_int_equal(lrd(24, 4), 0x04030201);
    assert_int_equal(lrd(31, 1), 8);
    assert_int_equal(lrd(20, 2), 0xffff);
    lwr(22, 2, 1);
    assert_int_equal(lrd(22, 2), 1);
    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 0);
    turn();
    assert_int_equal(messages, 1);
    assert_int_equal(message_data, 0x41);
    lwr(24, 2, 0x1122);
    assert_int_equal(toy.config_writes, 2);
}

/* A driver that uses its queue before it says DRIVER_OK, as some do. */
static void test_legacy_early(void **state)
{
    struct drv d;
    uint32_t len;
    add_toy(&transitional);
    lwr(18, 1, VIRTIO_ACKNOWLEDGE);
    lwr(14, 2, 1);
    legacy_ring(&d, RING(1), 256);
    lwr(8, 4, RING(1) >> 12);
    drv_add(&d, &one_in, 1, false);
    lwr(16, 2, 1);
    turn();
    assert_true(drv_get(&d, &len) >= 0);
    lwr(18, 1, 7);
    turn();
    assert_int_equal(toy.starts, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_legacy_early, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
