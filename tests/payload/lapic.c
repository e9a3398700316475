/* The local APIC in xAPIC and x2APIC mode (Intel SDM volume 3, chapter 10). */
#include "rt/apic.h"

#define VEC_A 0x41
#define VEC_B 0x52
#define VEC_C 0x53
#define VEC_D 0x84
#define VEC_TIMER 0x60
#define VEC_ERROR 0x61
#define SPURIOUS 0xff

static const char *mode; /* "xapic" or "x2apic" */
static uint8_t order[8];
static volatile unsigned norder;
static uint64_t tsc_hz;

static const char *n(const char *what)
{
    static char text[4][96];
    static unsigned turn;
    char *t = text[turn++ % 4];
    size_t len = strlen(mode), rest = strlen(what);
    memcpy(t, mode, len);
    memcpy(t + len, ": ", 2);
    memcpy(t + len + 2, what, rest < 80 ? rest + 1 : 80);
    return t;
}

static void note(struct frame *f)
{
    if (norder < 8)
        order[norder++] = (uint8_t)f->vector;
    irq_count[0][f->vector]++;
    lapic_eoi();
}

static void self(uint32_t low) { lapic_ipi(cpu_id(), low | ICR_ASSERT); }

static void registers(bool x2)
{
    uint32_t version = lapic_read(LAPIC_VERSION);
    check_range(n("version"), version & 0xff, 0x10, 0x15);
    check_range(n("highest LVT entry"), version >> 16 & 0xff, 3, 6);
    check(n("ID"), x2 ? lapic_read(LAPIC_ID) : lapic_read(LAPIC_ID) >> 24, cpu_id());
    if (x2) {
        check(n("LDR is derived from the ID"), lapic_read(LAPIC_LDR), 1u << (cpu_id() & 15) | cpu_id() >> 4 << 16);
    } else {
        lapic_write(LAPIC_LDR, 0x04ffffff);
        check(n("LDR keeps its upper byte"), lapic_read(LAPIC_LDR), 0x04000000);
        check(n("DFR is flat at first"), lapic_read(LAPIC_DFR), 0xffffffff);
        lapic_write(LAPIC_DFR, 0);
        check(n("DFR: only the model can be written"), lapic_read(LAPIC_DFR), 0x0fffffff);
        lapic_write(LAPIC_DFR, 0xffffffff);
    }
    static const uint16_t lvts[] = {LAPIC_LVT_TIMER, LAPIC_LVT_LINT0, LAPIC_LVT_LINT1, LAPIC_LVT_ERROR};
    static const uint32_t bits[] = {0x700ff, 0x1a7ff, 0x1a7ff, 0x100ff};
    for (unsigned i = 0; i < 4; i++) {
        lapic_write(lvts[i], (x2 ? bits[i] & ~0x60000u : 0x1ffffu) | LVT_MASKED);
        check_strict(numbered(n("LVT, bits that can be written:"), i), lapic_read(lvts[i]),
                     (bits[i] & 0x1ffff) | LVT_MASKED);
        lapic_write(lvts[i], LVT_MASKED);
    }
    lapic_write(LAPIC_TPR, 0x5a);
    check(n("TPR"), lapic_read(LAPIC_TPR), 0x5a);
    check(n("PPR follows it"), lapic_read(LAPIC_PPR), 0x5a);
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_TDCR, 0xb);
    check(n("timer divider"), lapic_read(LAPIC_TDCR), 0xb);
    check(n("initial count"), lapic_read(LAPIC_TMICT), 0);
    check(n("current count"), lapic_read(LAPIC_TMCCT), 0);
    check(n("SVR"), lapic_read(LAPIC_SVR) & 0x1ff, 0x1ff);
}

