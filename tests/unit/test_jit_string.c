/*
 * String and system instructions in translated code, against the interpreter:
 * the same program from the same state, and everything must come out the same:
 * registers, flags, memory, faults.
 */
#include "core/bus.h"
#include "core/intc.h"
#include "cpu/block.h"
#include "cpu/mmu.h"
#include "interp_fixture.h"
#include "os/clock.h"

#define CODE 0x7000
#define DATA 0x10000
#define DATA_END 0x80000
#define DEVICE 0x180000 /* linear; behind it there is no memory */
#define HANDLER_AT 0x6800
#define NREGS 16

struct outcome {
    enum vcpu_exit exit;
    uint64_t reg[NREGS], rip, cr2, gs, kernel_gs;
    uint32_t rflags, exc_error;
    uint8_t vector, cpl;
    uint64_t device;
    uint8_t memory[DATA_END - DATA], code[4096];
};

/* What a program starts from. */
struct start {
    enum rig_mode mode;
    uint64_t reg[NREGS];
    uint32_t rflags;
    int waiting; /* an interrupt's vector, or 0 */
    int late;    /* of one that comes when STI has just looked */
    bool smap;   /* and tables and the stack are the supervisor's */
};

static struct outcome reference, found;
/* Of one program: it may never run translated; a fault may show other arithmetic flags, as they were dead. */
static bool may_stay_out, dead_flags;
static int waiting, late;
static uint64_t device_sum;

static int fake_pending(void *dev)
{
    if (late) { /* it comes just after it was asked for */
        struct cpu *cpu = dev;
        waiting = late;
        late = 0;
        atomic_store(&cpu->exit_request, 1);
        return -1;
    }
    return waiting ? waiting : -1;
}
static int fake_ack(void *dev)
{
    (void)dev;
    int v = waiting;
    waiting = 0;
    return v;
}
static uint64_t fake_deadline(void *dev)
{
    (void)dev;
    return NO_DEADLINE;
}
static uint8_t fake_tpr(void *dev)
{
    (void)dev;
    return 0;
}
static void fake_set_tpr(void *dev, uint8_t tpr)
{
    (void)dev;
    (void)tpr;
}
static const struct intc_ops fake_intc = {
    .set_tpr = fake_set_tpr, .pending = fake_pending, .ack = fake_ack, .deadline = fake_deadline, .get_tpr = fake_tpr};

static uint64_t device_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    return (off * 0x0101010101010101) & (size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << 8 * size) - 1);
}
static void device_write(void *dev, uint64_t off, unsigned size, uint64_t v)
{
    (void)dev;
    device_sum = device_sum * 31 + off * 7 + size + v;
}
static const struct io_ops device_ops = {.read = device_read, .write = device_write};

static int setup(void **state)
{
    if (rig_setup(state))
        return -1;
    struct rig *r = *state;
    r->vm.accel_options = "jit.threshold=1";
    if (bus_new(&r->vm.mmio))
        return -1;
    bus_add(r->vm.mmio, &(struct io_range){.base = 0xfe000000, .len = 4096, .ops = &device_ops, .name = "device"});
    return jit_new(r->cpu);
}

static int teardown(void **state)
{
    struct rig *r = *state;
    struct bus *mmio = r->vm.mmio;
    int err = rig_teardown(state);
    bus_free(mmio);
    return err;
}

