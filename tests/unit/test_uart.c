/* The 16550A, with a serial line's host end in memory: file and tcp backends have tests of their own. */
#include "chipset_fixture.h"

#include <errno.h>
#include <unistd.h>

#include "serial/uart.h"
#include "lock_check.h"

/* ---- a host end of our own: uart.c calls these instead of serial.c ---------------------------------------------- */

static struct line {
    uint8_t in[4096], out[4096];
    size_t in_len, in_pos, out_len, out_room;
    const struct serial_user *user;
    void *arg;
} line;

size_t serial_write(struct serial *s, const void *buf, size_t n)
{
    size_t room = line.out_room - line.out_len;
    n = n < room ? n : room;
    memcpy(line.out + line.out_len, buf, n);
    line.out_len += n;
    return n;
}

size_t serial_read(struct serial *s, void *buf, size_t n)
{
    size_t have = line.in_len - line.in_pos;
    n = n < have ? n : have;
    memcpy(buf, line.in + line.in_pos, n);
    line.in_pos += n;
    return n;
}

void serial_attach(struct serial *s, const struct serial_user *user, void *arg)
{
    line.user = user;
    line.arg = arg;
}

static void type(const char *text)
{
    size_t n = strlen(text);
    memcpy(line.in + line.in_len, text, n);
    line.in_len += n;
    line.user->rx_ready(line.arg);
}

/* ---- the set-up ------------------------------------------------------------------------------------------------- */

#define BASE 0x3f8
enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = RBR, FCR = IIR };

static struct uart uart;
static struct wire irq;

static uint8_t in(unsigned reg) { return inb(BASE + reg); }
static void out(unsigned reg, uint8_t v) { outb(BASE + reg, v); }

static int setup(void **state)
{
    memset(&line, 0, sizeof(line));
    memset(&irq, 0, sizeof(irq));
    line.out_room = sizeof(line.out);
    fixture_setup(state);
    return uart_init(&uart, pio, BASE, wire_line(&irq), (struct serial *)&line, loop, &chipset_lock);
}

static int teardown(void **state)
{
    assert_lock_free(&chipset_lock);
    uart_fini(&uart);
    return fixture_teardown(state);
}

/* ---- registers -------------------------------------------------------------------------------------------------- */

static void test_reset_values(void **state)
{
    assert_int_equal(in(IER), 0);
    assert_int_equal(in(IIR), 0x01);
    assert_int_equal(in(LCR), 0);
    assert_int_equal(in(MCR), 0);
    assert_int_equal(in(LSR), 0x60);
    assert_int_equal(in(MSR), 0xb0);
    assert_false(irq.level);
    struct uart other;
    assert_int_equal(uart_init(&other, pio, BASE + 4, wire_line(&irq), NULL, loop, &chipset_lock), -EEXIST);
}

/* What Linux's 8250 driver does to tell the kinds of chip apart. */
static void test_linux_autoconfig(void **state)
{
    out(IER, 0);
    assert_int_equal(in(IER), 0);
    out(IER, 0x0f);
    assert_int_equal(in(IER)&0x0f, 0x0f);
    out(IER, 0xff); /* no XScale, no 16750 sleep mode */
    assert_int_equal(in(IER), 0x0f);
    out(IER, 0);

    out(MCR, 0x10 | 0x0a); /* loopback: RTS and OUT2 come back as CTS and DCD */
    assert_int_equal(in(MSR)&0xf0, 0x90);
    out(MCR, 0);

    out(LCR, 0xbf);
    out(FCR, 0);
    out(LCR, 0);
    out(FCR, 0x01);
    assert_int_equal(in(IIR) >> 6, 3); /* 16550A */
    out(FCR, 0x21);
    assert_int_equal(in(IIR)&0x20, 0); /* no 64-byte FIFO */
    out(LCR, 0x80);
    out(FCR, 0x21);
    assert_int_equal(in(IIR)&0x20, 0);
    out(RBR, 0x34);
    out(IER, 0x12);
    assert_int_equal(in(RBR), 0x34);
    assert_int_equal(in(IER), 0x12);
    out(LCR, 0x03);
    assert_int_equal(in(IER), 0);
    out(SCR, 0xa5);
    assert_int_equal(in(SCR), 0xa5);
    out(SCR, 0x5a);
    assert_int_equal(in(SCR), 0x5a);
    out(LSR, 0);
    assert_int_equal(in(LSR), 0x60);
    out(MSR, 0);
    assert_int_equal(in(MSR)&0xf0, 0xb0);
}

