/* vCPUs: their life, which belongs to a thread; registers, vector state, MSRs. */
#include "hvsim.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/flags.h"
#include "cpu/hooks.h"
#include "cpu/jit/jit.h"
#include "cpu/mmu.h"
#include "os/clock.h"
#include "util/bytes.h"

static const struct cpu_hooks hooks = {
    .wants = hvsim_wants,
    .insn = hvsim_insn,
    .event = hvsim_event,
    .task = hvsim_task,
    .memory = hvsim_memory,
};

struct hvsim_vcpu *hvsim_mine(hv_vcpuid_t id, hv_return_t *err)
{
    struct hvsim_vcpu *v = NULL;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created)
        *err = HV_NO_DEVICE;
    else if (id >= VM_MAX_VCPUS || !hvsim.vcpu[id] || !pthread_equal(hvsim.vcpu[id]->owner, pthread_self()))
        *err = HV_BAD_ARGUMENT;
    else
        v = hvsim.vcpu[id];
    pthread_mutex_unlock(&hvsim.lock);
    return v;
}

static void destroy(struct hvsim_vcpu *v)
{
    hvsim_apic_destroy(v);
    cpu_free(v->cpu);
    pthread_mutex_destroy(&v->core.lock);
    free(v);
}

static struct hvsim_vcpu *create(unsigned id)
{
    struct hvsim_vcpu *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    pthread_mutex_init(&v->core.lock, NULL);
    v->owner = pthread_self();
    v->core.vm = &hvsim.vm;
    v->core.id = id;
    v->core.apic_id = id;
    v->core.intc = &hvsim_intc;
    v->core.intc_dev = v;
    v->cpu = cpu_new(&v->core, hvsim.code);
    if (!v->cpu) {
        free(v);
        return NULL;
    }
    v->cpu->hooks = &hooks;
    v->cpu->hooks_arg = v;
    int err = hvsim.options.nojit ? 0 : jit_new(v->cpu);
    if ((err && err != -95) || !hvsim_apic_create(v)) { /* without the translator it is slow, no more */
        destroy(v);
        return NULL;
    }
    v->cpu->run_state = X86_RUNNING;
    v->deadline = v->timer_at = NO_DEADLINE;
    hvsim_vmcs_reset(v);
    return v;
}

hv_return_t hv_vcpu_create(hv_vcpuid_t *vcpu, hv_vcpu_options_t flags)
{
    const struct hvsim_options *o = hvsim_options();
    hv_vcpu_options_t known = o->macos >= MACOS_11 ? HV_VCPU_ACCEL_RDPMC | HV_VCPU_TSC_RELATIVE : 0;
    if (!vcpu || (flags & ~known))
        return HV_BAD_ARGUMENT;
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    unsigned id = 0;
    while (id < VM_MAX_VCPUS && hvsim.vcpu[id])
        id++;
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++) /* one a thread */
        if (hvsim.vcpu[i] && pthread_equal(hvsim.vcpu[i]->owner, pthread_self()))
            r = HV_BUSY;
    if (!hvsim.created)
        r = HV_NO_DEVICE;
    else if (id == VM_MAX_VCPUS || hvsim.nvcpus >= o->vcpus)
        r = HV_NO_RESOURCES;
    if (r == HV_SUCCESS) {
        struct hvsim_vcpu *v = create(id);
        r = v ? HV_SUCCESS : HV_NO_RESOURCES;
        hvsim.vcpu[id] = v;
        if (v) {
            v->tsc_relative = flags & HV_VCPU_TSC_RELATIVE;
            hvsim.nvcpus++;
            hvsim.vm.nvcpus = hvsim.nvcpus;
            *vcpu = id;
        }
    }
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

hv_return_t hv_vcpu_destroy(hv_vcpuid_t vcpu)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    pthread_mutex_lock(&hvsim.lock);
    hvsim.vcpu[vcpu] = NULL;
    hvsim.nvcpus--;
    hvsim.vm.nvcpus = hvsim.nvcpus;
    pthread_mutex_unlock(&hvsim.lock);
    destroy(v);
    return HV_SUCCESS;
}

/* ---- registers ---- */

