/*
 * MC146818 real-time clock with CMOS memory. Specification: Motorola MC146818A
 * data sheet; the meaning of the memory bytes from the IBM AT technical
 * reference and common firmware practice.
 *
 * No second is ever counted: time is a function of a divider chain that started
 * at divider_ns. Flags are brought up to date when somebody looks, and the host
 * timer runs only while an enabled interrupt waits for its moment.
 *
 * The update cycle is drawn as its last 2228 us before the second (244 us
 * warning, 1984 us update): UIP reads 1 there, and UF comes with the new second.
 */
#include "chipset/rtc.h"

#include <time.h>

#include "chipset/ticks.h"
#include "util/bytes.h"

#define PORT_INDEX 0x70
#define INDEX_NMI_MASK 0x80

enum {
    SECONDS = 0x00,
    SECONDS_ALARM = 0x01,
    MINUTES = 0x02,
    MINUTES_ALARM = 0x03,
    HOURS = 0x04,
    HOURS_ALARM = 0x05,
    WEEKDAY = 0x06,
    DAY = 0x07,
    MONTH = 0x08,
    YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d,
    EQUIPMENT = 0x14,
    BASE_MEMORY = 0x15,     /* KiB below 640 K */
    EXTENDED_MEMORY = 0x17, /* KiB above 1 MiB */
    CHECKSUM = 0x2e,        /* of 0x10 to 0x2d, big-endian */
    EXTENDED_MEMORY_2 = 0x30,
    CENTURY = 0x32,
    MEMORY_ABOVE_16M = 0x34, /* in 64 KiB */
    MEMORY_ABOVE_4G = 0x5b,  /* in 64 KiB, three bytes */
    CPU_COUNT = 0x5f,        /* less one */
};

#define A_RS 0x0f
#define A_DV 0x70
#define A_DV_32KHZ 0x20
#define A_UIP 0x80
#define B_24H 0x02
#define B_DM 0x04
#define B_SQWE 0x08
#define B_UIE 0x10
#define B_AIE 0x20
#define B_PIE 0x40
#define B_SET 0x80
#define C_UF 0x10 /* the flags of C stand where B enables them */
#define C_AF 0x20
#define C_PF 0x40
#define C_IRQF 0x80
#define C_FLAGS (C_UF | C_AF | C_PF)
#define D_VRT 0x80

#define HOURS_PM 0x80
#define ALARM_ANY 0xc0

#define CRYSTAL_HZ 32768
#define UIP_NS 2228000
#define DAY_S 86400

static const struct state_field rtc_fields[] = {
    STATE_FIELD(struct rtc_state, index, 1, 0),           STATE_ARRAY(struct rtc_state, cmos, 1, 0),
    STATE_FIELD(struct rtc_state, divider_wall_ns, 1, 0), STATE_FIELD(struct rtc_state, base_s, 1, 0),
    STATE_FIELD(struct rtc_state, weekday, 1, 0),         STATE_FIELD(struct rtc_state, seen_s, 1, 0),
    STATE_FIELD(struct rtc_state, seen_p, 1, 0),
};
static const struct state_desc rtc_desc = STATE_DESC("rtc", 1, struct rtc_state, rtc_fields);

/* ---- the calendar (proleptic Gregorian; day 0 is 1970-01-01, a Thursday) ---- */

/* Years are counted from March, so that the leap day is the last one. */
static int64_t days_from_date(int64_t year, unsigned month, unsigned day)
{
    if (month <= 2) {
        year--;
        month += 12;
    }
    int64_t leaps = year / 4 - year / 100 + year / 400;
    return 365 * year + leaps + (153 * (month - 3) + 2) / 5 + day - 1 - 719468;
}

