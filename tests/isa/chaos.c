/*
 * Random bytes executed as code, in 64-bit and 32-bit mode, in the kernel and
 * as a user, all of it translated at once: whatever a guest does, this process
 * must neither crash nor hang, and nothing of the host may show in the guest's
 * registers or memory.
 *
 *     chaos COUNT SEED [options=NAME=VALUE,... [FIRST]]
 *
 * A case is a guest of 1 or 2 CPUs with random pages of code in random places,
 * page tables that map them, random registers, and an IDT that leads into them;
 * it runs for a moment or until it shuts down. TAP says how many did what. The
 * number of a case that goes wrong and the seed make it again (FIRST; its moment of interruption is another one).
 * CHAOS_TRACE in the environment names each case before it runs.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/table.h"
#include "core/vm.h"
#include "cpu/cpu.h"
#include "cpu/jit/jit.h"
#include "os/clock.h"
#include "x86/cpuid.h"
#include "x86/state.h"

enum {
    RAM = 4 << 20,
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT = 0x4000, /* of the first 2 MiB; the next 2 MiB are a large page */
    IDT = 0x5000,
    GDT = 0x6000,
    TSS = 0x7000,
    HANDLER = 0xb000,
    STACK = 0x9000,
    CODE = 0x10000, /* pages of random code from here */
    CODE_PAGES = 16,
};

/*
 * Every exception leads here, and from here on into other random code, in the
 * kernel or as a user: with a stack, and some registers that point to memory.
 */
__asm__(".pushsection .rodata\n"
        "handler64:\n\t"
        "lock incl 0x8000\n\t"
        "imul $0x9e3779b1, 0x8000, %eax\n\t"
        "mov %eax, %ecx\n\t"
        "shr $16, %eax\n\t"
        "add $0x10000, %eax\n\t"
        "mov $0x9000, %esp\n\t"
        "test $0x300, %ecx\n\t"
        "jz 1f\n\t"
        "pushq $0x23; pushq $0x18000; pushq $0x202; pushq $0x2b\n\t"
        "jmp 2f\n"
        "1:\tpushq $0x10; pushq $0x8f00; pushq $0x202; pushq $0x08\n"
        "2:\tpush %rax\n\t"
        "lea 64(%rax), %rsi\n\t"
        "lea 100(%rax), %rdi\n\t"
        "lea 8192(%rax), %rbx\n\t"
        "lea -4000(%rax), %r8\n\t"
        "lea 3(%rax), %r10\n\t"
        "and $31, %ecx\n\t"
        "iretq\n"
        "handler64_end:\n\t"
        ".code32\n"
        "handler32:\n\t"
        "lock incl 0x8000\n\t"
        "imul $0x9e3779b1, 0x8000, %eax\n\t"
        "mov %eax, %ecx\n\t"
        "shr $16, %eax\n\t"
        "add $0x10000, %eax\n\t"
        "mov $0x9000, %esp\n\t"
        "test $0x300, %ecx\n\t"
        "jz 1f\n\t"
        "pushl $0x23; pushl $0x18000; pushl $0x202; pushl $0x1b\n\t"
        "jmp 2f\n"
        "1:\tpushl $0x202; pushl $0x08\n"
        "2:\tpush %eax\n\t"
        "lea 64(%eax), %esi\n\t"
        "lea 100(%eax), %edi\n\t"
        "lea 8192(%eax), %ebx\n\t"
        "mov $0x23, %edx\n\t"
        "mov %edx, %ds\n\t"
        "mov %edx, %es\n\t"
        "and $31, %ecx\n\t"
        "iretl\n"
        "handler32_end:\n\t"
        ".code64\n"
        ".popsection");
extern const uint8_t handler64[], handler64_end[], handler32[], handler32_end[];

static uint64_t state;
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * UINT64_C(0x2545f4914f6cdd1d);
}
static unsigned below(unsigned n) { return (unsigned)((next() >> 32) * n >> 32); }

