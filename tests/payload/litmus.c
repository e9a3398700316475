/*
 * Memory order (Intel SDM volume 3, section 8.2; AMD64 volume 2, section 7.1):
 * small programs of two to four CPUs, over and over, whose outcomes must all
 * be ones that the rules allow; then atomic accesses. Run with -c 4.
 *
 * How often a relaxed outcome that is allowed has been seen is told: a machine
 * on which none ever shows has not been tested by the others.
 */
#include "rt/smp.h"

#define CELLS 512
#define CPUS 4

/* The variables of one run of a program, on lines of their own, and what its CPUs have read. */
static struct cell {
    volatile uint32_t x;
    uint32_t pad1[15];
    volatile uint32_t y;
    uint32_t pad2[15];
    uint32_t r[CPUS];
    uint32_t pad3[12];
} cell[CELLS] __attribute__((aligned(4096)));

static volatile struct {
    uint32_t at;
    uint32_t pad[15];
} place[CPUS] __attribute__((aligned(64)));

static unsigned cpus, role_of[CPUS];
static bool warm;
static void (*body)(struct cell *, unsigned role);

/* Waits a little until the others are here, too: so that they meet. */
static void meet(unsigned me, uint32_t at)
{
    place[me].at = at;
    for (unsigned i = 0; i < cpus; i++)
        for (unsigned spins = 0; spins < 60 && place[i].at < at; spins++)
            ;
}

static void batch(void)
{
    unsigned me = cpu_id(), role = role_of[me];
    for (unsigned spins = 0; spins < 100000; spins++) { /* until all have begun */
        place[me].at = 1;
        unsigned here = 0;
        for (unsigned i = 0; i < cpus; i++)
            here += place[i].at >= 1;
        if (here == cpus)
            break;
    }
    for (unsigned i = 0; i < CELLS; i++) {
        if (warm) { /* everybody has the lines: a load hits at once, a store waits until the others have lost them */
            (void)cell[i].x;
            (void)cell[i].y;
        }
        meet(me, i + 2);
        /* Who sees the other first is ahead by the time that a cache line takes: try all distances. */
        for (unsigned wait = me ? i % 64 : i / 64 * 4; wait; wait--)
            __asm__ volatile("nop");
        body(&cell[i], role);
    }
}

#define FULL(name) static void name(struct cell *c, unsigned role)

static void mfence(void) { __asm__ volatile("mfence" : : : "memory"); }
static void locked(void)
{
    uint32_t v = 0;
    __asm__ volatile("lock; addl $0, %0" : "+m"(v) : : "memory", "cc");
}
static void put_by_xchg(volatile uint32_t *p, uint32_t v)
{
    __asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(*p) : : "memory");
}

FULL(sb)
{
    if (role) {
        c->y = 1;
        c->r[1] = c->x;
    } else {
        c->x = 1;
        c->r[0] = c->y;
    }
}
FULL(sb_mfence)
{
    if (role) {
        c->y = 1;
        mfence();
        c->r[1] = c->x;
    } else {
        c->x = 1;
        mfence();
        c->r[0] = c->y;
    }
}
FULL(sb_locked)
{
    if (role) {
        c->y = 1;
        locked();
        c->r[1] = c->x;
    } else {
        c->x = 1;
        locked();
        c->r[0] = c->y;
    }
}
FULL(sb_xchg)
{
    if (role) {
        put_by_xchg(&c->y, 1);
        c->r[1] = c->x;
    } else {
        put_by_xchg(&c->x, 1);
        c->r[0] = c->y;
    }
}
static void by_cpuid(void)
{
    uint32_t r[4];
    cpuid(0, 0, r);
}
static void by_cr3(void)
{
    uintptr_t v;
    __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(v) : : "memory");
}
static void by_invlpg(void) { __asm__ volatile("invlpg %0" : : "m"(cell[0]) : "memory"); }
static void by_iret(void)
{
#ifdef __x86_64__
    __asm__ volatile(
        "mov %%rsp, %%rax; push $0; push %%rax; pushf; push %0; lea 1f(%%rip), %%rax; push %%rax; iretq; 1:"
        :
        : "i"(CODE64)
        : "rax", "memory", "cc");
#else
    __asm__ volatile("pushf; push %0; push $1f; iretl; 1:" : : "i"(CODE32) : "memory", "cc");
#endif
}