static uint64_t *plain_register(struct hvsim_vcpu *v, hv_x86_reg_t reg)
{
    struct cpu *cpu = v->cpu;
    static const uint8_t order[] = {RAX, RCX, RDX, RBX, RSI, RDI, RSP, RBP};
    if (reg >= HV_X86_RAX && reg <= HV_X86_RBP)
        return &cpu->reg[order[reg - HV_X86_RAX]];
    if (reg >= HV_X86_R8 && reg <= HV_X86_R15)
        return &cpu->reg[R8 + (reg - HV_X86_R8)];
    switch (reg) {
    case HV_X86_RIP: return &cpu->rip;
    case HV_X86_CR2: return &cpu->cr2;
    case HV_X86_DR0:
    case HV_X86_DR1:
    case HV_X86_DR2:
    case HV_X86_DR3: return &cpu->dr[reg - HV_X86_DR0];
    case HV_X86_DR6: return &cpu->dr[6];
    case HV_X86_XCR0: return &cpu->xcr0;
    default: return NULL;
    }
}

/* Those that are VMCS fields as well. 0: it is not one. */
static uint32_t register_field(hv_x86_reg_t reg)
{
    switch (reg) {
    case HV_X86_RFLAGS: return VMCS_GUEST_RFLAGS;
    case HV_X86_CS: return VMCS_GUEST_CS;
    case HV_X86_SS: return VMCS_GUEST_SS;
    case HV_X86_DS: return VMCS_GUEST_DS;
    case HV_X86_ES: return VMCS_GUEST_ES;
    case HV_X86_FS: return VMCS_GUEST_FS;
    case HV_X86_GS: return VMCS_GUEST_GS;
    case HV_X86_IDT_BASE: return VMCS_GUEST_IDTR_BASE;
    case HV_X86_IDT_LIMIT: return VMCS_GUEST_IDTR_LIMIT;
    case HV_X86_GDT_BASE: return VMCS_GUEST_GDTR_BASE;
    case HV_X86_GDT_LIMIT: return VMCS_GUEST_GDTR_LIMIT;
    case HV_X86_LDTR: return VMCS_GUEST_LDTR;
    case HV_X86_LDT_BASE: return VMCS_GUEST_LDTR_BASE;
    case HV_X86_LDT_LIMIT: return VMCS_GUEST_LDTR_LIMIT;
    case HV_X86_LDT_AR: return VMCS_GUEST_LDTR_AR;
    case HV_X86_TR: return VMCS_GUEST_TR;
    case HV_X86_TSS_BASE: return VMCS_GUEST_TR_BASE;
    case HV_X86_TSS_LIMIT: return VMCS_GUEST_TR_LIMIT;
    case HV_X86_TSS_AR: return VMCS_GUEST_TR_AR;
    case HV_X86_CR0: return VMCS_GUEST_CR0;
    case HV_X86_CR3: return VMCS_GUEST_CR3;
    case HV_X86_CR4: return VMCS_GUEST_CR4;
    case HV_X86_DR7: return VMCS_GUEST_DR7;
    default: return 0;
    }
}

hv_return_t hv_vcpu_read_register(hv_vcpuid_t vcpu, hv_x86_reg_t reg, uint64_t *value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!value)
        return HV_BAD_ARGUMENT;
    const uint64_t *p = plain_register(v, reg);
    if (p)
        *value = *p;
    else if (reg == HV_X86_TPR)
        *value = v->tpr;
    else
        return register_field(reg) ? hv_vmx_vcpu_read_vmcs(vcpu, register_field(reg), value) : HV_BAD_ARGUMENT;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_write_register(hv_vcpuid_t vcpu, hv_x86_reg_t reg, uint64_t value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    uint64_t *p = plain_register(v, reg);
    if (reg == HV_X86_XCR0) { /* XSETBV's checks: the kernel executes it */
        uint64_t offered = cpuid_has(&hvsim.cpuid, X86_AVX) ? 7 : cpuid_has(&hvsim.cpuid, X86_XSAVE) ? 3 : 1;
        if (!(value & 1) || (value & ~offered) || (value & 6) == 4)
            return HV_BAD_ARGUMENT;
    }
    if (p) {
        *p = value;
        if (reg >= HV_X86_DR0 && reg <= HV_X86_DR3)
            v->flush_tlb = true; /* watchpoints keep pages out of it */
    } else if (reg == HV_X86_TPR) {
        v->tpr = (uint8_t)value;
    } else {
        return register_field(reg) ? hv_vmx_vcpu_write_vmcs(vcpu, register_field(reg), value) : HV_BAD_ARGUMENT;
    }
    return HV_SUCCESS;
}

/* ---- vector state: XSAVE and XRSTOR in standard format ---- */

#define XSAVE_BV 512

static size_t xsave_size(void)
{
    return cpuid_has(&hvsim.cpuid, X86_AVX) ? 832 : cpuid_has(&hvsim.cpuid, X86_XSAVE) ? 576 : 512;
}

