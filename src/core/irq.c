/* Several interrupt sources on one pin. */
#include "core/irq.h"

#include <sched.h>

/*
 * The lock is never held over out.set(): that may take the chipset's lock,
 * and a source may hold the chipset's lock while it comes here. So deliveries
 * are handed over: who finds another thread delivering leaves its change with it.
 */
static void or_lock(struct irq_or *or)
{
    while (atomic_exchange_explicit(&or->lock, 1, memory_order_acquire))
        sched_yield();
}

static void or_unlock(struct irq_or *or)
{
    atomic_store_explicit(&or->lock, 0, memory_order_release);
}

static void or_set(void *chip, unsigned input, bool level)
{
    struct irq_or *or = chip;
    uint64_t bit = UINT64_C(1) << (input & 63);

    or_lock(or);
    bool before = or->levels != 0;
    or->levels = level ? or->levels | bit : or->levels & ~bit;
    if (before != (or->levels != 0))
        or->changes++;
    if (or->busy) {
        or_unlock(or);
        return;
    }
    or->busy = true;
    while (or->changes) {
        /* Two changes that cancel out are an edge all the same. More than three show nothing that three do not. */
        unsigned n = or->changes > 3 ? 2 + (or->changes & 1) : or->changes;
        or->changes = 0;
        while (n--) {
            bool shown = or->shown = !or->shown;
            or_unlock(or);
            irq_set(&or->out, shown);
            or_lock(or);
        }
    }
    or->busy = false;
    or_unlock(or);
}

void irq_or_init(struct irq_or *or, struct irq_line out)
{
    *or = (struct irq_or){.out = out};
}

struct irq_line irq_or_input(struct irq_or *or, unsigned input)
{
    return (struct irq_line){.set = or_set, .chip = or, .pin = input};
}