/* The two checks of the driver's start-up: THRE re-asserts when it is enabled again, and it shows in IIR at once. */
static void test_linux_thre(void **state)
{
    out(IER, 0x02);
    assert_int_equal(in(IIR), 0x02);
    assert_int_equal(in(IIR), 0x01); /* reading took it */
    out(IER, 0x02);                  /* no edge of the enable bit, no interrupt */
    assert_int_equal(in(IIR), 0x01);
    out(IER, 0);
    out(IER, 0x02);
    assert_true(irq.level);
    assert_int_equal(in(IIR), 0x02);
    assert_false(irq.level);

    /* Each character sent is an edge of its own. */
    unsigned rises = irq.rises;
    out(THR, 'x');
    assert_true(irq.level);
    assert_int_equal(irq.rises, rises + 1);
    out(THR, 'y');
    assert_int_equal(irq.rises, rises + 2);
    assert_int_equal(in(IIR), 0x02);
    assert_int_equal(in(LSR)&0x60, 0x60);
    assert_int_equal(line.out_len, 2);
    assert_memory_equal(line.out, "xy", 2);
}

/* ---- receiver --------------------------------------------------------------------------------------------------- */

static void test_receive_without_fifo(void **state)
{
    out(IER, 0x01);
    type("abc");
    assert_true(irq.level);
    assert_int_equal(in(LSR), 0x61);
    assert_int_equal(in(IIR), 0x04);
    assert_int_equal(in(RBR), 'a');
    assert_int_equal(in(RBR), 'b');
    assert_int_equal(in(RBR), 'c');
    assert_false(irq.level);
    assert_int_equal(in(LSR), 0x60); /* no overrun: the rest waited outside */
}

static void test_trigger_levels(void **state)
{
    static const unsigned level[] = {1, 4, 8, 14};
    for (unsigned i = 0; i < 4; i++) {
        out(FCR, (uint8_t)(0x07 | i << 6));
        out(IER, 0x01);
        for (unsigned n = 1; n <= 16; n++) {
            type("z");
            assert_int_equal(irq.level, n >= level[i]);
            assert_int_equal(in(IIR), n >= level[i] ? 0xc4 : 0xc1);
        }
        for (unsigned n = 15; n < 16; n--) {
            assert_int_equal(in(RBR), 'z');
            assert_int_equal(in(IIR), n >= level[i] ? 0xc4 : 0xc1);
        }
    }
}

static void test_timeout(void **state)
{
    out(LCR, 0x83);
    out(RBR, 1);
    out(IER, 0);
    out(LCR, 0x03); /* 115200 8N1: a character is 86.8 us */
    out(FCR, 0x87);
    out(IER, 0x01);
    type("abc");
    assert_false(irq.level);
    jump(340 * 1000);
    assert_false(irq.level);
    jump(10 * 1000);
    assert_true(irq.level);
    assert_int_equal(in(IIR), 0xcc);
    assert_int_equal(in(RBR), 'a'); /* a read starts it anew */
    assert_false(irq.level);
    jump(340 * 1000);
    type("d"); /* so does an arrival */
    jump(340 * 1000);
    assert_false(irq.level);
    jump(10 * 1000);
    assert_int_equal(in(IIR), 0xcc);
    assert_int_equal(in(RBR), 'b');
    assert_int_equal(in(RBR), 'c');
    assert_int_equal(in(RBR), 'd');
    jump(NS_PER_S);
    assert_false(irq.level); /* nothing waits, nothing times out */
    assert_int_equal(uart.rx_timer.deadline, NO_DEADLINE);

    type("e");
    jump(NS_PER_S);
    assert_true(irq.level);
    out(FCR, 0x83); /* clears the receive FIFO */
    assert_false(irq.level);
    assert_int_equal(in(LSR), 0x60);
}

static void test_paste(void **state)
{
    char text[1001];
    for (unsigned i = 0; i < 1000; i++)
        text[i] = (char)('A' + i % 50);
    text[1000] = '\0';
    out(FCR, 0xc7);
    out(IER, 0x05);
    type(text);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(in(LSR), 0x61);
        assert_int_equal(in(RBR), text[i]);
    }
    assert_int_equal(in(LSR), 0x60);
    type("!"); /* and it is still listening */
    assert_int_equal(in(RBR), '!');
}

static void test_flow_control(void **state)
{
    out(FCR, 0x07);
    out(MCR, 0x0b);
    type("1");
    assert_int_equal(in(RBR), '1');
    out(MCR, 0x09); /* RTS falls, DTR stays */
    type("2");
    assert_int_equal(in(LSR), 0x60);
    out(MCR, 0x0b);
    assert_int_equal(in(LSR), 0x61);
    assert_int_equal(in(RBR), '2');
    out(MCR, 0x00); /* a guest that sets neither wants its input all the same */
    type("3");
    assert_int_equal(in(RBR), '3');
}