static void prepare(struct rig *r, const struct start *s, const uint8_t *code, size_t n)
{
    struct cpu *cpu = r->cpu;
    uint8_t want[4096], *page = mem_w(&r->vm.mem, CODE, sizeof want), *data = mem_w(&r->vm.mem, DATA, DATA_END - DATA);
    rig_set_mode(r, s->mode);
    rig_store(r, 0x4000 + 8 * (DEVICE >> 12), 0xfe000000 | 7, 8);
    for (size_t i = 0; i < DATA_END - DATA; i++)
        data[i] = (uint8_t)(i * 7 + (i >> 8) * 5);
    memset(want, 0xf4, sizeof want);
    memcpy(want, code, n);
    if (memcmp(page, want, sizeof want)) { /* else translations live on */
        memcpy(page, want, sizeof want);
        code_written(r->code, NULL, CODE, sizeof want);
    }
    /* One code segment; every gate leads to a HLT. */
    rig_store(r, 0x6000 + 8, 0x00af9b000000ffff, 8);
    rig_store(r, 0x6000 + 16, 0x00cf93000000ffff, 8);
    for (uint64_t i = 0; i < 64; i++) {
        rig_store(r, 0x5000 + 16 * i, (uint64_t)HANDLER_AT | 8 << 16 | UINT64_C(0x8e00) << 32, 8);
        rig_store(r, 0x5008 + 16 * i, 0, 8);
    }
    rig_store(r, HANDLER_AT, 0xf4, 1);
    cpu->gdtr.base = 0x6000;
    cpu->gdtr.limit = 23;
    cpu->idtr.base = 0x5000;
    cpu->idtr.limit = 64 * 16 - 1;
    memcpy(cpu->reg, s->reg, sizeof s->reg);
    if (!cpu->reg[RSP])
        cpu->reg[RSP] = 0x9000;
    cpu_set_rflags(cpu, s->rflags | RFL_FIXED);
    cpu->kernel_gs_base = 0x1234567;
    cpu->efer |= EFER_SCE;
    cpu->star = UINT64_C(0x0023000800000000);
    cpu->lstar = CODE + 0x800;
    cpu->sfmask = RFL_CF | RFL_DF;
    if (s->smap) {
        static const uint8_t pages[] = {5, 6, 0x50, 0x4f};
        for (unsigned i = 0; i < sizeof pages; i++)
            rig_store(r, 0x4000 + 8 * pages[i], (uint64_t)pages[i] << 12 | 3, 8);
        cpu->cr4 |= CR4_SMAP;
    }
    cpu_mode_changed(cpu);
    cpu->cr2 = 0;
    waiting = s->waiting;
    late = s->late;
    device_sum = 0;
    r->vcpu.intc = s->waiting || s->late ? &fake_intc : NULL;
    r->vcpu.intc_dev = cpu;
    mmu_flush_all(cpu);
}

static void run(struct rig *r, struct outcome *o)
{
    struct cpu *cpu = r->cpu;
    struct x86_state s;
    cpu_run(cpu, &o->exit);
    cpu_get_state(cpu, &s);
    memcpy(o->reg, s.gpr, sizeof o->reg);
    o->rip = s.rip;
    o->cr2 = s.cr2;
    o->gs = s.seg[SEG_GS].base;
    o->kernel_gs = cpu->kernel_gs_base;
    o->rflags = (uint32_t)s.rflags & ~(uint32_t)RFL_RF;
    o->vector = cpu->exc.vector;
    o->exc_error = cpu->exc.error;
    o->cpl = cpu->cpl;
    o->device = device_sum;
    memcpy(o->memory, mem_r(&r->vm.mem, DATA, sizeof o->memory), sizeof o->memory);
    memcpy(o->code, mem_r(&r->vm.mem, CODE, sizeof o->code), sizeof o->code);
}

/* Runs code (a HLT stands behind it) both ways. */
static void both(struct rig *r, const struct start *s, const uint8_t *code, size_t n)
{
    struct cpu *cpu = r->cpu;
    struct jit *jit = cpu->jit;
    cpu->jit = NULL;
    prepare(r, s, code, n);
    run(r, &reference);
    cpu->jit = jit;
    jit_flush(cpu);
    for (unsigned pass = 0; pass < 4; pass++) { /* the first ones translate */
        uint64_t enters = jit_stats(jit)->enters;
        struct outcome *o = &found;
        prepare(r, s, code, n);
        run(r, o);
        if (dead_flags && o->rip == HANDLER_AT + 1)
            o->rflags = (o->rflags & ~(uint32_t)RFL_ARITH) | (reference.rflags & RFL_ARITH);
        if (pass == 3 && !may_stay_out)
            assert_true(jit_stats(jit)->enters > enters);
        for (unsigned i = 0; i < NREGS; i++)
            if (o->reg[i] != reference.reg[i])
                fail_msg("pass %u: register %u is %llx, should be %llx", pass, i, (unsigned long long)o->reg[i],
                         (unsigned long long)reference.reg[i]);
        assert_int_equal(o->rip, reference.rip);
        assert_int_equal(o->rflags, reference.rflags);
        assert_int_equal(o->exit, reference.exit);
        assert_int_equal(o->cr2, reference.cr2);
        assert_int_equal(o->device, reference.device);
        assert_int_equal(o->vector, reference.vector);
        assert_memory_equal(o->memory, reference.memory, sizeof o->memory);
        assert_memory_equal(o->code, reference.code, sizeof o->code);
        assert_memory_equal(o, &reference, sizeof *o);
    }
}
#define BOTH(r, s, ...)                                                                                                \
    do {                                                                                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__};                                                                 \
        both(r, s, bytes_, sizeof(bytes_));                                                                            \
    } while (0)

