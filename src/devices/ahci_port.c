/*
 * Commands of an AHCI port (Serial ATA AHCI 1.3.1, chapters 4 to 6): taken off
 * the list, their memory found, their outcome told by FISes (Serial ATA 3.0,
 * 10.3). All of it on the I/O thread but where the header says otherwise.
 *
 * A guest can ask for more at a time than a host should have under way: 32
 * slots on 32 ports. So a transfer goes in pieces, the memory of a piece is
 * looked up when its turn comes, and all pieces of a controller together are
 * bounded. What the PRDT holds beyond a command's own length is never looked at.
 */
#include "devices/ahci_priv.h"

#include <errno.h>
#include <stdlib.h>

#define HEADER_LEN 32
#define PRDT 0x80
#define PRD_LEN 16
#define PRD_BYTES 0x3fffffu
#define PRD_INTERRUPT (1u << 31)

enum { RFIS_PIO = 0x20, RFIS_D2H = 0x40, RFIS_SDB = 0x58 };
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_SDB = 0xa1 };
enum { FIS_LEN = 20, FIS_SDB_LEN = 8 };
#define FIS_COMMAND 0x80 /* of H2D: not a control FIS */
#define FIS_INTERRUPT 0x40
#define FIS_TO_HOST 0x20
#define CONTROL_SRST 4

#define PIECE_MAX MiB(4)
#define UNDERWAY_MAX MiB(64) /* bytes of all pieces */
/* Memory of a piece: enough for one sector, whatever it is made of (a PRD has at least two bytes). */
#define PIECES_MAX 2048
#define KEEP_ROOM 256 /* longer arrays are not kept for the next command */
#define TURN 32       /* commands, and then other ports have theirs */

static uint32_t bit(unsigned n) { return UINT32_C(1) << n; }

static void run_piece(struct command *c);

/* -- FISes from the device, lock held -- */

bool ahci_post_fis(struct ahci_port *p, unsigned off, const void *fis, size_t len)
{
    if (!(p->s.cmd & CMD_FRE) || !mem_write(p->hba->mem, p->s.fb + off, fis, len))
        return true;
    log_guest(&p->hba->log, "ahci: port %u: the received FIS structure at %#llx is not in memory", p->index,
              (unsigned long long)p->s.fb);
    p->s.halted = true;
    p->s.is |= IS_HBFS;
    return false;
}

/* What D2H and PIO setup FISes have in common. */
static void fill_fis(uint8_t fis[FIS_LEN], uint8_t type, uint8_t flags, const struct ata_regs *r, uint8_t status,
                     uint8_t error)
{
    memset(fis, 0, FIS_LEN);
    fis[0] = type;
    fis[1] = flags;
    fis[2] = status;
    fis[3] = error;
    put_le(fis + 4, r->lba, 3);
    fis[7] = r->device;
    put_le(fis + 8, r->lba >> 24, 3);
    put_le16(fis + 12, r->count);
}

bool ahci_post_d2h(struct ahci_port *p, const struct ata_regs *r, uint8_t status, uint8_t error, bool interrupt)
{
    uint8_t fis[FIS_LEN];
    fill_fis(fis, FIS_D2H, interrupt ? FIS_INTERRUPT : 0, r, status, error);
    p->s.tfd = status | (uint32_t)error << 8;
    return ahci_post_fis(p, RFIS_D2H, fis, sizeof(fis));
}

static bool post_pio_setup(struct ahci_port *p, const struct command *c, uint8_t status)
{
    uint8_t fis[FIS_LEN];
    fill_fis(fis, FIS_PIO, FIS_INTERRUPT | FIS_TO_HOST, &c->r, status | ATA_DRQ, 0);
    fis[15] = status; /* once the data is through */
    put_le16(fis + 16, (uint16_t)(c->bytes > ATA_BLOCK ? ATA_BLOCK : c->bytes));
    p->s.tfd = status;
    return ahci_post_fis(p, RFIS_PIO, fis, sizeof(fis));
}

