/*
 * A CD/DVD drive behind the ATA PACKET command: SCSI commands of 12 bytes, as
 * MMC-6, SPC-3 and ATA8-ACS/SFF-8020i have them for a read-only drive. The
 * medium is a disk of src/block; a sector is 2048 bytes. It knows nothing of its
 * controller: the controller takes the packet out of guest memory, checks where
 * the data may go, and hands over both.
 *
 * Threads: everything here runs on the thread of the loop that the medium was
 * opened with, the I/O thread of the controller's port, or before that thread
 * runs; there are no locks. Somebody else posts to that loop.
 *
 *     controller                            drive
 *     PACKET, 12 bytes out of guest memory
 *     atapi_submit(drive, req)         ->   done(req) at once (also from inside of atapi_submit()), or
 *                                           reads of the disk, at most ATAPI_PIECE bytes at a time, then done(req)
 *     Status, Error, PRDBC             <-   req->status, req->error, req->bytes
 *
 * A command that fails says so with CHK in Status and the sense key in Error;
 * the guest asks for the rest with REQUEST SENSE.
 */
#ifndef XHYVE_DEVICES_ATAPI_H
#define XHYVE_DEVICES_ATAPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "block/block.h"
#include "core/state.h"
#include "util/log.h"

#define ATAPI_SECTOR 2048
#define ATAPI_CDB_LEN 16       /* room in a command table; the drive's commands have 12 (IDENTIFY word 0) */
#define ATAPI_PIECE (1u << 20) /* most bytes of a request that are under way */
#define ATAPI_IOVECS 256       /* most pieces of memory that one read of the disk goes to */
#define ATAPI_SERIAL_LEN 20
#define ATAPI_RAW_SECTOR 2352

/* What the PACKET command leaves in the task file (ATA8-ACS, clause 6, and PACKET). */
enum {
    ATAPI_STATUS_CHK = 0x01,  /* of Status: CHECK CONDITION; the place of ERR */
    ATAPI_STATUS_GOOD = 0x50, /* DRDY, and bit 4 that is always set */
    ATAPI_ERROR_ABRT = 0x04,  /* of Error, beside the sense key in bits 7:4 */
    ATAPI_REASON_DONE = 0x03, /* the Interrupt Reason (Sector Count) at the end: C/D, I/O */
};

/* One PACKET command. */
struct atapi_request {
    /* The caller's; it and what it points to stay until done(). */
    uint8_t cdb[ATAPI_CDB_LEN]; /* a copy: the guest cannot change it any more */
    bool to_device;             /* the data area is read (the command header's W bit), else written */
    const struct iovec *iov;    /* the data area, checked and in guest RAM; any number and any lengths, 0 too */
    unsigned niov;
    /*
     * The command has ended and the data area is not touched any more. It may
     * submit the next one (whose done() then comes after this one has returned),
     * not call atapi_reset(), atapi_set_media() or atapi_fini().
     */
    void (*done)(struct atapi_request *);

    /* The outcome, when done() is called. */
    uint8_t status; /* ATAPI_STATUS_GOOD, perhaps with ATAPI_STATUS_CHK */
    uint8_t error;  /* sense key << 4, ATAPI_ERROR_ABRT with ABORTED COMMAND and ILLEGAL REQUEST; 0 if all is well */
    bool aborted;   /* ended by atapi_reset(): there is nobody to be told */
    /*
     * That went to or came out of the data area, from its beginning without a gap: PRDBC. With CHK a part of what lies
     * behind may have been written, too.
     */
    uint64_t bytes;
    uint64_t more; /* bytes the drive had, or wanted, beyond the end of the data area: an overflow if not 0 */

    /* The drive's while it is under way. */
    struct {
        uint64_t room;   /* bytes of the data area that are left, */
        unsigned at;     /* from this iovec on, */
        size_t skip;     /* and from this byte in it */
        uint32_t lba;    /* the next sector, */
        uint32_t left;   /* and how many from there */
        uint32_t piece;  /* of these are being read now, */
        bool bounced;    /* into the bounce buffer */
        unsigned fields; /* of each sector, for the data area */
    } work;
};

