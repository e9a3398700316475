/*
 * One software CPU in a machine of 2 MiB of RAM, put into any mode; runs single
 * instructions given as bytes, without the dispatcher.
 */
#ifndef XHYVE_TESTS_INTERP_FIXTURE_H
#define XHYVE_TESTS_INTERP_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/vm.h"
#include "cpu/code.h"
#include "cpu/cpu.h"
#include "cpu/exc.h"
#include "cpu/flags.h"
#include "cpu/form.h"
#include "x86/decode.h"

#define RAM_SIZE (2u << 20)
#define NO_FAULT 0xff

struct rig {
    struct vm vm;
    struct vcpu vcpu;
    struct cpuid_table cpuid;
    struct code_map *code;
    struct cpu *cpu;
    struct op ops[3]; /* the last one run, and room for a link */
    unsigned vector;  /* what it raised, or NO_FAULT */
    unsigned leaves;  /* how often it left for the dispatcher to be started again */
    unsigned max_leaves;
};

enum rig_mode { RIG_REAL, RIG_V86, RIG_PROT16, RIG_PROT32, RIG_LONG64, RIG_USER64 };

static inline struct x86_segment rig_segment(uint16_t sel, uint32_t base, uint32_t limit, uint32_t attr)
{
    return (struct x86_segment){.sel = sel, .base = base, .limit = limit, .attr = attr};
}

static inline void rig_store(struct rig *r, uint64_t gpa, uint64_t v, unsigned size)
{
    assert_int_equal(mem_write(&r->vm.mem, gpa, &v, size), 0);
}
static inline uint64_t rig_load(struct rig *r, uint64_t gpa, unsigned size)
{
    uint64_t v = 0;
    assert_int_equal(mem_read(&r->vm.mem, gpa, &v, size), 0);
    return v;
}

/* Tables at 0x1000-0x3fff: the first 2 MiB as 4 KiB pages, one to one. Page 0x100000 is not there. */
#define RIG_HOLE 0x100000
static inline void rig_page_tables(struct rig *r)
{
    rig_store(r, 0x1000, 0x2007, 8);
    rig_store(r, 0x2000, 0x3007, 8);
    rig_store(r, 0x3000, 0x4007, 8);
    for (uint64_t i = 0; i < 512; i++)
        rig_store(r, 0x4000 + 8 * i, i << 12 == RIG_HOLE ? 0 : i << 12 | 7, 8);
}

/* Registers are zero, the stack pointer is 0x8000, code is at 0x7000. Changes of cpu fields: rig_changed(). */
static inline void rig_set_mode(struct rig *r, enum rig_mode mode)
{
    struct x86_state s;
    const uint32_t present = SEG_P | SEG_S;
    x86_state_reset(&s, true);
    memset(s.gpr, 0, sizeof(s.gpr));
    s.gpr[RSP] = 0x8000;
    s.rip = 0x7000;
    s.rflags = RFL_FIXED;
    if (mode == RIG_REAL || mode == RIG_V86) {
        uint32_t dpl = mode == RIG_V86 ? 3 << SEG_DPL_SHIFT : 0;
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            s.seg[i] = rig_segment(0, 0, 0xffff, present | dpl | 3);
        if (mode == RIG_V86) {
            s.cr0 |= CR0_PE;
            s.rflags |= RFL_VM;
        }
    } else {
        bool code64 = mode == RIG_LONG64 || mode == RIG_USER64;
        uint32_t dpl = mode == RIG_USER64 ? 3 << SEG_DPL_SHIFT : 0, big = mode == RIG_PROT16 ? 0 : SEG_DB;
        for (unsigned i = SEG_ES; i <= SEG_GS; i++)
            s.seg[i] = rig_segment(0x10, 0, 0xffffffff, present | dpl | 3 | big | SEG_G);
        s.seg[SEG_CS] = rig_segment(8, 0, 0xffffffff, present | dpl | 0xb | SEG_G | (code64 ? SEG_L : big));
        s.cr0 |= CR0_PE;
        if (code64) {
            s.cr0 |= CR0_PG | CR0_WP;
            s.cr3 = 0x1000;
            s.cr4 = CR4_PAE;
            s.efer = EFER_LME | EFER_LMA;
        }
    }
    s.run_state = X86_RUNNING;
    rig_page_tables(r);
    cpu_set_state(r->cpu, &s);
}

static inline void rig_changed(struct rig *r) { cpu_mode_changed(r->cpu); }

static inline void rig_lower(struct rig *r, const uint8_t *bytes, size_t n, struct op *op, bool *ends)
{
    struct cpu *cpu = r->cpu;
    struct insn in;
    unsigned size = cpu->mode & MODE_SIZE;
    bool real = !(cpu->cr0 & CR0_PE) || cpu->eflags & RFL_VM;
    memset(op, 0, sizeof(*op));
    if (insn_decode(size == MODE_64 ? 64 : size == MODE_32 ? 32 : 16, real, bytes, n, &in)) {
        op->fn = op_ud; /* as the block builder does */
        return;
    }
    in.mode = cpu->mode;
    lower_insn(cpu, &in, cpu->rip & 0xfff, op, ends);
}

/* Runs the instruction at cpu->rip; vector, leaves and cpu->rip tell what came of it. */
static inline void rig_run(struct rig *r, const uint8_t *bytes, size_t n)
{
    struct cpu *cpu = r->cpu;
    const uint64_t rip = cpu->rip;
    bool ends;
    memset(r->ops, 0, sizeof(r->ops));
    rig_lower(r, bytes, n, r->ops, &ends);
    cpu->reg[REG_IP] = rip & ~UINT64_C(0xfff);
    cpu->op = r->ops;
    r->vector = NO_FAULT;
    r->leaves = 0;
    atomic_store(&cpu->exit_request, 1); /* branches must not look for blocks, strings come back after each piece */
    if (setjmp(cpu->fault)) {
        r->vector = cpu->exc.vector;
        cpu->exc.pending = false;
        cpu->rip = rip;
        return;
    }
    for (;;) {
        const struct op *next = r->ops[0].fn(cpu, r->ops);
        if (next == r->ops + 1) {
            cpu->rip = rip + n;
            return;
        }
        assert_null(next);
        if (cpu->rip != rip)
            return;
        if (++r->leaves == r->max_leaves)
            return;
    }
}
#define RUN(r, ...)                                                                                                    \
    do {                                                                                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__};                                                                 \
        rig_run(r, bytes_, sizeof(bytes_));                                                                            \
    } while (0)

/* The handler and address kind that bytes are lowered to. */
#define LOWER(r, op, ends, ...)                                                                                        \
    do {                                                                                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__};                                                                 \
        rig_lower(r, bytes_, sizeof(bytes_), op, ends);                                                                \
    } while (0)

static inline int rig_setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    const struct mem_options options = {0};
    if (!r || mem_init(&r->vm.mem, RAM_SIZE, &options) || code_map_new(&r->code, &r->vm.mem))
        return -1;
    memset(r->cpuid.words, 0xff, sizeof(r->cpuid.words)); /* every feature there is */
    r->vm.cpuid = &r->cpuid;
    r->vm.nvcpus = 1;
    r->vm.vcpu[0] = &r->vcpu;
    r->vcpu.vm = &r->vm;
    r->cpu = cpu_new(&r->vcpu, r->code);
    *state = r;
    return r->cpu ? 0 : -1;
}

static inline int rig_teardown(void **state)
{
    struct rig *r = *state;
    cpu_free(r->cpu);
    code_map_free(r->code);
    mem_fini(&r->vm.mem);
    free(r);
    return 0;
}

#endif
