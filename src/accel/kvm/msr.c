/*
 * MSRs, one by one and as the list that makes up a vCPU's state.
 *
 * KVM takes or gives a list up to the first MSR that it does not know; ours go
 * on behind that one and mark it. A reset writes back what KVM had in each of
 * them when it made the vCPU, paravirtual ones included: a clock page of the
 * guest before must not be written into the memory of the one after.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

#define MSRS_AT_ONCE 128 /* KVM takes fewer than 256 */
#define IA32_TSC 0x10u
#define IA32_APIC_BASE 0x1bu
#define IA32_TSC_DEADLINE 0x6e0u
#define IA32_VMX_FIRST 0x480u
#define IA32_VMX_LAST 0x493u
#define HYPERV_FIRST 0x40000000u
#define HYPERV_LAST 0x400001ffu
#define KVM_WALL_CLOCK_OLD 0x11u /* MSR_KVM_WALL_CLOCK and _NEW: a write has an effect, and there is no state */
#define KVM_WALL_CLOCK 0x4b564d00u

/* What is state of its own kind, or of a feature that no guest of ours has. */
static bool left_out(uint32_t index)
{
    return index == IA32_TSC || index == IA32_APIC_BASE || index == IA32_TSC_DEADLINE || index == KVM_WALL_CLOCK_OLD ||
           index == KVM_WALL_CLOCK || (index >= IA32_VMX_FIRST && index <= IA32_VMX_LAST) ||
           (index >= HYPERV_FIRST && index <= HYPERV_LAST);
}

int kvm_msr_indices(struct kvm_vm *kvm)
{
    struct kvm_msr_list_buf {
        struct {
            __u32 nmsrs;
        } head;
        __u32 index[KVM_MAX_MSRS];
    } *buf = calloc(1, sizeof(*buf));
    if (!buf)
        return -ENOMEM;
    buf->head.nmsrs = KVM_MAX_MSRS;
    int err = kvm_ioctl(kvm, kvm->dev, KVM_GET_MSR_INDEX_LIST, buf);
    kvm->msr_index = err ? NULL : calloc(buf->head.nmsrs ? buf->head.nmsrs : 1, sizeof(uint32_t));
    if (!err && !kvm->msr_index)
        err = -ENOMEM;
    for (unsigned i = 0; !err && i < buf->head.nmsrs; i++)
        if (!left_out(buf->index[i]))
            kvm->msr_index[kvm->nmsrs++] = buf->index[i];
    free(buf);
    return err;
}

/* Passes the entries that are not marked, some at a time, and marks those that KVM stops at. */
static int transfer(const struct kvm_vcpu *kv, struct msr_list *list, unsigned long request)
{
    struct kvm_msrs *buf = calloc(1, sizeof(*buf) + MSRS_AT_ONCE * sizeof(buf->entries[0]));
    unsigned at[MSRS_AT_ONCE];
    int err = buf ? 0 : -ENOMEM;

    for (unsigned next = 0; next < list->n && !err;) {
        unsigned n = 0, i = next;
        for (; i < list->n && n < MSRS_AT_ONCE; i++) {
            if (list->entry[i].reserved)
                continue;
            at[n] = i;
            buf->entries[n++] = list->entry[i];
        }
        buf->nmsrs = n;
        int taken = n ? kvm_ioctl(kv->kvm, kv->fd, request, buf) : 0;
        if (taken < 0) {
            err = taken;
            break;
        }
        for (unsigned k = 0; k < n && k < (unsigned)taken; k++)
            list->entry[at[k]].data = buf->entries[k].data;
        next = i;
        if ((unsigned)taken < n) {
            list->entry[at[taken]].reserved = 1;
            next = at[taken] + 1;
        }
    }
    free(buf);
    return err;
}

int kvm_msrs_get(const struct kvm_vcpu *kv, struct msr_list *list) { return transfer(kv, list, KVM_GET_MSRS); }

int kvm_msrs_set(const struct kvm_vcpu *kv, struct msr_list *list) { return transfer(kv, list, KVM_SET_MSRS); }

static int one(const struct kvm_vcpu *kv, unsigned long request, uint32_t index, uint64_t *val)
{
    union {
        struct kvm_msrs list;
        uint64_t room[(sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)) / sizeof(uint64_t)];
    } buf = {.room = {0}};
    struct kvm_msr_entry *entry = buf.list.entries;
    buf.list.nmsrs = 1;
    *entry = (struct kvm_msr_entry){.index = index, .data = *val};
    int r = kvm_ioctl(kv->kvm, kv->fd, request, &buf);
    *val = entry->data;
    return r < 0 ? r : r == 1 ? 0 : -ENOENT;
}

int kvm_msr_get(const struct kvm_vcpu *kv, uint32_t index, uint64_t *val)
{
    *val = 0;
    return one(kv, KVM_GET_MSRS, index, val);
}

int kvm_msr_set(const struct kvm_vcpu *kv, uint32_t index, uint64_t val) { return one(kv, KVM_SET_MSRS, index, &val); }

