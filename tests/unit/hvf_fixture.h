/*
 * A Hypervisor.framework that is nothing but its registers: what a test has
 * put there is what an exit looks like, and what hvf writes is what it would
 * enter the guest with. tests/hvsim is the one that runs guests.
 */
#ifndef XHYVE_TESTS_HVF_FIXTURE_H
#define XHYVE_TESTS_HVF_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "accel/hvf/host.h"
#include "accel/hvf/hvf.h"
#include "accel/hvf/priv.h"
#include "os/clock.h"
#include "util/bytes.h"

#define FAKE_TSC_HZ UINT64_C(2000000000)
#define PROC_MUST 0x04006172u /* default settings of the processor-based controls but CR3 exits */

static struct {
    uint64_t reg[HV_X86_REGISTERS_MAX], vmcs[VMCS_MAX];
    struct {
        uint32_t msr;
        uint64_t val;
        bool native;
    } msr[32];
    uint8_t fp[HVF_FP_SIZE];
    uint64_t cap[5];
    hv_return_t create_error, vcpu_error, apic_error, tsc_aux_error;
    uint64_t apic_gpa;
    bool supported, vm;
    unsigned runs, interrupts, flushes, maps;
    uint64_t until;       /* deadline of the last run */
    void (*on_run)(void); /* the guest: sets up the exit */
    hv_return_t run_result;
    struct {
        uint64_t gpa, len, flags;
    } protect[16];
    unsigned protects;
    uint64_t tsc, tsc_step, synced;
    uint32_t denied;                /* a VMCS field that may not be written */
    hv_vm_options_t refused, flags; /* of hv_vm_create() */
    const char *irqchip;
} fake;

/* ---- the framework ---- */

