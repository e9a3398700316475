/*
 * The parts list of the machine. pc_new() reads from top to bottom: every
 * chip with its address, its interrupt and its neighbours.
 */
#include "machine/pc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chipset/lapic_page.h"
#include "machine/devices.h"
#include "pci/bridges.h"
#include "util/bytes.h"
#include "util/log.h"
#include "x86/cpuid.h"

static const struct {
    uint16_t port;
    uint8_t irq;
} com_ports[CONFIG_COM_PORTS] = {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}};

#define ISA_PIT 0
#define ISA_KEYBOARD 1
#define ISA_CASCADE 2
#define ISA_RTC 8
#define ISA_MOUSE 12
#define LPC_SLOT 31
#define IOAPIC_ID(ncpus) ((uint8_t)((ncpus) < 16 ? (ncpus) : 0)) /* four bits; a space of its own beside local APICs */
/* PCI: BARs from the end of the lower RAM, then configuration space of bus 0, then the IOAPIC. */
#define PCI_MMIO32_BASE 0xc0000000u
#define PCI_ECAM_BASE 0xfeb00000u
#define PCI_ECAM_BUSES 1
#define PCI_IO_BASE 0x4000 /* to the end; fixed devices are below */
/* AMD processors keep the last 12 GiB of the first TiB to themselves. */
#define HYPERTRANSPORT_BASE UINT64_C(0xfd00000000)

/* Inputs of a pin that has several sources. */
enum pc_source { FROM_ISA, FROM_PCI, FROM_TESTDEV, FROM_HPET };
/* Inputs of an ISA interrupt: whoever has its number, COM1 to COM4 from ISA_COM on. */
enum isa_source { ISA_CHIP, ISA_HPET, ISA_COM };

/* An ISA interrupt arrives at the 8259A pair and at the IOAPIC; the cascade has no wire, and the PIT's is on pin 2. */
static void isa_fan_out(void *chip, unsigned irq, bool level)
{
    struct pc *pc = chip;
    struct irq_line pic = irq_or_input(&pc->pic_pin[irq], FROM_ISA);
    struct irq_line ioapic = irq_or_input(&pc->ioapic_pin[irq == ISA_PIT ? 2 : irq], FROM_ISA);
    irq_set(&pic, level);
    irq_set(&ioapic, level);
}

static struct irq_line isa_irq(struct pc *pc, unsigned irq, unsigned source)
{
    return irq_or_input(&pc->isa[irq], source);
}

/* The test device raises global system interrupts: an IOAPIC pin, and the ISA interrupt of that number. */
static void testdev_gsi(void *chip, unsigned gsi, bool level)
{
    struct pc *pc = chip;
    struct irq_line line = irq_or_input(&pc->ioapic_pin[gsi], FROM_TESTDEV);
    irq_set(&line, level);
    if (gsi < PC_ISA_IRQS && gsi != ISA_CASCADE) {
        line = irq_or_input(&pc->pic_pin[gsi], FROM_TESTDEV);
        irq_set(&line, level);
    }
}

/* HPET legacy replacement takes IRQ 0 and 8 from their owners. */
static void hpet_legacy(void *arg, bool on)
{
    struct pc *pc = arg;
    if (pc->has_pit)
        pit_connect(&pc->pit, !on);
    else
        pc->vm->accel->connect_pit(pc->vm, !on);
    rtc_connect(&pc->rtc, !on);
}

static void request_reset(void *arg) { vm_request(((struct pc *)arg)->vm, VM_RESET); }

static void request_sleep(void *arg, unsigned type)
{
    if (type == ACPI_SLP_TYP_S5)
        vm_request(((struct pc *)arg)->vm, VM_POWEROFF);
}

static void request_exit(void *arg, int status) { vm_request_exit(((struct pc *)arg)->vm, status); }

static uint64_t vcpu_tsc_now(void *arg)
{
    struct vcpu *vcpu = arg;
    return vcpu->vm->accel->tsc_now(vcpu);
}