static bool post_sdb(struct ahci_port *p, uint32_t done, uint8_t status, uint8_t error)
{
    uint8_t fis[FIS_SDB_LEN] = {FIS_SDB, FIS_INTERRUPT, status & 0x77, error};
    put_le32(fis + 4, done);
    p->s.sact &= ~done;
    /* Bits 7 and 3 are those of the last D2H FIS. */
    p->s.tfd = (p->s.tfd & (ATA_BSY | ATA_DRQ)) | (status & 0x77u) | (uint32_t)error << 8;
    return ahci_post_fis(p, RFIS_SDB, fis, sizeof(fis));
}

/* -- the end of a command -- */

bool ahci_forgotten(struct command *c)
{
    struct ahci *hba = c->port->hba;
    pthread_mutex_lock(&hba->lock);
    bool forgotten = c->port->forgotten & bit(c->slot) || c->port->s.halted;
    pthread_mutex_unlock(&hba->lock);
    return forgotten;
}

/* The slot is the driver's again. Lock held; c is not looked at any more. */
static void release(struct command *c)
{
    struct ahci_port *p = c->port;
    p->queued &= ~bit(c->slot);
    free(c->scratch);
    free(c->range);
    c->scratch = NULL;
    c->range = NULL;
    if (c->room > KEEP_ROOM) {
        free(c->iov);
        free(c->gpa);
        c->iov = NULL;
        c->gpa = NULL;
        c->room = 0;
    }
    ahci_slot_free(p, c->slot);
    if (p->s.ci & ~p->active)
        ahci_kick(p);
}

/* True if nobody is waiting for the outcome: it has been released. Lock held. */
static bool dropped(struct command *c)
{
    struct ahci_port *p = c->port;
    if (!(p->forgotten & bit(c->slot)) && !p->s.halted)
        return false;
    release(c);
    return true;
}

static void put_byte_count(struct command *c)
{
    uint8_t count[4];
    put_le32(count, (uint32_t)c->bytes);
    if (c->kind != CMD_NCQ) /* for which it means nothing (5.4.1) */
        mem_write(c->port->hba->mem, c->header + 4, count, sizeof(count));
}

void ahci_good(struct command *c)
{
    struct ahci_port *p = c->port;
    uint32_t is = c->prd_interrupt ? IS_DPS : 0;
    pthread_mutex_lock(&p->hba->lock);
    if (!dropped(c)) {
        bool posted;
        put_byte_count(c);
        if (c->kind == CMD_NCQ) {
            is |= IS_SDBS;
            posted = post_sdb(p, bit(c->slot), ATA_GOOD, 0);
        } else if (c->kind == CMD_PIO_IN) {
            is |= IS_PSS;
            posted = post_pio_setup(p, c, ATA_GOOD);
        } else {
            is |= IS_DHRS;
            posted = ahci_post_d2h(p, &c->r, ATA_GOOD, 0, true);
        }
        if (posted && c->kind != CMD_NCQ)
            p->s.ci &= ~bit(c->slot);
        ahci_interrupt(p, is);
        release(c);
    }
    pthread_mutex_unlock(&p->hba->lock);
}

void ahci_fail(struct command *c, uint8_t status, uint8_t error)
{
    struct ahci_port *p = c->port;
    pthread_mutex_lock(&p->hba->lock);
    if (!dropped(c)) {
        put_byte_count(c);
        bool queue = c->kind == CMD_NCQ || p->queued; /* a command that is not queued ends those that are, too */
        if (queue && p->kind == AHCI_DISK) {
            struct ata_state *ata = &p->ata;
            ata->queue_error = true;
            ata->error_tag = c->kind == CMD_NCQ ? (uint8_t)c->slot : 0x80;
            ata->error_status = status;
            ata->error_error = error;
            ata->error_device = c->r.device;
            ata->error_count = c->r.count;
            ata->error_lba = c->r.lba;
        }
        uint32_t is = IS_TFES | (c->kind == CMD_NCQ ? IS_SDBS : IS_DHRS);
        if (c->kind == CMD_NCQ)
            post_sdb(p, 0, status, error);
        else
            ahci_post_d2h(p, &c->r, status, error, true);
        /* The list stops here, the command's bit stays: so the driver finds out which it was (6.2.2). */
        p->s.halted = true;
        p->s.cmd = (p->s.cmd & ~(uint32_t)CMD_CCS) | c->slot << 8;
        ahci_interrupt(p, is);
        release(c);
    }
    pthread_mutex_unlock(&p->hba->lock);
}