/* Instructions that serialise: what was stored before is everywhere before anything behind them is read. */
#define SB_WITH(name)                                                                                                  \
    FULL(sb_##name)                                                                                                    \
    {                                                                                                                  \
        if (role) {                                                                                                    \
            c->y = 1;                                                                                                  \
            name();                                                                                                    \
            c->r[1] = c->x;                                                                                            \
        } else {                                                                                                       \
            c->x = 1;                                                                                                  \
            name();                                                                                                    \
            c->r[0] = c->y;                                                                                            \
        }                                                                                                              \
    }
SB_WITH(by_cpuid)
SB_WITH(by_cr3)
SB_WITH(by_invlpg)
SB_WITH(by_iret)
FULL(mp)
{
    if (role) {
        c->r[0] = c->y;
        c->r[1] = c->x;
    } else {
        c->x = 1;
        c->y = 1;
    }
}
/* The data are written by a string instruction. */
FULL(mp_string)
{
    if (role) {
        c->r[0] = c->y;
        c->r[1] = c->x;
    } else {
        static const uint32_t one = 1;
        memcpy((void *)&c->x, &one, 4);
        c->y = 1;
    }
}
FULL(lb)
{
    if (role) {
        c->r[1] = c->y;
        c->x = 1;
    } else {
        c->r[0] = c->x;
        c->y = 1;
    }
}
FULL(corr)
{
    if (role) {
        c->r[0] = c->x;
        c->r[1] = c->x;
    } else {
        c->x = 1;
    }
}
FULL(two_two_w)
{
    if (role) {
        c->y = 1;
        c->x = 2;
    } else {
        c->x = 1;
        c->y = 2;
    }
}
FULL(s)
{
    if (role) {
        c->r[0] = c->y;
        c->x = 1;
    } else {
        c->x = 2;
        c->y = 1;
    }
}
FULL(n6)
{
    if (role) {
        c->y = 2;
        c->x = 2;
    } else {
        c->x = 1;
        c->r[0] = c->x;
        c->r[1] = c->y;
    }
}
FULL(wrc)
{
    if (role == 0) {
        c->x = 1;
    } else if (role == 1) {
        c->r[0] = c->x;
        c->y = 1;
    } else {
        c->r[1] = c->y;
        c->r[2] = c->x;
    }
}
FULL(iriw)
{
    if (role == 0) {
        c->x = 1;
    } else if (role == 1) {
        c->y = 1;
    } else if (role == 2) {
        c->r[0] = c->x;
        c->r[1] = c->y;
    } else {
        c->r[2] = c->y;
        c->r[3] = c->x;
    }
}

#define OUTCOME(name, condition)                                                                                       \
    static bool name(const struct cell *c) { return condition; }
OUTCOME(both_0, c->r[0] == 0 && c->r[1] == 0)
OUTCOME(both_1, c->r[0] == 1 && c->r[1] == 1)
OUTCOME(one_zero, c->r[0] == 1 && c->r[1] == 0)
OUTCOME(wrote_11, c->x == 1 && c->y == 1)
OUTCOME(s_bad, c->r[0] == 1 && c->x == 2)
OUTCOME(n6_relaxed, c->r[0] == 1 && c->r[1] == 0 && c->x == 1)
/* It read its own 1 and later the other's order the other way round: not even the store buffer does that. */
OUTCOME(wrc_bad, c->r[0] == 1 && c->r[1] == 1 && c->r[2] == 0)
OUTCOME(iriw_bad, c->r[0] == 1 && c->r[1] == 0 && c->r[2] == 1 && c->r[3] == 0)

static const struct program {
    const char *name;
    void (*body)(struct cell *, unsigned role);
    unsigned cpus;
    bool (*is)(const struct cell *);
    bool allowed;
} programs[] = {
    {"SB: both read 0", sb, 2, both_0, true},
    {"SB with MFENCE", sb_mfence, 2, both_0, false},
    {"SB with a locked addition", sb_locked, 2, both_0, false},
    {"SB with XCHG", sb_xchg, 2, both_0, false},
    {"SB with CPUID", sb_by_cpuid, 2, both_0, false},
    {"SB with MOV to CR3", sb_by_cr3, 2, both_0, false},
    {"SB with INVLPG", sb_by_invlpg, 2, both_0, false},
    {"SB with IRET", sb_by_iret, 2, both_0, false},
    {"MP", mp, 2, one_zero, false},
    {"MP, data by REP MOVSB", mp_string, 2, one_zero, false},
    {"LB", lb, 2, both_1, false},
    {"CoRR", corr, 2, one_zero, false},
    {"2+2W", two_two_w, 2, wrote_11, false},
    {"S", s, 2, s_bad, false},
    {"n6: own store forwarded", n6, 2, n6_relaxed, true},
    {"WRC", wrc, 3, wrc_bad, false},
    {"IRIW", iriw, 4, iriw_bad, false},
};

static void run_program(const struct program *p, unsigned batches)
{
    uint32_t seen = 0;
    body = p->body;
    cpus = p->cpus;
    for (unsigned n = 0; n < batches; n++) {
        memset(cell, 0, sizeof(cell));
        warm = n % 4;
        for (unsigned i = 0; i < CPUS; i++) {
            place[i].at = 0;
            role_of[i] = (i + n) % cpus;
        }
        if (!on_cpus(cpus, batch))
            return;
        for (unsigned i = 0; i < CELLS; i++)
            seen += p->is(&cell[i]);
    }
    if (p->allowed)
        put_named(p->name, seen);
    else /* QEMU lets CPUID and its kin pass without draining what was stored */
        check_strict(p->name, seen, 0);
}

/* -- locked instructions: every CPU adds its share -- */

#ifdef __x86_64__
typedef uint64_t word;
#else
typedef uint32_t word;
#endif

static struct {
    volatile uint32_t inc, xadd, cas, guarded, lock, bit, xor, misaligned_pad;
    volatile uint64_t pair;
    volatile word wide;
    uint8_t split[128]; /* a word over two lines at 62 */
} sums __attribute__((aligned(4096)));
static volatile uint64_t sixteen[2] __attribute__((aligned(16)));
static uint8_t two_pages[8192] __attribute__((aligned(4096)));
static unsigned rounds;

#define LOCKED_ADD(p) __asm__ volatile("lock; addl $1, %0" : "+m"(*(volatile uint32_t *)(p)) : : "memory", "cc")

static void add_8b(void)
{
    uint32_t lo, hi;
    uint8_t done;
    do {
        lo = ((volatile uint32_t *)&sums.pair)[0];
        hi = ((volatile uint32_t *)&sums.pair)[1];
        __asm__ volatile("lock; cmpxchg8b %1; sete %0"
                         : "=q"(done), "+m"(sums.pair), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi + 3)
                         : "cc", "memory");
    } while (!done);
}

