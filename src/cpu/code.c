/*
 * The map of code bytes and the mailboxes between CPUs. The protocol stands in
 * cpu/code.h; what makes it safe is said at each fence.
 */
#include "cpu/code.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/mem.h"
#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/mmu.h"
#include "os/clock.h"
#include "os/thread.h"
#include "os/wait.h"
#include "util/bytes.h"

#define MAILBOX_SIZE 64

enum note_kind { NOTE_EVICT, NOTE_INVALIDATE };

struct note {
    enum note_kind kind;
    uint64_t gpa, chunks;
};

/* One CPU's place in the map. */
struct code_slot {
    struct cpu *cpu; /* NULL: free */
    pthread_mutex_t lock;
    struct note note[MAILBOX_SIZE];
    unsigned count;
    bool overflow;            /* more than fit: flush everything */
    _Atomic uint32_t posted;  /* notes ever posted ... */
    _Atomic uint32_t served;  /* ... and served; a word to wait on */
    _Atomic uint32_t running; /* 1 while the CPU may touch its TLB and blocks */
} __attribute__((aligned(64)));

struct code_map {
    const struct guest_mem *mem;
    _Atomic uint64_t *words[MEM_MAX_REGIONS]; /* one a page, of each region */
    struct code_slot slot[VM_MAX_VCPUS];
    _Atomic uint32_t nslots;   /* slots ever used */
    _Atomic uint32_t settling; /* claims whose evictions are under way */
    _Atomic uint32_t crossing; /* 1: code_lock_crossing() */
    _Atomic uint32_t telling;  /* stores that have cleared bits and not yet told everybody */
    pthread_mutex_t join_lock;
    void (*watch)(void *arg, uint64_t gpa, uint64_t len);
    void *watch_arg;
};

static size_t words_bytes(const struct mem_region *r) { return (size_t)(r->len / MEM_PAGE) * sizeof(uint64_t); }

int code_map_new(struct code_map **out, const struct guest_mem *mem)
{
    struct code_map *map = NULL;
    if (posix_memalign((void **)&map, 64, sizeof(*map)))
        return -ENOMEM;
    memset(map, 0, sizeof(*map));
    map->mem = mem;
    pthread_mutex_init(&map->join_lock, NULL);
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
        pthread_mutex_init(&map->slot[i].lock, NULL);
    for (unsigned i = 0; i < mem->nregions; i++) {
        void *p = mmap(NULL, words_bytes(&mem->region[i]), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            code_map_free(map);
            return -ENOMEM;
        }
        map->words[i] = p;
    }
    *out = map;
    return 0;
}

void code_map_free(struct code_map *map)
{
    if (!map)
        return;
    for (unsigned i = 0; i < map->mem->nregions; i++)
        if (map->words[i])
            munmap((void *)map->words[i], words_bytes(&map->mem->region[i]));
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
        pthread_mutex_destroy(&map->slot[i].lock);
    pthread_mutex_destroy(&map->join_lock);
    free(map);
}

void code_map_watch(struct code_map *map, void (*fn)(void *arg, uint64_t gpa, uint64_t len), void *arg)
{
    map->watch = fn;
    map->watch_arg = arg;
}

static _Atomic uint64_t *word_of(const struct code_map *map, uint64_t gpa)
{
    for (unsigned i = 0; i < map->mem->nregions; i++) {
        const struct mem_region *r = &map->mem->region[i];
        if (gpa - r->gpa < r->len)
            return &map->words[i][(gpa - r->gpa) / MEM_PAGE];
    }
    return NULL;
}

/* -- slots -- */

static struct code_slot *slot_of(const struct cpu *cpu) { return &cpu->code->slot[cpu->vcpu->id]; }

int code_join(struct code_map *map, struct cpu *cpu)
{
    struct code_slot *s = &map->slot[cpu->vcpu->id];
    pthread_mutex_lock(&map->join_lock);
    s->cpu = cpu;
    if (atomic_load(&map->nslots) <= cpu->vcpu->id)
        atomic_store(&map->nslots, cpu->vcpu->id + 1);
    pthread_mutex_unlock(&map->join_lock);
    return 0;
}

