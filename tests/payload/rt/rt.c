/* Console, reports, interrupts, time and the small change of the payloads' runtime. */
#include "rt/rt.h"

#include "rt/apic.h"

#define COM1 0x3f8
#define EXIT_PORT 0xf4

static unsigned failures, passes;
static volatile int report_lock;
static unsigned unexpected[256];
static handler_fn *handlers[256];
volatile uint32_t irq_count[MAX_CPUS][256];
static uint32_t irq_seen[MAX_CPUS][256];
static uint16_t pm_port;

/* ---- strings ---- */

void *memcpy(void *to, const void *from, size_t n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int c, size_t n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (size_t i = 0; i < n; i++)
        if (p[i] != q[i])
            return p[i] < q[i] ? -1 : 1;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

bool str_equal(const char *a, const char *b) { return strlen(a) == strlen(b) && !memcmp(a, b, strlen(a)); }

bool str_contains(const char *s, const char *part)
{
    for (size_t n = strlen(part); strlen(s) >= n; s++)
        if (!memcmp(s, part, n))
            return true;
    return false;
}

uint32_t divide(uint64_t n, uint32_t d)
{
    uint32_t quotient, rest, hi = (uint32_t)(n >> 32);
    if (hi >= d)
        return UINT32_MAX;
    __asm__("divl %4" : "=a"(quotient), "=d"(rest) : "a"((uint32_t)n), "d"(hi), "r"(d));
    return quotient;
}

uint8_t byte_sum(const void *p, size_t n)
{
    const uint8_t *b = p;
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + b[i]);
    return sum;
}

/* ---- reports ---- */

static void put_char(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        cpu_pause();
    outb(COM1, (uint8_t)c);
}

static void put(const char *s)
{
    for (; *s; s++)
        put_char(*s);
}