/* What a guest can see. */
struct atapi_state {
    uint8_t key, asc, ascq; /* sense of the last command, for REQUEST SENSE */
    uint32_t information;   /* its sector, if valid */
    bool information_valid;
    bool reset_attention; /* UNIT ATTENTION is due: 29h/00h, power on or reset, */
    bool media_attention; /* 28h/00h, medium may have changed */
    bool tray_open;
    bool prevented;            /* PREVENT ALLOW MEDIUM REMOVAL */
    uint8_t media_event;       /* for GET EVENT STATUS NOTIFICATION: 0 none, 1 eject request, 2 new, 3 removal */
    uint32_t sectors;          /* of the medium when the state was saved; 0: none */
    uint16_t speed;            /* SET CD SPEED: kB/s */
    uint8_t page_recovery[10]; /* mode page 01h behind its header, as MODE SELECT left it */
    uint8_t page_audio[14];    /* 0Eh */
};

struct atapi {
    struct atapi_state s;
    char serial[ATAPI_SERIAL_LEN + 1];
    struct disk *medium; /* in the tray, open or shut; NULL: none */
    uint32_t sectors;    /* of it */
    struct atapi_request *request;
    enum { ATAPI_NEW, ATAPI_READING, ATAPI_ENDED } phase; /* of the request */
    enum { ATAPI_GO_ON, ATAPI_WAS_RESET, ATAPI_WAS_OPENED } stop;
    bool settling;
    struct disk_req read;
    struct iovec piece[ATAPI_IOVECS];
    uint8_t *bounce; /* for sectors that do not go straight to the data area */
    struct log_limit log;
};

/*
 * Opens an image for atapi_init() or atapi_set_media(), read-only. The size is
 * rounded down to sectors. Options other than disk_option()'s sectorsize. As
 * disk_open(): 0, or -errno with one line in why[n].
 */
int atapi_open(const char *image, const struct disk_options *, struct loop *, struct disk **out, char *why, size_t n);

/*
 * A drive as after power-on, its tray shut, with a medium (the drive owns it
 * from now on, also after an error) or NULL. serial: 1 to ATAPI_SERIAL_LEN
 * characters of ASCII. 0 or -ENOMEM.
 */
int atapi_init(struct atapi *, struct disk *medium, const char *serial);
/* Closes the medium. A request under way is ended first. */
void atapi_fini(struct atapi *);

/* IDENTIFY PACKET DEVICE. The controller puts the transfer mode that SET FEATURES chose into words 63 and 88. */
void atapi_identify(const struct atapi *, uint8_t page[512]);

/* Begins a command. One at a time: -EBUSY, and no done(), while another is under way. */
int atapi_submit(struct atapi *, struct atapi_request *);

/*
 * hard: power-on and COMRESET: all as at the beginning, removal allowed, UNIT
 * ATTENTION. Else SRST and DEVICE RESET: only the command under way is given up.
 * The tray and the medium stay as they are. A command that is under way ends with
 * its done(), `aborted` set, when the disk is through with one read: in here, or
 * later, which is when true is returned.
 */
bool atapi_reset(struct atapi *, bool hard);

/*
 * A person changes the disc: the tray opens, the old medium is closed, the new
 * one is put in (NULL: none) and the tray shuts. The guest gets UNIT ATTENTION
 * and a media event. The drive owns the new medium once 0 is returned. A
 * request under way ends with an error first. -EBUSY: the guest has prevented
 * the removal, and force is not set; it then gets an eject request event.
 */
int atapi_set_media(struct atapi *, struct disk *medium, bool force);
/* The button on the front: opens or shuts the tray with what is in it. 0; -EBUSY as above. */
int atapi_set_tray(struct atapi *, bool open);

int atapi_save(const struct atapi *, struct state_blob *); /* with no request under way */
/*
 * -EINVAL: not a saved drive, or values that it cannot have. Another medium than
 * the one it was saved with is a change of medium.
 */
int atapi_load(struct atapi *, const uint8_t *data, size_t len, size_t *pos);

#endif