static struct cpuid_table table;
static struct vm *vm;
static struct x86_state start[2], end[2];

static void put64(uint64_t gpa, uint64_t v) { mem_write(&vm->mem, gpa, &v, 8); }

/* Bytes that are instructions more often than not: common opcodes, small operands, prefixes. */
static void make_code(uint8_t *p, unsigned n)
{
    static const uint8_t usual[] = {0x01, 0x03, 0x09, 0x11, 0x13, 0x19, 0x21, 0x29, 0x31, 0x39, 0x48, 0x49, 0x4c, 0x4d,
                                    0x66, 0x85, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x50, 0x53, 0x58, 0x5b, 0x68, 0x6a,
                                    0x70, 0x72, 0x74, 0x75, 0x7c, 0xe8, 0xe9, 0xeb, 0xc3, 0xc1, 0xd1, 0xd3, 0xf7, 0xf6,
                                    0xff, 0xfe, 0x81, 0x83, 0x80, 0xb8, 0xc7, 0xc6, 0xa4, 0xa5, 0xaa, 0xab, 0xf3, 0xf2,
                                    0xf0, 0x0f, 0x0f, 0x0f, 0x0f, 0xc5, 0xc4, 0xd8, 0xd9, 0xdb, 0xdd, 0xdf, 0x9c, 0x9d,
                                    0xfa, 0xfb, 0x64, 0x65, 0x67, 0x98, 0x99, 0xcf, 0xcc, 0xe2, 0xe3, 0x8f, 0x8e, 0x8c};
    unsigned flavour = below(4);
    for (unsigned i = 0; i < n; i++)
        p[i] = below(4) < flavour ? usual[below(sizeof usual)] : below(3) ? (uint8_t)next() : (uint8_t)below(4);
}

static uint64_t pointer(bool wide)
{
    uint64_t v = CODE + below(CODE_PAGES * 4096 + 64);
    switch (below(16)) {
    case 0: return wide ? next() : (uint32_t)next();
    case 1: return below(64);
    case 2: return 0x8000000000000000u >> below(64);
    case 3: return -(uint64_t)below(4096);
    case 4: return v | 0xfff;
    default: return v;
    }
}