static void put_hex(uint64_t v)
{
    char text[19];
    unsigned at = sizeof(text);
    text[--at] = '\0';
    do {
        text[--at] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    text[--at] = 'x';
    text[--at] = '0';
    put(text + at);
}

static void report_begin(const char *kind, const char *name)
{
    while (__sync_lock_test_and_set(&report_lock, 1))
        cpu_pause();
    put(kind);
    put(name);
}

static void report_end(void)
{
    put("\n");
    __sync_lock_release(&report_lock);
}

static void pass(const char *name)
{
    report_begin("PASS ", name);
    passes++;
    report_end();
}

void fail(const char *name, const char *why)
{
    report_begin("FAIL ", name);
    put(": ");
    put(why);
    failures++;
    report_end();
}

void skip(const char *name, const char *why)
{
    report_begin("SKIP ", name);
    put(": ");
    put(why);
    report_end();
}

void check_range(const char *name, uint64_t found, uint64_t low, uint64_t high)
{
    if (found >= low && found <= high) {
        pass(name);
        return;
    }
    report_begin("FAIL ", name);
    put(": expected ");
    put_hex(low);
    if (low != high) {
        put(" to ");
        put_hex(high);
    }
    put(" found ");
    put_hex(found);
    failures++;
    report_end();
}

void check(const char *name, uint64_t found, uint64_t expected) { check_range(name, found, expected, expected); }

void check_strict(const char *name, uint64_t found, uint64_t expected)
{
    if (found == expected || on_xhyve()) {
        check(name, found, expected);
        return;
    }
    report_begin("# QEMU deviates: ", name);
    report_end();
}

void check_true(const char *name, bool truth) { check(name, truth, true); }

void puts(const char *s)
{
    report_begin("# ", s);
    report_end();
}

void put_named(const char *name, uint64_t value)
{
    report_begin("# ", name);
    put(" ");
    put_hex(value);
    report_end();
}

const char *numbered(const char *text, unsigned n)
{
    static char buffers[8][64];
    static unsigned turn;
    char *b = buffers[turn++ % 8], digits[11];
    size_t len = strlen(text), at = sizeof(digits);
    if (len > 50)
        len = 50;
    memcpy(b, text, len);
    b[len++] = ' ';
    digits[--at] = '\0';
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    memcpy(b + len, digits + at, sizeof(digits) - at);
    return b;
}

void finish(void)
{
    cli();
    if (!passes && !failures)
        fail("payload", "it made no check");
    puts(failures ? "done, with failures" : "done");
    while (!(inb(COM1 + 5) & 0x40))
        cpu_pause();
    outb(EXIT_PORT, failures != 0);
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* ---- interrupts ---- */

extern char interrupt_stubs[];
static volatile bool fault_expected, fault_seen;

struct gate {
    uint16_t low, selector, flags, middle;
#ifdef __x86_64__
    uint32_t high, zero;
#endif
};
static struct gate idt[256];

void rt_interrupt(struct frame *f);
void rt_main(void);

static void load_idt(void)
{
    struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (uintptr_t)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

static void idt_init(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uintptr_t at = (uintptr_t)interrupt_stubs + 16 * i;
        idt[i] = (struct gate){.low = (uint16_t)at, .flags = 0x8e00, .middle = (uint16_t)(at >> 16)};
#ifdef __x86_64__
        idt[i].selector = CODE64;
        idt[i].high = (uint32_t)(at >> 32);
#else
        idt[i].selector = CODE32;
#endif
    }
    load_idt();
}

void set_handler(unsigned vector, handler_fn *fn) { handlers[vector] = fn; }

void rt_interrupt(struct frame *f)
{
    unsigned vector = (unsigned)f->vector;
    if (vector == 13 && fault_expected) {
        /* The only instructions that may fault are RDMSR and WRMSR, of two bytes. */
        fault_seen = true;
        f->ip += 2;
        return;
    }
    if (handlers[vector]) {
        handlers[vector](f);
        return;
    }
    if (unexpected[vector]++)
        return;
    fail(numbered("unexpected vector", vector), vector < 32 ? "an exception" : "an interrupt");
    if (vector < 32 && vector != 2) {
        put_named("error code", f->error);
        put_named("at", f->ip);
        put_named("flags", f->flags);
        finish();
    }
}

void count_only(struct frame *f) { irq_count[cpu_id()][f->vector]++; }

void count_lapic(struct frame *f)
{
    irq_count[cpu_id()][f->vector]++;
    lapic_eoi();
}

void count_pic(struct frame *f)
{
    irq_count[cpu_id()][f->vector]++;
    if (f->vector >= PIC_BASE + 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

unsigned taken(unsigned vector)
{
    unsigned cpu = cpu_id(), n = irq_count[cpu][vector] - irq_seen[cpu][vector];
    irq_seen[cpu][vector] += n;
    return n;
}

void let_in(void)
{
    for (unsigned i = 0; i < 8; i++)
        sti_nop_cli();
}

bool wrmsr_faults(uint32_t msr, uint64_t v)
{
    fault_seen = false;
    fault_expected = true;
    wrmsr(msr, v);
    fault_expected = false;
    return fault_seen;
}

bool rdmsr_faults(uint32_t msr)
{
    fault_seen = false;
    fault_expected = true;
    rdmsr(msr);
    fault_expected = false;
    return fault_seen;
}

/* ---- time ---- */

uint32_t pm_now(void) { return inl(pm_port) & 0xffffff; }

uint32_t pm_since(uint32_t then) { return (pm_now() - then) & 0xffffff; }

bool us_passed(uint32_t then, uint32_t us) { return pm_since(then) >= divide((uint64_t)us * PM_HZ, 1000000); }

void delay_us(uint32_t us)
{
    uint32_t start = pm_now();
    while (!us_passed(start, us))
        cpu_pause();
}

uint32_t halt_until(unsigned vector, uint32_t since)
{
    do
        sti_hlt_cli();
    while (!taken(vector));
    return divide((uint64_t)pm_since(since) * 1000000, PM_HZ);
}

struct sample {
    uint32_t pm, width;
    uint64_t clock;
};

/* Both clocks at one moment: the tightest pair of several. */
static struct sample take_sample(uint64_t (*clock)(void))
{
    struct sample best = {.width = UINT32_MAX};
    for (unsigned i = 0; i < 10 || (i < 1000 && best.width > 60); i++) {
        uint32_t before = pm_now();
        uint64_t now = clock();
        uint32_t width = pm_since(before);
        if (width < best.width)
            best = (struct sample){.pm = before + width / 2, .width = width, .clock = now};
    }
    return best;
}

uint32_t measure_hz(uint64_t (*clock)(void), uint32_t us)
{
    struct sample a = take_sample(clock);
    delay_us(us);
    struct sample b = take_sample(clock);
    return divide((b.clock - a.clock) * PM_HZ, (b.pm - a.pm) & 0xffffff);
}

/* ---- chips ---- */

void pic_init(void)
{
    outb(0x4d0, 0);
    outb(0x4d1, 0);
    outb(0x20, 0x11);
    outb(0x21, PIC_BASE);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, PIC_BASE + 8);
    outb(0xa1, 2);
    outb(0xa1, 1);
    pic_mask(0xffff);
}

void pic_mask(uint16_t mask)
{
    outb(0x21, (uint8_t)mask);
    outb(0xa1, (uint8_t)(mask >> 8));
}

uint8_t cmos_read(uint8_t index)
{
    outb(0x70, index);
    return inb(0x71);
}

void cmos_write(uint8_t index, uint8_t v)
{
    outb(0x70, index);
    outb(0x71, v);
}

static void pci_select(unsigned bus, unsigned dev, unsigned func, unsigned reg)
{
    outl(0xcf8, 0x80000000u | bus << 16 | dev << 11 | func << 8 | (reg & 0xfc));
}

uint32_t pci_read(unsigned bus, unsigned dev, unsigned func, unsigned reg)
{
    pci_select(bus, dev, func, reg);
    return inl(0xcfc);
}

void pci_write(unsigned bus, unsigned dev, unsigned func, unsigned reg, uint32_t v)
{
    pci_select(bus, dev, func, reg);
    outl(0xcfc, v);
}

bool fwcfg_here(void)
{
    outw(0x510, 0);
    for (unsigned i = 0; i < 4; i++)
        if (inb(0x511) != (uint8_t) "QEMU"[i])
            return false;
    return true;
}

const uint8_t *acpi_table(const char *signature)
{
    const uint8_t *root = NULL;
    for (uintptr_t at = 0xe0000; at < 0x100000 && !root; at += 16)
        if (!memcmp((const void *)at, "RSD PTR ", 8) && !byte_sum((const void *)at, 20))
            root = (const uint8_t *)at;
    if (!root || !memcmp(signature, "RSD ", 4))
        return root;
    bool through_fadt = !memcmp(signature, "DSDT", 4) || !memcmp(signature, "FACS", 4);
    const uint8_t *rsdt = (const uint8_t *)(uintptr_t)le32(root + 16);
    if (!memcmp(signature, "RSDT", 4))
        return rsdt;
    for (unsigned i = 36; i + 4 <= le32(rsdt + 4); i += 4) {
        const uint8_t *t = (const uint8_t *)(uintptr_t)le32(rsdt + i);
        if (through_fadt && !memcmp(t, "FACP", 4))
            return (const uint8_t *)(uintptr_t)le32(t + (*signature == 'D' ? 40 : 36));
        if (!memcmp(t, signature, 4))
            return t;
    }
    return NULL;
}

bool on_xhyve(void)
{
    const uint8_t *root = acpi_table("RSD PTR");
    return root && !memcmp(root + 9, "XHYVE", 5);
}

const char *command_line(void)
{
    const uint32_t *info = (const uint32_t *)(uintptr_t)multiboot_info;
    return info[0] & 4 ? (const char *)(uintptr_t)info[4] : "";
}

/* ---- processors ---- */

extern const char trampoline[], trampoline_end[];
static volatile bool online[MAX_CPUS];
static void (*volatile work[MAX_CPUS])(void);

void ap_main(unsigned cpu);

unsigned cpu_id(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    return r[1] >> 24 & (MAX_CPUS - 1);
}

void ap_main(unsigned cpu)
{
    load_idt();
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_SVR, 0x1ff);
    online[cpu] = true;
    for (;;) {
        void (*fn)(void) = work[cpu];
        if (fn) {
            fn();
            cli();
            work[cpu] = NULL;
        } else {
            sti_hlt_cli();
        }
    }
}

static void wake(struct frame *f) { lapic_eoi(); }

void smp_init_and_start(unsigned cpu)
{
    online[cpu] = false;
    work[cpu] = NULL;
    lapic_ipi(cpu, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
    lapic_ipi(cpu, ICR_INIT | ICR_LEVEL);
    delay_us(1000);
    lapic_ipi(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
    if (!WAIT(online[cpu], 300))
        lapic_ipi(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
    WAIT(online[cpu], 1000);
}

unsigned smp_start(void)
{
    unsigned n = 1;
    memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    set_handler(WAKE_VECTOR, wake);
    const uint8_t *madt = acpi_table("APIC");
    for (unsigned at = 44; madt && at < le32(madt + 4); at += madt[at + 1])
        if (madt[at] == 0 && (madt[at + 4] & 1) && madt[at + 3] < MAX_CPUS && madt[at + 3] != cpu_id()) {
            smp_init_and_start(madt[at + 3]);
            n += online[madt[at + 3]];
        }
    return n;
}

bool cpu_online(unsigned cpu) { return online[cpu]; }

bool run_on(unsigned cpu, void (*fn)(void))
{
    if (!online[cpu] || !wait_for(cpu, 1000))
        return false;
    work[cpu] = fn;
    lapic_ipi(cpu, ICR_ASSERT | WAKE_VECTOR);
    return true;
}

bool wait_for(unsigned cpu, uint32_t ms) { return WAIT(!work[cpu], ms); }

/* ---- main ---- */

__attribute__((weak)) void early(void) {}

void rt_main(void)
{
    early();
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x83);
    outb(COM1, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 7);
    idt_init();
    pic_init();
    const uint8_t *fadt = acpi_table("FACP");
    pm_port = fadt ? (uint16_t)le32(fadt + 76) : 0x608;
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_SVR, 0x1ff);
    payload();
    finish();
}
