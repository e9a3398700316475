/*
 * Does Hypervisor.framework run guests here? A guest of a few instructions in
 * 64-bit mode shows it: SSE, CMPXCHG16B, CPUID, a store, a port. And the words
 * for what a Mac's user meets when it does not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "accel/hvf/hvf.h"
#include "accel/hvf/priv.h"
#include "os/clock.h"
#include "util/bytes.h"

/* ---- in words ---- */

void hvf_explain_vm(hv_return_t r, char *why, size_t n)
{
    switch ((unsigned)r) {
    case (unsigned)HV_BUSY:
        snprintf(
            why, n,
            "a VM already exists in this process, or another hypervisor (VirtualBox, VMware, Parallels of an older "
            "make) holds the processor's VMX: end it and try again");
        break;
    case 0xfae94007u: /* HV_DENIED */
        snprintf(why, n,
                 "this program is not entitled to use Hypervisor.framework: sign it with com.apple.security.hypervisor "
                 "(`make` does; `codesign -d --entitlements - xhyve` shows it)");
        break;
    case (unsigned)HV_NO_RESOURCES:
        snprintf(why, n, "macOS has no more VMs or memory to give: end other virtual machines and try again");
        break;
    case (unsigned)HV_UNSUPPORTED:
        snprintf(why, n, "this Mac cannot run virtual machines: `sysctl kern.hv_support` must print 1");
        break;
    case (unsigned)HV_ERROR: /* what macOS before 11 says of a program that it does not trust */
        snprintf(why, n,
                 "hv_vm_create failed without a reason: the program may lack the entitlement "
                 "com.apple.security.hypervisor, or another hypervisor may hold the processor's VMX");
        break;
    default: snprintf(why, n, "hv_vm_create: %s", hvf_strerror(r));
    }
}

void hvf_explain_vcpu(hv_return_t r, const struct hvf_vm *hvf, unsigned vcpu, char *why, size_t n)
{
    switch ((unsigned)r) {
    case (unsigned)HV_NO_RESOURCES:
        if (hvf->max_vcpus)
            snprintf(why, n,
                     "vCPU %u: macOS is out of virtual CPUs (at most %u a VM, and all VMs share them): ask for fewer "
                     "with -c, or end another VM",
                     vcpu, hvf->max_vcpus);
        else
            snprintf(why, n, "vCPU %u: macOS is out of virtual CPUs: ask for fewer with -c, or end another VM", vcpu);
        break;
    case (unsigned)HV_BUSY:
        snprintf(why, n, "vCPU %u: its thread has a virtual CPU of Hypervisor.framework already", vcpu);
        break;
    default: snprintf(why, n, "vCPU %u: hv_vcpu_create: %s", vcpu, hvf_strerror(r));
    }
}

/* ---- the trial guest ---- */

enum {
    GUEST_PML4 = 0x1000,
    GUEST_PDPT = 0x2000,
    GUEST_PD = 0x3000,
    GUEST_GDT = 0x4000,
    GUEST_IDT = 0x5000, /* limit 0: a fault is a triple fault */
    GUEST_TSS = 0x6000,
    GUEST_CODE = 0x8000,
    GUEST_STACK = 0x10000,
    GUEST_PORT = 0xf4,
    GUEST_ANSWER = 0x5a,
};

static const uint8_t guest_code[] = {
    0x66, 0x0f,       0xef, 0xc0,                               /* pxor xmm0, xmm0 */
    0x0f, 0x29,       0x04, 0x25, 0x00, 0x70, 0x00, 0x00,       /* movaps [0x7000], xmm0 */
    0x31, 0xc0,                                                 /* xor eax, eax */
    0x31, 0xd2,                                                 /* xor edx, edx */
    0xbb, 0x5a,       0x00, 0x00, 0x00,                         /* mov ebx, 0x5a */
    0x31, 0xc9,                                                 /* xor ecx, ecx */
    0x48, 0x0f,       0xc7, 0x0c, 0x25, 0x00, 0x70, 0x00, 0x00, /* cmpxchg16b [0x7000] */
    0x31, 0xc0,                                                 /* xor eax, eax */
    0x0f, 0xa2,                                                 /* cpuid */
    0x8a, 0x04,       0x25, 0x00, 0x70, 0x00, 0x00,             /* mov al, [0x7000] */
    0xe6, GUEST_PORT,                                           /* out GUEST_PORT, al */
    0xf4,                                                       /* hlt */
};