static void make_memory(bool wide)
{
    static uint8_t code[CODE_PAGES * 4096];
    for (unsigned i = 0; i < CODE_PAGES; i++)
        make_code(code + 4096 * i, 4096);
    mem_write(&vm->mem, CODE, code, sizeof code);
    put64(PML4, PDPT | 7);
    put64(PML4 + 8 * 511, PDPT | 7);
    put64(PDPT, PD | 7);
    put64(PDPT + 8 * 511, PD | 7);
    put64(PD, PT | 7);
    put64(PD + 8, 0x200000 | 0x87);
    for (unsigned i = 0; i < 512; i++) { /* one to one, but for some */
        uint64_t flags = below(8) ? 7 : below(8), page = below(16) ? i : below(RAM / 4096);
        put64(PT + 8 * i, page << 12 | flags | (below(32) ? 0 : 1ull << 63) | (below(8) ? 0 : 0x100));
    }
    for (unsigned i = 0; i < 16; i++) /* what all depends on, mostly in its place */
        if (below(64))
            put64(PT + 8 * i, i << 12 | 7);
    for (unsigned i = 0; i < 256; i++) {
        uint64_t at = below(64) ? HANDLER : CODE + below(CODE_PAGES * 4096), type = below(8) ? 0x8e : 0xee;
        if (wide) {
            put64(IDT + 16 * i, (at & 0xffff) | 0x08 << 16 | 1ull << 32 | type << 40 | (at >> 16 & 0xffff) << 48);
            put64(IDT + 16 * i + 8, at >> 32);
        } else {
            put64(IDT + 8 * i, (at & 0xffff) | 0x08 << 16 | type << 40 | (at >> 16 & 0xffff) << 48);
        }
    }
    put64(GDT, 0);
    put64(GDT + 0x08, wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    put64(GDT + 0x10, 0x00cf93000000ffff);
    put64(GDT + 0x18, 0x00cffb000000ffff);
    put64(GDT + 0x20, 0x00cff3000000ffff);
    put64(GDT + 0x28, 0x00affb000000ffff);
    put64(GDT + 0x30, 0x67 | (uint64_t)TSS << 16 | (uint64_t)0x89 << 40);
    put64(GDT + 0x38, 0);
    put64(TSS, (uint64_t)STACK << 32);
    put64(TSS + 4, STACK);
    put64(TSS + 8, 0x10);
    put64(TSS + 36, STACK); /* IST 1 */
    if (wide)
        mem_write(&vm->mem, HANDLER, handler64, (size_t)(handler64_end - handler64));
    else
        mem_write(&vm->mem, HANDLER, handler32, (size_t)(handler32_end - handler32));
}

static struct x86_segment segment(uint16_t sel, uint32_t attr)
{
    struct x86_segment s = x86_flat_segment(sel, attr);
    if (sel & 3)
        s.attr |= 3 << SEG_DPL_SHIFT;
    return s;
}

static void make_state(struct x86_state *x, bool wide, bool user, bool paging)
{
    x86_state_reset(x, true);
    x->run_state = X86_RUNNING;
    x->cr0 = CR0_PE | CR0_ET | CR0_NE | (below(2) ? CR0_WP : 0) | (below(8) ? 0 : CR0_TS) | (below(8) ? CR0_MP : 0);
    x->cr3 = PML4;
    x->cr4 = CR4_PAE | (below(4) ? CR4_OSFXSR | CR4_OSXMMEXCPT : 0) | (below(4) ? CR4_OSXSAVE : 0) |
             (below(4) ? 0 : CR4_SMEP) | (below(4) ? 0 : CR4_SMAP);
    if (wide) {
        x->cr0 |= CR0_PG;
        x->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    } else if (paging) { /* PAE: its directory pointers have no permissions */
        put64(PDPT, PD | 1);
        put64(PDPT + 8, PD | 1);
        put64(PDPT + 16, 0);
        put64(PDPT + 24, PD | 1);
        x->cr0 |= CR0_PG;
        x->cr3 = PDPT;
        x->efer = EFER_NXE;
    }
    x->xcr0 = below(4) ? 7 : 3;
    x->rflags = RFL_FIXED | (next() & (RFL_ARITH | RFL_DF)) | (below(2) ? RFL_IF : 0) | (below(8) ? 0 : RFL_AC);
    x->seg[SEG_CS] = user ? segment(wide ? 0x2b : 0x1b, 0xb) : segment(0x08, 0xb);
    x->seg[SEG_CS].attr |= wide ? SEG_L : SEG_DB;
    for (unsigned s = SEG_ES; s <= SEG_GS; s++)
        if (s != SEG_CS)
            x->seg[s] = segment(user ? 0x23 : 0x10, 3 | SEG_DB);
    x->gdtr = (struct x86_table){GDT, 0x3f};
    x->idtr = (struct x86_table){IDT, 0xfff};
    x->seg[SEG_TR] = (struct x86_segment){.sel = 0x30, .base = TSS, .limit = 0x67, .attr = 0x8b};
    for (unsigned i = 0; i < 16; i++)
        x->gpr[i] = below(3) ? pointer(wide) : below(2) ? next() : below(256);
    if (!wide)
        for (unsigned i = 0; i < 16; i++)
            x->gpr[i] = i < 8 ? (uint32_t)x->gpr[i] : 0;
    if (below(8))
        x->gpr[RSP] = STACK - 8 * below(64);
    x->rip = CODE + below(CODE_PAGES * 4096);
    x->lstar = x->cstar = x->sysenter_eip = CODE + below(CODE_PAGES * 4096);
    x->star = 0x001b000800000000;
    x->sysenter_cs = 0x08;
    x->sysenter_esp = STACK;
    for (unsigned i = 160; i < 416; i += 8) /* XMM registers; MXCSR and FCW as they are after reset */
        memcpy(x->xsave + i, &(uint64_t){next()}, 8);
    x->xsave[512] |= 2;
}

/* -- what must not show: addresses of this process -- */

static struct span {
    uint64_t from, to;
    char name[100];
} spans[512];
static unsigned nspans;

static void find_spans(void)
{
    char line[512];
    nspans = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof line, f) && nspans < 512) {
        unsigned long from, to;
        struct span *s = &spans[nspans];
        s->name[0] = '\0';
        char may[8] = "";
        if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %99[^\n]", &from, &to, may, s->name) < 3 || may[0] != 'r')
            continue;
        s->from = from;
        s->to = to;
        nspans++;
    }
    if (f)
        fclose(f);
}