#ifdef __x86_64__
static void add_16b(void)
{
    uint64_t lo, hi;
    uint8_t done;
    do {
        lo = sixteen[0];
        hi = sixteen[1];
        __asm__ volatile("lock; cmpxchg16b %1; sete %0"
                         : "=q"(done), "+m"(*(volatile struct { uint64_t v[2]; } *)sixteen), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi + 5)
                         : "cc", "memory");
    } while (!done);
}
#else
static void add_16b(void) {}
#endif

static void add_all(void)
{
    const unsigned me = cpu_id();
    for (unsigned i = 0; i < rounds; i++) {
        __asm__ volatile("lock; incl %0" : "+m"(sums.inc) : : "cc", "memory");
        __sync_fetch_and_add(&sums.xadd, 2);
        __sync_fetch_and_add(&sums.wide, (word)3);
        uint32_t old = sums.cas;
        while (!__sync_bool_compare_and_swap(&sums.cas, old, old + 1))
            old = sums.cas;
        while (__sync_lock_test_and_set(&sums.lock, 1)) /* XCHG */
            cpu_pause();
        sums.guarded++;
        sums.lock = 0;
        __asm__ volatile("lock; btcl %1, %0" : "+m"(sums.bit) : "r"(me) : "cc", "memory");
        __asm__ volatile("lock; xorl %1, %0" : "+m"(sums.xor) : "r"(1u << me | 0x100u << i % 20) : "cc", "memory");
        add_8b();
        add_16b();
    }
    /* Over a line's end, and a page's; rounds that no CPU need have in a hurry. */
    for (unsigned i = 0; i < rounds / 8; i++) {
        LOCKED_ADD(sums.split + 62);
        LOCKED_ADD(two_pages + 4094);
    }
}

