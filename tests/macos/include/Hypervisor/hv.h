/*
 * VMs, vCPUs, memory, interrupts. One VM a process; a vCPU belongs to the thread that made it, and what takes a vCPU is
 * called from that thread, but for hv_vcpu_interrupt(), hv_vm_lapic_set_intr() and hv_vm_lapic_msi().
 */
#ifndef XHYVE_HYPERVISOR_HV_H
#define XHYVE_HYPERVISOR_HV_H

#include <Hypervisor/hv_arch_x86.h>
#include <Hypervisor/hv_base.h>
#include <Hypervisor/hv_error.h>
#include <Hypervisor/hv_intr.h>
#include <Hypervisor/hv_types.h>

/* The VM. */
hv_return_t hv_capability(hv_capability_t capability, uint64_t *value) HV_SINCE_10_15;
hv_return_t hv_vm_create(hv_vm_options_t flags) HV_SINCE_10_10;
hv_return_t hv_vm_destroy(void) HV_SINCE_10_10;

/* Guest memory: addresses and sizes in whole 4 KiB pages. */
hv_return_t hv_vm_map(hv_uvaddr_t uva, hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags) HV_SINCE_10_10;
hv_return_t hv_vm_unmap(hv_gpaddr_t gpa, size_t size) HV_SINCE_10_10;
hv_return_t hv_vm_protect(hv_gpaddr_t gpa, size_t size, hv_memory_flags_t flags) HV_SINCE_10_10;
hv_return_t hv_vm_space_create(hv_vm_space_t *asid) HV_SINCE_10_15;
hv_return_t hv_vm_space_destroy(hv_vm_space_t asid) HV_SINCE_10_15;
hv_return_t hv_vm_map_space(hv_vm_space_t asid, hv_uvaddr_t uva, hv_gpaddr_t gpa, size_t size,
                            hv_memory_flags_t flags) HV_SINCE_10_15;
hv_return_t hv_vm_unmap_space(hv_vm_space_t asid, hv_gpaddr_t gpa, size_t size) HV_SINCE_10_15;
hv_return_t hv_vm_protect_space(hv_vm_space_t asid, hv_gpaddr_t gpa, size_t size,
                                hv_memory_flags_t flags) HV_SINCE_10_15;

typedef uint64_t hv_allocate_flags_t;
enum { HV_ALLOCATE_DEFAULT = 0 };
hv_return_t hv_vm_allocate(void **uvap, size_t size, hv_allocate_flags_t flags) HV_SINCE_12_0;
hv_return_t hv_vm_deallocate(void *uva, size_t size) HV_SINCE_12_0;

/* Time. Deadlines are in units of mach_absolute_time(). */
hv_return_t hv_vm_sync_tsc(uint64_t tsc) HV_SINCE_10_10;
uint64_t hv_tsc_clock(void) HV_SINCE_11_0;
hv_return_t hv_vcpu_set_tsc_relative(hv_vcpuid_t vcpu, int64_t offset) HV_SINCE_11_0;

/* vCPUs. */
hv_return_t hv_vcpu_create(hv_vcpuid_t *vcpu, hv_vcpu_options_t flags) HV_SINCE_10_10;
hv_return_t hv_vcpu_destroy(hv_vcpuid_t vcpu) HV_SINCE_10_10;
hv_return_t hv_vcpu_set_space(hv_vcpuid_t vcpu, hv_vm_space_t asid) HV_SINCE_10_15;
hv_return_t hv_vcpu_read_register(hv_vcpuid_t vcpu, hv_x86_reg_t reg, uint64_t *value) HV_SINCE_10_10;
hv_return_t hv_vcpu_write_register(hv_vcpuid_t vcpu, hv_x86_reg_t reg, uint64_t value) HV_SINCE_10_10;
/* The layout and size are those of XSAVE on the host's processor, standard format. */
hv_return_t hv_vcpu_read_fpstate(hv_vcpuid_t vcpu, void *buffer, size_t size) HV_SINCE_10_10;
hv_return_t hv_vcpu_write_fpstate(hv_vcpuid_t vcpu, void *buffer, size_t size) HV_SINCE_10_10;
hv_return_t hv_vcpu_enable_native_msr(hv_vcpuid_t vcpu, uint32_t msr, bool enable) HV_SINCE_10_10;
hv_return_t hv_vcpu_enable_managed_msr(hv_vcpuid_t vcpu, uint32_t msr, bool enable) HV_SINCE_11_0;
hv_return_t hv_vcpu_set_msr_access(hv_vcpuid_t vcpu, uint32_t msr, hv_msr_flags_t flags) HV_SINCE_11_0;
hv_return_t hv_vcpu_read_msr(hv_vcpuid_t vcpu, uint32_t msr, uint64_t *value) HV_SINCE_10_10;
hv_return_t hv_vcpu_write_msr(hv_vcpuid_t vcpu, uint32_t msr, uint64_t value) HV_SINCE_10_10;
hv_return_t hv_vcpu_flush(hv_vcpuid_t vcpu) HV_SINCE_10_10; /* since 11.0: does nothing, HV_UNSUPPORTED */
hv_return_t hv_vcpu_invalidate_tlb(hv_vcpuid_t vcpu) HV_SINCE_10_10;

