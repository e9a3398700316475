/* PCI: MSI, MSI-X, and the pin that both replace. */
#include "pci_fixture.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define TABLE UINT64_C(0xc0010000)
#define PBA (TABLE + 0x1000)
#define SLOT 3

static const struct pci_ops ops = {.name = "test"};
static struct pci_dev dev;
static unsigned cap;

/* A device with MSI-X in BAR 4, mapped, messages on, all masked. */
static void start_msix(unsigned vectors)
{
    pci_dev_init(&dev, &ops, 0x1234, 0x5678, 0xff0000, 1);
    pci_pm_init(&dev);
    assert_int_equal(pci_msix_init(&dev, vectors, 4), 0);
    assert_int_equal(pci_add(&pci, &dev, SLOT, 0), 0);
    cfg_out(SLOT, 0, PCI_BAR0 + 16, 4, (uint32_t)TABLE);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cap = find_cap(SLOT, PCI_CAP_MSIX);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
}

static void program_msi(void)
{
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    cfg_out(SLOT, 0, cap + 4, 4, 0xfee01003); /* the low bits are none */
    cfg_out(SLOT, 0, cap + 8, 4, 0x00000005);
    cfg_out(SLOT, 0, cap + 12, 2, 0x4041);
    cfg_out(SLOT, 0, cap + 2, 2, 1);
}

static void start_msi(unsigned vectors)
{
    pci_dev_init(&dev, &ops, 0x1234, 0x5678, 0xff0000, 1);
    pci_pm_init(&dev);
    assert_int_equal(pci_msi_init(&dev, vectors), 0);
    assert_int_equal(pci_add(&pci, &dev, SLOT, 0), 0);
    cap = find_cap(SLOT, PCI_CAP_MSI);
    program_msi();
}

static void entry_out(unsigned v, uint64_t addr, uint32_t data, bool masked)
{
    bus_write(mmio, TABLE + 16 * v, 8, addr);
    bus_write(mmio, TABLE + 16 * v + 8, 4, data);
    bus_write(mmio, TABLE + 16 * v + 12, 4, masked);
}

#define assert_sent(count, address, value)                                                                             \
    do {                                                                                                               \
        assert_int_equal(sent.n, count);                                                                               \
        assert_int_equal(sent.addr, address);                                                                          \
        assert_int_equal(sent.data, value);                                                                            \
        sent.n = 0;                                                                                                    \
    } while (0)
#define assert_none_sent() assert_int_equal(sent.n, 0)

/* ---- MSI-X ------------------------------------------------------------------------------------------------------ */

static void test_table(void **state)
{
    start_msix(70);
    assert_int_equal(cfg_in(SLOT, 0, cap + 2, 2), 0x8045);
    assert_int_equal(cfg_in(SLOT, 0, cap + 4, 4), 0x00000004);
    assert_int_equal(cfg_in(SLOT, 0, cap + 8, 4), 0x00001004);
    for (unsigned v = 0; v < 70; v++) {
        assert_int_equal(bus_read(mmio, TABLE + 16 * v, 8), 0);
        assert_int_equal(bus_read(mmio, TABLE + 16 * v + 8, 8), UINT64_C(1) << 32);
    }
    entry_out(69, UINT64_C(0x00000001fee0300f), 0x12345678, false);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 69, 8), UINT64_C(0x00000001fee0300c));
    assert_int_equal(bus_read(mmio, TABLE + 16 * 69 + 4, 4), 1);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 69 + 8, 8), 0x12345678);
    bus_write(mmio, TABLE + 16 * 69 + 8, 8, UINT64_C(0xffffffff00000042));
    assert_int_equal(bus_read(mmio, TABLE + 16 * 69 + 8, 8), UINT64_C(0x0000000100000042)); /* reserved bits are 0 */
    bus_write(mmio, TABLE + 16 * 69 + 8, 1, 0x77);                                          /* too narrow */
    bus_write(mmio, TABLE + 16 * 69 + 8, 2, 0x77);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 69 + 8, 1), 0x42);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 70, 8), 0); /* behind the table: reserved */
    bus_write(mmio, TABLE + 16 * 70, 8, 5);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 70, 8), 0);
    bus_write(mmio, PBA, 8, 5); /* pending bits are read-only */
    assert_int_equal(bus_read(mmio, PBA, 8), 0);
    bus_write(mmio, TABLE + 16 * 70 - 4, 8, ~UINT64_C(0)); /* across the end of the table */
    assert_int_equal(bus_read(mmio, TABLE + 16 * 70 - 4, 8), 1);
    assert_none_sent();
}

