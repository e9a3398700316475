/*
 * The real-time clock and CMOS memory of a PC: an MC146818 at ports 0x70-0x71.
 * The top bit of port 0x70 masks the NMI.
 */
#ifndef XHYVE_CHIPSET_RTC_H
#define XHYVE_CHIPSET_RTC_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"
#include "os/loop.h"

#define RTC_CMOS_SIZE 128

struct rtc_state {
    uint8_t index;               /* as written to port 0x70, NMI mask included */
    uint8_t cmos[RTC_CMOS_SIZE]; /* every register; the time in its own form only while the clock stands */
    uint64_t divider_wall_ns;    /* wall time at which the divider chain was zero: made for save, used by load */
    int64_t base_s;              /* the clock's time at that moment, seconds since 1970 in its own zone */
    uint8_t weekday;             /* added to the weekday that the date has, modulo 7 */
    uint64_t seen_s;             /* seconds of the divider that have been looked at for UF and AF */
    uint64_t seen_p;             /* periods of the divider that have been looked at for PF */
};

struct rtc {
    struct rtc_state s;
    uint64_t divider_ns; /* os_clock_ns() at which the divider chain was zero */
    pthread_mutex_t *lock;
    struct timer timer;
    uint64_t armed_ns; /* what `timer` was last set to */
    struct irq_line irq;
    bool level;     /* what `irq` was last told */
    bool connected; /* IRQF reaches `irq` */
    bool alarming;  /* the alarm's flag and its enable are both up */
    void (*alarm)(void *arg);
    void *alarm_arg;
    _Atomic bool nmi_masked;
};

struct rtc_options {
    bool utc;          /* -u; otherwise the clock shows the host's local time */
    uint64_t mem_low;  /* bytes of RAM below 4 GiB, of which the first MiB is conventional memory and ROM */
    uint64_t mem_high; /* bytes of RAM above 4 GiB */
    unsigned nvcpus;   /* stored where firmware looks for it (0x5F) */
    /* The alarm has come and is enabled (ACPI: RTC_STS), connected or not. Under the chipset lock. NULL: nobody asks. */
    void (*alarm)(void *arg);
    void *alarm_arg;
};

/* Adds the chip to the I/O port bus. `irq` is IRQ8; `lock` is the chipset lock. 0 or -errno. */
int rtc_init(struct rtc *, struct bus *pio, struct loop *, pthread_mutex_t *lock, struct irq_line irq,
             const struct rtc_options *);
void rtc_fini(struct rtc *);
/* The RESET pin: interrupts are off; time, alarm and memory stay, a battery holds them. */
void rtc_reset(struct rtc *);

/* Takes IRQ8 away (false) or gives it back: the HPET's legacy replacement. Any thread. */
void rtc_connect(struct rtc *, bool on);

/* True if the guest has closed the NMI gate. Any thread, no lock. */
bool rtc_nmi_masked(struct rtc *);

/*
 * 0 or -errno. What is saved of the time is its distance to the host's clock:
 * after a load the clock is where it would be had it kept running.
 */
int rtc_save(struct rtc *, struct state_blob *out);
int rtc_load(struct rtc *, const uint8_t *data, size_t len, size_t *pos);

#endif
