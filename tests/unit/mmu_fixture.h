/* What the tests of the MMU and its second level share: a CPU with 16 MiB of RAM and everything in its CPUID. */
#ifndef XHYVE_TESTS_MMU_FIXTURE_H
#define XHYVE_TESTS_MMU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/vm.h"
#include "cpu/cpu.h"
#include "cpu/exc.h"
#include "cpu/mmu_int.h"

#define RAM (UINT64_C(16) << 20)
#define ROOT 0x10000

static struct vm *vm;
static struct cpu *cpu;
static struct cpuid_table table;

static inline void new_cpu(void)
{
    const struct mem_options options = {0};
    assert_int_equal(vm_new(&vm, "mmu", 1, RAM, &options), 0);
    cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    memset(cpu, 0, sizeof *cpu);
    cpu->vcpu = vm->vcpu[0];
    table = (struct cpuid_table){.phys_bits = 40};
    memset(table.words, 0xff, sizeof table.words);
    cpu->cpuid = &table;
    assert_int_equal(mmu_init(cpu), 0);
    cpu_reset(cpu, false);
}

static inline int teardown(void **state)
{
    (void)state;
    mmu_fini(cpu);
    free(cpu);
    vm_free(vm);
    return 0;
}

static inline uint64_t *phys(uint64_t gpa) { return mem_w(&vm->mem, gpa, 8); }

static inline void long_mode(void)
{
    cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
    cpu->cr4 = CR4_PAE | CR4_PGE;
    cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
    cpu->cr3 = ROOT;
    cpu->seg[SEG_CS].attr = SEG_P | SEG_S | 11 | SEG_L;
    cpu->cpl = 0;
    cpu_mode_changed(cpu);
    mmu_flush_all(cpu);
}

/* -- what an access does: NONE or the vector -- */
enum { NONE = 256 };
static inline unsigned vector_of(void) { return cpu->exc.pending ? cpu->exc.vector : NONE; }
#define TRY(statement)                                                                                                 \
    (cpu->exc.pending = false, setjmp(cpu->fault) ? vector_of() : ((void)(statement), (unsigned)NONE))

static uint64_t rnd_state = 88172645463325252ull;
static inline uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state;
}

#endif
