/*
 * PCI (Local Bus Specification 3.0, Express Base 4.0 where it adds): bus 0
 * behind configuration mechanism 1 at ports 0xCF8-0xCFF and behind ECAM, type 0
 * headers, BARs, capabilities, message-signalled interrupts, and the routing of
 * INTA#-INTD#.
 *
 * A device lays out its configuration space with pci_set*(), pci_bar_*() and
 * the capabilities' functions, all of it before the guest runs; these are the
 * values after a reset. It says which bits a guest may write or clear (a mask
 * of each byte), and gets hooks for what has effects. Its BARs appear on the
 * buses and leave them as the guest moves, resizes, enables and disables them.
 *
 * Locks, in their order: the bus's `lock` covers configuration space and where
 * BARs are, and pci_ops run with it held; then a device's own, which the
 * accesses to its BARs take; then the device's msi_lock and the router's lock,
 * which are taken inside pci_notify() and pci_intx(); then the chipset's. So a
 * device may notify under its lock, and must not touch configuration space
 * (pci_cfg_*) with it held.
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
#include "util/log.h"

#define PCI_CFG_SIZE 256      /* what mechanism 1 reaches, and all that a function without Express capability has */
#define PCI_CFG_EXT_SIZE 4096 /* what ECAM reaches */
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
/* The board of functions with the registers of real hardware: a virtual machine's that guests know. */
enum { PCI_BOARD_VENDOR = 0x1af4, PCI_BOARD_ID = 0x1100 };
enum {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_MASTER = 1 << 2,
    PCI_COMMAND_INTX_OFF = 1 << 10
};
enum { PCI_STATUS_INTX = 1 << 3, PCI_STATUS_CAPABILITIES = 1 << 4 };

enum pci_cap_id {
    PCI_CAP_PM = 0x01,
    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_EXPRESS = 0x10,
    PCI_CAP_MSIX = 0x11,
    PCI_CAP_AF = 0x13,
};
enum pci_ext_cap_id { PCI_EXT_CAP_REBAR = 0x15 };

struct pci_bus;
struct pci_dev;

/* All hooks run with the bus's lock held, and may take the device's; none may wait for another thread. */
struct pci_ops {
    const char *name;
    bool route_pirqs; /* this is the bridge with the PIRQ routing registers */
    /* Before a read of `size` bytes at off, aligned to it: to bring cfg up to date. Optional. */
    void (*cfg_read)(struct pci_dev *, unsigned off, unsigned size);
    /* After a write, cfg changed as the masks allow; old[4] is the aligned dword as it was. Optional. */
    void (*cfg_write)(struct pci_dev *, unsigned off, unsigned size, const uint8_t old[4]);
    /*
     * A BAR is now decoded at addr with this size, or (mapped false) no longer
     * where it was: for ioeventfds, which sit at guest addresses. Optional.
     */
    void (*bar_moved)(struct pci_dev *, unsigned n, bool mapped, uint64_t addr, uint64_t size);
    /* A BAR of any function has moved, so who answers at an address may be another (pci_bar_answers()). Optional. */
    void (*bars_changed)(struct pci_dev *);
    /*
     * Machine reset, or the guest has reset the function (FLR): cfg has its
     * reset values again, BARs and interrupts are off, nothing is pending. What
     * other threads still do for the device is theirs to end; `busy` tells. Optional.
     */
    void (*reset)(struct pci_dev *);
    bool (*busy)(struct pci_dev *); /* "transactions pending": DMA from before a reset is under way. Optional. */
    /* The device's own state behind its configuration space's; load checks what it reads. Optional, both or none. */
    int (*save)(struct pci_dev *, struct state_blob *);
    int (*load)(struct pci_dev *, const uint8_t *data, size_t len, size_t *pos);
    void (*free)(struct pci_dev *); /* removed from the bus; frees the struct around it. Optional. */
};

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM };
enum pci_bar_flags { PCI_BAR_64 = 1, PCI_BAR_PREFETCH = 2 }; /* memory: two registers, n and n + 1; prefetchable */

struct pci_bar {
    uint64_t size; /* now; a power of two; 0: none */
    uint64_t reset_size;
    uint64_t sizes; /* that the guest may choose, as an OR of them; 0: not resizable */
    uint8_t kind, flags;
    const struct io_ops *ops; /* the device's */
    void *arg;
    struct pci_dev *dev;
    struct io_ops claim_ops; /* what the bus calls: `dev` of its ranges is the BAR, which tells equal bases apart */
    bool claimed;
    uint64_t base, len; /* as claimed */
};

struct pci_state {
    uint8_t cfg[PCI_CFG_EXT_SIZE];
    uint8_t intx;         /* the device asserts its pin */
    uint32_t msi_pending; /* bit n: MSI vector n waits to be unmasked */
};

