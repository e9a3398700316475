/*
 * Sorting: quicksort of 32-bit numbers, heapsort of 64-bit ones, and a merge sort of a linked list. Branches that
 * cannot be predicted, loads that depend on each other.
 */
#include "bench.h"

static void quicksort(uint32_t *a, long low, long high)
{
    while (high - low > 16) {
        uint32_t x = a[low], y = a[low + (high - low) / 2], z = a[high];
        uint32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        long i = low, k = high;

        while (i <= k) {
            while (a[i] < pivot)
                i++;
            while (a[k] > pivot)
                k--;
            if (i <= k) {
                uint32_t t = a[i];

                a[i++] = a[k];
                a[k--] = t;
            }
        }
        if (k - low < high - i) {
            quicksort(a, low, k);
            low = i;
        } else {
            quicksort(a, i, high);
            high = k;
        }
    }
    for (long i = low + 1; i <= high; i++) {
        uint32_t t = a[i];
        long k = i;

        for (; k > low && a[k - 1] > t; k--)
            a[k] = a[k - 1];
        a[k] = t;
    }
}

static void sift(uint64_t *a, size_t at, size_t count)
{
    uint64_t value = a[at];

    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && a[child + 1] > a[child])
            child++;
        if (a[child] <= value)
            break;
        a[at] = a[child];
    }
    a[at] = value;
}

static void heapsort_numbers(uint64_t *a, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sift(a, i, count);
    for (size_t end = count - 1; end > 0; end--) {
        uint64_t t = a[0];

        a[0] = a[end];
        a[end] = t;
        sift(a, 0, end);
    }
}

struct node {
    struct node *next;
    uint64_t key;
};

static struct node *merge(struct node *a, struct node *b)
{
    struct node head, *tail = &head;

    while (a && b) {
        if (a->key <= b->key) {
            tail = tail->next = a;
            a = a->next;
        } else {
            tail = tail->next = b;
            b = b->next;
        }
    }
    tail->next = a ? a : b;
    return head.next;
}

/* Sorts a list: slot[i] holds none or 2^i sorted nodes, as the digits of a binary number. */
static struct node *sort_list(struct node *list)
{
    struct node *slot[32] = {0}, *all = NULL;

    while (list) {
        struct node *run = list;
        size_t i = 0;

        list = list->next;
        run->next = NULL;
        for (; slot[i]; i++) {
            run = merge(slot[i], run);
            slot[i] = NULL;
        }
        slot[i] = run;
    }
    for (size_t i = 0; i < 32; i++)
        all = merge(slot[i], all);
    return all;
}

uint64_t bench_sort(struct bench *b)
{
    const size_t count = bench_scale(b, 200000);
    struct bench_random r = {1};
    uint32_t *small = bench_alloc(count, sizeof(*small));
    uint64_t *large = bench_alloc(count, sizeof(*large));
    struct node *nodes = bench_alloc(count, sizeof(*nodes)), *list = NULL;
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        small[i] = (uint32_t)bench_random(&r);
        large[i] = bench_random(&r);
        nodes[i] = (struct node){list, bench_random(&r)};
        list = &nodes[i];
    }
    bench_start(b);
    quicksort(small, 0, (long)count - 1);
    heapsort_numbers(large, count);
    list = sort_list(list);
    bench_stop(b);
    for (size_t i = 0; i < count; i++, list = list->next)
        sum = bench_mix(bench_mix(bench_mix(sum, small[i]), large[i]), list->key);
    return sum;
}
