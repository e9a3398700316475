/*
 * CPUID under KVM: what a guest can be given, and the leaves that it is given.
 *
 * The features are those that KVM supports on this host, less what would need
 * state or leaves that a machine of ours does not have. The leaves are the
 * machine's (x86/cpuid.h) with KVM's own added: paravirtual features, and the
 * mitigations that modern processors enumerate outside the feature words.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

#define BIT(n) (UINT32_C(1) << (n))
#define MAX_ENTRIES 256

#define LEAF_KVM 0x40000000u
#define LEAF_KVM_FEATURES 0x40000001u

int kvm_supported_cpuid(struct kvm_vm *kvm)
{
    kvm->supported = calloc(1, sizeof(*kvm->supported) + MAX_ENTRIES * sizeof(kvm->supported->entries[0]));
    if (!kvm->supported)
        return -ENOMEM;
    kvm->supported->nent = MAX_ENTRIES;
    return kvm_ioctl(kvm, kvm->dev, KVM_GET_SUPPORTED_CPUID, kvm->supported);
}

static struct kvm_cpuid_entry2 supported(const struct kvm_vm *kvm, uint32_t leaf, uint32_t subleaf)
{
    const struct kvm_cpuid2 *s = kvm->supported;
    for (unsigned i = 0; i < s->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &s->entries[i];
        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
            return *e;
    }
    return (struct kvm_cpuid_entry2){0};
}

/* What is not offered, by feature word. */
static const uint32_t withheld[CPUID_WORDS] = {
    /* DS: its leaves and state do not exist here. ACPI, TM, PBE, SS: thermal control. PSN. */
    [CPUID_1_EDX] = BIT(18) | BIT(21) | BIT(22) | BIT(27) | BIT(29) | BIT(31) | BIT(30),
    /* DTES64, MONITOR, DS_CPL, VMX, SMX, EIST, TM2, CNXT_ID, SDBG, xTPR, PDCM, DCA, OSXSAVE (a mirror of CR4) */
    [CPUID_1_ECX] = BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(11) | BIT(14) |
                    BIT(15) | BIT(18) | BIT(27),
    /* SGX, RDT, MPX, AVX-512 (state components 3 to 7), processor trace */
    [CPUID_7_EBX] = BIT(2) | BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(21) | BIT(25) | BIT(26) | BIT(27) |
                    BIT(28) | BIT(30) | BIT(31),
    /* AVX-512, protection keys (component 9), WAITPKG, shadow stacks, key locker, ENQCMD, SGX_LC, PKS, LA57 */
    [CPUID_7_ECX] = BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(11) | BIT(12) | BIT(14) | BIT(16) |
                    BIT(23) | BIT(29) | BIT(30) | BIT(31),
    /* AVX-512, SGX keys, UINTR, hybrid, PCONFIG, LBR, IBT, AMX */
    [CPUID_7_EDX] = BIT(1) | BIT(2) | BIT(3) | BIT(5) | BIT(8) | BIT(15) | BIT(18) | BIT(19) | BIT(20) | BIT(22) |
                    BIT(23) | BIT(24) | BIT(25),
    /* SVM, extended APIC space, IBS, SKINIT, WDT, LWP, topology extensions (the table's), performance counters, MWAITX */
    [CPUID_80000001_ECX] = BIT(2) | BIT(3) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(22) | BIT(23) |
                           BIT(24) | BIT(26) | BIT(27) | BIT(28) | BIT(29),
    [CPUID_D1_EAX] = ~(BIT(0) | BIT(1) | BIT(2) | BIT(3)),
    [CPUID_6_EAX] = ~BIT(2),
    [CPUID_XHYVE] = ~0u,
};

static void set(uint32_t *words, enum x86_feature f, bool on)
{
    words[f >> 5] = (words[f >> 5] & ~BIT(f & 31)) | (on ? BIT(f & 31) : 0);
}

void kvm_offered(struct vm *vm, uint32_t *words)
{
    const struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_cpuid_entry2 l1 = supported(kvm, 1, 0), l7 = supported(kvm, 7, 0), ext = supported(kvm, 0x80000001, 0);

    words[CPUID_1_EDX] = l1.edx;
    words[CPUID_1_ECX] = l1.ecx;
    words[CPUID_7_EBX] = l7.ebx;
    words[CPUID_7_ECX] = l7.ecx;
    words[CPUID_7_EDX] = l7.edx;
    words[CPUID_80000001_EDX] = ext.edx;
    words[CPUID_80000001_ECX] = ext.ecx;
    words[CPUID_D1_EAX] = supported(kvm, 0xd, 1).eax;
    words[CPUID_80000008_EBX] = supported(kvm, 0x80000008, 0).ebx;
    words[CPUID_6_EAX] = supported(kvm, 6, 0).eax;
    words[CPUID_XHYVE] = 0;

    /* KVM emulates some of these without saying so, or says so elsewhere. */
    set(words, X86_HYPERVISOR, true);
    /* Without a local APIC KVM drops writes of IA32_TSC_DEADLINE on a path that looks at no filter. */
    set(words, X86_TSC_DEADLINE, kvm->mode != IRQCHIP_USER && kvm_has(kvm, KVM_CAP_TSC_DEADLINE_TIMER));
    if (kvm->mode == IRQCHIP_USER) /* its MSRs must be ours to serve */
        set(words, X86_X2APIC, kvm->user_msrs);
    set(words, X86_ARAT, true); /* no local APIC here stops in a sleep state */
    for (unsigned i = 0; i < CPUID_WORDS; i++)
        words[i] &= ~withheld[i];
}

/* ---- the leaves of a vCPU ---- */