static uint64_t vcpu_tsc_to_ns(void *arg, uint64_t tsc)
{
    struct vcpu *vcpu = arg;
    return vcpu->vm->accel->tsc_to_ns(vcpu, tsc);
}

static int failed(char *why, size_t n, const char *what, int err)
{
    snprintf(why, n, "%s: %s", what, strerror(-err));
    return err;
}

/* -- processors and interrupt controllers -- */

/* A message to local APICs of the accelerator's own, in the form of an MSI. */
static int message_to_accel(void *arg, const struct apic_msg *msg)
{
    struct vm *vm = ((struct pc *)arg)->vm;
    uint64_t addr = LAPIC_DEFAULT_BASE | (uint64_t)(msg->dest & 0xff) << 12 | (uint64_t)(msg->dest >> 8) << 40 |
                    (uint64_t)msg->logical << 2;
    uint32_t data = msg->vector | (uint32_t)msg->mode << 8 | (msg->level ? 3u << 14 : 0);
    return msg->deassert ? 1 : vm->accel->msi(vm, addr, data, msg->pin - 1);
}

static void eoi_from_accel(void *arg, uint8_t vector) { lapic_bus_eoi(&((struct pc *)arg)->lapic_bus, vector); }

static void pic_to_accel(void *arg, unsigned pin, bool level)
{
    struct vm *vm = ((struct pc *)arg)->vm;
    if (vm->accel) /* the chip's first word comes before there is anybody to hear it */
        vm->accel->set_intr(vm, level);
}

static void set_accel_ioapic(void *arg, unsigned pin, bool level)
{
    struct vm *vm = ((struct pc *)arg)->vm;
    if (vm->accel)
        vm->accel->set_pin(vm, IRQCHIP_IOAPIC, pin, level);
}

static void set_accel_pic(void *arg, unsigned pin, bool level)
{
    struct vm *vm = ((struct pc *)arg)->vm;
    if (vm->accel)
        vm->accel->set_pin(vm, IRQCHIP_PIC, pin, level);
}

/* Inputs of whoever has the chip. */
static struct irq_line ioapic_input(struct pc *pc, unsigned pin)
{
    return pc->vm->irqchip == IRQCHIP_KERNEL ? (struct irq_line){set_accel_ioapic, pc, pin}
                                             : ioapic_line(&pc->ioapic, pin);
}

static struct irq_line pic_input(struct pc *pc, unsigned pin)
{
    return pc->vm->irqchip == IRQCHIP_KERNEL ? (struct irq_line){set_accel_pic, pc, pin} : pic_line(&pc->pic, pin);
}

static int add_ioapic_and_pic(struct pc *pc)
{
    struct vm *vm = pc->vm;
    bool redirected = vm->irqchip == IRQCHIP_SPLIT;
    struct irq_line intr = redirected ? (struct irq_line){pic_to_accel, pc, 0} : lapic_lint_line(&pc->lapic[0], 0);

    int err = ioapic_init(&pc->ioapic, vm->mmio, IOAPIC_DEFAULT_BASE, IOAPIC_ID(vm->nvcpus), &pc->lapic_bus, &pc->lock);
    if (!err)
        err = pic_init(&pc->pic, vm->pio, &pc->lock, intr);
    if (err)
        return err;
    lapic_bus_set_pic(&pc->lapic_bus, pic_ack, &pc->pic);
    if (redirected)
        vm->upcalls = (struct accel_upcalls){.pic_ack = pic_ack, .pic = &pc->pic, .eoi = eoi_from_accel, .eoi_arg = pc};
    return 0;
}

