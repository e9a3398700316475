/* The CPU's state as a whole: reset, INIT, setting and getting, exceptions folded into double and triple faults. */
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
#include "cpu/mmu.h"
#include "os/clock.h"

static struct vm *vm;
static struct cpu *cpu;

static int setup(void **state)
{
    (void)state;
    const struct mem_options options = {0};
    assert_int_equal(vm_new(&vm, "state", 2, 1 << 20, &options), 0);
    cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~(size_t)63);
    memset(cpu, 0, sizeof *cpu);
    cpu->vcpu = vm->vcpu[0];
    assert_int_equal(mmu_init(cpu), 0);
    cpu_reset(cpu, false);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mmu_fini(cpu);
    free(cpu);
    vm_free(vm);
    return 0;
}

static void test_reset(void **state)
{
    (void)state;
    assert_int_equal(cpu->seg[SEG_CS].base + cpu->rip, 0xfffffff0);
    assert_int_equal(cpu->eflags, RFL_FIXED);
    assert_int_equal(cpu->cr0, CR0_CD | CR0_NW | CR0_ET);
    assert_int_equal(cpu->run_state, X86_RUNNING);
    assert_int_equal(cpu->mode & MODE_SIZE, MODE_16);
    assert_int_equal(cpu->cpl, 0);
    cpu->vcpu = vm->vcpu[1];
    cpu_reset(cpu, false);
    assert_int_equal(cpu->run_state, X86_WAIT_SIPI);
    /* All CPUs agree on the time, whenever each was made. */
    assert_int_equal(cpu->tsc_offset, 0);
}

static void test_init(void **state)
{
    (void)state;
    cpu->pat = 0x0606060606060606;
    cpu->lstar = 0x1234;
    cpu->xsave[200] = 9;
    cpu->tsc_offset = 777;
    cpu->cr0 = CR0_PE | CR0_PG | CR0_ET;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LME | EFER_LMA;
    cpu->eflags |= RFL_IF;
    cpu->nmi_blocked = true;
    cpu_reset(cpu, true);
    assert_int_equal(cpu->pat, 0x0606060606060606);
    assert_int_equal(cpu->lstar, 0x1234);
    assert_int_equal(cpu->xsave[200], 9);
    assert_int_equal(cpu->tsc_offset, 777);
    assert_int_equal(cpu->cr0, CR0_ET); /* CD and NW are kept, and they were clear */
    assert_int_equal(cpu->cr4 | cpu->efer, 0);
    assert_int_equal(cpu->eflags, RFL_FIXED);
    assert_false(cpu->long_mode);
    assert_false(cpu->nmi_blocked);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct x86_state a, b;
    uint8_t *p = (uint8_t *)&a;
    x86_state_reset(&a, true);
    for (size_t i = 0; i < sizeof a.gpr; i++)
        p[i] = (uint8_t)(i * 31 + 7);
    a.rip = 0x123456;
    a.rflags = RFL_FIXED | RFL_CF | RFL_ZF | RFL_PF | RFL_OF | RFL_IF;
    a.cr0 = CR0_PE | CR0_PG | CR0_ET;
    a.cr2 = 5;
    a.cr3 = 0x5000;
    a.cr4 = CR4_PAE;
    a.xcr0 = 7;
    a.efer = EFER_LME | EFER_LMA | EFER_SCE;
    uint64_t *words[] = {
        &a.star,          &a.lstar,          &a.cstar,        &a.sfmask,       &a.kernel_gs_base, &a.sysenter_cs,
        &a.sysenter_esp,  &a.sysenter_eip,   &a.pat,          &a.tsc_aux,      &a.misc_enable,    &a.spec_ctrl,
        &a.mtrr_def_type, &a.mtrr_fixed[10], &a.mtrr_base[7], &a.mtrr_mask[7], &a.dr[0],          &a.dr[3],
        &a.idtr.base,     &a.gdtr.base};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        *words[i] = 0x1000 + i;
    a.seg[SEG_CS].attr = SEG_P | SEG_S | 11 | SEG_L;
    a.seg[SEG_SS].attr = SEG_P | SEG_S | 3 | 3 << SEG_DPL_SHIFT;
    a.xsave[700] = 0x5a;
    a.interrupt_shadow = a.nmi_blocked = a.nmi_pending = 1;
    a.run_state = X86_HALTED;
    a.tsc = 1000;
    a.tsc_at_ns = os_clock_ns();
    cpu_set_state(cpu, &a);
    assert_int_equal(cpu->cpl, 3); /* the DPL of SS */
    assert_int_equal(cpu->mode & MODE_SIZE, MODE_64);
    assert_true(cpu->long_mode);
    assert_ptr_equal(cpu->tlb, &cpu->tlb_sets[TLB_USER]);
    cpu_get_state(cpu, &b);
    assert_int_equal(b.tsc - b.tsc_at_ns, a.tsc - a.tsc_at_ns);
    b.tsc = a.tsc;
    b.tsc_at_ns = a.tsc_at_ns;
    /* Field by field: padding is nobody's. */
    assert_memory_equal(a.gpr, b.gpr, sizeof a.gpr);
    assert_int_equal(a.rip, b.rip);
    assert_int_equal(a.rflags, b.rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(a.seg[i].base, b.seg[i].base);
        assert_int_equal(a.seg[i].limit, b.seg[i].limit);
        assert_int_equal(a.seg[i].attr, b.seg[i].attr);
        assert_int_equal(a.seg[i].sel, b.seg[i].sel);
    }
    assert_memory_equal(&a.cr0, &b.cr0, offsetof(struct x86_state, xsave) - offsetof(struct x86_state, cr0));
    assert_memory_equal(a.xsave, b.xsave, sizeof a.xsave);
    assert_int_equal(b.interrupt_shadow, 1);
    assert_int_equal(b.nmi_blocked, 1);
    assert_int_equal(b.nmi_pending, 1);
    assert_int_equal(b.run_state, X86_HALTED);
}

