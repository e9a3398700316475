/*
 * The accelerator's table, and the life of a VM and its vCPUs in KVM: what is
 * opened in which order, guest memory, dirty pages, figures.
 */
#include "accel/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

/* Four pages that Intel processors without real mode of their own need; no chip or memory of a PC is there. */
#define TSS_BASE UINT64_C(0xfef00000)
#define IDENTITY_MAP_BASE UINT64_C(0xfef03000)

#define IA32_APIC_BASE 0x1bu
#define IA32_TSC_DEADLINE 0x6e0u

/* ---- a VM ---- */

static int parse_mode(const struct kvm_vm *kvm, const char *word, enum irqchip_mode *mode, char *why, size_t n)
{
    bool split = kvm_has(kvm, KVM_CAP_SPLIT_IRQCHIP), kernel = kvm_has(kvm, KVM_CAP_IRQCHIP);
    if (!word) {
        *mode = split ? IRQCHIP_SPLIT : kernel ? IRQCHIP_KERNEL : IRQCHIP_USER;
        return 0;
    }
    if (strcmp(word, "user") == 0)
        *mode = IRQCHIP_USER;
    else if (strcmp(word, "split") == 0)
        *mode = IRQCHIP_SPLIT;
    else if (strcmp(word, "kernel") == 0)
        *mode = IRQCHIP_KERNEL;
    else {
        snprintf(why, n, "-o irqchip=%s: expected split, kernel or user", word);
        return -EINVAL;
    }
    if ((*mode == IRQCHIP_SPLIT && !split) || (*mode == IRQCHIP_KERNEL && !kernel)) {
        snprintf(why, n, "-o irqchip=%s: this kernel's KVM cannot do it", word);
        return -EOPNOTSUPP;
    }
    return 0;
}

