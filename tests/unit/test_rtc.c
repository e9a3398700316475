/* chipset/rtc: the calendar in all codes, SET, divider, UIP, the three interrupts, alarm, memory. */
#include "chipset_fixture.h"

#include <stdio.h>
#include <time.h>

#include "chipset/rtc.h"

static struct rtc rtc;
static struct wire irq8;
static unsigned alarms;

static void count_alarm(void *arg) { ++*(unsigned *)arg; }

static const struct rtc_options options = {.utc = true,
                                           .mem_low = UINT64_C(3) << 30,
                                           .mem_high = UINT64_C(5) << 30,
                                           .nvcpus = 4,
                                           .alarm = count_alarm,
                                           .alarm_arg = &alarms};

static int setup(void **state)
{
    int err = fixture_setup(state);
    memset(&irq8, 0, sizeof(irq8));
    alarms = 0;
    return err ? err : rtc_init(&rtc, pio, loop, &chipset_lock, wire_line(&irq8), &options);
}

static int teardown(void **state)
{
    rtc_fini(&rtc);
    return fixture_teardown(state);
}

/* Carries on in a new chip with the old one's state, on a host that was started at another time. */
static void migrate(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;

    assert_int_equal(rtc_save(&rtc, &blob), 0);
    rtc_fini(&rtc);
    fixture_buses();
    memset(&rtc, 0xa5, sizeof(rtc));
    fake_ns += 777777;
    assert_int_equal(rtc_init(&rtc, pio, loop, &chipset_lock, wire_line(&irq8), &options), 0);
    assert_int_equal(rtc_load(&rtc, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

static uint8_t rd(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

static void wr(uint8_t reg, uint8_t val)
{
    outb(0x70, reg);
    outb(0x71, val);
}

/* The clock as "CCYY-MM-DD hh:mm:ss w", digits as the registers have them. */
static const char *shown(void)
{
    static char buf[64];
    snprintf(buf, sizeof(buf), "%02x%02x-%02x-%02x %02x:%02x:%02x %x", rd(0x32), rd(9), rd(8), rd(7), rd(4), rd(2),
             rd(0), rd(6));
    return buf;
}

static void set_time(uint16_t year, uint8_t month, uint8_t day, uint8_t wday, uint8_t h, uint8_t m, uint8_t s)
{
    uint8_t b = rd(0x0b);
    wr(0x0b, b | 0x80);
    wr(0x32, (uint8_t)(year >> 8));
    wr(9, (uint8_t)year);
    wr(8, month);
    wr(7, day);
    wr(6, wday);
    wr(4, h);
    wr(2, m);
    wr(0, s);
    wr(0x0b, b);
}

static void test_starts_with_host_time(void **state)
{
    /* 1700000000 is 2023-11-14 22:13:20, a Tuesday. */
    assert_string_equal(shown(), "2023-11-14 22:13:20 3");
    jump(749999999);
    assert_string_equal(shown(), "2023-11-14 22:13:20 3");
    jump(1); /* the second changes when the host's does */
    assert_string_equal(shown(), "2023-11-14 22:13:21 3");
    migrate();
    jump(NS_PER_S * 3600 * 24 * 50);
    assert_string_equal(shown(), "2024-01-03 22:13:21 4");
    assert_int_equal(rd(0x0d), 0x80);
    assert_true(rtc.armed_ns == NO_DEADLINE); /* nobody asked: no host timer */
    assert_int_equal(inb(0x70), 0xff);
}

static void test_local_time(void **state)
{
    struct rtc_options local = options;
    local.utc = false;
    setenv("TZ", "XYZ-5:30", 1);
    tzset();
    rtc_fini(&rtc);
    fixture_buses();
    assert_int_equal(rtc_init(&rtc, pio, loop, &chipset_lock, wire_line(&irq8), &local), 0);
    assert_string_equal(shown(), "2023-11-15 03:43:20 4");
    migrate(); /* the zone goes with the machine, not with the host */
    assert_string_equal(shown(), "2023-11-15 03:43:20 4");
    unsetenv("TZ");
    tzset();
}

/* Days of two and a half centuries, against the C library. */
static void test_calendar(void **state)
{
    time_t t = -86400 * (time_t)25567; /* 1900-01-01 */
    set_time(0x1900, 0x01, 0x01, 0x02, 0x12, 0x34, 0x56);
    assert_string_equal(shown(), "1900-01-01 12:34:56 2");
    for (unsigned i = 0; i < 400 * 366; i++) {
        struct tm tm;
        char want[80];
        gmtime_r(&t, &tm);
        snprintf(want, sizeof(want), "%04d-%02d-%02d 12:34:56 %d", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                 tm.tm_wday + 1);
        if (strcmp(shown(), want))
            fail_msg("%s, want %s", shown(), want);
        /* Year ends and leap days one by one, the rest in leaps. */
        unsigned days = tm.tm_mon < 2 || (tm.tm_mon == 11 && tm.tm_mday > 11) ? 1 : random32() % 20;
        jump(days * 86400 * NS_PER_S);
        t += 86400 * (time_t)days;
        if (i % 4096 == 0)
            migrate();
        if (tm.tm_year > 250)
            break;
    }
}

static void test_codes(void **state)
{
    set_time(0x2024, 0x02, 0x28, 0x04, 0x23, 0x59, 0x59);
    jump(NS_PER_S);
    assert_string_equal(shown(), "2024-02-29 00:00:00 5");
    wr(0x0b, 0x06); /* binary, 24 h */
    assert_string_equal(shown(), "1418-02-1d 00:00:00 5");
    set_time(20 << 8 | 99, 12, 31, 5, 23, 59, 58);
    assert_string_equal(shown(), "1463-0c-1f 17:3b:3a 5");
    migrate();
    wr(0x0b, 0x02);
    assert_string_equal(shown(), "2099-12-31 23:59:58 5");
    jump(2 * NS_PER_S);
    assert_string_equal(shown(), "2100-01-01 00:00:00 6");
    /* 12 hours: 12 AM, 1 AM, ... 12 PM, 1 PM */
    wr(0x0b, 0x00);
    static const uint8_t bcd[24] = {0x12, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11,
                                    0x92, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x90, 0x91};
    for (unsigned h = 0; h < 24; h++) {
        assert_int_equal(rd(4), bcd[h]);
        wr(4, bcd[h]);
        assert_int_equal(rd(4), bcd[h]);
        jump(3600 * NS_PER_S);
    }
    wr(0x0b, 0x04);
    jump(23 * 3600 * NS_PER_S);
    assert_int_equal(rd(4), 0x8b);
    wr(4, 0x8c); /* 12 PM */
    wr(0x0b, 0x06);
    assert_int_equal(rd(4), 12);
}

/* A weekday that the guest has set wrong stays as wrong as it is. */
static void test_weekday(void **state)
{
    for (uint8_t w = 1; w <= 7; w++) {
        set_time(0x2023, 0x11, 0x14, w, 0x23, 0x59, 0x59);
        assert_int_equal(rd(6), w);
        jump(NS_PER_S);
        assert_int_equal(rd(6), w % 7 + 1);
    }
    set_time(0x2023, 0x11, 0x14, 0x06, 0x23, 0x59, 0x59);
    jump(NS_PER_S);
    assert_string_equal(shown(), "2023-11-15 00:00:00 7");
    migrate();
    jump(86400 * NS_PER_S);
    assert_string_equal(shown(), "2023-11-16 00:00:00 1");
}

static void test_set_bit(void **state)
{
    wr(0x0b, 0x82);
    jump(10 * NS_PER_S);
    assert_string_equal(shown(), "2023-11-14 22:13:20 3");
    wr(0, 0x77); /* whatever is written stands */
    assert_int_equal(rd(0), 0x77);
    migrate();
    wr(0, 0x30);
    wr(0x0b, 0x02);
    assert_int_equal(rd(0), 0x30);
    jump(NS_PER_S);
    assert_int_equal(rd(0), 0x31);
    wr(0x0b, 0x12);
    assert_int_equal(rd(0x0b), 0x12);
    wr(0x0b, 0x92); /* SET clears UIE */
    assert_int_equal(rd(0x0b), 0x82);
    rd(0x0c);
    jump(5 * NS_PER_S);
    assert_int_equal(rd(0x0c) & 0x30, 0); /* no update, no flag */
    wr(0x0b, 0x02);
    /* Written while it runs */
    wr(2, 0x45);
    assert_int_equal(rd(2), 0x45);
}

static void test_uip_and_divider(void **state)
{
    assert_int_equal(rd(0x0a), 0x26);
    wr(0x0a, 0x2f); /* another rate is no reset */
    wr(0x0a, 0x26);
    jump(NS_PER_S * 3 / 4 - 2228000 - 1);
    assert_int_equal(rd(0x0a), 0x26);
    jump(1);
    assert_int_equal(rd(0x0a), 0xa6);
    assert_int_equal(rd(0), 0x20);
    migrate();
    jump(2228000 - 777777 - 1 + 777777);
    assert_int_equal(rd(0x0a), 0xa6);
    wr(0x0b, 0x82);
    assert_int_equal(rd(0x0a), 0x26);
    wr(0x0b, 0x02);
    jump(1);
    assert_int_equal(rd(0x0a), 0x26);
    assert_int_equal(rd(0), 0x21);

    /* The divider in reset stops everything; released, the first update comes after half a second. */
    wr(0x0a, 0xf6);
    assert_int_equal(rd(0x0a), 0x76);
    rd(0x0c);
    jump(10 * NS_PER_S);
    assert_int_equal(rd(0), 0x21);
    assert_int_equal(rd(0x0c), 0);
    wr(0, 0x50);
    wr(0x0a, 0x26);
    jump(NS_PER_S / 2 - 1);
    assert_int_equal(rd(0), 0x50);
    jump(1);
    assert_int_equal(rd(0), 0x51);
    jump(NS_PER_S);
    assert_int_equal(rd(0), 0x52);
}

static void test_update_interrupt(void **state)
{
    wr(0x0b, 0x12);
    rd(0x0c);
    jump(749999999);
    assert_false(irq8.level);
    jump(1);
    assert_true(irq8.level);
    assert_true(rtc.armed_ns == NO_DEADLINE); /* nothing more before C is read */
    jump(5 * NS_PER_S);
    assert_int_equal(irq8.rises, 1);
    migrate();
    assert_true(irq8.level);
    assert_int_equal(rd(0x0c) & 0xb0, 0x90);
    assert_false(irq8.level);
    assert_int_equal(rd(0x0c) & 0x90, 0);
    for (unsigned i = 0; i < 5; i++) {
        pass(NS_PER_S, &rtc.armed_ns);
        assert_true(irq8.level);
        rd(0x0c);
    }
    assert_int_equal(irq8.rises, 6);
    /* The flag comes without its enable too, and raises IRQF when that comes. */
    wr(0x0b, 0x02);
    assert_true(rtc.armed_ns == NO_DEADLINE);
    rd(0x0c);
    jump(NS_PER_S);
    assert_false(irq8.level);
    wr(0x0b, 0x12);
    assert_true(irq8.level);
    assert_int_equal(rd(0x0c) & 0x90, 0x90);
}

static void test_periodic_interrupt(void **state)
{
    for (unsigned rs = 0; rs < 16; rs++) {
        unsigned hz = rs == 0 ? 0 : rs == 1 ? 256 : rs == 2 ? 128 : 65536u >> rs;
        wr(0x0a, (uint8_t)(0x20 | rs));
        wr(0x0b, 0x42);
        rd(0x0c);
        unsigned seen = 0;
        uint64_t end = fake_ns + 2 * NS_PER_S;
        irq8.rises = 0;
        while (rtc.armed_ns <= end) {
            jump(rtc.armed_ns - fake_ns);
            assert_true(irq8.level);
            assert_int_equal(rd(0x0c) & 0xc0, 0xc0);
            assert_false(irq8.level);
            if (++seen == hz)
                migrate(), end += 777777;
        }
        fake_wall_ns += end - fake_ns;
        fake_ns = end;
        assert_in_range(seen, 2 * hz - (hz > 0), 2 * hz + (hz > 0));
        assert_int_equal(irq8.rises, seen);
    }
    /* Polled, without the interrupt; SET does not stop it. */
    wr(0x0a, 0x2f);
    wr(0x0b, 0x82);
    rd(0x0c);
    jump(NS_PER_S / 2);
    assert_int_equal(rd(0x0c), 0x40);
    assert_int_equal(rd(0x0c), 0x00);
    assert_true(rtc.armed_ns == NO_DEADLINE);
}

static void set_alarm(uint8_t h, uint8_t m, uint8_t s)
{
    wr(5, h);
    wr(3, m);
    wr(1, s);
}

/* Seconds from now to the alarm, as the interrupt tells. */
static uint64_t alarm_in(void)
{
    rd(0x0c);
    uint64_t start = fake_ns;
    if (rtc.armed_ns == NO_DEADLINE)
        return 0;
    jump(rtc.armed_ns - fake_ns);
    assert_true(irq8.level);
    assert_int_equal(rd(0x0c) & 0xa0, 0xa0);
    return (fake_ns - start + NS_PER_S / 2) / NS_PER_S;
}

/* The alarm's other wire: told once, and also while somebody else has IRQ 8. */
static void test_alarm_wire(void **state)
{
    set_time(0x2023, 0x12, 0x31, 0x01, 0x22, 0x00, 0x00);
    set_alarm(0x22, 0x00, 0x05);
    rtc_connect(&rtc, false);
    wr(0x0b, 0x12); /* updates alone: nobody waits for them */
    rd(0x0c);
    assert_true(rtc.armed_ns == NO_DEADLINE);
    wr(0x0b, 0x22);
    jump(4 * NS_PER_S);
    assert_int_equal(alarms, 0);
    jump(NS_PER_S);
    assert_int_equal(alarms, 1);
    assert_int_equal(irq8.rises, 0);
    assert_true(rtc.armed_ns == NO_DEADLINE); /* until register C is read */
    migrate();
    rd(0x0b);
    assert_int_equal(alarms, 1);
    assert_int_equal(rd(0x0c) & 0x20, 0x20);
    jump(86400 * NS_PER_S);
    assert_int_equal(alarms, 2);
    /* With IRQ 8, and with another reason for it up. */
    rd(0x0c);
    rtc_connect(&rtc, true);
    wr(0x0b, 0x32);
    set_alarm(0xff, 0xff, 0x10);
    jump(NS_PER_S);
    assert_true(irq8.level);
    assert_int_equal(alarms, 2);
    jump(60 * NS_PER_S);
    assert_int_equal(alarms, 3);
    /* Without its enable it is nobody's business. */
    wr(0x0b, 0x02);
    rd(0x0c);
    jump(120 * NS_PER_S);
    rd(0x0b);
    assert_int_equal(alarms, 3);
}

static void test_alarm(void **state)
{
    set_time(0x2023, 0x12, 0x31, 0x01, 0x22, 0x00, 0x00);
    wr(0x0b, 0x22);
    set_alarm(0x22, 0x00, 0x05);
    assert_int_equal(alarm_in(), 5);
    assert_int_equal(alarm_in(), 86400);
    set_alarm(0x21, 0x59, 0x59);
    migrate();
    assert_int_equal(alarm_in(), 86400 - 6);
    set_alarm(0xff, 0x30, 0x00);
    assert_int_equal(alarm_in(), 30 * 60 + 1);
    assert_int_equal(alarm_in(), 3600);
    set_alarm(0xc0, 0xd3, 0x10);
    assert_int_equal(alarm_in(), 10);
    assert_int_equal(alarm_in(), 60);
    set_alarm(0xff, 0xff, 0xff);
    assert_int_equal(alarm_in(), 1);
    assert_int_equal(alarm_in(), 1);
    set_alarm(0xff, 0xff, 0x61); /* a second that never comes */
    assert_int_equal(alarm_in(), 0);
    /* 12 h, PM */
    set_time(0x2023, 0x12, 0x31, 0x01, 0x10, 0x00, 0x00);
    wr(0x0b, 0x20);
    set_alarm(0x81, 0x00, 0x00);
    assert_int_equal(alarm_in(), 3 * 3600);
    /* Without an interrupt the flag is found when somebody looks. */
    wr(0x0b, 0x02);
    assert_true(rtc.armed_ns == NO_DEADLINE);
    set_alarm(0x13, 0x00, 0x30);
    rd(0x0c);
    jump(29 * NS_PER_S);
    assert_int_equal(rd(0x0c) & 0x20, 0);
    jump(100 * NS_PER_S);
    assert_int_equal(rd(0x0c) & 0x20, 0x20);
}

static void test_memory(void **state)
{
    assert_int_equal(rd(0x15) | rd(0x16) << 8, 640);
    assert_int_equal(rd(0x17) | rd(0x18) << 8, 0xffff);
    assert_int_equal(rd(0x30) | rd(0x31) << 8, 0xffff);
    assert_int_equal(rd(0x34) | rd(0x35) << 8, (0xc0000000 - 0x1000000) >> 16);
    assert_int_equal(rd(0x5b) | rd(0x5c) << 8 | rd(0x5d) << 16, 0x14000);
    assert_int_equal(rd(0x5f), 3);
    unsigned sum = 0;
    for (uint8_t i = 0x10; i < 0x2e; i++)
        sum += rd(i);
    assert_int_equal(rd(0x2e) << 8 | rd(0x2f), sum & 0xffff);
    wr(0x0f, 0x0a);
    for (uint8_t i = 0x40; i < 0x80; i++)
        wr(i, (uint8_t)(i * 3));
    wr(0x0c, 0xff);
    wr(0x0d, 0x00);
    assert_int_equal(rd(0x0d), 0x80);
    assert_int_equal(rd(0x0c) & 0x8f, 0);
    migrate();
    rtc_reset(&rtc); /* the battery holds it */
    assert_int_equal(rd(0x0f), 0x0a);
    for (uint8_t i = 0x40; i < 0x80; i++)
        assert_int_equal(rd(i), (uint8_t)(i * 3));
    assert_int_equal(rd(0x0d), 0x80);
    assert_string_equal(shown(), "2023-11-14 22:13:20 3");

    assert_false(rtc_nmi_masked(&rtc));
    outb(0x70, 0x8f);
    assert_true(rtc_nmi_masked(&rtc));
    assert_int_equal(inb(0x71), 0x0a);
    migrate();
    assert_true(rtc_nmi_masked(&rtc));
    rtc_reset(&rtc);
    assert_false(rtc_nmi_masked(&rtc));

    /* 64 MiB */
    struct rtc_options small = {.utc = true, .mem_low = 64 << 20, .nvcpus = 1};
    rtc_fini(&rtc);
    fixture_buses();
    assert_int_equal(rtc_init(&rtc, pio, loop, &chipset_lock, wire_line(&irq8), &small), 0);
    assert_int_equal(rd(0x17) | rd(0x18) << 8, 63 << 10);
    assert_int_equal(rd(0x34) | rd(0x35) << 8, 48 << 4);
    assert_int_equal(rd(0x5b) | rd(0x5c) | rd(0x5d), 0);
}

static void test_reset_and_connect(void **state)
{
    wr(0x0b, 0x7a);
    jump(2 * NS_PER_S);
    assert_true(irq8.level);
    rtc_connect(&rtc, false);
    assert_false(irq8.level);
    rd(0x0c);
    wr(0x0b, 0x5a); /* the alarm has a wire of its own */
    assert_true(rtc.armed_ns == NO_DEADLINE);
    wr(0x0b, 0x7a);
    rtc_connect(&rtc, true);
    jump(2 * NS_PER_S);
    assert_true(irq8.level);
    rtc_reset(&rtc);
    assert_false(irq8.level);
    assert_int_equal(rd(0x0b), 0x02);
    assert_int_equal(rd(0x0c) & 0x80, 0);
}

static void test_fuzz(void **state)
{
    for (unsigned i = 0; i < 300000; i++) {
        uint8_t reg = (uint8_t)(random32() % 8 ? random32() % 16 : random32());
        switch (random32() % 8) {
        case 0: rtc_connect(&rtc, random32() % 8); break;
        case 1: bus_write(pio, 0x70, 2, random32()); break;
        case 2:
        case 3: bus_read(pio, 0x70, 1u << random32() % 3); break;
        case 4: rd(reg); break;
        default: wr(reg, (uint8_t)random32()); break;
        }
        jump(random_delay());
        if (i % 5000 == 0)
            migrate();
        assert_true(rtc.armed_ns > fake_ns);
    }
    struct state_blob blob = {0};
    assert_int_equal(rtc_save(&rtc, &blob), 0);
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t *bad = malloc(blob.len);
        size_t pos = 0;
        memcpy(bad, blob.data, blob.len);
        for (unsigned k = 0; k < 4; k++)
            bad[random32() % blob.len] = (uint8_t)random32();
        rtc_load(&rtc, bad, blob.len, &pos);
        shown();
        rd(0x0c);
        jump(random_delay());
        free(bad);
    }
    free(blob.data);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_starts_with_host_time),
        T(test_local_time),
        T(test_calendar),
        T(test_codes),
        T(test_weekday),
        T(test_set_bit),
        T(test_uip_and_divider),
        T(test_update_interrupt),
        T(test_periodic_interrupt),
        T(test_alarm),
        T(test_alarm_wire),
        T(test_memory),
        T(test_reset_and_connect),
        T(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