/* ---- errors and priorities -------------------------------------------------------------------------------------- */

static void test_break_and_priority(void **state)
{
    out(FCR, 0x01);
    out(IER, 0x0f);
    assert_int_equal(in(IIR), 0xc2);
    out(THR, 'q');
    type("a");
    uart_receive_break(&uart);
    type("b");
    out(MCR, 0x10);                  /* the modem lines change: MSR too */
    assert_int_equal(in(LSR), 0xe1); /* an error in the FIFO, not yet at its top */
    assert_int_equal(in(IIR), 0xc4);
    assert_int_equal(in(RBR), 'a');
    assert_int_equal(in(IIR), 0xc6); /* line status comes first */
    assert_int_equal(in(LSR), 0xf9); /* BI, FE */
    assert_int_equal(in(LSR), 0x61); /* reading took them */
    assert_int_equal(in(IIR), 0xc4); /* then received data */
    assert_int_equal(in(RBR), 0x00);
    assert_int_equal(in(RBR), 'b');
    assert_int_equal(in(IIR), 0xc2); /* then THRE */
    assert_int_equal(in(IIR), 0xc0); /* then the modem's */
    assert_int_equal(in(MSR), 0x0b);
    assert_int_equal(in(IIR), 0xc1);
    assert_false(irq.level);
}

static void test_overrun_in_loopback(void **state)
{
    out(FCR, 0x07);
    out(MCR, 0x10);
    out(IER, 0x04);
    for (unsigned i = 0; i < 17; i++)
        out(THR, (uint8_t)('a' + i));
    assert_int_equal(line.out_len, 0); /* nothing leaves */
    assert_true(irq.level);
    assert_int_equal(in(IIR), 0xc6);
    assert_int_equal(in(LSR), 0x63);
    assert_false(irq.level);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in(RBR), 'a' + i); /* the 17th is the one lost */
    assert_int_equal(in(LSR), 0x60);

    out(FCR, 0); /* 16450: the old one is lost */
    out(THR, '1');
    out(THR, '2');
    assert_int_equal(in(LSR), 0x63);
    assert_int_equal(in(RBR), '2');
    out(LCR, 0x40); /* our own break comes back */
    assert_int_equal(in(LSR), 0x79);
    assert_int_equal(in(RBR), 0);
}

static void test_loopback_modem(void **state)
{
    type("h"); /* in the middle of a test nothing comes from outside */
    assert_int_equal(in(RBR), 'h');
    in(MSR);
    out(MCR, 0x10);
    assert_int_equal(in(MSR), 0x0b); /* CTS, DSR and DCD fell */
    type("i");
    assert_int_equal(in(LSR), 0x60);
    static const struct {
        uint8_t mcr, msr;
    } step[] = {
        {0x12, 0x11}, {0x10, 0x01}, {0x11, 0x22}, {0x10, 0x02}, {0x14, 0x40},
        {0x10, 0x04}, {0x18, 0x88}, {0x10, 0x08}, {0x1f, 0xfb},
    };
    for (size_t i = 0; i < ARRAY_LEN(step); i++) {
        out(MCR, step[i].mcr);
        assert_int_equal(in(MSR), step[i].msr);
        assert_int_equal(in(MSR)&0x0f, 0);
    }
    out(MCR, 0x0b);
    assert_int_equal(in(MSR), 0xb4); /* back at the line: RI fell */
    assert_int_equal(in(LSR), 0x61);
    assert_int_equal(in(RBR), 'i');
}

/* Each cause needs its own enable bit, and each change of a modem line counts. */
static void test_enable_bits(void **state)
{
    out(FCR, 0x01);
    uart_receive_break(&uart);
    out(MCR, 0x10);
    for (unsigned ier = 0; ier < 16; ier++) {
        out(IER, 0);
        in(IIR);
        out(IER, (uint8_t)ier);
        static const uint8_t want[] = {0xc1, 0xc4, 0xc2, 0xc4, 0xc6, 0xc6, 0xc6, 0xc6};
        assert_int_equal(in(IIR), ier == 8 ? 0xc0 : ier < 8 ? want[ier] : want[ier - 8]);
    }
    in(LSR);
    in(RBR);
    in(MSR);
    out(IER, 0x08);
    static const uint8_t mcr[] = {0x11, 0x13, 0x17, 0x13, 0x1b, 0x1a, 0x18, 0x10};
    for (size_t i = 0; i < ARRAY_LEN(mcr); i++) {
        assert_false(irq.level);
        out(MCR, mcr[i]);
        assert_int_equal(irq.level, mcr[i] != 0x17); /* RI rising is no event */
        assert_int_equal(in(IIR), irq.level ? 0xc0 : 0xc1);
        in(MSR);
    }
    assert_false(irq.level);
}

