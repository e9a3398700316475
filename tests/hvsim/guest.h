/* What the tests of hvsim share: a VM of one vCPU whose guest is a few bytes of machine code. */
#ifndef XHYVE_TESTS_HVSIM_GUEST_H
#define XHYVE_TESTS_HVSIM_GUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "hvsim.h"

#define RAM_SIZE (1u << 20)
#define CODE_AT 0x1000u
#define STACK_TOP 0x8000u
#define IDT_AT 0x9000u
#define GDT_AT 0xa000u
#define TSS_AT 0xb000u
#define TABLES_AT 0x10000u /* page tables: 64-bit ones, then PAE's and 32-bit ones */
#define HANDLER_AT 0x2000u /* of vector n: HANDLER_AT + 16 n, a HLT */

static uint8_t *ram;
static hv_vcpuid_t cpu0;

static inline uint64_t reg(hv_x86_reg_t r)
{
    uint64_t v = 0;
    assert_int_equal(hv_vcpu_read_register(cpu0, r, &v), HV_SUCCESS);
    return v;
}
static inline void set_reg(hv_x86_reg_t r, uint64_t v)
{
    assert_int_equal(hv_vcpu_write_register(cpu0, r, v), HV_SUCCESS);
}
static inline uint64_t vmcs(uint32_t f)
{
    uint64_t v = 0;
    assert_int_equal(hv_vmx_vcpu_read_vmcs(cpu0, f, &v), HV_SUCCESS);
    return v;
}
static inline void set_vmcs(uint32_t f, uint64_t v)
{
    assert_int_equal(hv_vmx_vcpu_write_vmcs(cpu0, f, v), HV_SUCCESS);
}
static inline void set_bits(uint32_t f, uint64_t bits) { set_vmcs(f, vmcs(f) | bits); }
static inline void clear_bits(uint32_t f, uint64_t bits) { set_vmcs(f, vmcs(f) & ~bits); }

static inline void put64(uint32_t at, uint64_t v) { memcpy(ram + at, &v, 8); }

static inline void segment(uint32_t i, uint16_t sel, uint32_t attr, uint32_t limit)
{
    set_vmcs(VMCS_GUEST_ES + 2 * i, sel);
    set_vmcs(VMCS_GUEST_ES_BASE + 2 * i, 0);
    set_vmcs(VMCS_GUEST_ES_LIMIT + 2 * i, limit);
    set_vmcs(VMCS_GUEST_ES_AR + 2 * i, attr);
}

/* Handlers that halt, for all vectors, in an IDT of 64- or 32-bit gates. */
static inline void make_idt(bool wide)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint64_t to = HANDLER_AT + 16 * n, gate = (to & 0xffff) | 8u << 16 | UINT64_C(0xee00) << 32 | to >> 16 << 48;
        ram[HANDLER_AT + 16 * n] = 0xf4;
        put64(IDT_AT + n * (wide ? 16 : 8), gate);
        if (wide)
            put64(IDT_AT + n * 16 + 8, 0);
    }
    set_reg(HV_X86_IDT_BASE, IDT_AT);
    set_reg(HV_X86_IDT_LIMIT, wide ? 4095 : 2047);
}

/* The same controls for all modes: HLT exits, CR0 and CR4 are the guest's but for what VMX fixes. */
static inline void common_controls(void)
{
    set_bits(VMCS_CTRL_CPU_BASED, CPU_BASED_HLT);
    set_vmcs(VMCS_CTRL_CR0_MASK, 0x60000020);
    set_vmcs(VMCS_CTRL_CR0_SHADOW, 0x60000010);
    set_vmcs(VMCS_CTRL_CR4_MASK, 0x2000);
    set_vmcs(VMCS_CTRL_CR4_SHADOW, 0);
    set_reg(HV_X86_RFLAGS, 2);
    set_reg(HV_X86_RIP, CODE_AT);
    set_reg(HV_X86_RSP, STACK_TOP);
    segment(6, 0, 0x10000, 0);    /* LDTR: unusable */
    segment(7, 0x18, 0x8b, 0x67); /* TR */
    set_vmcs(VMCS_GUEST_TR_BASE, TSS_AT);
    set_reg(HV_X86_GDT_BASE, GDT_AT);
    set_reg(HV_X86_GDT_LIMIT, 0x3f);
}

