/* Declarations of Mach's 64-bit memory calls for builds without Apple's SDK: what os/jitmem_macos.c uses, and no more. */
#ifndef XHYVE_SDK_MACH_VM_H
#define XHYVE_SDK_MACH_VM_H

#include <mach/mach.h>

kern_return_t mach_vm_remap(vm_map_t target, mach_vm_address_t *address, mach_vm_size_t size, mach_vm_offset_t mask,
                            int flags, vm_map_t source, mach_vm_address_t from, boolean_t copy,
                            vm_prot_t *current_protection, vm_prot_t *maximum_protection, vm_inherit_t inheritance);

#endif
