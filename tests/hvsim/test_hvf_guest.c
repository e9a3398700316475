/*
 * The Hypervisor.framework accelerator with a guest of a few instructions on
 * the simulated framework: what its unit tests, whose framework runs nothing,
 * cannot show.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "accel/hvf/hvf.h"
#include "accel/hvf/priv.h"
#include "hvsim.h"
#include "os/clock.h"
#include "util/bytes.h"

#define CODE_AT 0x8000u
#define TABLES_AT 0x10000u

struct rig {
    struct vm *vm;
    struct vcpu *vcpu;
    struct cpuid_table cpuid;
};

/* 64-bit mode at CPL 0, the first 2 MiB one to one. */
static void first_state(struct vm *vm, struct x86_state *s)
{
    uint8_t *ram = vm->mem.region[0].host;
    put_le64(ram + TABLES_AT, (TABLES_AT + 0x1000) | 3);
    put_le64(ram + TABLES_AT + 0x1000, (TABLES_AT + 0x2000) | 3);
    put_le64(ram + TABLES_AT + 0x2000, 0x83);
    x86_state_reset(s, true);
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = TABLES_AT;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->rip = CODE_AT;
    s->gpr[RSP] = 0x7000;
    s->seg[SEG_ES] = s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_FS] = s->seg[SEG_GS] = x86_flat_segment(16,
                                                                                                          SEG_DB | 3);
    s->seg[SEG_CS] = x86_flat_segment(8, SEG_L | 11);
    s->seg[SEG_TR] = (struct x86_segment){.sel = 24, .base = 0x6000, .limit = 0x67, .attr = SEG_P | 11};
    s->seg[SEG_LDTR] = (struct x86_segment){.attr = SEG_UNUSABLE};
    s->gdtr = (struct x86_table){.base = 0x4000, .limit = 0x27};
    s->idtr = (struct x86_table){.base = 0x5000};
    s->tsc_at_ns = os_clock_ns();
}

struct setting {
    struct rig *rig;
    int err;
};

static void set_up(struct vcpu *vcpu, void *arg)
{
    struct setting *to = arg;
    struct x86_state s;
    first_state(vcpu->vm, &s);
    to->err = accel_hvf.set_cpuid(vcpu, &to->rig->cpuid);
    if (!to->err)
        to->err = accel_hvf.set_state(vcpu, &s);
}

