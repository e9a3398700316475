/*
 * Storms of code that changes (Intel SDM volume 3, sections 8.1.3 and 11.6):
 * by its own stores of every size into what comes next, by a generator that
 * never rests, by other CPUs while it runs, and beside data that other CPUs
 * write. Run with -c 4.
 */
#include "rt/apic.h"
#include "rt/smp.h"

#define PAGE 4096u
#define PAGES 16
#define CPUS 4
static uint8_t area[PAGES * PAGE] __attribute__((aligned(4096)));
static uint8_t elsewhere[64] __attribute__((aligned(64)));

typedef uint32_t function(void);
static function *as_function(const void *p) { return (function *)(uintptr_t)p; }

static uint32_t read32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* -- stores into what comes next -- */

#ifdef __x86_64__
#define WIDE_MOV "\x48"
static uint8_t *alias_of_area; /* the same pages at another linear address */
#else
#define WIDE_MOV ""
#endif

/* Instructions that write DX, EDX or so to [DI]; BX, CX and SI are theirs to use. */
static const struct store {
    const char *name, *bytes;
    uint8_t len, size;
    bool add;  /* it adds */
    bool fill; /* it repeats the lowest byte */
} stores[] = {
    {"MOV of 8 bits", "\x88\x17", 2, 1, false, false},
    {"MOV of 16 bits", "\x66\x89\x17", 3, 2, false, false},
    {"MOV of 32 bits", "\x89\x17", 2, 4, false, false},
    {"XCHG", "\x89\xd1\x87\x0f", 4, 4, false, false},
    {"LOCK ADD", "\xf0\x01\x17", 3, 4, true, false},
    {"ADD", "\x01\x17", 2, 4, true, false},
    {"MOVNTI", "\x0f\xc3\x17", 3, 4, false, false},
    {"MOVD", "\x66\x0f\x6e\xc2\x66\x0f\x7e\x07", 8, 4, false, false},
    {"STOSD", "\x89\xd0\xab", 3, 4, false, false},
    {"REP STOSB", "\x89\xd0\xb9\x04\x00\x00\x00\xf3\xaa", 9, 4, false, true},
    {"REP STOSD", "\x89\xd0\xb9\x01\x00\x00\x00\xf3\xab", 9, 4, false, false},
    {"REP MOVSB", "\xb9\x04\x00\x00\x00\xf3\xa4", 7, 4, false, false},
    {"MOVSD", "\xa5", 1, 4, false, false},
#ifdef __x86_64__
    {"MOV of 64 bits", "\x48\x89\x17", 3, 8, false, false},
    {"PUSH", "\x48\x89\xe3\x48\x8d\x67\x08\x52\x48\x89\xdc", 11, 8, false, false},
#else
    {"PUSH", "\x89\xe3\x8d\x67\x04\x52\x89\xdc", 8, 4, false, false},
#endif
};
#define STORES (sizeof(stores) / sizeof(stores[0]))

/* The store, `gap` bytes of NOPs or a jump over them, and MOV EAX, imm32; RET. Returns where the immediate is. */
static uint8_t *put_storer(uint8_t *at, const struct store *s, unsigned gap, bool jump, uint32_t imm)
{
    memcpy(at, s->bytes, s->len);
    at += s->len;
    if (jump) {
        at[0] = 0xe9;
        memcpy(at + 1, &gap, 4);
        at += 5;
        memset(at, 0xcc, gap);
    } else {
        memset(at, 0x90, gap);
    }
    at += gap;
    at[0] = 0xb8;
    memcpy(at + 1, &imm, 4);
    memset(at + 5, 0x90, 8);
    at[5] = 0xc3;
    return at + 1;
}

static uint32_t call_storer(const uint8_t *at, uint8_t *where, uint64_t value)
{
    uint32_t result;
    uintptr_t di = (uintptr_t)where, si = (uintptr_t)&value, dx = (uintptr_t)value;
    __asm__ volatile("call *%[at]"
                     : "=a"(result), "+D"(di), "+S"(si), "+d"(dx)
                     : [at] "r"(at)
                     : "memory", "cc", "ebx", "ecx");
    return result;
}