static void date_from_days(int64_t days, int64_t *year, unsigned *month, unsigned *day)
{
    days += 719468;
    int64_t y = days * 400 / 146097; /* a guess, right or one too high */
    while (365 * y + y / 4 - y / 100 + y / 400 > days)
        y--;
    while (365 * (y + 1) + (y + 1) / 4 - (y + 1) / 100 + (y + 1) / 400 <= days)
        y++;
    unsigned left = (unsigned)(days - (365 * y + y / 4 - y / 100 + y / 400));
    unsigned m = (5 * left + 2) / 153;
    *day = left - (153 * m + 2) / 5 + 1;
    *month = m < 10 ? m + 3 : m - 9;
    *year = y + (*month <= 2);
}

/* Seconds since midnight, of a time that may lie before 1970. */
static unsigned second_of_day(int64_t t) { return (unsigned)((t % DAY_S + DAY_S) % DAY_S); }

/* ---- registers in their two codes ---- */

static uint8_t encode(const struct rtc_state *s, unsigned v)
{
    return (uint8_t)(s->cmos[REG_B] & B_DM ? v : (v / 10 % 10) << 4 | v % 10);
}

static unsigned decode(const struct rtc_state *s, uint8_t reg)
{
    return s->cmos[REG_B] & B_DM ? reg : (reg >> 4) * 10u + (reg & 15);
}

static uint8_t encode_hour(const struct rtc_state *s, unsigned hour)
{
    if (s->cmos[REG_B] & B_24H)
        return encode(s, hour);
    return encode(s, (hour + 11) % 12 + 1) | (hour >= 12 ? HOURS_PM : 0);
}

static unsigned decode_hour(const struct rtc_state *s, uint8_t reg)
{
    if (s->cmos[REG_B] & B_24H)
        return decode(s, reg);
    return decode(s, reg & ~HOURS_PM) % 12 + (reg & HOURS_PM ? 12 : 0);
}

static bool is_time(unsigned reg)
{
    return (reg <= YEAR && reg != SECONDS_ALARM && reg != MINUTES_ALARM && reg != HOURS_ALARM) || reg == CENTURY;
}

static void time_to_registers(struct rtc_state *s, int64_t t)
{
    unsigned left = second_of_day(t), month, day;
    int64_t days = (t - left) / DAY_S, year;

    date_from_days(days, &year, &month, &day);
    s->cmos[SECONDS] = encode(s, left % 60);
    s->cmos[MINUTES] = encode(s, left / 60 % 60);
    s->cmos[HOURS] = encode_hour(s, left / 3600);
    s->cmos[WEEKDAY] = encode(s, (unsigned)(((days + 4 + s->weekday) % 7 + 7) % 7) + 1);
    s->cmos[DAY] = encode(s, day);
    s->cmos[MONTH] = encode(s, month);
    s->cmos[YEAR] = encode(s, (unsigned)(year % 100));
    s->cmos[CENTURY] = encode(s, (unsigned)(year / 100 % 100));
}

/* Seconds since 1970; a value out of range carries over as arithmetic has it. */
static int64_t time_from_registers(struct rtc_state *s)
{
    int64_t year = decode(s, s->cmos[CENTURY]) * 100 + decode(s, s->cmos[YEAR]);
    unsigned month = (decode(s, s->cmos[MONTH]) + 11) % 12 + 1;
    int64_t days = days_from_date(year, month, decode(s, s->cmos[DAY]));

    /* The chip counts weekdays by themselves: keep whatever distance the guest has set. */
    s->weekday = (uint8_t)((decode(s, s->cmos[WEEKDAY]) + 6 + 7 - (unsigned)((days % 7 + 7 + 4) % 7)) % 7);
    return days * DAY_S + decode_hour(s, s->cmos[HOURS]) * 3600 + decode(s, s->cmos[MINUTES]) * 60 +
           decode(s, s->cmos[SECONDS]);
}

/* ---- time ---- */

static bool divider_runs(const struct rtc_state *s) { return (s->cmos[REG_A] & A_DV) == A_DV_32KHZ; }

/* The time registers count. */
static bool clock_runs(const struct rtc_state *s) { return divider_runs(s) && !(s->cmos[REG_B] & B_SET); }