/* Each size of MOVS, STOS, LODS, SCAS, CMPS, with each prefix: what the test names. */
static void every_string(struct rig *r, const struct start *s)
{
    static const uint8_t opcodes[] = {0xa4, 0xaa, 0xac, 0xae, 0xa6};
    static const uint8_t prefixes[] = {0, 0xf3, 0xf2};
    for (unsigned op = 0; op < sizeof opcodes; op++)
        for (unsigned size = 0; size < 4; size++)
            for (unsigned p = 0; p < 3; p++) {
                uint8_t code[8];
                size_t n = 0;
                code[n++] = 0x90;
                if (prefixes[p])
                    code[n++] = prefixes[p];
                if (size == 1)
                    code[n++] = 0x66;
                if (size == 3)
                    code[n++] = 0x48;
                code[n++] = (uint8_t)(opcodes[op] | (size > 0));
                code[n++] = 0x90;
                dead_flags = !prefixes[p] && (opcodes[op] == 0xae || opcodes[op] == 0xa6);
                both(r, s, code, n);
                dead_flags = false;
            }
}

static void counts_and_places(void **state)
{
    struct rig *r = *state;
    static const uint64_t counts[] = {0, 1, 2, 7, 63, 1000, 5000};
    static const uint64_t places[][2] = {
        {DATA, 0x40000},              /* apart */
        {DATA + 0xffd, 0x40ff9},      /* elements across pages */
        {DATA + 3, DATA},             /* overlaps from below */
        {DATA, DATA + 1},             /* a pattern is repeated */
        {DATA + 0xff0, DATA + 0xff5}, /* the same across pages */
    };
    for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (unsigned k = 0; k < sizeof places / sizeof places[0]; k++) {
            struct start s = {.mode = i & 1 ? RIG_USER64 : RIG_LONG64, .rflags = k & 1 ? RFL_CF | RFL_OF | RFL_AF : 0};
            s.reg[RAX] = 0x1122334455667788;
            s.reg[RCX] = counts[i];
            s.reg[RSI] = places[k][0];
            s.reg[RDI] = places[k][1];
            every_string(r, &s);
        }
}

static void downwards(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64, .rflags = RFL_DF};
    s.reg[RCX] = 600;
    s.reg[RSI] = DATA + 0x2003;
    s.reg[RDI] = DATA + 0x2100;
    every_string(r, &s);
}

/* A page is missing on one side or the other: what was done before shows in the registers. */
static void faults(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64, .rflags = RFL_CF | RFL_SF};
    s.reg[RAX] = 0x55;
    for (unsigned side = 0; side < 2; side++)
        for (unsigned before = 0; before < 40; before += 13) {
            s.reg[RCX] = UINT64_C(0x300000010);
            s.reg[RSI] = side ? DATA : RIG_HOLE - before;
            s.reg[RDI] = side ? RIG_HOLE - before : DATA;
            memset(mem_w(&r->vm.mem, RIG_HOLE - 64, 64), 0, 64);
            every_string(r, &s);
        }
    s.reg[RCX] = 10;
    s.reg[RSI] = DATA;
    s.reg[RDI] = UINT64_C(0x7ffffffffffd); /* beyond it no address is canonical */
    every_string(r, &s);
}