static void test_msix_masks(void **state)
{
    start_msix(70);
    entry_out(0, 0xfee00000, 0x41, true);
    entry_out(66, 0xfee01000, 0x42, true);
    pci_notify(&dev, 66);
    pci_notify(&dev, 66); /* pending once */
    assert_none_sent();
    assert_int_equal(bus_read(mmio, PBA, 8), 0);
    assert_int_equal(bus_read(mmio, PBA + 8, 8), 4);
    assert_int_equal(bus_read(mmio, PBA + 8, 4), 4);
    assert_int_equal(bus_read(mmio, PBA + 12, 4), 0);
    bus_write(mmio, TABLE + 16 * 66 + 12, 4, 0);
    assert_sent(1, 0xfee01000, 0x42);
    assert_int_equal(bus_read(mmio, PBA + 8, 8), 0);
    pci_notify(&dev, 66);
    assert_sent(1, 0xfee01000, 0x42);
    pci_notify(&dev, 0);
    assert_none_sent();

    /* The mask of the whole function, over that of a vector. */
    cfg_out(SLOT, 0, cap + 2, 2, 0xc000);
    pci_notify(&dev, 66);
    bus_write(mmio, TABLE + 12, 4, 0);
    assert_none_sent();
    assert_int_equal(bus_read(mmio, PBA, 8), 1);
    cfg_out(SLOT, 0, cap + 3, 1, 0x80);
    assert_sent(2, 0xfee01000, 0x42);

    /* No bus master, no message; neither in D3hot. */
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_notify(&dev, 0);
    assert_none_sent();
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_sent(1, 0xfee00000, 0x41);
    unsigned pm = find_cap(SLOT, PCI_CAP_PM);
    cfg_out(SLOT, 0, pm + 4, 2, 3);
    pci_notify(&dev, 0);
    assert_none_sent();
    cfg_out(SLOT, 0, pm + 4, 2, 0);
    assert_sent(1, 0xfee00000, 0x41);

    /* What was pending is forgotten when messages are switched off. */
    bus_write(mmio, TABLE + 12, 4, 1);
    pci_notify(&dev, 0);
    cfg_out(SLOT, 0, cap + 2, 2, 0);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
    assert_int_equal(bus_read(mmio, PBA, 8), 0);
    bus_write(mmio, TABLE + 12, 4, 0);
    pci_notify(&dev, 70);
    pci_notify(&dev, 4096);
    pci_notify(&dev, PCI_NO_VECTOR);
    assert_none_sent();
}

static void test_pin(void **state)
{
    start_msix(2);
    cfg_out(SLOT, 0, cap + 2, 2, 0);
    assert_false(pci_msix_enabled(&dev));
    pci_notify(&dev, PCI_NO_VECTOR);
    assert_false(gsi[SLOT].level);
    pci_notify(&dev, 1);
    assert_true(gsi[SLOT].level);
    assert_true(cfg_in(SLOT, 0, PCI_STATUS, 2) & PCI_STATUS_INTX);
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000); /* the pin is silent while messages are on */
    assert_true(pci_msix_enabled(&dev));
    assert_false(gsi[SLOT].level);
    pci_notify(&dev, 1);
    assert_false(gsi[SLOT].level);
    cfg_out(SLOT, 0, cap + 2, 2, 0);
    assert_true(gsi[SLOT].level);
    unsigned pm = find_cap(SLOT, PCI_CAP_PM);
    cfg_out(SLOT, 0, pm + 4, 2, 3);
    assert_false(gsi[SLOT].level);
    cfg_out(SLOT, 0, pm + 4, 2, 0);
    assert_true(gsi[SLOT].level);
    pci_intx(&dev, false);
    assert_false(gsi[SLOT].level);
    assert_int_equal(gsi[SLOT].rises, 3);
}