/* Protected mode without paging; `cr0` and `cr4` are added. */
static inline void mode32(uint64_t cr0, uint64_t cr4)
{
    common_controls();
    put64(GDT_AT + 8, UINT64_C(0x00cf9b000000ffff));
    put64(GDT_AT + 16, UINT64_C(0x00cf93000000ffff));
    put64(GDT_AT + 24, UINT64_C(0x00008b0000000067) | (uint64_t)TSS_AT << 16);
    make_idt(false);
    for (uint32_t i = 0; i < 6; i++)
        segment(i, i == 1 ? 8 : 16, i == 1 ? 0xc09b : 0xc093, 0xffffffff);
    clear_bits(VMCS_CTRL_VMENTRY_CONTROLS, VMENTRY_GUEST_IA32E);
    set_vmcs(VMCS_GUEST_IA32_EFER, 0);
    set_reg(HV_X86_CR0, 0x31 | cr0);
    set_reg(HV_X86_CR4, 0x2000 | cr4);
}

/* 64-bit mode at CPL 0, the first 2 MiB mapped one to one by a 2 MiB page. */
static inline void mode64(void)
{
    mode32(0, 0);
    make_idt(true);
    put64(GDT_AT + 8, UINT64_C(0x00af9b000000ffff));
    put64(TABLES_AT, TABLES_AT + 0x1000 + 7);
    put64(TABLES_AT + 0x1000, TABLES_AT + 0x2000 + 7);
    put64(TABLES_AT + 0x2000, 0x87);
    segment(1, 8, 0xa09b, 0xffffffff);
    set_reg(HV_X86_CR3, TABLES_AT);
    set_reg(HV_X86_CR0, 0x80010031);
    set_reg(HV_X86_CR4, 0x2020);
    set_vmcs(VMCS_GUEST_IA32_EFER, 0x500);
    set_bits(VMCS_CTRL_VMENTRY_CONTROLS, VMENTRY_GUEST_IA32E);
}

static inline void code(const char *bytes, size_t n)
{
    memcpy(ram + CODE_AT, bytes, n);
    hvsim_written(CODE_AT, n);
    set_reg(HV_X86_RIP, CODE_AT);
}
#define CODE(bytes) code(bytes, sizeof(bytes) - 1)

/* Runs to the next exit, which has to be for this reason. */
static inline void runs_to(unsigned reason)
{
    assert_int_equal(hv_vcpu_run_until(cpu0, HV_DEADLINE_FOREVER), HV_SUCCESS);
    if (vmcs(VMCS_RO_EXIT_REASON) != reason && hvsim_last_reason(cpu0))
        print_message("entry: %s\n", hvsim_last_reason(cpu0));
    assert_int_equal(vmcs(VMCS_RO_EXIT_REASON), reason);
}

/* Behind the instruction that exited. */
static inline void skip_insn(void) { set_reg(HV_X86_RIP, reg(HV_X86_RIP) + vmcs(VMCS_RO_VMEXIT_INSTR_LEN)); }

static inline int make_vm(void **state)
{
    (void)state;
    ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(ram, MAP_FAILED);
    assert_int_equal(hv_vm_create(HV_VM_DEFAULT), HV_SUCCESS);
    assert_int_equal(hv_vm_map(ram, 0, RAM_SIZE, HV_MEMORY_READ | HV_MEMORY_WRITE | HV_MEMORY_EXEC), HV_SUCCESS);
    assert_int_equal(hv_vcpu_create(&cpu0, HV_VCPU_DEFAULT), HV_SUCCESS);
    return 0;
}

static inline int free_vm(void **state)
{
    (void)state;
    assert_int_equal(hv_vcpu_destroy(cpu0), HV_SUCCESS);
    assert_int_equal(hv_vm_unmap(0, RAM_SIZE), HV_SUCCESS);
    assert_int_equal(hv_vm_destroy(), HV_SUCCESS);
    munmap(ram, RAM_SIZE);
    hvsim_setenv(NULL);
    return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make_vm, free_vm)

#endif
