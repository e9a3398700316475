/*
 * Accesses to a device: every size and alignment, across its end, by
 * read-modify-write, string and stack instructions; RAM beside it is not touched.
 */
#include "rt64.h"

#define DEVICE 0xff000000ull

static void put_pattern(void)
{
    for (unsigned i = 0; i < 64; i++)
        *(volatile uint8_t *)(DEVICE + i) = (uint8_t)(i * 7 + 1);
}
static uint64_t pattern(unsigned at, unsigned size)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)(uint8_t)((at + i) * 7 + 1) << 8 * i;
    return v;
}

void payload(void)
{
    put_pattern();
    for (unsigned at = 0; at < 16; at++) {
        check_num("8 bits", at, *(volatile uint8_t *)(DEVICE + at), pattern(at, 1));
        check_num("16 bits", at, *(volatile uint16_t *)(DEVICE + at), pattern(at, 2));
        check_num("32 bits", at, *(volatile uint32_t *)(DEVICE + at), pattern(at, 4));
        check_num("64 bits", at, *(volatile uint64_t *)(DEVICE + at), pattern(at, 8));
    }
    *(volatile uint64_t *)(DEVICE + 0x103) = 0x1122334455667788;
    check("64 bits, unaligned, written", *(volatile uint64_t *)(DEVICE + 0x103), 0x1122334455667788);
    *(volatile uint32_t *)(DEVICE + 0x200) = 5;
    __asm__ volatile("addl $7, (%0)" : : "r"(DEVICE + 0x200) : "memory", "cc");
    check("ADD to a device", *(volatile uint32_t *)(DEVICE + 0x200), 12);
    __asm__ volatile("lock xaddl %1, (%0)" : : "r"(DEVICE + 0x200), "r"(30) : "memory", "cc");
    check("LOCK XADD", *(volatile uint32_t *)(DEVICE + 0x200), 42);
    __asm__ volatile("btsl $8, (%0)" : : "r"(DEVICE + 0x200) : "memory", "cc");
    check("BTS", *(volatile uint32_t *)(DEVICE + 0x200), 298);

    static uint8_t ram[64], back[64];
    for (unsigned i = 0; i < 64; i++)
        ram[i] = (uint8_t)(i ^ 0x5a);
    void *to = (void *)(DEVICE + 0x300), *from = ram;
    uint64_t n = 61;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    to = back, from = (void *)(DEVICE + 0x300), n = 61;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    for (unsigned i = 0; i < 61; i++)
        check_num("REP MOVSB there and back", i, back[i], i ^ 0x5a);
    to = (void *)(DEVICE + 0x400), n = 8;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0x0102030405060708) : "memory");
    check("REP STOSQ", *(volatile uint64_t *)(DEVICE + 0x438), 0x0102030405060708);
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %1; mov %%rbx, %%rsp"
                     :
                     : "r"(DEVICE + 0x508), "r"(0x77ull)
                     : "rbx", "memory");
    check("a stack in a device", *(volatile uint64_t *)(DEVICE + 0x500), 0x77);
    check("behind its end nobody answers", *(volatile uint64_t *)(DEVICE + 0x1000), ~0ull);
    *(volatile uint32_t *)(DEVICE + 0xffc) = 0x99887766;
    check("across its end", *(volatile uint64_t *)(DEVICE + 0xffc), 0xffffffff99887766);
    /* Page tables in a device: all ones, so reserved bits are set. */
    test_pd[5] = DEVICE + 0x10000 + 3;
    expect("page table where nobody answers", try_kernel((void (*)(uint64_t))(TEST_BASE + 5 * 0x200000), 0), 14, 0x19);
}