static int check_caps(const struct kvm_vm *kvm, char *why, size_t n)
{
    static const struct {
        unsigned cap;
        const char *name;
    } needed[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"}, {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
        {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},     {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
        {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"}, {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
        {KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ"}, {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(needed); i++)
        if (!kvm_has(kvm, needed[i].cap)) {
            snprintf(why, n, "this kernel's KVM lacks %s: Linux 4.12 or later is needed", needed[i].name);
            return -EOPNOTSUPP;
        }
    return 0;
}

/* MSRs that KVM does not know come to us; with a local APIC of ours, also those that it would take for its own. */
static int init_msrs(struct kvm_vm *kvm)
{
    static const uint8_t none[1] = {0};
    bool user = kvm->mode == IRQCHIP_USER;
    struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR};
    struct kvm_msr_filter filter = {
        .flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
        .ranges =
            {
                {.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                 .nmsrs = 1,
                 .base = IA32_APIC_BASE,
                 .bitmap = (uint8_t *)none},
                {.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
                 .nmsrs = 1,
                 .base = IA32_TSC_DEADLINE,
                 .bitmap = (uint8_t *)none},
            },
    };

    if (!kvm_has(kvm, KVM_CAP_X86_USER_SPACE_MSR))
        return 0;
    cap.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | (user ? KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_FILTER : 0);
    int err = kvm_ioctl(kvm, kvm->fd, KVM_ENABLE_CAP, &cap);
    kvm->user_msrs = !err;
    if (!err && user && kvm_has(kvm, KVM_CAP_X86_MSR_FILTER)) {
        err = kvm_ioctl(kvm, kvm->fd, KVM_X86_SET_MSR_FILTER, &filter);
        kvm->msr_filter = !err;
    }
    return err;
}

static int create(struct kvm_vm *kvm, char *why, size_t n)
{
    uint64_t identity = IDENTITY_MAP_BASE;
    int version = kvm_ioctl(kvm, kvm->dev, KVM_GET_API_VERSION, NULL);
    if (version != KVM_API_VERSION) {
        snprintf(why, n, "/dev/kvm speaks version %d of its interface; %d is needed", version, KVM_API_VERSION);
        return -EOPNOTSUPP;
    }
    kvm->fd = kvm_ioctl(kvm, kvm->dev, KVM_CREATE_VM, NULL);
    if (kvm->fd < 0) {
        snprintf(why, n, "KVM cannot make a VM: %s%s", strerror(-kvm->fd),
                 kvm->fd == -EBUSY ? " (another hypervisor holds the processor's virtualisation)" : "");
        return kvm->fd;
    }
    int err = check_caps(kvm, why, n);
    if (err)
        return err;
    (void)kvm_ioctl(kvm, kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    err = kvm_ioctl_val(kvm, kvm->fd, KVM_SET_TSS_ADDR, TSS_BASE);
    if (err)
        snprintf(why, n, "KVM_SET_TSS_ADDR: %s", strerror(-err));
    return err;
}

/* What has to be known before a machine is built. */
static int learn(struct kvm_vm *kvm, char *why, size_t n)
{
    int khz = kvm_tsc_khz(kvm);
    if (khz <= 0) {
        snprintf(why, n, "KVM does not tell the frequency of the TSC: %s", strerror(khz ? -khz : EIO));
        return khz ? khz : -EIO;
    }
    kvm->vm->tsc_hz = (uint64_t)khz * 1000;
    int err = kvm_supported_cpuid(kvm);
    if (!err)
        err = kvm_msr_indices(kvm);
    int len = err ? err : kvm_ioctl(kvm, kvm->dev, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (len < 0) {
        snprintf(why, n, "KVM does not tell what it supports: %s", strerror(-len));
        return len;
    }
    kvm->run_len = (size_t)len;
    kvm->ring_page = (unsigned)kvm_has(kvm, KVM_CAP_COALESCED_MMIO);
    return 0;
}

static void vm_close(struct vm *vm)
{
    struct kvm_vm *kvm = vm->accel_vm;
    if (!kvm)
        return;
    vm->accel_vm = NULL;
    kvm_halt_fini(kvm);
    kvm_irqchip_fini(kvm);
    if (kvm->fd >= 0)
        close(kvm->fd);
    if (kvm->dev >= 0)
        close(kvm->dev);
    pthread_mutex_destroy(&kvm->ring_lock);
    pthread_mutex_destroy(&kvm->routes_lock);
    free(kvm->msr_index);
    free(kvm->supported);
    free(kvm);
}

int kvm_vm_open_through(const struct kvm_sys *sys, struct vm *vm, const char *irqchip, char *why, size_t n)
{
    struct kvm_vm *kvm = calloc(1, sizeof(*kvm));
    if (!kvm) {
        snprintf(why, n, "out of memory");
        return -ENOMEM;
    }
    kvm->sys = sys;
    kvm->vm = vm;
    kvm->fd = -1;
    pthread_mutex_init(&kvm->routes_lock, NULL);
    pthread_mutex_init(&kvm->ring_lock, NULL);
    vm->accel_vm = kvm;
    kvm_halt_init(kvm);
    kvm->dev = kvm_dev_open(sys, why, n);
    int err = kvm->dev < 0 ? kvm->dev : create(kvm, why, n);
    if (!err)
        err = parse_mode(kvm, irqchip, &kvm->mode, why, n);
    if (!err)
        err = kvm_irqchip_init(kvm, why, n);
    if (!err && (err = init_msrs(kvm)))
        snprintf(why, n, "KVM's MSR exits: %s", strerror(-err));
    if (!err)
        err = learn(kvm, why, n);
    vm->irqchip = kvm->mode;
    vm->irqfds = kvm->mode != IRQCHIP_USER;
    if (err)
        vm_close(vm);
    return err;
}

static int vm_open(struct vm *vm, const char *irqchip, char *why, size_t n)
{
    return kvm_vm_open_through(&kvm_sys_host, vm, irqchip, why, n);
}

/* ---- guest memory ---- */

static int set_slot(struct kvm_vm *kvm, unsigned slot, const struct mem_region *r, bool dirty_log)
{
    struct kvm_userspace_memory_region k = {
        .slot = slot,
        .flags = (r->readonly ? KVM_MEM_READONLY : 0) | (dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = r->gpa,
        .memory_size = r->len,
        .userspace_addr = (uint64_t)(uintptr_t)r->host,
    };
    return kvm_ioctl(kvm, kvm->fd, KVM_SET_USER_MEMORY_REGION, &k);
}

static int vm_init(struct vm *vm)
{
    struct kvm_vm *kvm = vm->accel_vm;
    if (!kvm)
        return -EINVAL; /* not opened */
    for (unsigned i = 0; i < vm->mem.nregions; i++) {
        int err = set_slot(kvm, i, &vm->mem.region[i], false);
        if (err) {
            log_error("KVM does not take %llu bytes of guest memory at 0x%llx: %s",
                      (unsigned long long)vm->mem.region[i].len, (unsigned long long)vm->mem.region[i].gpa,
                      strerror(-err));
            return err;
        }
    }
    return 0;
}

static int dirty_log(struct vm *vm, const struct mem_region *r, enum accel_dirty what, unsigned long *bitmap)
{
    struct kvm_vm *kvm = vm->accel_vm;
    unsigned slot = 0;
    while (slot < vm->mem.nregions && vm->mem.region[slot].gpa != r->gpa)
        slot++;
    if (slot == vm->mem.nregions)
        return -ENOENT;
    if (what != ACCEL_DIRTY_FETCH)
        return set_slot(kvm, slot, &vm->mem.region[slot], what == ACCEL_DIRTY_START);
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return kvm_ioctl(kvm, kvm->fd, KVM_GET_DIRTY_LOG, &log);
}

/* ---- a vCPU ---- */

static void vcpu_free(struct kvm_vcpu *kv)
{
    kvm_kick_fini(kv);
    if (kv->run)
        munmap(kv->run, kv->kvm->run_len);
    if (kv->fd >= 0)
        close(kv->fd);
    free(kv->power_on);
    free(kv);
}

static int make_vcpu(struct kvm_vcpu *kv, const char **what)
{
    struct kvm_vm *kvm = kv->kvm;

    *what = "cannot be made";
    kv->fd = kvm_ioctl_val(kvm, kvm->fd, KVM_CREATE_VCPU, kv->vcpu->apic_id); /* KVM takes the one for the other */
    if (kv->fd < 0)
        return kv->fd;
    *what = "has no shared memory";
    void *run = mmap(NULL, kvm->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, kv->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    kv->run = run;
    if (kvm->ring_page && (kvm->ring_page + 1) * MEM_PAGE <= kvm->run_len)
        kv->ring = (void *)((char *)run + kvm->ring_page * MEM_PAGE);
    *what = "cannot be interrupted";
    int err = kvm_kick_init(kv);
    if (err)
        return err;
    *what = "does not tell its MSRs";
    return kvm_msrs_power_on(kv);
}

static int vcpu_init_(struct vcpu *vcpu)
{
    struct kvm_vcpu *kv = calloc(1, sizeof(*kv));
    const char *what;
    if (!kv)
        return -ENOMEM;
    kv->kvm = vcpu->vm->accel_vm;
    kv->vcpu = vcpu;
    kv->fd = -1;
    int err = make_vcpu(kv, &what);
    if (err) {
        log_error("vCPU %u of KVM %s: %s", vcpu->id, what, strerror(-err));
        vcpu_free(kv);
        return err;
    }
    vcpu->accel = kv;
    return 0;
}

static void vcpu_fini_(struct vcpu *vcpu)
{
    struct kvm_vcpu *kv = vcpu->accel;
    vcpu->accel = NULL;
    vcpu_free(kv);
}

/* ---- figures ---- */

static void stats(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        const struct kvm_vcpu *kv = vm->vcpu[i]->accel;
        char text[512] = "";
        size_t at = 0;
        uint64_t all = 0;
        for (unsigned r = 0; kv && r < KVM_EXIT_REASONS; r++) {
            if (!kv->exits[r])
                continue;
            all += kv->exits[r];
            if (at < sizeof(text))
                at += (size_t)snprintf(text + at, sizeof(text) - at, ", %s %llu", kvm_exit_name(r),
                                       (unsigned long long)kv->exits[r]);
        }
        if (kv)
            log_info("vCPU %u: %llu exits%s", i, (unsigned long long)all, text);
    }
}

const struct accel_ops accel_kvm = {
    .name = "kvm",
    .needs_kvm = true,
    .probe = kvm_probe,
    .vm_open = vm_open,
    .vm_close = vm_close,
    .vm_init = vm_init,
    .vcpu_init = vcpu_init_,
    .vcpu_fini = vcpu_fini_,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .set_cpuid = kvm_set_cpuid,
    .run = kvm_vcpu_run,
    .tsc_now = kvm_tsc_now,
    .tsc_to_ns = kvm_tsc_to_ns,
    .offered = kvm_offered,
    .kick = kvm_kick,
    .set_lapic = kvm_set_lapic,
    .get_lapic = kvm_get_lapic,
    .msi = kvm_msi,
    .set_intr = kvm_set_intr,
    .set_pin = kvm_set_pin,
    .reset_irqchip = kvm_reset_irqchip,
    .connect_pit = kvm_connect_pit,
    .coalesce = kvm_coalesce,
    .set_route = kvm_set_route,
    .irqfd = kvm_irqfd,
    .ioeventfd = kvm_ioeventfd,
    .dirty_log = dirty_log,
    .stats = stats,
};
