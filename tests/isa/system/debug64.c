/*
 * Debugging: single-step, instruction and data breakpoints, I/O breakpoints,
 * RF, GD, the shadow of MOV SS (SDM vol. 3 chapter 17).
 */
#include "rt64.h"

#define TF (1ull << 8)
#define RF (1ull << 16)
#define DR6_BS (1ull << 14)
#define DR6_BD (1ull << 13)
#define DR6_CLEAR 0xffff0ff0ull

#define DR(n)                                                                                                          \
    static uint64_t read_dr##n(void)                                                                                   \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                                              \
        return v;                                                                                                      \
    }                                                                                                                  \
    static void write_dr##n(uint64_t v) { __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory"); }
DR(0)
DR(1)
DR(6)
DR(7)

/* Each #DB is noted, and the program goes on. */
static struct {
    uint64_t rip, dr6, rcx, cs;
} note[64];
static unsigned notes;
static uint64_t clear_flags; /* to take off the interrupted flags after so many notes */
static unsigned stop_after;
static bool set_rf;

static bool on_debug(struct frame *f)
{
    if (f->vector != 1)
        return false;
    uint64_t dr6 = read_dr6();
    if (notes < 64) {
        note[notes].rip = f->rip;
        note[notes].dr6 = dr6;
        note[notes].rcx = f->gpr[12];
        note[notes].cs = f->cs;
        notes++;
    }
    write_dr6(0);
    if (set_rf)
        f->rflags |= RF;
    if (notes >= stop_after)
        f->rflags &= ~clear_flags;
    return true;
}
static void begin(unsigned stop, uint64_t clear)
{
    notes = 0;
    stop_after = stop;
    clear_flags = clear;
    write_dr6(0);
}

#define LABEL(name) extern uint8_t name[]
LABEL(step_a);
LABEL(step_b);
LABEL(step_c);
LABEL(step_d);
LABEL(step_e);

static void steps(uint64_t a)
{
    (void)a;
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n"
                     "    nop\n"
                     "step_a: mov $1, %%eax\n"
                     "step_b: pushfq; andq $~0x100, (%%rsp)\n"
                     "step_d: popfq\n"
                     "step_e: nop\n"
                     :
                     :
                     : "rax", "cc", "memory");
}
static void single_step(void)
{
    begin(99, 0);
    expect("stepping", try_kernel(steps, 0), NONE, 0);
    check("five traps", notes, 5);
    check("the first after the instruction behind POPF", note[0].rip, (uint64_t)step_a);
    check("BS", note[0].dr6, DR6_CLEAR | DR6_BS);
    check("the second", note[1].rip, (uint64_t)step_b);
    check("the POPF that clears TF still traps", note[4].rip, (uint64_t)step_e);
}

LABEL(rep_at);
LABEL(rep_end);
static uint8_t buf[64];
static void rep_steps(uint64_t a)
{
    __asm__ volatile("mov $3, %%ecx; pushfq; orq $0x100, (%%rsp); popfq\n"
                     "rep_at: rep stosb\n"
                     "rep_end: nop\n"
                     "nop"
                     : "+D"(a)
                     :
                     : "rax", "rcx", "cc", "memory");
}
static void single_step_rep(void)
{
    begin(4, TF);
    expect("stepping a REP", try_kernel(rep_steps, (uint64_t)buf), NONE, 0);
    check("traps", notes, 4);
    check("after one element", note[0].rip, (uint64_t)rep_at);
    check("two left", note[0].rcx, 2);
    check("one left", note[1].rcx, 1);
    check("after the last", note[2].rip, (uint64_t)rep_end);
}

LABEL(ss_a);
LABEL(ss_b);
static void mov_ss(uint64_t a)
{
    (void)a;
    __asm__ volatile("mov %%ss, %%ecx; pushfq; orq $0x100, (%%rsp); popfq\n"
                     "mov %%ecx, %%ss\n"
                     "ss_a: nop\n"
                     "ss_b: nop\n"
                     :
                     :
                     : "rcx", "cc", "memory");
}
static void mov_ss_shadow(void)
{
    begin(1, TF);
    expect("stepping over MOV SS", try_kernel(mov_ss, 0), NONE, 0);
    check("one trap", notes, 1);
    check("not behind MOV SS but one later", note[0].rip, (uint64_t)ss_b);
}

/* INT n and exceptions clear TF: the handler is not stepped. */
static void int_step(uint64_t a)
{
    (void)a;
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq\n"
                     "int $0x21\n"
                     "nop\n"
                     "pushfq; andq $~0x100, (%%rsp); popfq"
                     :
                     :
                     : "cc", "memory");
}
static unsigned ints;
static bool on_both(struct frame *f)
{
    if (f->vector == 0x21) {
        ints++;
        check("TF saved by INT n", f->rflags >> 8 & 1, 1);
        return true;
    }
    return on_debug(f);
}
static void int_n(void)
{
    begin(99, 0);
    ints = 0;
    trap_hook = on_both;
    expect("stepping INT n", try_kernel(int_step, 0), NONE, 0);
    check("one interrupt", ints, 1);
    for (unsigned i = 0; i < notes; i++)
        check_true("no trap in the handler",
                   note[i].rip < (uint64_t)isr_stubs || note[i].rip >= (uint64_t)isr_stubs + 4096);
    trap_hook = on_debug;
}

/* -- breakpoints -- */