static int add_interrupt_controllers(struct pc *pc, unsigned phys_bits)
{
    struct vm *vm = pc->vm;
    int err = 0;

    lapic_bus_init(&pc->lapic_bus);
    for (unsigned i = 0; i < vm->nvcpus && !err; i++) {
        struct vcpu *vcpu = vm->vcpu[i];
        struct lapic_config config = {
            .x2apic = pc->config->x2apic,
            .virtual_wire = i == 0,
            .phys_bits = phys_bits,
            .tsc_now = vcpu_tsc_now,
            .tsc_to_ns = vcpu_tsc_to_ns,
            .tsc_arg = vcpu,
        };
        vcpu->apic_id = pc->apic_id[i] = cpuid_apic_id(&vm->cpuid->topology, i);
        err = lapic_init(&pc->lapic[i], vcpu, &pc->lapic_bus, &config);
        if (vm->irqchip != IRQCHIP_USER) /* then ours only holds the state that the accelerator's starts from */
            vcpu->intc = NULL;
    }
    if (!err && vm->irqchip != IRQCHIP_KERNEL)
        err = add_ioapic_and_pic(pc);
    if (err)
        return err;
    if (vm->irqchip != IRQCHIP_USER)
        lapic_bus_redirect(&pc->lapic_bus, message_to_accel, pc);

    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        irq_or_init(&pc->ioapic_pin[i], ioapic_input(pc, i));
    for (unsigned i = 0; i < PC_ISA_IRQS; i++) {
        irq_or_init(&pc->pic_pin[i], i == ISA_CASCADE ? (struct irq_line){0} : pic_input(pc, i));
        irq_or_init(&pc->isa[i], (struct irq_line){isa_fan_out, pc, i});
    }
    return 0;
}

/* -- timers and clocks -- */

static void rtc_alarm(void *arg) { acpi_pm_rtc_alarm(&((struct pc *)arg)->acpi_pm); }

static int add_clocks(struct pc *pc)
{
    struct vm *vm = pc->vm;
    struct rtc_options rtc = {
        .utc = pc->config->rtc_utc,
        .mem_low = vm->mem.low_len,
        .mem_high = vm->mem.high_len,
        .nvcpus = vm->nvcpus,
        .alarm = rtc_alarm,
        .alarm_arg = pc,
    };
    struct hpet_wires hpet = {
        .irq0 = isa_irq(pc, ISA_PIT, ISA_HPET),
        .irq8 = isa_irq(pc, ISA_RTC, ISA_HPET),
        .msi = lapic_bus_msi_sink(&pc->lapic_bus),
        .legacy = hpet_legacy,
        .legacy_arg = pc,
    };
    for (unsigned pin = 16; pin < IOAPIC_PINS; pin++)
        hpet.gsi[pin] = irq_or_input(&pc->ioapic_pin[pin], FROM_HPET);

    int err = 0;
    if (vm->irqchip != IRQCHIP_KERNEL) {
        err = pit_init(&pc->pit, vm->pio, vm->loop, &pc->lock, isa_irq(pc, ISA_PIT, ISA_CHIP));
        pc->has_pit = !err;
    }
    if (!err)
        err = rtc_init(&pc->rtc, vm->pio, vm->loop, &pc->lock, isa_irq(pc, ISA_RTC, ISA_CHIP), &rtc);
    if (!err)
        err = hpet_init(&pc->hpet, vm->mmio, HPET_BASE, vm->loop, &pc->lock, &hpet);
    pc->has_clocks = !err;
    return err;
}

/* -- power, reset, and what is left of the AT -- */

static int add_power(struct pc *pc)
{
    struct vm *vm = pc->vm;
    struct acpi_pm_config pm = {
        .tmr_val_ext = true,
        .sci = isa_irq(pc, ACPI_SCI_IRQ, ISA_CHIP),
        .sleep = request_sleep,
        .reset = request_reset,
        .arg = pc,
    };
    struct i8042_wires kbd = {
        .irq1 = isa_irq(pc, ISA_KEYBOARD, ISA_CHIP),
        .irq12 = isa_irq(pc, ISA_MOUSE, ISA_CHIP),
        .reset = request_reset,
        .arg = pc,
    };
    int err = acpi_pm_init(&pc->acpi_pm, vm->pio, vm->loop, &pc->lock, &pm);
    if (!err)
        err = i8042_init(&pc->i8042, vm->pio, &kbd, &pc->lock);
    if (!err)
        err = resetctl_init(&pc->resetctl, vm->pio, request_reset, pc, (struct irq_line){0}, &pc->lock);
    pc->has_power = !err;
    return err;
}

