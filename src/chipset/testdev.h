/*
 * The test device that payload guests report through (-l pc-testdev):
 *
 *   0xF4           writing V ends the VM with status (V << 1) | 1
 *   0x2000-0x2017  writing nonzero raises, zero lowers GSI 0 to 23
 *   0xE0-0xE3      a register that reads back what was written, by 1, 2 or 4 bytes
 *   0xE4           "reloads a page mapping": see testdev.c
 *   0xFF000000     64 KiB of memory behind the MMIO path, all sizes
 */
#ifndef XHYVE_CHIPSET_TESTDEV_H
#define XHYVE_CHIPSET_TESTDEV_H

#include <pthread.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/mem.h"
#include "core/state.h"

#define TESTDEV_GSIS 24
#define TESTDEV_MMIO UINT64_C(0xff000000)
#define TESTDEV_MMIO_LEN 65536

struct testdev_state {
    uint8_t reg[4];
    uint8_t gsi_level[TESTDEV_GSIS];
    uint8_t mmio[TESTDEV_MMIO_LEN];
};

struct testdev {
    struct testdev_state s;
    struct bus *pio, *mmio;
    struct guest_mem *mem;
    void (*exit)(void *arg, int status);
    void *arg;
    struct irq_line gsi[TESTDEV_GSIS];
    pthread_mutex_t *lock;
};

struct testdev_wires {
    struct irq_line gsi[TESTDEV_GSIS]; /* inputs of their own, where a pin has other sources too */
    void (*exit)(void *arg,
                 int status); /* status 1 to 255, odd. vCPU's thread, no lock held: may only post the request */
    void *arg;
};

/* 0 or -errno. */
int testdev_init(struct testdev *, struct bus *pio, struct bus *mmio, struct guest_mem *, const struct testdev_wires *,
                 pthread_mutex_t *lock);
void testdev_fini(struct testdev *);
void testdev_reset(struct testdev *);
int testdev_save(struct testdev *, struct state_blob *);
int testdev_load(struct testdev *, const uint8_t *data, size_t len, size_t *pos);

#endif
