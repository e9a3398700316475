/*
 * PCI (Local Bus Specification 3.0): bus 0 behind configuration mechanism 1 at
 * ports 0xCF8-0xCFF, type 0 headers, and the routing of INTA#-INTD#.
 *
 * A device lays out its configuration space with pci_set*(), which are the
 * values after a reset, says which bits a guest may write or clear (a mask of
 * each byte), and gets hooks for what has effects. BARs of devices come with
 * the devices: `bar` and pci_ops.bar_* are their place.
 *
 * Locks: the bus's `lock` covers configuration space and is the outermost of
 * all; pci_ops run with it held and may take the device's. The routing of
 * interrupts has one of its own, inside any device's and outside of the chipset's.
 */
#ifndef XHYVE_PCI_PCI_H
#define XHYVE_PCI_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"

#define PCI_CFG_SIZE 256
#define PCI_SLOTS 32
#define PCI_FUNCS 8
#define PCI_BARS 6
#define PCI_PIRQS 8 /* PIRQA# to PIRQH# */

enum { /* offsets in a type 0 header */
       PCI_VENDOR = 0x00,
       PCI_DEVICE = 0x02,
       PCI_COMMAND = 0x04,
       PCI_STATUS = 0x06,
       PCI_REVISION = 0x08,
       PCI_CLASS = 0x09, /* programming interface, sub-class, base class: 3 bytes */
       PCI_HEADER_TYPE = 0x0e,
       PCI_BAR0 = 0x10,
       PCI_SUBSYS_VENDOR = 0x2c,
       PCI_SUBSYS_ID = 0x2e,
       PCI_CAPABILITIES = 0x34,
       PCI_INTERRUPT_LINE = 0x3c,
       PCI_INTERRUPT_PIN = 0x3d, /* 0: none, 1: INTA# ... */
};
enum {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_INTX_OFF = 1 << 10
};
enum { PCI_STATUS_INTX = 1 << 3, PCI_STATUS_CAPABILITIES = 1 << 4 };

struct pci_bus;
struct pci_dev;

struct pci_ops {
    const char *name;
    bool route_pirqs; /* this is the bridge with the PIRQ routing registers */
    /* Before a read of `size` bytes at off, aligned to it: to bring cfg up to date. Optional. */
    void (*cfg_read)(struct pci_dev *, unsigned off, unsigned size);
    /* After a write, cfg changed as the masks allow; old[4] is the aligned dword as it was. Optional. */
    void (*cfg_write)(struct pci_dev *, unsigned off, unsigned size, const uint8_t old[4]);
    void (*reset)(struct pci_dev *); /* cfg has its reset values again. Optional. */
    void (*free)(struct pci_dev *);  /* removed from the bus; frees the struct around it. Optional. */
};

struct pci_bar {
    uint64_t size; /* 0: none; a power of two */
    uint8_t kind;  /* with the devices */
    const struct io_ops *ops;
    void *dev;
};

struct pci_state {
    uint8_t cfg[PCI_CFG_SIZE];
    uint8_t intx; /* the device asserts its pin */
};

struct pci_dev { /* embedded in the device's own struct */
    const struct pci_ops *ops;
    struct pci_bus *bus;
    uint8_t slot, func;
    struct pci_state s;
    uint8_t init[PCI_CFG_SIZE], wmask[PCI_CFG_SIZE], w1cmask[PCI_CFG_SIZE];
    struct pci_bar bar[PCI_BARS];
    uint8_t intx_out; /* what arrives at the router: asserted and not disabled; under route_lock */
};

struct pci_bus_state {
    uint32_t config_address; /* 0xCF8 */
};

struct pci_bus {
    struct pci_bus_state s;
    struct bus *pio, *mmio;
    pthread_mutex_t lock; /* recursive */
    struct pci_dev *dev[PCI_SLOTS * PCI_FUNCS];
    const struct io_ops *cf9_ops; /* who else lives in 0xCF8-0xCFB: see pci_bus_init() */
    void *cf9_dev;

