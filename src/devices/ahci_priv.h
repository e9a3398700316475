/*
 * What the files of the AHCI controller share.
 *
 *     ahci.c          registers, interrupts, resets, life: vCPUs' threads, under `lock`
 *     ahci_port.c     command lists, FISes, PRDTs: the I/O thread
 *     ahci_disk.c     what an ATA disk does with a command: the I/O thread
 *     ahci_cd.c       the same for a CD drive
 *
 * A command slot belongs to the I/O thread from when it is taken off the list
 * (its bit in `active`, set under the lock) until the bit is cleared. The device
 * behind a port (`ata` and such) is the I/O thread's while any slot of the port
 * is active, and whoever holds the lock may touch it otherwise. What is active
 * when a driver stops or resets the port is `forgotten`: it ends without a word
 * as soon as its DMA has, and until then CR, BSY or HR say that the port is not
 * done.
 */
#ifndef XHYVE_DEVICES_AHCI_PRIV_H
#define XHYVE_DEVICES_AHCI_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "devices/ahci.h"
#include "devices/ata.h"
#include "devices/atapi.h"
#include "os/iothread.h"
#include "util/bytes.h"
#include "util/log.h"

enum ahci_generic { CAP = 0x00, GHC = 0x04, IS = 0x08, PI = 0x0c, VS = 0x10, CAP2 = 0x24, PORTS = 0x100 };
#define PORT_SIZE 0x80

enum ahci_port_reg {
    PxCLB = 0x00,
    PxCLBU = 0x04,
    PxFB = 0x08,
    PxFBU = 0x0c,
    PxIS = 0x10,
    PxIE = 0x14,
    PxCMD = 0x18,
    PxTFD = 0x20,
    PxSIG = 0x24,
    PxSSTS = 0x28,
    PxSCTL = 0x2c,
    PxSERR = 0x30,
    PxSACT = 0x34,
    PxCI = 0x38,
};

enum ahci_ghc { GHC_HR = 1 << 0, GHC_IE = 1 << 1 };
#define GHC_AE (1u << 31)

enum ahci_is {
    IS_DHRS = 1 << 0,
    IS_PSS = 1 << 1,
    IS_SDBS = 1 << 3,
    IS_DPS = 1 << 5,
    IS_PCS = 1 << 6,
    IS_PRCS = 1 << 22,
    IS_OFS = 1 << 24,
    IS_IFS = 1 << 27,
    IS_HBDS = 1 << 28,
    IS_HBFS = 1 << 29,
    IS_TFES = 1 << 30,
};
#define IS_BITS 0xfdc000ffu /* that exist */

enum ahci_cmd_bits {
    CMD_ST = 1 << 0,
    CMD_SUD = 1 << 1,
    CMD_POD = 1 << 2,
    CMD_CLO = 1 << 3,
    CMD_FRE = 1 << 4,
    CMD_CCS = 0x1f << 8,
    CMD_FR = 1 << 14,
    CMD_CR = 1 << 15,
    CMD_ATAPI = 1 << 24,
    CMD_DLAE = 1 << 25,
};

enum { SERR_N = 1 << 16, SERR_X = 1 << 26 };

struct port_state {
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    bool halted;    /* by an error, until ST is cleared */
    bool fis_held;  /* a signature that came while FRE was clear */
    bool srst;      /* the last control FIS had SRST set */
    bool need_sign; /* a reset of the device ends with a signature, once nothing is active */
};

struct ahci_state {
    uint32_t ghc, is;
};

struct ahci_port;

enum command_kind { CMD_PLAIN, CMD_NCQ, CMD_PIO_IN };

/* A command that has been taken off the list. The I/O thread's. */
struct command {
    struct disk_req req;
    struct ahci_port *port;
    unsigned slot;
    enum command_kind kind;
    bool write, clear_busy; /* of its header */
    uint16_t prdtl;
    uint64_t header, table; /* where they are */
    uint8_t fis[64];
    struct ata_regs r;

    /* The place in the PRDT up to which memory is in use. */
    unsigned prd;
    uint32_t prd_pos;
    bool prd_interrupt;
    uint64_t bytes; /* that went through, for PRDBC */
    struct iovec *iov;
    uint64_t *gpa; /* of each of them */
    unsigned niov, room;

    /* What is left of a transfer, and what of it is under way. */
    enum disk_op op;
    unsigned flags;
    uint64_t offset, left, piece;
    bool verify; /* READ VERIFY: into `scratch` */
    void *scratch;
    struct iovec scratch_iov;
    struct command *next; /* that waits for others to end */

