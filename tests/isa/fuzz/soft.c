/*
 * The interpreter's side: one software CPU in user mode of a tiny machine
 * whose page tables show the same data pages at the same addresses. Cases run
 * without the dispatcher: decoded, lowered, and the handler called.
 */
#include "fuzz.h"

#include <asm/prctl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/vm.h"
#include "cpu/code.h"
#include "cpu/cpu.h"
#include "cpu/flags.h"
#include "cpu/interp/vec.h"
#include "cpu/jit/int.h"

/* Physical pages. The two data pages are not neighbours, so that a crossing access has two places to go to. */
enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    PT = 0x4000,
    FRAME0 = 0x8000,
    FRAME1 = 0x6000,
    FRAME_RO = 0x7000,
    PT_CODE = 0x9000,
    FRAME_CODE = 0xa000
};
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };

struct soft {
    struct vm vm;
    struct vcpu vcpu;
    struct cpuid_table cpuid;
    struct code_map *code;
    struct cpu *cpu;
    struct x86_state base[FUZZ_MODES];
    unsigned mode; /* of the state that is set */
    uint64_t translated;
};

uint64_t soft_fs_base(void)
{
    uint64_t base = 0;
    syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
    return base;
}

static void store64(struct soft *s, uint64_t gpa, uint64_t v) { mem_write(&s->vm.mem, gpa, &v, sizeof(v)); }

static void build_tables(struct soft *s)
{
    const uint64_t all = PTE_P | PTE_W | PTE_U;
    store64(s, PML4, PDPT | all);
    store64(s, PDPT, PD | all);
    const uint64_t pte = PT + 8 * (DATA_BASE >> 12 & 511);
    store64(s, PD + 8 * (DATA_BASE >> 21), PT | all);
    store64(s, pte + 0, FRAME0 | all);
    store64(s, pte + 8, FRAME1 | all);
    store64(s, pte + 24, FRAME_RO | PTE_P | PTE_U);
    /* The translator fetches its code, of one case at a time, so one frame will do. */
    store64(s, PD + 8 * (CODE_BASE >> 21), PT_CODE | all);
    for (uint64_t lin = CODE_BASE; lin < CODE_BASE + CODE_SIZE; lin += 4096)
        store64(s, PT_CODE + 8 * (lin >> 12 & 511), FRAME_CODE | PTE_P | PTE_U);
}

static struct x86_segment segment(uint16_t sel, uint32_t attr)
{
    return (struct x86_segment){.sel = sel, .limit = 0xffffffff, .attr = attr};
}

static void set_segmented(struct x86_state *x, enum fuzz_mode mode)
{
    const uint32_t user = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT;
    const struct x86_segment data = {.sel = 7, .base = SEG_BASE, .limit = SEG_LIMIT, .attr = user | 3 | SEG_DB};
    x->seg[SEG_DS] = x->seg[SEG_ES] = x->seg[SEG_SS] = x->seg[SEG_GS] = data;
    x->seg[SEG_GS].attr &= ~2u;
    x->seg[SEG_CS] = (struct x86_segment){
        .sel = 0x27, .base = CODE_BASE, .limit = CODE_SIZE - 1, .attr = user | 0xb | SEG_DB};
    if (mode == FUZZ_SEG16) {
        x->seg[SEG_SS].limit = SEG_DOWN_LIMIT;
        x->seg[SEG_SS].attr = user | 7;
        x->seg[SEG_CS].limit = 0xffff;
        x->seg[SEG_CS].attr = user | 0xb;
    }
}

static void set_base(struct soft *s, enum fuzz_mode mode)
{
    struct x86_state *x = &s->base[mode];
    x86_state_reset(x, true);
    const uint32_t user = SEG_P | SEG_S | 3 << SEG_DPL_SHIFT | SEG_G;
    x->seg[SEG_CS] = mode == FUZZ_64 ? segment(0x33, user | 0xb | SEG_L) : segment(0x23, user | 0xb | SEG_DB);
    for (unsigned r = SEG_ES; r <= SEG_GS; r++)
        if (r != SEG_CS)
            x->seg[r] = segment(0x2b, user | 3 | SEG_DB);
    x->seg[SEG_FS] = x->seg[SEG_GS] = segment(0, SEG_UNUSABLE);
    if (mode == FUZZ_64) {
        x->seg[SEG_FS].base = soft_fs_base();
        x->seg[SEG_GS].base = GS_BASE;
    }
    if (fuzz_segmented(mode))
        set_segmented(x, mode);
    x->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_AM | CR0_MP;
    x->cr3 = PML4;
    x->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    x->efer = EFER_LME | EFER_LMA | EFER_NXE;
    x->xcr0 = 7;
    x->rflags = RFL_FIXED | RFL_IF;
    x->run_state = X86_RUNNING;
}

