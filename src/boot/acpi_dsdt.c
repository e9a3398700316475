/*
 * The DSDT: what a guest cannot find out by probing. ACPI 6.4 chapters 5
 * (namespace), 6 (_CRS, _PRT, _SRS), 7 (_S5), 8 (processors); PCI Firmware 3.2
 * for the root bridge.
 */
#include <stdio.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "boot/layout.h"
#include "util/bytes.h"

#define IRQ_PIT 0
#define IRQ_KEYBOARD 1
#define IRQ_CASCADE 2
#define IRQ_RTC 8
#define IRQ_MOUSE 12

#define PIRQ_OFF 0x80

static const char link_letter[PLATFORM_LINKS + 1] = "ABCDEFGH";

/* A device that _HID and _UID name; its _CRS template is left open. */
static void begin_device(struct aml *a, const char *name, const char *hid, unsigned uid)
{
    aml_device(a, name);
    aml_name_eisaid(a, "_HID", hid);
    aml_name_int(a, "_UID", uid);
    aml_name_op(a, "_CRS");
    aml_template(a);
}

static void end_device(struct aml *a)
{
    aml_template_end(a);
    aml_end(a);
}

/* Which interrupt controllers the guest uses: _PIC(0) the 8259A pair, _PIC(1) the IOAPIC. */
static void interrupt_model(struct aml *a)
{
    aml_name_int(a, "\\PICM", 0);
    aml_method(a, "\\_PIC", 1, false);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG0);
    aml_name(a, "\\PICM");
    aml_end(a);
}

static void sleep_states(struct aml *a, const struct platform *p)
{
    aml_name_op(a, "\\_S5");
    aml_package(a, 4);
    aml_int(a, p->s5_type);
    aml_int(a, p->s5_type);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

static void processors(struct aml *a, const struct platform *p)
{
    for (unsigned i = 0; i < p->ncpus; i++) {
        char name[16];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a);
    }
}

/* ---- interrupt links: LNKx routes PIRQx to one of the 8259A's inputs ---- */

static void pirq_name(char *out, size_t n, unsigned link)
{
    snprintf(out, n, "\\_SB.PCI0.LPC.PIR%c", link_letter[link]);
}

/* Method(LCRS, 1): the resource template that a PIRQ register's value stands for. */
static void link_crs_helper(struct aml *a)
{
    aml_method(a, "LCRS", 1, true);
    aml_name_op(a, "BUF0");
    aml_template(a);
    aml_res_irq_flags(a, 0, true, true, true);
    aml_template_end(a);
    aml_op(a, AML_CREATE_WORD_FIELD); /* the mask of IRQs is the descriptor's bytes 1 and 2 */
    aml_name(a, "BUF0");
    aml_int(a, 1);
    aml_name(a, "IRQM");
    aml_if(a);
    aml_op(a, AML_AND);
    aml_op(a, AML_ARG0);
    aml_int(a, PIRQ_OFF);
    aml_op(a, AML_ZERO);
    aml_op(a, AML_STORE);
    aml_int(a, 0);
    aml_name(a, "IRQM");
    aml_end(a);
    aml_else(a);
    aml_op(a, AML_AND);
    aml_op(a, AML_ARG0);
    aml_int(a, 0x0f);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_SHIFT_LEFT);
    aml_int(a, 1);
    aml_op(a, AML_LOCAL0);
    aml_name(a, "IRQM");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_name(a, "BUF0");
    aml_end(a);
}

static void link_srs(struct aml *a, const char *pirq)
{
    aml_method(a, "_SRS", 1, true);
    aml_op(a, AML_CREATE_WORD_FIELD);
    aml_op(a, AML_ARG0);
    aml_int(a, 1);
    aml_name(a, "IRQM");
    aml_op(a, AML_FIND_SET_RIGHT_BIT);
    aml_name(a, "IRQM");
    aml_op(a, AML_LOCAL0);
    aml_if(a);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_DECREMENT);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_STORE);
    aml_op(a, AML_LOCAL0);
    aml_name(a, pirq);
    aml_end(a);
    aml_else(a);
    aml_op(a, AML_STORE);
    aml_int(a, PIRQ_OFF);
    aml_name(a, pirq);
    aml_end(a);
    aml_end(a);
}

static void link_device(struct aml *a, const struct platform *p, unsigned link)
{
    char name[8], pirq[32];
    snprintf(name, sizeof(name), "LNK%c", link_letter[link]);
    pirq_name(pirq, sizeof(pirq), link);

    aml_device(a, name);
    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", link + 1);

    aml_method(a, "_STA", 0, false); /* present; bit 1: in use */
    aml_if(a);
    aml_op(a, AML_AND);
    aml_name(a, pirq);
    aml_int(a, PIRQ_OFF);
    aml_op(a, AML_ZERO);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x09);
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_end(a);

    aml_name_op(a, "_PRS");
    aml_template(a);
    aml_res_irq_flags(a, p->pirq_irqs, true, true, true);
    aml_template_end(a);

    aml_method(a, "_CRS", 0, true);
    aml_op(a, AML_RETURN);
    aml_name(a, "LCRS");
    aml_name(a, pirq);
    aml_end(a);

    link_srs(a, pirq);

    aml_method(a, "_DIS", 0, false);
    aml_op(a, AML_STORE);
    aml_int(a, PIRQ_OFF);
    aml_name(a, pirq);
    aml_end(a);
    aml_end(a);
}

