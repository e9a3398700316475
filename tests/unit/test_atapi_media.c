/*
 * devices/atapi: discs that come and go in the orders that drivers and installers
 * see, the lock, events, UNIT ATTENTION, resets, opening images, and a drive that is saved and loaded on the way.
 */
#include "atapi_fixture.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { EJECT_REQUEST = 0x100, NEW_MEDIA = 0x200, REMOVAL = 0x300, PRESENT = 2, OPEN = 1 };

static unsigned eject(void) { return CMD(0x1b, 0, 0, 0, 2); }
static unsigned load(void) { return CMD(0x1b, 0, 0, 0, 3); }
static unsigned prevent(bool on) { return CMD(0x1e, 0, 0, 0, on); }
static unsigned ready(void) { return CMD(0x00); }

/* Saves the drive, spoils it, loads it: it must not notice. */
static void save_and_load(void)
{
    struct state_blob blob = {0};
    struct atapi_state before;
    size_t pos = 0;
    assert_int_equal(atapi_save(&drive, &blob), 0);
    before = drive.s;
    memset(&drive.s, 0x55, sizeof(drive.s));
    assert_int_equal(atapi_load(&drive, blob.data, blob.len, &pos), 0);
    assert_int_equal(pos, blob.len);
    before.sectors = drive.s.sectors;
    assert_memory_equal(&drive.s.page_recovery, &before.page_recovery, sizeof(before.page_recovery));
    assert_memory_equal(&drive.s.page_audio, &before.page_audio, sizeof(before.page_audio));
    assert_int_equal(drive.s.media_event, before.media_event);
    free(blob.data);
}

/* -- the guest's own -- */

static void power_on(void **state)
{
    assert_int_equal(atapi_init(&drive, new_disc(CD_SECTORS), "S"), 0);
    assert_int_equal(CMD(0x12, 0, 0, 0, 36), 0); /* these do not tell */
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_int_equal(media_event(), PRESENT);
    assert_int_equal(CMD(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16), 0);
    assert_int_equal(CMD(0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255), 0x062900);
    save_and_load();
    assert_int_equal(sense(), 0x062900);
    assert_int_equal(sense(), 0);
    assert_int_equal(ready(), 0);
    atapi_fini(&drive);
    /* REQUEST SENSE that comes first takes it too. */
    assert_int_equal(atapi_init(&drive, NULL, "S"), 0);
    assert_int_equal(sense(), 0x062900);
    assert_int_equal(ready(), 0x023a01);
    assert_int_equal(sense(), 0x023a01);
    atapi_fini(&drive);
}

/* `eject`, and then `eject -t`. */
static void tray(void **state)
{
    assert_int_equal(eject(), 0);
    assert_int_equal(media_event(), REMOVAL | OPEN);
    assert_int_equal(media_event(), OPEN);
    assert_int_equal(ready(), 0x023a02);
    save_and_load();
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x023a02);
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_int_equal(data[7], 0); /* no profile */
    assert_int_equal(eject(), 0); /* it is open already */
    assert_int_equal(media_event(), OPEN);
    assert_int_equal(load(), 0);
    save_and_load();
    assert_int_equal(media_event(), NEW_MEDIA | PRESENT);
    assert_int_equal(media_event(), PRESENT);
    assert_int_equal(ready(), 0); /* the same disc, and the guest knows */
    assert_int_equal(load(), 0);  /* it is shut already */
    assert_int_equal(ready(), 0);
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0);
}

static void lock(void **state)
{
    assert_int_equal(prevent(true), 0);
    assert_int_equal(eject(), 0x055302);
    assert_int_equal(sense(), 0x055302);
    assert_int_equal(ready(), 0);
    save_and_load();
    assert_int_equal(eject(), 0x055302);
    /* Somebody at the host presses the button: the guest is asked, unlocks, and ejects itself. */
    assert_int_equal(atapi_set_tray(&drive, true), -EBUSY);
    assert_int_equal(ready(), 0);
    assert_int_equal(media_event(), EJECT_REQUEST | PRESENT);
    assert_int_equal(prevent(false), 0);
    assert_int_equal(eject(), 0);
    assert_int_equal(media_event(), REMOVAL | OPEN);
    assert_int_equal(prevent(true), 0); /* what is open can be shut; then it holds */
    assert_int_equal(load(), 0);
    assert_int_equal(ready(), 0);
    assert_int_equal(eject(), 0x055302);
    assert_int_equal(prevent(false), 0);
    assert_int_equal(atapi_set_tray(&drive, true), 0);
    assert_int_equal(atapi_set_tray(&drive, false), 0);
    assert_int_equal(ready(), 0x062800); /* which it does not know */
    assert_int_equal(sense(), 0x062800);
    assert_int_equal(ready(), 0);
}

