/*
 * The AHCI controller as vCPUs see it (Serial ATA AHCI 1.3.1, chapters 2, 3 and
 * 10): configuration space, generic and port registers, interrupts, resets; and
 * its life. Section numbers are those of that document.
 */
#include "devices/ahci_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "os/clock.h"
#include "os/thread.h"

#define VENDOR_INTEL 0x8086
#define DEVICE_ICH9 0x2922 /* which drivers of every system know */
#define CLASS_AHCI 0x010601
#define ABAR 5
#define ABAR_SIZE 0x2000
#define MAP 0x90 /* of ICH9, address map: AHCI mode */
#define MAP_AHCI (1 << 6)
#define PCS 0x92 /* port control and status: those that are on */

/*
 * All in all: 64-bit addresses, NCQ, command list override, multiple DRQ blocks
 * a PIO transfer, 6 Gbit/s, no IDE registers, 32 slots.
 */
#define CAP_BITS (1u << 31 | 1u << 30 | 1u << 24 | 3u << 20 | 1u << 18 | 1u << 15 | 31u << 8)
#define VERSION 0x00010301u
#define CMD_WRITABLE (CMD_ST | CMD_FRE | CMD_ATAPI | CMD_DLAE)
#define CMD_RESET (CMD_SUD | CMD_POD)
#define SCTL_DET 0xfu
#define SCTL_BITS 0xfffu
enum { DET_NONE = 0, DET_COMRESET = 1, DET_OFFLINE = 4 };
#define SSTS_UP 0x103u /* interface active, device there, link up */
#define NO_DEVICE 0x7fu
#define CD_UDMA (1 << 5)
#define FASTEST 3u    /* generations of SATA */
#define SPIN_NS 50000 /* a driver that has one command after the other needs less for the next one */
#define CLB_ALIGN 1024
#define FB_ALIGN 256

static const struct state_field ahci_fields[] = {
    STATE_FIELD(struct ahci_state, ghc, 1, GHC_AE),
    STATE_FIELD(struct ahci_state, is, 1, 0),
};
static const struct state_desc ahci_desc = STATE_DESC("ahci", 1, struct ahci_state, ahci_fields);

static const struct state_field port_fields[] = {
    STATE_FIELD(struct port_state, clb, 1, 0),          STATE_FIELD(struct port_state, fb, 1, 0),
    STATE_FIELD(struct port_state, is, 1, 0),           STATE_FIELD(struct port_state, ie, 1, 0),
    STATE_FIELD(struct port_state, cmd, 1, CMD_RESET),  STATE_FIELD(struct port_state, tfd, 1, NO_DEVICE),
    STATE_FIELD(struct port_state, sig, 1, UINT32_MAX), STATE_FIELD(struct port_state, ssts, 1, 0),
    STATE_FIELD(struct port_state, sctl, 1, 0),         STATE_FIELD(struct port_state, serr, 1, 0),
    STATE_FIELD(struct port_state, sact, 1, 0),         STATE_FIELD(struct port_state, ci, 1, 0),
    STATE_FIELD(struct port_state, halted, 1, false),   STATE_FIELD(struct port_state, fis_held, 1, false),
    STATE_FIELD(struct port_state, srst, 1, false),     STATE_FIELD(struct port_state, need_sign, 1, false),
};
static const struct state_desc port_desc = STATE_DESC("ahci-port", 1, struct port_state, port_fields);

static uint32_t bit(unsigned n) { return UINT32_C(1) << n; }

/* -- the I/O thread -- */

static void work(void *arg)
{
    struct ahci *hba = arg;
    atomic_store(&hba->posted, false);
    for (uint32_t ports = atomic_exchange(&hba->kicked, 0); ports; ports &= ports - 1)
        ahci_port_run(&hba->port[__builtin_ctz(ports)]);
}

void ahci_kick(struct ahci_port *p)
{
    struct ahci *hba = p->hba;
    atomic_fetch_or(&hba->kicked, bit(p->index));
    if (!atomic_exchange(&hba->posted, true) && loop_post(hba->loop, work, hba))
        atomic_store(&hba->posted, false);
}

/* -- interrupts (10.7) -- */