struct pci_msix;  /* msi.c */
struct pci_irqfd; /* below */

struct pci_dev { /* embedded in the device's own struct */
    const struct pci_ops *ops;
    struct pci_bus *bus;
    uint8_t slot, func;
    struct pci_state s;
    uint8_t init[PCI_CFG_EXT_SIZE], wmask[PCI_CFG_EXT_SIZE], w1cmask[PCI_CFG_EXT_SIZE];
    struct pci_bar bar[PCI_BARS];
    unsigned pm, msi, msix_cap, express, af, rebar; /* where these capabilities are; 0: absent */
    unsigned last_cap, last_ext_cap;                /* the ends of the two lists */
    uint64_t cap_dwords;                            /* bit n: the dword at 4 * n belongs to a capability */
    unsigned ext_end;                               /* first free byte after the extended capabilities */
    struct pci_msix *msix;
    /* Covers the MSI capability, the MSI-X table, pending bits, and from here the command register. */
    pthread_mutex_t msi_lock;
    struct pci_irqfd *irqfds; /* under msi_lock, too */
    uint8_t intx_out;         /* what arrives at the router: asserted and not disabled; under route_lock */
};

struct pci_bus_state {
    uint32_t config_address; /* 0xCF8 */
};

struct pci_bus {
    struct pci_bus_state s;
    struct bus *pio, *mmio;
    struct msi_sink msi;
    uint64_t ecam_base, ecam_len; /* len 0: none */
    struct log_limit log;
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
    struct msi_sink msi;     /* for messages; may be called with any lock held */
};

/*
 * Makes the bus and claims ports 0xCF8-0xCFF. Byte accesses to 0xCF9 belong to
 * the reset control register in the same place: they go to cf9_ops (off 0,
 * size 1), if not NULL. 0 or -errno.
 */
int pci_bus_init(struct pci_bus *, struct bus *pio, struct bus *mmio, const struct pci_wires *,
                 const struct io_ops *cf9_ops, void *cf9_dev);
/*
 * Offers configuration space of buses 0 to buses - 1, a MiB each, at base in
 * MMIO space (only bus 0 has devices). 0 or -errno. Before the guest runs.
 */
int pci_add_ecam(struct pci_bus *, uint64_t base, unsigned buses);
/* Frees all devices. vCPUs stopped. */
void pci_bus_fini(struct pci_bus *);
/* Machine reset; the firmware's work is to be done again (pci_assign_irqs, pci_assign_bars). vCPUs stopped. */
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
/* For a device that pci_add() has not taken: what pci_dev_init() and the like have allocated. The bus does it for its own. */
void pci_dev_free(struct pci_dev *);
void pci_set8(struct pci_dev *, unsigned off, uint8_t v);
void pci_set16(struct pci_dev *, unsigned off, uint16_t v);
void pci_set32(struct pci_dev *, unsigned off, uint32_t v);

/* ---- BARs: bar.c ---- */

/*
 * Gives BAR n (0 to 5) a meaning: `size` bytes, a power of two (I/O: 4 to 256;
 * memory: at least 16) of the address space that ops serve, called with arg on
 * the vCPU's thread and no lock held. -EINVAL for a size or register that
 * cannot be, -EEXIST if it is taken. Before the guest runs.
 */
int pci_bar_io(struct pci_dev *, unsigned n, uint32_t size, const struct io_ops *, void *arg);
int pci_bar_mem(struct pci_dev *, unsigned n, uint64_t size, unsigned flags, const struct io_ops *, void *arg);
/* Is it this BAR that answers at addr, of all that may lie there? In ops: the bus's lock is held. */
bool pci_bar_answers(struct pci_dev *, unsigned n, uint64_t addr);
/*
 * Lets the guest choose the size of a memory BAR by the Resizable BAR
 * capability: `sizes` is the OR of all that it may choose (powers of two, 1 MiB
 * to 512 GiB, those beyond 2 GiB for a 64-bit BAR only), its size so far among
 * them. After pci_express_init(). 0 or -errno.
 */
int pci_bar_resizable(struct pci_dev *, unsigned n, uint64_t sizes);

/* Where a PC's firmware may put BARs; len 0: nowhere. */
struct pci_windows {
    uint16_t io_base, io_len;
    uint32_t mem32_base, mem32_len;
    uint64_t mem64_base, mem64_len;
};
/*
 * What a PC's firmware does at boot: gives every BAR an address, and enables
 * decoding. 64-bit BARs of 16 MiB and more go above 4 GiB, smaller ones there
 * when the window below is full, so that 32-bit guests can use what they find.
 * -ENOSPC if one does not fit, with a line that names it in why[n]. vCPUs stopped.
 */
int pci_assign_bars(struct pci_bus *, const struct pci_windows *, char *why, size_t n);