static void ahead(unsigned rounds)
{
    struct random r = {2463534242u};
    unsigned bad = 0;
    for (unsigned n = 0; n < rounds; n++) {
        const struct store *s = &stores[n % STORES];
        unsigned gap = below(&r, 4) ? below(&r, 20) : below(&r, 300), from = below(&r, (PAGES - 1) * PAGE - 400);
        if (!below(&r, 3)) /* the immediate lies around a page's or a chunk's end */
            from = (1 + below(&r, PAGES - 3)) * PAGE + below(&r, 2) * 64 - gap - s->len - below(&r, 24);
        uint32_t imm = next(&r);
        uint8_t *f = area + from, *where = put_storer(f, s, gap, below(&r, 2), imm), *by = where;
#ifdef __x86_64__
        if (below(&r, 4) == 0)
            by = alias_of_area + (where - area);
#endif
        uint64_t value = next(&r);
        for (unsigned i = below(&r, 14); i; i--) /* so that it is translated */
            bad += call_storer(f, elsewhere, value) != imm;
        if (s->size == 8)
            value |= 0x9090c300000000; /* with the RET and what is behind */
        uint32_t expected = s->add         ? imm + (uint32_t)value
                            : s->fill      ? (uint8_t)value * 0x01010101u
                            : s->size == 1 ? (imm & ~0xffu) | (uint8_t)value
                            : s->size == 2 ? (imm & ~0xffffu) | (uint16_t)value
                                           : (uint32_t)value;
        if (call_storer(f, by, value) != expected || read32_at(where) != expected) {
            if (!bad++) {
                puts(s->name);
                put_named("gap", gap);
                put_named("immediate at", (uintptr_t)where);
                put_named("by", (uintptr_t)by);
            }
            continue;
        }
        bad += call_storer(f, elsewhere, value) != expected;
    }
    check("stores into what comes next", bad, 0);
}

/* -- a generator: random functions at random places, each computed here as well -- */

static uint8_t *put_random(uint8_t *p, struct random *r, uint32_t *result)
{
    uint32_t v = next(r);
    *p++ = 0xb8;
    memcpy(p, &v, 4);
    p += 4;
    for (unsigned n = 2 + below(r, 10); n; n--) {
        uint32_t imm = next(r);
        unsigned kind = below(r, 9), by = imm & 31;
        static const uint8_t opcode[] = {0x05, 0x2d, 0x35, 0x25, 0x0d};
        if (kind < 5) {
            *p++ = opcode[kind];
            memcpy(p, &imm, 4);
            p += 4;
            v = kind == 0 ? v + imm : kind == 1 ? v - imm : kind == 2 ? v ^ imm : kind == 3 ? v & imm : v | imm;
        } else if (kind == 5) {
            *p++ = 0xc1; /* rol $by, %eax */
            *p++ = 0xc0;
            *p++ = (uint8_t)by;
            v = v << by | v >> (-by & 31);
        } else if (kind == 6) {
            *p++ = 0x69; /* imul $imm, %eax, %eax */
            *p++ = 0xc0;
            memcpy(p, &imm, 4);
            p += 4;
            v *= imm;
        } else if (kind == 7) {
            *p++ = 0x0f; /* bswap %eax */
            *p++ = 0xc8;
            v = __builtin_bswap32(v);
        } else {
            *p++ = 0xa8; /* test $1, %al; jz over a NOT */
            *p++ = (uint8_t)(1u << by % 8);
            *p++ = 0x74;
            *p++ = 2;
            *p++ = 0xf7;
            *p++ = 0xd0;
            v = v & 1u << by % 8 ? ~v : v;
        }
    }
    *p++ = 0xc3;
    *result = v;
    return p;
}

static void generator(unsigned rounds)
{
    struct random r = {88172645u};
    unsigned bad = 0;
    uint8_t image[128];
    for (unsigned n = 0; n < rounds; n++) {
        uint8_t *at = area + (n % 4 ? below(&r, 2 * PAGE) : below(&r, PAGES * PAGE - 128));
        uint32_t expected;
        if (n % 2) {
            put_random(at, &r, &expected);
        } else {
            size_t len = (size_t)(put_random(image, &r, &expected) - image);
            memcpy(at, image, len);
        }
        for (unsigned i = below(&r, 3) ? 1 : 12; i; i--)
            bad += as_function(at)() != expected;
    }
    check("code made, run and made anew", bad, 0);
}

/* -- other CPUs -- */

static volatile bool stop;
static volatile uint32_t mixed, older, ran[CPUS];
static unsigned ncpus;

static bool start(void (*fn)(void))
{
    stop = false;
    mixed = older = 0;
    for (unsigned i = 1; i < ncpus; i++) {
        ran[i] = 0;
        if (!run_on(i, fn)) {
            fail(numbered("takes work: CPU", i), "it does not");
            return false;
        }
    }
    return true;
}

static void end(void)
{
    stop = true;
    for (unsigned i = 1; i < ncpus; i++)
        check_true(numbered("ends: CPU", i), wait_for(i, 4000) || wait_for(i, 4000));
}

static bool all_ran(uint32_t more)
{
    uint32_t before[CPUS];
    bool good = true;
    for (unsigned i = 1; i < ncpus; i++)
        before[i] = ran[i];
    for (unsigned i = 1; i < ncpus; i++)
        good &= WAIT(ran[i] - before[i] >= more, 4000);
    return good;
}