static void devices(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64};
    s.reg[RCX] = 33;
    s.reg[RSI] = DATA + 5;
    s.reg[RDI] = DEVICE - 19;
    every_string(r, &s);
    s.reg[RDI] = DATA + 5;
    s.reg[RSI] = DEVICE - 19;
    every_string(r, &s);
}

/* The destination is code: what is called next, and the other half of the page. */
static void code_is_written(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64};
    s.reg[RSP] = 0x50000;
    s.reg[R8] = 9;
    may_stay_out = true;
    /* again: mov eax, r8d; mov edi, byte; mov ecx, 1; rep stosb; call add; dec r8d; jnz again; hlt; add: add ebx, 0; ret */
    BOTH(r, &s, 0x44, 0x89, 0xc0, 0xbf, 0x1e, 0x70, 0x00, 0x00, 0xb9, 0x01, 0x00, 0x00, 0x00, 0xf3, 0xaa, 0xe8, 0x06,
         0x00, 0x00, 0x00, 0x41, 0xff, 0xc8, 0x75, 0xe7, 0xf4, 0x90, 0x90, 0x83, 0xc3, 0x00, 0xc3);
    assert_int_equal(reference.reg[RBX], 45);
    may_stay_out = false;
    /* The same with what is changed in a chunk of its own: mov edi, CODE + 802h, call CODE + 800h */
    uint8_t code[0x804] = {0x44, 0x89, 0xc0, 0xbf, 0x02, 0x78, 0x00, 0x00, 0xb9, 0x01, 0x00, 0x00, 0x00,
                           0xf3, 0xaa, 0xe8, 0xec, 0x07, 0x00, 0x00, 0x41, 0xff, 0xc8, 0x75, 0xe7, 0xf4};
    memcpy(code + 0x800, (uint8_t[]){0x83, 0xc3, 0x00, 0xc3}, 4);
    both(r, &s, code, sizeof code);
    assert_int_equal(reference.reg[RBX], 45);
}

static void prefixes(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64};
    s.reg[RCX] = UINT64_C(0x500000009);
    s.reg[RSI] = UINT64_C(0x100000000) + DATA;
    s.reg[RDI] = UINT64_C(0x200000000) + DATA + 0x3000;
    BOTH(r, &s, 0x90, 0x67, 0xf3, 0xa4, 0x90);
    s.reg[RCX] = 9;
    s.reg[RSI] = DATA;
    s.reg[RDI] = DATA + 0x3000;
    BOTH(r, &s, 0x90, 0x64, 0xf3, 0xa4, 0x90);
    BOTH(r, &s, 0x90, 0x65, 0xa5, 0x90);
}

/* -- system instructions -- */

static void interrupt_flag(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64, .rflags = RFL_IF | RFL_CF};
    s.reg[RSP] = 0x50000;
    /* cli; pushf; sti; nop; pushf; pop rax; popf; pushf; pop rbx */
    BOTH(r, &s, 0xfa, 0x9c, 0xfb, 0x90, 0x9c, 0x58, 0x9d, 0x9c, 0x5b);
    s.rflags = RFL_ARITH;
    BOTH(r, &s, 0xfa, 0x9c, 0xfb, 0x90, 0x9c, 0x58, 0x9d, 0x9c, 0x5b);
    s.mode = RIG_USER64; /* #GP, by a gate that user mode may not use: what comes of it is the same */
    BOTH(r, &s, 0x90, 0xfa, 0x90);
    BOTH(r, &s, 0x90, 0xfb, 0x90);
}