static const struct span *is_host(uint64_t v)
{
#ifdef __SANITIZE_ADDRESS__
    return NULL; /* it claims so much of the address space that random numbers lie in it; another build looks */
#endif
    if (v >> 32 == 0) /* what random bytes make easily */
        return NULL;
    for (unsigned i = 0; i < nspans; i++)
        if (v >= spans[i].from && v < spans[i].to)
            return &spans[i];
    return NULL;
}

static bool clean(const char *where, uint64_t at, uint64_t v)
{
    const struct span *s = is_host(v);
    if (s)
        printf("# %s %#llx holds %#llx, of %#llx-%#llx %s\n", where, (unsigned long long)at, (unsigned long long)v,
               (unsigned long long)s->from, (unsigned long long)s->to, s->name);
    return !s;
}

static bool state_clean(const struct x86_state *x)
{
    bool good = true;
    for (unsigned i = 0; i < 16; i++)
        good &= clean("register", i, x->gpr[i]);
    good &= clean("RIP", 0, x->rip);
    good &= clean("CR2", 0, x->cr2);
    good &= clean("GS base", 0, x->kernel_gs_base);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        good &= clean("segment base", i, x->seg[i].base);
    for (unsigned i = 0; i + 8 <= sizeof x->xsave; i += 8) {
        uint64_t v;
        memcpy(&v, x->xsave + i, 8);
        good &= clean("XSAVE image", i, v);
    }
    return good;
}

static uint8_t before[RAM]; /* random bytes may be an address of the host's by themselves */

static bool memory_clean(void)
{
    const uint8_t *p = mem_r(&vm->mem, 0, RAM);
    bool good = p;
    for (unsigned i = 0; p && i + 8 <= RAM; i++) {
        uint64_t v;
        if (!p[i + 5] || p[i + 6] || p[i + 7]) /* user addresses of 47 bits, high enough */
            continue;
        memcpy(&v, p + i, 8);
        if (memcmp(before + i, p + i, 8) == 0)
            continue;
        good &= clean("memory", i, v);
    }
    return good;
}

/* -- a case -- */

static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return 0;
}
static void port_write(void *dev, uint64_t off, unsigned size, uint64_t v)
{
    (void)dev, (void)off, (void)size, (void)v;
}
static const struct io_ops ops = {port_read, port_write, 0};

static void prepare(struct vcpu *v, void *arg)
{
    v->vm->accel->set_cpuid(v, &table);
    v->vm->accel->set_state(v, arg);
}
static void ended(struct vcpu *v, void *arg) { v->vm->accel->get_state(v, arg); }

static void on_alarm(int signal)
{
    (void)signal;
    static const char text[] = "Bail out! the guest cannot be stopped\n";
    if (write(1, text, sizeof text - 1) < 0)
        _exit(2);
    abort();
}

static unsigned counts[8];
static uint64_t blocks, entered;