int kvm_msrs_power_on(struct kvm_vcpu *kv)
{
    const struct kvm_vm *kvm = kv->kvm;
    kv->power_on = calloc(1, sizeof(*kv->power_on));
    if (!kv->power_on)
        return -ENOMEM;
    for (unsigned i = 0; i < kvm->nmsrs; i++)
        kv->power_on->entry[kv->power_on->n++].index = kvm->msr_index[i];
    return kvm_msrs_get(kv, kv->power_on);
}

/* ---- those that struct x86_state knows ---- */

#define STATE_MSR(number, member)                                                                                      \
    {                                                                                                                  \
        number, offsetof(struct x86_state, member)                                                                     \
    }

static const struct {
    uint32_t index;
    size_t offset;
} state_msrs[] = {
    STATE_MSR(0x174, sysenter_cs),
    STATE_MSR(0x175, sysenter_esp),
    STATE_MSR(0x176, sysenter_eip),
    STATE_MSR(0x277, pat),
    STATE_MSR(0x48, spec_ctrl),
    STATE_MSR(0xda0, xss),
    STATE_MSR(0xc0000081, star),
    STATE_MSR(0xc0000082, lstar),
    STATE_MSR(0xc0000083, cstar),
    STATE_MSR(0xc0000084, sfmask),
    STATE_MSR(0xc0000102, kernel_gs_base),
    STATE_MSR(0xc0000103, tsc_aux),
    STATE_MSR(0x2ff, mtrr_def_type),
    STATE_MSR(0x250, mtrr_fixed[0]),
    STATE_MSR(0x258, mtrr_fixed[1]),
    STATE_MSR(0x259, mtrr_fixed[2]),
    STATE_MSR(0x268, mtrr_fixed[3]),
    STATE_MSR(0x269, mtrr_fixed[4]),
    STATE_MSR(0x26a, mtrr_fixed[5]),
    STATE_MSR(0x26b, mtrr_fixed[6]),
    STATE_MSR(0x26c, mtrr_fixed[7]),
    STATE_MSR(0x26d, mtrr_fixed[8]),
    STATE_MSR(0x26e, mtrr_fixed[9]),
    STATE_MSR(0x26f, mtrr_fixed[10]),
};
#define NVARIABLE 8
#define IA32_MTRR_PHYSBASE0 0x200u
#define IA32_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_ABSENT 0x1800u /* no branch trace store, no precise events: told by KVM, not the guest's to set */

static uint64_t *member(struct x86_state *s, size_t offset) { return (uint64_t *)((char *)s + offset); }

static void add(struct msr_list *list, uint32_t index, uint64_t data)
{
    list->entry[list->n++] = (struct kvm_msr_entry){.index = index, .data = data};
}

/* The list in its order: state_msrs, the variable MTRRs, IA32_MISC_ENABLE. */
static void list_state(struct msr_list *list, const struct x86_state *s)
{
    for (unsigned i = 0; i < ARRAY_LEN(state_msrs); i++)
        add(list, state_msrs[i].index, *member((struct x86_state *)s, state_msrs[i].offset));
    for (unsigned i = 0; i < NVARIABLE; i++) {
        add(list, IA32_MTRR_PHYSBASE0 + 2 * i, s->mtrr_base[i]);
        add(list, IA32_MTRR_PHYSBASE0 + 2 * i + 1, s->mtrr_mask[i]);
    }
    add(list, IA32_MISC_ENABLE, s->misc_enable);
}

int kvm_get_msr_state(struct kvm_vcpu *kv, struct x86_state *s)
{
    struct msr_list *list = calloc(1, sizeof(*list));
    if (!list)
        return -ENOMEM;
    list_state(list, s);
    int err = kvm_msrs_get(kv, list);
    for (unsigned i = 0; i < list->n; i++)
        if (list->entry[i].reserved)
            list->entry[i].data = 0;
    unsigned n = ARRAY_LEN(state_msrs);
    for (unsigned i = 0; i < n; i++)
        *member(s, state_msrs[i].offset) = list->entry[i].data;
    for (unsigned i = 0; i < NVARIABLE; i++) {
        s->mtrr_base[i] = list->entry[n + 2 * i].data;
        s->mtrr_mask[i] = list->entry[n + 2 * i + 1].data;
    }
    s->misc_enable = list->entry[n + 2 * NVARIABLE].data & ~(uint64_t)MISC_ENABLE_ABSENT;
    free(list);
    return err;
}

int kvm_set_msr_state(struct kvm_vcpu *kv, const struct x86_state *s)
{
    struct msr_list *list = calloc(1, sizeof(*list));
    if (!list)
        return -ENOMEM;
    *list = *kv->power_on;
    int err = kvm_msrs_set(kv, list);
    memset(list, 0, sizeof(*list));
    list_state(list, s);
    for (unsigned i = 0; i < kv->power_on->n; i++)
        if (kv->power_on->entry[i].index == IA32_MISC_ENABLE)
            list->entry[list->n - 1].data |= kv->power_on->entry[i].data & MISC_ENABLE_ABSENT;
    if (!err)
        err = kvm_msrs_set(kv, list);
    free(list);
    return err;
}