static void test_wrong_layouts(void **state)
{
    static const struct io_ops none = {0};
    pci_dev_init(&dev, &ops, 0x1234, 0x5678, 0xff0000, 1);
    assert_int_equal(pci_msi_init(&dev, 0), -EINVAL);
    assert_int_equal(pci_msi_init(&dev, 3), -EINVAL);
    assert_int_equal(pci_msi_init(&dev, 64), -EINVAL);
    assert_int_equal(pci_msi_init(&dev, 32), 0);
    assert_int_equal(pci_msi_init(&dev, 32), -EEXIST);
    assert_int_equal(pci_msix_init(&dev, 0, 0), -EINVAL);
    assert_int_equal(pci_msix_init(&dev, 2049, 0), -EINVAL);
    assert_int_equal(pci_msix_init(&dev, 1, 6), -EINVAL);
    pci_bar_io(&dev, 0, 256, &none, NULL);
    pci_bar_mem(&dev, 1, 4096, 0, &none, NULL);
    assert_int_equal(pci_msix_init(&dev, 1, 1), -EEXIST);
    assert_int_equal(pci_msix_init_in(&dev, 1, 0, 0, 16), -EINVAL);
    assert_int_equal(pci_msix_init_in(&dev, 1, 1, 4, 64), -EINVAL);
    assert_int_equal(pci_msix_init_in(&dev, 255, 1, 0, 4064), -EINVAL); /* one over the other */
    assert_int_equal(pci_msix_init_in(&dev, 256, 1, 0, 4096), -EINVAL);
    assert_int_equal(pci_msix_init_in(&dev, 2, 1, 8, 0), 0);
    assert_int_equal(pci_msix_init_in(&dev, 2, 1, 8, 0), -EEXIST);
    pci_dev_free(&dev);
    pci_dev_init(&dev, &ops, 0x1234, 0x5678, 0xff0000, 1);
    assert_int_equal(pci_msix_init(&dev, 2048, 0), 0);
    assert_int_equal(dev.bar[0].size, 65536);
    pci_dev_free(&dev);
}

/* Inside a BAR of the device: it sees the rest. Moving takes all three pieces along. */
static void test_shared_bar(void **state)
{
    pci_dummy_new(&pci, SLOT, 0);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, 7);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t base = 0xc0000000 + i % 2 * 0x4000;
        cfg_out(SLOT, 0, PCI_BAR0 + 16, 4, (uint32_t)base);
        bus_write(mmio, base + 0x10, 4, 0x1111 * (i + 1));
        assert_int_equal(bus_read(mmio, base + 0x10, 4), 0x1111 * (i + 1));
        bus_write(mmio, base + DUMMY_MSIX_TABLE + 8, 4, 0x55 + i);
        assert_int_equal(bus_read(mmio, base + DUMMY_MSIX_TABLE + 8, 8), (UINT64_C(1) << 32) + 0x55 + i);
        assert_int_equal(bus_read(mmio, base + DUMMY_MSIX_PBA, 8), 0);
        base ^= 0x4000;
        assert_int_equal(bus_claims(mmio, base + 0x10) | bus_claims(mmio, base + DUMMY_MSIX_TABLE) |
                             bus_claims(mmio, base + DUMMY_MSIX_PBA),
                         0);
    }
}

/* ---- MSI -------------------------------------------------------------------------------------------------------- */

