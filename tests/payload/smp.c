/* Several processors: start by INIT and SIPI, IPIs in all their kinds, locked instructions. Run with -c 4. */
#include "rt/apic.h"

#define CPUS 4
#define VEC 0x70

static uint32_t before[CPUS];

static void remember(unsigned vector)
{
    for (unsigned i = 0; i < CPUS; i++)
        before[i] = irq_count[i][vector];
}

/* How many each CPU has got, as a digit each: CPU 0 is the first of four. */
static uint32_t got(unsigned vector)
{
    uint32_t digits = 0;
    for (unsigned i = 0; i < CPUS; i++)
        digits = digits * 10 + (irq_count[i][vector] - before[i]);
    return digits;
}

static void sends(const char *name, uint32_t dest, uint32_t low, uint32_t expected)
{
    remember(VEC);
    lapic_ipi(dest, low | ICR_ASSERT | VEC);
    WAIT_OPEN(got(VEC) == expected, 500);
    sti();
    delay_us(500);
    cli();
    check(name, got(VEC), expected);
}

static void set_ldr(void)
{
    lapic_write(LAPIC_DFR, 0xffffffff);
    lapic_write(LAPIC_LDR, 1u << (24 + cpu_id()));
}

static void to_x2apic(void) { wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_EXTD); }

static void on_all(void (*fn)(void))
{
    fn();
    for (unsigned i = 1; i < CPUS; i++)
        run_on(i, fn);
    for (unsigned i = 1; i < CPUS; i++)
        if (!wait_for(i, 2000))
            fail(numbered("does its work: CPU", i), "no answer");
}

static void ipis(void)
{
    sends("IPI: to one", 2, 0, 10);
    sends("IPI: to self by ID", 0, 0, 1000);
    sends("IPI: shorthand self", 0, ICR_SELF, 1000);
    sends("IPI: shorthand all", 0, ICR_ALL, 1111);
    sends("IPI: shorthand others", 0, ICR_OTHERS, 111);
    sends("IPI: to nobody", 9, 0, 0);
    sends("IPI: broadcast", 0xff, 0, 1111);
    on_all(set_ldr);
    sends("IPI: logical", 0x0a, ICR_LOGICAL, 101);
    sends("IPI: logical, all", 0xff, ICR_LOGICAL, 1111);
    remember(VEC);
    lapic_ipi(0x0e, ICR_LOGICAL | ICR_LOWEST | ICR_ASSERT | VEC);
    WAIT_OPEN(got(VEC), 1000);
    sti();
    delay_us(2000);
    cli();
    uint32_t g = got(VEC);
    check("IPI: lowest priority reaches one of three", g == 1 || g == 10 || g == 100, true);
    set_handler(2, count_only);
    remember(2);
    lapic_ipi(0, ICR_OTHERS | ICR_NMI | ICR_ASSERT);
    WAIT(got(2) == 111, 500);
    check("NMI to the others", got(2), 111);
    set_handler(2, NULL);
}

static void raise_tpr(void) { lapic_write(LAPIC_TPR, 0xe0); }
static void lower_tpr(void) { lapic_write(LAPIC_TPR, 0); }

static void task_priorities(void)
{
    /* WAKE_VECTOR is above 0xe0: CPU 1 still takes work. */
    run_on(1, raise_tpr);
    wait_for(1, 1000);
    remember(VEC);
    lapic_ipi(1, ICR_ASSERT | VEC);
    delay_us(2000);
    check("TPR of another CPU holds an IPI back", got(VEC), 0);
    run_on(1, lower_tpr);
    wait_for(1, 1000);
    WAIT(got(VEC) == 100, 500);
    check("until it is lowered", got(VEC), 100);
}

static void everybody_to_everybody(void)
{
    for (unsigned to = 0; to < CPUS; to++) {
        lapic_ipi(to, ICR_ASSERT | VEC);
        let_in();
        delay_us(200);
    }
}

