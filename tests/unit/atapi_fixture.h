/* A drive with a disc that tests can look behind, and commands given to it, whose data area is guarded on both sides. */
#ifndef ATAPI_FIXTURE_H
#define ATAPI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "devices/atapi.h"
#include "fake_disk.h"

#define UNUSED __attribute__((unused))
#define CD_SECTORS 1000
#define DVD_SECTORS 2000000
#define AREA MiB(4)
enum { GUARD = 64, MAX_PIECES = 4096 };

static struct loop *loop;
static struct atapi drive;
static struct fake_disk *disc; /* the one last put in */

static uint8_t area[GUARD + AREA + GUARD], *const data = area + GUARD;

/* One command. */
static struct atapi_request req;
static struct iovec pieces[MAX_PIECES];
static unsigned dones;

static UNUSED struct disk *new_disc(uint64_t sectors)
{
    disc = fake_disk_new(loop, sectors * ATAPI_SECTOR);
    assert_non_null(disc);
    return &disc->disk;
}

static void on_done(struct atapi_request *r)
{
    assert_ptr_equal(r, &req);
    dones++;
}

/* The data area: `len` bytes, in pieces of `cut` bytes. */
static void layout(size_t len, size_t cut)
{
    assert_true(len <= AREA);
    memset(area, 0xa5, GUARD + len + GUARD);
    req.iov = pieces;
    req.niov = 0;
    for (size_t at = 0; at < len; at += cut) {
        assert_true(req.niov < MAX_PIECES);
        pieces[req.niov++] = (struct iovec){data + at, len - at < cut ? len - at : cut};
    }
}

static void guarded(size_t len)
{
    for (size_t i = 0; i < GUARD; i++)
        if (area[i] != 0xa5 || data[len + i] != 0xa5)
            fail_msg("wrote outside of the data area of %zu bytes", len);
    for (size_t i = (size_t)req.bytes; i < len && !req.to_device; i++)
        if (data[i] != 0xa5)
            fail_msg("wrote behind the %llu bytes it says", (unsigned long long)req.bytes);
}

static void begin_cmd(const uint8_t *cdb)
{
    memcpy(req.cdb, cdb, ATAPI_CDB_LEN);
    req.done = on_done;
    dones = 0;
    assert_int_equal(atapi_submit(&drive, &req), 0);
}

/* The disk takes a turn of the loop now and then. */
static void finish_cmd(void)
{
    for (unsigned i = 0; !dones && i < 100000; i++)
        assert_int_equal(loop_turn(loop, 1000), 0);
    assert_int_equal(dones, 1);
}

/* Gives a command with a data area of `len` bytes that it may write. The sense it left, 0: good. */
static unsigned run_area(const uint8_t *cdb, size_t len, size_t cut)
{
    req.to_device = false;
    layout(len, cut);
    begin_cmd(cdb);
    finish_cmd();
    guarded(len);
    assert_false(req.aborted);
    if (req.status == 0x50) {
        assert_int_equal(req.error, 0);
        return 0;
    }
    assert_int_equal(req.status, 0x51);
    assert_int_equal(req.error >> 4, drive.s.key);
    assert_int_equal(req.error & 15, drive.s.key == 5 ? 4 : 0);
    return (unsigned)drive.s.key << 16 | (unsigned)drive.s.asc << 8 | drive.s.ascq;
}

/* The same with a parameter list. */
static UNUSED unsigned run_out(const uint8_t *cdb, const void *list, size_t len)
{
    static uint8_t copy[512];
    memcpy(copy, list, len);
    req.to_device = true;
    pieces[0] = (struct iovec){copy, len / 2};
    pieces[1] = (struct iovec){copy + len / 2, len - len / 2};
    req.iov = pieces;
    req.niov = 2;
    begin_cmd(cdb);
    assert_int_equal(dones, 1);
    assert_memory_equal(copy, list, len);
    return (unsigned)drive.s.key << 16 | (unsigned)drive.s.asc << 8 | drive.s.ascq;
}

/* CMD(bytes of the packet): with a data area of 4096 bytes. */
#define CDB(...) ((const uint8_t[ATAPI_CDB_LEN]){__VA_ARGS__})
#define CMD(...) run_area(CDB(__VA_ARGS__), 4096, 4096)

/* The answer has exactly these bytes. */
#define assert_data(...)                                                                                               \
    do {                                                                                                               \
        static const uint8_t wanted_[] = {__VA_ARGS__};                                                                \
        assert_int_equal(req.bytes, sizeof(wanted_));                                                                  \
        assert_memory_equal(data, wanted_, sizeof(wanted_));                                                           \
    } while (0)

/* REQUEST SENSE, as a driver sends it after a CHECK CONDITION. */
static UNUSED unsigned sense(void)
{
    assert_int_equal(CMD(0x03, 0, 0, 0, 18), 0);
    assert_int_equal(req.bytes, 18);
    assert_int_equal(data[0] & 0x7f, 0x70);
    assert_int_equal(data[7], 10);
    return (unsigned)data[2] << 16 | (unsigned)data[12] << 8 | data[13];
}

/* GET EVENT STATUS NOTIFICATION for media, as Linux polls: event << 8 | status. */
static UNUSED unsigned media_event(void)
{
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 0);
    assert_int_equal(req.bytes, 8);
    assert_int_equal(data[1], 6);
    assert_int_equal(data[2], 4);
    return (unsigned)data[4] << 8 | data[5];
}

/* A drive that has told of its reset. */
static UNUSED void new_drive(uint64_t sectors)
{
    assert_int_equal(atapi_init(&drive, sectors ? new_disc(sectors) : NULL, "SERIAL-1"), 0);
    assert_int_equal(CMD(0x00), 0x062900);
}

static UNUSED int open_loop(void **state) { return loop_new(&loop); }
static UNUSED int close_loop(void **state)
{
    loop_free(loop);
    return 0;
}

/* -- before and after a test -- */

static UNUSED int setup_cd(void **state)
{
    new_drive(CD_SECTORS);
    return 0;
}

static UNUSED int setup_dvd(void **state)
{
    new_drive(DVD_SECTORS);
    return 0;
}

static UNUSED int setup_empty(void **state)
{
    new_drive(0);
    return 0;
}

static UNUSED int teardown(void **state)
{
    atapi_fini(&drive);
    return 0;
}

#endif
