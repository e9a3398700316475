/* Interrupt wires, handed over by value, and the OR of several on one pin. */
#ifndef XHYVE_CORE_IRQ_H
#define XHYVE_CORE_IRQ_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct irq_line {
    void (*set)(void *chip, unsigned pin, bool level);
    void *chip;
    unsigned pin;
};

/* A line with no chip is a wire that leads nowhere. Any thread. */
static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->chip, line->pin, level);
}

static inline void irq_pulse(const struct irq_line *line)
{
    irq_set(line, true);
    irq_set(line, false);
}

/*
 * Several sources on one pin: the output is high while any input is. Inputs
 * are 0 to 63; irq_or_input() makes the wire for one of them. Any thread, with
 * or without the lock that out.set takes: no lock is held while out is called.
 * A change made while another thread delivers one is delivered by that thread,
 * and no edge is lost.
 */
struct irq_or {
    struct irq_line out;
    uint64_t levels;
    uint32_t changes;      /* of the OR of all inputs, not yet delivered */
    bool shown;            /* the level that out has last been given */
    bool busy;             /* a thread is delivering */
    _Atomic uint32_t lock; /* covers the members above for a few instructions */
};
void irq_or_init(struct irq_or *, struct irq_line out);
struct irq_line irq_or_input(struct irq_or *, unsigned input);

/* A message-signalled interrupt, sent to whoever serves 0xFEExxxxx. Any thread. */
struct msi_sink {
    void (*send)(void *dev, uint64_t addr, uint32_t data);
    void *dev;
};

#endif
