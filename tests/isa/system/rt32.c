/* The C half of the 32-bit payloads' runtime. */
#include "rt32.h"

struct frame trap;
uint32_t trap_cr2;
bool (*trap_hook)(struct frame *);
uint64_t idt[256] __attribute__((aligned(16)));
struct tss32 tss;
extern uint32_t try_sp;

static unsigned checks, failures;

void put(const char *s)
{
    while (*s)
        outb(0xe9, (uint8_t)*s++);
}

void put_hex(uint32_t v)
{
    int i = 28;
    put("0x");
    while (i && !(v >> i & 15))
        i -= 4;
    for (; i >= 0; i -= 4)
        outb(0xe9, (uint8_t) "0123456789abcdef"[v >> i & 15]);
}

static void failed(const char *what, uint32_t got, uint32_t want)
{
    if (failures++ > 20)
        return;
    put("FAILED: ");
    put(what);
    put(": got ");
    put_hex(got);
    put(", expected ");
    put_hex(want);
    put("\n");
}

void check(const char *what, uint32_t got, uint32_t want)
{
    checks++;
    if (got != want)
        failed(what, got, want);
}

void check_num(const char *what, uint32_t n, uint32_t got, uint32_t want)
{
    checks++;
    if (got == want)
        return;
    if (failures <= 20) {
        put("case ");
        put_hex(n);
        put(": ");
    }
    failed(what, got, want);
}

void expect(const char *what, unsigned got, unsigned vector, uint32_t error)
{
    check(what, got, vector);
    if (got == vector && vector != NONE)
        check(what, trap.error, error);
}

void finish(void)
{
    put_hex(checks);
    put(" checks, ");
    put_hex(failures);
    put(" failures\n");
    outb(0xf4, failures ? 1 : 0);
    for (;;)
        __asm__ volatile("hlt");
}

bool rt_trap(struct frame *f);
bool rt_trap(struct frame *f)
{
    trap = *f;
    trap_cr2 = read_cr2();
    if (trap_hook && trap_hook(f))
        return true;
    if (!try_sp) {
        put("unexpected exception ");
        put_hex(f->vector);
        put(" error ");
        put_hex(f->error);
        put(" at ");
        put_hex(f->eip);
        put(" cr2 ");
        put_hex(trap_cr2);
        put("\n");
        outb(0xf4, 2);
        for (;;)
            __asm__ volatile("hlt");
    }
    return false;
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    if (attr & 0x8000)
        limit >>= 12;
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(attr >> 12 & 15) << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t gate(uint32_t sel, uint32_t off, unsigned type_dpl, unsigned params)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)type_dpl << 40 |
           (uint64_t)(off >> 16) << 48;
}

void idt_set(unsigned vector, uint32_t sel, uint32_t off, unsigned type_dpl)
{
    idt[vector] = gate(sel, off, type_dpl, 0);
}

struct __attribute__((packed)) table {
    uint16_t limit;
    uint32_t base;
};

void rt_main(void);
void rt_main(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt_set(i, SEL_KCODE, (uint32_t)isr_stubs + 16 * i, i == 0x80 || i == 3 || i == 4 ? 0xee : 0x8e);
    struct table idtr = {sizeof idt - 1, (uint32_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    tss.esp0 = (uint32_t)ring0_stack_top;
    tss.ss0 = SEL_KDATA;
    tss.iomap = sizeof tss;
    gdt[SEL_TSS / 8] = descriptor((uint32_t)&tss, sizeof tss - 1, 0x89);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    payload();
    finish();
}