/* What PxIS reads: two of its bits follow PxSERR. */
static uint32_t port_is(const struct ahci_port *p)
{
    return p->s.is | (p->s.serr & SERR_X ? IS_PCS : 0) | (p->s.serr & SERR_N ? IS_PRCS : 0);
}

/*
 * IS follows the ports; then pin or message follow IS. A message is sent for each new bit, and when bits are left after
 * a driver has cleared some: it may have looked before they came.
 */
static void update_interrupt(struct ahci *hba, bool again)
{
    uint32_t before = hba->s.is;
    if (!hba->attached)
        return;
    for (unsigned i = 0; i < hba->nports; i++)
        if (port_is(&hba->port[i]) & hba->port[i].s.ie)
            hba->s.is |= bit(i);
    if (!hba->s.is || !(hba->s.ghc & GHC_IE))
        pci_intx(&hba->pci, false);
    else if (again || hba->s.is & ~before)
        pci_notify(&hba->pci, 0);
}

void ahci_interrupt(struct ahci_port *p, uint32_t bits)
{
    p->s.is |= bits;
    update_interrupt(p->hba, false);
}

/* -- resets (10.4) -- */

void ahci_signature(struct ahci_port *p)
{
    struct ata_regs r = {.count = 1, .lba = p->kind == AHCI_CD ? 0xeb1401 : 1};
    p->s.need_sign = false;
    if ((p->s.ssts & 0xf) != 3)
        return;
    p->s.sig = (uint32_t)r.lba << 8 | r.count;
    p->s.fis_held = !(p->s.cmd & CMD_FRE);
    ahci_post_d2h(p, &r, p->kind == AHCI_CD ? 0 : ATA_GOOD, 1, false);
    if (p->s.ci)
        ahci_kick(p);
}

void ahci_device_reset(struct ahci_port *p)
{
    p->s.srst = false;
    ata_state_reset(&p->ata, p->kind == AHCI_DISK && disk_info(p->disk)->writeback);
    if (p->kind == AHCI_CD) {
        p->ata.udma = CD_UDMA;
        atapi_reset(&p->atapi, p->hard_reset);
    }
}

/* A reset of the device ends, if nothing is active. */
static void try_sign(struct ahci_port *p)
{
    if (p->active || !p->s.need_sign)
        return;
    if (p->kind == AHCI_CD) {
        ahci_kick(p);
        return;
    }
    ahci_device_reset(p);
    ahci_signature(p);
}

/* What is active now ends without a word. Lock held. */
static void forget(struct ahci_port *p)
{
    p->s.ci = p->s.sact = 0;
    p->s.cmd &= ~(uint32_t)CMD_CCS;
    p->forgotten = p->active;
    if (p->active)
        ahci_kick(p); /* some may not have begun */
}

static void link_down(struct ahci_port *p, uint32_t det)
{
    forget(p);
    p->s.need_sign = p->s.fis_held = false;
    p->s.ssts = det;
    p->s.tfd = NO_DEVICE;
    p->s.sig = UINT32_MAX;
}

/* COMINIT, and as soon as its DMA has ended the device's signature. */
static void link_up(struct ahci_port *p)
{
    uint32_t limit = p->s.sctl >> 4 & 0xf;
    p->s.ssts = SSTS_UP | (limit && limit < FASTEST ? limit : FASTEST) << 4;
    p->s.serr |= SERR_X | SERR_N;
    p->s.tfd = ATA_BSY | 0x7f;
    p->s.need_sign = p->hard_reset = true;
    try_sign(p);
    update_interrupt(p->hba, false);
}

static bool any_active(const struct ahci *hba)
{
    for (unsigned i = 0; i < hba->nports; i++)
        if (hba->port[i].active)
            return true;
    return false;
}

/* Everything as after power-on; nothing is active. Lock held. */
static void reset_now(struct ahci *hba)
{
    hba->resetting = false;
    state_reset(&ahci_desc, &hba->s);
    for (unsigned i = 0; i < hba->nports; i++) {
        struct ahci_port *p = &hba->port[i];
        state_reset(&port_desc, &p->s);
        link_up(p);
        p->s.serr = 0; /* nobody was there to see it */
    }
    hba->s.is = 0;
    update_interrupt(hba, false);
    pthread_cond_broadcast(&hba->settled);
}

