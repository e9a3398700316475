/* pc-testdev: the register at ports 0xE0 to 0xE3, and the memory behind the MMIO path at 0xFF000000. */
#include "rt/rt.h"

#define MMIO 0xff000000u

static void ports(void)
{
    outb(0xe0, 0x12);
    check("8 bits read back", inb(0xe0), 0x12);
    outw(0xe0, 0x3456);
    check("16 bits read back", inw(0xe0), 0x3456);
    outl(0xe0, 0x789abcde);
    check("32 bits read back", inl(0xe0), 0x789abcde);
    for (unsigned i = 0; i < 256; i++) {
        outb(0xe0, (uint8_t)i);
        if (inb(0xe0) != i) {
            check(numbered("every byte reads back", i), inb(0xe0), i);
            return;
        }
    }
    check_true("every byte reads back", true);
}

static void unclaimed(void)
{
    check("an unclaimed port reads as ones, 8 bits", inb(0x1e8), 0xff);
    check("an unclaimed port reads as ones, 16 bits", inw(0x1e8), 0xffff);
    check("an unclaimed port reads as ones, 32 bits", inl(0x1e8), 0xffffffff);
    outl(0x1e8, 0);
    check("and ignores writes", inb(0x1e8), 0xff);
}

static void sizes(void)
{
    write8(MMIO, 0xa5);
    check("MMIO, 8 bits", read8(MMIO), 0xa5);
    write16(MMIO + 2, 0x1234);
    check("MMIO, 16 bits", read16(MMIO + 2), 0x1234);
    write32(MMIO + 4, 0x89abcdef);
    check("MMIO, 32 bits", read32(MMIO + 4), 0x89abcdef);
    check("the parts of a word stand in order", read8(MMIO + 4), 0xef);
    check("a word over others", read32(MMIO), 0x12340000u | 0xa5u | (uint32_t)read8(MMIO + 1) << 8);
#ifdef __x86_64__
    write64(MMIO + 8, 0x0123456789abcdef);
    check("MMIO, 64 bits", read64(MMIO + 8), 0x0123456789abcdef);
    check("its upper half", read32(MMIO + 12), 0x01234567);
#endif
    for (unsigned off = 1; off < 8; off++) {
        write32(MMIO + 0x100 + off, 0xcafe0000u + off);
        check(numbered("unaligned 32 bits at", off), read32(MMIO + 0x100 + off), 0xcafe0000u + off);
    }
}

/* An access that only begins, or only ends, inside a page. */
static void crossings(void)
{
    for (unsigned back = 1; back < 4; back++) {
        uintptr_t at = MMIO + 0x1000 - back;
        write32(at, 0x11223344u * back);
        check(numbered("32 bits over a page boundary,", back), read32(at), 0x11223344u * back);
        check(numbered("its last byte", back), read8(at + 3), 0x11223344u * back >> 24);
    }
    write16(MMIO + 0x1fff, 0xbeef);
    check("16 bits over a page boundary", read16(MMIO + 0x1fff), 0xbeef);
}

