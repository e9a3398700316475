/* State of the interrupt controllers that a VM with HV_VM_ACCEL_APIC has, since macOS 12.0. */
#ifndef XHYVE_HYPERVISOR_HV_INTR_H
#define XHYVE_HYPERVISOR_HV_INTR_H

#include <Hypervisor/hv_base.h>

enum hv_boot_state { HV_BS_INIT = 0, HV_BS_SIPI = 1, HV_BS_RUNNING = 2 }; /* 32 bits */

struct hv_apic_state {
    uint64_t apic_gpa, apic_controls, tsc_deadline;
    uint32_t apic_id, ver, tpr, apr, ldr, dfr, svr;
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t esr;
    uint32_t lvt[7];
    uint32_t icr[2];
    uint32_t icr_timer, dcr_timer, ccr_timer;
    uint32_t esr_pending;
    enum hv_boot_state boot_state;
    uint32_t aeoi[8];
};

#define HV_APIC_STATE_EXT_VER 100 /* to be written into `version` before hv_vcpu_apic_get_state() */

typedef struct {
    uint32_t version;
    struct hv_apic_state state;
} hv_apic_state_ext_t;

struct hv_atpic_state {
    bool ready;
    uint8_t icw_num, rd_cmd_reg;
    bool aeoi, poll, rotate, sfn;
    uint8_t irq_base, request, service, mask;
    bool smm;
    uint8_t last_request, lowprio;
    bool intr_raised;
    uint8_t elc;
};

#define HV_ATPIC_STATE_EXT_VER 100

typedef struct {
    uint32_t version;
    struct hv_atpic_state state;
} hv_atpic_state_ext_t;

struct hv_ioapic_state {
    uint64_t rtbl[32];
    uint32_t irr, ioa_id, ioregsel;
};

#define HV_IOAPIC_STATE_EXT_VER 100

typedef struct {
    uint32_t version;
    struct hv_ioapic_state state;
} hv_ioapic_state_ext_t;

#endif