/* One instruction after STI is not interrupted; POPF casts no such shadow. */
static void interrupt_waits(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64, .waiting = 0x21};
    s.reg[RSP] = 0x50000;
    /* inc rax; sti; inc rbx; inc rcx; inc rdx */
    BOTH(r, &s, 0x48, 0xff, 0xc0, 0xfb, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc1, 0x48, 0xff, 0xc2);
    assert_int_equal(reference.reg[RBX], 1);
    assert_int_equal(reference.reg[RCX], 0);
    /* sti; hlt: the interrupt comes, but not before HLT */
    BOTH(r, &s, 0x90, 0xfb, 0xf4, 0x90);
    s.waiting = 0;
    s.late = 0x21;
    may_stay_out = true;
    BOTH(r, &s, 0x90, 0xfb, 0xf4, 0x90);
    may_stay_out = false;
    s.waiting = 0x21;
    s.late = 0;
    /* push 202h; popf; inc rbx; inc rcx */
    BOTH(r, &s, 0x68, 0x02, 0x02, 0x00, 0x00, 0x9d, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc1);
    assert_int_equal(reference.reg[RBX], 0);
    /* sti; cli: never open long enough */
    BOTH(r, &s, 0x90, 0xfb, 0xfa, 0x48, 0xff, 0xc3);
}

static void popf_values(void **state)
{
    struct rig *r = *state;
    static const uint32_t images[] = {0,
                                      RFL_ARITH,
                                      RFL_CF,
                                      RFL_OF,
                                      RFL_OF | RFL_ZF,
                                      RFL_SF | RFL_PF | RFL_AF,
                                      RFL_DF,
                                      RFL_AC,
                                      RFL_ID,
                                      RFL_IOPL,
                                      RFL_NT,
                                      RFL_IF,
                                      RFL_TF,
                                      RFL_RF,
                                      1 << 15,
                                      ~0u & ~(uint32_t)(RFL_TF | RFL_VM)};
    for (unsigned i = 0; i < sizeof images / sizeof images[0]; i++)
        for (unsigned user = 0; user < 2; user++) {
            struct start s = {.mode = user ? RIG_USER64 : RIG_LONG64, .rflags = i & 1 ? RFL_ARITH : 0};
            s.reg[RSP] = 0x50000;
            s.reg[RAX] = images[i];
            /* push rax; popf; pushf; pop rbx */
            BOTH(r, &s, 0x50, 0x9d, 0x9c, 0x5b);
        }
}

static void other_system(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64};
    s.reg[RSP] = 0x50000;
    BOTH(r, &s, 0x0f, 0x01, 0xf8, 0x90);                                     /* swapgs */
    BOTH(r, &s, 0x0f, 0x20, 0xd8, 0x44, 0x0f, 0x20, 0xe3, 0x0f, 0x20, 0xc1); /* mov rax, cr3; mov rbx, cr4 ... */
    BOTH(r, &s, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x48, 0xff, 0xc3);       /* mov rax, cr3; mov cr3, rax; inc rbx */
    BOTH(r, &s, 0x0f, 0x01, 0x38, 0x48, 0xff, 0xc3);                         /* invlpg [rax]; inc rbx */
    BOTH(r, &s, 0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2);                         /* cpuid */
    /* mov ecx, IA32_KERNEL_GS_BASE; rdmsr; wrmsr; rdmsr */
    BOTH(r, &s, 0xb9, 0x02, 0x01, 0x00, 0xc0, 0x0f, 0x32, 0xff, 0xc0, 0x0f, 0x30, 0x0f, 0x32);
    BOTH(r, &s, 0xb9, 0x99, 0x99, 0x00, 0x40, 0x0f, 0x32, 0x90); /* no such MSR: #GP */
    s.reg[RAX] = 0x10012;
    s.reg[RBX] = DATA;
    BOTH(r, &s, 0x48, 0x0f, 0xab, 0x03, 0x48, 0x0f, 0xa3, 0x03); /* bts [rbx], rax; bt */
    s.mode = RIG_USER64;
    BOTH(r, &s, 0x90, 0x0f, 0x01, 0xf8);
    BOTH(r, &s, 0x90, 0x0f, 0x20, 0xd8);
    BOTH(r, &s, 0x90, 0x0f, 0x01, 0xcb);
}