static void reset(struct ahci *hba)
{
    for (unsigned i = 0; i < hba->nports; i++)
        forget(&hba->port[i]);
    if (any_active(hba))
        hba->resetting = true;
    else
        reset_now(hba);
}

void ahci_slot_free(struct ahci_port *p, unsigned slot)
{
    p->active &= ~bit(slot);
    p->forgotten &= ~bit(slot);
    if (p->active)
        return;
    if (p->hba->resetting) {
        if (!any_active(p->hba))
            reset_now(p->hba);
        return;
    }
    try_sign(p);
    if (!(p->s.cmd & CMD_ST))
        p->s.cmd &= ~(uint32_t)CMD_CR;
    pthread_cond_broadcast(&p->hba->settled);
}

/* -- registers -- */

static void write_cmd(struct ahci_port *p, uint32_t val)
{
    uint32_t before = p->s.cmd;
    p->s.cmd = (before & ~(uint32_t)CMD_WRITABLE) | (val & CMD_WRITABLE);
    if (val & CMD_FRE) {
        p->s.cmd |= CMD_FR;
        if (p->s.fis_held)
            ahci_signature(p);
    } else {
        p->s.cmd &= ~(uint32_t)CMD_FR;
    }
    if (val & CMD_CLO && !(before & CMD_ST))
        p->s.tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
    if (p->s.cmd & ~before & CMD_ST) {
        p->s.cmd |= CMD_CR;
        p->s.halted = false;
    } else if (before & ~p->s.cmd & CMD_ST) {
        forget(p);
        if (!p->active)
            p->s.cmd &= ~(uint32_t)CMD_CR;
    }
}

static void write_sctl(struct ahci_port *p, uint32_t val)
{
    uint32_t before = p->s.sctl & SCTL_DET, now = val & SCTL_DET;
    p->s.sctl = val & SCTL_BITS;
    if (now == before)
        return;
    if (now == DET_NONE)
        link_up(p);
    else if (now == DET_COMRESET)
        link_down(p, 0);
    else if (now == DET_OFFLINE)
        link_down(p, DET_OFFLINE);
}

static void set_half(uint64_t *reg, bool high, uint32_t val, uint32_t align)
{
    *reg = high ? (*reg & UINT32_MAX) | (uint64_t)val << 32 : (*reg & ~(uint64_t)UINT32_MAX) | (val & ~(align - 1));
}

static void port_write(struct ahci_port *p, unsigned off, uint32_t val)
{
    switch (off) {
    case PxCLB:
    case PxCLBU: set_half(&p->s.clb, off == PxCLBU, val, CLB_ALIGN); break;
    case PxFB:
    case PxFBU: set_half(&p->s.fb, off == PxFBU, val, FB_ALIGN); break;
    case PxIS:
        p->s.is &= ~val;
        update_interrupt(p->hba, false);
        break;
    case PxIE:
        p->s.ie = val & IS_BITS;
        update_interrupt(p->hba, false);
        break;
    case PxCMD: write_cmd(p, val); break;
    case PxSCTL: write_sctl(p, val); break;
    case PxSERR: p->s.serr &= ~val; break;
    case PxSACT:
        if (p->s.cmd & CMD_ST)
            p->s.sact |= val;
        break;
    case PxCI:
        if (p->s.cmd & CMD_ST && val & ~p->s.ci) {
            p->s.ci |= val;
            ahci_kick(p);
        }
        break;
    default: break; /* read-only, reserved, or of a feature that is not there */
    }
}

static uint32_t port_read(const struct ahci_port *p, unsigned off)
{
    switch (off) {
    case PxCLB: return (uint32_t)p->s.clb;
    case PxCLBU: return (uint32_t)(p->s.clb >> 32);
    case PxFB: return (uint32_t)p->s.fb;
    case PxFBU: return (uint32_t)(p->s.fb >> 32);
    case PxIS: return port_is(p);
    case PxIE: return p->s.ie;
    case PxCMD: return p->s.cmd;
    case PxTFD: return p->s.tfd;
    case PxSIG: return p->s.sig;
    case PxSSTS: return p->s.ssts;
    case PxSCTL: return p->s.sctl;
    case PxSERR: return p->s.serr;
    case PxSACT: return p->s.sact;
    case PxCI: return p->s.ci;
    default: return 0;
    }
}

