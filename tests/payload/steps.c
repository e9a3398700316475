/*
 * Single steps, breakpoints and interrupts in code that runs hot (Intel SDM
 * volume 3, sections 6.8 and 17.2): each is taken exactly where it belongs, and
 * leaves every register and flag as it was. Long mode only.
 */
#include "rt/apic.h"
#include "rt/smp.h"

#define TIMER 0x73
#define TF 0x100u
#define RF 0x10000u

/* Named in assembly. */
extern volatile uint64_t memory[64], rounds_in, seed_in;
volatile uint64_t memory[64] __attribute__((aligned(64))), rounds_in, seed_in;

/*
 * All general registers, flags that live from one instruction to the next,
 * memory, SSE and x87; the result depends on every one of them.
 */
static uint64_t checksum(uint64_t rounds, uint64_t seed)
{
    uint64_t result;
    rounds_in = rounds;
    seed_in = seed;
    __asm__ volatile("push %%rbp\n\t"
                     "mov rounds_in, %%rcx\n\t"
                     "mov seed_in, %%rax\n\t"
                     "lea 1(%%rax), %%rbx\n\t"
                     "lea 3(%%rax), %%rdx\n\t"
                     "lea 5(%%rax), %%rsi\n\t"
                     "lea 7(%%rax), %%rdi\n\t"
                     "lea 9(%%rax), %%rbp\n\t"
                     "lea 11(%%rax), %%r8\n\t"
                     "lea 13(%%rax), %%r9\n\t"
                     "lea 15(%%rax), %%r10\n\t"
                     "lea 17(%%rax), %%r11\n\t"
                     "lea 19(%%rax), %%r12\n\t"
                     "lea 21(%%rax), %%r13\n\t"
                     "lea 23(%%rax), %%r14\n\t"
                     "movq %%rax, %%xmm0\n\t"
                     "movq %%rbx, %%xmm7\n\t"
                     "pinsrw $5, %%eax, %%xmm0\n\t"
                     "pxor %%xmm15, %%xmm15\n\t"
                     "fninit\n\t"
                     "fld1\n\t"
                     "fldpi\n"
                     "1:\tadd %%rbx, %%rax\n\t"
                     "adc %%rdx, %%rbx\n\t"
                     "lea memory(%%rip), %%r15\n\t"
                     "mov %%rbx, (%%r15)\n\t"
                     "adc %%rsi, %%rdx\n\t"
                     "mov 8(%%r15), %%r15\n\t"
                     "adc %%r15, %%rsi\n\t"
                     "sbb %%rdi, %%rbp\n\t"
                     "rcl $3, %%rdi\n\t"
                     "adc (%%rsp), %%r8\n\t"
                     "sub (%%rsp), %%r8\n\t"
                     "seto %%r15b\n\t"
                     "setp %%r14b\n\t"
                     "xor %%r14, %%r9\n\t"
                     "imul %%r9, %%r10\n\t"
                     "rol $7, %%r11\n\t"
                     "adc %%r11, %%r12\n\t"
                     "cmp %%r12, %%r13\n\t"
                     "cmovc %%rax, %%r13\n\t"
                     "pushf\n\t"
                     "pop %%r15\n\t"
                     "and $0x8d5, %%r15\n\t"
                     "add %%r15, %%r14\n\t"
                     "ror %%cl, %%r14\n\t"
                     "inc %%r13\n\t"
                     "jp 2f\n\t"
                     "not %%rdi\n"
                     "2:\tmov %%rdi, memory+8(%%rip)\n\t"
                     "paddq %%xmm7, %%xmm0\n\t"
                     "pshufd $0x93, %%xmm0, %%xmm1\n\t"
                     "pxor %%xmm1, %%xmm15\n\t"
                     "movq %%xmm15, %%r15\n\t"
                     "add %%r15, %%r8\n\t"
                     "movups %%xmm15, memory+24(%%rip)\n\t"
                     "fxch\n\t"
                     "fadd %%st(1), %%st\n\t"
                     "fstl memory+48(%%rip)\n\t"
                     "add memory+48(%%rip), %%r9\n\t"
                     "dec %%rcx\n\t"
                     "jnz 1b\n\t"
                     "fstp %%st\n\t"
                     "fstp %%st\n\t"
                     "xor %%rbx, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%rdx, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%rsi, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%rdi, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%rbp, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r8, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r9, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r10, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r11, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r12, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r13, %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "xor %%r14, %%rax\n\t"
                     "pop %%rbp"
                     : "=&a"(result)
                     :
                     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                       "memory", "cc");
    return result;
}