/* Instructions with a memory operand that is MMIO: read-modify-write, strings, stack. */
static void instructions(void)
{
    static uint8_t from[300], to[300];
    write32(MMIO + 0x200, 5);
    __asm__ volatile("addl $7, %0" : "+m"(*(volatile uint32_t *)(MMIO + 0x200)) : : "cc");
    check("add to memory", read32(MMIO + 0x200), 12);
    __asm__ volatile("lock; incl %0" : "+m"(*(volatile uint32_t *)(MMIO + 0x200)) : : "cc");
    check("locked increment", read32(MMIO + 0x200), 13);
    uint32_t v = 99;
    __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(*(volatile uint32_t *)(MMIO + 0x200)));
    check("exchange: register", v, 13);
    check("exchange: memory", read32(MMIO + 0x200), 99);
    uint32_t old = 99;
    __asm__ volatile("lock; cmpxchgl %2, %1" : "+a"(old), "+m"(*(volatile uint32_t *)(MMIO + 0x200)) : "r"(123) : "cc");
    check("compare and exchange", read32(MMIO + 0x200), 123);
    __asm__ volatile("btsl $2, %0" : "+m"(*(volatile uint32_t *)(MMIO + 0x200)) : : "cc");
    check("bit test and set", read32(MMIO + 0x200), 127);
    write16(MMIO + 0x210, 0xff80);
    int32_t wide;
    __asm__ volatile("movswl %1, %0" : "=r"(wide) : "m"(*(volatile int16_t *)(MMIO + 0x210)));
    check("sign extension", (uint32_t)wide, 0xffffff80);
    uint32_t zero;
    __asm__ volatile("movzbl %1, %0" : "=r"(zero) : "m"(*(volatile uint8_t *)(MMIO + 0x211)));
    check("zero extension", zero, 0xff);
    __asm__ volatile("push %0; pop %1"
                     : "+m"(*(volatile uintptr_t *)(MMIO + 0x200)), "=m"(*(volatile uintptr_t *)(MMIO + 0x220)));
    check("push from and pop to memory", read32(MMIO + 0x220), 127);

    for (unsigned i = 0; i < sizeof(from); i++)
        from[i] = (uint8_t)(i * 7 + 1);
    memcpy((void *)(MMIO + 0x2f01), from, sizeof(from));
    memcpy(to, (void *)(MMIO + 0x2f01), sizeof(to));
    check("rep movs there and back, over a page boundary", (uint32_t)memcmp(from, to, sizeof(to)), 0);
    memcpy((void *)(MMIO + 0x4f03), (void *)(MMIO + 0x2f01), sizeof(from));
    memset(to, 0, sizeof(to));
    memcpy(to, (void *)(MMIO + 0x4f03), sizeof(to));
    check("rep movs from MMIO to MMIO", (uint32_t)memcmp(from, to, sizeof(to)), 0);
    void *d = (void *)(MMIO + 0x6000);
    size_t n = 16;
    __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(0x5a5a1234) : "memory");
    check("rep stos: first", read32(MMIO + 0x6000), 0x5a5a1234);
    check("rep stos: last", read32(MMIO + 0x603c), 0x5a5a1234);
    write32(MMIO + 0x6020, 1);
    d = (void *)(MMIO + 0x6000);
    n = 16;
    __asm__ volatile("repe scasl" : "+D"(d), "+c"(n) : "a"(0x5a5a1234) : "memory", "cc");
    check("repe scas finds the odd one", (uintptr_t)d, MMIO + 0x6024);
    static const uint8_t bytes[4] = {1, 2, 3, 4};
    const void *s = bytes;
    n = 4;
    __asm__ volatile("rep outsb" : "+S"(s), "+c"(n) : "d"(0xe0) : "memory");
    check("rep outs: the last byte stands", inb(0xe0), 4);
    d = to;
    n = 3;
    __asm__ volatile("rep insb" : "+D"(d), "+c"(n) : "d"(0xe0) : "memory");
    check("rep ins", to[2], 4);
    d = (void *)(MMIO + 0x7000);
    n = 3;
    __asm__ volatile("rep insb" : "+D"(d), "+c"(n) : "d"(0xe0) : "memory");
    check("rep ins to MMIO", read16(MMIO + 0x7001), 0x0404);
}

static void the_end(void)
{
    write8(MMIO + 0xffff, 0x77);
    check("the last byte", read8(MMIO + 0xffff), 0x77);
    /* QEMU answers 0 where nobody does; a bus that ends an access by master abort gives ones. */
    if (on_xhyve())
        check("behind it is nothing", read8(MMIO + 0x10000), 0xff);
}

void payload(void)
{
    ports();
    unclaimed();
    sizes();
    crossings();
    instructions();
    the_end();
}
