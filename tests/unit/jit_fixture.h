/* What the tests of translated code share: a CPU with a translator, code of a guest's at CODE, and its way to a HLT. */
#ifndef XHYVE_TESTS_JIT_FIXTURE_H
#define XHYVE_TESTS_JIT_FIXTURE_H

#include "interp_fixture.h"

#include <errno.h>

#include "cpu/jit/int.h"

#define CODE 0x7000

static inline void start(struct rig *r, const char *options)
{
    r->vm.accel_options = options;
    int err = jit_new(r->cpu);
    if (err == -ENOTSUP)
        skip();
    assert_int_equal(err, 0);
    rig_set_mode(r, RIG_LONG64);
}

static inline void put(struct rig *r, uint64_t gpa, const void *bytes, size_t n)
{
    assert_int_equal(mem_write(&r->vm.mem, gpa, bytes, n), 0);
    code_written(r->code, NULL, gpa, n);
}
#define PUT(r, gpa, ...)                                                                                               \
    do {                                                                                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__};                                                                 \
        put(r, gpa, bytes_, sizeof bytes_);                                                                            \
    } while (0)

/* Runs from CODE on with RAX = 0 and a stack that is not in the page of the code, until the CPU leaves. */
static inline enum vcpu_exit enter(struct rig *r)
{
    enum vcpu_exit out;
    struct cpu *cpu = r->cpu;
    cpu->rip = CODE;
    cpu->reg[RAX] = 0;
    cpu->reg[RSP] = 0xf000;
    cpu->run_state = X86_RUNNING;
    assert_int_equal(cpu_run(cpu, &out), 0);
    return out;
}

/* The same, to a HLT; RAX. */
static inline uint64_t run(struct rig *r)
{
    assert_int_equal(enter(r), VCPU_EXIT_HALT_FOREVER);
    return r->cpu->reg[RAX];
}

static inline const struct jit_stats *stats(const struct rig *r) { return &r->cpu->jit->stats; }

#endif