static uint64_t fresh(uint64_t rounds, uint64_t seed)
{
    memset((void *)memory, 0, sizeof(memory));
    return checksum(rounds, seed);
}

/* -- interrupts at a high rate -- */

static volatile uint32_t ticks;
static volatile bool noisy;

static void tick(struct frame *f)
{
    ticks++;
    if (noisy) { /* it uses what the interrupted code uses, and puts it back */
        static uint8_t image[512] __attribute__((aligned(16)));
        __asm__ volatile("fxsave %0; fninit; fldz; pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm15, %%xmm15; fxrstor %0"
                         : "+m"(image)
                         :
                         : "memory");
    }
    lapic_eoi();
}

/* So many a second, by the PM timer. */
static void timer_on(uint32_t hz)
{
    lapic_write(LAPIC_TDCR, 0xb); /* by 1 */
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    lapic_write(LAPIC_TMICT, 0xffffffff);
    uint32_t before = lapic_read(LAPIC_TMCCT);
    delay_us(10000);
    uint32_t per_10ms = before - lapic_read(LAPIC_TMCCT);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | TIMER);
    lapic_write(LAPIC_TMICT, divide((uint64_t)per_10ms * 100, hz));
}
static void timer_off(void)
{
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    lapic_write(LAPIC_TMICT, 0);
}

static void interrupts(unsigned rounds)
{
    set_handler(TIMER, tick);
    uint64_t expected[8];
    unsigned bad = 0;
    for (unsigned i = 0; i < 8; i++)
        expected[i] = fresh(3000, i * 0x123456789ull);
    for (unsigned i = 0; i < 2; i++) {
        noisy = i;
        ticks = 0;
        timer_on(20000);
        sti();
        for (unsigned n = 0; n < rounds; n++)
            bad += fresh(3000, n % 8 * 0x123456789ull) != expected[n % 8];
        cli();
        timer_off();
        let_in();
        check(noisy ? "a checksum under 20,000 interrupts a second that use all registers"
                    : "a checksum under 20,000 interrupts a second",
              bad, 0);
        put_named("interrupts", ticks);
        check_true("there were some", ticks > 10);
    }
    /* Interrupts on and off all the time, by STI, CLI, POPF and HLT. */
    unsigned open = 0, in_cli = 0;
    timer_on(20000);
    for (unsigned n = 0; n < 3000 * rounds / 40; n++) {
        uint32_t before = ticks;
        uintptr_t flags = read_flags();
        for (volatile unsigned i = 0; i < n % 50; i++)
            ;
        in_cli += before != ticks;
        switch (n % 4) {
        case 0: sti_nop_cli(); break;
        case 1: __asm__ volatile("push %0; popf; nop; cli" : : "r"(flags | 0x200) : "memory", "cc"); break;
        case 2:
            __asm__ volatile("sti; mov %0, %%rcx; 1: dec %%rcx; jnz 1b; cli" : : "r"(40ull) : "rcx", "memory", "cc");
            break;
        default:
            if (n % 64 == 3)
                sti_hlt_cli();
        }
        open += before != ticks;
    }
    timer_off();
    let_in();
    check("none comes while they are off", in_cli, 0);
    check_true("they come while they are on", open > 0);
}

/* -- single steps -- */

static volatile uint32_t steps, step_limit;
static uint64_t dr6;
static volatile uint64_t wrong_dr6;

static uint64_t read_dr6(void)
{
    uint64_t v;
    __asm__ volatile("mov %%dr6, %0" : "=r"(v));
    return v;
}
static void write_dr6(uint64_t v) { __asm__ volatile("mov %0, %%dr6" : : "r"(v)); }
static void write_dr7(uint64_t v) { __asm__ volatile("mov %0, %%dr7" : : "r"(v) : "memory"); }

static void step(struct frame *f)
{
    dr6 = read_dr6();
    write_dr6(0);
    wrong_dr6 += (dr6 & 0x400f) != 0x4000;
    steps++;
    if (step_limit && steps == step_limit)
        f->flags &= ~(uintptr_t)TF;
}

/* 3 + 4 * n instructions after the POPF, whose own effect comes behind the first of them; the last takes TF away. */
static uint64_t stepped(uint64_t n, uint64_t flags)
{
    uint64_t sum = 0;
    __asm__ volatile("pushf; pop %%rdx; mov %%rdx, %%rsi; or %[flags], %%rdx; push %%rdx; popf\n\t"
                     "xor %%eax, %%eax\n"
                     "1:\tadd %[n], %%rax\n\t"
                     "rol $1, %%rax\n\t"
                     "dec %[n]\n\t"
                     "jnz 1b\n\t"
                     "push %%rsi\n\t"
                     "popf"
                     : "=&a"(sum), [n] "+r"(n)
                     : [flags] "r"(flags)
                     : "rdx", "rsi", "memory", "cc");
    return sum;
}