/* ---- capabilities: caps.c ---- */

/*
 * Adds a capability of `len` bytes, id and next pointer included, at the first
 * free place from 0x40, or at `off` (a multiple of 4), to the end of the list.
 * The offset, its other bytes zero and read-only (pci_set*(), wmask); -ENOSPC;
 * -EINVAL. Before the guest runs, as all of these.
 */
int pci_add_cap(struct pci_dev *, uint8_t id, unsigned len);
int pci_add_cap_at(struct pci_dev *, uint8_t id, unsigned off, unsigned len);
/* A vendor-specific one: its third byte is its length. */
int pci_add_vendor_cap(struct pci_dev *, unsigned len);
/* An extended one of `len` bytes, its header included, from 0x100. After pci_express_init(). */
int pci_add_ext_cap(struct pci_dev *, uint16_t id, unsigned version, unsigned len);

/* Power management: D0 and D3hot, in which nothing but configuration space answers; state survives. 0 or -errno. */
int pci_pm_init(struct pci_dev *);
/* PCI Express: an endpoint integrated into the root complex, which can be reset by its function level reset. */
int pci_express_init(struct pci_dev *);
/* Function level reset of a device that is not PCI Express ("advanced features"). */
int pci_af_init(struct pci_dev *);

/* Configuration accesses, 1, 2 or 4 bytes at any offset of a function. Any thread. */
uint32_t pci_cfg_read(struct pci_bus *, unsigned slot, unsigned func, unsigned off, unsigned size);
void pci_cfg_write(struct pci_bus *, unsigned slot, unsigned func, unsigned off, unsigned size, uint32_t val);

/* ---- message-signalled interrupts: msi.c ---- */

#define PCI_MSI_MAX 32
#define PCI_MSIX_MAX 2048
#define PCI_NO_VECTOR 0xffffu

/* The MSI capability: 64-bit addresses, per-vector masks; nvectors: a power of two up to 32. 0 or -errno. */
int pci_msi_init(struct pci_dev *, unsigned nvectors);
/*
 * The MSI-X capability, 1 to 2048 vectors, with a 32-bit memory BAR of its own
 * for table and pending bits. 0 or -errno.
 */
int pci_msix_init(struct pci_dev *, unsigned nvectors, unsigned bar);
/* The same inside a memory BAR that the device has: it does not see accesses to these places (multiples of 8). */
int pci_msix_init_in(struct pci_dev *, unsigned nvectors, unsigned bar, uint32_t table, uint32_t pba);

/*
 * An interrupt: message `vector` by MSI-X or else MSI, whichever the guest has
 * enabled, now or as soon as it is unmasked; with neither, asserts the INTx pin,
 * which pci_intx(dev, false) lowers when the device's reason is gone. A vector
 * that does not exist, PCI_NO_VECTOR too, is none; MSI vectors wrap around at
 * the number that the guest has granted. Any thread, also under the device's lock.
 */
void pci_notify(struct pci_dev *, unsigned vector);
/* The INTx pin, level. It is not seen outside while messages are enabled. Any thread, also under the device's lock. */
void pci_intx(struct pci_dev *, bool level);
/* Has the guest enabled MSI-X; MSI or MSI-X? Any thread. */
bool pci_msix_enabled(struct pci_dev *);
bool pci_messages_enabled(struct pci_dev *);

/* ---- interrupts that are eventfds: irqfd.c ---- */

struct pci_message {
    uint64_t addr;
    uint32_t data;
};

/* How an accelerator is asked: as in core/accel.h. Both are called with msi_lock held. */
struct pci_irqfd_ops {
    int (*set_route)(void *arg, unsigned route, uint64_t addr, uint32_t data);
    int (*irqfd)(void *arg, int fd, unsigned route, bool add);
    void *arg;
};

/*
 * A descriptor whose writes are interrupts of an MSI-X vector. While that can
 * be sent, the accelerator reads fd and sends it; the owner has to watch fd for
 * the other times, and to call pci_notify() for what it reads from it.
 */
struct pci_irqfd { /* the first four are set by the owner */
    struct pci_irqfd_ops accel;
    int fd;         /* an eventfd, non-blocking */
    unsigned route; /* no other descriptor has it */
    unsigned vector;

    struct pci_irqfd *next;
    bool attached, routed;
    struct pci_message message; /* of the route, if routed */
};

/* From now on; no longer. Any thread, also under the device's lock, as the next one. */
void pci_irqfd_add(struct pci_dev *, struct pci_irqfd *);
void pci_irqfd_remove(struct pci_dev *, struct pci_irqfd *);
/* The vector is another one; PCI_NO_VECTOR: none. */
void pci_irqfd_vector(struct pci_dev *, struct pci_irqfd *, unsigned vector);

/* ---- interrupts by wire: route.c ---- */

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