void ahci_fault(struct command *c, uint32_t is)
{
    struct ahci_port *p = c->port;
    if (is == IS_OFS) { /* a device whose data has nowhere to go: it is told, and says so */
        pthread_mutex_lock(&p->hba->lock);
        if (!(p->forgotten & bit(c->slot)))
            p->s.is |= IS_OFS;
        pthread_mutex_unlock(&p->hba->lock);
        ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_ABRT);
        return;
    }
    pthread_mutex_lock(&p->hba->lock);
    if (!dropped(c)) {
        log_guest(&p->hba->log, "ahci: port %u: command %#x: %s", p->index, c->r.command,
                  is == IS_IFS ? "not a register FIS" : "its memory is not in RAM");
        p->s.halted = true; /* and BSY, as the device never got to the end: the driver has to reset the port */
        ahci_interrupt(p, is);
        release(c);
    }
    pthread_mutex_unlock(&p->hba->lock);
}

void ahci_ignore(struct command *c)
{
    struct ahci_port *p = c->port;
    pthread_mutex_lock(&p->hba->lock);
    release(c);
    pthread_mutex_unlock(&p->hba->lock);
}

/* A queued command is with the device, and the driver may give more. */
static bool accept_queued(struct command *c)
{
    struct ahci_port *p = c->port;
    pthread_mutex_lock(&p->hba->lock);
    bool gone = dropped(c);
    if (!gone) {
        p->queued |= bit(c->slot);
        p->s.ci &= ~bit(c->slot);
        gone = !ahci_post_d2h(p, &c->r, ATA_GOOD, 0, false);
        if (gone) {
            ahci_interrupt(p, 0);
            release(c);
        }
    }
    pthread_mutex_unlock(&p->hba->lock);
    return !gone;
}

/* -- memory -- */

static bool add_piece(struct command *c, uint8_t *p, uint64_t gpa, size_t len)
{
    if (c->niov) {
        struct iovec *last = &c->iov[c->niov - 1];
        if ((uint8_t *)last->iov_base + last->iov_len == p && c->gpa[c->niov - 1] + last->iov_len == gpa) {
            last->iov_len += len;
            return true;
        }
    }
    if (c->niov == c->room) {
        unsigned room = c->room ? 2 * c->room : 16;
        struct iovec *iov = realloc(c->iov, room * sizeof(*iov));
        if (iov)
            c->iov = iov;
        uint64_t *gpas = realloc(c->gpa, room * sizeof(*gpas));
        if (gpas)
            c->gpa = gpas;
        if (!iov || !gpas)
            return false;
        c->room = room;
    }
    c->iov[c->niov] = (struct iovec){.iov_base = p, .iov_len = len};
    c->gpa[c->niov++] = gpa;
    return true;
}