static void ipis(bool x2)
{
    taken(VEC_A);
    self(VEC_A);
    check(n("an IPI waits in IRR"), lapic_bit(LAPIC_IRR, VEC_A), 1);
    check(n("not in service yet"), lapic_bit(LAPIC_ISR, VEC_A), 0);
    check(n("an edge: TMR clear"), lapic_bit(LAPIC_TMR, VEC_A), 0);
    let_in();
    check(n("and comes once"), taken(VEC_A), 1);
    check(n("IRR is clear then"), lapic_bit(LAPIC_IRR, VEC_A), 0);
    taken(VEC_B);
    taken(VEC_C);
    self(VEC_A);
    self(VEC_A);
    let_in();
    check(n("two that are pending are one"), taken(VEC_A), 1);
    lapic_ipi(0, ICR_SELF | ICR_ASSERT | VEC_B);
    let_in();
    check(n("shorthand self"), taken(VEC_B), 1);
    lapic_ipi(0, ICR_ALL | ICR_ASSERT | VEC_B);
    let_in();
    check(n("shorthand all"), taken(VEC_B), 1);
    lapic_ipi(0, ICR_OTHERS | ICR_ASSERT | VEC_B);
    let_in();
    check(n("shorthand others: not to us"), taken(VEC_B), 0);
    lapic_ipi(x2 ? 0xffffffff : 0xff, ICR_ASSERT | VEC_B);
    let_in();
    check(n("physical broadcast"), taken(VEC_B), 1);
    if (x2) {
        lapic_ipi(lapic_read(LAPIC_LDR), ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, cluster"), taken(VEC_B), 1);
        lapic_ipi(0x00010001u << (cpu_id() ^ 1), ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, another cluster"), taken(VEC_B), 0);
        wrmsr(0x83f, VEC_C);
        let_in();
        check(n("SELF IPI register"), taken(VEC_C), 1);
        wrmsr(0x830, (uint64_t)cpu_id() << 32 | ICR_ASSERT | VEC_C);
        let_in();
        check(n("ICR is one 64-bit register"), taken(VEC_C), 1);
        check(n("ICR reads back"), rdmsr(0x830), (uint64_t)cpu_id() << 32 | ICR_ASSERT | VEC_C);
    } else {
        lapic_write(LAPIC_LDR, 0x04000000);
        lapic_ipi(0x06, ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, flat"), taken(VEC_B), 1);
        lapic_ipi(0x03, ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, flat: not to us"), taken(VEC_B), 0);
        lapic_write(LAPIC_DFR, 0x0fffffff);
        lapic_write(LAPIC_LDR, 0x32000000);
        lapic_ipi(0x32, ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, cluster"), taken(VEC_B), 1);
        lapic_ipi(0x23, ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check(n("logical, another cluster"), taken(VEC_B), 0);
        lapic_ipi(0xff, ICR_LOGICAL | ICR_ASSERT | VEC_B);
        let_in();
        check_strict(n("logical, all clusters"), taken(VEC_B), 1);
        lapic_write(LAPIC_DFR, 0xffffffff);
    }
}

static uint8_t in_service_ppr;
static bool nested_seen;
static void nest_inner(struct frame *f)
{
    nested_seen = true;
    lapic_eoi();
}
static void nest(struct frame *f)
{
    in_service_ppr = (uint8_t)lapic_read(LAPIC_PPR);
    self(VEC_A); /* lower */
    self(VEC_B); /* same class */
    let_in();
    nested_seen = false;
    self(VEC_D); /* higher */
    let_in();
    lapic_eoi();
}

static void priorities(bool x2)
{
    norder = 0;
    self(VEC_A);
    self(VEC_D);
    self(VEC_C);
    self(VEC_B);
    let_in();
    check(n("the highest vector first"), (uint32_t)order[0] << 24 | order[1] << 16 | order[2] << 8 | order[3],
          (uint32_t)VEC_D << 24 | VEC_C << 16 | VEC_B << 8 | VEC_A);
    lapic_write(LAPIC_TPR, 0x50);
    norder = 0;
    self(VEC_B);
    self(VEC_D);
    let_in();
    check(n("TPR holds its class back"), norder * 256 + order[0], 0x100 + VEC_D);
    lapic_write(LAPIC_TPR, 0x40);
    let_in();
    check(n("until it is lowered"), norder * 256 + order[1], 0x200 + VEC_B);
    lapic_write(LAPIC_TPR, 0);
#ifdef __x86_64__
    __asm__ volatile("mov %0, %%cr8" : : "r"((uintptr_t)9) : "memory");
    check(n("CR8 is TPR's upper half"), lapic_read(LAPIC_TPR), 0x90);
    norder = 0;
    self(VEC_D);
    let_in();
    check(n("CR8 holds back"), norder, 0);
    __asm__ volatile("mov %0, %%cr8" : : "r"((uintptr_t)0) : "memory");
    let_in();
    check(n("until it is lowered through CR8"), norder, 1);
    lapic_write(LAPIC_TPR, 0x30);
    uintptr_t cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    check(n("TPR reads as CR8"), cr8, 3);
    lapic_write(LAPIC_TPR, 0);
#endif
    norder = 0;
    set_handler(VEC_C, nest);
    set_handler(VEC_D, nest_inner);
    self(VEC_C);
    let_in();
    set_handler(VEC_C, note);
    set_handler(VEC_D, note);
    check(n("PPR while in service"), in_service_ppr, VEC_C & 0xf0);
    check(n("a higher one nests"), nested_seen, true);
    check(n("lower ones and the same class came after EOI"), norder * 0x10000 + order[0] * 256 + order[1],
          0x20000 + VEC_B * 256 + VEC_A);
    check(n("nothing in service afterwards"), lapic_read(LAPIC_PPR), 0);
    lapic_eoi();
    check(n("an EOI too many does nothing"), lapic_read(LAPIC_PPR), 0);
}

static volatile unsigned nmis;
static void on_nmi(struct frame *f)
{
    nmis++;
    self(ICR_NMI); /* blocked until IRET: comes exactly once more, after it */
    if (nmis > 1)
        set_handler(2, count_only);
}

static void nmi(void)
{
    set_handler(2, count_only);
    taken(2);
    self(ICR_NMI);
    check(n("NMI comes with interrupts off"), WAIT(taken(2) == 1, 100), true);
    nmis = 0;
    set_handler(2, on_nmi);
    self(ICR_NMI);
    WAIT(nmis > 1, 100);
    check(n("NMI is blocked until IRET, then comes"), nmis, 2);
    check(n("the third also"), WAIT(taken(2) == 1, 100), true);
}

static void errors(bool x2)
{
    set_handler(VEC_ERROR, note);
    lapic_write(LAPIC_LVT_ERROR, VEC_ERROR);
    lapic_write(LAPIC_ESR, 0);
    lapic_write(LAPIC_ESR, 0);
    check(n("ESR is clear"), lapic_read(LAPIC_ESR), 0);
    taken(VEC_ERROR);
    if (on_xhyve()) { /* QEMU delivers it */
        self(5);      /* an illegal vector */
        let_in();
        check(n("sending an illegal vector interrupts"), taken(VEC_ERROR), 1);
        lapic_write(LAPIC_ESR, 0);
        check_true(n("and is told: send illegal vector"), lapic_read(LAPIC_ESR) & 0x20);
    }
    lapic_write(LAPIC_ESR, 0);
    check(n("ESR clears"), lapic_read(LAPIC_ESR), 0);
    let_in();
    taken(VEC_ERROR);
    if (!x2 && on_xhyve()) {
        read32(LAPIC + 0x3a0);
        write32(LAPIC + LAPIC_ESR, 0);
        check(n("a register that is none: illegal register address"), read32(LAPIC + LAPIC_ESR), 0x80);
        let_in();
        check(n("and an interrupt"), taken(VEC_ERROR), 1);
    }
    lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
    lapic_write(LAPIC_ESR, 0);
}

static void spurious(void)
{
    set_handler(SPURIOUS, count_only);
    lapic_write(LAPIC_SVR, SPURIOUS);
    check(n("software disabled: LVTs masked"), lapic_read(LAPIC_LVT_LINT0) & LVT_MASKED, LVT_MASKED);
    lapic_write(LAPIC_LVT_TIMER, VEC_TIMER);
    check_strict(n("and stay so"), lapic_read(LAPIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED);
    lapic_write(LAPIC_SVR, 0x100 | SPURIOUS);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    taken(VEC_A);
    self(VEC_A);
    let_in();
    check(n("enabled again"), taken(VEC_A), 1);
}

static uint64_t count(void) { return 0xffffffff - lapic_read(LAPIC_TMCCT); }

static void timer(bool x2)
{
    set_handler(VEC_TIMER, count_lapic);
    lapic_write(LAPIC_TDCR, 0xb);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    lapic_write(LAPIC_TMICT, 0xffffffff);
    uint32_t base_hz = measure_hz(count, 30000);
    lapic_write(LAPIC_TDCR, 0x3);
    lapic_write(LAPIC_TMICT, 0xffffffff);
    uint32_t slow = measure_hz(count, 30000);
    lapic_write(LAPIC_TDCR, 0xb);
    check_range(n("divider 16 against 1 (thousandths)"), divide((uint64_t)slow * 16000, base_hz), 990, 1010);
    put_named("timer Hz", base_hz);
    check_true(n("the timer counts at 1 MHz or more"), base_hz >= 1000000);
    uint32_t leaf[4];
    cpuid(0, 0, leaf);
    if (leaf[0] >= 0x15) {
        cpuid(0x15, 0, leaf);
        if (leaf[2])
            check_range(n("its rate is that of CPUID leaf 15h (thousandths)"),
                        divide((uint64_t)base_hz * 1000, leaf[2]), 990, 1010);
    }

    taken(VEC_TIMER);
    lapic_write(LAPIC_LVT_TIMER, VEC_TIMER);
    uint32_t took = 0;
    for (unsigned attempt = 0; attempt < 20; attempt++) {
        uint32_t pm = pm_now();
        lapic_write(LAPIC_TMICT, base_hz / 100);
        took = halt_until(VEC_TIMER, pm);
        if (took <= 15000)
            break;
    }
    check_range(n("one-shot: 10 ms (us)"), took, 9900, 15000);
    sti();
    delay_us(25000);
    cli();
    check(n("one-shot: no second one"), taken(VEC_TIMER), 0);
    check(n("one-shot: the count stands at 0"), lapic_read(LAPIC_TMCCT), 0);

    lapic_write(LAPIC_TMICT, base_hz / 50);
    lapic_write(LAPIC_TMICT, 0);
    sti();
    delay_us(25000);
    cli();
    check(n("initial count 0 stops it"), taken(VEC_TIMER), 0);

    unsigned ticks = 0;
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | VEC_TIMER);
    for (unsigned attempt = 0; attempt < 20; attempt++) {
        lapic_write(LAPIC_TMICT, base_hz / 1000);
        taken(VEC_TIMER);
        uint32_t pm = pm_now();
        sti();
        while (!us_passed(pm, 100000))
            __asm__ volatile("hlt");
        cli();
        ticks = taken(VEC_TIMER);
        if (ticks >= 90 && ticks <= 102)
            break;
    }
    /* Ticks that a busy host lets come together are one. */
    check_range(n("periodic: 1 kHz for 100 ms"), ticks, 90, 102);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | LVT_PERIODIC | VEC_TIMER);
    let_in();
    taken(VEC_TIMER);
    sti();
    delay_us(5000);
    cli();
    check(n("masked: nothing"), taken(VEC_TIMER), 0);
    uint32_t a = lapic_read(LAPIC_TMCCT);
    check_true(n("but it runs on"), WAIT(lapic_read(LAPIC_TMCCT) != a, 100));
    lapic_write(LAPIC_TMICT, 0);
}

static void tsc_rate(void)
{
    tsc_hz = measure_hz(rdtsc, 50000);
    put_named("TSC Hz", tsc_hz);
}

static void deadline(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 24 & 1)) {
        skip(n("TSC deadline"), "CPUID does not offer it");
        return;
    }
    lapic_write(LAPIC_LVT_TIMER, LVT_DEADLINE | VEC_TIMER);
    __asm__ volatile("mfence" : : : "memory");
    check(n("TSC deadline: LVT"), lapic_read(LAPIC_LVT_TIMER), LVT_DEADLINE | VEC_TIMER);
    check(n("TSC deadline: not armed"), rdmsr(MSR_TSC_DEADLINE), 0);
    taken(VEC_TIMER);
    uint32_t took = 0;
    bool early = false;
    for (unsigned attempt = 0; attempt < 20; attempt++) {
        uint64_t at = rdtsc() + divide(tsc_hz, 100);
        uint32_t pm = pm_now();
        wrmsr(MSR_TSC_DEADLINE, at);
        took = halt_until(VEC_TIMER, pm);
        early |= rdtsc() < at;
        if (took <= 15000)
            break;
    }
    check(n("TSC deadline: never early by the TSC"), early, false);
    check_range(n("TSC deadline: 10 ms (us)"), took, 9800, 15000);
    check(n("TSC deadline: disarmed by coming"), rdmsr(MSR_TSC_DEADLINE), 0);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1000);
    let_in();
    check(n("TSC deadline: one that has passed comes at once"), WAIT_OPEN(taken(VEC_TIMER) == 1, 100), 1);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + divide(tsc_hz, 100));
    wrmsr(MSR_TSC_DEADLINE, 0);
    sti();
    delay_us(15000);
    cli();
    check(n("TSC deadline: 0 disarms"), taken(VEC_TIMER), 0);
    lapic_write(LAPIC_TMICT, 1000);
    check(n("TSC deadline: the initial count is ignored"), lapic_read(LAPIC_TMCCT), 0);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | VEC_TIMER);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100);
    check(n("deadline writes in another mode are ignored"), rdmsr(MSR_TSC_DEADLINE), 0);
}