/* A short answer does not lose the event. */
static void event_kept(void **state)
{
    assert_int_equal(atapi_set_media(&drive, new_disc(50), false), 0);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 4), 0);
    assert_data(0, 6, 4, 0x56);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x12, 0, 0, 0, 8), 0); /* and it comes before others */
    assert_data(0, 6, 4, 0x56, 2, 2, 0, 0);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x12, 0, 0, 0, 8), 0);
    assert_data(0, 6, 1, 0x56, 0, 0, 0, 0);
}

/* -- the host's -- */

/* An installer asks for its second disc; the drive was locked while the first one was mounted. */
static void second_disc(void **state)
{
    bool closed = false;
    disc->closed = &closed;
    assert_int_equal(prevent(true), 0);
    struct disk *second = new_disc(77);
    assert_int_equal(atapi_set_media(&drive, second, false), -EBUSY); /* it still reads the first one */
    assert_false(closed);
    assert_int_equal(media_event(), EJECT_REQUEST | PRESENT);
    assert_int_equal(CMD(0x25), 0);
    assert_data(0, 0, 3, 0xe7, 0, 0, 8, 0);
    assert_int_equal(prevent(false), 0);
    assert_int_equal(atapi_set_media(&drive, second, false), 0);
    assert_true(closed);
    assert_int_equal(media_event(), NEW_MEDIA | PRESENT);
    save_and_load();
    assert_int_equal(CMD(0x25), 0x062800);
    assert_int_equal(CMD(0x25), 0);
    assert_data(0, 0, 0, 76, 0, 0, 8, 0);
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 77, 0, 0, 1), 0x052100);
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 76, 0, 0, 1), 0);
}

static void by_force(void **state)
{
    assert_int_equal(prevent(true), 0);
    assert_int_equal(atapi_set_media(&drive, NULL, true), 0);
    assert_int_equal(media_event(), REMOVAL);
    assert_int_equal(ready(), 0x023a01);
    assert_int_equal(atapi_set_media(&drive, new_disc(5), false), 0); /* the lock keeps discs in, not out */
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(ready(), 0);
    assert_int_equal(eject(), 0x055302); /* and it is as the guest left it */
}

/* A guest that starts without a disc gets one, and another one, and loses it. */
static void into_empty(void **state)
{
    assert_int_equal(ready(), 0x023a01);
    assert_int_equal(media_event(), 0);
    assert_int_equal(atapi_set_media(&drive, NULL, false), 0);
    assert_int_equal(media_event(), 0);
    assert_int_equal(atapi_set_media(&drive, new_disc(DVD_SECTORS), false), 0);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_int_equal(data[7], 0x10);
    assert_int_equal(atapi_set_media(&drive, new_disc(10), false), 0);
    assert_int_equal(atapi_set_media(&drive, new_disc(20), false), 0); /* nobody looked in between */
    assert_int_equal(media_event(), NEW_MEDIA | PRESENT);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(ready(), 0);
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_int_equal(data[7], 0x08);
    assert_int_equal(atapi_set_media(&drive, new_disc(20), false), 0);
    assert_int_equal(atapi_set_media(&drive, NULL, false), 0);
    assert_int_equal(media_event(), REMOVAL);
    assert_int_equal(ready(), 0x023a01); /* nothing has changed that could be read */
}

/* The guest has opened the tray; somebody puts another disc in. */
static void into_open_tray(void **state)
{
    assert_int_equal(eject(), 0);
    assert_int_equal(media_event(), REMOVAL | OPEN);
    assert_int_equal(atapi_set_media(&drive, new_disc(33), false), 0);
    assert_int_equal(media_event(), NEW_MEDIA | PRESENT);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(ready(), 0);
    assert_int_equal(atapi_set_tray(&drive, true), 0);
    assert_int_equal(ready(), 0x023a02);
    assert_int_equal(atapi_set_tray(&drive, true), 0);
    assert_int_equal(atapi_set_tray(&drive, false), 0);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(atapi_set_tray(&drive, false), 0);
    assert_int_equal(ready(), 0);
}

/* -- while a read is under way -- */

static void begin_read(void)
{
    disc->hold = true;
    req.to_device = false;
    layout(AREA, AREA);
    begin_cmd(CDB(0x28, 0, 0, 0, 0, 0, 0, 3, 0));
    assert_int_equal(dones, 0);
}