static void build_world(uint8_t *ram)
{
    memcpy(ram + GUEST_CODE, guest_code, sizeof(guest_code));
    put_le64(ram + GUEST_PML4, GUEST_PDPT | 3);
    put_le64(ram + GUEST_PDPT, GUEST_PD | 3);
    put_le64(ram + GUEST_PD, 0x83); /* 2 MiB */
}

static void first_state(struct x86_state *s)
{
    x86_state_reset(s, true);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = GUEST_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA;
    s->rip = GUEST_CODE;
    s->gpr[RSP] = GUEST_STACK;
    struct x86_segment data = x86_flat_segment(16, SEG_DB | 3);
    s->seg[SEG_ES] = s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_FS] = s->seg[SEG_GS] = data;
    s->seg[SEG_CS] = x86_flat_segment(8, SEG_L | 11);
    s->seg[SEG_TR] = (struct x86_segment){.sel = 24, .base = GUEST_TSS, .limit = 0x67, .attr = SEG_P | 11};
    s->seg[SEG_LDTR] = (struct x86_segment){.attr = SEG_UNUSABLE};
    s->gdtr = (struct x86_table){.base = GUEST_GDT, .limit = 0x27};
    s->idtr = (struct x86_table){.base = GUEST_IDT};
    s->tsc_at_ns = os_clock_ns();
}

/* The port that the guest tells its result to. */
static void answer(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    (void)off;
    (void)size;
    *(uint64_t *)dev = val;
}
static const struct io_ops answer_ops = {.write = answer, .sizes = 1};

static int run_guest(struct vm *vm, char *why, size_t n)
{
    struct vcpu *vcpu = vm->vcpu[0];
    struct cpuid_table table;
    uint32_t offered[CPUID_WORDS];
    uint64_t told = 0;
    struct x86_state state;
    enum vcpu_exit out = VCPU_EXIT_ERROR;
    const struct io_range port = {.base = GUEST_PORT, .len = 1, .ops = &answer_ops, .dev = &told, .name = "trial"};

    hvf_offered(vm, offered);
    if (cpuid_build(&table, NULL, offered, NULL, vm->tsc_hz, NS_PER_S, why, n))
        return -EINVAL;
    vm->cpuid = &table;
    build_world(vm->mem.region[0].host);
    first_state(&state);
    int err = bus_add(vm->pio, &port);
    if (!err)
        err = hvf_set_cpuid(vcpu, &table);
    if (!err)
        err = hvf_set_state(vcpu, &state);
    if (err) {
        snprintf(why, n, "Hypervisor.framework does not take the state of a vCPU");
        return err;
    }
    (void)hvf_vcpu_run(vcpu, &out);
    if (out == VCPU_EXIT_HALT_FOREVER && told == GUEST_ANSWER)
        return 0;
    snprintf(why, n, "Hypervisor.framework makes a VM, but its trial guest %s",
             out == VCPU_EXIT_TRIPLE_FAULT   ? "met an exception"
             : out == VCPU_EXIT_HALT_FOREVER ? "had a wrong result"
                                             : "could not be run");
    return -EIO;
}

int hvf_probe(char *why, size_t n)
{
    struct vm *vm;
    struct mem_options options = {0};
    if (n)
        why[0] = '\0';
    int err = vm_new(&vm, "trial", 1, UINT64_C(2) << 20, &options);
    if (err) {
        snprintf(why, n, "no memory for a trial guest: %s", strerror(-err));
        return err;
    }
    err = hvf_vm_open(vm, NULL, why, n);
    if (!err) {
        err = hvf_vm_init(vm);
        if (err) {
            snprintf(why, n, "Hypervisor.framework does not map guest memory");
        } else {
            err = hvf_vcpu_init(vm->vcpu[0]);
            if (err)
                snprintf(why, n, "Hypervisor.framework cannot make a vCPU");
            else
                err = run_guest(vm, why, n);
            if (vm->vcpu[0]->accel)
                hvf_vcpu_fini(vm->vcpu[0]);
            hvf_vm_fini(vm);
        }
        hvf_vm_close(vm);
    }
    vm_free(vm);
    return err;
}