/* PF comes every 2^n crystal ticks; -1 for never. */
static int period_shift(const struct rtc_state *s)
{
    unsigned rs = s->cmos[REG_A] & A_RS;
    if (!rs || !divider_runs(s))
        return -1;
    return (int)(rs <= 2 ? rs + 6 : rs - 1);
}

static uint64_t periods(const struct rtc *rtc, uint64_t now_ns)
{
    int shift = period_shift(&rtc->s);
    return shift < 0 ? 0 : ns_to_ticks(now_ns - rtc->divider_ns, CRYSTAL_HZ) >> shift;
}

static uint64_t divider_s(const struct rtc *rtc, uint64_t now_ns) { return (now_ns - rtc->divider_ns) / NS_PER_S; }

/* The alarm's registers hold a time of day, each of them or "any": else it never comes. */
static bool alarm_possible(const struct rtc_state *s)
{
    const uint8_t sec = s->cmos[SECONDS_ALARM], min = s->cmos[MINUTES_ALARM], hour = s->cmos[HOURS_ALARM];
    bool sec_found = sec >= ALARM_ANY, min_found = min >= ALARM_ANY, hour_found = hour >= ALARM_ANY;
    for (unsigned v = 0; v < 60; v++) {
        sec_found |= encode(s, v) == sec;
        min_found |= encode(s, v) == min;
        hour_found |= v < 24 && encode_hour(s, v) == hour;
    }
    return sec_found && min_found && hour_found;
}

/* The first second after t at which the alarm matches, INT64_MAX for none. */
static int64_t next_alarm(const struct rtc_state *s, int64_t t)
{
    const uint8_t sec = s->cmos[SECONDS_ALARM], min = s->cmos[MINUTES_ALARM], hour = s->cmos[HOURS_ALARM];
    const int64_t end = t + DAY_S;

    if (!alarm_possible(s)) /* not looked for all day, each time that the guest touches the clock */
        return INT64_MAX;
    for (t++; t <= end;) {
        unsigned left = second_of_day(t);
        if (hour < ALARM_ANY && encode_hour(s, left / 3600) != hour)
            t += 3600 - left % 3600;
        else if (min < ALARM_ANY && encode(s, left / 60 % 60) != min)
            t += 60 - left % 60;
        else if (sec < ALARM_ANY && encode(s, left % 60) != sec)
            t++;
        else
            return t;
    }
    return INT64_MAX;
}

/* Brings the flags of register C to now. */
static void rtc_advance(struct rtc *rtc, uint64_t now_ns)
{
    struct rtc_state *s = &rtc->s;
    uint64_t p = periods(rtc, now_ns);

    if (p != s->seen_p) {
        s->seen_p = p;
        s->cmos[REG_C] |= C_PF;
    }
    uint64_t sec = divider_s(rtc, now_ns);
    if (clock_runs(s) && sec > s->seen_s) {
        if (next_alarm(s, s->base_s + (int64_t)s->seen_s) <= s->base_s + (int64_t)sec)
            s->cmos[REG_C] |= C_AF;
        s->cmos[REG_C] |= C_UF;
    }
    s->seen_s = sec;
}

static void rtc_arm(struct rtc *rtc)
{
    const struct rtc_state *s = &rtc->s;
    uint64_t at = NO_DEADLINE;
    uint8_t b = s->cmos[REG_B];

    /* With IRQF up nothing more can happen before register C is read, but the alarm is told on another wire, too. */
    bool irq = rtc->connected && !rtc->level, alarm = rtc->alarm && !rtc->alarming;
    if (irq || alarm) {
        uint64_t ns = NO_DEADLINE;
        int shift = period_shift(s);
        if (irq && (b & B_PIE) && shift >= 0)
            ns = ticks_to_ns((s->seen_p + 1) << shift, CRYSTAL_HZ);
        if (clock_runs(s)) {
            uint64_t sec = NO_DEADLINE / NS_PER_S;
            if (b & B_AIE) {
                int64_t next = next_alarm(s, s->base_s + (int64_t)s->seen_s);
                if (next != INT64_MAX)
                    sec = (uint64_t)(next - s->base_s);
            }
            if (irq && (b & B_UIE))
                sec = s->seen_s + 1;
            if (sec < NO_DEADLINE / NS_PER_S && sec * NS_PER_S < ns)
                ns = sec * NS_PER_S;
        }
        if (ns != NO_DEADLINE)
            at = rtc->divider_ns + ns;
    }
    if (at == rtc->armed_ns)
        return;
    rtc->armed_ns = at;
    if (at == NO_DEADLINE)
        timer_cancel(&rtc->timer);
    else
        timer_set(&rtc->timer, at);
}