hv_return_t hv_vcpu_read_fpstate(hv_vcpuid_t vcpu, void *buffer, size_t size)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!buffer || size < xsave_size())
        return HV_BAD_ARGUMENT;
    memset(buffer, 0, size);
    memcpy(buffer, v->cpu->xsave, xsave_size());
    put_le32((uint8_t *)buffer + 28, 0xffff); /* MXCSR_MASK */
    if (xsave_size() > 512) {
        memset((uint8_t *)buffer + XSAVE_BV, 0, 64);
        put_le64((uint8_t *)buffer + XSAVE_BV, xsave_size() > 576 ? 7 : 3);
    }
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_write_fpstate(hv_vcpuid_t vcpu, void *buffer, size_t size)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    const uint8_t *from = buffer;
    if (!v)
        return err;
    if (!from || size < xsave_size() || (get_le32(from + 24) & ~0xffffu)) /* a bad MXCSR faults */
        return HV_BAD_ARGUMENT;
    uint64_t bv = xsave_size() > 512 ? get_le64(from + XSAVE_BV) : 3;
    if (bv & ~UINT64_C(7))
        return HV_BAD_ARGUMENT;
    uint8_t *to = v->cpu->xsave;
    uint32_t mxcsr = get_le32(from + 24);
    memset(to, 0, sizeof v->cpu->xsave);
    put_le16(to, 0x37f);
    if (bv & 1) { /* components whose bit is clear get their initial values */
        memcpy(to, from, 24);
        memcpy(to + 32, from + 32, 128);
    }
    put_le32(to + 24, mxcsr);
    put_le32(to + 28, 0xffff);
    if (bv & 2)
        memcpy(to + 160, from + 160, 256);
    if (bv & 4)
        memcpy(to + 576, from + 576, 256);
    put_le64(to + XSAVE_BV, 7);
    return HV_SUCCESS;
}

/* ---- MSRs ---- */

/* Those that the framework knows how to switch; the values are the CPU's. */
static bool may_be_native(uint32_t msr)
{
    switch (msr) {
    case HV_MSR_IA32_TSC:
    case HV_MSR_IA32_SYSENTER_CS:
    case HV_MSR_IA32_SYSENTER_ESP:
    case HV_MSR_IA32_SYSENTER_EIP:
    case HV_MSR_IA32_STAR:
    case HV_MSR_IA32_LSTAR:
    case HV_MSR_IA32_CSTAR:
    case HV_MSR_IA32_FMASK:
    case HV_MSR_IA32_FS_BASE:
    case HV_MSR_IA32_GS_BASE:
    case HV_MSR_IA32_KERNEL_GS_BASE: return true;
    case HV_MSR_IA32_TSC_AUX: return cpuid_has(&hvsim.cpuid, X86_RDTSCP);
    case HV_MSR_IA32_XSS: return cpuid_has(&hvsim.cpuid, X86_XSAVES);
    default: return false;
    }
}

static int find_msr(const struct hvsim_vcpu *v, uint32_t msr)
{
    for (unsigned i = 0; i < v->nmsrs; i++)
        if (v->msr[i].msr == msr)
            return (int)i;
    return -1;
}

hv_msr_flags_t hvsim_msr_access(const struct hvsim_vcpu *v, uint32_t msr)
{
    int i = find_msr(v, msr);
    return i < 0 ? HV_MSR_NONE : v->msr[i].access;
}

static hv_return_t enable(hv_vcpuid_t vcpu, uint32_t msr, bool on, hv_msr_flags_t access, bool managed)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!may_be_native(msr))
        return HV_BAD_ARGUMENT;
    int i = find_msr(v, msr);
    if (on && i < 0) {
        if (v->nmsrs == ARRAY_LEN(v->msr))
            return HV_NO_RESOURCES;
        i = (int)v->nmsrs++;
        v->msr[i].msr = msr;
    }
    if (on) {
        v->msr[i].access = access;
        v->msr[i].managed = managed;
    } else if (i >= 0) {
        v->msr[i] = v->msr[--v->nmsrs];
    }
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_enable_native_msr(hv_vcpuid_t vcpu, uint32_t msr, bool on)
{
    return enable(vcpu, msr, on, HV_MSR_READ | HV_MSR_WRITE, false);
}

hv_return_t hv_vcpu_enable_managed_msr(hv_vcpuid_t vcpu, uint32_t msr, bool on)
{
    return enable(vcpu, msr, on, HV_MSR_NONE, true);
}