LABEL(bp_a);
LABEL(bp_b);
static void bp_code(uint64_t a)
{
    (void)a;
    __asm__ volatile("nop\nbp_a: mov $2, %%eax\nbp_b: nop" : : : "rax");
}
static void instruction_breakpoints(void)
{
    begin(99, 0);
    set_rf = true;
    write_dr0((uint64_t)bp_a);
    write_dr1((uint64_t)bp_b);
    write_dr7(1 << 0 | 1 << 2);
    expect("instruction breakpoints", try_kernel(bp_code, 0), NONE, 0);
    check("two hits", notes, 2);
    check("the first, before its instruction", note[0].rip, (uint64_t)bp_a);
    check("its bit", note[0].dr6, DR6_CLEAR | 1);
    check("the second", note[1].rip, (uint64_t)bp_b);
    check("its bit", note[1].dr6, DR6_CLEAR | 2);
    check("RF is set in the image", trap.rflags >> 16 & 1, 1);
    write_dr7(0);
    begin(99, 0);
    expect("disabled", try_kernel(bp_code, 0), NONE, 0);
    check("no hits", notes, 0);
    set_rf = false;
}

static volatile uint64_t watched[4] __attribute__((aligned(64)));
static void write_watched(uint64_t i) { ((volatile uint8_t *)watched)[i] = 1; }
static void read_watched(uint64_t i) { (void)((volatile uint8_t *)watched)[i]; }
static void write_wide(uint64_t i) { *(volatile uint64_t *)((uint8_t *)watched + i) = 0x55; }
static void rmw_watched(uint64_t i)
{
    __asm__ volatile("lock incb (%0)" : : "r"((uint8_t *)watched + i) : "memory", "cc");
}

static void data(const char *what, void (*fn)(uint64_t), uint64_t arg, unsigned hits)
{
    begin(99, 0);
    expect(what, try_kernel(fn, arg), NONE, 0);
    check(what, notes, hits);
    if (hits)
        check(what, note[0].dr6, DR6_CLEAR | 1);
}
static void data_breakpoints(void)
{
    write_dr0((uint64_t)watched + 4);
    write_dr7(1 << 0 | 1 << 16 | 3 << 18); /* writes, 4 bytes */
    data("write below", write_watched, 3, 0);
    data("write at the start", write_watched, 4, 1);
    data("write at the end", write_watched, 7, 1);
    data("write behind", write_watched, 8, 0);
    data("read", read_watched, 4, 0);
    data("a wide write that overlaps", write_wide, 0, 1);
    data("read-modify-write", rmw_watched, 5, 1);
    write_dr7(1 << 0 | 3 << 16 | 3 << 18); /* reads and writes */
    data("read of a read watch", read_watched, 4, 1);
    data("write of a read watch", write_watched, 6, 1);
    data("read beside", read_watched, 9, 0);
    write_dr0((uint64_t)watched + 11);
    write_dr7(1 << 0 | 1 << 16 | 2 << 18); /* 8 bytes: low bits of the address do not count */
    data("8 bytes, first", write_watched, 8, 1);
    data("8 bytes, last", write_watched, 15, 1);
    data("8 bytes, behind", write_watched, 16, 0);
    write_dr7(0);
    data("disabled", write_watched, 8, 0);
    check("a trap comes after the access", watched[1] & 0xff, 1);
}

LABEL(gd_at);
static void touch_dr(uint64_t a)
{
    (void)a;
    uint64_t v;
    __asm__ volatile("gd_at: mov %%dr0, %0" : "=r"(v));
}
static void general_detect(void)
{
    begin(99, 0);
    write_dr7(1 << 13);
    expect("MOV DR with GD", try_kernel(touch_dr, 0), NONE, 0);
    check("one fault", notes, 1);
    check("before it", note[0].rip, (uint64_t)gd_at);
    check("BD", note[0].dr6, DR6_CLEAR | DR6_BD);
    check("GD is cleared for the handler", read_dr7(), 0x400);
}

LABEL(io_after);
static void io_access(uint64_t a) { __asm__ volatile("in %%dx, %%al\nio_after: nop" : : "d"(a) : "rax"); }
static void io_breakpoints(void)
{
    write_cr4(read_cr4() | 8); /* DE */
    write_dr0(0xe0);
    write_dr7(1 | 2 << 16 | 1 << 18); /* two ports */
    begin(99, 0);
    expect("I/O breakpoint", try_kernel(io_access, 0xe1), NONE, 0);
    check("hit", notes, 1);
    check("after it", note[0].rip, (uint64_t)io_after);
    begin(99, 0);
    expect("another port", try_kernel(io_access, 0xe2), NONE, 0);
    check("no hit", notes, 0);
    write_dr7(0);
    write_cr4(read_cr4() & ~8ull);
}

static void fixed_bits(void)
{
    write_dr6(0);
    check("DR6", read_dr6(), 0xffff0ff0);
    write_dr6(0xffffffff);
    check("DR6, all ones", read_dr6() & 0xffffefff, 0xffffefff);
    write_dr6(0);
    write_dr7(0);
    check("DR7", read_dr7(), 0x400);
    write_dr0(0x123456789abcdef0);
    check("DR0 is 64 bits wide", read_dr0(), 0x123456789abcdef0);
    check("DR1 is untouched", read_dr1() == read_dr0(), 0);
}

void payload(void)
{
    trap_hook = on_debug;
    single_step();
    single_step_rep();
    mov_ss_shadow();
    int_n();
    instruction_breakpoints();
    data_breakpoints();
    general_detect();
    io_breakpoints();
    fixed_bits();
}
