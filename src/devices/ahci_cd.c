/*
 * A port's part of a CD drive: the PACKET command's way from the command table
 * to the drive (devices/atapi.h) and back, and the few ATA commands that such a
 * device has beside it (ATA8-ACS, clause 7, "PACKET feature set").
 */
#include "devices/ahci_priv.h"

enum command_code {
    DEVICE_RESET = 0x08,
    EXECUTE_DIAGNOSTIC = 0x90,
    STANDBY_IMMEDIATE = 0xe0,
    IDLE_IMMEDIATE = 0xe1,
    CHECK_POWER_MODE = 0xe5,
    SLEEP = 0xe6,
    PACKET = 0xa0,
    IDENTIFY_PACKET_DEVICE = 0xa1,
    SET_FEATURES = 0xef,
};
#define TRANSFER_MODE 0x03
#define ACMD 0x40           /* in the command table */
#define DATA_MAX MiB(128)   /* more than any command moves: READ(10) has 65535 sectors at most */
#define UDMA 0x3fu          /* modes */
#define POWER_ACTIVE 0xff   /* CHECK POWER MODE: active or idle */
#define SIGNATURE 0xeb1401u /* LBA 23:0 */

static void bad(struct command *c) { ahci_fail(c, ATA_GOOD | ATA_ERR, ATA_ABRT); }

static void on_packet(struct atapi_request *r)
{
    struct command *c = CONTAINER_OF(r, struct command, packet);
    if (!r->to_device)
        ahci_written(c, r->status & ATAPI_STATUS_CHK ? UINT64_MAX : r->bytes); /* a read may have ended halfway */
    c->bytes = r->bytes;
    c->r.count = ATAPI_REASON_DONE;
    if (r->status & ATAPI_STATUS_CHK)
        ahci_fail(c, r->status, r->error);
    else if (r->more)
        ahci_fault(c, c->short_of);
    else
        ahci_good(c);
}

static void packet(struct command *c)
{
    uint64_t got;
    c->packet = (struct atapi_request){.to_device = c->write, .done = on_packet};
    if (mem_read(c->port->hba->mem, c->table + ACMD, c->packet.cdb, sizeof(c->packet.cdb))) {
        ahci_fault(c, IS_HBFS);
        return;
    }
    /* How much of the table the command is about only the drive knows: what is wrong behind that does not matter. */
    c->short_of = ahci_collect(c, DATA_MAX, !c->write, true, &got);
    if (!c->short_of)
        c->short_of = IS_OFS;
    c->prd_interrupt = false;
    c->packet.iov = c->iov;
    c->packet.niov = c->niov;
    if (atapi_submit(&c->port->atapi, &c->packet)) /* it has one already: the driver did not wait */
        bad(c);
}

static void identify(struct command *c)
{
    uint8_t page[ATA_BLOCK];
    const struct ata_state *ata = &c->port->ata;
    atapi_identify(&c->port->atapi, page);
    page[2 * 63 + 1] = ata->mwdma;
    page[2 * 88 + 1] = ata->udma;
    if (page[2 * 255] == 0xa5)
        ata_checksum(page);
    c->kind = CMD_PIO_IN;
    if (ahci_copy_out(c, page, sizeof(page)))
        ahci_good(c);
}

void ahci_cd_execute(struct command *c)
{
    struct ahci_port *p = c->port;
    switch (c->r.command) {
    case PACKET: packet(c); break;
    case IDENTIFY_PACKET_DEVICE: identify(c); break;
    case DEVICE_RESET:
        atapi_reset(&p->atapi, false);
        c->r = (struct ata_regs){.command = DEVICE_RESET, .count = 1, .lba = SIGNATURE};
        ahci_good(c);
        break;
    case EXECUTE_DIAGNOSTIC:
        c->r = (struct ata_regs){.command = EXECUTE_DIAGNOSTIC, .count = 1, .lba = SIGNATURE};
        ahci_good(c);
        break;
    case SET_FEATURES:
        if ((c->r.features & 0xff) == TRANSFER_MODE && ata_set_transfer_mode(&p->ata, (uint8_t)c->r.count, UDMA))
            ahci_good(c);
        else
            bad(c);
        break;
    case CHECK_POWER_MODE:
        c->r.count = POWER_ACTIVE;
        ahci_good(c);
        break;
    case STANDBY_IMMEDIATE:
    case IDLE_IMMEDIATE: ahci_good(c); break;
    case SLEEP:
        ahci_good(c); /* a drive without a motor: it wakes up for whatever comes next */
        break;
    default:
        /* IDENTIFY DEVICE among them: the signature says why. */
        c->r.lba = (c->r.lba & ~UINT64_C(0xffffff)) | SIGNATURE;
        bad(c);
    }
}