static struct rig *rig_new(const char *code, size_t n)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct mem_options options = {0};
    struct setting setting = {.rig = rig};
    uint32_t offered[CPUID_WORDS];
    char why[256] = "";

    assert_int_equal(vm_new(&rig->vm, "test", 1, MiB(2), &options), 0);
    rig->vcpu = rig->vm->vcpu[0];
    if (accel_hvf.vm_open(rig->vm, NULL, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    accel_hvf.offered(rig->vm, offered);
    assert_int_equal(cpuid_build(&rig->cpuid, NULL, offered, NULL, rig->vm->tsc_hz, NS_PER_S, why, sizeof(why)), 0);
    rig->vm->cpuid = &rig->cpuid;
    memcpy(rig->vm->mem.region[0].host + CODE_AT, code, n);
    assert_int_equal(vm_start(rig->vm, &accel_hvf), 0);
    vcpu_call(rig->vcpu, set_up, &setting);
    assert_int_equal(setting.err, 0);
    return rig;
}

static void rig_free(struct rig *rig)
{
    vm_join(rig->vm);
    accel_hvf.vm_close(rig->vm);
    vm_free(rig->vm);
    free(rig);
}

static void run_until_halted(struct rig *rig)
{
    rig->vm->stop = VM_RUNNING;
    vm_resume(rig->vm);
    while (atomic_load(&rig->vm->stop) == VM_RUNNING) /* HLT with interrupts off ends it */
        sched_yield();
    vm_pause(rig->vm);
    assert_int_equal(rig->vm->stop, VM_HALT);
}

static void set_rip(struct vcpu *vcpu, void *arg)
{
    struct x86_state s;
    (void)arg;
    assert_int_equal(accel_hvf.get_state(vcpu, &s), 0);
    s.rip = CODE_AT;
    s.run_state = X86_RUNNING;
    s.gpr[RDI] = ((uint64_t *)arg)[0];
    s.gpr[RCX] = ((uint64_t *)arg)[1];
    assert_int_equal(accel_hvf.set_state(vcpu, &s), 0);
}

/* Pages that a guest writes, told once each time that they are. */
static void dirty_pages(void **state)
{
    /* 1: mov [rdi], al; add rdi, 0x1000; dec ecx; jnz 1b; hlt */
    static const char code[] = "\x88\x07\x48\x81\xc7\x00\x10\x00\x00\xff\xc9\x75\xf3\xf4";
    struct rig *rig = rig_new(code, sizeof(code) - 1);
    const struct mem_region *ram = &rig->vm->mem.region[0];
    unsigned long bits[8];
    _Static_assert(sizeof(bits) * 8 == 512, "a bit a page");
    const struct {
        uint64_t first, pages;
    } turns[] = {{0x40, 8}, {0x44, 2}, {0x7f, 3}, {0x40, 64}};

    (void)state;
    assert_int_equal(accel_hvf.dirty_log(rig->vm, ram, ACCEL_DIRTY_START, NULL), 0);
    assert_int_equal(accel_hvf.dirty_log(rig->vm, ram, ACCEL_DIRTY_FETCH, bits), 0);
    for (unsigned t = 0; t < ARRAY_LEN(turns); t++) {
        uint64_t args[2] = {turns[t].first * 0x1000, turns[t].pages};
        vcpu_call(rig->vcpu, set_rip, args);
        run_until_halted(rig);
        assert_int_equal(accel_hvf.dirty_log(rig->vm, ram, ACCEL_DIRTY_FETCH, bits), 0);
        for (uint64_t p = 0x20; p < 512; p++) { /* below are the page tables */
            bool written = p >= turns[t].first && p < turns[t].first + turns[t].pages;
            assert_int_equal(bits[p / 64] >> (p % 64) & 1, written);
        }
    }
    assert_int_equal(accel_hvf.dirty_log(rig->vm, ram, ACCEL_DIRTY_STOP, NULL), 0);
    uint64_t args[2] = {0x40000, 8};
    vcpu_call(rig->vcpu, set_rip, args);
    run_until_halted(rig);
    rig_free(rig);
}

/* A guest that never leaves by itself, stopped at any moment of its entries, by an interrupt that may be lost. */
static void no_stop_is_lost(void **state)
{
    /* 1: cpuid; jmp 1b: entries close to each other */
    static const char *const codes[] = {"\x0f\xa2\xeb\xfc", "\xeb\xfe\x90\x90"};
    (void)state;
    hvsim_setenv("lost=on");
    for (unsigned c = 0; c < ARRAY_LEN(codes); c++) {
        struct rig *rig = rig_new(codes[c], 4);
        for (unsigned i = 0; i < 100; i++) {
            vm_resume(rig->vm);
            for (unsigned n = 0; n < i % 7; n++)
                sched_yield();
            vm_pause(rig->vm);
        }
        rig_free(rig);
    }
    hvsim_setenv(NULL);
}

/* Single steps, whose #DB comes in the shadow of STI and behind that of MOV SS: none is lost, no entry is refused. */
static void steps_through_shadows(void **state)
{
    static const char code[] = "\x0f\x01\x1c\x25\x00\x30\x00\x00"     /* lidt [0x3000] */
                               "\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d" /* TF on */
                               "\xfb\x90"                             /* sti; nop */
                               "\x66\x8c\xd0\x8e\xd0\x90"             /* mov ax, ss; mov ss, ax; nop */
                               "\x0f\xa2\x31\xc0"                     /* cpuid; xor eax, eax */
                               "\x9c\x81\x24\x24\xff\xfe\xff\xff\x9d" /* TF off */
                               "\xfa\xf4";                            /* cli; hlt */
    static const uint8_t handler[] = {0x48, 0xff, 0x04, 0x25, 0x00,
                                      0x31, 0x00, 0x00, 0x48, 0xcf}; /* inc [0x3100]; iretq */
    struct rig *rig = rig_new(code, sizeof(code) - 1);
    uint8_t *ram = rig->vm->mem.region[0].host;

    (void)state;
    put_le64(ram + 0x4008, UINT64_C(0x00209b0000000000));
    put_le64(ram + 0x4010, UINT64_C(0x00cf93000000ffff));
    put_le64(ram + 0x5010, UINT64_C(0x00008e0000088800)); /* vector 1: to 0x8800 */
    put_le64(ram + 0x3000, UINT64_C(0x50000fff));         /* the IDT's limit and base */
    memcpy(ram + 0x8800, handler, sizeof(handler));
    run_until_halted(rig);
    /* sti, nop, mov, mov ss with its nop, cpuid, xor, pushfq, and, popfq */
    assert_int_equal(ram[0x3100], 9);
    rig_free(rig);
}

/* A VM can be made again in the same process. */
static void again(void **state)
{
    char why[256];
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        int err = accel_hvf.probe(why, sizeof(why));
        if (err)
            fail_msg("%s", why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dirty_pages),
        cmocka_unit_test(no_stop_is_lost),
        cmocka_unit_test(steps_through_shadows),
        cmocka_unit_test(again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
