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
#include "accel/probe_world.h"
#include "os/clock.h"

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
    GUEST_PORT = 0xf4,
    GUEST_ANSWER = 0x5a,
};

static const uint8_t guest_code[] = {
    0x66, 0x0f,       0xef, 0xc0,                               /* pxor xmm0, xmm0 */
    0x0f, 0x29,       0x04, 0x25, 0x00, 0xa0, 0x00, 0x00,       /* movaps [GUEST_DATA], xmm0 */
    0x31, 0xc0,                                                 /* xor eax, eax */
    0x31, 0xd2,                                                 /* xor edx, edx */
    0xbb, 0x5a,       0x00, 0x00, 0x00,                         /* mov ebx, 0x5a */
    0x31, 0xc9,                                                 /* xor ecx, ecx */
    0x48, 0x0f,       0xc7, 0x0c, 0x25, 0x00, 0xa0, 0x00, 0x00, /* cmpxchg16b [GUEST_DATA] */
    0x31, 0xc0,                                                 /* xor eax, eax */
    0x0f, 0xa2,                                                 /* cpuid */
    0x8a, 0x04,       0x25, 0x00, 0xa0, 0x00, 0x00,             /* mov al, [GUEST_DATA] */
    0xe6, GUEST_PORT,                                           /* out GUEST_PORT, al */
    0xf4,                                                       /* hlt */
};

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
    probe_world_build(vm->mem.region[0].host, guest_code, sizeof(guest_code));
    probe_world_state(&state);
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
    int err = vm_new(&vm, "trial", 1, GUEST_RAM, &options);
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
