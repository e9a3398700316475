/*
 * ATA as both sides of a cable know it (ATA/ATAPI Command Set 2, T13/2015-D):
 * bits of the task file, and what a device remembers from one command to the
 * next.
 */
#ifndef XHYVE_DEVICES_ATA_H
#define XHYVE_DEVICES_ATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/state.h"

#define ATA_BLOCK 512 /* of IDENTIFY, logs and the like, whatever a sector has */
#define ATA_QUEUE 32

enum ata_status {
    ATA_ERR = 1 << 0,
    ATA_DRQ = 1 << 3,
    ATA_DSC = 1 << 4, /* always set by disks, for old drivers */
    ATA_DF = 1 << 5,
    ATA_DRDY = 1 << 6,
    ATA_BSY = 1 << 7,
    ATA_GOOD = ATA_DRDY | ATA_DSC,
};

enum ata_error {
    ATA_ABRT = 1 << 2,
    ATA_IDNF = 1 << 4, /* no such sector */
    ATA_UNC = 1 << 6,  /* it cannot be read */
};

enum ata_device { ATA_LBA = 1 << 6, ATA_FUA = 1 << 7 /* NCQ */ };

/* A command's registers, and afterwards its outcome's. */
struct ata_regs {
    uint8_t command, device, control;
    uint16_t features, count; /* 16 bits, in commands that have them */
    uint64_t lba;             /* 48 bits */
};

enum ata_power { ATA_ACTIVE, ATA_IDLE, ATA_STANDBY, ATA_SLEEP };

#define ATA_SELF_TESTS 21 /* the log has as many */

/* What a disk remembers; the part of it that a guest can see. */
struct ata_state {
    bool write_cache, look_ahead;
    uint8_t multiple;                  /* sectors a block of READ MULTIPLE; 0: off */
    uint8_t udma, mwdma;               /* modes selected, as bits of IDENTIFY; one of them is 0 */
    uint8_t power;                     /* enum ata_power */
    bool smart, smart_autosave;        /* enabled */
    bool born;                         /* it has been reset before */
    uint32_t read_errors;              /* of the host, seen since the machine started */
    uint32_t self_tests;               /* run since then */
    uint8_t self_test[ATA_SELF_TESTS]; /* the last ones, a ring: subcommand */
    bool queue_error;                  /* of NCQ: log 10h tells of it, and until then nothing else is taken */
    uint8_t error_tag, error_status, error_error, error_device;
    uint16_t error_count;
    uint64_t error_lba;
};
extern const struct state_desc ata_state_desc;

/* Power-on and hardware reset; software settings go back to their defaults as well, as with most disks. */
void ata_state_reset(struct ata_state *, bool write_cache);
/* Does a table that was loaded hold what a disk can have? */
bool ata_state_valid(const struct ata_state *);

/* SET FEATURES, transfer mode: false if there is no such; udma: those that there are. */
bool ata_set_transfer_mode(struct ata_state *, uint8_t mode, uint8_t udma);
void ata_checksum(uint8_t page[ATA_BLOCK]); /* into its last byte */

struct disk_info;

/* IDENTIFY DEVICE. serial: up to 20 characters. */
void ata_identify(const struct ata_state *, const struct disk_info *, const char *serial, uint8_t page[ATA_BLOCK]);
/*
 * Page `page` of a general purpose log (READ LOG EXT) or of one of SMART's; false: there is no such. The contents of
 * log 10h are ata_queue_error_log()'s.
 */
bool ata_log_page(const struct ata_state *, const struct disk_info *, const char *serial, bool smart, uint8_t log,
                  uint16_t page, uint8_t out[ATA_BLOCK]);
void ata_queue_error_log(const struct ata_state *, uint8_t out[ATA_BLOCK]);
/* SMART READ DATA and READ THRESHOLDS; hours: that the machine has been on. */
void ata_smart_data(const struct ata_state *, uint32_t hours, uint8_t out[ATA_BLOCK]);
void ata_smart_thresholds(uint8_t out[ATA_BLOCK]);

#endif