/* The PIRQ registers as fields of the LPC bridge's configuration space. */
static void pirq_registers(struct aml *a, const struct platform *p)
{
    for (unsigned i = 0; i < PLATFORM_LINKS; i++) {
        if (!p->pirq_reg[i])
            continue;
        char region[8], field[8];
        snprintf(region, sizeof(region), "PRR%c", link_letter[i]);
        snprintf(field, sizeof(field), "PIR%c", link_letter[i]);
        aml_region(a, region, AML_PCI_CONFIG, p->pirq_reg[i], 1);
        aml_fields(a, region);
        aml_field(a, field, 8);
        aml_end(a);
    }
}

/* ---- PCI ---- */

static bool has_link(const struct platform *p, unsigned link)
{
    return p->has_lpc && link < PLATFORM_LINKS && p->pirq_reg[link];
}

static void prt_package(struct aml *a, const struct platform *p, bool apic)
{
    unsigned rows = 0;
    for (unsigned i = 0; i < p->nintx; i++)
        rows += apic || has_link(p, p->intx[i].link);
    aml_package(a, rows);
    for (unsigned i = 0; i < p->nintx; i++) {
        const struct platform_intx *row = &p->intx[i];
        if (!apic && !has_link(p, row->link))
            continue;
        aml_package(a, 4);
        aml_int(a, (uint64_t)row->dev << 16 | 0xffff);
        aml_int(a, row->pin);
        if (apic) {
            aml_int(a, 0);
            aml_int(a, row->gsi);
        } else {
            char name[16];
            snprintf(name, sizeof(name), "\\_SB.LNK%c", link_letter[row->link]);
            aml_name(a, name);
            aml_int(a, 0);
        }
        aml_end(a);
    }
    aml_end(a);
}

static void prt(struct aml *a, const struct platform *p)
{
    aml_name_op(a, "PRTP");
    prt_package(a, p, false);
    aml_name_op(a, "PRTA");
    prt_package(a, p, true);
    aml_method(a, "_PRT", 0, false);
    aml_if(a);
    aml_name(a, "\\PICM");
    aml_op(a, AML_RETURN);
    aml_name(a, "PRTA");
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_name(a, "PRTP");
    aml_end(a);
}

static void root_bridge_crs(struct aml *a, const struct platform *p)
{
    aml_name_op(a, "_CRS");
    aml_template(a);
    aml_res_bus_window(a, 0, p->ecam_base && p->ecam_buses ? (uint16_t)(p->ecam_buses - 1) : 0xff);
    aml_res_io(a, 0xcf8, 8); /* its own: CONFIG_ADDRESS, CONFIG_DATA */
    aml_res_io_window(a, 0, 0xcf7);
    aml_res_io_window(a, 0xd00, 0xffff);
    if (p->has_vga)
        aml_res_memory_window(a, 0xa0000, 0xbffff);
    if (p->mmio32_len)
        aml_res_memory_window(a, p->mmio32_base, (uint64_t)p->mmio32_base + p->mmio32_len - 1);
    if (p->mmio64_len)
        aml_res_memory_window(a, p->mmio64_base, p->mmio64_base + p->mmio64_len - 1);
    aml_template_end(a);
}

/*
 * Method(_OSC, 4): which features of PCI Express are the guest's to control
 * (PCI Firmware 3.2, section 4.5.1). Nobody else is there: it gets all that it
 * asks for.
 */
static void osc(struct aml *a)
{
    static const uint8_t uuid[] = {
        0x11, 0x13, 0x0a, 0x10, /* Buffer(16): 33DB4D5B-1FF7-401C-9657-7441C03DD766 */
        0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66,
    };
    aml_method(a, "_OSC", 4, true);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG0 + 3);
    aml_int(a, 0);
    aml_name(a, "CDW1");
    aml_if(a);
    aml_op(a, AML_LEQUAL);
    aml_op(a, AML_ARG0);
    aml_bytes(a, uuid, sizeof(uuid));
    aml_op(a, AML_RETURN);
    aml_op(a, AML_ARG0 + 3);
    aml_end(a);
    aml_op(a, AML_OR); /* "unrecognised UUID" */
    aml_name(a, "CDW1");
    aml_int(a, 4);
    aml_name(a, "CDW1");
    aml_op(a, AML_RETURN);
    aml_op(a, AML_ARG0 + 3);
    aml_end(a);
}

