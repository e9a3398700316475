/*
 * Hash tables: one with open addressing, in 4 MiB, and one with chains of nodes; insertions, searches and deletions.
 */
#include "bench.h"

#define SLOTS (1u << 18)
#define CHAINS (1u << 14)

struct slot {
    uint64_t key; /* 0: free */
    uint64_t value;
};

struct link {
    struct link *next;
    uint32_t key, value;
};

static uint64_t scramble(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15;
    return key ^ (key >> 31);
}

static struct slot *find(struct slot *table, uint64_t key)
{
    size_t at = scramble(key) & (SLOTS - 1);

    while (table[at].key && table[at].key != key)
        at = (at + 1) & (SLOTS - 1);
    return &table[at];
}

/* Frees a slot and moves up those behind it that it had displaced. */
static void erase(struct slot *table, struct slot *gone)
{
    size_t hole = (size_t)(gone - table);

    for (size_t at = (hole + 1) & (SLOTS - 1); table[at].key; at = (at + 1) & (SLOTS - 1)) {
        size_t home = scramble(table[at].key) & (SLOTS - 1);

        if (((at - home) & (SLOTS - 1)) >= ((at - hole) & (SLOTS - 1))) {
            table[hole] = table[at];
            hole = at;
        }
    }
    table[hole].key = 0;
}

static uint64_t open_addressing(struct slot *table, unsigned steps)
{
    struct bench_random r = {2};
    uint64_t sum = 0;

    for (unsigned i = 0; i < steps; i++) {
        uint64_t x = bench_random(&r);
        uint64_t key = (x & 0x1ffff) + 1;
        struct slot *slot = find(table, key);

        if (!slot->key) {
            *slot = (struct slot){key, x >> 32};
        } else if ((x >> 62) == 0) {
            sum += slot->value;
            erase(table, slot);
        } else {
            slot->value += x >> 40;
        }
    }
    for (size_t i = 0; i < SLOTS; i++)
        sum = bench_mix(sum, table[i].key ? table[i].value : 0);
    return sum;
}

static uint64_t chains(struct link **table, struct link *nodes, unsigned steps)
{
    struct bench_random r = {3};
    struct link *spare = NULL;
    uint64_t sum = 0;

    for (unsigned i = 0; i < steps; i++) {
        uint64_t x = bench_random(&r);
        uint32_t key = (uint32_t)x & 0x7fff;
        struct link **at = &table[scramble(key) & (CHAINS - 1)];

        while (*at && (*at)->key != key)
            at = &(*at)->next;
        if (!*at) {
            struct link *node = spare ? spare : nodes++;

            spare = spare ? spare->next : NULL;
            *node = (struct link){NULL, key, (uint32_t)(x >> 32)};
            *at = node;
        } else if (x >> 63) {
            struct link *node = *at;

            sum += node->value;
            *at = node->next;
            node->next = spare;
            spare = node;
        } else {
            (*at)->value ^= (uint32_t)(x >> 20);
        }
    }
    for (size_t i = 0; i < CHAINS; i++) {
        for (const struct link *l = table[i]; l; l = l->next)
            sum = bench_mix(sum, l->value);
    }
    return sum;
}

uint64_t bench_hash(struct bench *b)
{
    unsigned steps = bench_scale(b, 1400000);
    struct slot *slots = bench_alloc(SLOTS, sizeof(*slots));
    struct link **table = bench_alloc(CHAINS, sizeof(struct link *));
    struct link *nodes = bench_alloc(0x8000, sizeof(*nodes));
    uint64_t sum;

    bench_start(b);
    sum = open_addressing(slots, steps);
    sum ^= chains(table, nodes, steps);
    bench_stop(b);
    return sum;
}
