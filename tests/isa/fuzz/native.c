/*
 * The host's CPU as the oracle. A child process lives in a loop of signals:
 * each case ends with INT3 or a fault, whose handler notes the registers of
 * the signal frame, puts those of the next case in their place and returns
 * into it.
 */
#include "fuzz.h"

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

static void enter_case(const struct fuzz_case *c, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < 2; i++)
        if (c->poke[i].addr)
            memcpy((void *)(uintptr_t)c->poke[i].addr, c->poke[i].bytes, sizeof(c->poke[i].bytes));
    for (unsigned i = 0; i < 16; i++)
        g[gregs[i]] = (greg_t)c->in.reg[i];
    g[REG_RIP] = (greg_t)c->rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    uint64_t segs = (uint64_t)g[REG_CSGSFS];
    g[REG_CSGSFS] = (greg_t)((segs & ~UINT64_C(0xffff)) | (c->bits == 64 ? CS64 : CS32));
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
    /* 32-bit code needs real data segments; 64-bit code does not mind them. GS must stay null to keep its base. */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(DS));
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

    /* Does this kernel run 32-bit code for us? A case that would be something else in 64-bit mode: INC EAX. */
    memset(n->code, 0xcc, CODE_SIZE);
    struct fuzz_case *c = &n->batch->cases[0];
    memset(c, 0, sizeof(*c));
    c->bits = 32;
    c->rip = CODE_BASE + SLOT_ENTRY;
    c->in.rflags = RFL_FIXED | RFL_IF;
    n->code[SLOT_ENTRY] = 0x40;
    n->compat = native_run(n, 0, 1) == 1 && c->native.vector == NO_VECTOR && c->native.s.reg[RAX] == 1;
    return 0;
}