struct soft *soft_new(void)
{
    struct soft *s = calloc(1, sizeof(*s));
    const struct mem_options options = {0};
    if (!s || mem_init(&s->vm.mem, 1 << 20, &options) || code_map_new(&s->code, &s->vm.mem))
        return NULL;
    cpuid_host_words(s->cpuid.words);
    s->vm.cpuid = &s->cpuid;
    s->vm.nvcpus = 1;
    s->vm.vcpu[0] = &s->vcpu;
    s->vcpu.vm = &s->vm;
    s->cpu = cpu_new(&s->vcpu, s->code);
    if (!s->cpu)
        return NULL;
    build_tables(s);
    for (enum fuzz_mode m = 0; m < FUZZ_MODES; m++)
        set_base(s, m);
    s->mode = FUZZ_MODES;
    return s;
}

int soft_translate(struct soft *s) { return jit_new(s->cpu); }

int soft_lockstep(struct soft *s, const char *options)
{
    s->vm.accel_options = options;
    return jit_new(s->cpu);
}

uint64_t soft_translated(const struct soft *s) { return s->translated; }

void soft_free(struct soft *s)
{
    cpu_free(s->cpu);
    code_map_free(s->code);
    mem_fini(&s->vm.mem);
    free(s);
}

bool soft_has(const struct soft *s, unsigned feature) { return !feature || cpuid_has(&s->cpuid, feature); }

uint8_t *soft_page(struct soft *s, unsigned page)
{
    return mem_w(&s->vm.mem, page == 0 ? FRAME0 : page == 1 ? FRAME1 : FRAME_RO, 4096);
}

static void set_mode(struct soft *s, const struct fuzz_case *c)
{
    if (s->mode != c->mode)
        cpu_set_state(s->cpu, &s->base[c->mode]);
    s->mode = c->mode;
    if (c->mode == FUZZ_SEG16)
        s->cpu->seg[SEG_CS].base = fuzz_code_base(c->mode, c->slot);
}

/* The mode is part of how an instruction is lowered. */
void soft_lower(struct soft *s, const struct fuzz_case *c, const struct insn *in, struct op *op)
{
    bool ends;
    struct insn copy = *in;
    set_mode(s, c);
    copy.mode = s->cpu->mode;
    lower_insn(s->cpu, &copy, c->rip & 0xfff, op, &ends);
    if (op->fn == op_vec_full) {
        vec_cache_reset(s->cpu->vec);
        lower_insn(s->cpu, &copy, c->rip & 0xfff, op, &ends);
    }
}

static void poke(struct soft *s, uint64_t addr, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; addr && i < n; i++) {
        uint64_t off = addr - DATA_BASE + i;
        soft_page(s, (unsigned)(off >> 12))[off & 4095] = bytes[i];
    }
}

/* Calls the handler until the instruction is through; repeated ones come back in between. */
static void run_op(struct cpu *cpu, const struct op *op, uint64_t rip, unsigned len)
{
    for (;;) {
        cpu->op = op;
        const struct op *next = op->fn(cpu, op);
        if (next == op + 1) {
            cpu->rip = cpu->mode & MODE_64 ? rip + len : (uint32_t)(rip + len);
            return;
        }
        if (cpu->rip != rip)
            return;
    }
}