uint32_t ahci_collect(struct command *c, uint64_t want, bool to_guest, bool partial, uint64_t *got)
{
    struct guest_mem *mem = c->port->hba->mem;
    c->niov = 0;
    for (*got = 0; *got < want;) {
        uint8_t prd[PRD_LEN];
        if (c->prd >= c->prdtl)
            return partial ? 0 : IS_OFS;
        if (mem_read(mem, c->table + PRDT + PRD_LEN * (uint64_t)c->prd, prd, sizeof(prd)))
            return IS_HBFS;
        uint32_t flags = get_le32(prd + 12), len = ((flags & PRD_BYTES) | 1) + 1;
        uint64_t gpa = (get_le64(prd) & ~UINT64_C(1)) + c->prd_pos;
        if (c->prd_pos >= len) { /* the driver has shortened it meanwhile */
            c->prd++;
            c->prd_pos = 0;
            continue;
        }
        uint64_t n = len - c->prd_pos < want - *got ? len - c->prd_pos : want - *got;
        void *p = to_guest ? mem_w(mem, gpa, n) : (void *)(uintptr_t)mem_r(mem, gpa, n);
        if (!p)
            return IS_HBDS;
        if (c->niov >= PIECES_MAX && partial)
            return 0;
        if (!add_piece(c, p, gpa, n))
            return IS_HBDS; /* the host is out of memory; the driver tries again */
        *got += n;
        c->prd_pos += (uint32_t)n;
        if (c->prd_pos == len) {
            c->prd_interrupt |= (flags & PRD_INTERRUPT) != 0;
            c->prd++;
            c->prd_pos = 0;
        }
    }
    return 0;
}

void ahci_written(struct command *c, uint64_t bytes)
{
    for (unsigned i = 0; i < c->niov && bytes; i++) {
        uint64_t n = c->iov[i].iov_len < bytes ? c->iov[i].iov_len : bytes;
        mem_written(c->port->hba->mem, c->gpa[i], n);
        bytes -= n;
    }
}

static bool copy(struct command *c, uint8_t *buf, size_t len, bool to_guest)
{
    uint64_t got;
    uint32_t fault = ahci_collect(c, len, to_guest, false, &got);
    if (fault) {
        ahci_fault(c, fault);
        return false;
    }
    for (unsigned i = 0; i < c->niov; i++) {
        size_t n = c->iov[i].iov_len;
        memcpy(to_guest ? c->iov[i].iov_base : buf, to_guest ? buf : c->iov[i].iov_base, n);
        buf += n;
    }
    if (to_guest)
        ahci_written(c, len);
    c->bytes += len;
    return true;
}

bool ahci_copy_out(struct command *c, const void *buf, size_t len)
{
    return copy(c, (uint8_t *)(uintptr_t)buf, len, true);
}

bool ahci_copy_in(struct command *c, void *buf, size_t len) { return copy(c, buf, len, false); }

/* -- transfers -- */

static void start_waiting(struct ahci *hba)
{
    while (hba->waiting && hba->underway < UNDERWAY_MAX) {
        struct command *c = hba->waiting;
        hba->waiting = c->next;
        if (!hba->waiting)
            hba->end = &hba->waiting;
        run_piece(c);
        disk_submit(c->port->disk);
    }
}

/* Those that were forgotten before they began. */
static void drop_waiting(struct ahci_port *p)
{
    struct command **at = &p->hba->waiting;
    while (*at) {
        struct command *c = *at;
        if (c->port != p || !ahci_forgotten(c)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        pthread_mutex_lock(&p->hba->lock);
        release(c);
        pthread_mutex_unlock(&p->hba->lock);
    }
    p->hba->end = at;
}

static void disk_failed(struct command *c, int error)
{
    if (c->op == DISK_READ) {
        if (c->port->ata.read_errors < UINT32_MAX)
            c->port->ata.read_errors++;
        c->r.lba = c->offset / disk_info(c->port->disk)->logical;
        ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_UNC);
    } else if (error == -EROFS || error == -EOPNOTSUPP) {
        ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_ABRT);
    } else {
        c->r.lba = c->offset / disk_info(c->port->disk)->logical;
        ahci_fail(c, ATA_GOOD | ATA_ERR | ATA_DF, ATA_ABRT);
    }
}

static void on_piece(struct disk_req *req, int error)
{
    struct command *c = CONTAINER_OF(req, struct command, req);
    struct ahci *hba = c->port->hba;
    hba->underway -= c->piece;
    if (c->op == DISK_READ && !c->verify)
        ahci_written(c, c->piece); /* what was read before an error, too */
    if (ahci_forgotten(c)) {
        ahci_good(c); /* which tells nobody */
    } else if (error) {
        disk_failed(c, error);
    } else {
        c->offset += c->piece;
        c->left -= c->piece;
        c->bytes += c->verify ? 0 : c->piece;
        if (c->left) {
            ahci_transfer(c);
            disk_submit(c->port->disk);
        } else if (c->then) {
            c->then(c);
        } else {
            ahci_good(c);
        }
    }
    start_waiting(hba);
}