static void single_steps(unsigned rounds)
{
    unsigned bad = 0, miscounted = 0;
    set_handler(1, step);
    write_dr6(0);
    wrong_dr6 = 0;
    step_limit = 0;
    for (unsigned n = 1; n <= rounds; n++) {
        uint64_t count = 1 + n % 17, expected = 0;
        for (unsigned i = 0; i < 20; i++)
            expected = stepped(count, 0);
        steps = 0;
        bad += stepped(count, TF) != expected;
        miscounted += steps != 3 + 4 * count;
        steps = 0;
        step_limit = 5; /* it stops in the middle: the rest runs as ever */
        bad += stepped(count + 9, TF) != stepped(count + 9, 0);
        miscounted += steps != 5;
        step_limit = 0;
    }
    check("single steps: results", bad, 0);
    check("single steps: their number", miscounted, 0);
    check("single steps: DR6", wrong_dr6, 0);
    steps = 0;
    uint64_t plain = fresh(20, 3);
    step_limit = 300;
    memset((void *)memory, 0, sizeof(memory));
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf" : : : "memory", "cc");
    uint64_t under = checksum(20, 3);
    /* PUSHF shows TF, masked out by the checksum. */
    check("single steps through the checksum", under, plain);
    step_limit = 0;
}

/* -- breakpoints -- */

static volatile uint32_t hits;
static volatile uint64_t hit_dr6, hit_ip;

static void breakpoint(struct frame *f)
{
    hit_dr6 = read_dr6();
    write_dr6(0);
    hit_ip = f->ip;
    hits++;
    f->flags |= RF;
}

extern uint8_t break_here[];
__attribute__((noinline)) static uint64_t hot_loop(uint64_t n)
{
    uint64_t sum = 0;
    __asm__ volatile("1:\tadd %[n], %[sum]\n\t"
                     "xor memory+256(%%rip), %[sum]\n"
                     "break_here:\n\t"
                     "rol $3, %[sum]\n\t"
                     "mov %[n], memory+264(%%rip)\n\t"
                     "dec %[n]\n\t"
                     "jnz 1b"
                     : [n] "+r"(n), [sum] "+r"(sum)
                     :
                     : "memory", "cc");
    return sum;
}

static void breakpoints(unsigned rounds)
{
    unsigned bad = 0, on_code = 0, on_write = 0, on_read = 0, off = 0, odd = 0;
    set_handler(1, breakpoint);
    memory[32] = 0x5555;
    for (unsigned n = 1; n <= rounds; n++) {
        uint64_t count = 1 + n % 30, expected = 0;
        for (unsigned i = 0; i < 12; i++)
            expected = hot_loop(count);
        hits = 0;
        __asm__ volatile("mov %0, %%dr0" : : "r"(break_here));
        write_dr7(0x402);
        bad += hot_loop(count) != expected;
        on_code += hits != count;
        odd += hit_ip != (uintptr_t)break_here || !(hit_dr6 & 1);
        hits = 0;
        __asm__ volatile("mov %0, %%dr1" : : "r"(&memory[33]));
        write_dr7(0x408 | 0x900000); /* writes of 8 bytes */
        bad += hot_loop(count) != expected;
        on_write += hits != count;
        odd += !(hit_dr6 & 2);
        hits = 0;
        __asm__ volatile("mov %0, %%dr2" : : "r"(&memory[32]));
        write_dr7(0x420 | 0xb000000); /* any access of 8 bytes */
        bad += hot_loop(count) != expected;
        on_read += hits != count;
        odd += !(hit_dr6 & 4);
        write_dr7(0x400);
        hits = 0;
        bad += hot_loop(count) != expected;
        off += hits;
    }
    check("breakpoints: results", bad, 0);
    check("breakpoints on an instruction", on_code, 0);
    check("breakpoints on writes", on_write, 0);
    check("breakpoints on reads", on_read, 0);
    check("breakpoints: where and which", odd, 0);
    check("breakpoints taken away", off, 0);
}

void payload(void)
{
    unsigned n = times();
    allow_sse();
    interrupts(150 * n);
    single_steps(100 * n);
    breakpoints(100 * n);
}