static void add(struct kvm_cpuid2 *to, const struct kvm_cpuid_entry2 *e)
{
    if (to->nent < MAX_ENTRIES)
        to->entries[to->nent++] = *e;
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *in, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < in->nent; i++)
        if (in->entries[i].function == leaf && in->entries[i].index == subleaf)
            return &in->entries[i];
    return NULL;
}

static void add_machine_leaves(struct kvm_cpuid2 *to, const struct cpuid_table *t, uint32_t apic_id)
{
    struct cpuid_view view = {
        .apic_id = apic_id, .xcr0 = 1, .apic_enabled = true}; /* what varies KVM keeps up to date */
    for (unsigned i = 0; i < t->nleaves; i++) {
        const struct cpuid_leaf *l = &t->leaf[i];
        struct kvm_cpuid_entry2 e = {.function = l->leaf, .index = l->has_subleaf ? l->subleaf : 0};
        uint32_t r[4];
        if (l->has_subleaf)
            e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        cpuid_query(t, &view, l->leaf, l->subleaf, r);
        e.eax = r[0];
        e.ebx = r[1];
        e.ecx = r[2];
        e.edx = r[3];
        add(to, &e);
    }
}

/* A clock, cheap IPIs and TLB flushes, stolen time. Those that need KVM's local APIC only with it. */
static uint32_t paravirtual_features(const struct kvm_vm *kvm)
{
    const uint32_t always = BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |
                            BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_STEAL_TIME) |
                            BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
    const uint32_t with_lapic = BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_PV_TLB_FLUSH) |
                                BIT(KVM_FEATURE_ASYNC_PF) | BIT(KVM_FEATURE_ASYNC_PF_VMEXIT) |
                                BIT(KVM_FEATURE_ASYNC_PF_INT) | BIT(KVM_FEATURE_PV_SEND_IPI) |
                                BIT(KVM_FEATURE_POLL_CONTROL) | BIT(KVM_FEATURE_PV_SCHED_YIELD);
    return supported(kvm, LEAF_KVM_FEATURES, 0).eax & (always | (kvm->mode == IRQCHIP_USER ? 0 : with_lapic));
}

/* Guests look for KVM's signature at the first of these leaves; the machine's own has the same shape. */
static void add_kvm_leaves(const struct kvm_vm *kvm, struct kvm_cpuid2 *to)
{
    struct kvm_cpuid_entry2 *first = find(to, LEAF_KVM, 0);
    if (!first)
        return; /* "-hypervisor" */
    memcpy(&first->ebx, "KVMK", 4);
    memcpy(&first->ecx, "VMKV", 4);
    memcpy(&first->edx, "M\0\0\0", 4);
    if (first->eax < LEAF_KVM_FEATURES)
        first->eax = LEAF_KVM_FEATURES;
    struct kvm_cpuid_entry2 features = {.function = LEAF_KVM_FEATURES, .eax = paravirtual_features(kvm)};
    if (!find(to, LEAF_KVM_FEATURES, 0))
        add(to, &features);
}

/* Bits that say what the processor need not be protected from, or how: a guest that misses them loses time or safety. */
static void add_mitigations(const struct kvm_vm *kvm, struct kvm_cpuid2 *to)
{
    const uint32_t amd = BIT(0) | BIT(2) | BIT(6) | BIT(8) | BIT(27) | BIT(28) | BIT(29) | BIT(30) | BIT(31);
    struct kvm_cpuid_entry2 a = supported(kvm, 0x80000021, 0), i = supported(kvm, 7, 2);
    struct kvm_cpuid_entry2 *max = find(to, 0x80000000, 0), *seven = find(to, 7, 0);

    if ((a.eax & amd) && max && max->eax >= 0x80000008) {
        struct kvm_cpuid_entry2 e = {.function = 0x80000021, .eax = a.eax & amd};
        add(to, &e);
        if (max->eax < 0x80000021)
            max->eax = 0x80000021;
    }
    if (i.edx & 0x3f && seven) { /* PSFD, IPRED, RRSBA, DDPD_U, BHI, MCDT_NO */
        struct kvm_cpuid_entry2 e = {.function = 7, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
        struct kvm_cpuid_entry2 none = {.function = 7, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX};
        e.edx = i.edx & 0x3f;
        if (seven->eax < 2)
            seven->eax = 2;
        add(to, &none);
        add(to, &e);
    }
}

/* An invariant TSC is the host's to promise. */
static void check_tsc(const struct kvm_vm *kvm, struct kvm_cpuid2 *to)
{
    struct kvm_cpuid_entry2 *e = find(to, 0x80000007, 0);
    if (e)
        e->edx &= supported(kvm, 0x80000007, 0).edx;
}

struct kvm_cpuid2 *kvm_cpuid_leaves(const struct kvm_vm *kvm, const struct cpuid_table *t, uint32_t apic_id)
{
    struct kvm_cpuid2 *to = calloc(1, sizeof(*to) + MAX_ENTRIES * sizeof(to->entries[0]));
    if (!to)
        return NULL;
    add_machine_leaves(to, t, apic_id);
    add_kvm_leaves(kvm, to);
    add_mitigations(kvm, to);
    check_tsc(kvm, to);
    return to;
}

int kvm_set_cpuid(struct vcpu *vcpu, const struct cpuid_table *table)
{
    struct kvm_vcpu *kv = vcpu->accel;
    struct kvm_cpuid2 *leaves = kvm_cpuid_leaves(kv->kvm, table, vcpu->apic_id);
    if (!leaves)
        return -ENOMEM;
    int err = kvm_ioctl(kv->kvm, kv->fd, KVM_SET_CPUID2, leaves);
    if (err)
        log_error("vCPU %u: KVM does not take its CPUID: %s", vcpu->id, strerror(-err));
    free(leaves);
    return err;
}