static uint64_t abar_read(void *dev, uint64_t off, unsigned size)
{
    struct ahci *hba = dev;
    uint32_t val = 0;
    pthread_mutex_lock(&hba->lock);
    if (off >= PORTS) {
        uint64_t n = (off - PORTS) / PORT_SIZE;
        val = n < hba->nports ? port_read(&hba->port[n], (unsigned)((off - PORTS) % PORT_SIZE)) : 0;
    } else {
        switch (off) {
        case CAP: val = CAP_BITS | (hba->nports - 1); break;
        case GHC: val = hba->s.ghc | (hba->resetting ? GHC_HR : 0); break;
        case IS: val = hba->s.is; break;
        case PI: val = (uint32_t)((UINT64_C(1) << hba->nports) - 1); break;
        case VS: val = VERSION; break;
        default: break;
        }
    }
    pthread_mutex_unlock(&hba->lock);
    return val;
}

static void generic_write(struct ahci *hba, uint64_t off, uint32_t val)
{
    if (off == GHC) {
        uint32_t before = hba->s.ghc;
        hba->s.ghc = GHC_AE | (val & GHC_IE);
        if (val & GHC_HR)
            reset(hba);
        else
            update_interrupt(hba, val & ~before & GHC_IE);
    } else if (off == IS) {
        hba->s.is &= ~val;
        update_interrupt(hba, val);
    }
}

static void abar_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct ahci *hba = dev;
    pthread_mutex_lock(&hba->lock);
    if (hba->resetting) {
        /* Nothing but time helps. */
    } else if (off < PORTS) {
        generic_write(hba, off, (uint32_t)val);
    } else if ((off - PORTS) / PORT_SIZE < hba->nports) {
        port_write(&hba->port[(off - PORTS) / PORT_SIZE], (unsigned)((off - PORTS) % PORT_SIZE), (uint32_t)val);
    }
    pthread_mutex_unlock(&hba->lock);
}

static const struct io_ops abar_ops = {.read = abar_read, .write = abar_write, .sizes = 4};

/* -- the function -- */

static struct ahci *hba_of(struct pci_dev *d) { return CONTAINER_OF(d, struct ahci, pci); }

static void hba_reset(struct pci_dev *d)
{
    struct ahci *hba = hba_of(d);
    pthread_mutex_lock(&hba->lock);
    if (!hba->resetting)
        reset(hba);
    pthread_mutex_unlock(&hba->lock);
}

static bool hba_busy(struct pci_dev *d)
{
    struct ahci *hba = hba_of(d);
    pthread_mutex_lock(&hba->lock);
    bool busy = hba->resetting;
    pthread_mutex_unlock(&hba->lock);
    return busy;
}

int ahci_wait_until(struct ahci *hba, uint64_t deadline_ns)
{
    int err = 0;
    pthread_mutex_lock(&hba->lock);
    while (hba->resetting && !err)
        err = os_cond_wait(&hba->settled, &hba->lock, deadline_ns);
    pthread_mutex_unlock(&hba->lock);
    return err;
}

static int hba_save(struct pci_dev *d, struct state_blob *out)
{
    struct ahci *hba = hba_of(d);
    pthread_mutex_lock(&hba->lock);
    bool busy = hba->resetting || any_active(hba);
    for (unsigned i = 0; i < hba->nports; i++)
        busy |= hba->port[i].s.need_sign;
    int err = busy ? -EBUSY : state_save(&ahci_desc, &hba->s, out);
    for (unsigned i = 0; i < hba->nports && !err; i++) {
        struct ahci_port *p = &hba->port[i];
        err = state_save(&port_desc, &p->s, out);
        if (!err)
            err = state_save(&ata_state_desc, &p->ata, out);
        if (!err && p->kind == AHCI_CD)
            err = atapi_save(&p->atapi, out);
    }
    pthread_mutex_unlock(&hba->lock);
    return err;
}