static void storm_of_ipis(void)
{
    /* From each CPU in turn to every CPU. */
    for (unsigned from = 0; from < CPUS; from++) {
        remember(VEC);
        if (from == 0) {
            sti();
            everybody_to_everybody();
            cli();
        } else {
            run_on(from, everybody_to_everybody);
            sti();
            wait_for(from, 2000);
            cli();
        }
        WAIT_OPEN(got(VEC) == 1111, 500);
        check(numbered("to everybody from CPU", from), got(VEC), 1111);
    }
}

static volatile uint32_t locked, ticket, turn, plain;
static volatile uint64_t wide;

static void count_up(void)
{
    for (unsigned i = 0; i < 20000; i++)
        __asm__ volatile("lock; incl %0" : "+m"(locked) : : "cc");
    for (unsigned i = 0; i < 2000; i++) {
        uint32_t mine = __sync_fetch_and_add(&ticket, 1);
        while (turn != mine)
            cpu_pause();
        plain++;
        turn = mine + 1;
    }
    for (unsigned i = 0; i < 5000; i++)
        __sync_fetch_and_add(&wide, 0x100000001ull);
}

static void locks(void)
{
    locked = ticket = turn = plain = 0;
    for (unsigned i = 1; i < 3; i++)
        run_on(i, count_up);
    count_up();
    check("the others end", wait_for(1, 4000) && wait_for(2, 4000), true);
    check("locked increments of three CPUs", locked, 60000);
    check("a ticket lock", plain, 6000);
    check("64-bit exchange-and-add", wide, 15000 * 0x100000001ull);
}

static void start_again(void)
{
    uint32_t others = irq_count[2][VEC];
    lapic_ipi(3, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
    lapic_ipi(3, ICR_INIT | ICR_LEVEL);
    delay_us(2000);
    remember(VEC);
    lapic_ipi(3, ICR_ASSERT | VEC);
    delay_us(2000);
    check("after INIT it takes no interrupt", got(VEC), 0);
    smp_init_and_start(3);
    check("INIT and SIPI start it again", cpu_online(3), true);
    sends("and it takes interrupts", 3, 0, 1);
    run_on(3, set_ldr);
    check("and work", wait_for(3, 1000), true);
    /* A start-up IPI for a CPU that runs is ignored. */
    lapic_ipi(3, ICR_STARTUP | TRAMPOLINE >> 12);
    delay_us(1000);
    sends("a start-up IPI does not disturb a running CPU", 3, 0, 1);
    check("nor another", irq_count[2][VEC], others);
}

static void x2apic(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 21 & 1)) {
        skip("x2apic", "CPUID does not offer it");
        return;
    }
    /* One at a time: a CPU that is in xAPIC mode is woken all the same. */
    for (unsigned i = 1; i < CPUS; i++) {
        run_on(i, to_x2apic);
        wait_for(i, 1000);
    }
    to_x2apic();
    sends("x2APIC: to one", 2, 0, 10);
    sends("x2APIC: others", 0, ICR_OTHERS, 111);
    sends("x2APIC: all", 0, ICR_ALL, 1111);
    sends("x2APIC: broadcast", 0xffffffff, 0, 1111);
    sends("x2APIC: logical", 0x0000000c, ICR_LOGICAL, 11);
    smp_init_and_start(3); /* which leaves IA32_APIC_BASE as it is */
    check("x2APIC: INIT and SIPI start it again", cpu_online(3), true);
    sends("x2APIC: and it takes interrupts", 3, 0, 1);
}

void payload(void)
{
    set_handler(VEC, count_lapic);
    check("CPUs that start", smp_start(), CPUS);
    for (unsigned i = 1; i < CPUS; i++)
        if (!cpu_online(i))
            return;
    ipis();
    task_priorities();
    storm_of_ipis();
    locks();
    start_again();
    x2apic();
}
