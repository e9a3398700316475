/* devices/uart: the 16550A as a PCI function, its line a FIFO and a socket of this process. */
#include "pci_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/uart.h"
#include "serial/impl.h"

#define SLOT 5
#define BASE 0x6000
#define PIRQ pci_pirq(SLOT, 1)

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = RBR, FCR = IIR };

static struct serial *line;
static int guest_end[2], host_end[2]; /* pipes: what the host types, what the guest says */

/* A line on two pipes, in place of one of the descriptors that a person can name. */
static void make(void)
{
    char why[128];
    assert_int_equal(serial_open(&line, "null", loop, why, sizeof(why)), 0);
    assert_int_equal(pipe2(guest_end, O_NONBLOCK), 0);
    assert_int_equal(pipe2(host_end, O_NONBLOCK), 0);
    assert_int_equal(serial_set_fds(line, guest_end[0], host_end[1]), 0);
    assert_int_equal(pci_uart_new(&pci, SLOT, 0, line, loop), 0);
    cfg_out(SLOT, 0, PCI_BAR0, 4, BASE);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO);
}

static int unmake(void **state)
{
    int err = pci_teardown(state);
    for (unsigned i = 0; i < 2; i++) {
        close(guest_end[i]);
        close(host_end[i]);
        guest_end[i] = host_end[i] = -1;
    }
    return err;
}

static uint8_t in(unsigned reg) { return inb((uint16_t)(BASE + reg)); }
static void out(unsigned reg, uint8_t v) { bus_write(pio, BASE + reg, 1, v); }

static void turn(void)
{
    for (unsigned i = 0; i < 4; i++) {
        fake_ns += NS_PER_S / 100;
        assert_int_equal(loop_turn(loop, 0), 0);
    }
}

static void test_header(void **state)
{
    make();
    assert_int_equal(cfg_in(SLOT, 0, PCI_VENDOR, 4), 0x00021b36);
    assert_int_equal(cfg_in(SLOT, 0, PCI_REVISION, 4) >> 8, 0x070002); /* serial, 16550 */
    assert_int_equal(cfg_in(SLOT, 0, PCI_SUBSYS_VENDOR, 4), 0x11001af4);
    assert_int_equal(cfg_in(SLOT, 0, PCI_INTERRUPT_PIN, 1), 1);
    cfg_out(SLOT, 0, PCI_BAR0, 4, UINT32_MAX);
    assert_int_equal(cfg_in(SLOT, 0, PCI_BAR0, 4), 0xfffffff9); /* I/O, 8 bytes */
    for (unsigned n = 1; n < PCI_BARS; n++) {
        cfg_out(SLOT, 0, PCI_BAR0 + 4 * n, 4, UINT32_MAX);
        assert_int_equal(cfg_in(SLOT, 0, PCI_BAR0 + 4 * n, 4), 0); /* drivers count the BARs to know the ports */
    }
}

static void test_bytes_both_ways(void **state)
{
    char buf[8];
    make();
    for (const char *p = "hello"; *p; p++)
        out(THR, (uint8_t)*p);
    turn();
    assert_int_equal(read(host_end[0], buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(write(guest_end[1], "ab", 2), 2);
    assert_int_equal(in(LSR)&1, 0);
    turn();
    assert_int_equal(in(LSR)&1, 1);
    assert_int_equal(in(RBR), 'a');
    assert_int_equal(in(RBR), 'b');
    assert_int_equal(in(LSR)&1, 0);
}

static void test_interrupt_by_wire(void **state)
{
    make();
    out(IER, 1);
    assert_false(gsi[PIRQ].level);
    assert_int_equal(write(guest_end[1], "x", 1), 1);
    turn();
    assert_true(gsi[PIRQ].level);
    assert_true(cfg_in(SLOT, 0, PCI_STATUS, 2) & PCI_STATUS_INTX);
    assert_int_equal(in(IIR)&0x0f, 4);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_INTX_OFF);
    assert_false(gsi[PIRQ].level);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_true(gsi[PIRQ].level);
    assert_int_equal(in(RBR), 'x');
    assert_false(gsi[PIRQ].level);
}

/* Two functions on one interrupt: it is down when neither wants it. */
static void test_interrupt_shared(void **state)
{
    struct serial *other;
    char why[128];
    unsigned slot = SLOT + PCI_PIRQS;
    make();
    assert_int_equal(pci_pirq(slot, 1), PIRQ);
    assert_int_equal(serial_open(&other, "null", loop, why, sizeof(why)), 0);
    assert_int_equal(pci_uart_new(&pci, slot, 0, other, loop), 0);
    cfg_out(slot, 0, PCI_BAR0, 4, BASE + 8);
    cfg_out(slot, 0, PCI_COMMAND, 2, PCI_COMMAND_IO);
    out(IER, 2);
    out(8 + IER, 2); /* THR empty: both ask at once */
    assert_true(gsi[PIRQ].level);
    assert_int_equal(in(IIR)&0x0f, 2);
    assert_true(gsi[PIRQ].level);
    assert_int_equal(in(8 + IIR) & 0x0f, 2);
    assert_false(gsi[PIRQ].level);
    assert_int_equal(gsi[PIRQ].rises, 1);
}

static void test_reset_save_load(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    make();
    out(SCR, 0x5a);
    out(IER, 2);
    assert_true(gsi[PIRQ].level);
    assert_int_equal(pci_bus_save(&pci, &blob), 0);
    pci_bus_reset(&pci);
    assert_false(gsi[PIRQ].level);
    assert_int_equal(inb(BASE + SCR), 0xff); /* not decoded */
    cfg_out(SLOT, 0, PCI_BAR0, 4, BASE);
    cfg_out(SLOT, 0, PCI_COMMAND, 2, PCI_COMMAND_IO);
    assert_int_equal(in(SCR), 0);
    assert_int_equal(in(IER), 0);
    assert_int_equal(pci_bus_load(&pci, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(in(SCR), 0x5a);
    assert_int_equal(in(IER), 2);
    assert_true(gsi[PIRQ].level);
    assert_int_equal(in(IIR)&0x0f, 2);
    assert_false(gsi[PIRQ].level);
    free(blob.data);
}

static void test_place_taken(void **state)
{
    struct serial *other;
    char why[128];
    make();
    assert_int_equal(serial_open(&other, "null", loop, why, sizeof(why)), 0);
    assert_int_equal(pci_uart_new(&pci, SLOT, 0, other, loop), -EEXIST); /* and the line is closed */
}

#define T(f) cmocka_unit_test_setup_teardown(f, pci_setup, unmake)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_header),           T(test_bytes_both_ways), T(test_interrupt_by_wire),
        T(test_interrupt_shared), T(test_reset_save_load), T(test_place_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