static void test_msi(void **state)
{
    start_msi(8);
    assert_int_equal(cfg_in(SLOT, 0, cap + 2, 2), 0x0187);
    assert_int_equal(cfg_in(SLOT, 0, cap + 4, 4), 0xfee01000);
    assert_true(pci_messages_enabled(&dev));
    pci_notify(&dev, 5); /* one vector granted: all arrive on it */
    assert_sent(1, UINT64_C(0x5fee01000), 0x4041);
    cfg_out(SLOT, 0, cap + 2, 2, 0x21); /* four */
    pci_notify(&dev, 3);
    assert_sent(1, UINT64_C(0x5fee01000), 0x4043);
    pci_notify(&dev, 5);
    assert_sent(1, UINT64_C(0x5fee01000), 0x4041);
    cfg_out(SLOT, 0, cap + 2, 2, 0x71); /* more than asked for: all there are */
    pci_notify(&dev, 7);
    assert_sent(1, UINT64_C(0x5fee01000), 0x4047);
    pci_notify(&dev, 8);
    assert_none_sent();
    assert_false(gsi[SLOT].level);

    cfg_out(SLOT, 0, cap + 16, 4, 0xffffffff);
    assert_int_equal(cfg_in(SLOT, 0, cap + 16, 4), 0xff);
    pci_notify(&dev, 2);
    pci_notify(&dev, 6);
    pci_notify(&dev, 6);
    assert_none_sent();
    assert_int_equal(cfg_in(SLOT, 0, cap + 20, 4), 0x44);
    assert_int_equal(cfg_in(SLOT, 0, cap + 20, 1), 0x44);
    cfg_out(SLOT, 0, cap + 20, 4, 0);
    cfg_out(SLOT, 0, cap + 16, 4, 0xbf);
    assert_sent(1, UINT64_C(0x5fee01000), 0x4046);
    assert_int_equal(cfg_in(SLOT, 0, cap + 20, 4), 0x04);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, 0);
    cfg_out(SLOT, 0, cap + 16, 4, 0);
    assert_none_sent();
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    assert_sent(1, UINT64_C(0x5fee01000), 0x4042);

    cfg_out(SLOT, 0, cap + 16, 4, 0xff);
    pci_notify(&dev, 1);
    cfg_out(SLOT, 0, cap + 2, 2, 0);
    assert_int_equal(cfg_in(SLOT, 0, cap + 20, 4), 0);
    pci_notify(&dev, 1);
    assert_true(gsi[SLOT].level);
    assert_none_sent();
}

static void test_msi_all(void **state)
{
    start_msi(32);
    cfg_out(SLOT, 0, cap + 2, 2, 0x51);
    cfg_out(SLOT, 0, cap + 16, 4, 0xffffffff);
    for (unsigned v = 0; v < 40; v++)
        pci_notify(&dev, v);
    assert_int_equal(cfg_in(SLOT, 0, cap + 20, 4), 0xffffffff);
    cfg_out(SLOT, 0, cap + 16, 4, 0);
    assert_sent(32, UINT64_C(0x5fee01000), 0x405f);
}

/* ---- state ------------------------------------------------------------------------------------------------------ */

static void test_state(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    start_msix(70);
    entry_out(3, 0xfee00000, 0x41, true);
    entry_out(69, 0xfee02000, 0x42, false);
    pci_notify(&dev, 3);
    cfg_out(SLOT, 0, cap + 2, 2, 0xc000);
    pci_notify(&dev, 69);
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_int_equal(cfg_in(SLOT, 0, cap + 2, 2), 0x0045);
    cfg_out(SLOT, 0, PCI_BAR0 + 16, 4, (uint32_t)TABLE);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    assert_int_equal(bus_read(mmio, TABLE + 16 * 3 + 8, 8), UINT64_C(1) << 32);
    assert_int_equal(bus_read(mmio, PBA, 8), 0);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(bus_read(mmio, PBA, 8), 8);
    assert_int_equal(bus_read(mmio, PBA + 8, 8), 0x20);
    assert_none_sent();
    cfg_out(SLOT, 0, cap + 2, 2, 0x8000);
    assert_sent(1, 0xfee02000, 0x42);
    bus_write(mmio, TABLE + 16 * 3 + 12, 4, 0);
    assert_sent(1, 0xfee00000, 0x41);

    /* Any byte wrong: reserved bits stay zero. */
    for (size_t i = 0; i < blob.len; i++) {
        if (i < blob.len - 2000 && i % 5)
            continue;
        blob.data[i] ^= 0xff;
        pos = 0;
        pci_bus_load(&pci, blob.data, blob.len, &pos);
        blob.data[i] ^= 0xff;
        for (unsigned v = 0; v < 70 && dev.bar[4].claimed; v++)
            assert_int_equal(bus_read(mmio, dev.bar[4].base + 16 * v + 12, 4) & ~1u, 0);
    }
    free(blob.data);
}

/* ---- threads: a guest that moves an interrupt while the device sends it ------------------------------------------ */

static struct {
    _Atomic uint64_t allowed; /* which of two messages may come: bit 0, bit 1 */
    _Atomic unsigned n[2];
    _Atomic unsigned wrong;
    atomic_bool stop;
} race;

static void race_sent(void *dev_, uint64_t addr, uint32_t data)
{
    unsigned which = data & 1;
    if (addr != 0xfee00000 + 0x1000 * which || !(atomic_load(&race.allowed) >> which & 1))
        atomic_fetch_add(&race.wrong, 1);
    atomic_fetch_add(&race.n[which], 1);
}

