/* chipset/acpi_pm: the timer's rate and overflow, fixed events, power button, sleep, GPE0, SMI command, reset register. */
#include "chipset_fixture.h"

#include "chipset/acpi_pm.h"
#include "chipset/ticks.h"

static struct acpi_pm pm;
static struct wire sci;
static bool wide;
static unsigned sleeps, resets, sleep_type;

static void on_sleep(void *arg, unsigned type)
{
    sleeps++;
    sleep_type = type;
}

static void on_reset(void *arg) { resets++; }

static int start(void)
{
    struct acpi_pm_config config = {.tmr_val_ext = wide, .sci = wire_line(&sci), .sleep = on_sleep, .reset = on_reset};
    return acpi_pm_init(&pm, pio, loop, &chipset_lock, &config);
}

static int setup(void **state)
{
    int err = fixture_setup(state);
    memset(&sci, 0, sizeof(sci));
    sleeps = resets = 0;
    wide = true;
    return err ? err : start();
}

static int teardown(void **state)
{
    acpi_pm_fini(&pm);
    return fixture_teardown(state);
}

/* Carries on in a new chip with the old one's state, on a host whose clock shows something else. */
static void migrate(void)
{
    struct state_blob blob = {0};
    size_t pos = 0;

    assert_int_equal(acpi_pm_save(&pm, &blob), 0);
    acpi_pm_fini(&pm);
    fixture_buses();
    memset(&pm, 0xa5, sizeof(pm));
    memset(&sci, 0, sizeof(sci));
    fake_ns += 7777777;
    assert_int_equal(start(), 0);
    assert_int_equal(acpi_pm_load(&pm, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    free(blob.data);
}

#define STS ACPI_PM1A_EVT_PORT
#define EN (ACPI_PM1A_EVT_PORT + 2)
#define CNT ACPI_PM1A_CNT_PORT
#define GPE_STS ACPI_GPE0_PORT
#define GPE_EN (ACPI_GPE0_PORT + 4)

static uint16_t inw(uint16_t port) { return (uint16_t)bus_read(pio, port, 2); }
static uint32_t inl(uint16_t port) { return (uint32_t)bus_read(pio, port, 4); }
static void outw(uint16_t port, uint16_t v) { bus_write(pio, port, 2, v); }
static void outl(uint16_t port, uint32_t v) { bus_write(pio, port, 4, v); }

static void test_timer(void **state)
{
    assert_int_equal(inl(ACPI_PM_TMR_PORT), 0);
    jump(NS_PER_S);
    assert_int_equal(inl(ACPI_PM_TMR_PORT), 3579545);
    migrate();
    jump(999 * NS_PER_S);
    assert_int_equal(inl(ACPI_PM_TMR_PORT), 3579545000);
    assert_int_equal(inw(ACPI_PM_TMR_PORT), 3579545000 & 0xffff);
    assert_int_equal(inb(ACPI_PM_TMR_PORT + 3), 3579545000 >> 24);
    jump(1000 * NS_PER_S);
    assert_int_equal(inl(ACPI_PM_TMR_PORT), (uint32_t)(3579545 * UINT64_C(2000)));
    outl(ACPI_PM_TMR_PORT, 0); /* read-only */
    assert_int_equal(inl(ACPI_PM_TMR_PORT), (uint32_t)(3579545 * UINT64_C(2000)));
    acpi_pm_fini(&pm);
    fixture_buses();
    wide = false;
    assert_int_equal(start(), 0);
    jump(1000 * NS_PER_S);
    assert_int_equal(inl(ACPI_PM_TMR_PORT), 3579545000 & 0xffffff);
}

static void test_timer_overflow(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        unsigned top = i ? 23 : 31;
        acpi_pm_fini(&pm);
        fixture_buses();
        wide = i == 0;
        assert_int_equal(start(), 0);
        uint64_t epoch = fake_ns;
        outb(ACPI_SMI_CMD_PORT, ACPI_ENABLE_VALUE);
        assert_true(pm.armed_ns == NO_DEADLINE);
        outw(EN, 1);
        for (uint64_t k = 1; k < 6; k++) {
            assert_true(pm.armed_ns == epoch + ticks_to_ns(k << top, ACPI_PM_TMR_HZ));
            jump(pm.armed_ns - 1 - fake_ns);
            assert_false(sci.level);
            assert_int_equal(inw(STS) & 1, 0);
            jump(1);
            assert_true(sci.level);
            assert_int_equal(inl(ACPI_PM_TMR_PORT), (k & 1) << top);
            assert_int_equal(inw(STS), 1);
            assert_true(pm.armed_ns == NO_DEADLINE);
            if (k == 3) {
                migrate();
                epoch += 7777777;
                assert_true(sci.level);
            }
            outw(STS, 1);
            assert_false(sci.level);
        }
        /* Without the enable the status comes all the same, and no host timer runs. */
        outw(EN, 0);
        assert_true(pm.armed_ns == NO_DEADLINE);
        jump(1000 * NS_PER_S);
        assert_int_equal(inw(STS), 1);
        assert_false(sci.level);
        outw(EN, 1);
        assert_true(sci.level);
        outw(STS, 1);
    }
}

static void test_enable(void **state)
{
    assert_int_equal(inw(CNT), 0);
    outb(ACPI_SMI_CMD_PORT, 0x77);
    assert_int_equal(inb(ACPI_SMI_CMD_PORT), 0x77);
    assert_int_equal(inw(CNT), 0);
    outb(ACPI_SMI_CMD_PORT, ACPI_ENABLE_VALUE);
    assert_int_equal(inw(CNT), 1);
    migrate();
    assert_int_equal(inw(CNT), 1);
    outb(ACPI_SMI_CMD_PORT + 1, ACPI_DISABLE_VALUE);
    assert_int_equal(inw(CNT), 1);
    outb(ACPI_SMI_CMD_PORT, ACPI_DISABLE_VALUE);
    assert_int_equal(inw(CNT), 0);
    outb(ACPI_SMI_CMD_PORT + 1, ACPI_ENABLE_VALUE); /* the data port is only a scratch register */
    assert_int_equal(inb(ACPI_SMI_CMD_PORT + 1), ACPI_ENABLE_VALUE);
    assert_int_equal(inw(CNT), 0);
}

static void test_rtc_alarm(void **state)
{
    outb(ACPI_SMI_CMD_PORT, ACPI_ENABLE_VALUE);
    outw(STS, 0xffff);
    acpi_pm_rtc_alarm(&pm);
    assert_int_equal(inw(STS), 0x400);
    assert_false(sci.level);
    outw(EN, 0x400);
    assert_true(sci.level);
    migrate();
    assert_true(sci.level);
    outw(STS, 0x400);
    assert_false(sci.level);
    acpi_pm_rtc_alarm(&pm);
    assert_true(sci.level);
}

static void test_power_button(void **state)
{
    assert_false(acpi_pm_power_button(&pm));
    assert_false(sci.level);
    outw(STS, 0xffff);
    outw(EN, 0x100);
    assert_false(acpi_pm_power_button(&pm)); /* not in ACPI mode */
    assert_false(sci.level);
    outw(STS, 0x100);
    outb(ACPI_SMI_CMD_PORT, ACPI_ENABLE_VALUE);
    assert_false(sci.level);
    assert_true(acpi_pm_power_button(&pm));
    assert_true(sci.level);
    assert_int_equal(inw(STS), 0x100);
    migrate();
    assert_true(sci.level);
    outw(STS, 0xfeff); /* the others */
    assert_true(sci.level);
    outb(STS, 0xff); /* the wrong byte */
    assert_true(sci.level);
    outb(STS + 1, 0x01);
    assert_false(sci.level);
    assert_int_equal(inw(STS), 0);
    /* Status and enable in one double word. */
    outl(STS, 0x00000000);
    assert_int_equal(inw(EN), 0);
    assert_false(acpi_pm_power_button(&pm));
    outl(STS, 0x01000000);
    assert_true(sci.level);
    outl(STS, 0x01000100);
    assert_false(sci.level);
    outw(EN, 0xffff);
    assert_int_equal(inw(EN), 0x0721);
    acpi_pm_wake(&pm);
    assert_int_equal(inw(STS), 0x8000);
    outw(STS, 0x8000);
    assert_int_equal(inw(STS), 0);
}

static void test_sleep(void **state)
{
    outw(CNT, ACPI_SLP_TYP_S5 << 10 | 1);
    assert_int_equal(sleeps, 0);
    migrate();
    assert_int_equal(inw(CNT), ACPI_SLP_TYP_S5 << 10 | 1);
    outw(CNT, 1 << 13 | ACPI_SLP_TYP_S5 << 10 | 1);
    assert_int_equal(sleeps, 1);
    assert_int_equal(sleep_type, ACPI_SLP_TYP_S5);
    assert_int_equal(inw(CNT), ACPI_SLP_TYP_S5 << 10 | 1); /* SLP_EN reads as zero */
    outb(CNT + 1, 0x20 | 3 << 2);
    assert_int_equal(sleeps, 2);
    assert_int_equal(sleep_type, 3);
    outw(CNT, 0xdfff);
    assert_int_equal(sleeps, 2);
    assert_int_equal(inw(CNT), 0x1c03);
}

static void test_gpe(void **state)
{
    struct irq_line gpe5 = acpi_pm_gpe(&pm, 5), gpe31 = acpi_pm_gpe(&pm, 31);
    assert_null(acpi_pm_gpe(&pm, 32).set);
    irq_pulse(&gpe5);
    assert_int_equal(inl(GPE_STS), 0x20);
    outl(GPE_EN, 0x80000020);
    assert_false(sci.level);
    outb(ACPI_SMI_CMD_PORT, ACPI_ENABLE_VALUE);
    assert_true(sci.level);
    outb(GPE_STS, 0x20);
    assert_false(sci.level);
    irq_set(&gpe31, true);
    assert_true(sci.level);
    migrate();
    assert_true(sci.level);
    outl(GPE_STS, 0x80000000); /* still high: it comes back */
    assert_true(sci.level);
    irq_set(&gpe31, false);
    assert_true(sci.level);
    outb(GPE_STS + 3, 0x80);
    assert_false(sci.level);
    assert_int_equal(inl(GPE_EN), 0x80000020);
    outb(GPE_EN + 3, 0);
    assert_int_equal(inl(GPE_EN), 0x20);
    irq_set(&gpe31, true);
    assert_false(sci.level);
    acpi_pm_reset(&pm);
    assert_int_equal(inl(GPE_EN), 0);
    assert_int_equal(inl(GPE_STS), 0x80000000); /* the input is still high */
}

static void test_reset_register(void **state)
{
    outb(ACPI_RESET_PORT, 0);
    outb(ACPI_RESET_PORT, 0xff);
    assert_int_equal(resets, 0);
    outb(ACPI_RESET_PORT, ACPI_RESET_VALUE);
    assert_int_equal(resets, 1);
    outw(EN, 0x100);
    outw(CNT, 1);
    acpi_pm_power_button(&pm);
    assert_true(sci.level);
    jump(NS_PER_S);
    acpi_pm_reset(&pm);
    assert_false(sci.level);
    assert_int_equal(inl(STS), 0);
    assert_int_equal(inw(CNT), 0);
    assert_int_equal(inl(ACPI_PM_TMR_PORT), 0);
}

static void test_odd_accesses(void **state)
{
    outw(CNT, 0x0403);
    outw(EN, 0x0121);
    assert_int_equal(inl(EN), 0x04030121); /* across two blocks */
    assert_int_equal(inb(EN), 0x21);
    assert_int_equal(inb(EN + 1), 0x01);
    assert_int_equal(bus_read(pio, STS, 8), 0x0000040301210000);
    outl(EN, 0x08010100);
    assert_int_equal(inw(CNT), 0x0801);
    assert_int_equal(inw(EN), 0x0100);
    assert_int_equal(inl(ACPI_PM_TMR_PORT + 4), 0);
    assert_int_equal(inl(ACPI_RESET_PORT), 0xffffff00); /* beyond it is nobody */
}

static void test_fuzz(void **state)
{
    for (unsigned i = 0; i < 300000; i++) {
        uint16_t port = (uint16_t)(random32() % 16 ? ACPI_PM1A_EVT_PORT - 2 + random32() % 0x20
                                                   : 0xb1 + random32() % 4);
        struct irq_line gpe = acpi_pm_gpe(&pm, random32() % 32);
        switch (random32() % 8) {
        case 0: irq_set(&gpe, random32() & 1); break;
        case 1: outb(ACPI_SMI_CMD_PORT, random32() & 1 ? ACPI_ENABLE_VALUE : ACPI_DISABLE_VALUE); break;
        case 2: acpi_pm_power_button(&pm); break;
        case 3:
        case 4: bus_read(pio, port, 1u << random32() % 4); break;
        default: bus_write(pio, port, 1u << random32() % 4, (uint64_t)random32() << 32 | random32()); break;
        }
        jump(random_delay());
        if (i % 5000 == 0)
            migrate();
        bool want = (inw(CNT) & 1) && ((inw(STS) & inw(EN)) || (inl(GPE_STS) & inl(GPE_EN)));
        assert_int_equal(sci.level, want);
        assert_true(pm.armed_ns > fake_ns);
    }
    assert_true(sleeps > 0);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_timer),        T(test_timer_overflow), T(test_enable), T(test_power_button),
        T(test_rtc_alarm),    T(test_sleep),          T(test_gpe),    T(test_reset_register),
        T(test_odd_accesses), T(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
