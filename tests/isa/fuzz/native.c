/*
 * The host's CPU as the oracle. A child process lives in a loop of signals:
 * each case ends with INT3 or a fault, whose handler notes the registers of
 * the signal frame, puts those of the next case in their place and returns
 * into it.
 */
#include "fuzz.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "x86/regs.h"

enum { CS64 = 0x33, CS32 = 0x23, DS = 0x2b };

/* Entries of the local descriptor table: segmented code. */
enum { LDT_DATA, LDT_STACK16, LDT_GS, LDT_CODE32, LDT_CODE16 /* several */ };
#define LDT_SELECTOR(n) ((n) << 3 | 7)

#ifndef UC_STRICT_RESTORE_SS
#define UC_SIGCONTEXT_SS 0x2
#define UC_STRICT_RESTORE_SS 0x4
#endif

/* The child's; a signal handler has no argument of ours. */
static struct native *me;
static bool started;

static const int gregs[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static void note_outcome(struct fuzz_case *c, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct fuzz_outcome *out = &c->native;
    for (unsigned i = 0; i < 16; i++)
        out->s.reg[i] = (uint64_t)g[gregs[i]];
    out->s.rip = (uint64_t)g[REG_RIP];
    out->s.rflags = (uint64_t)g[REG_EFL];
    out->vector = (uint32_t)g[REG_TRAPNO];
    out->error = (uint32_t)g[REG_ERR];
    out->cr2 = (uint64_t)g[REG_CR2];
    if (out->vector == EXC_BP) { /* the INT3 behind it, or where it jumped to */
        out->vector = NO_VECTOR;
        out->s.rip--;
    } else if (out->vector == EXC_PF && out->error & PFEC_I && out->cr2 == out->s.rip) {
        out->vector = NO_VECTOR; /* jumped into the void */
    }
    if (c->vector_state)
        memcpy(out->s.xsave, uc->uc_mcontext.fpregs, sizeof(out->s.xsave));
    out->memory = memory_hash((void *)DATA_BASE, (void *)(DATA_BASE + 4096));
}

static uint16_t code_selector(const struct fuzz_case *c)
{
    switch (c->mode) {
    case FUZZ_64: return CS64;
    case FUZZ_32: return CS32;
    case FUZZ_SEG32: return LDT_SELECTOR(LDT_CODE32);
    default: return (uint16_t)LDT_SELECTOR(LDT_CODE16 + c->slot / CODE16_SLOTS);
    }
}
static uint16_t stack_selector(const struct fuzz_case *c)
{
    return c->mode == FUZZ_SEG16 ? LDT_SELECTOR(LDT_STACK16) : c->mode == FUZZ_SEG32 ? LDT_SELECTOR(LDT_DATA) : DS;
}

static void enter_case(const struct fuzz_case *c, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < 2; i++)
        if (c->poke[i].addr)
            memcpy((void *)(uintptr_t)c->poke[i].addr, c->poke[i].bytes, sizeof(c->poke[i].bytes));
    if (c->image.addr)
        memcpy((void *)(uintptr_t)c->image.addr, c->image.bytes, c->image.len);
    for (unsigned i = 0; i < 16; i++)
        g[gregs[i]] = (greg_t)c->in.reg[i];
    g[REG_RIP] = (greg_t)c->rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    uint64_t segs = (uint64_t)g[REG_CSGSFS] & ~UINT64_C(0xffff00000000ffff);
    g[REG_CSGSFS] = (greg_t)(segs | code_selector(c) | (uint64_t)stack_selector(c) << 48);
    uc->uc_flags |= UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    if (c->vector_state) {
        /* Bytes 464-511 are the kernel's; of XSTATE_BV the parts we load are set. */
        uint8_t *image = (uint8_t *)uc->uc_mcontext.fpregs;
        memcpy(image, c->in.xsave, 464);
        uint64_t *bv = (uint64_t *)(image + 512);
        *bv |= 7;
        memcpy(image + 576, c->in.xsave + 576, 256);
    }
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)info;
    __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" : : "i"(~RFL_AC) : "cc", "memory"); /* the case's */
    ucontext_t *uc = context;
    struct fuzz_batch *b = me->batch;
    if (started) {
        note_outcome(&b->cases[b->next], uc);
        b->next++;
    }
    started = true;
    if (b->next >= b->end)
        _exit(0);
    enter_case(&b->cases[b->next], uc);
    /* The kernel takes NT and ID from here, not from the frame. */
    __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" : : "i"(~(RFL_NT | RFL_ID)) : "cc", "memory");
}

static void set_descriptor(struct user_desc d)
{
    if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) != 0)
        _exit(1);
}

