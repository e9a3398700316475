/*
 * What the firmware tables (ACPI, MP table) say about the machine. The machine
 * fills it in from the same constants it wires its chips with.
 */
#ifndef XHYVE_BOOT_PLATFORM_H
#define XHYVE_BOOT_PLATFORM_H

#include <stdbool.h>
#include <stdint.h>

#define PLATFORM_MAX_CPUS 1024
#define PLATFORM_MAX_INTX 128 /* 32 devices of 4 pins */
#define PLATFORM_LINKS 8      /* LNKA to LNKH */

/* One pin of one device on PCI bus 0. */
struct platform_intx {
    uint8_t dev, pin; /* pin 0 = INTA# */
    uint8_t link;     /* 0 = LNKA: which PIRQ, while the 8259A pair is used */
    uint32_t gsi;     /* the IOAPIC pin, level-triggered */
};

struct platform_ports {
    uint16_t base, len;
};

struct platform {
    unsigned ncpus;
    const uint32_t *apic_id; /* [ncpus], the bootstrap processor's first */
    uint32_t lapic_base;
    uint32_t cpu_signature; /* CPUID.1:EAX, for the MP table and SMBIOS */
    uint32_t cpu_features;  /* CPUID.1:EDX */

    bool has_ioapic;
    uint8_t ioapic_id;
    uint32_t ioapic_base, ioapic_gsi; /* gsi: that of its pin 0 */
    unsigned ioapic_pins;

    /* ACPI fixed hardware: I/O ports, 0 = absent (GPE0 only). */
    uint8_t sci_irq;
    bool sci_active_low;
    uint16_t pm1_evt, pm1_cnt, pm_tmr; /* 4, 2 and 4 bytes */
    bool pm_tmr_32;                    /* 32 bits wide, not 24 */
    uint16_t gpe0, gpe0_len;           /* status and enable registers together */
    uint16_t smi_cmd;                  /* 0: ACPI mode is always on */
    uint8_t acpi_enable, acpi_disable; /* values for smi_cmd */
    uint8_t s5_type;                   /* SLP_TYP of soft-off */
    uint16_t reset_port;               /* 0: none */
    uint8_t reset_value;
    uint8_t rtc_century; /* CMOS index, 0: none */

    uint64_t hpet_base; /* 0: none; under 4 GiB */
    uint32_t hpet_id;   /* low half of its capability register */

    /* PCI bus 0. */
    uint64_t ecam_base; /* 0: none */
    unsigned ecam_buses;
    uint32_t mmio32_base, mmio32_len; /* windows for BARs; len 0: none */
    uint64_t mmio64_base, mmio64_len;
    const struct platform_intx *intx;
    unsigned nintx;

    /* ISA devices, below the LPC bridge where there is one. */
    bool has_lpc;
    uint8_t lpc_dev, lpc_func;
    uint8_t pirq_reg[PLATFORM_LINKS]; /* config offsets of the PIRQ registers (bit 7: off; 3-0: IRQ); 0: no such link */
    uint16_t pirq_irqs;               /* the ISA IRQs they may be routed to, as a mask */
    struct {
        uint16_t port; /* 0: absent */
        uint8_t irq;
    } com[4];
    bool has_rtc, has_i8042, has_ps2_mouse;
    bool has_vga;
    uint16_t fwcfg_port;                   /* 0: absent; 12 ports */
    const struct platform_ports *reserved; /* other ports that belong to the board */
    unsigned nreserved;
};

#endif