static void test_fifo_control(void **state)
{
    out(FCR, 0x01);
    type("abc");
    out(FCR, 0x41); /* another trigger level: what is there stays */
    assert_int_equal(in(RBR), 'a');
    out(FCR, 0x05); /* the other FIFO */
    assert_int_equal(in(RBR), 'b');
    out(FCR, 0x03);
    assert_int_equal(in(LSR), 0x60);
    out(FCR, 0x00); /* switching clears both */
    type("d");
    out(FCR, 0x06); /* means nothing without bit 0 */
    assert_int_equal(in(LSR), 0x61);
    assert_int_equal(in(IIR), 0x01);
    out(FCR, 0x01);
    assert_int_equal(in(LSR), 0x60);
    type("0123456789abcdefXYZ");
    out(FCR, 0x03); /* what waited outside comes in */
    assert_int_equal(in(RBR), 'X');
    out(FCR, 0x00);
    assert_int_equal(in(LSR), 0x60);

    line.out_room = 0;
    out(FCR, 0x01);
    out(IER, 0x02);
    out(THR, 'x');
    out(THR, 'y');
    out(FCR, 0x03);
    assert_int_equal(in(LSR), 0x00);
    assert_false(irq.level);
    out(FCR, 0x05);
    assert_int_equal(in(LSR), 0x60);
    assert_true(irq.level);
    line.out_room = 100;
    line.user->tx_ready(line.arg);
    assert_int_equal(line.out_len, 0);

    out(LCR, 0x40); /* a break of ours is the other end's business */
    assert_int_equal(in(LSR), 0x60);
    out(MCR, 0x10);
    out(LCR, 0x40); /* it has begun before */
    out(LCR, 0x00);
    assert_int_equal(in(LSR), 0x60);
}

static void test_reset(void **state)
{
    out(FCR, 0x01);
    out(IER, 0x01);
    type("0123456789abcdefX");
    out(LCR, 0x80);
    out(RBR, 0x33);
    assert_true(irq.level);
    uart_reset(&uart);
    assert_false(irq.level);
    assert_int_equal(in(IER), 0);
    assert_int_equal(in(LSR), 0x61); /* the line goes on */
    assert_int_equal(in(RBR), 'X');
    out(LCR, 0x80);
    assert_int_equal(in(RBR), 1);
}

/* ---- a backend that has no room --------------------------------------------------------------------------------- */

static void test_backpressure(void **state)
{
    line.out_room = 3;
    out(FCR, 0x07);
    out(IER, 0x02);
    for (unsigned i = 0; i < 3; i++)
        out(THR, (uint8_t)('0' + i));
    assert_int_equal(in(LSR), 0x60);
    out(THR, '3');
    assert_int_equal(in(LSR), 0x00);
    assert_int_equal(in(IIR), 0xc1);
    assert_false(irq.level);
    for (unsigned i = 4; i < 30; i++) /* a guest that does not care: 16 of them stay */
        out(THR, (uint8_t)('0' + i));
    line.out_room = 5;
    line.user->tx_ready(line.arg);
    assert_int_equal(in(LSR), 0x00);
    assert_false(irq.level);
    line.out_room = sizeof(line.out);
    line.user->tx_ready(line.arg);
    assert_int_equal(in(LSR), 0x60);
    assert_true(irq.level);
    assert_int_equal(in(IIR), 0xc2);
    assert_int_equal(line.out_len, 19);
    assert_memory_equal(line.out, "0123456789:;<=>?@AB", 19);

    line.out_room = line.out_len; /* without FIFO the last one counts */
    out(FCR, 0);
    out(THR, 'x');
    out(THR, 'y');
    line.out_room = sizeof(line.out);
    line.user->tx_ready(line.arg);
    assert_int_equal(line.out_len, 20);
    assert_int_equal(line.out[19], 'y');

    line.out_room = line.out_len; /* a reset loses nothing that the guest believes sent, as far as there is room */
    out(THR, 'z');
    line.out_room = sizeof(line.out);
    uart_reset(&uart);
    assert_int_equal(line.out_len, 21);
    assert_int_equal(in(LSR), 0x60);
}