/* -- PCI -- */

static bool pci_named(const struct vm_config *c, const char *device)
{
    for (unsigned s = 0; s < CONFIG_PCI_SLOTS; s++)
        for (unsigned f = 0; f < CONFIG_PCI_FUNCS; f++)
            if (c->pci[s][f] && strcmp(c->pci[s][f], device) == 0)
                return true;
    return false;
}

/* Room for BARs: below 4 GiB, and from behind RAM to where the guest's physical addresses end. */
static struct pci_windows pci_windows(const struct pc *pc)
{
    uint64_t base = align_up(MEM_HIGH_START + pc->vm->mem.high_len, GiB(1));
    uint64_t end = UINT64_C(1) << cpuid_phys_bits(pc->vm->cpuid);
    if (base < HYPERTRANSPORT_BASE && end > HYPERTRANSPORT_BASE)
        end = HYPERTRANSPORT_BASE;
    return (struct pci_windows){
        .io_base = PCI_IO_BASE,
        .io_len = (uint16_t)(0x10000 - PCI_IO_BASE),
        .mem32_base = PCI_MMIO32_BASE,
        .mem32_len = PCI_ECAM_BASE - PCI_MMIO32_BASE,
        .mem64_base = base,
        .mem64_len = end > base ? end - base : 0,
    };
}

static int add_pci(struct pc *pc, char *why, size_t n)
{
    const struct vm_config *c = pc->config;
    struct pci_wires wires = {.msi = lapic_bus_msi_sink(&pc->lapic_bus)};
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = irq_or_input(&pc->ioapic_pin[pci_pirq_gsi(i)], FROM_PCI);
    for (unsigned i = 0; i < PC_ISA_IRQS; i++)
        wires.isa[i] = irq_or_input(&pc->pic_pin[i], FROM_PCI);

    int err = pci_bus_init(&pc->pci, pc->vm->pio, pc->vm->mmio, &wires, &resetctl_cf9_ops, &pc->resetctl);
    if (err)
        return failed(why, n, "PCI bus", err);
    pc->has_pci = true;
    err = pci_add_ecam(&pc->pci, PCI_ECAM_BASE, PCI_ECAM_BUSES);
    if (err)
        return failed(why, n, "PCI configuration space", err);
    if (!c->pci[0][0])
        err = hostbridge_new(&pc->pci, 0, 0);
    if (!err && !pci_named(c, "lpc") && !c->pci[LPC_SLOT][0])
        err = lpc_new(&pc->pci, LPC_SLOT, 0);
    if (err)
        return failed(why, n, "PCI bridges", err);
    for (unsigned s = 0; s < CONFIG_PCI_SLOTS; s++)
        for (unsigned f = 0; f < CONFIG_PCI_FUNCS; f++) {
            if (!c->pci[s][f])
                continue;
            char reason[256];
            err = device_new(pc, s, f, c->pci[s][f], reason, sizeof(reason));
            if (err) {
                snprintf(why, n, "-s %u:%u,%s: %s", s, f, c->pci[s][f], reason);
                return err;
            }
        }
    int orphan = pci_orphan_slot(&pc->pci);
    if (orphan >= 0) {
        snprintf(why, n, "-s %d: a guest finds nothing in this slot without a device in function 0", orphan);
        return -EINVAL;
    }
    const struct pci_windows windows = pci_windows(pc);
    return pci_assign_bars(&pc->pci, &windows, why, n);
}

/* -- serial ports, and what a guest and its tests talk to the monitor through -- */