    void (*then)(struct command *); /* what comes after a flush, a discard, a verification */
    uint64_t *range;                /* of TRIM: first byte and length, in turn */
    unsigned nranges, at;

    struct atapi_request packet;
    uint32_t short_of; /* why the PRDT has no more: for ahci_fault() */
};

struct ahci_port {
    struct ahci *hba;
    unsigned index;
    int kind; /* AHCI_DISK, AHCI_CD */
    struct disk *disk;
    char serial[DISK_SERIAL_LEN + 1];
    uint64_t born; /* os_clock_ns() */

    /* Under the lock. */
    struct port_state s;
    uint32_t active, forgotten;

    bool hard_reset; /* need_sign: by COMRESET, not SRST */

    struct ata_state ata;
    struct atapi atapi; /* belongs to the I/O thread alone: so a CD drive's resets do, too */

    /* The I/O thread's. */
    uint32_t queued; /* active ones that are NCQ */
    unsigned last;   /* slot */
    struct command *slot[ATA_QUEUE];
};

struct ahci {
    struct pci_dev pci;
    struct guest_mem *mem;
    struct io_thread *io;
    struct loop *loop;
    struct log_limit log;
    unsigned nports;
    struct ahci_port *port;

    pthread_mutex_t lock;
    pthread_cond_t settled;
    struct ahci_state s;
    bool resetting; /* as soon as nothing is active */
    bool attached;  /* to a bus: there are interrupts */

    _Atomic uint32_t kicked; /* ports that have something to do */
    _Atomic bool posted;

    /* The I/O thread's. */
    uint64_t underway;              /* bytes of pieces */
    struct command *waiting, **end; /* for `underway` to become less */
};

/* -- ahci.c -- */

void ahci_kick(struct ahci_port *); /* the I/O thread is to look at the port. Any thread. */
/* The device's first FIS after a reset. Lock held. */
void ahci_signature(struct ahci_port *);
/* The device as after a reset. Lock held, nothing active; a CD drive's on the I/O thread. */
void ahci_device_reset(struct ahci_port *);
/* A slot of the port is not active any more: what waited for that. Lock held. */
void ahci_slot_free(struct ahci_port *, unsigned slot);
/* PxIS has new bits. Lock held. */
void ahci_interrupt(struct ahci_port *, uint32_t bits);

/* -- ahci_port.c -- */

void ahci_port_run(struct ahci_port *);  /* takes commands off the list */
void ahci_port_fini(struct ahci_port *); /* nothing is active */
bool ahci_forgotten(struct command *);
/*
 * Puts a FIS of `len` bytes where the driver wants it, at `off` of the received FIS structure. False: there is no
 * memory, and the port has stopped. Lock held.
 */
bool ahci_post_fis(struct ahci_port *, unsigned off, const void *fis, size_t len);
/* The D2H FIS with these registers, status and error. Lock held. */
bool ahci_post_d2h(struct ahci_port *, const struct ata_regs *, uint8_t status, uint8_t error, bool interrupt);

/* How a command ends: each frees it. */
void ahci_good(struct command *);
void ahci_fail(struct command *, uint8_t status, uint8_t error); /* status has ERR */
void ahci_ignore(struct command *);                              /* never: BSY stays until the driver resets the port */
/* No memory where the command says (IS_HBFS, IS_HBDS), too little (IS_OFS), no such FIS (IS_IFS). */
void ahci_fault(struct command *, uint32_t is);

/*
 * Collects memory for `want` bytes from the place reached on, in c->iov; less than that only where `partial` allows. 0,
 * or a bit for ahci_fault(). *got: bytes.
 */
uint32_t ahci_collect(struct command *, uint64_t want, bool to_guest, bool partial, uint64_t *got);
void ahci_written(struct command *, uint64_t bytes); /* what of c->iov has been written */
/* Copies a device's buffer to the guest or back. False: the command has ended with a fault. */
bool ahci_copy_out(struct command *, const void *, size_t len);
bool ahci_copy_in(struct command *, void *, size_t len);

/* A transfer of bytes from or to the disk, in pieces; ends the command, or calls then(). */
void ahci_transfer(struct command *);
/* One request that moves no data: op, offset, left; then(), or the end of the command. */
void ahci_request(struct command *, enum disk_op, void (*then)(struct command *));

/* -- the devices -- */

void ahci_disk_execute(struct command *);
void ahci_cd_execute(struct command *);

#endif
