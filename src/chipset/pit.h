/*
 * The 8254 interval timer of a PC at ports 0x40-0x43 and the system control
 * port 0x61: counter 0 drives IRQ0, counter 1 is the memory refresh, counter 2
 * the speaker.
 */
#ifndef XHYVE_CHIPSET_PIT_H
#define XHYVE_CHIPSET_PIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"
#include "os/loop.h"

#define PIT_HZ 1193182

/* Times are CLK pulses since the chip's epoch; UINT64_MAX is never. */
struct pit_counter {
    uint64_t tick;    /* the state below is that of this CLK pulse */
    uint64_t load_at; /* when CR goes into CE */
    uint64_t elapsed; /* CLK pulses counted since CE was loaded; in mode 3 since this half began */
    uint32_t n;       /* what CE was loaded with: 1 to 65536 */
    uint32_t cr;      /* the count register in the same form; 0: nothing written since the control word */
    uint32_t held;    /* what CE shows while it does not count */
    uint8_t cw;       /* control word bits 5 to 0 as written: RW, M, BCD */
    bool gate;
    bool running;             /* CE has been loaded and goes by `elapsed` */
    bool low_half;            /* mode 3 */
    bool null_count;          /* CR is newer than CE */
    bool write_msb, read_msb; /* RW = 3: the byte that comes next */
    uint8_t write_lsb;
    bool count_latched, status_latched;
    uint16_t count_latch;
    uint8_t status_latch;
};

struct pit_state {
    struct pit_counter c[3];
    uint64_t age_ns; /* time since the epoch: made for save, used by load */
    uint8_t port61;  /* bits 3 to 0 as written */
    uint32_t missed; /* edges of counter 0 that the host was too late for and still owes */
};

struct pit {
    struct pit_state s;
    uint64_t epoch_ns; /* os_clock_ns() at CLK pulse 0 */
    pthread_mutex_t *lock;
    struct timer timer;
    uint64_t armed_ns; /* what `timer` was last set to */
    uint64_t owed_ns;  /* when the next owed edge may go out */
    struct irq_line irq;
    bool level;     /* what `irq` was last told */
    bool connected; /* counter 0 reaches `irq` */
};

/*
 * Adds the chip and port 0x61 to the I/O port bus. `irq` is the output of
 * counter 0. `lock` is the chipset lock. 0 or -errno.
 */
int pit_init(struct pit *, struct bus *pio, struct loop *, pthread_mutex_t *lock, struct irq_line irq);
void pit_fini(struct pit *);
void pit_reset(struct pit *);

/*
 * Takes IRQ0 away (false) or gives it back: the HPET's legacy replacement.
 * While it is away its line is low, and no host timer runs. Any thread.
 */
void pit_connect(struct pit *, bool on);

/* 0 or -errno. `connected` belongs to whoever set it and is not saved. */
int pit_save(struct pit *, struct state_blob *out);
int pit_load(struct pit *, const uint8_t *data, size_t len, size_t *pos);

#endif