static int add_serial(struct pc *pc, char *why, size_t n)
{
    const struct vm_config *c = pc->config;
    struct vm *vm = pc->vm;
    char reason[256];

    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++) {
        if (!c->com[i])
            continue;
        int err = serial_open(&pc->serial[i], c->com[i], vm->loop, reason, sizeof(reason));
        if (err) {
            snprintf(why, n, "-l com%u,%s: %s", i + 1, c->com[i], reason);
            return err;
        }
        err = uart_init(&pc->uart[i], vm->pio, com_ports[i].port, isa_irq(pc, com_ports[i].irq, ISA_COM + i),
                        pc->serial[i], vm->loop, &pc->lock);
        if (err)
            return failed(why, n, "serial port", err);
        pc->has_uart[i] = true;
    }
    if (c->debugcon) {
        int err = serial_open(&pc->debugcon, c->debugcon, vm->loop, reason, sizeof(reason));
        if (err) {
            snprintf(why, n, "-l debugcon,%s: %s", c->debugcon, reason);
            return err;
        }
    }
    int err = debugport_init(&pc->debugport, vm->pio, pc->debugcon);
    if (err)
        return failed(why, n, "debug port", err);
    pc->has_debugport = true;
    return 0;
}

static int add_test_and_firmware_ports(struct pc *pc, char *why, size_t n)
{
    const struct vm_config *c = pc->config;
    struct vm *vm = pc->vm;
    char reason[256];

    int err = fwcfg_init(&pc->fwcfg, vm->pio, &vm->mem, vm->nvcpus, &pc->lock);
    if (err)
        return failed(why, n, "fw_cfg", err);
    pc->has_fwcfg = true;
    for (unsigned i = 0; i < c->nfwcfg; i++) {
        err = fwcfg_add_spec(&pc->fwcfg, c->fwcfg[i], reason, sizeof(reason));
        if (err) {
            snprintf(why, n, "-l fwcfg,%s: %s", c->fwcfg[i], reason);
            return err;
        }
    }
    if (!c->testdev)
        return 0;
    struct testdev_wires wires = {.exit = request_exit, .arg = pc};
    for (unsigned i = 0; i < TESTDEV_GSIS; i++)
        wires.gsi[i] = (struct irq_line){testdev_gsi, pc, i};
    err = testdev_init(&pc->testdev, vm->pio, vm->mmio, &vm->mem, &wires, &pc->lock);
    if (err)
        return failed(why, n, "pc-testdev", err);
    pc->has_testdev = true;
    return 0;
}

/* -- the same machine, in the words of ACPI and the MP table -- */