hv_return_t hv_vcpu_set_msr_access(hv_vcpuid_t vcpu, uint32_t msr, hv_msr_flags_t flags)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    int i = find_msr(v, msr);
    if (i < 0 || !v->msr[i].managed || (flags & ~(HV_MSR_READ | HV_MSR_WRITE)))
        return HV_BAD_ARGUMENT;
    v->msr[i].access = flags;
    return HV_SUCCESS;
}

static uint64_t *msr_place(struct cpu *cpu, uint32_t msr)
{
    switch (msr) {
    case HV_MSR_IA32_SYSENTER_CS: return &cpu->sysenter_cs;
    case HV_MSR_IA32_SYSENTER_ESP: return &cpu->sysenter_esp;
    case HV_MSR_IA32_SYSENTER_EIP: return &cpu->sysenter_eip;
    case HV_MSR_IA32_EFER: return &cpu->efer;
    case HV_MSR_IA32_STAR: return &cpu->star;
    case HV_MSR_IA32_LSTAR: return &cpu->lstar;
    case HV_MSR_IA32_CSTAR: return &cpu->cstar;
    case HV_MSR_IA32_FMASK: return &cpu->sfmask;
    case HV_MSR_IA32_FS_BASE: return &cpu->seg[SEG_FS].base;
    case HV_MSR_IA32_GS_BASE: return &cpu->seg[SEG_GS].base;
    case HV_MSR_IA32_KERNEL_GS_BASE: return &cpu->kernel_gs_base;
    case HV_MSR_IA32_TSC_AUX: return &cpu->tsc_aux;
    case HV_MSR_IA32_XSS: return &cpu->xss;
    default: return NULL;
    }
}

/* The list that is switched holds an MSR's value: of one that is not on it there is none. */
static bool has_value(const struct hvsim_vcpu *v, uint32_t msr)
{
    bool in_vmcs = msr == HV_MSR_IA32_EFER || msr == HV_MSR_IA32_FS_BASE || msr == HV_MSR_IA32_GS_BASE ||
                   (msr >= HV_MSR_IA32_SYSENTER_CS && msr <= HV_MSR_IA32_SYSENTER_EIP);
    return in_vmcs || find_msr(v, msr) >= 0;
}

hv_return_t hv_vcpu_read_msr(hv_vcpuid_t vcpu, uint32_t msr, uint64_t *value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    const uint64_t *p = msr_place(v->cpu, msr);
    if (!value || !p || !has_value(v, msr))
        return HV_BAD_ARGUMENT;
    *value = *p;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_write_msr(hv_vcpuid_t vcpu, uint32_t msr, uint64_t value)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    uint64_t *p = msr_place(v->cpu, msr);
    if (!p || !has_value(v, msr))
        return HV_BAD_ARGUMENT;
    *p = value;
    return HV_SUCCESS;
}

/* ---- the rest ---- */

hv_return_t hv_vcpu_invalidate_tlb(hv_vcpuid_t vcpu)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    v->flush_tlb = true;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_flush(hv_vcpuid_t vcpu)
{
    hv_return_t err;
    if (!hvsim_mine(vcpu, &err))
        return err;
    return hvsim_options()->macos >= MACOS_11 ? HV_UNSUPPORTED : HV_SUCCESS;
}

hv_return_t hv_vcpu_set_tsc_relative(hv_vcpuid_t vcpu, int64_t offset)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!v->tsc_relative)
        return HV_BAD_ARGUMENT;
    CTRL(v, VMCS_CTRL_TSC_OFFSET) = (uint64_t)offset;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_get_exec_time(hv_vcpuid_t vcpu, uint64_t *time)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!time)
        return HV_BAD_ARGUMENT;
    *time = v->exec_ns;
    return HV_SUCCESS;
}

hv_return_t hv_vmx_vcpu_set_apic_address(hv_vcpuid_t vcpu, hv_gpaddr_t gpa)
{
    hv_return_t err;
    struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (gpa & 4095 || gpa >> HVSIM_SPACE_BITS)
        return HV_BAD_ARGUMENT;
    v->apic_gpa = gpa;
    v->apic_set = true;
    v->flush_tlb = true;
    return HV_SUCCESS;
}

const char *hvsim_last_reason(hv_vcpuid_t vcpu)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    return v ? v->reason : NULL;
}

uint64_t hvsim_exits(hv_vcpuid_t vcpu, unsigned reason)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    return v && reason < ARRAY_LEN(v->exits) ? v->exits[reason] : 0;
}