/* Memory for the next piece: as much of it as goes into PIECES_MAX parts, in whole sectors. */
static uint32_t find_piece(struct command *c)
{
    unsigned sector = disk_info(c->port->disk)->logical, prd = c->prd;
    uint32_t prd_pos = c->prd_pos, fault;
    uint64_t want = c->left < PIECE_MAX ? c->left : PIECE_MAX, got;
    for (;;) {
        fault = ahci_collect(c, want, c->op == DISK_READ, true, &got);
        c->piece = got;
        if (fault || got == want)
            return fault;
        if (c->niov < PIECES_MAX)
            return IS_OFS; /* the table ends here */
        want = got / sector * sector;
        c->prd = prd;
        c->prd_pos = prd_pos;
    }
}

static void run_piece(struct command *c)
{
    struct ahci *hba = c->port->hba;
    uint32_t fault = 0;
    if (c->verify)
        c->piece = c->scratch_iov.iov_len = c->left < MiB(1) ? c->left : MiB(1);
    else
        fault = find_piece(c);
    if (fault) {
        ahci_fault(c, fault);
        return;
    }
    hba->underway += c->piece;
    c->req = (struct disk_req){.op = c->op,
                               .flags = c->flags,
                               .offset = c->offset,
                               .length = c->piece,
                               .iov = c->verify ? &c->scratch_iov : c->iov,
                               .niov = c->verify ? 1 : c->niov,
                               .done = on_piece};
    disk_queue(c->port->disk, &c->req);
}

/* The next piece, or a place in the line of those that wait for others to end. */
void ahci_transfer(struct command *c)
{
    struct ahci *hba = c->port->hba;
    if (!hba->waiting && hba->underway < UNDERWAY_MAX) {
        run_piece(c);
        return;
    }
    c->next = NULL;
    *hba->end = c;
    hba->end = &c->next;
}

static void on_request(struct disk_req *req, int error)
{
    struct command *c = CONTAINER_OF(req, struct command, req);
    if (ahci_forgotten(c))
        ahci_good(c);
    else if (error)
        disk_failed(c, error);
    else if (c->then)
        c->then(c);
    else
        ahci_good(c);
}

void ahci_request(struct command *c, enum disk_op op, void (*then)(struct command *))
{
    c->op = op;
    c->then = then;
    c->req = (struct disk_req){.op = op, .offset = c->offset, .length = c->left, .done = on_request};
    disk_queue(c->port->disk, &c->req);
}

/* -- the list -- */

/* A control FIS: SRST goes up, and comes down again (10.4.1). */
static void control(struct command *c)
{
    struct ahci_port *p = c->port;
    bool srst = c->fis[15] & CONTROL_SRST;
    pthread_mutex_lock(&p->hba->lock);
    if (!dropped(c)) {
        if (p->s.srst && !srst) {
            p->forgotten = p->active & ~bit(c->slot);
            p->s.sact = 0;
            p->s.need_sign = true; /* as soon as nothing is active */
            p->hard_reset = false;
        } else if (!srst || c->clear_busy) {
            p->s.tfd &= ~(uint32_t)ATA_BSY;
        }
        p->s.srst = srst;
        p->s.ci &= ~bit(c->slot);
        release(c);
    }
    pthread_mutex_unlock(&p->hba->lock);
}

static void parse(struct command *c)
{
    const uint8_t *f = c->fis;
    c->r = (struct ata_regs){.command = f[2],
                             .device = f[7],
                             .control = f[15],
                             .features = (uint16_t)(f[3] | f[11] << 8),
                             .count = get_le16(f + 12),
                             .lba = get_le(f + 4, 3) | get_le(f + 8, 3) << 24};
}