static void describe(struct pc *pc)
{
    static const struct platform_ports reserved[] = {
        {0x20, 2}, {0xa0, 2}, {0x4d0, 2}, {0x80, 1}, {0x92, 1}, {0xb2, 2}, {ACPI_PM1A_EVT_PORT, 0x20}, {0xcf9, 1},
    };
    const struct pci_windows windows = pci_windows(pc);
    struct platform *p = &pc->platform;
    *p = (struct platform){
        .ncpus = pc->vm->nvcpus,
        .apic_id = pc->apic_id,
        .lapic_base = (uint32_t)LAPIC_DEFAULT_BASE,
        .has_ioapic = true,
        .ioapic_id = IOAPIC_ID(pc->vm->nvcpus),
        .ioapic_base = (uint32_t)IOAPIC_DEFAULT_BASE,
        .ioapic_pins = IOAPIC_PINS,
        .sci_irq = ACPI_SCI_IRQ,
        .pm1_evt = ACPI_PM1A_EVT_PORT,
        .pm1_cnt = ACPI_PM1A_CNT_PORT,
        .pm_tmr = ACPI_PM_TMR_PORT,
        .pm_tmr_32 = true,
        .gpe0 = ACPI_GPE0_PORT,
        .gpe0_len = ACPI_GPE0_LEN,
        .smi_cmd = ACPI_SMI_CMD_PORT,
        .acpi_enable = ACPI_ENABLE_VALUE,
        .acpi_disable = ACPI_DISABLE_VALUE,
        .s5_type = ACPI_SLP_TYP_S5,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .rtc_century = 0x32,
        .hpet_base = HPET_BASE,
        .hpet_id = HPET_BLOCK_ID,
        .ecam_base = PCI_ECAM_BASE,
        .ecam_buses = PCI_ECAM_BUSES,
        .mmio32_base = windows.mem32_base,
        .mmio32_len = windows.mem32_len,
        .mmio64_base = windows.mem64_base,
        .mmio64_len = windows.mem64_len,
        .intx = pc->intx,
        .pirq_irqs = PCI_PIRQ_IRQS,
        .has_rtc = true,
        .has_i8042 = true,
        .fwcfg_port = 0x510,
        .reserved = reserved,
        .nreserved = ARRAY_LEN(reserved),
    };
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        if (pc->has_uart[i]) {
            p->com[i].port = com_ports[i].port;
            p->com[i].irq = com_ports[i].irq;
        }
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned func = 0; func < PCI_FUNCS; func++) {
            struct pci_dev *dev = pci_at(&pc->pci, slot, func);
            if (dev && dev->ops->route_pirqs) {
                p->has_lpc = true;
                p->lpc_dev = (uint8_t)slot;
                p->lpc_func = (uint8_t)func;
            }
        }
        for (unsigned pin = 1; pin <= 4; pin++) {
            unsigned pirq = pci_pirq(slot, pin);
            pc->intx[p->nintx++] = (struct platform_intx){
                .dev = (uint8_t)slot, .pin = (uint8_t)(pin - 1), .link = (uint8_t)pirq, .gsi = pci_pirq_gsi(pirq)};
        }
    }
    for (unsigned i = 0; i < PCI_PIRQS && p->has_lpc; i++)
        p->pirq_reg[i] = (uint8_t)pci_pirq_reg(i);
}

/* What firmware would do: PCI interrupts routed, and those ISA interrupts made level-triggered. */
static void assign_irqs(struct pc *pc)
{
    uint16_t level = pci_assign_irqs(&pc->pci);
    if (pc->vm->irqchip == IRQCHIP_KERNEL) {
        pc->elcr = level; /* for reset_accel_chips() */
        return;
    }
    bus_write(pc->vm->pio, 0x4d0, 1, level & 0xff);
    bus_write(pc->vm->pio, 0x4d1, 1, level >> 8);
}

static int reset_accel_chips(struct pc *pc)
{
    struct vm *vm = pc->vm;
    return vm->irqchip == IRQCHIP_KERNEL ? vm->accel->reset_irqchip(vm, pc->elcr, IOAPIC_ID(vm->nvcpus)) : 0;
}

int pc_started(struct pc *pc)
{
    struct vm *vm = pc->vm;
    int err = reset_accel_chips(pc);
    if (!err && vm->accel->coalesce) { /* index registers, each with a data register behind it; the POST code */
        err = vm->accel->coalesce(vm, true, 0x70, 1);
        if (!err)
            err = vm->accel->coalesce(vm, true, 0x80, 1);
        if (!err && vm->irqchip != IRQCHIP_KERNEL)
            err = vm->accel->coalesce(vm, false, IOAPIC_DEFAULT_BASE, 4);
    }
    return err ? err : devices_started(pc);
}

int pc_set_lapic(struct pc *pc, struct vcpu *vcpu)
{
    const struct lapic *lapic = &pc->lapic[vcpu->id];
    uint8_t page[ACCEL_LAPIC_PAGE];
    if (pc->vm->irqchip == IRQCHIP_USER)
        return 0;
    lapic_to_page(lapic, page);
    return pc->vm->accel->set_lapic(vcpu, lapic->s.apic_base, page);
}