void code_leave(struct code_map *map, struct cpu *cpu)
{
    struct code_slot *s = &map->slot[cpu->vcpu->id];
    pthread_mutex_lock(&s->lock);
    s->cpu = NULL;
    pthread_mutex_unlock(&s->lock);
}

/* -- mailboxes -- */

/* Posts to one slot and returns the ticket to wait for. Any thread. */
static uint32_t post(struct code_slot *s, struct note note)
{
    pthread_mutex_lock(&s->lock);
    struct cpu *cpu = s->cpu;
    if (!cpu) {
        pthread_mutex_unlock(&s->lock);
        return atomic_load(&s->served);
    }
    if (s->count < MAILBOX_SIZE)
        s->note[s->count++] = note;
    else
        s->overflow = true;
    uint32_t ticket = atomic_fetch_add(&s->posted, 1) + 1;
    atomic_store(&cpu->exit_request, 1);
    pthread_mutex_unlock(&s->lock);
    return ticket;
}

void code_serve(struct cpu *cpu)
{
    struct code_slot *s = slot_of(cpu);
    struct note note[MAILBOX_SIZE];

    if (atomic_load(&s->posted) == atomic_load_explicit(&s->served, memory_order_relaxed))
        return;
    pthread_mutex_lock(&s->lock);
    unsigned count = s->count;
    bool overflow = s->overflow;
    uint32_t ticket = atomic_load(&s->posted);
    memcpy(note, s->note, count * sizeof(note[0]));
    s->count = 0;
    s->overflow = false;
    pthread_mutex_unlock(&s->lock);

    if (overflow) {
        mmu_flush_all(cpu);
        block_flush(cpu);
        jit_flush(cpu);
        cpu->code_epoch++;
    }
    for (unsigned i = 0; i < count && !overflow; i++) {
        if (note[i].kind == NOTE_EVICT) {
            mmu_evict_write(cpu, note[i].gpa);
        } else {
            block_invalidate(cpu, note[i].gpa, note[i].chunks);
            cpu->code_epoch++; /* a block being built may hold the old bytes */
        }
    }
    atomic_store(&s->served, ticket);
    os_wake_all(&s->served);
}

void code_stopped(struct cpu *cpu)
{
    struct code_slot *s = slot_of(cpu);
    atomic_store(&s->running, 0);
    /* Someone may have begun to wait for us just before: let him look again. */
    if (atomic_load(&s->posted) != atomic_load(&s->served))
        os_wake_all(&s->served);
}

void code_running(struct cpu *cpu)
{
    /* Sequentially consistent: either the poster sees running, and waits, or we see his note here. */
    atomic_store(&slot_of(cpu)->running, 1);
    cpu->irq_unsure = 1; /* devices were at work, perhaps the interrupt controller */
    code_serve(cpu);
}

/* Waits until each CPU but `self` has served its ticket or is stopped (it then serves before it touches its TLB). */
static void wait_served(struct cpu *self, const uint32_t *ticket, uint32_t nslots)
{
    struct code_map *map = self->code;
    code_stopped(self); /* two that wait for each other must not */
    for (uint32_t i = 0; i < nslots; i++) {
        struct code_slot *s = &map->slot[i];
        if (i == self->vcpu->id)
            continue;
        for (;;) {
            uint32_t served = atomic_load(&s->served);
            if ((int32_t)(served - ticket[i]) >= 0 || !atomic_load(&s->running))
                break;
            /* A stop without a change of `served` is caught by the time-out. */
            os_wait(&s->served, served, os_clock_ns() + 50000);
        }
    }
    code_running(self);
}