static void atomics(unsigned n)
{
    memset(&sums, 0, sizeof(sums));
    memset(two_pages, 0, sizeof(two_pages));
    sixteen[0] = sixteen[1] = 0;
    if (!on_cpus(n, add_all))
        return;
    uint32_t split, crossing, bits = rounds & 1 ? (1u << n) - 1 : 0;
    memcpy(&split, sums.split + 62, 4);
    memcpy(&crossing, two_pages + 4094, 4);
    check(numbered("LOCK INC, CPUs", n), sums.inc, n * rounds);
    check(numbered("LOCK XADD, CPUs", n), sums.xadd, 2 * n * rounds);
    check(numbered("LOCK XADD of a word, CPUs", n), sums.wide, 3 * n * rounds);
    check(numbered("CMPXCHG, CPUs", n), sums.cas, n * rounds);
    check(numbered("a lock by XCHG, CPUs", n), sums.guarded, n * rounds);
    check(numbered("LOCK BTC, CPUs", n), sums.bit, bits);
    check(numbered("CMPXCHG8B, CPUs", n), sums.pair, n * rounds + ((uint64_t)n * rounds * 3 << 32));
#ifdef __x86_64__
    check(numbered("CMPXCHG16B, low, CPUs", n), sixteen[0], n * rounds);
    check(numbered("CMPXCHG16B, high, CPUs", n), sixteen[1], 5ull * n * rounds);
#endif
    check(numbered("locked over a line's end, CPUs", n), split, n * (rounds / 8));
    check(numbered("locked over a page's end, CPUs", n), crossing, n * (rounds / 8));
}

/* -- single-copy atomicity: a value is never seen half written -- */

static uint8_t values[128] __attribute__((aligned(64)));
static uint32_t torn;
static volatile bool stop;

#define TEAR(bits, at)                                                                                                 \
    do {                                                                                                               \
        volatile uint##bits##_t *p = (volatile uint##bits##_t *)(values + (at));                                       \
        if (cpu_id()) {                                                                                                \
            for (uint##bits##_t v = 0; !stop; v = (uint##bits##_t) ~v)                                                 \
                *p = v;                                                                                                \
        } else {                                                                                                       \
            for (unsigned i = 0; i < 20 * rounds; i++) {                                                               \
                uint##bits##_t v = *p;                                                                                 \
                torn += v != 0 && v != (uint##bits##_t) ~(uint##bits##_t)0;                                            \
            }                                                                                                          \
            stop = true;                                                                                               \
        }                                                                                                              \
    } while (0)

static void tear_16(void) { TEAR(16, 5); }
static void tear_32(void) { TEAR(32, 0); }
static void tear_32_odd(void) { TEAR(32, 18); } /* in one quadword: both makers promise it */
static void tear_64(void)
{
#ifdef __x86_64__
    TEAR(64, 8);
#else
    TEAR(32, 8);
#endif
}

/* 16 aligned bytes: atomic on every processor that has AVX. */
static void tear_128(void)
{
    allow_sse();
    if (cpu_id()) {
        while (!stop)
            __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; movaps %%xmm0, %0; pxor %%xmm0, %%xmm0; movaps %%xmm0, %0"
                             : "+m"(*(volatile struct { uint8_t b[16]; } *)(values + 32)));
        return;
    }
    for (unsigned i = 0; i < 10 * rounds; i++) {
        uint32_t v[4] __attribute__((aligned(16)));
        __asm__ volatile("movaps %1, %%xmm1; movaps %%xmm1, %0"
                         : "=m"(v)
                         : "m"(*(volatile struct { uint8_t b[16]; } *)(values + 32)));
        torn += v[0] != v[1] || v[0] != v[2] || v[0] != v[3];
    }
    stop = true;
}

static void tears(const char *name, void (*fn)(void), bool strict)
{
    stop = false;
    torn = 0;
    memset(values, 0, sizeof(values));
    if (!on_cpus(2, fn))
        return;
    if (strict)
        check(name, torn, 0);
    else
        check_strict(name, torn, 0);
}

void payload(void)
{
    unsigned batches = 24 * times();
    rounds = 4000 * times() + 1;
    check("CPUs that start", smp_start(), CPUS);
    for (unsigned i = 1; i < CPUS; i++)
        if (!cpu_online(i))
            return;
    for (unsigned i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
        run_program(&programs[i], batches);
    atomics(2);
    atomics(4);
    tears("16 bits at an odd address", tear_16, true);
    tears("32 bits", tear_32, true);
    tears("32 bits in the middle of a quadword", tear_32_odd, false);
    tears("64 bits", tear_64, true);
    tears("128 bits", tear_128, false);
}