/* Could registers hold this? */
static bool port_valid(const struct ahci_port *p)
{
    const struct port_state *s = &p->s;
    return !(s->clb % CLB_ALIGN) && !(s->fb % FB_ALIGN) && !(s->is & ~(IS_BITS & ~(IS_PCS | IS_PRCS))) &&
           !(s->ie & ~IS_BITS) && !(s->sctl & ~SCTL_BITS) &&
           !(s->cmd & ~(uint32_t)(CMD_WRITABLE | CMD_RESET | CMD_CCS | CMD_FR | CMD_CR)) &&
           !(s->cmd & CMD_ST) == !(s->cmd & CMD_CR) && !(s->cmd & CMD_FRE) == !(s->cmd & CMD_FR) &&
           (s->cmd & CMD_RESET) == CMD_RESET && s->tfd <= 0xffff && (s->cmd & CMD_ST || !(s->ci | s->sact)) &&
           !s->need_sign && ata_state_valid(&p->ata);
}

static int hba_load(struct pci_dev *d, const uint8_t *data, size_t len, size_t *pos)
{
    struct ahci *hba = hba_of(d);
    size_t start = *pos;
    hba_reset(d);
    (void)ahci_wait_until(hba, NO_DEADLINE);
    pthread_mutex_lock(&hba->lock);
    int err = state_load(&ahci_desc, &hba->s, data, len, pos);
    for (unsigned i = 0; i < hba->nports && !err; i++) {
        struct ahci_port *p = &hba->port[i];
        err = state_load(&port_desc, &p->s, data, len, pos);
        if (!err)
            err = state_load(&ata_state_desc, &p->ata, data, len, pos);
        if (!err && p->kind == AHCI_CD)
            err = atapi_load(&p->atapi, data, len, pos);
        if (!err && !port_valid(p))
            err = -EINVAL;
    }
    if (!err && (hba->s.ghc & ~(GHC_AE | GHC_IE) || !(hba->s.ghc & GHC_AE)))
        err = -EINVAL;
    if (err) {
        *pos = start;
        reset(hba);
    } else {
        update_interrupt(hba, false);
        for (unsigned i = 0; i < hba->nports; i++)
            ahci_kick(&hba->port[i]); /* what was on the list and had not begun */
    }
    pthread_mutex_unlock(&hba->lock);
    return err;
}

static void hba_free(struct pci_dev *d)
{
    struct ahci *hba = hba_of(d);
    pthread_mutex_lock(&hba->lock);
    hba->attached = false; /* the bus has taken the function apart already */
    pthread_mutex_unlock(&hba->lock);
    (void)ahci_stop_by(hba, NO_DEADLINE);
    pthread_mutex_lock(&hba->lock);
    for (unsigned i = 0; i < hba->nports; i++)
        forget(&hba->port[i]);
    pthread_mutex_unlock(&hba->lock);
    for (unsigned i = 0; i < hba->nports; i++)
        ahci_port_run(&hba->port[i]); /* drops what waits */
    for (unsigned i = 0; i < hba->nports; i++)
        if (hba->port[i].kind == AHCI_CD)
            atapi_fini(&hba->port[i].atapi);
        else
            disk_close(hba->port[i].disk);
    for (unsigned i = 0; i < hba->nports; i++)
        ahci_port_fini(&hba->port[i]);
    io_thread_free(hba->io);
    pthread_cond_destroy(&hba->settled);
    pthread_mutex_destroy(&hba->lock);
    free(hba->port);
    free(hba);
}

static const struct pci_ops hba_ops = {
    .name = "ahci",
    .reset = hba_reset,
    .busy = hba_busy,
    .save = hba_save,
    .load = hba_load,
    .free = hba_free,
};

/* -- life -- */

static int open_drive(struct ahci_port *p, const struct ahci_drive *drive, char *why, size_t n)
{
    p->kind = drive->kind;
    p->born = os_clock_ns();
    disk_serial(&drive->disk, drive->image ? drive->image : "", p->serial);
    if (p->kind == AHCI_CD) {
        struct disk *medium = NULL;
        int err = drive->image ? atapi_open(drive->image, &drive->disk, p->hba->loop, &medium, why, n) : 0;
        return err ? err : atapi_init(&p->atapi, medium, p->serial);
    }
    int err = disk_open(drive->image, &drive->disk, p->hba->loop, &p->disk, why, n);
    if (err)
        return err;
    const struct disk_info *info = disk_info(p->disk);
    if (info->logical > 4096) {
        snprintf(why, n, "disk '%s' has sectors of %u bytes; an ATA disk has up to 4096: say sectorsize=4096/%u",
                 drive->image, info->logical, info->logical);
        return -EINVAL;
    }
    if (info->size / info->logical > UINT64_C(1) << 48) {
        snprintf(why, n, "disk '%s' has more sectors than 48 bits can count", drive->image);
        return -EFBIG;
    }
    return 0;
}