/* A timer interrupt must end HLT. */
static void halt(void)
{
    lapic_write(LAPIC_LVT_TIMER, VEC_TIMER);
    taken(VEC_TIMER);
    lapic_write(LAPIC_TMICT, 100000);
    while (!taken(VEC_TIMER))
        sti_hlt_cli();
    check_true(n("the timer ends HLT"), true);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    lapic_write(LAPIC_TMICT, 0);
}

static void all(bool x2)
{
    registers(x2);
    ipis(x2);
    priorities(x2);
    nmi();
    errors(x2);
    spurious();
    timer(x2);
    deadline();
    halt();
}

static void x2apic_only(void)
{
    check(n("a register of the other mode: #GP (ICR high)"), rdmsr_faults(0x831), true);
    check(n("DFR: #GP"), rdmsr_faults(0x80e), true);
    check(n("EOI of other than 0: #GP"), wrmsr_faults(0x80b, 1), true);
    check(n("reading EOI: #GP"), rdmsr_faults(0x80b), true);
    check(n("writing ID: #GP"), wrmsr_faults(0x802, 1), true);
    check(n("writing LDR: #GP"), wrmsr_faults(0x80d, 1), true);
    check(n("ESR of other than 0: #GP"), wrmsr_faults(0x828, 1), true);
    check(n("reserved bits of TPR: #GP"), wrmsr_faults(0x808, 0x100), true);
    check(n("reserved bits of an LVT: #GP"), wrmsr_faults(0x832, 0x80000000), true);
    check(n("reading SELF IPI: #GP"), rdmsr_faults(0x83f), true);
    uint64_t base = rdmsr(MSR_APIC_BASE);
    check(n("back to xAPIC directly: #GP"), wrmsr_faults(MSR_APIC_BASE, base & ~(uint64_t)APIC_BASE_EXTD), true);
    check(n("still x2APIC"), rdmsr(MSR_APIC_BASE), base);
}

