/*
 * Code that changes: by its own hand, by another CPU's (Intel SDM volume 3,
 * section 8.1.3), and by DMA. Run with -c 2 and a fw_cfg file opt/code of the
 * bytes "-AAAA".
 */
#include "rt/rt.h"

static uint8_t area[3 * 4096] __attribute__((aligned(4096)));

typedef uint32_t function(void);

static function *put_return(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8; /* mov $value, %eax */
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3; /* ret */
    return (function *)(uintptr_t)at;
}

static void own(void)
{
    function *f = put_return(area, 1);
    check("runs", f(), 1);
    bool good = true;
    for (uint32_t i = 0; i < 3000; i++) {
        *(volatile uint32_t *)(area + 1) = i;
        good &= f() == i;
    }
    check("a changed operand, 3000 times", good, true);
    area[0] = 0x35; /* xor $..., %eax */
    *(volatile uint32_t *)(area + 1) = 0;
    area[0] = 0xb8;
    check("a changed opcode", f(), 0);
    for (unsigned i = 0; i < 5; i++)
        area[i] = 0x90;
    area[0] = 0x31;
    area[1] = 0xc0; /* xor %eax, %eax */
    check("another instruction length", f(), 0);

    /* An instruction that lies on two pages; each half is changed. */
    uint8_t *edge = area + 4096 - 3;
    f = put_return(edge, 0x11223344);
    check("over a page boundary", f(), 0x11223344);
    edge[1] = 0x55;
    check("its first page changed", f(), 0x11223355);
    edge[4] = 0x66;
    check("its second page changed", f(), 0x66223355);

    /* By string instructions, and by one store over several instructions. */
    static const uint8_t bytes[] = {0xb8, 1, 2, 3, 4, 0x05, 1, 0, 0, 0, 0xc3};
    f = put_return(area + 64, 9);
    f();
    memcpy(area + 64, bytes, sizeof(bytes));
    check("rep movs over code that has run", f(), 0x04030202);
    memset(area + 64, 0x90, 10);
    uint32_t before = 77;
    __asm__ volatile("call *%1" : "+a"(before) : "r"(area + 64) : "memory");
    check("rep stos over code that has run", before, 77);
}

/* The store is right before what it changes, in one straight run of instructions, then in a loop. */
static void next_instruction(void)
{
    uint32_t v, sum = 0;
    __asm__ volatile("movl $0x2222, 1f + 1\n\t"
                     "jmp 1f\n"
                     "1:\tmovl $0x1111, %%eax\n\t"
                     : "=a"(v)
                     :
                     : "memory");
    check("the next instruction, after a jump", v, 0x2222);
    __asm__ volatile("movl $0x4444, 1f + 1\n"
                     "1:\tmovl $0x3333, %%eax\n\t"
                     : "=a"(v)
                     :
                     : "memory");
    check("the next instruction, at once", v, 0x4444);
    unsigned n = 1000;
    __asm__ volatile("1:\tmovl %1, 2f + 1\n"
                     "2:\tmovl $0, %%eax\n\t"
                     "addl %%eax, %0\n\t"
                     "decl %1\n\t"
                     "jnz 1b"
                     : "+r"(sum), "+r"(n)
                     :
                     : "eax", "memory", "cc");
    check("a loop that changes its own body", sum, 500500);
}

static volatile uint32_t generation, answered, answer;
static volatile bool stop;
static function *volatile shared;

static void executor(void)
{
    uint32_t seen = 0, r[4];
    while (!stop) {
        if (generation == seen) {
            cpu_pause();
            continue;
        }
        seen = generation;
        cpuid(0, 0, r);
        answer = shared();
        answered = seen;
    }
}

static volatile uint32_t latest;
static void free_runner(void)
{
    while (!stop)
        latest = shared();
}

static void by_another_cpu(void)
{
    check("two CPUs", smp_start(), 2);
    if (!cpu_online(1))
        return;
    shared = put_return(area + 256, 0);
    run_on(1, executor);
    bool good = true;
    unsigned i;
    for (i = 1; i <= 500 && good; i++) {
        *(volatile uint32_t *)(area + 257) = i * 3;
        generation = i;
        good = WAIT(answered == i, 1000) && answer == i * 3;
    }
    check("changed by another CPU, with synchronisation, 500 times", good ? 500 : i, 500);
    stop = true;
    wait_for(1, 1000);

    /* A loop that never serialises must see the change, too, if later. */
    stop = false;
    put_return(area + 1024, 5); /* the operand is within one cache line */
    shared = (function *)(uintptr_t)(area + 1024);
    run_on(1, free_runner);
    check("another CPU runs it in a loop", WAIT(latest == 5, 1000), true);
    good = true;
    for (i = 10; i < 60 && good; i++) {
        area[1025] = (uint8_t)i;
        good = WAIT(latest == i, 1000);
    }
    /* QEMU now and then misses it: its own translation of the page and our store race. */
    check_strict("changed under a CPU that runs it, 50 times", good ? 60 : i, 60);
    stop = true;
    check("that CPU ends", wait_for(1, 1000), true);
}