/* To the kernel and back: flags, registers, segments. */
static void system_calls(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_USER64, .rflags = RFL_CF | RFL_SF};
    uint8_t code[0x910] = {0};
    s.reg[RSP] = 0x50000;
    /* stc; syscall; kernel: pushf; pop rax; hlt */
    memcpy(code, (uint8_t[]){0xf9, 0x0f, 0x05}, 3);
    memcpy(code + 0x800, (uint8_t[]){0x9c, 0x58, 0xf4}, 3);
    both(r, &s, code, sizeof code);
    assert_int_equal(reference.reg[RCX], CODE + 3);
    assert_int_equal(reference.cpl, 0);
    /* sysret; program: inc rbx; syscall; kernel: dec rdx; jnz to a sysret to the program's beginning; hlt */
    s.mode = RIG_LONG64;
    s.reg[RCX] = CODE + 0x900;
    s.reg[RDX] = 5;
    memcpy(code, (uint8_t[]){0x48, 0x0f, 0x07}, 3);
    memcpy(code + 0x800, (uint8_t[]){0x48, 0xff, 0xca, 0x48, 0x8d, 0x49, 0xfb, 0x74, 0x03, 0x48, 0x0f, 0x07, 0xf4}, 13);
    memcpy(code + 0x900, (uint8_t[]){0x48, 0xff, 0xc3, 0x0f, 0x05}, 5);
    static const uint32_t flags[] = {0, RFL_ARITH, RFL_IF, RFL_DF, RFL_AC, RFL_ID | RFL_NT, RFL_RF | RFL_VM};
    for (unsigned i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        s.reg[R11] = flags[i];
        both(r, &s, code, sizeof code);
        assert_int_equal(reference.reg[RBX], 5);
    }
    s.reg[R11] = RFL_TF; /* #DB in the program, which has no way into the kernel but SYSCALL */
    both(r, &s, code, sizeof code);
    s.reg[R11] = 0;
    s.reg[RCX] = UINT64_C(0x800000000000); /* #GP */
    both(r, &s, code, sizeof code);
}

/* STAC and CLAC choose the TLB from the next instruction on. */
static void access_to_user_pages(void **state)
{
    struct rig *r = *state;
    struct start s = {.mode = RIG_LONG64, .smap = true};
    s.reg[RSP] = 0x50800;
    s.reg[RSI] = DATA;
    /* mov rax, [rsi]: a fault */
    BOTH(r, &s, 0x90, 0x48, 0x8b, 0x06);
    assert_int_equal(reference.cr2, DATA);
    /* stac; mov rax, [rsi]; pushf; clac; mov [rsi+8], rax; pushf; stac; stac; pushf; clac; clac; jmp +0; pushf */
    BOTH(r, &s, 0x0f, 0x01, 0xcb, 0x48, 0x8b, 0x06, 0x9c, 0x0f, 0x01, 0xca, 0x48, 0x89, 0x46, 0x08, 0x9c, 0x0f, 0x01,
         0xcb, 0x0f, 0x01, 0xcb, 0x9c, 0x0f, 0x01, 0xca, 0x0f, 0x01, 0xca, 0xeb, 0x00, 0x9c);
    /* mov rax, [rsi]; clac; mov rbx, [rsi]: a fault */
    s.rflags = RFL_AC;
    BOTH(r, &s, 0x48, 0x8b, 0x06, 0x0f, 0x01, 0xca, 0x48, 0x8b, 0x1e);
    assert_int_equal(reference.cr2, DATA);
    assert_int_equal(reference.reg[RBX], 0);
    s.rflags = 0;
    /* stac; jmp +0; mov rax, [rsi]; clac; call +0 */
    BOTH(r, &s, 0x0f, 0x01, 0xcb, 0xeb, 0x00, 0x48, 0x8b, 0x06, 0x0f, 0x01, 0xca, 0xe8, 0x00, 0x00, 0x00, 0x00);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts_and_places, setup, teardown),
        cmocka_unit_test_setup_teardown(downwards, setup, teardown),
        cmocka_unit_test_setup_teardown(faults, setup, teardown),
        cmocka_unit_test_setup_teardown(devices, setup, teardown),
        cmocka_unit_test_setup_teardown(code_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(prefixes, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupt_flag, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupt_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(popf_values, setup, teardown),
        cmocka_unit_test_setup_teardown(other_system, setup, teardown),
        cmocka_unit_test_setup_teardown(system_calls, setup, teardown),
        cmocka_unit_test_setup_teardown(access_to_user_pages, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