static void *notifier(void *arg)
{
    while (!atomic_load(&race.stop)) {
        pci_notify(&dev, 1);
        sched_yield();
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t thread[2];
    start_msix(2);
    pci.msi = (struct msi_sink){.send = race_sent, .dev = &race};
    memset(&race, 0, sizeof(race));
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, notifier, NULL);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned which = i & 1;
        entry_out(1, 0xfee00000 + 0x1000 * which, 0x40 + which, true);
        atomic_store(&race.allowed, UINT64_C(1) << which);
        unsigned before = atomic_load(&race.n[which]);
        bus_write(mmio, TABLE + 16 + 12, 4, 0);
        if (i % 8 == 0)
            while (atomic_load(&race.n[which]) == before)
                sched_yield();
        bus_write(mmio, TABLE + 16 + 12, 4, 1);
        atomic_store(&race.allowed, 0); /* masked: nothing may come any more */
    }
    atomic_store(&race.stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(race.wrong, 0);

    /* None is lost: the last one comes when it is let. */
    unsigned before = race.n[1];
    pci_notify(&dev, 1);
    atomic_store(&race.allowed, 2);
    bus_write(mmio, TABLE + 16 + 12, 4, 0);
    assert_int_equal(race.n[1], before + 1);
}

/* ---- a reset of the function ------------------------------------------------------------------------------------ */

static struct {
    struct pci_dev *dev;
    void *page;
    unsigned stops, unlocked;
} in_reset;

/* In the middle of a reset: whoever sends a message has msi_lock, so that must not be free now. */
static void on_fault(int signal)
{
    in_reset.stops++;
    if (pthread_mutex_trylock(&in_reset.dev->msi_lock) == 0) {
        in_reset.unlocked++;
        pthread_mutex_unlock(&in_reset.dev->msi_lock);
    }
    mprotect(in_reset.page, PCI_CFG_EXT_SIZE, PROT_READ | PROT_WRITE);
}

/* Address and data of a message are reset at once: nobody sends half of one. */
static void test_reset_lock(void **state)
{
    size_t len = align_up(sizeof(struct pci_dev), PCI_CFG_EXT_SIZE) + PCI_CFG_EXT_SIZE;
    uint8_t *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const struct sigaction action = {.sa_handler = on_fault};
    struct sigaction before;
    assert_true(memory != MAP_FAILED && sysconf(_SC_PAGESIZE) <= PCI_CFG_EXT_SIZE);

    /* A page with some of the values after a reset, and masks: nobody reads it until the handler has been here. */
    struct pci_dev *d = in_reset.dev = (struct pci_dev *)(void *)memory;
    in_reset.page = memory + align_up(offsetof(struct pci_dev, init) + PCI_CFG_SIZE, PCI_CFG_EXT_SIZE);
    assert_true((uint8_t *)in_reset.page < d->wmask);
    pci_dev_init(d, &ops, 0x1234, 0x5678, 0xff0000, 1);
    pci_msi_init(d, 8);
    assert_int_equal(pci_add(&pci, d, SLOT, 0), 0);
    cap = find_cap(SLOT, PCI_CAP_MSI);
    program_msi();
    in_reset.stops = in_reset.unlocked = 0;
    sigaction(SIGSEGV, &action, &before);
    mprotect(in_reset.page, PCI_CFG_EXT_SIZE, PROT_NONE);
    pci_bus_reset(&pci);
    sigaction(SIGSEGV, &before, NULL);
    assert_int_equal(in_reset.stops, 1);
    assert_int_equal(in_reset.unlocked, 0);
    assert_int_equal(cfg_in(SLOT, 0, cap + 4, 4) | cfg_in(SLOT, 0, cap + 12, 2), 0);
    assert_lock_free(&d->msi_lock);
    pci.dev[SLOT * PCI_FUNCS] = NULL;
    pci_dev_free(d);
    munmap(memory, len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PCI_TEST(test_table),      PCI_TEST(test_msix_masks), PCI_TEST(test_pin),     PCI_TEST(test_wrong_layouts),
        PCI_TEST(test_shared_bar), PCI_TEST(test_msi),        PCI_TEST(test_msi_all), PCI_TEST(test_state),
        PCI_TEST(test_threads),    PCI_TEST(test_reset_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