/* ---- the ISA devices ---- */

static void com_ports(struct aml *a, const struct platform *p)
{
    for (unsigned i = 0; i < ARRAY_LEN(p->com); i++) {
        if (!p->com[i].port)
            continue;
        char name[8];
        snprintf(name, sizeof(name), "COM%u", i + 1);
        begin_device(a, name, "PNP0501", i + 1);
        aml_res_io(a, p->com[i].port, 8);
        aml_res_irq(a, (uint16_t)(1u << p->com[i].irq));
        end_device(a);
    }
}

static void isa_devices(struct aml *a, const struct platform *p)
{
    begin_device(a, "PIC", "PNP0000", 0);
    aml_res_io(a, 0x20, 2);
    aml_res_io(a, 0xa0, 2);
    aml_res_io(a, 0x4d0, 2); /* ELCR */
    aml_res_irq(a, 1 << IRQ_CASCADE);
    end_device(a);

    begin_device(a, "TIMR", "PNP0100", 0);
    aml_res_io(a, 0x40, 4);
    aml_res_irq(a, 1 << IRQ_PIT);
    end_device(a);

    if (p->has_rtc) {
        begin_device(a, "RTC", "PNP0B00", 0);
        aml_res_io(a, 0x70, 2);
        aml_res_irq(a, 1 << IRQ_RTC);
        end_device(a);
    }
    if (p->has_i8042) {
        begin_device(a, "KBD", "PNP0303", 0);
        aml_res_io(a, 0x60, 1);
        aml_res_io(a, 0x64, 1);
        aml_res_irq(a, 1 << IRQ_KEYBOARD);
        end_device(a);
    }
    if (p->has_i8042 && p->has_ps2_mouse) {
        begin_device(a, "MOU", "PNP0F13", 0);
        aml_res_irq(a, 1 << IRQ_MOUSE);
        end_device(a);
    }
    com_ports(a, p);
}

static void pci_root(struct aml *a, const struct platform *p)
{
    aml_device(a, "PCI0");
    if (p->ecam_base) {
        aml_name_eisaid(a, "_HID", "PNP0A08"); /* PCI Express: extended configuration space */
        aml_name_eisaid(a, "_CID", "PNP0A03");
    } else {
        aml_name_eisaid(a, "_HID", "PNP0A03");
    }
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_BBN", 0);
    root_bridge_crs(a, p);
    if (p->ecam_base)
        osc(a);
    prt(a, p);
    if (p->has_lpc) {
        aml_device(a, "LPC");
        aml_name_int(a, "_ADR", (uint64_t)p->lpc_dev << 16 | p->lpc_func);
        pirq_registers(a, p);
        isa_devices(a, p);
        aml_end(a);
    }
    aml_end(a);
}

/* What no driver may be given: the board's own registers. */
static void board(struct aml *a, const struct platform *p)
{
    begin_device(a, "MBRD", "PNP0C02", 0);
    aml_res_io(a, p->pm1_evt, 4);
    aml_res_io(a, p->pm1_cnt, 2);
    aml_res_io(a, p->pm_tmr, 4);
    if (p->gpe0)
        aml_res_io(a, p->gpe0, p->gpe0_len);
    if (p->smi_cmd)
        aml_res_io(a, p->smi_cmd, 1);
    for (unsigned i = 0; i < p->nreserved; i++)
        aml_res_io(a, p->reserved[i].base, p->reserved[i].len);
    aml_res_memory32(a, p->lapic_base, 0x1000);
    if (p->has_ioapic)
        aml_res_memory32(a, p->ioapic_base, 0x1000);
    if (p->ecam_base)
        aml_res_memory64(a, p->ecam_base, (uint64_t)p->ecam_buses << 20);
    end_device(a);

    if (p->hpet_base) {
        begin_device(a, "HPET", "PNP0103", 0);
        aml_res_memory32(a, (uint32_t)p->hpet_base, 0x400);
        end_device(a);
    }
    if (p->fwcfg_port) {
        aml_device(a, "FWCF");
        aml_name_string(a, "_HID", "QEMU0002");
        aml_name_int(a, "_STA", 0x0b); /* not shown to users */
        aml_name_op(a, "_CRS");
        aml_template(a);
        aml_res_io(a, p->fwcfg_port, 12);
        end_device(a);
    }
}

void acpi_dsdt(struct aml *a, const struct platform *p)
{
    interrupt_model(a);
    sleep_states(a, p);
    aml_scope(a, "\\_SB");
    processors(a, p);
    pci_root(a, p);
    if (!p->has_lpc)
        isa_devices(a, p);
    if (p->has_lpc) {
        link_crs_helper(a);
        for (unsigned i = 0; i < PLATFORM_LINKS; i++) {
            if (has_link(p, i))
                link_device(a, p, i);
        }
    }
    board(a, p);
    aml_end(a);
}