void payload(void)
{
    for (unsigned i = 0; i < 4; i++)
        set_handler((const uint8_t[]){VEC_A, VEC_B, VEC_C, VEC_D}[i], note);
    mode = "xapic";
    tsc_rate();
    uint64_t base = rdmsr(MSR_APIC_BASE);
    if (str_contains(command_line(), "x2apic")) {
        mode = "x2apic";
        check(n("from the start"), base, LAPIC | APIC_BASE_EN | APIC_BASE_EXTD | APIC_BASE_BSP);
        all(true);
        x2apic_only();
        return;
    }
    check(n("base"), base & ~(uint64_t)0xfff, LAPIC);
    check(n("enabled, bootstrap processor"), base & 0xfff, APIC_BASE_EN | APIC_BASE_BSP);
    all(false);

    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 21 & 1)) {
        skip("x2apic", "CPUID does not offer it");
        return;
    }
    mode = "x2apic";
    check(n("registers are no MSRs before: #GP"), rdmsr_faults(0x802), true);
    wrmsr(MSR_APIC_BASE, base | APIC_BASE_EXTD);
    check(n("switched on"), rdmsr(MSR_APIC_BASE), base | APIC_BASE_EXTD);
    all(true);
    x2apic_only();
    wrmsr(MSR_APIC_BASE, base & ~(uint64_t)(APIC_BASE_EN | APIC_BASE_EXTD));
    check(n("disabled globally"), rdmsr(MSR_APIC_BASE) & 0xc00, 0);
    cpuid(1, 0, r);
    check(n("CPUID shows no APIC then"), r[3] >> 9 & 1, 0);
    wrmsr(MSR_APIC_BASE, base);
    mode = "xapic again";
    check(n("the version"), lapic_read(LAPIC_VERSION) & 0xf0, 0x10);
    lapic_write(LAPIC_SVR, 0x1ff);
    taken(VEC_A);
    self(VEC_A);
    let_in();
    check(n("an IPI"), taken(VEC_A), 1);
}
