/* Several interrupt sources on one pin. */
#include "core/irq.h"

#include <sched.h>

/*
 * The lock is never held over out.set(): that may take the chipset's lock,
 * and a source may hold the chipset's lock while it comes here. So deliveries
 * are handed over: who finds another thread delivering leaves its change with it.
 */
static void or_lock(struct irq_or *gate)
{
    while (atomic_exchange_explicit(&gate->lock, 1, memory_order_acquire))
        sched_yield();
}

static void or_unlock(struct irq_or *gate) { atomic_store_explicit(&gate->lock, 0, memory_order_release); }

static void or_set(void *chip, unsigned input, bool level)
{
    struct irq_or *gate = chip;
    uint64_t bit = UINT64_C(1) << (input & 63);

    or_lock(gate);
    bool before = gate->levels != 0;
    gate->levels = level ? gate->levels | bit : gate->levels & ~bit;
    if (before != (gate->levels != 0))
        gate->changes++;
    if (gate->busy) {
        or_unlock(gate);
        return;
    }
    gate->busy = true;
    while (gate->changes) {
        /* Two changes that cancel out are an edge all the same. More than three show nothing that three do not. */
        unsigned n = gate->changes > 3 ? 2 + (gate->changes & 1) : gate->changes;
        gate->changes = 0;
        while (n--) {
            bool shown = gate->shown = !gate->shown;
            or_unlock(gate);
            irq_set(&gate->out, shown);
            or_lock(gate);
        }
    }
    gate->busy = false;
    or_unlock(gate);
}

void irq_or_init(struct irq_or *gate, struct irq_line out) { *gate = (struct irq_or){.out = out}; }

struct irq_line irq_or_input(struct irq_or *gate, unsigned input)
{
    return (struct irq_line){.set = or_set, .chip = gate, .pin = input};
}
