/*
 * accel.h on top of src/cpu: one struct cpu a vCPU, one map of code bytes a VM.
 */
#include "accel/soft/soft.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/code.h"
#include "cpu/cpu.h"
#include "cpu/features.h"
#include "cpu/jit/jit.h"
#include "util/log.h"

static int soft_probe(char *why, size_t n)
{
    if (n)
        why[0] = '\0';
    return 0;
}

static int soft_vm_open(struct vm *vm, const char *irqchip, char *why, size_t n)
{
    struct jit_options options;
    vm->irqchip = IRQCHIP_USER;
    if (irqchip && strcmp(irqchip, "user") != 0) {
        snprintf(why, n, "-o irqchip=%s: the accelerator soft has user only", irqchip);
        return -EINVAL;
    }
    int err = jit_options_parse(&options, vm->accel_options, why, n);
    if (!err && options.lockstep && vm->nvcpus > 1) {
        snprintf(why, n, "-o jit.lockstep=on: takes one virtual CPU, found -c %u", vm->nvcpus);
        return -EINVAL;
    }
    const char *lacking = err || !options.on ? NULL : jit_host_lacks(&options);
    if (lacking && options.lockstep) {
        snprintf(why, n, "-o jit.lockstep=on: the translator needs %s, which this host does not have", lacking);
        return -ENOTSUP;
    }
    if (lacking)
        log_warn("the translator needs %s, which this host does not have: the guest is interpreted, and slow", lacking);
    return err;
}

static void soft_written(void *arg, uint64_t gpa, uint64_t len) { code_written(arg, NULL, gpa, len); }

static int soft_vm_init(struct vm *vm)
{
    struct code_map *map;
    int err = code_map_new(&map, &vm->mem);
    if (err)
        return err;
    vm->accel_vm = map;
    vm->mem.written = soft_written;
    vm->mem.written_arg = map;
    return 0;
}

static void soft_vm_fini(struct vm *vm)
{
    vm->mem.written = NULL;
    code_map_free(vm->accel_vm);
    vm->accel_vm = NULL;
}

static int soft_vcpu_init(struct vcpu *vcpu)
{
    struct cpu *cpu = vcpu->accel = cpu_new(vcpu, vcpu->vm->accel_vm);
    if (!cpu)
        return -ENOMEM;
    int err = jit_new(cpu);
    return err == -ENOTSUP ? 0 : err; /* it is interpreted */
}

static void soft_vcpu_fini(struct vcpu *vcpu)
{
    struct cpu *cpu = vcpu->accel;
    vcpu->accel = NULL;
    cpu_free(cpu);
}

static int soft_get_state(struct vcpu *vcpu, struct x86_state *s)
{
    cpu_get_state(vcpu->accel, s);
    return 0;
}

static int soft_set_state(struct vcpu *vcpu, const struct x86_state *s)
{
    cpu_set_state(vcpu->accel, s);
    return 0;
}

static int soft_set_cpuid(struct vcpu *vcpu, const struct cpuid_table *table)
{
    struct cpu *cpu = vcpu->accel;
    cpu->cpuid = table;
    block_flush(cpu); /* what is an instruction depends on it */
    jit_flush(cpu);
    return 0;
}

static uint64_t soft_tsc_now(struct vcpu *vcpu) { return vcpu->accel ? cpu_tsc(vcpu->accel) : 0; }

static uint64_t soft_tsc_to_ns(struct vcpu *vcpu, uint64_t tsc)
{
    const struct cpu *cpu = vcpu->accel;
    uint64_t ns = tsc - (uint64_t)cpu->tsc_offset;
    bool wraps = cpu->tsc_offset > 0 && tsc < (uint64_t)cpu->tsc_offset; /* before the clock's zero: long ago */
    return wraps ? 0 : ns;
}

static void soft_offered(struct vm *vm, uint32_t *words)
{
    uint32_t host[CPUID_WORDS];
    cpuid_host_words(host);
    cpu_features_offered(words, host);
}

static int soft_run(struct vcpu *vcpu, enum vcpu_exit *out) { return cpu_run(vcpu->accel, out); }

static void soft_kick(struct vcpu *vcpu)
{
    struct cpu *cpu = vcpu->accel;
    if (cpu)
        atomic_store(&cpu->exit_request, 1);
}

static void soft_stats(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        struct cpu *cpu = vm->vcpu[i]->accel;
        if (!cpu)
            continue;
        const unsigned long long insns = cpu->icount + cpu->words.insns_run;
        log_info("cpu %u: %llu instructions, %llu translated ones among them, %llu blocks built, %llu dropped, %llu "
                 "cache flushes",
                 i, insns, (unsigned long long)cpu->words.insns_run, (unsigned long long)cpu->blocks->built,
                 (unsigned long long)cpu->blocks->dropped, (unsigned long long)cpu->blocks->flushes);
        jit_stats_print(cpu, i);
    }
}

const struct accel_ops accel_soft = {
    .name = "soft",
    .probe = soft_probe,
    .translates = true,
    .vm_open = soft_vm_open,
    .vm_init = soft_vm_init,
    .vm_fini = soft_vm_fini,
    .vcpu_init = soft_vcpu_init,
    .vcpu_fini = soft_vcpu_fini,
    .get_state = soft_get_state,
    .set_state = soft_set_state,
    .set_cpuid = soft_set_cpuid,
    .run = soft_run,
    .tsc_hz = SOFT_TSC_HZ,
    .tsc_now = soft_tsc_now,
    .tsc_to_ns = soft_tsc_to_ns,
    .offered = soft_offered,
    .kick = soft_kick,
    .stats = soft_stats,
};