/* Running. hv_vcpu_run() returns after exits, too, that the framework has handled by itself (its own EPT violations). */
#define HV_DEADLINE_FOREVER (~0ull)
hv_return_t hv_vcpu_run(hv_vcpuid_t vcpu) HV_SINCE_10_10;
hv_return_t hv_vcpu_run_until(hv_vcpuid_t vcpu, uint64_t deadline) HV_SINCE_10_15;
hv_return_t hv_vcpu_interrupt(hv_vcpuid_t *vcpus, unsigned int vcpu_count) HV_SINCE_10_10;
hv_return_t hv_vcpu_get_exec_time(hv_vcpuid_t vcpu, uint64_t *time) HV_SINCE_10_10; /* ns */
hv_return_t hv_vcpu_get_idle_time(hv_vcpuid_t vcpu, uint64_t *time) HV_SINCE_12_0;  /* ns */
hv_return_t hv_vcpu_vmx_status(hv_vcpuid_t vcpu, uint32_t *status) HV_SINCE_12_0; /* RFLAGS.ZF, CF of a failed entry */

/* Interrupt controllers in the kernel: for a VM with HV_VM_ACCEL_APIC. */
hv_return_t hv_vm_lapic_set_intr(hv_vcpuid_t vcpu, uint8_t vector, hv_apic_intr_trigger_t trig) HV_SINCE_12_0;
hv_return_t hv_vm_lapic_msi(uint64_t addr, uint64_t data) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_assert_irq(int intin) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_deassert_irq(int intin) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_pulse_irq(int intin) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_read(hv_gpaddr_t gpa, uint32_t *datap) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_write(hv_gpaddr_t gpa, uint32_t data) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_get_state(hv_ioapic_state_ext_t *state) HV_SINCE_12_0;
hv_return_t hv_vm_ioapic_put_state(const hv_ioapic_state_ext_t *state) HV_SINCE_12_0;
hv_return_t hv_vm_send_ioapic_intr(uint64_t data) HV_SINCE_12_0; /* a redirection table entry */
hv_return_t hv_vm_atpic_assert_irq(int irq) HV_SINCE_12_0;
hv_return_t hv_vm_atpic_deassert_irq(int irq) HV_SINCE_12_0;
hv_return_t hv_vm_atpic_port_read(int port, uint8_t *valuep) HV_SINCE_12_0;
hv_return_t hv_vm_atpic_port_write(int port, uint8_t value) HV_SINCE_12_0;
hv_return_t hv_vm_atpic_get_state(hv_atpic_state_ext_t *state, bool is_primary) HV_SINCE_12_0;
hv_return_t hv_vm_atpic_put_state(const hv_atpic_state_ext_t *state, bool is_primary) HV_SINCE_12_0;
hv_return_t hv_vm_set_apic_bus_freq(uint64_t freq) HV_SINCE_12_0; /* Hz, before the first vCPU */
hv_return_t hv_vcpu_inject_extint(hv_vcpuid_t vcpu) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_read(hv_vcpuid_t vcpu, uint32_t offset, uint32_t *data) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_write(hv_vcpuid_t vcpu, uint32_t offset, uint32_t data, bool *no_side_effect) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_get_state(hv_vcpuid_t vcpu, hv_apic_state_ext_t *state) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_put_state(hv_vcpuid_t vcpu, const hv_apic_state_ext_t *state) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_ctrl(hv_vcpuid_t vcpu, hv_apic_ctrl_t ctrls) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_trigger_lvt(hv_vcpuid_t vcpu, hv_apic_lvt_flavor_t flavor) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_info(hv_vcpuid_t vcpu, hv_vm_exitinfo_t *code) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_init_ap(hv_vcpuid_t vcpu, bool is_actv[], unsigned int count) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_startup_ap(hv_vcpuid_t vcpu, bool is_actv[], unsigned int count,
                                    uint64_t *ap_rip) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_ioapic_eoi(hv_vcpuid_t vcpu, uint8_t *vec) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_apic_access_read(hv_vcpuid_t vcpu, uint32_t *value) HV_SINCE_12_0;
hv_return_t hv_vcpu_exit_inject_excp(hv_vcpuid_t vcpu, uint8_t *vec, bool *valid, uint32_t *code,
                                     bool *restart) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_lsc_enter_r32(hv_vcpuid_t vcpu, bool is_load, uint64_t rip, unsigned int ilen, uint16_t cs,
                                       hv_x86_reg_t reg, uint64_t uva[], unsigned int count) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_lsc_enter_imm32(hv_vcpuid_t vcpu, uint64_t rip, unsigned int ilen, uint16_t cs, uint32_t imm32,
                                         uint64_t uva[], unsigned int count) HV_SINCE_12_0;
hv_return_t hv_vcpu_apic_lsc_invalidate(hv_vcpuid_t vcpu) HV_SINCE_12_0;

#endif
