/*
 * Self-modifying code: in the block that runs, in another page, across pages,
 * through another mapping, by string instructions and by locked ones. No
 * serialisation: x86 sees its own stores.
 */
#include "rt64.h"

static uint8_t code[3 * 4096] __attribute__((aligned(4096)));
typedef uint64_t fn_t(void);

static unsigned emit_ret(uint8_t *p, uint32_t v) /* mov $v, %eax; ret */
{
    p[0] = 0xb8;
    *(volatile uint32_t *)(p + 1) = v;
    p[5] = 0xc3;
    return 6;
}

static void other_page(void)
{
    for (unsigned round = 0; round < 50; round++) {
        emit_ret(code + 100, round);
        check("rewritten function", ((fn_t *)(code + 100))(), round);
    }
    /* One byte of it. */
    for (unsigned round = 0; round < 50; round++) {
        code[101] = (uint8_t)round;
        check("one byte rewritten", ((fn_t *)(code + 100))(), round);
    }
}

static void crossing(void)
{
    uint8_t *p = code + 4096 - 3; /* the immediate lies in both pages */
    for (unsigned round = 0; round < 50; round++) {
        uint32_t v = round * 0x01010101u;
        emit_ret(p, v);
        check("function across pages", ((fn_t *)p)(), v);
        *(volatile uint8_t *)(code + 4096 + 1) = 0x77; /* the last byte of the immediate */
        check("its second page changed", ((fn_t *)p)(), (v & 0xffffff) | 0x77000000);
        *(volatile uint8_t *)(code + 4095) = 0x66;
        check("its first page changed", ((fn_t *)p)(), (v & 0xff00ff) | 0x77006600);
    }
}

/* A store right before the instruction it changes, in one straight run. */
static void same_block(void)
{
    static const uint8_t text[] = {
        0x40, 0x88, 0x3d, 0x01, 0, 0, 0, /* mov %dil, 1(%rip): the immediate's first byte */
        0xb8, 0,    0,    0,    0,       /* mov $0, %eax */
        0xc3,
    };
    uint8_t *p = code + 0x800;
    for (unsigned i = 0; i < sizeof text; i++)
        p[i] = text[i];
    for (unsigned round = 1; round < 60; round++)
        check("a store into the next instruction", ((uint64_t(*)(uint64_t))p)(round), round);
}

/* A loop that counts in its own immediate. */
static void loop(void)
{
    static const uint8_t text[] = {
        0x31, 0xc9,                         /* xor %ecx, %ecx */
        0x81, 0xc1, 1,    0,    0,    0,    /* 2: add $1, %ecx */
        0xfe, 0x05, 0xf6, 0xff, 0xff, 0xff, /* incb of that immediate: RIP here is 14 */
        0x83, 0xf9, 55,                     /* cmp $55, %ecx */
        0x75, 0xef,                         /* jne 2 */
        0x89, 0xc8,                         /* mov %ecx, %eax */
        0xc3,
    };
    uint8_t *p = code + 0x900;
    for (unsigned i = 0; i < sizeof text; i++)
        p[i] = text[i];
    check("1 + 2 + ... + 10", ((fn_t *)p)(), 55);
    check("the immediate", p[4], 11);
}

static void aliases(void)
{
    test_pt[1] = (uint64_t)code | 3;
    invlpg(TEST_BASE + 4096);
    uint8_t *alias = (uint8_t *)(TEST_BASE + 4096);
    for (unsigned round = 0; round < 50; round++) {
        emit_ret(alias + 200, round + 1000);
        check("written by another mapping", ((fn_t *)(code + 200))(), round + 1000);
        emit_ret(code + 200, round + 2000);
        check("run by another mapping", ((fn_t *)(alias + 200))(), round + 2000);
    }
}

static void strings_and_locks(void)
{
    uint8_t image[6];
    for (unsigned round = 0; round < 50; round++) {
        emit_ret(image, round + 3000);
        const uint8_t *from = image;
        uint8_t *to = code + 300;
        uint64_t n = 6;
        __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
        check("written by REP MOVSB", ((fn_t *)(code + 300))(), round + 3000);
        __asm__ volatile("lock incl (%0)" : : "r"(code + 301) : "memory", "cc");
        check("by a locked increment", ((fn_t *)(code + 300))(), round + 3001);
        uint32_t v = round + 9;
        __asm__ volatile("xchg %0, (%1)" : "+r"(v) : "r"(code + 301) : "memory");
        check("by XCHG", ((fn_t *)(code + 300))(), round + 9);
        __asm__ volatile(
            "push %0; push %0; pop %0; mov %%rsp, %%rbx; lea 309(%1), %%rsp; push %2; mov %%rbx, %%rsp; pop %0"
            :
            : "r"((uint64_t)0), "r"(code), "r"((uint64_t)0xc300000000 + (round + 7))
            : "rbx", "memory");
        check("by PUSH", ((fn_t *)(code + 300))(), round + 7);
    }
}

/* The page is mapped anew: code comes from where it points now. */
static void remapped(void)
{
    emit_ret(code + 4096 + 50, 1);
    emit_ret(code + 8192 + 50, 2);
    fn_t *fn = (fn_t *)(TEST_BASE + 2 * 4096 + 50);
    for (unsigned round = 0; round < 20; round++) {
        test_pt[2] = (uint64_t)(code + 4096) | 3;
        invlpg(TEST_BASE + 2 * 4096);
        check("the first page", fn(), 1);
        test_pt[2] = (uint64_t)(code + 8192) | 3;
        if (round & 1)
            invlpg(TEST_BASE + 2 * 4096);
        else
            write_cr3(read_cr3());
        check("the second page", fn(), 2);
    }
}

/* Data beside code, written all the time: must neither break it nor stop it. */
static void beside(void)
{
    emit_ret(code + 0x400, 42);
    for (unsigned round = 0; round < 1000; round++) {
        *(volatile uint32_t *)(code + 0x440) = round;
        check("code beside data", ((fn_t *)(code + 0x400))(), 42);
        check("data beside code", *(volatile uint32_t *)(code + 0x440), round);
    }
}

void payload(void)
{
    other_page();
    crossing();
    same_block();
    loop();
    aliases();
    strings_and_locks();
    remapped();
    beside();
}