static void set_descriptors(void)
{
    struct user_desc data = {
        .entry_number = LDT_DATA, .base_addr = SEG_BASE, .limit = SEG_LIMIT, .seg_32bit = 1, .useable = 1};
    struct user_desc down = {.entry_number = LDT_STACK16,
                             .base_addr = SEG_BASE,
                             .limit = SEG_DOWN_LIMIT,
                             .contents = MODIFY_LDT_CONTENTS_STACK,
                             .useable = 1};
    struct user_desc gs = data;
    gs.entry_number = LDT_GS;
    gs.read_exec_only = 1;
    struct user_desc code = {.entry_number = LDT_CODE32,
                             .base_addr = CODE_BASE,
                             .limit = CODE_SIZE - 1,
                             .contents = MODIFY_LDT_CONTENTS_CODE,
                             .seg_32bit = 1,
                             .useable = 1};
    set_descriptor(data);
    set_descriptor(down);
    set_descriptor(gs);
    set_descriptor(code);
    for (unsigned i = 0; i < BATCH / CODE16_SLOTS; i++) {
        code.entry_number = LDT_CODE16 + i;
        code.base_addr = (unsigned)(CODE_BASE + 0x10000 * i);
        code.limit = 0xffff;
        code.seg_32bit = 0;
        set_descriptor(code);
    }
}

static _Noreturn void child(struct native *n)
{
    static uint8_t stack[65536];
    me = n;
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    sigaltstack(&ss, NULL);
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &sa, NULL);
    struct itimerval limit = {.it_value = {.tv_sec = 20}};
    setitimer(ITIMER_REAL, &limit, NULL); /* a case that never ends */
    syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
    (void)*(volatile uint8_t *)DATA_READONLY; /* present from now on: a write to it is a violation, not a miss */
    /* 32-bit code needs real data segments; 64-bit code does not mind them, but GS must stay null to keep its base. */
    uint16_t ds = DS;
    if (fuzz_segmented(n->batch->cases[n->batch->next].mode)) {
        set_descriptors();
        ds = LDT_SELECTOR(LDT_DATA);
        __asm__ volatile("mov %0, %%gs" : : "r"((uint16_t)LDT_SELECTOR(LDT_GS)));
    }
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(ds));
    __asm__ volatile("int3");
    _exit(1);
}

unsigned native_run(struct native *n, unsigned from, unsigned to)
{
    if (from >= to)
        return to;
    n->batch->next = from;
    n->batch->end = to;
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0)
        child(n);
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return n->batch->next;
}

static void *map_at(uint64_t addr, size_t len, int prot, int flags, int fd, off_t off)
{
    void *p = mmap((void *)(uintptr_t)addr, len, prot, flags, fd, off);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return p;
}

/* Does this kernel run such code for us? The case is an ADD of the upper half of RAX' lower half, at the last slot. */
static bool probe(struct native *n, enum fuzz_mode mode)
{
    static const uint8_t code[2][3] = {{0x83, 0xc0, 0x01}, {0x66, 0x83, 0xc0}};
    struct fuzz_case *c = &n->batch->cases[0];
    uint8_t *at = n->code + (BATCH - 1) * SLOT_SIZE + SLOT_ENTRY;
    memset(c, 0, sizeof(*c));
    c->mode = (uint8_t)mode;
    c->slot = BATCH - 1;
    c->rip = CODE_BASE + (BATCH - 1) * SLOT_SIZE + SLOT_ENTRY - fuzz_code_base(mode, BATCH - 1);
    c->in.rflags = RFL_FIXED | RFL_IF;
    c->in.reg[RAX] = 0xffff;
    c->in.reg[RSP] = 0x12341234;
    memcpy(at, code[mode == FUZZ_SEG16], 3);
    at[3] = mode == FUZZ_SEG16 ? 1 : 0xcc;
    return native_run(n, 0, 1) == 1 && c->native.vector == NO_VECTOR && c->native.s.reg[RAX] == 0x10000 &&
           (uint32_t)c->native.s.reg[RSP] == 0x12341234;
}

int native_init(struct native *n)
{
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || ftruncate(fd, CODE_SIZE + DATA_SPAN) < 0)
        return -errno;
    n->batch = map_at(0, sizeof(*n->batch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    n->code = map_at(0, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    n->data = map_at(0, DATA_SPAN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, CODE_SIZE);
    int fixed = MAP_SHARED | MAP_FIXED_NOREPLACE;
    map_at(CODE_BASE, CODE_SIZE, PROT_READ | PROT_EXEC, fixed, fd, 0);
    map_at(DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE, fixed, fd, CODE_SIZE);
    map_at(DATA_READONLY, 4096, PROT_READ, fixed, fd, CODE_SIZE + 0x3000);
    close(fd);

    memset(n->code, 0xcc, CODE_SIZE);
    for (enum fuzz_mode m = 0; m < FUZZ_MODES; m++)
        n->can[m] = probe(n, m);
    return 0;
}