static void changed_under_read(void **state)
{
    bool closed = false;
    disc->closed = &closed;
    begin_read();
    assert_int_equal(atapi_set_media(&drive, new_disc(CD_SECTORS), false), 0);
    assert_true(closed);
    assert_int_equal(dones, 1);
    assert_int_equal(req.status, 0x51);
    assert_int_equal(req.error, 0x20);
    assert_false(req.aborted);
    assert_int_equal(req.bytes, 0);
    assert_int_equal(sense(), 0x023a02);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(ready(), 0);

    begin_read();
    assert_int_equal(atapi_set_tray(&drive, true), 0);
    assert_int_equal(dones, 0); /* the memory is not the guest's again before the disk is through */
    fake_disk_release(disc);
    assert_int_equal(dones, 1);
    assert_int_equal(sense(), 0x023a02);
}

static void reset_under_read(void **state)
{
    begin_read();
    assert_true(atapi_reset(&drive, true));
    assert_int_equal(dones, 0);
    assert_int_equal(atapi_submit(&drive, &req), -EBUSY);
    assert_true(atapi_reset(&drive, false)); /* once more */
    disc->reads = 0;
    fake_disk_release(disc);
    assert_int_equal(dones, 1);
    assert_true(req.aborted);
    assert_int_equal(disc->reads, 0); /* the rest is not read */
    disc->hold = false;
    assert_int_equal(ready(), 0x062900);
    assert_int_equal(ready(), 0);

    begin_read(); /* SRST: it goes on as if there had been nothing */
    assert_true(atapi_reset(&drive, false));
    fake_disk_release(disc);
    assert_true(req.aborted);
    disc->hold = false;
    assert_int_equal(sense(), 0);
    assert_int_equal(ready(), 0);

    begin_read(); /* and the end of the machine */
    bool closed = false;
    disc->closed = &closed;
    atapi_fini(&drive);
    assert_true(closed);
    assert_int_equal(dones, 1);
    assert_true(req.aborted);
    new_drive(CD_SECTORS);
}

static void resets(void **state)
{
    static const uint8_t list[20] = {[8] = 1, 10, 0x20, 9};
    assert_int_equal(run_out(CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, 20), list, 20), 0);
    assert_int_equal(prevent(true), 0);
    assert_int_equal(CMD(0xbb, 0, 1, 0), 0);
    save_and_load();
    assert_int_equal(CMD(0x99), 0x052000);
    assert_false(atapi_reset(&drive, false)); /* SRST, DEVICE RESET: modes, lock and sense stay */
    assert_int_equal(sense(), 0x052000);
    assert_int_equal(drive.s.page_recovery[1], 9);
    assert_int_equal(eject(), 0x055302);
    assert_false(atapi_reset(&drive, true));
    assert_int_equal(ready(), 0x062900);
    assert_int_equal(drive.s.page_recovery[1], 5);
    assert_int_equal(drive.s.speed, 7056);
    assert_int_equal(eject(), 0);
    assert_false(atapi_reset(&drive, true)); /* a reset moves no tray */
    assert_int_equal(ready(), 0x062900);
    assert_int_equal(ready(), 0x023a02);
    assert_int_equal(media_event(), REMOVAL | OPEN);
    assert_int_equal(atapi_set_tray(&drive, false), 0);
    assert_false(atapi_reset(&drive, true)); /* a change that has not been told of is not forgotten */
    assert_int_equal(ready(), 0x062900);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(ready(), 0);
}

/* -- saved and loaded -- */

static void other_disc(void **state)
{
    struct state_blob blob = {0};
    size_t pos = 0;
    assert_int_equal(prevent(true), 0);
    assert_int_equal(CMD(0x99), 0x052000);
    assert_int_equal(atapi_save(&drive, &blob), 0);
    atapi_fini(&drive);

    assert_int_equal(atapi_init(&drive, new_disc(CD_SECTORS), "S"), 0);
    assert_int_equal(atapi_load(&drive, blob.data, blob.len, &pos), 0);
    assert_int_equal(sense(), 0x052000);
    assert_int_equal(ready(), 0); /* no reset, no change */
    assert_int_equal(eject(), 0x055302);
    atapi_fini(&drive);

    pos = 0;
    assert_int_equal(atapi_init(&drive, new_disc(CD_SECTORS + 1), "S"), 0);
    assert_int_equal(atapi_load(&drive, blob.data, blob.len, &pos), 0);
    assert_int_equal(media_event(), NEW_MEDIA | PRESENT);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(CMD(0x25), 0);
    assert_int_equal(get_le32(data), 0xe8030000u);
    atapi_fini(&drive);

    pos = 0;
    assert_int_equal(atapi_init(&drive, NULL, "S"), 0);
    assert_int_equal(atapi_load(&drive, blob.data, blob.len, &pos), 0);
    assert_int_equal(media_event(), REMOVAL);
    assert_int_equal(ready(), 0x023a01);
    free(blob.data);
}