    /* Routing: INTx pins -> PIRQ -> one IOAPIC pin each, and the ISA interrupt that the LPC bridge chose. */
    pthread_mutex_t route_lock;
    struct irq_line pirq_gsi[PCI_PIRQS];
    struct irq_line isa[16];
    uint8_t pirq_irq[PCI_PIRQS];    /* ISA interrupt, 0: none */
    unsigned pirq_count[PCI_PIRQS]; /* functions that assert it */
    uint16_t isa_level;             /* ISA interrupts now high */
};

struct pci_wires {
    struct irq_line gsi[PCI_PIRQS]; /* PIRQA..H: IOAPIC pins 16 to 23 (level, high here means asserted) */
    struct irq_line isa[16]; /* to the 8259A pair only, level-triggered there; OR with ISA devices is the caller's */
};

/*
 * Makes the bus and claims ports 0xCF8-0xCFF. Byte accesses to 0xCF9 belong to
 * the reset control register in the same place: they go to cf9_ops (off 0,
 * size 1), if not NULL. 0 or -errno.
 */
int pci_bus_init(struct pci_bus *, struct bus *pio, struct bus *mmio, const struct pci_wires *,
                 const struct io_ops *cf9_ops, void *cf9_dev);
/* Frees all devices. vCPUs stopped. */
void pci_bus_fini(struct pci_bus *);
/* Machine reset; the firmware's work is to be done again (pci_assign_irqs). vCPUs stopped. */
void pci_bus_reset(struct pci_bus *);
int pci_bus_save(struct pci_bus *, struct state_blob *);
int pci_bus_load(struct pci_bus *, const uint8_t *data, size_t len, size_t *pos);

/*
 * Puts a device, its configuration space laid out, into a place. -EEXIST if
 * that is taken, -EINVAL if it does not exist. Before the guest runs.
 */
int pci_add(struct pci_bus *, struct pci_dev *, unsigned slot, unsigned func);
struct pci_dev *pci_at(struct pci_bus *, unsigned slot, unsigned func); /* NULL: nobody */
/* A slot whose function 0 is missing, and that a guest would therefore never find; -1: none. */
int pci_orphan_slot(struct pci_bus *);

/* Starts a device: ids, class (0xBBSSPP), INTx pin (0: none, 1: INTA#); writable command bits, the usual read-only rest. */
void pci_dev_init(struct pci_dev *, const struct pci_ops *, uint16_t vendor, uint16_t device, uint32_t class_code,
                  unsigned pin);
void pci_set8(struct pci_dev *, unsigned off, uint8_t v);
void pci_set16(struct pci_dev *, unsigned off, uint16_t v);
void pci_set32(struct pci_dev *, unsigned off, uint32_t v);

/* Configuration accesses, 1, 2 or 4 bytes at any offset of a function. Any thread. */
uint32_t pci_cfg_read(struct pci_bus *, unsigned slot, unsigned func, unsigned off, unsigned size);
void pci_cfg_write(struct pci_bus *, unsigned slot, unsigned func, unsigned off, unsigned size, uint32_t val);

/* ---- interrupts: route.c ---- */

/* The wire of a function's INTx pin (it leads nowhere if it has none), level. Any thread, also under a device's lock. */
struct irq_line pci_intx_line(struct pci_dev *);

/* For _PRT, $PIR and the MP table: which PIRQ (0: A) a pin (1: INTA#) of a slot is wired to, and its GSI. */
unsigned pci_pirq(unsigned slot, unsigned pin);
unsigned pci_pirq_gsi(unsigned pirq); /* 16 to 23 */
/* Where the LPC bridge keeps a PIRQ's routing register, and the ISA interrupts that it may hold (bit n: IRQ n). */
unsigned pci_pirq_reg(unsigned pirq);
#define PCI_PIRQ_IRQS 0xdef8u

/* The LPC bridge's side: PIRQ -> ISA interrupt, 0 for none. */
void pci_route_pirq(struct pci_bus *, unsigned pirq, unsigned irq);

/*
 * What a PC's firmware does at boot: routes every PIRQ to an ISA interrupt and
 * writes each function's interrupt line register. Returns the ISA interrupts
 * in use, bit n for IRQ n, to be made level-triggered in the ELCR. Without an
 * LPC bridge 0. vCPUs stopped.
 */
uint16_t pci_assign_irqs(struct pci_bus *);

/* For pci.c: s.intx or the interrupt disable bit may have changed. */
void pci_intx_sync(struct pci_dev *);

#endif