hv_return_t hv_capability(hv_capability_t c, uint64_t *v)
{
    *v = c == HV_CAP_VCPUMAX ? 8 : 1;
    return HV_SUCCESS;
}
hv_return_t hv_vm_create(hv_vm_options_t flags)
{
    if (fake.create_error != HV_SUCCESS)
        return fake.create_error;
    if (flags & fake.refused)
        return HV_UNSUPPORTED;
    fake.flags = flags;
    fake.vm = true;
    return HV_SUCCESS;
}
hv_return_t hv_vm_destroy(void)
{
    fake.vm = false;
    return HV_SUCCESS;
}
hv_return_t hv_vm_map(hv_uvaddr_t uva, hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags)
{
    (void)uva, (void)gpa, (void)size, (void)flags;
    fake.maps++;
    return HV_SUCCESS;
}
hv_return_t hv_vm_unmap(hv_gpaddr_t gpa, size_t size)
{
    (void)gpa, (void)size;
    fake.maps--;
    return HV_SUCCESS;
}
hv_return_t hv_vm_protect(hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags)
{
    if (fake.protects < ARRAY_LEN(fake.protect)) {
        fake.protect[fake.protects].gpa = gpa;
        fake.protect[fake.protects].len = size;
        fake.protect[fake.protects].flags = flags;
    }
    fake.protects++;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_create(hv_vcpuid_t *id, hv_vcpu_options_t flags)
{
    (void)flags;
    *id = 7;
    return fake.vcpu_error;
}
hv_return_t hv_vcpu_destroy(hv_vcpuid_t id) { return id == 7 ? HV_SUCCESS : HV_BAD_ARGUMENT; }
hv_return_t hv_vcpu_read_register(hv_vcpuid_t id, hv_x86_reg_t r, uint64_t *v)
{
    (void)id;
    *v = fake.reg[r];
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_write_register(hv_vcpuid_t id, hv_x86_reg_t r, uint64_t v)
{
    (void)id;
    fake.reg[r] = v;
    return HV_SUCCESS;
}
hv_return_t hv_vmx_vcpu_read_vmcs(hv_vcpuid_t id, uint32_t f, uint64_t *v)
{
    (void)id;
    *v = f < VMCS_MAX ? fake.vmcs[f] : 0;
    return f < VMCS_MAX ? HV_SUCCESS : HV_BAD_ARGUMENT;
}
hv_return_t hv_vmx_vcpu_write_vmcs(hv_vcpuid_t id, uint32_t f, uint64_t v)
{
    (void)id;
    if (f >= VMCS_MAX || (fake.denied && f == fake.denied))
        return HV_BAD_ARGUMENT;
    fake.vmcs[f] = v;
    if (f == VMCS_GUEST_CR0)
        fake.reg[HV_X86_CR0] = v;
    return HV_SUCCESS;
}
hv_return_t hv_vmx_read_capability(hv_vmx_capability_t c, uint64_t *v)
{
    if (c > HV_VMX_CAP_EXIT)
        return HV_UNSUPPORTED;
    *v = fake.cap[c];
    return HV_SUCCESS;
}
hv_return_t hv_vmx_vcpu_set_apic_address(hv_vcpuid_t id, hv_gpaddr_t gpa)
{
    (void)id;
    fake.apic_gpa = gpa;
    return fake.apic_error;
}
hv_return_t hv_vcpu_read_fpstate(hv_vcpuid_t id, void *buf, size_t n)
{
    (void)id;
    memcpy(buf, fake.fp, n);
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_write_fpstate(hv_vcpuid_t id, void *buf, size_t n)
{
    (void)id;
    memcpy(fake.fp, buf, n);
    return HV_SUCCESS;
}
static uint64_t *fake_msr(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_LEN(fake.msr); i++)
        if (fake.msr[i].native && fake.msr[i].msr == msr)
            return &fake.msr[i].val;
    return NULL;
}
hv_return_t hv_vcpu_enable_native_msr(hv_vcpuid_t id, uint32_t msr, bool on)
{
    (void)id;
    if (msr == HV_MSR_IA32_TSC_AUX && fake.tsc_aux_error != HV_SUCCESS)
        return fake.tsc_aux_error;
    for (unsigned i = 0; i < ARRAY_LEN(fake.msr) && on; i++)
        if (!fake.msr[i].native) {
            fake.msr[i].native = true;
            fake.msr[i].msr = msr;
            return HV_SUCCESS;
        }
    return HV_ERROR;
}
hv_return_t hv_vcpu_read_msr(hv_vcpuid_t id, uint32_t msr, uint64_t *v)
{
    uint64_t *p = fake_msr(msr);
    (void)id;
    *v = p ? *p : 0;
    return p ? HV_SUCCESS : HV_BAD_ARGUMENT;
}
hv_return_t hv_vcpu_write_msr(hv_vcpuid_t id, uint32_t msr, uint64_t v)
{
    uint64_t *p = fake_msr(msr);
    (void)id;
    if (p)
        *p = v;
    return p ? HV_SUCCESS : HV_BAD_ARGUMENT;
}
hv_return_t hv_vm_sync_tsc(uint64_t tsc)
{
    fake.synced = tsc;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_invalidate_tlb(hv_vcpuid_t id)
{
    (void)id;
    fake.flushes++;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_run_until(hv_vcpuid_t id, uint64_t deadline)
{
    (void)id;
    fake.runs++;
    fake.until = deadline;
    if (fake.on_run)
        fake.on_run();
    return fake.run_result;
}
hv_return_t hv_vcpu_run(hv_vcpuid_t id)
{
    (void)id;
    fake.run_result = HV_SUCCESS;
    fake.runs++;
    if (fake.on_run)
        fake.on_run();
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_interrupt(hv_vcpuid_t *ids, unsigned n)
{
    (void)ids;
    fake.interrupts += n;
    return HV_SUCCESS;
}

/* ---- its host ---- */

bool hvf_host_supported(void) { return fake.supported; }
uint64_t hvf_host_tsc(void) { return fake.tsc += fake.tsc_step; }
uint64_t hvf_host_tsc_hz(void) { return FAKE_TSC_HZ; }
uint64_t hvf_host_deadline(uint64_t ns) { return ns; }
void hvf_host_cpuid(uint32_t words[CPUID_WORDS]) { memset(words, 0xff, CPUID_WORDS * sizeof(*words)); }

/* ---- a local APIC that says what it is told ---- */

static struct {
    int vector; /* waiting, -1: none */
    unsigned acks;
    uint8_t tpr;
    uint64_t deadline, base;
    unsigned expired;
} apic;

static int apic_pending(void *d)
{
    (void)d;
    return apic.vector;
}
static int apic_ack(void *d)
{
    int v = apic.vector;
    (void)d;
    apic.vector = -1;
    apic.acks++;
    return v;
}
static void apic_set_tpr(void *d, uint8_t tpr)
{
    (void)d;
    apic.tpr = tpr;
}
static uint8_t apic_get_tpr(void *d)
{
    (void)d;
    return apic.tpr;
}
static uint64_t apic_deadline(void *d)
{
    (void)d;
    return apic.deadline;
}
static void apic_expire(void *d)
{
    (void)d;
    apic.expired++;
    apic.deadline = NO_DEADLINE;
}
static bool apic_at(void *d, uint64_t *base)
{
    (void)d;
    *base = 0xfee00000;
    return true;
}
static uint32_t apic_read(void *d, uint32_t off)
{
    (void)d;
    return 0xa0000000 | off;
}
static uint32_t apic_written, apic_written_off;
static void apic_write(void *d, uint32_t off, uint32_t val)
{
    (void)d;
    apic_written_off = off;
    apic_written = val;
}
static int apic_msr_read(void *d, uint32_t msr, uint64_t *val)
{
    (void)d;
    *val = apic.base;
    return msr == 0x1b ? 0 : -2; /* -ENOENT */
}
static int apic_msr_write(void *d, uint32_t msr, uint64_t val)
{
    (void)d;
    if (msr != 0x1b)
        return -2;
    apic.base = val;
    return 0;
}
static void apic_init(void *d) { (void)d; }

static const struct intc_ops fake_intc = {
    .pending = apic_pending,
    .ack = apic_ack,
    .set_tpr = apic_set_tpr,
    .get_tpr = apic_get_tpr,
    .deadline = apic_deadline,
    .expire = apic_expire,
    .page = apic_at,
    .mmio_read = apic_read,
    .mmio_write = apic_write,
    .msr_read = apic_msr_read,
    .msr_write = apic_msr_write,
    .init = apic_init,
};

/* ---- a VM with one vCPU, on this thread ---- */

struct rig {
    struct vm *vm;
    struct vcpu *vcpu;
    struct hvf_vcpu *hv;
    struct cpuid_table cpuid;
    char why[256];
};

static void fake_reset(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(&apic, 0, sizeof(apic));
    apic.vector = -1;
    apic.deadline = NO_DEADLINE;
    apic.base = 0xfee00900;
    fake.supported = true;
    fake.cap[HV_VMX_CAP_PINBASED] = UINT64_C(0x7f) << 32 | 0x16;
    fake.cap[HV_VMX_CAP_PROCBASED] = UINT64_C(0xfff9fffe) << 32 | PROC_MUST;
    fake.cap[HV_VMX_CAP_PROCBASED2] = UINT64_C(0x001011ee) << 32; /* no APIC accesses: tests ask for them */
    fake.cap[HV_VMX_CAP_ENTRY] = UINT64_C(0xf3ff) << 32 | 0x11fb;
    fake.cap[HV_VMX_CAP_EXIT] = UINT64_C(0x7fffff) << 32 | 0x36dfb;
}

static struct rig *rig_new(void)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct mem_options options = {0};
    uint32_t offered[CPUID_WORDS];

    assert_int_equal(vm_new(&rig->vm, "test", 1, MiB(2), &options), 0);
    rig->vcpu = rig->vm->vcpu[0];
    rig->vcpu->intc = &fake_intc;
    if (hvf_vm_open(rig->vm, fake.irqchip, rig->why, sizeof(rig->why)) != 0)
        return rig;
    hvf_offered(rig->vm, offered);
    assert_int_equal(cpuid_build(&rig->cpuid, NULL, offered, NULL, rig->vm->tsc_hz, NS_PER_S, rig->why, 256), 0);
    rig->vm->cpuid = &rig->cpuid;
    assert_int_equal(hvf_vm_init(rig->vm), 0);
    assert_int_equal(hvf_vcpu_init(rig->vcpu), 0);
    assert_int_equal(hvf_set_cpuid(rig->vcpu, &rig->cpuid), 0);
    rig->hv = rig->vcpu->accel;
    return rig;
}

static void rig_free(struct rig *rig)
{
    if (rig->hv)
        hvf_vcpu_fini(rig->vcpu);
    hvf_vm_fini(rig->vm);
    hvf_vm_close(rig->vm);
    vm_free(rig->vm);
    free(rig);
}

static inline int setup(void **state)
{
    fake_reset();
    *state = rig_new();
    return 0;
}

static int teardown(void **state)
{
    rig_free(*state);
    return 0;
}

#define CODE_AT 0x8000u
#define TABLES_AT 0x10000u /* PML4, PDPT, and page directories of the first and the fourth GiB */

/* 64-bit mode at CPL 0: RAM one to one, and the fourth GiB with its devices. */
static inline void long_mode(struct rig *rig)
{
    uint8_t *ram = rig->vm->mem.region[0].host;
    struct x86_state s;
    put_le64(ram + TABLES_AT, (TABLES_AT + 0x1000) | 3);
    put_le64(ram + TABLES_AT + 0x1000, (TABLES_AT + 0x2000) | 3);
    put_le64(ram + TABLES_AT + 0x1000 + 24, (TABLES_AT + 0x3000) | 3);
    put_le64(ram + TABLES_AT + 0x2000, 0x83);
    for (unsigned i = 0; i < 512; i++)
        put_le64(ram + TABLES_AT + 0x3000 + 8 * i, (UINT64_C(3) << 30) + (uint64_t)i * MiB(2) + 0x83);
    x86_state_reset(&s, true);
    s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s.cr3 = TABLES_AT;
    s.cr4 = CR4_PAE | CR4_OSFXSR;
    s.efer = EFER_LME | EFER_LMA;
    s.rip = CODE_AT;
    s.gpr[RSP] = 0x7000;
    s.seg[SEG_ES] = s.seg[SEG_SS] = s.seg[SEG_DS] = s.seg[SEG_FS] = s.seg[SEG_GS] = x86_flat_segment(16, SEG_DB | 3);
    s.seg[SEG_CS] = x86_flat_segment(8, SEG_L | 11);
    s.seg[SEG_TR] = (struct x86_segment){.sel = 24, .base = 0x6000, .limit = 0x67, .attr = SEG_P | 11};
    s.seg[SEG_LDTR] = (struct x86_segment){.attr = SEG_UNUSABLE};
    s.gdtr = (struct x86_table){.base = 0x4000, .limit = 0x27};
    s.idtr = (struct x86_table){.base = 0x5000};
    s.tsc_at_ns = os_clock_ns();
    assert_int_equal(hvf_set_state(rig->vcpu, &s), 0);
}

static inline void code(struct rig *rig, const char *bytes, size_t n)
{
    memcpy(rig->vm->mem.region[0].host + CODE_AT, bytes, n);
    fake.reg[HV_X86_RIP] = CODE_AT;
}
#define CODE(rig, bytes) code(rig, bytes, sizeof(bytes) - 1)

/* The exit that the processor reports, served. */
static inline bool exits(struct rig *rig, unsigned reason, uint64_t qualification, unsigned len, enum vcpu_exit *out)
{
    enum vcpu_exit ignored;
    fake.vmcs[VMCS_RO_EXIT_REASON] = reason;
    fake.vmcs[VMCS_RO_EXIT_QUALIFIC] = qualification;
    fake.vmcs[VMCS_RO_VMEXIT_INSTR_LEN] = len;
    hvf_collect(rig->hv);
    return hvf_exit(rig->hv, out ? out : &ignored);
}

#endif
