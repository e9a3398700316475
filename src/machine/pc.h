/*
 * A PC: every chip, its address and its wires. machine/pc.c is the parts list.
 */
#ifndef XHYVE_MACHINE_PC_H
#define XHYVE_MACHINE_PC_H

#include "boot/platform.h"
#include "chipset/acpi_pm.h"
#include "chipset/debugport.h"
#include "chipset/fwcfg.h"
#include "chipset/hpet.h"
#include "chipset/i8042.h"
#include "chipset/ioapic.h"
#include "chipset/lapic.h"
#include "chipset/lapic_bus.h"
#include "chipset/pic.h"
#include "chipset/pit.h"
#include "chipset/resetctl.h"
#include "chipset/rtc.h"
#include "serial/serial.h"
#include "chipset/testdev.h"
#include "serial/uart.h"
#include "config/config.h"
#include "core/irq.h"
#include "core/vm.h"
#include "os/sandbox.h"
#include "pci/pci.h"
#include "virtio/virtio.h"

#define PC_ISA_IRQS 16

struct pc {
    struct vm *vm;
    const struct vm_config *config;
    pthread_mutex_t lock; /* the chipset lock */

    struct lapic_bus lapic_bus;
    struct lapic lapic[VM_MAX_VCPUS];
    struct ioapic ioapic;
    struct pic pic;
    struct pit pit;
    struct rtc rtc;
    struct hpet hpet;
    struct acpi_pm acpi_pm;
    struct i8042 i8042;
    struct resetctl resetctl;
    struct debugport debugport;
    struct fwcfg fwcfg;
    struct testdev testdev;
    struct uart uart[CONFIG_COM_PORTS];
    struct serial *serial[CONFIG_COM_PORTS], *debugcon;
    struct pci_bus pci;
    struct virtio_dev *virtio[PCI_SLOTS * PCI_FUNCS]; /* in no order; the bus owns them */
    unsigned nvirtio;
    uint8_t macs[PCI_SLOTS * PCI_FUNCS][6];   /* of all NICs */
    unsigned nmacs, nuser;                    /* and how many networks of the process's own there are */
    struct ahci *ahci[PCI_SLOTS * PCI_FUNCS]; /* the same */
    unsigned nahci;
    bool has_disk, has_socket; /* has_socket: a serial port on PCI with a line that accepts connections */

    /* Wires with several sources: see enum pc_source in pc.c. */
    struct irq_or isa[PC_ISA_IRQS], pic_pin[PC_ISA_IRQS], ioapic_pin[IOAPIC_PINS];

    /* Which parts are there, for an orderly pc_free(). */
    bool has_clocks, has_pit, has_power, has_pci, has_debugport, has_fwcfg, has_testdev, has_uart[CONFIG_COM_PORTS];

    uint32_t apic_id[VM_MAX_VCPUS];
    uint16_t elcr; /* which ISA interrupts firmware would make level-triggered, for an 8259A of the accelerator's */
    struct platform_intx intx[PLATFORM_MAX_INTX];
    struct platform platform; /* the same machine, as firmware tables tell it */
};

/*
 * Builds the machine around a VM whose vCPU threads do not exist yet and whose
 * cpuid is set. 0; -errno with one line in why[n].
 */
int pc_new(struct pc **out, struct vm *, const struct vm_config *, char *why, size_t n);
/*
 * Ends the devices' own threads, which would raise interrupts. vCPUs parked for
 * good, the accelerator's VM still there. 0; -ETIMEDOUT, said in a line: one does
 * not end, and pc_free() is not to be called; then pc_abandon() leaves no names behind.
 */
int pc_stop(struct pc *);
void pc_abandon(struct pc *);
void pc_free(struct pc *); /* vCPU threads ended */

/*
 * What chips inside the accelerator are told once the VM has been started
 * (accel->vm_init done): how they reach ours, and their state after power-on.
 * 0 or -errno.
 */
int pc_started(struct pc *);

/* The reset state of a vCPU's local APIC, where that is the accelerator's. vCPU's thread. 0 or -errno. */
int pc_set_lapic(struct pc *, struct vcpu *);

/*
 * Machine reset: every chip as after power-on. vCPUs stopped. 0; or what
 * devices_settle() says, *quit among it: the machine cannot go on.
 */
int pc_reset(struct pc *, const bool *quit);

/* The disks may have grown: looks, and tells the guest. Any thread. */
void pc_refresh_disks(struct pc *);

/* True: the guest's system has been told. Any thread. */
bool pc_power_button(struct pc *);

/* What parts of the machine need of the host while the guest runs, added to *needs. */
void pc_needs(const struct pc *, struct sandbox_needs *needs);

#endif