static bool run_case(const struct accel_ops *accel, const char *options)
{
    const struct mem_options none = {0};
    const unsigned cpus = 1 + !below(4);
    bool wide = below(3), paging = wide || below(2), good = true;
    if (vm_new(&vm, "chaos", cpus, RAM, &none))
        return false;
    vm->tsc_hz = accel->tsc_hz;
    vm->accel_options = options;
    char why[300];
    uint32_t offered[CPUID_WORDS] = {0};
    if (accel->vm_open && accel->vm_open(vm, NULL, why, sizeof why)) {
        fprintf(stderr, "%s\n", why);
        return false;
    }
    accel->offered(vm, offered);
    if (cpuid_build(&table, NULL, offered, &(struct cpuid_topology){1, 1, 1, 1}, vm->tsc_hz, 0, why, sizeof why))
        return false;
    vm->cpuid = &table;
    bus_add(vm->pio, &(struct io_range){.base = 0x100, .len = 16, .ops = &ops, .name = "ports"});
    bus_add(vm->mmio, &(struct io_range){.base = 0xfee00000, .len = 4096, .ops = &ops, .name = "device"});
    make_memory(wide);
    mem_read(&vm->mem, 0, before, RAM);
    for (unsigned i = 0; i < cpus; i++)
        make_state(&start[i], wide, below(2), paging);
    if (vm_start(vm, accel))
        return false;
    find_spans();
    for (unsigned i = 0; i < cpus; i++)
        vcpu_call(vm->vcpu[i], prepare, &start[i]);
    alarm(120);
    uint64_t until = os_clock_ns() + UINT64_C(1000000) * (1 + below(4));
    vm_resume(vm);
    while (os_clock_ns() < until && !atomic_load(&vm->stop)) {
        usleep(100);
        if (!below(3)) /* as another thread would */
            vcpu_raise(vm->vcpu[below(cpus)], below(2) ? VCPU_EV_NMI : VCPU_EV_ACCEL);
    }
    vm_pause(vm);
    counts[atomic_load(&vm->stop) & 7]++;
    for (unsigned i = 0; i < cpus; i++)
        vcpu_call(vm->vcpu[i], ended, &end[i]);
    find_spans();
    for (unsigned i = 0; i < cpus; i++)
        good &= state_clean(&end[i]);
    good &= memory_clean();
    for (unsigned i = 0; i < cpus; i++) {
        const struct cpu *cpu = vm->vcpu[i]->accel;
        if (cpu->jit) {
            blocks += jit_stats(cpu->jit)->blocks;
            entered += jit_stats(cpu->jit)->enters;
        }
    }
    vm_join(vm);
    alarm(0);
    if (accel->vm_close)
        accel->vm_close(vm);
    vm_free(vm);
    return good;
}

int main(int argc, char **argv)
{
    const char *options = "jit.threshold=1";
    if (argc < 3)
        return 64;
    unsigned count = (unsigned)atoi(argv[1]), bad = 0;
    uint64_t seed = strtoull(argv[2], NULL, 0);
    if (argc > 3 && !strncmp(argv[3], "options=", 8))
        options = argv[3] + 8;
    unsigned first = argc > 4 ? (unsigned)atoi(argv[4]) : 0; /* to make one case again */
    const struct accel_ops *accel = accel_find("soft");
    if (!accel)
        return 64;
    signal(SIGALRM, on_alarm);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..1\n");
    for (unsigned n = first; n < first + count; n++) {
        state = (seed + n) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        for (unsigned i = 0; i < 4; i++)
            next();
        if (getenv("CHAOS_TRACE"))
            printf("# case %u\n", n);
        if (!run_case(accel, options)) {
            printf("# case %u of seed %llu\n", n, (unsigned long long)seed);
            bad++;
        }
    }
    printf("# %llu blocks translated, entered %llu times\n", (unsigned long long)blocks, (unsigned long long)entered);
    printf("# %u went on, %u shut down, %u halted\n", counts[VM_RUNNING], counts[VM_TRIPLE_FAULT], counts[VM_HALT]);
    printf("%s 1 - %u guests of random bytes, seed %llu\n", bad ? "not ok" : "ok", count, (unsigned long long)seed);
    return bad != 0;
}