static uint32_t swap32(uint32_t v) { return __builtin_bswap32(v); }

static struct dma {
    uint32_t control, length;
    uint64_t address;
} __attribute__((packed, aligned(16))) dma;

/* From the start of a file of fw_cfg to memory. */
static void dma_read(uint16_t key, void *at, uint32_t length)
{
    *(volatile uint32_t *)&dma.length = swap32(length);
    *(volatile uint64_t *)&dma.address = __builtin_bswap64((uintptr_t)at);
    *(volatile uint32_t *)&dma.control = swap32((uint32_t)key << 16 | 8 | 2);
    outl(0x514, 0);
    outl(0x518, swap32((uint32_t)(uintptr_t)&dma));
    WAIT(!*(volatile uint32_t *)&dma.control, 500);
}

static uint16_t find_file(const char *name)
{
    uint8_t entry[64];
    outw(0x510, 0x19);
    uint32_t n = 0;
    for (unsigned i = 0; i < 4; i++)
        n = n << 8 | inb(0x511);
    for (uint32_t i = 0; i < n && i < 512; i++) {
        for (unsigned b = 0; b < 64; b++)
            entry[b] = inb(0x511);
        if (str_equal((const char *)entry + 8, name))
            return (uint16_t)(entry[4] << 8 | entry[5]);
    }
    return 0;
}

static uint16_t dma_key;
static uint32_t f2(void) { return ((function *)(uintptr_t)(area + 2048))(); }
static void other_reads(void) { dma_read(dma_key, area + 2048 + 6, 4); }

static void by_dma(void)
{
    uint16_t key = fwcfg_here() ? find_file("opt/code") : 0;
    check_true("fw_cfg has opt/code", key != 0);
    if (!key)
        return;
    /* mov $0x1000, %eax; add $1, %eax; ret: DMA makes the addition `sub $0x41414141, %eax`. */
    static const uint8_t bytes[] = {0xb8, 0, 0x10, 0, 0, 0x05, 1, 0, 0, 0, 0xc3};
    uint8_t *at = area + 2 * 4096 - 7; /* the new instruction lies on two pages */
    memcpy(at, bytes, sizeof(bytes));
    function *f = (function *)(uintptr_t)at;
    bool good = true;
    for (unsigned i = 0; i < 200; i++)
        good &= f() == 0x1001;
    check("before", good, true);
    dma_read(key, at + 5, 5);
    check("DMA over code that has run", f(), 0x1000u - 0x41414141u);
    memcpy(at, bytes, sizeof(bytes));
    check("and stores over that", f(), 0x1001);
    dma_read(key, at + 5, 5);
    check("and DMA again", f(), 0x1000u - 0x41414141u);
    if (!cpu_online(1))
        return;
    at = area + 2048;
    memcpy(at, bytes, sizeof(bytes));
    shared = (function *)(uintptr_t)at;
    stop = false;
    run_on(1, free_runner);
    check("another CPU runs it", WAIT(latest == 0x1001, 1000), true);
    dma_read(key, at + 6, 4); /* the operand only: any mixture is an addition */
    uint32_t operand = 0x4141412d;
    check("DMA under another CPU that runs it", WAIT(latest == 0x1000 + operand, 1000), true);
    /* By turns: DMA, and stores of this CPU; then DMA that the other CPU asks for, under this one. */
    good = true;
    unsigned n = 0;
    for (; n < 40 && good; n++) {
        memcpy(at, bytes, sizeof(bytes));
        good &= WAIT(latest == 0x1001, 2000);
        dma_read(key, at + 6, 4);
        good &= WAIT(latest == 0x1000 + operand, 2000);
    }
    check_strict("DMA and stores under another CPU that runs it, 40 times", good ? 40 : n, 40);
    stop = true;
    wait_for(1, 1000);
    dma_key = key;
    good = true;
    for (n = 0; n < 40 && good; n++) {
        memcpy(at, bytes, sizeof(bytes));
        for (unsigned i = 0; i < 20; i++)
            good &= f2() == 0x1001;
        run_on(1, other_reads);
        good &= WAIT(f2() == 0x1000 + operand, 2000);
        wait_for(1, 1000);
    }
    check_strict("DMA asked for by the other CPU, 40 times", good ? 40 : n, 40);
}

void payload(void)
{
    own();
    next_instruction();
    by_another_cpu();
    by_dma();
}