/* What follows from the flags and their enables. */
static void rtc_changed(struct rtc *rtc)
{
    bool level = rtc->connected && (rtc->s.cmos[REG_C] & rtc->s.cmos[REG_B] & C_FLAGS);

    if (level != rtc->level) {
        rtc->level = level;
        irq_set(&rtc->irq, level);
    }
    bool alarming = rtc->s.cmos[REG_C] & rtc->s.cmos[REG_B] & C_AF;
    if (alarming && !rtc->alarming && rtc->alarm)
        rtc->alarm(rtc->alarm_arg);
    rtc->alarming = alarming;
    rtc_arm(rtc);
}

static void rtc_timer(void *arg)
{
    struct rtc *rtc = arg;
    rtc->armed_ns = NO_DEADLINE;
    rtc_advance(rtc, os_clock_ns());
    rtc_changed(rtc);
}

/* ---- registers ---- */

/* The time registers show the time, if it is they that count. */
static void rtc_latch(struct rtc *rtc)
{
    if (clock_runs(&rtc->s))
        time_to_registers(&rtc->s, rtc->s.base_s + (int64_t)rtc->s.seen_s);
}

/* The clock goes on from what the time registers show. */
static void rtc_commit(struct rtc *rtc)
{
    if (clock_runs(&rtc->s))
        rtc->s.base_s = time_from_registers(&rtc->s) - (int64_t)rtc->s.seen_s;
}

static void rtc_write_control(struct rtc *rtc, unsigned reg, uint8_t val, uint64_t now_ns)
{
    struct rtc_state *s = &rtc->s;
    bool divided = divider_runs(s), ran = clock_runs(s);

    rtc_latch(rtc);
    if (reg == REG_A) {
        s->cmos[REG_A] = val & ~A_UIP;
        if (divider_runs(s) && !divided) {
            /* Released from reset, the chain makes its first update half a second later. */
            rtc->divider_ns = now_ns - NS_PER_S / 2;
            s->seen_s = 0;
        }
    } else {
        s->cmos[REG_B] = val & B_SET ? val & ~B_UIE : val;
    }
    s->seen_p = periods(rtc, now_ns);
    if (!ran)
        rtc_commit(rtc);
}

static void rtc_write_register(struct rtc *rtc, unsigned reg, uint8_t val, uint64_t now_ns)
{
    struct rtc_state *s = &rtc->s;

    if (is_time(reg)) {
        rtc_latch(rtc);
        s->cmos[reg] = val;
        rtc_commit(rtc);
    } else if (reg == REG_A || reg == REG_B) {
        rtc_write_control(rtc, reg, val, now_ns);
    } else if (reg != REG_C && reg != REG_D) {
        s->cmos[reg] = val;
    }
}

