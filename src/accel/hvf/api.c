/*
 * Calls of Hypervisor.framework that macOS 10.15 has not, looked up by name, so
 * that one program runs on every macOS; and its error codes in words.
 */
#include <dlfcn.h>
#include <string.h>

#include "accel/hvf/priv.h"
#include "util/bytes.h"

/* ISO C knows no conversion between pointers to objects and to functions; POSIX has them alike. */
static bool find(const char *name, void *pointer, size_t size)
{
    void *symbol = dlsym(RTLD_DEFAULT, name);
    memcpy(pointer, &symbol, size);
    return symbol != NULL;
}
#define FIND(name, member) find(name, &(member), sizeof(member))

void hvf_api_find(struct hvf_api *api)
{
    *api = (struct hvf_api){0};
    if (!FIND("hv_vcpu_set_tsc_relative", api->set_tsc_relative) || !FIND("hv_tsc_clock", api->tsc_clock)) {
        api->set_tsc_relative = NULL;
        api->tsc_clock = NULL;
    }
    struct hvf_apic_api *a = &api->apic;
    const struct {
        const char *name;
        void *pointer;
    } apic[] = {
        {"hv_vm_set_apic_bus_freq", &a->set_bus_freq},
        {"hv_vm_lapic_msi", &a->msi},
        {"hv_vm_send_ioapic_intr", &a->send_ioapic_intr},
        {"hv_vcpu_apic_ctrl", &a->ctrl},
        {"hv_vcpu_apic_read", &a->read},
        {"hv_vcpu_apic_write", &a->write},
        {"hv_vcpu_apic_get_state", &a->get_state},
        {"hv_vcpu_apic_put_state", &a->put_state},
        {"hv_vcpu_exit_info", &a->exit_info},
        {"hv_vcpu_exit_init_ap", &a->exit_init_ap},
        {"hv_vcpu_exit_startup_ap", &a->exit_startup_ap},
        {"hv_vcpu_exit_ioapic_eoi", &a->exit_ioapic_eoi},
        {"hv_vcpu_exit_inject_excp", &a->exit_inject_excp},
        {"hv_vcpu_get_idle_time", &a->get_idle_time},
    };
    api->has_apic = true;
    for (unsigned i = 0; i < ARRAY_LEN(apic); i++)
        api->has_apic &= find(apic[i].name, apic[i].pointer, sizeof(void *));
}

const char *hvf_strerror(hv_return_t r)
{
    switch ((unsigned)r) {
    case HV_SUCCESS: return "success";
    case (unsigned)HV_ERROR: return "HV_ERROR (not said further)";
    case (unsigned)HV_BUSY: return "HV_BUSY (in use)";
    case (unsigned)HV_BAD_ARGUMENT: return "HV_BAD_ARGUMENT";
    case (unsigned)HV_NO_RESOURCES: return "HV_NO_RESOURCES";
    case (unsigned)HV_NO_DEVICE: return "HV_NO_DEVICE (no VM or vCPU)";
    case 0xfae94007u: return "HV_DENIED (not entitled)";
    case 0xfae94008u: return "HV_FAULT";
    case (unsigned)HV_UNSUPPORTED: return "HV_UNSUPPORTED";
    default: return "an error that Apple does not document";
    }
}
