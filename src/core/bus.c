/*
 * A bus: who answers at which address.
 *
 * Ranges may overlap; each change flattens them into a table of disjoint
 * segments, which is never modified once it is published. An access announces
 * the table that it uses in a slot of its own (a hazard pointer), so a change
 * sees which old tables are still in use and frees the others: nobody waits
 * for anybody, and there are never more old tables than accesses under way.
 */
#include "core/bus.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

/* Each access under way holds one: 64 vCPUs, a few I/O threads, and callbacks that use the bus themselves. */
#define NSLOTS 256

struct segment {
    uint64_t first, last; /* inclusive */
    struct io_range range;
};

struct table {
    struct table *next; /* among bus->old */
    unsigned n;
    struct segment seg[]; /* ascending, disjoint */
};

struct slot {
    _Alignas(64) struct table *_Atomic table; /* NULL: free */
};

struct bus {
    struct slot slot[NSLOTS];
    _Alignas(64) struct table *_Atomic table;

    pthread_mutex_t lock;    /* covers what follows; taken by changes only */
    struct io_range *ranges; /* by priority, then in the order added */
    unsigned nranges;
    struct table *old; /* replaced, perhaps still in use */
};

/* ---- changes ---- */

static uint64_t range_last(const struct io_range *r) { return r->base + (r->len - 1); }

static int compare_u64(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    return (x > y) - (x < y);
}

/*
 * Flattens ranges, which stand in the order of their claims. Between two
 * neighbouring borders the answer is the same everywhere, so it is decided
 * once for each such interval.
 */
static struct table *table_new(const struct io_range *ranges, unsigned n)
{
    size_t max = 2 * (size_t)n; /* a new range adds two borders */
    struct table *t = malloc(sizeof(*t) + max * sizeof(t->seg[0]));
    uint64_t *border = malloc((max + 1) * sizeof(*border));
    if (!t || !border) {
        free(t);
        free(border);
        return NULL;
    }
    t->next = NULL;
    t->n = 0;

    size_t nborders = 0;
    for (unsigned i = 0; i < n; i++) {
        border[nborders++] = ranges[i].base;
        if (range_last(&ranges[i]) != UINT64_MAX)
            border[nborders++] = range_last(&ranges[i]) + 1;
    }
    qsort(border, nborders, sizeof(*border), compare_u64);

    const struct io_range *previous = NULL;
    for (size_t b = 0; b < nborders; b++) {
        uint64_t first = border[b], last = b + 1 < nborders ? border[b + 1] - 1 : UINT64_MAX;
        if (b + 1 < nborders && border[b + 1] == first)
            continue;
        const struct io_range *winner = NULL;
        for (unsigned i = 0; i < n && !winner; i++) {
            if (first - ranges[i].base < ranges[i].len)
                winner = &ranges[i];
        }
        if (winner && winner == previous)
            t->seg[t->n - 1].last = last;
        else if (winner)
            t->seg[t->n++] = (struct segment){.first = first, .last = last, .range = *winner};
        previous = winner;
    }
    free(border);
    return t;
}

/* Frees the old tables that no access uses. */
static void free_old(struct bus *bus)
{
    const struct table *used[NSLOTS];
    unsigned nused = 0;

    for (unsigned i = 0; i < NSLOTS; i++) {
        const struct table *t = atomic_load(&bus->slot[i].table);
        if (t)
            used[nused++] = t;
    }
    for (struct table **link = &bus->old; *link;) {
        struct table *t = *link;
        bool in_use = false;
        for (unsigned i = 0; i < nused && !in_use; i++)
            in_use = used[i] == t;
        if (in_use) {
            link = &t->next;
        } else {
            *link = t->next;
            free(t);
        }
    }
}

static void publish(struct bus *bus, struct table *t)
{
    struct table *old = atomic_exchange(&bus->table, t);
    old->next = bus->old;
    bus->old = old;
    free_old(bus);
}

int bus_new(struct bus **out)
{
    *out = NULL;
    struct bus *bus = aligned_alloc(64, align_up(sizeof(*bus), 64));
    struct table *t = table_new(NULL, 0);
    if (!bus || !t) {
        free(bus);
        free(t);
        return -ENOMEM;
    }
    memset(bus, 0, sizeof(*bus));
    pthread_mutex_init(&bus->lock, NULL);
    atomic_init(&bus->table, t);
    *out = bus;
    return 0;
}