static void bad_state(void **state)
{
    struct atapi_state good = drive.s;
    for (unsigned i = 0; i < 6; i++) {
        struct state_blob blob = {0};
        size_t pos = 0;
        drive.s = good;
        switch (i) {
        case 0: drive.s.key = 16; break;
        case 1: drive.s.media_event = 4; break;
        case 2: drive.s.speed = 7057; break;
        case 3: drive.s.page_recovery[2] = 1; break;
        case 4: drive.s.page_audio[13] ^= 0xff; break; /* a volume may be anything */
        default: drive.s.page_audio[0] = 0; break;
        }
        assert_int_equal(atapi_save(&drive, &blob), 0);
        assert_int_equal(atapi_load(&drive, blob.data, blob.len, &pos), i == 4 ? 0 : -EINVAL);
        assert_int_equal(pos, i == 4 ? blob.len : 0);
        pos = 0;
        assert_int_equal(atapi_load(&drive, blob.data, blob.len - 1, &pos), -EINVAL);
        free(blob.data);
        assert_int_equal(CMD(0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255), 0x062900); /* as after a reset */
        assert_int_equal(CMD(0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255), 0);
    }
}

/* -- images -- */

static char image[] = "/tmp/xhyve-cd.XXXXXX";

static void truncate_image(off_t size) { assert_int_equal(truncate(image, size), 0); }

static void images(void **state)
{
    struct disk_options o = {0}, other = {.logical = 512};
    struct disk *disk;
    char why[512];
    int fd = mkstemp(image);
    assert_true(fd >= 0);
    truncate_image(10 * 2048);
    assert_int_equal(pwrite(fd, "CD001", 5, 9 * 2048), 5);
    close(fd);
    assert_int_equal(atapi_open(image, &o, loop, &disk, why, sizeof(why)), 0);
    struct disk *second; /* it is read-only, so another VM may have it too */
    assert_int_equal(atapi_open(image, &o, loop, &second, why, sizeof(why)), 0);
    disk_close(second);
    assert_true(disk_info(disk)->ro);
    assert_int_equal(atapi_set_media(&drive, disk, false), 0);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(CMD(0x28, 0, 0, 0, 0, 9, 0, 0, 1), 0);
    assert_int_equal(req.bytes, 2048);
    assert_memory_equal(data, "CD001\0", 6);
    assert_int_equal(atapi_set_media(&drive, NULL, false), 0);

    truncate_image(10 * 2048 + 1536); /* part of a sector is none */
    assert_int_equal(atapi_open(image, &o, loop, &disk, why, sizeof(why)), 0);
    assert_int_equal(atapi_set_media(&drive, disk, false), 0);
    assert_int_equal(ready(), 0x062800);
    assert_int_equal(CMD(0x25), 0);
    assert_data(0, 0, 0, 9, 0, 0, 8, 0);

    assert_int_equal(atapi_open(image, &other, loop, &disk, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "sectorsize=512"));
    other.logical = 2048;
    assert_int_equal(atapi_open(image, &other, loop, &disk, why, sizeof(why)), 0);
    disk_close(disk);
    truncate_image(1536);
    assert_int_equal(atapi_open(image, &o, loop, &disk, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "1536 bytes"));
    assert_null(disk);
    truncate_image(0);
    assert_int_equal(atapi_open(image, &o, loop, &disk, why, sizeof(why)), -EINVAL);
    unlink(image);
    assert_int_equal(atapi_open(image, &o, loop, &disk, why, sizeof(why)), -ENOENT);
    assert_non_null(strstr(why, image));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_on),
        cmocka_unit_test_setup_teardown(tray, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(lock, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(event_kept, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(second_disc, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(by_force, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(into_empty, setup_empty, teardown),
        cmocka_unit_test_setup_teardown(into_open_tray, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(changed_under_read, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(reset_under_read, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(resets, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(other_disc, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(bad_state, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(images, setup_empty, teardown),
    };
    return cmocka_run_group_tests(tests, open_loop, close_loop);
}