static void evict_everywhere(struct cpu *cpu, uint64_t gpa)
{
    struct code_map *map = cpu->code;
    uint32_t ticket[VM_MAX_VCPUS] = {0}, nslots = atomic_load(&map->nslots);

    mmu_evict_write(cpu, gpa);
    if (nslots < 2)
        return;
    for (uint32_t i = 0; i < nslots; i++)
        if (i != cpu->vcpu->id)
            ticket[i] = post(&map->slot[i], (struct note){.kind = NOTE_EVICT, .gpa = gpa});
    wait_served(cpu, ticket, nslots);
}

/* -- the map -- */

bool code_page_clean(const struct code_map *map, uint64_t gpa)
{
    _Atomic uint64_t *w = word_of(map, gpa);
    return w && atomic_load(w) == 0;
}

static uint64_t chunk_bits(uint64_t off, uint64_t len)
{
    uint64_t first = off >> 6, last = (off + len - 1) >> 6;
    return (~UINT64_C(0) >> (63 - (last - first))) << first;
}

static bool has_mail(const struct cpu *cpu)
{
    const struct code_slot *s = slot_of(cpu);
    return atomic_load(&s->posted) != atomic_load_explicit(&s->served, memory_order_relaxed);
}

bool code_page_free(struct cpu *cpu, uint64_t gpa)
{
    return code_page_clean(cpu->code, gpa) && !atomic_load(&cpu->code->telling) && !has_mail(cpu);
}

bool code_claim(struct cpu *cpu, uint64_t gpa, size_t len)
{
    struct code_map *map = cpu->code;
    _Atomic uint64_t *w = word_of(map, gpa);
    if (!w)
        return false;
    uint64_t bits = chunk_bits(gpa & 0xfff, len);
    uint64_t old = atomic_load(w);
    if ((old & bits) == bits)
        return true;
    /*
     * The first bit of a page: from now on no fill enters it for writing, and
     * entries of before must go. A later bit while somebody else's eviction is
     * still under way must wait as well: so it evicts too.
     */
    atomic_fetch_add(&map->settling, 1);
    old = atomic_fetch_or(w, bits);
    if (old == 0 || atomic_load(&map->settling) > 1)
        evict_everywhere(cpu, gpa);
    atomic_fetch_sub(&map->settling, 1);
    return true;
}

void code_written(struct code_map *map, struct cpu *cpu, uint64_t gpa, uint64_t len)
{
    if (UNLIKELY(map->watch))
        map->watch(map->watch_arg, gpa, len);
    /* The store before, the load of the bits behind: Dekker with code_claim(). */
    atomic_thread_fence(memory_order_seq_cst);
    while (len) {
        uint64_t off = gpa & 0xfff, n = 4096 - off < len ? 4096 - off : len;
        _Atomic uint64_t *w = word_of(map, gpa);
        uint64_t bits = chunk_bits(off, n), hit = w ? atomic_load(w) & bits : 0;
        if (w && UNLIKELY(hit != bits && atomic_load(&map->telling)))
            hit = bits; /* clear, but perhaps not everybody knows it yet */
        else if (w && cpu && UNLIKELY(hit != bits && has_mail(cpu)))
            block_invalidate(cpu, align_down(gpa, MEM_PAGE), bits); /* the others do, and this CPU will */
        if (hit) {
            struct note note = {.kind = NOTE_INVALIDATE, .gpa = align_down(gpa, MEM_PAGE), .chunks = hit};
            atomic_fetch_add(&map->telling, 1);
            atomic_fetch_and(w, ~hit);
            uint32_t nslots = atomic_load(&map->nslots);
            for (uint32_t i = 0; i < nslots; i++)
                if (!cpu || i != cpu->vcpu->id)
                    post(&map->slot[i], note);
            atomic_fetch_sub(&map->telling, 1);
            if (cpu)
                block_invalidate(cpu, note.gpa, hit);
        }
        gpa += n;
        len -= n;
    }
}

void code_lock_crossing(struct code_map *map)
{
    while (atomic_exchange(&map->crossing, 1))
        os_yield();
}

void code_unlock_crossing(struct code_map *map) { atomic_store(&map->crossing, 0); }