void bus_free(struct bus *bus)
{
    if (!bus)
        return;
    while (bus->old) {
        struct table *t = bus->old;
        bus->old = t->next;
        free(t);
    }
    free(atomic_load(&bus->table));
    free(bus->ranges);
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

static int add_locked(struct bus *bus, const struct io_range *r)
{
    unsigned at = 0;
    for (unsigned i = 0; i < bus->nranges; i++) {
        const struct io_range *o = &bus->ranges[i];
        if (r->priority == 0 && o->priority == 0 && r->base <= range_last(o) && o->base <= range_last(r))
            return -EEXIST;
        if (o->priority <= r->priority)
            at = i + 1;
    }

    struct io_range *ranges = realloc(bus->ranges, (bus->nranges + 1) * sizeof(*ranges));
    if (!ranges)
        return -ENOMEM;
    bus->ranges = ranges;
    memmove(&ranges[at + 1], &ranges[at], (bus->nranges - at) * sizeof(*ranges));
    ranges[at] = *r;
    struct table *t = table_new(ranges, bus->nranges + 1);
    if (!t) {
        memmove(&ranges[at], &ranges[at + 1], (bus->nranges - at) * sizeof(*ranges));
        return -ENOMEM;
    }
    bus->nranges++;
    publish(bus, t);
    return 0;
}

int bus_add(struct bus *bus, const struct io_range *range)
{
    if (range->len == 0 || range_last(range) < range->base || (range->ops->sizes & ~15))
        return -EINVAL;
    pthread_mutex_lock(&bus->lock);
    int error = add_locked(bus, range);
    pthread_mutex_unlock(&bus->lock);
    return error;
}

static int remove_locked(struct bus *bus, uint64_t base, void *dev)
{
    unsigned at = 0;
    while (at < bus->nranges && (bus->ranges[at].base != base || bus->ranges[at].dev != dev))
        at++;
    if (at == bus->nranges)
        return -ENOENT;

    struct io_range gone = bus->ranges[at];
    unsigned behind = bus->nranges - at - 1;
    memmove(&bus->ranges[at], &bus->ranges[at + 1], behind * sizeof(gone));
    struct table *t = table_new(bus->ranges, bus->nranges - 1);
    if (!t) {
        memmove(&bus->ranges[at + 1], &bus->ranges[at], behind * sizeof(gone));
        bus->ranges[at] = gone;
        return -ENOMEM;
    }
    bus->nranges--;
    publish(bus, t);
    return 0;
}

int bus_remove(struct bus *bus, uint64_t base, void *dev)
{
    pthread_mutex_lock(&bus->lock);
    int error = remove_locked(bus, base, dev);
    pthread_mutex_unlock(&bus->lock);
    return error;
}

/* ---- accesses ---- */

/* Where this thread looks for a free slot first: apart from other threads as far as chance goes. */
static unsigned home_slot(void)
{
    uint64_t hash = (uint64_t)(uintptr_t)pthread_self() * UINT64_C(0x9e3779b97f4a7c15);
    return (unsigned)(hash >> 56) % NSLOTS;
}

/* Takes a slot and announces the current table in it: the table lives until leave(). */
static struct slot *enter(struct bus *bus)
{
    struct table *t = atomic_load(&bus->table);
    unsigned i = home_slot();

    for (unsigned tries = 1;; tries++) {
        struct table *none = NULL;
        if (!atomic_load_explicit(&bus->slot[i].table, memory_order_relaxed) &&
            atomic_compare_exchange_strong(&bus->slot[i].table, &none, t))
            break;
        i = (i + 1) % NSLOTS;
        if (tries % NSLOTS == 0)
            sched_yield();
    }
    /* The table may have been replaced, and freed, before a change could see the announcement. */
    for (;;) {
        struct table *now = atomic_load(&bus->table);
        if (now == t)
            return &bus->slot[i];
        t = now;
        atomic_store(&bus->slot[i].table, t);
    }
}

static void leave(struct slot *slot) { atomic_store_explicit(&slot->table, NULL, memory_order_release); }

/* The first segment that ends at addr or later, or NULL. */
static const struct segment *find(const struct table *t, uint64_t addr)
{
    unsigned low = 0, high = t->n;
    while (low < high) {
        unsigned mid = low + (high - low) / 2;
        if (t->seg[mid].last < addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low < t->n ? &t->seg[low] : NULL;
}

/* The next step of an access of `left` bytes to r at off: the size that the device sees, or 0 if it must be widened. */
static unsigned step_size(const struct io_ops *ops, uint64_t off, unsigned left)
{
    unsigned sizes = ops->sizes ? ops->sizes : 1 | 2 | 4 | 8;
    for (unsigned size = 8; size; size /= 2) {
        if ((sizes & size) && size <= left && off % size == 0)
            return size;
    }
    return 0;
}

static unsigned smallest_size(const struct io_ops *ops) { return ops->sizes & -(unsigned)ops->sizes & 15; }

/* n bytes that all belong to r. */
static uint64_t range_read(const struct io_range *r, uint64_t off, unsigned n)
{
    uint64_t val = 0;

    if (!r->ops->read)
        return size_mask(n);
    for (unsigned done = 0; done < n;) {
        unsigned left = n - done, size = step_size(r->ops, off + done, left), skip = 0;
        uint64_t v = UINT64_MAX;
        if (size) {
            v = r->ops->read(r->dev, off + done, size);
        } else {
            size = smallest_size(r->ops);
            uint64_t start = align_down(off + done, size);
            skip = (unsigned)(off + done - start);
            if (r->len >= size && start <= r->len - size)
                v = r->ops->read(r->dev, start, size) >> (8 * skip);
        }
        unsigned got = size - skip < left ? size - skip : left;
        val |= (v & size_mask(got)) << (8 * done);
        done += got;
    }
    return val;
}

static void range_write(const struct io_range *r, uint64_t off, unsigned n, uint64_t val)
{
    if (!r->ops->write)
        return;
    for (unsigned done = 0; done < n;) {
        unsigned size = step_size(r->ops, off + done, n - done);
        if (size)
            r->ops->write(r->dev, off + done, size, (val >> (8 * done)) & size_mask(size));
        done += size ? size : 1; /* a byte that is part of nothing the device understands is dropped */
    }
}

/*
 * Cuts the n bytes at addr where the answer changes: *seg is who answers the
 * first piece, NULL for nobody; the result is its length.
 */
static unsigned piece(const struct table *t, uint64_t addr, unsigned n, const struct segment **seg)
{
    const struct segment *s = find(t, addr);
    uint64_t len;

    if (s && s->first <= addr) {
        *seg = s;
        len = s->last - addr + 1; /* 0 stands for 2^64 */
    } else {
        *seg = NULL;
        len = s ? s->first - addr : 0;
    }
    return len && len < n ? (unsigned)len : n;
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
    struct slot *slot = enter(bus);
    const struct table *t = atomic_load_explicit(&slot->table, memory_order_relaxed);
    uint64_t val = 0;

    for (unsigned done = 0; done < size;) {
        const struct segment *seg = NULL;
        unsigned n = size - done;
        if (addr + done >= addr) /* nobody is beyond the end of the address space */
            n = piece(t, addr + done, n, &seg);
        uint64_t v = seg ? range_read(&seg->range, addr + done - seg->range.base, n) : size_mask(n);
        val |= v << (8 * done);
        done += n;
    }
    leave(slot);
    return val;
}

void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t val)
{
    struct slot *slot = enter(bus);
    const struct table *t = atomic_load_explicit(&slot->table, memory_order_relaxed);

    for (unsigned done = 0; done < size;) {
        const struct segment *seg = NULL;
        unsigned n = size - done;
        if (addr + done >= addr)
            n = piece(t, addr + done, n, &seg);
        if (seg)
            range_write(&seg->range, addr + done - seg->range.base, n, val >> (8 * done));
        done += n;
    }
    leave(slot);
}

int bus_claims(struct bus *bus, uint64_t addr)
{
    struct slot *slot = enter(bus);
    const struct table *t = atomic_load_explicit(&slot->table, memory_order_relaxed);
    const struct segment *seg = find(t, addr);
    int claimed = seg && seg->first <= addr;

    leave(slot);
    return claimed;
}

const void *bus_owner(struct bus *bus, uint64_t addr)
{
    struct slot *slot = enter(bus);
    const struct table *t = atomic_load_explicit(&slot->table, memory_order_relaxed);
    const struct segment *seg = find(t, addr);
    const void *owner = seg && seg->first <= addr ? seg->range.dev : NULL;

    leave(slot);
    return owner;
}
