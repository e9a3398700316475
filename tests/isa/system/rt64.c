/* The C half of the 64-bit payloads' runtime. */
#include "rt64.h"

struct frame trap;
uint64_t trap_cr2, trap_dr6;
bool (*trap_hook)(struct frame *);
uint64_t idt[512];
uint8_t tss[104];
extern uint64_t try_sp;

static unsigned checks, failures;

void put(const char *s)
{
    while (*s)
        outb(0xe9, (uint8_t)*s++);
}

void put_hex(uint64_t v)
{
    int i = 60;
    put("0x");
    while (i && !(v >> i & 15))
        i -= 4;
    for (; i >= 0; i -= 4)
        outb(0xe9, (uint8_t) "0123456789abcdef"[v >> i & 15]);
}

static void failed(const char *what, uint64_t got, uint64_t want)
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

void check(const char *what, uint64_t got, uint64_t want)
{
    checks++;
    if (got != want)
        failed(what, got, want);
}

void check_num(const char *what, uint64_t n, uint64_t got, uint64_t want)
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

void check_true(const char *what, bool ok) { check(what, ok, 1); }

void expect(const char *what, unsigned got, unsigned vector, uint64_t error)
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
    __asm__ volatile("mov %%dr6, %0" : "=r"(trap_dr6));
    if (trap_hook && trap_hook(f))
        return true;
    if (!try_sp) {
        put("unexpected exception ");
        put_hex(f->vector);
        put(" error ");
        put_hex(f->error);
        put(" at ");
        put_hex(f->rip);
        put(" cr2 ");
        put_hex(trap_cr2);
        put("\n");
        outb(0xf4, 2);
        for (;;)
            __asm__ volatile("hlt");
    }
    return false;
}

void idt_set(unsigned vector, void *handler, unsigned type_dpl, unsigned ist)
{
    uint64_t a = (uint64_t)handler;
    idt[2 * vector] = (a & 0xffff) | SEL_KCODE << 16 | (uint64_t)ist << 32 | (uint64_t)type_dpl << 40 |
                      (a >> 16 & 0xffff) << 48;
    idt[2 * vector + 1] = a >> 32;
}

struct __attribute__((packed)) table {
    uint16_t limit;
    uint64_t base;
};

void rt_main(void);
void rt_main(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt_set(i, isr_stubs + 16 * i, i == 0x80 || i == 3 || i == 4 ? 0xee : 0x8e, 0);
    struct table idtr = {sizeof idt - 1, (uint64_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    *(uint64_t *)(tss + 4) = (uint64_t)kernel_stack_top - 4096; /* RSP0, below who tries */
    *(uint64_t *)(tss + 36) = (uint64_t)ist_stack_top;          /* IST1 */
    *(uint16_t *)(tss + 102) = 104;
    uint64_t base = (uint64_t)tss;
    gdt[6] = 103 | (base & 0xffffff) << 16 | (uint64_t)0x89 << 40 | (base >> 24 & 0xff) << 56;
    gdt[7] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    payload();
    finish();
}
