/*
 * For test_cd.py, in the guest: what busybox has no command for. Linked statically; it comes into the guest on the disc.
 *
 *     cdtool DEVICE status|disc|changed|eject|close|lock|unlock|toc|lastsession|mcn|raw|play   ioctls of <linux/cdrom.h>
 *     cdtool DEVICE packet HEX [LENGTH]       a packet as it is: "sense KEY ASC ASCQ", or "good BYTES HEX..."
 *
 * It prints one line; the status is 0 unless it was called in a wrong way.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/cdrom.h>
#include <scsi/sg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static void say(int result)
{
    if (result < 0)
        printf("error %s\n", strerror(errno));
    else
        printf("%d\n", result);
}

static void toc(int fd)
{
    struct cdrom_tochdr header;
    if (ioctl(fd, CDROMREADTOCHDR, &header) < 0) {
        say(-1);
        return;
    }
    printf("tracks %d-%d", header.cdth_trk0, header.cdth_trk1);
    for (int track = header.cdth_trk0;; track = track < header.cdth_trk1 ? track + 1 : CDROM_LEADOUT) {
        struct cdrom_tocentry entry = {.cdte_track = (unsigned char)track, .cdte_format = CDROM_LBA};
        if (ioctl(fd, CDROMREADTOCENTRY, &entry) < 0) {
            printf(" error %s", strerror(errno));
            break;
        }
        printf(" %d:%d/%d", track, entry.cdte_addr.lba, entry.cdte_ctrl);
        if (track == CDROM_LEADOUT)
            break;
    }
    printf("\n");
}

static void raw(int fd)
{
    static uint8_t sector[CD_FRAMESIZE_RAW];
    struct cdrom_msf *msf = (struct cdrom_msf *)sector;
    *msf = (struct cdrom_msf){.cdmsf_min0 = 0, .cdmsf_sec0 = 2, .cdmsf_frame0 = 16};
    if (ioctl(fd, CDROMREADRAW, sector) < 0) {
        say(-1);
        return;
    }
    for (int i = 0; i < 24; i++)
        printf("%02x", sector[i]);
    printf("\n");
}

static int packet(int fd, const char *hex, size_t len)
{
    static uint8_t data[1 << 17];
    uint8_t cdb[16] = {0}, sense[32] = {0};
    unsigned n = 0, byte;
    for (; n < sizeof(cdb) && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        cdb[n] = (uint8_t)byte;
    sg_io_hdr_t io = {.interface_id = 'S',
                      .cmdp = cdb,
                      .cmd_len = 12,
                      .dxfer_direction = len ? SG_DXFER_FROM_DEV : SG_DXFER_NONE,
                      .dxferp = data,
                      .dxfer_len = (unsigned)len,
                      .sbp = sense,
                      .mx_sb_len = sizeof(sense),
                      .timeout = 30000};
    if (len > sizeof(data))
        return 2;
    if (ioctl(fd, SG_IO, &io) < 0) {
        say(-1);
        return 0;
    }
    if (io.status || io.host_status) {
        printf("sense %x %02x %02x\n", sense[2] & 15, sense[12], sense[13]);
        return 0;
    }
    size_t got = len - (size_t)io.resid;
    printf("good %zu%s", got, got ? " " : "");
    for (size_t i = 0; i < got && i < 64; i++)
        printf("%02x", data[i]);
    printf("\n");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        unsigned long request, arg;
    } simple[] = {
        {"status", CDROM_DRIVE_STATUS, CDSL_CURRENT},
        {"disc", CDROM_DISC_STATUS, 0},
        {"changed", CDROM_MEDIA_CHANGED, CDSL_CURRENT},
        {"eject", CDROMEJECT, 0},
        {"close", CDROMCLOSETRAY, 0},
        {"lock", CDROM_LOCKDOOR, 1},
        {"unlock", CDROM_LOCKDOOR, 0},
    };
    if (argc < 3)
        return 2;
    int fd = open(argv[1], O_RDONLY | O_NONBLOCK);
    if (fd < 0) {
        say(-1);
        return 0;
    }
    for (unsigned i = 0; i < sizeof(simple) / sizeof(simple[0]); i++)
        if (!strcmp(argv[2], simple[i].name)) {
            say(ioctl(fd, simple[i].request, simple[i].arg));
            return 0;
        }
    if (!strcmp(argv[2], "toc")) {
        toc(fd);
    } else if (!strcmp(argv[2], "raw")) {
        raw(fd);
    } else if (!strcmp(argv[2], "play")) {
        struct cdrom_msf msf = {.cdmsf_sec0 = 2, .cdmsf_sec1 = 4};
        say(ioctl(fd, CDROMPLAYMSF, &msf));
    } else if (!strcmp(argv[2], "lastsession")) {
        struct cdrom_multisession session = {.addr_format = CDROM_LBA};
        int result = ioctl(fd, CDROMMULTISESSION, &session);
        say(result < 0 ? result : session.addr.lba);
    } else if (!strcmp(argv[2], "mcn")) {
        struct cdrom_mcn mcn;
        say(ioctl(fd, CDROM_GET_MCN, &mcn));
    } else if (!strcmp(argv[2], "packet") && argc > 3) {
        return packet(fd, argv[3], argc > 4 ? strtoul(argv[4], NULL, 0) : 0);
    } else {
        return 2;
    }
    return 0;
}