int pc_new(struct pc **out, struct vm *vm, const struct vm_config *config, char *why, size_t n)
{
    pthread_mutexattr_t recursive;
    struct pc *pc = calloc(1, sizeof(*pc));
    *out = NULL;
    if (!pc)
        return failed(why, n, "machine", -ENOMEM);
    pc->vm = vm;
    pc->config = config;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&pc->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);

    int err = add_interrupt_controllers(pc, cpuid_phys_bits(vm->cpuid));
    if (err)
        failed(why, n, "interrupt controllers", err);
    if (!err && (err = add_clocks(pc)))
        failed(why, n, "timers", err);
    if (!err && (err = add_power(pc)))
        failed(why, n, "power management", err);
    if (!err)
        err = add_pci(pc, why, n);
    if (!err)
        err = add_serial(pc, why, n);
    if (!err)
        err = add_test_and_firmware_ports(pc, why, n);
    if (err) {
        pc_free(pc);
        return err;
    }
    describe(pc);
    assign_irqs(pc);
    *out = pc;
    return 0;
}

int pc_stop(struct pc *pc) { return pc ? devices_stop(pc) : 0; }

void pc_abandon(struct pc *pc)
{
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        serial_close(pc->serial[i]);
    serial_close(pc->debugcon);
}

void pc_free(struct pc *pc)
{
    if (!pc)
        return;
    (void)devices_stop(pc);
    if (pc->has_testdev)
        testdev_fini(&pc->testdev);
    if (pc->has_fwcfg)
        fwcfg_fini(&pc->fwcfg);
    if (pc->has_debugport)
        debugport_fini(&pc->debugport);
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++) {
        if (pc->has_uart[i])
            uart_fini(&pc->uart[i]);
        serial_close(pc->serial[i]);
    }
    serial_close(pc->debugcon);
    if (pc->has_pci)
        pci_bus_fini(&pc->pci);
    if (pc->has_power) {
        resetctl_fini(&pc->resetctl);
        i8042_fini(&pc->i8042);
        acpi_pm_fini(&pc->acpi_pm);
    }
    if (pc->has_clocks) {
        hpet_fini(&pc->hpet);
        rtc_fini(&pc->rtc);
    }
    if (pc->has_pit)
        pit_fini(&pc->pit);
    pthread_mutex_destroy(&pc->lock);
    free(pc);
}

int pc_reset(struct pc *pc, const bool *quit)
{
    for (unsigned i = 0; i < pc->vm->nvcpus; i++)
        lapic_reset(&pc->lapic[i]);
    if (pc->vm->irqchip != IRQCHIP_KERNEL) {
        pic_reset(&pc->pic);
        ioapic_reset(&pc->ioapic);
        pit_reset(&pc->pit);
    }
    rtc_reset(&pc->rtc);
    hpet_reset(&pc->hpet);
    acpi_pm_reset(&pc->acpi_pm);
    i8042_reset(&pc->i8042);
    resetctl_reset(&pc->resetctl);
    pci_bus_reset(&pc->pci);
    int err = devices_settle(pc, quit);
    if (err)
        return err;
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        if (pc->has_uart[i])
            uart_reset(&pc->uart[i]);
    debugport_reset(&pc->debugport);
    fwcfg_reset(&pc->fwcfg);
    if (pc->has_testdev)
        testdev_reset(&pc->testdev);
    assign_irqs(pc);
    char why[256];
    const struct pci_windows windows = pci_windows(pc);
    if (pci_assign_bars(&pc->pci, &windows, why, sizeof(why))) /* it could when the machine was built */
        log_error("%s", why);
    err = reset_accel_chips(pc);
    if (err)
        log_error("the accelerator's interrupt controllers cannot be reset: %s", strerror(-err));
    return 0;
}

void pc_refresh_disks(struct pc *pc) { devices_refresh_disks(pc); }

bool pc_power_button(struct pc *pc) { return acpi_pm_power_button(&pc->acpi_pm); }

void pc_needs(const struct pc *pc, struct sandbox_needs *needs)
{
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        needs->network |= pc->serial[i] && serial_needs_network(pc->serial[i]);
    needs->network |= pc->debugcon && serial_needs_network(pc->debugcon);
    devices_need(pc, needs);
}