/* Runs the instruction as generated code; false if it is for the interpreter, with everything as it was. */
static bool run_translated(struct soft *s, const struct fuzz_case *c)
{
    struct cpu *cpu = s->cpu;
    unsigned off = (unsigned)(c->rip & 0xfff);
    uint8_t *code = mem_w(&s->vm.mem, FRAME_CODE, 4096);
    if (!jit_serves(cpu))
        return false;
    memset(code, 0xcc, 4096); /* INT3 is for the interpreter */
    memcpy(code + off, c->bytes, c->len);
    jit_invalidate(cpu, FRAME_CODE, ~UINT64_C(0));
    if (!jit_at_once(cpu))
        return false;
    jit_run(cpu);
    s->translated += cpu->rip != c->rip;
    return cpu->rip != c->rip;
}

/*
 * From the state of a case, code that is not its own, up to where generated code leaves for the interpreter.
 * False: it differed.
 */
bool soft_run_block(struct soft *s, const struct fuzz_case *c, const uint8_t *code, unsigned len, uint64_t *compared)
{
    struct cpu *cpu = s->cpu;
    uint8_t *page = mem_w(&s->vm.mem, FRAME_CODE, 4096);
    set_mode(s, c);
    memcpy(cpu->reg, c->in.reg, sizeof(c->in.reg));
    cpu->rip = CODE_BASE + 512;
    cpu_set_rflags(cpu, (uint32_t)c->in.rflags | RFL_FIXED | RFL_IF);
    cpu_mode_changed(cpu);
    if (!jit_serves(cpu))
        return true;
    memset(page, 0xcc, 4096);
    memcpy(page + 512, code, len);
    jit_invalidate(cpu, FRAME_CODE, ~UINT64_C(0));
    if (setjmp(cpu->fault)) {
        cpu->exc.pending = false;
    } else {
        for (unsigned n = 0; n < 4 && jit_at_once(cpu); n++) { /* jumps lead forward, so there are no loops */
            cpu->words.reason = JIT_DISPATCH;
            jit_run(cpu);
            if (cpu->words.reason == JIT_INTERP)
                break;
        }
    }
    *compared = lockstep_compared(cpu->jit->lockstep);
    return !lockstep_failed(cpu->jit->lockstep);
}

void soft_run(struct soft *s, const struct fuzz_case *c, struct fuzz_outcome *out)
{
    struct cpu *cpu = s->cpu;
    struct insn in;
    struct op ops[3];
    memset(out, 0, offsetof(struct fuzz_outcome, s.xsave));
    memset(ops, 0, sizeof(ops));
    for (unsigned i = 0; i < 2; i++)
        poke(s, c->poke[i].addr, c->poke[i].bytes, sizeof(c->poke[i].bytes));
    poke(s, c->image.addr, c->image.bytes, c->image.len);

    if (insn_decode(fuzz_bits(c->mode), false, c->bytes, c->len, &in))
        ops[0].fn = op_ud;
    else
        soft_lower(s, c, &in, &ops[0]);
    set_mode(s, c);
    memcpy(cpu->reg, c->in.reg, sizeof(c->in.reg));
    cpu->reg[REG_IP] = c->rip & ~UINT64_C(0xfff);
    cpu->rip = c->rip;
    cpu_set_rflags(cpu, (uint32_t)c->in.rflags | RFL_FIXED | RFL_IF);
    cpu_mode_changed(cpu);
    if (c->vector_state)
        memcpy(cpu->xsave, c->in.xsave, sizeof(cpu->xsave));
    atomic_store(&cpu->exit_request, 1); /* branches must not look for blocks at their targets */

    out->vector = NO_VECTOR;
    if (setjmp(cpu->fault) == 0) {
        if (!run_translated(s, c))
            run_op(cpu, &ops[0], c->rip, c->len);
    } else {
        out->vector = cpu->exc.vector;
        out->error = cpu->exc.error;
        out->cr2 = cpu->cr2;
        cpu->exc.pending = false;
        cpu->rmw_pending = false;
        cpu->rip = c->rip;
    }
    memcpy(out->s.reg, cpu->reg, sizeof(out->s.reg));
    out->s.rip = cpu->rip;
    out->s.rflags = cpu_rflags(cpu);
    if (c->vector_state)
        memcpy(out->s.xsave, cpu->xsave, sizeof(out->s.xsave));
    out->memory = memory_hash(soft_page(s, 0), soft_page(s, 1));
}