static void test_sizes(void **state)
{
    bus_write(pio, BASE + 6, 4, 0x5a000000); /* bytes to MSR, SCR and beyond */
    assert_int_equal(in(SCR), 0);
    bus_write(pio, BASE + 6, 2, 0x5a00);
    assert_int_equal(in(SCR), 0x5a);
    assert_int_equal(bus_read(pio, BASE + 6, 4), 0xffff5ab0);
}

/* ---- state ------------------------------------------------------------------------------------------------------ */

static void test_save_and_load(void **state)
{
    out(FCR, 0x87);
    out(IER, 0x01);
    out(SCR, 0x77);
    type("abc");
    jump(NS_PER_S); /* timed out */
    type("d");
    struct state_blob blob = {0};
    assert_int_equal(uart_save(&uart, &blob), 0);

    uart_reset(&uart);
    assert_false(irq.level);
    assert_int_equal(in(SCR), 0);
    size_t pos = 0;
    assert_int_equal(uart_load(&uart, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    assert_int_equal(in(SCR), 0x77);
    assert_false(irq.level);
    assert_int_equal(in(IIR), 0xc1); /* "d" has started the time anew ... */
    jump(NS_PER_S);                  /* ... and it goes on after loading */
    assert_int_equal(in(IIR), 0xcc);
    assert_true(irq.level);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(in(RBR), 'a' + i);

    out(IER, 0x03); /* with the line up, and characters that never left */
    line.out_room = line.out_len;
    out(THR, 'u');
    type("v");
    jump(NS_PER_S);
    assert_true(irq.level);
    struct state_blob up = {0};
    assert_int_equal(uart_save(&uart, &up), 0);
    in(RBR);
    uart_fini(&uart);
    memset(&irq, 0, sizeof(irq));
    assert_int_equal(uart_init(&uart, pio, BASE, wire_line(&irq), (struct serial *)&line, loop, &chipset_lock), 0);
    line.out_room += 10;
    pos = 0;
    assert_int_equal(uart_load(&uart, up.data, up.len, &pos), 0);
    assert_true(irq.level);
    assert_int_equal(in(IIR), 0xcc);
    assert_int_equal(in(RBR), 'v');
    assert_int_equal(line.out[line.out_len - 1], 'u');
    assert_int_equal(in(IIR), 0xc2);
    free(up.data);

    for (size_t cut = 0; cut < blob.len; cut += 7) {
        pos = 0;
        assert_int_not_equal(uart_load(&uart, blob.data, cut, &pos), 0);
    }
    /* A file that claims 200 characters in the FIFO. */
    uint8_t *len = memmem(blob.data, blob.len, "rx_len", 6);
    assert_non_null(len);
    for (unsigned i = 0; i < 24; i++) {
        uint8_t was = len[6 + i];
        len[6 + i] = 200;
        pos = 0;
        uart_load(&uart, blob.data, blob.len, &pos);
        for (unsigned n = 0; n < 300; n++)
            in(n % 8);
        len[6 + i] = was;
    }
    free(blob.data);
}

static void test_random(void **state)
{
    for (unsigned i = 0; i < 300000; i++) {
        uint32_t r = random32();
        switch (r % 8) {
        case 0: jump(r >> 8 & 0xfffff); break;
        case 1:
            if (line.in_pos == line.in_len)
                line.in_pos = line.in_len = 0;
            if (line.in_len < 4000)
                type("abcdef");
            break;
        case 2:
            line.out_len = r & 0x100 ? 0 : line.out_len;
            line.out_room = r >> 9 & 31;
            line.out_room = line.out_room > line.out_len ? line.out_room : line.out_len;
            line.user->tx_ready(line.arg);
            break;
        case 3: uart_receive_break(&uart); break;
        case 4:
        case 5: bus_read(pio, BASE + (r >> 8 & 7), 1u << (r >> 12 & 3)); break;
        default: bus_write(pio, BASE + (r >> 8 & 7), 1u << (r >> 12 & 3), random32()); break;
        }
        assert_true(uart.s.rx_len <= UART_FIFO && uart.s.tx_len <= UART_FIFO);
        assert_int_equal(irq.level, uart.irq_level);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reset_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_linux_autoconfig, setup, teardown),
        cmocka_unit_test_setup_teardown(test_linux_thre, setup, teardown),
        cmocka_unit_test_setup_teardown(test_receive_without_fifo, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trigger_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paste, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flow_control, setup, teardown),
        cmocka_unit_test_setup_teardown(test_break_and_priority, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overrun_in_loopback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loopback_modem, setup, teardown),
        cmocka_unit_test_setup_teardown(test_enable_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fifo_control, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backpressure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_and_load, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