/* Values are four equal bytes, so that a mixture shows. */
static uint32_t four(uint32_t n) { return (n & 0xff) * 0x01010101u; }
static bool is_four(uint32_t v) { return v == four(v); }

static uint8_t *const target = area + 3 * PAGE + 64;
static volatile uint32_t oldest; /* what is certainly no longer there */

static void runner(void)
{
    unsigned me = cpu_id();
    sti();
    while (!stop) {
        uint32_t low = oldest, v = as_function(target)();
        mixed += !is_four(v);
        older += (int8_t)((v & 0xff) - (low & 0xff)) < 0;
        ran[me]++;
    }
    cli();
}

/* MOV EAX, imm32; RET in one aligned quadword, which is written by one store. */
static void put_quad(uint32_t v)
{
    uint64_t quad = 0xb8 | (uint64_t)v << 8 | (uint64_t)0x9090c3 << 40;
#ifdef __x86_64__
    *(volatile uint64_t *)target = quad;
#else
    uint32_t a = ((volatile uint32_t *)target)[0], d = ((volatile uint32_t *)target)[1];
    uint8_t done;
    do
        __asm__ volatile("lock; cmpxchg8b %1; sete %0"
                         : "=q"(done), "+m"(*(volatile uint64_t *)target), "+a"(a), "+d"(d)
                         : "b"((uint32_t)quad), "c"((uint32_t)(quad >> 32))
                         : "cc", "memory");
    while (!done);
#endif
}

static void atomic_patches(unsigned rounds)
{
    oldest = 0;
    put_quad(0);
    if (!start(runner))
        return;
    bool good = all_ran(20);
    for (unsigned n = 1; n <= rounds && good; n++) {
        put_quad(four(n));
        if (n % 16 == 0)
            good = all_ran(1);
    }
    end();
    check_strict(numbered("patched by whole quadwords: every CPU goes on, CPUs", ncpus), good, true);
    check(numbered("patched by whole quadwords: mixtures, CPUs", ncpus), mixed, 0);
}

/* The way of operating systems: INT3, all CPUs serialise, the tail, all serialise, the first byte, all serialise. */
#define SYNC_VECTOR 0x71
static volatile uint32_t synced[CPUS];
static volatile uint32_t poked, traps;

static void sync_ipi(struct frame *f)
{
    uint32_t r[4];
    cpuid(0, 0, r);
    lapic_eoi();
    synced[cpu_id()]++;
}

static void int3(struct frame *f)
{
    __sync_fetch_and_add(&traps, 1);
    if (f->ip != (uintptr_t)target + 1) {
        fail("INT3 where none is", "");
        put_named("at", f->ip);
        finish();
    }
    f->ax = poked;
    f->ip += 4; /* to the RET */
}

static bool serialise(void)
{
    uint32_t before[CPUS];
    bool good = true;
    for (unsigned i = 1; i < ncpus; i++)
        before[i] = synced[i];
    for (unsigned i = 1; i < ncpus; i++)
        lapic_ipi(i, ICR_ASSERT | SYNC_VECTOR);
    for (unsigned i = 1; i < ncpus; i++)
        good &= WAIT(synced[i] != before[i], 4000);
    return good;
}

static void pokes(unsigned rounds)
{
    set_handler(SYNC_VECTOR, sync_ipi);
    set_handler(3, int3);
    traps = 0;
    oldest = 0;
    put_quad(0);
    if (!start(runner))
        return;
    bool good = all_ran(20);
    for (unsigned n = 1; n <= rounds && good; n++) {
        uint32_t v = four(n);
        poked = four(n - 1);
        *(volatile uint8_t *)target = 0xcc;
        good &= serialise();
        memcpy(target + 1, &v, 4);
        good &= serialise();
        poked = v;
        *(volatile uint8_t *)target = 0xb8;
        good &= serialise();
        oldest = n;
    }
    end();
    check_true(numbered("poked through INT3: every CPU answers, CPUs", ncpus), good);
    check(numbered("poked through INT3: mixtures, CPUs", ncpus), mixed, 0);
    check(numbered("poked through INT3: old code after all have serialised, CPUs", ncpus), older, 0);
    put_named("INT3s met", traps);
}

/* New code, then a pointer to it: slots are used again when all have gone on. */
#define SLOTS 4
#define SLOT(n) (area + 5 * PAGE + (n) % SLOTS * 40 + ((n) % SLOTS == 3 ? PAGE - 140 : 0))
static volatile uint32_t published, reached[CPUS], wrong;