/* What happens when `second` is raised while `first` is delivered: SDM vol. 3 table 6-5. */
enum { SHUTDOWN = 100 };
static unsigned fold(unsigned first, enum exc_kind kind, unsigned second)
{
    cpu->op = NULL;
    cpu->exc.delivering = true;
    cpu->exc.vector = (uint8_t)first;
    cpu->exc.kind = (uint8_t)kind;
    if (!setjmp(cpu->fault))
        cpu_raise(cpu, second, 8);
    return exc_merge(cpu) ? cpu->exc.vector : SHUTDOWN;
}

static void test_folding(void **state)
{
    (void)state;
    assert_int_equal(fold(EXC_UD, EXC_KIND_FAULT, EXC_GP), EXC_GP);
    assert_int_equal(cpu->exc.error, 9); /* EXT: not the program itself */
    assert_int_equal(fold(EXC_UD, EXC_KIND_FAULT, EXC_PF), EXC_PF);
    assert_int_equal(cpu->exc.error, 8);
    assert_int_equal(fold(EXC_GP, EXC_KIND_FAULT, EXC_NP), EXC_DF);
    assert_int_equal(cpu->exc.error, 0);
    assert_int_equal(fold(EXC_DE, EXC_KIND_FAULT, EXC_SS), EXC_DF);
    assert_int_equal(fold(EXC_GP, EXC_KIND_FAULT, EXC_PF), EXC_PF);
    assert_int_equal(fold(EXC_PF, EXC_KIND_FAULT, EXC_PF), EXC_DF);
    assert_int_equal(fold(EXC_PF, EXC_KIND_FAULT, EXC_TS), EXC_DF);
    assert_int_equal(fold(EXC_PF, EXC_KIND_FAULT, EXC_DB), EXC_DB);
    assert_int_equal(fold(EXC_DF, EXC_KIND_FAULT, EXC_GP), SHUTDOWN);
    assert_int_equal(fold(EXC_DF, EXC_KIND_FAULT, EXC_PF), SHUTDOWN);
    /* Interrupts by the same numbers are benign. */
    assert_int_equal(fold(EXC_GP, EXC_KIND_SOFT, EXC_NP), EXC_NP);
    assert_int_equal(cpu->exc.error, 8);
    assert_int_equal(fold(EXC_PF, EXC_KIND_EXT, EXC_PF), EXC_PF);
    assert_int_equal(fold(EXC_GP, EXC_KIND_EXT, EXC_NP), EXC_NP);
    assert_int_equal(cpu->exc.error, 9);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_reset), T(test_init), T(test_round_trip), T(test_folding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
