/*
 * A bus: the I/O port space or the MMIO space of one VM.
 *
 * Accesses take no lock: they look up an immutable table that changes replace
 * by an atomic pointer; an old table is freed when every access has left it. A
 * device's callback may itself use the bus, and change it.
 */
#ifndef XHYVE_CORE_BUS_H
#define XHYVE_CORE_BUS_H

#include <stdint.h>

struct bus;

struct io_ops {
    /* off is relative to the range's base; size is 1, 2, 4 or 8. Called on the vCPU's thread. */
    uint64_t (*read)(void *dev, uint64_t off, unsigned size);
    void (*write)(void *dev, uint64_t off, unsigned size, uint64_t val);
    /*
     * The sizes that the device understands, as an OR of 1, 2, 4 and 8; 0 means
     * all four. A device sees only these, and only at an offset that is a
     * multiple of the size. Any other access is split, or widened to the
     * smallest declared size for a read whose surplus bytes are dropped (a
     * write smaller than all declared sizes is ignored). A NULL read reads as
     * ones, a NULL write ignores.
     */
    uint8_t sizes;
};

struct io_range {
    uint64_t base, len; /* the end may be 2^64, not beyond */
    const struct io_ops *ops;
    void *dev;
    const char *name; /* static; for messages */
    /*
     * 0: fixed, may not overlap another fixed one. BARs: 1 + (bus/device/function
     * << 3 | BAR). Where ranges overlap the lowest wins, then the one added first.
     */
    uint32_t priority;
};

/* 0 or -errno. */
int bus_new(struct bus **out);
void bus_free(struct bus *);

/*
 * Adds a range, by value. -EEXIST if priority is 0 and it overlaps a fixed
 * range, -EINVAL if it is empty or wraps. Any thread; does not wait for readers.
 */
int bus_add(struct bus *, const struct io_range *);
/*
 * Removes the range with this base and dev. -ENOENT if there is none, -ENOMEM
 * with nothing changed. After it returns no new access reaches the device; one
 * under way may still end. Any thread; does not wait.
 */
int bus_remove(struct bus *, uint64_t base, void *dev);

/*
 * An access of 1, 2, 4 or 8 bytes at any alignment. Where nobody answers, bytes
 * read as ones and writes vanish; an access across ranges is split. bus_claims()
 * tells if anybody answers at the address, bus_owner() the `dev` of who does (or
 * NULL). Any thread.
 */
uint64_t bus_read(struct bus *, uint64_t addr, unsigned size);
void bus_write(struct bus *, uint64_t addr, unsigned size, uint64_t val);
int bus_claims(struct bus *, uint64_t addr);
const void *bus_owner(struct bus *, uint64_t addr);

#endif