static void consumer(void)
{
    unsigned me = cpu_id();
    uint32_t r[4];
    while (!stop) {
        uint32_t n = published;
        if (n == reached[me]) {
            cpu_pause();
            continue;
        }
        if (n & 1)
            cpuid(0, 0, r);
        wrong += as_function(SLOT(n))() != n * 77;
        reached[me] = n;
        ran[me]++;
    }
}

static void published_code(unsigned rounds)
{
    published = wrong = 0;
    for (unsigned i = 0; i < CPUS; i++)
        reached[i] = 0;
    if (!start(consumer))
        return;
    bool good = true;
    for (unsigned n = 1; n <= rounds && good; n++) {
        uint8_t *at = SLOT(n);
        uint32_t v = n * 77;
        at[0] = 0xb8;
        memcpy(at + 1, &v, 4);
        at[5] = 0xc3;
        published = n;
        for (unsigned i = 1; i < ncpus; i++)
            good &= WAIT(reached[i] == n, 4000);
    }
    end();
    check_true(numbered("code published: every CPU goes on, CPUs", ncpus), good);
    check(numbered("code published: wrong results, CPUs", ncpus), wrong, 0);
}

/* This CPU changes its own code; the others write data in the same 64 bytes. */
static uint8_t *const mine = area + 9 * PAGE + 128;
static void neighbour(void)
{
    unsigned me = cpu_id();
    while (!stop) {
        ((volatile uint32_t *)(mine + 32))[me] = ++ran[me];
        for (unsigned i = ran[me] % 64; i; i--)
            __asm__ volatile("nop");
    }
}

static void neighbours(unsigned rounds)
{
    if (!start(neighbour))
        return;
    mine[0] = 0xb8;
    mine[5] = 0xc3;
    bool good = all_ran(20);
    unsigned bad = 0;
    for (unsigned n = 0; n < rounds; n++) {
        *(volatile uint32_t *)(mine + 1) = n;
        bad += as_function(mine)() != n;
        *(volatile uint32_t *)(mine + 1) = n + 100000;
        bad += as_function(mine)() != n + 100000;
    }
    end();
    check_true(numbered("others write beside own code: they run, CPUs", ncpus), good);
    check(numbered("others write beside own code: stale results, CPUs", ncpus), bad, 0);
}

/* Every CPU rewrites and runs code of its own in one page; all pages become code and data by turns. */
static volatile uint32_t worker_bad, worker_ran;
static void worker(void)
{
    unsigned me = cpu_id(), bad = 0;
    struct random r = {77777u + me};
    for (unsigned n = 0; n < 1000 * ran[0]; n++) {
        uint8_t *at = area + 12 * PAGE + me * 200 + below(&r, 60);
        uint32_t expected;
        put_random(at, &r, &expected);
        for (unsigned i = below(&r, 3) ? 1 : 11; i; i--)
            bad += as_function(at)() != expected;
        *(volatile uint32_t *)(area + (n & 1 ? 10 : 12) * PAGE + 1000 + 64 * me) = n;
    }
    __sync_fetch_and_add(&worker_bad, bad);
    __sync_fetch_and_add(&worker_ran, 1);
}

static void workers(unsigned rounds)
{
    worker_bad = worker_ran = 0;
    ran[0] = rounds;
    if (!on_cpus(ncpus, worker))
        return;
    check(numbered("code of all CPUs in one page: CPUs", ncpus), worker_ran, ncpus);
    check(numbered("code of all CPUs in one page: wrong results, CPUs", ncpus), worker_bad, 0);
}

#ifdef __x86_64__
static uint64_t pdpt[512] __attribute__((aligned(4096))), pd[512] __attribute__((aligned(4096))),
    pt[512] __attribute__((aligned(4096)));

static void map_alias(void)
{
    uint64_t cr3;
    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    ((uint64_t *)cr3)[1] = (uintptr_t)pdpt | 3;
    pdpt[0] = (uintptr_t)pd | 3;
    pd[0] = (uintptr_t)pt | 3;
    for (unsigned i = 0; i < PAGES; i++)
        pt[i] = ((uintptr_t)area + i * PAGE) | 3;
    alias_of_area = (uint8_t *)((uintptr_t)1 << 39);
}
#else
static void map_alias(void) {}
#endif

void payload(void)
{
    unsigned n = times();
    allow_sse();
    map_alias();
    ahead(3000 * n);
    generator(3000 * n);
    check("CPUs that start", smp_start(), CPUS);
    for (unsigned i = 1; i < CPUS; i++)
        if (!cpu_online(i))
            return;
    for (ncpus = 2; ncpus <= CPUS; ncpus += 2) {
        atomic_patches(200 * n);
        pokes(25 * n);
        published_code(100 * n);
        neighbours(2000 * n);
        workers(n);
    }
}