static int lay_out(struct ahci *hba, unsigned nports)
{
    struct pci_dev *d = &hba->pci;
    pci_dev_init(d, &hba_ops, VENDOR_INTEL, DEVICE_ICH9, CLASS_AHCI, 1);
    pci_set8(d, PCI_REVISION, 2);
    pci_set16(d, PCI_SUBSYS_VENDOR, PCI_BOARD_VENDOR);
    pci_set16(d, PCI_SUBSYS_ID, PCI_BOARD_ID);
    pci_set8(d, MAP, MAP_AHCI);
    pci_set16(d, PCS, (uint16_t)((UINT64_C(1) << (nports < 6 ? nports : 6)) - 1));
    d->wmask[PCS] = 0x3f;
    int err = pci_bar_mem(d, ABAR, ABAR_SIZE, 0, &abar_ops, hba);
    if (!err)
        err = pci_msi_init(d, 1);
    if (!err)
        err = pci_pm_init(d);
    return err ? err : pci_af_init(d);
}

int ahci_new(struct ahci **out, struct pci_bus *bus, unsigned slot, unsigned func, struct guest_mem *mem,
             const struct ahci_options *o, char *why, size_t n)
{
    struct ahci *hba = calloc(1, sizeof(*hba));
    *out = NULL;
    *why = '\0';
    int err = hba ? io_thread_new(&hba->io, "ahci", &hba->loop) : -ENOMEM;
    if (err) {
        free(hba);
        return err;
    }
    pthread_mutex_init(&hba->lock, NULL);
    os_cond_init(&hba->settled);
    hba->mem = mem;
    hba->end = &hba->waiting;
    err = lay_out(hba, o->ndrives);
    hba->port = calloc(o->ndrives, sizeof(*hba->port));
    if (!hba->port)
        err = -ENOMEM;
    for (unsigned i = 0; i < o->ndrives && !err; i++) {
        struct ahci_port *p = &hba->port[hba->nports++];
        p->hba = hba;
        p->index = i;
        err = open_drive(p, &o->drive[i], why, n);
    }
    if (!err) {
        pthread_mutex_lock(&hba->lock);
        reset_now(hba);
        pthread_mutex_unlock(&hba->lock);
        err = pci_add(bus, &hba->pci, slot, func);
        hba->attached = !err;
    }
    if (err) {
        pci_dev_free(&hba->pci);
        hba_free(&hba->pci);
        return err;
    }
    *out = hba;
    return 0;
}

int ahci_start(struct ahci *hba)
{
    loop_spin(hba->loop, SPIN_NS, NULL);
    return io_thread_start(hba->io);
}

void ahci_reset(struct ahci *hba)
{
    if (io_thread_running(hba->io))
        hba_reset(&hba->pci);
}

int ahci_stop_by(struct ahci *hba, uint64_t deadline_ns)
{
    if (!io_thread_running(hba->io))
        return 0;
    hba_reset(&hba->pci);
    int err = ahci_wait_until(hba, deadline_ns);
    if (!err)
        io_thread_stop(hba->io);
    return err;
}

bool ahci_needs_network(struct ahci *hba)
{
    bool network = false;
    for (unsigned i = 0; i < hba->nports; i++) {
        const struct ahci_port *p = &hba->port[i];
        const struct disk *disk = p->kind == AHCI_CD ? p->atapi.medium : p->disk;
        network |= disk && disk_info(disk)->network;
    }
    return network;
}

static void refresh(void *arg)
{
    struct ahci *hba = arg;
    for (unsigned i = 0; i < hba->nports; i++)
        if (hba->port[i].kind == AHCI_DISK)
            disk_refresh(hba->port[i].disk); /* an error leaves it as it was */
}

int ahci_refresh(struct ahci *hba) { return loop_post(hba->loop, refresh, hba); }

struct loop *ahci_loop(struct ahci *hba) { return hba->loop; }