static uint8_t rtc_read_register(struct rtc *rtc, unsigned reg, uint64_t now_ns)
{
    struct rtc_state *s = &rtc->s;
    uint8_t val;

    if (is_time(reg))
        rtc_latch(rtc);
    val = s->cmos[reg];
    if (reg == REG_A && clock_runs(s) && (now_ns - rtc->divider_ns) % NS_PER_S >= NS_PER_S - UIP_NS)
        val |= A_UIP;
    if (reg == REG_C) {
        if (val & s->cmos[REG_B] & C_FLAGS)
            val |= C_IRQF;
        s->cmos[REG_C] = 0;
    }
    return val;
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size)
{
    struct rtc *rtc = dev;

    if (off == 0)
        return 0xff; /* the index cannot be read back */
    pthread_mutex_lock(rtc->lock);
    uint64_t now_ns = os_clock_ns();
    rtc_advance(rtc, now_ns);
    uint8_t val = rtc_read_register(rtc, rtc->s.index & 0x7f, now_ns);
    rtc_changed(rtc);
    pthread_mutex_unlock(rtc->lock);
    return val;
}

static void rtc_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct rtc *rtc = dev;

    pthread_mutex_lock(rtc->lock);
    if (off == 0) {
        rtc->s.index = (uint8_t)val;
        atomic_store(&rtc->nmi_masked, (val & INDEX_NMI_MASK) != 0);
    } else {
        uint64_t now_ns = os_clock_ns();
        rtc_advance(rtc, now_ns);
        rtc_write_register(rtc, rtc->s.index & 0x7f, (uint8_t)val, now_ns);
        rtc_changed(rtc);
    }
    pthread_mutex_unlock(rtc->lock);
}

static const struct io_ops rtc_ops = {.read = rtc_read, .write = rtc_write, .sizes = 1};

/* ---- life ---- */

bool rtc_nmi_masked(struct rtc *rtc) { return atomic_load(&rtc->nmi_masked); }

void rtc_connect(struct rtc *rtc, bool on)
{
    pthread_mutex_lock(rtc->lock);
    rtc->connected = on;
    rtc_advance(rtc, os_clock_ns());
    rtc_changed(rtc);
    pthread_mutex_unlock(rtc->lock);
}

static uint64_t at_most(uint64_t v, uint64_t max) { return v < max ? v : max; }

/* What firmware would leave in the memory. */
static void fill_memory(struct rtc_state *s, const struct rtc_options *opt)
{
    uint64_t above_1m = opt->mem_low > MiB(1) ? opt->mem_low - MiB(1) : 0;
    uint64_t above_16m = opt->mem_low > MiB(16) ? opt->mem_low - MiB(16) : 0;
    uint64_t above_1m_kib = at_most(above_1m >> 10, 0xffff);
    uint16_t sum = 0;

    s->cmos[EQUIPMENT] = 0x06; /* coprocessor, pointing device */
    put_le16(&s->cmos[BASE_MEMORY], (uint16_t)at_most(opt->mem_low >> 10, 640));
    put_le16(&s->cmos[EXTENDED_MEMORY], (uint16_t)above_1m_kib);
    put_le16(&s->cmos[EXTENDED_MEMORY_2], (uint16_t)above_1m_kib);
    put_le16(&s->cmos[MEMORY_ABOVE_16M], (uint16_t)at_most(above_16m >> 16, 0xffff));
    put_le(&s->cmos[MEMORY_ABOVE_4G], at_most(opt->mem_high >> 16, 0xffffff), 3);
    s->cmos[CPU_COUNT] = (uint8_t)(opt->nvcpus ? at_most(opt->nvcpus - 1, 0xff) : 0);
    for (unsigned i = 0x10; i < CHECKSUM; i++)
        sum += s->cmos[i];
    s->cmos[CHECKSUM] = (uint8_t)(sum >> 8);
    s->cmos[CHECKSUM + 1] = (uint8_t)sum;
}

void rtc_reset(struct rtc *rtc)
{
    struct rtc_state *s = &rtc->s;

    pthread_mutex_lock(rtc->lock);
    rtc_advance(rtc, os_clock_ns());
    s->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    s->cmos[REG_C] = 0;
    s->index = 0;
    atomic_store(&rtc->nmi_masked, false);
    rtc_changed(rtc);
    pthread_mutex_unlock(rtc->lock);
}