static void begin(struct command *c)
{
    struct ahci_port *p = c->port;
    uint8_t header[HEADER_LEN];
    if (mem_read(p->hba->mem, c->header, header, sizeof(header))) {
        ahci_fault(c, IS_HBFS);
        return;
    }
    uint32_t flags = get_le32(header);
    unsigned len = (flags & 0x1f) * 4;
    c->write = flags >> 6 & 1;
    c->clear_busy = flags >> 10 & 1;
    c->prdtl = (uint16_t)(flags >> 16);
    c->table = get_le64(header + 8) & ~UINT64_C(127);
    memset(c->fis, 0, sizeof(c->fis));
    if (mem_read(p->hba->mem, c->table, c->fis, len > sizeof(c->fis) ? sizeof(c->fis) : len)) {
        ahci_fault(c, IS_HBFS);
        return;
    }
    parse(c);
    if (len < 8 || len > sizeof(c->fis) || c->fis[0] != FIS_H2D)
        ahci_fault(c, IS_IFS);
    else if (!(c->fis[1] & FIS_COMMAND))
        control(c);
    else if (p->kind == AHCI_CD)
        ahci_cd_execute(c);
    else if ((c->r.command != 0x60 && c->r.command != 0x61) || (c->kind = CMD_NCQ, accept_queued(c)))
        ahci_disk_execute(c);
}

/* A slot with a command that the device may have now; NULL: none. */
static struct command *take(struct ahci_port *p)
{
    struct command *c = NULL;
    pthread_mutex_lock(&p->hba->lock);
    uint32_t ready = p->s.ci & ~p->active;
    if (ready && p->s.cmd & CMD_ST && !p->s.halted && !p->forgotten && !p->hba->resetting && !p->s.need_sign &&
        !(p->s.tfd & (ATA_BSY | ATA_DRQ))) {
        unsigned slot = p->last;
        do
            slot = (slot + 1) % ATA_QUEUE;
        while (!(ready & bit(slot)));
        if (!p->slot[slot])
            p->slot[slot] = calloc(1, sizeof(*c));
        c = p->slot[slot];
        if (c) {
            *c = (struct command){
                .port = p, .slot = slot, .iov = c->iov, .gpa = c->gpa, .room = c->room, .header = p->s.clb + 32 * slot};
            p->last = slot;
            p->active |= bit(slot);
            p->s.cmd = (p->s.cmd & ~(uint32_t)CMD_CCS) | slot << 8;
            p->s.tfd |= ATA_BSY;
        } else { /* as if the list could not be read: the driver resets the port and tries again */
            p->s.halted = true;
            ahci_interrupt(p, IS_HBFS);
        }
    }
    pthread_mutex_unlock(&p->hba->lock);
    return c;
}

/* What the driver does not want any more of a CD drive, and a reset, which is the I/O thread's. */
static void settle_cd(struct ahci_port *p)
{
    pthread_mutex_lock(&p->hba->lock);
    bool stop = p->forgotten || (p->active && p->s.halted);
    if (p->s.need_sign && !p->active) {
        ahci_device_reset(p);
        ahci_signature(p);
    }
    pthread_mutex_unlock(&p->hba->lock);
    if (stop)
        atapi_reset(&p->atapi, false);
}

void ahci_port_run(struct ahci_port *p)
{
    struct command *c;
    unsigned n = 0;
    drop_waiting(p);
    if (p->kind == AHCI_CD)
        settle_cd(p);
    while (n++ < TURN && (c = take(p)))
        begin(c);
    if (n > TURN)
        ahci_kick(p);
    if (p->disk)
        disk_submit(p->disk);
}

void ahci_port_fini(struct ahci_port *p)
{
    for (unsigned n = 0; n < ATA_QUEUE; n++) {
        struct command *c = p->slot[n];
        if (!c)
            continue;
        free(c->iov);
        free(c->gpa);
        free(c);
    }
}