int rtc_save(struct rtc *rtc, struct state_blob *out)
{
    pthread_mutex_lock(rtc->lock);
    uint64_t now_ns = os_clock_ns();
    rtc_advance(rtc, now_ns);
    rtc_changed(rtc);
    rtc->s.divider_wall_ns = os_wall_ns() - (now_ns - rtc->divider_ns);
    int err = state_save(&rtc_desc, &rtc->s, out);
    pthread_mutex_unlock(rtc->lock);
    return err;
}

/* Control registers as a guest could have made them. */
static void rtc_power_on(struct rtc_state *s)
{
    state_reset(&rtc_desc, s);
    s->cmos[REG_A] = A_DV_32KHZ | 6;
    s->cmos[REG_B] = B_24H;
    s->cmos[REG_D] = D_VRT;
}

int rtc_load(struct rtc *rtc, const uint8_t *data, size_t len, size_t *pos)
{
    struct rtc_state *s = &rtc->s;
    const int64_t earliest = days_from_date(0, 1, 1) * DAY_S, latest = days_from_date(30000, 1, 1) * DAY_S;

    pthread_mutex_lock(rtc->lock);
    int err = state_load(&rtc_desc, s, data, len, pos);
    if (err)
        rtc_power_on(s);
    /* A file is input from outside: keep the arithmetic within its bounds. */
    s->cmos[REG_A] &= (uint8_t)~A_UIP;
    s->cmos[REG_C] &= C_FLAGS;
    s->cmos[REG_D] = D_VRT;
    s->weekday %= 7;
    if (s->base_s < earliest || s->base_s > latest)
        s->base_s = 0;
    uint64_t wall_ns = os_wall_ns(), now_ns = os_clock_ns();
    uint64_t age_ns = wall_ns - s->divider_wall_ns;
    rtc->divider_ns = now_ns - (age_ns <= INT64_MAX ? age_ns : 0);
    /* Nothing happened while the machine was away that it could have seen: at most one event of each kind. */
    s->seen_s = at_most(s->seen_s, divider_s(rtc, now_ns));
    s->seen_p = at_most(s->seen_p, periods(rtc, now_ns));
    atomic_store(&rtc->nmi_masked, (s->index & INDEX_NMI_MASK) != 0);
    rtc->level = rtc->connected && (s->cmos[REG_C] & s->cmos[REG_B] & C_FLAGS);
    irq_set(&rtc->irq, rtc->level);
    rtc->alarming = s->cmos[REG_C] & s->cmos[REG_B] & C_AF; /* what came of it is in the state of others */
    rtc_arm(rtc);
    pthread_mutex_unlock(rtc->lock);
    return err;
}

int rtc_init(struct rtc *rtc, struct bus *pio, struct loop *loop, pthread_mutex_t *lock, struct irq_line irq,
             const struct rtc_options *opt)
{
    const struct io_range ports = {.base = PORT_INDEX, .len = 2, .ops = &rtc_ops, .dev = rtc, .name = "rtc"};
    uint64_t now_ns = os_clock_ns(), wall_ns = os_wall_ns();
    time_t wall_s = (time_t)(wall_ns / NS_PER_S);
    struct tm local = {0};

    *rtc = (struct rtc){.lock = lock, .irq = irq, .connected = true, .armed_ns = NO_DEADLINE};
    rtc->alarm = opt->alarm;
    rtc->alarm_arg = opt->alarm_arg;
    rtc_power_on(&rtc->s);
    fill_memory(&rtc->s, opt);
    rtc->divider_ns = now_ns - wall_ns % NS_PER_S;
    rtc->s.base_s = wall_s;
    if (!opt->utc && localtime_r(&wall_s, &local))
        rtc->s.base_s += local.tm_gmtoff;
    rtc->s.seen_p = periods(rtc, now_ns);
    timer_init(&rtc->timer, loop, lock, rtc_timer, rtc);
    return bus_add(pio, &ports);
}

void rtc_fini(struct rtc *rtc) { timer_cancel(&rtc->timer); }
