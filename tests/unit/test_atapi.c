/* devices/atapi*: every command of the drive, its answers to the byte, and every error. */
#include "atapi_fixture.h"

/* -- what it says of itself -- */

static void identify(void **state)
{
    uint8_t page[512];
    atapi_identify(&drive, page);
    assert_int_equal(get_le16(page), 0x85c0);
    assert_memory_equal(page + 20, "ESIRLA1-            ", 20); /* two characters a word, the first on top */
    assert_memory_equal(page + 46, ".1 0    ", 8);
    assert_memory_equal(page + 54, "HXVY EDCD/DVR-MO", 16);
    assert_int_equal(get_le16(page + 98) & 0x0300, 0x0300);  /* DMA, LBA */
    assert_int_equal(get_le16(page + 164) & 0x0210, 0x0210); /* PACKET, DEVICE RESET */
    assert_int_equal(get_le16(page + 176) & 0xff, 0x3f);     /* Ultra DMA */
    assert_int_equal(get_le16(page + 124), 0);               /* no DMADIR */
}

static void inquiry(void **state)
{
    static const char who[] = "XHYVE   CD/DVD-ROM      1.0 ";
    assert_int_equal(CMD(0x12, 0, 0, 0, 36), 0);
    assert_int_equal(req.bytes, 36);
    assert_memory_equal(data, "\x05\x80\x05\x02\x1f\0\0\0", 8);
    assert_memory_equal(data + 8, who, 28);
    assert_int_equal(CMD(0x12, 0, 0, 1, 0), 0); /* 16 bits of allocation length */
    assert_int_equal(req.bytes, 36);
    for (uint8_t n = 0; n < 36; n++) {
        assert_int_equal(CMD(0x12, 0, 0, 0, n), 0);
        assert_int_equal(req.bytes, n);
        assert_int_equal(req.more, 0);
    }
    assert_int_equal(CMD(0x12, 0, 0x80, 0, 36), 0x052400);

    assert_int_equal(CMD(0x12, 1, 0x00, 0, 255), 0);
    assert_data(5, 0, 0, 3, 0x00, 0x80, 0x83);
    assert_int_equal(CMD(0x12, 1, 0x80, 0, 255), 0);
    assert_data(5, 0x80, 0, 20, 'S', 'E', 'R', 'I', 'A', 'L', '-', '1', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ',
                ' ', ' ', ' ');
    assert_int_equal(CMD(0x12, 1, 0x83, 0, 255), 0);
    assert_int_equal(req.bytes, 52);
    assert_memory_equal(data, "\x05\x83\0\x30\x02\x01\0\x2cXHYVE   CD/DVD-ROM      SERIAL-1            ", 52);
    assert_int_equal(CMD(0x12, 1, 0x83, 0, 5), 0);
    assert_int_equal(req.bytes, 5);
    assert_int_equal(CMD(0x12, 1, 0xb0, 0, 255), 0x052400);
}

static void report_luns(void **state)
{
    assert_int_equal(CMD(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16), 0);
    assert_data(0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0xa0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), 0);
    assert_data(0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0xa0, 0, 3, 0, 0, 0, 0, 0, 0, 16), 0x052400);
}

static void features(void **state)
{
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_data(0, 0, 0, 108, 0, 0, 0, 0x08,                 /* a CD */
                0, 0, 0x03, 8, 0, 0x10, 0, 0, 0, 0x08, 1, 0, /* profiles */
                0, 1, 0x0b, 8, 0, 0, 0, 7, 0, 0, 0, 0,       /* core */
                0, 2, 0x07, 4, 0, 0, 0, 0,                   /* morphing */
                0, 3, 0x07, 4, 0x39, 0, 0, 0,                /* removable medium */
                0, 0x10, 0x01, 8, 0, 0, 8, 0, 0, 1, 1, 0,    /* random readable */
                0, 0x1e, 0x09, 4, 0, 0, 0, 0,                /* CD read */
                0, 0x1f, 0x04, 4, 0, 0, 0, 0,                /* DVD read: not now */
                1, 0, 0x03, 0,                               /* power management */
                1, 5, 0x07, 4, 0, 0, 0, 0,                   /* timeout */
                1, 8, 0x03, 20, 'S', 'E', 'R', 'I', 'A', 'L', '-', '1', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ',
                ' ', ' ', ' ');
    assert_int_equal(CMD(0x46, 1, 0, 0x1e, 0, 0, 0, 1, 0), 0); /* those that are current, from 1Eh on */
    assert_int_equal(get_le32(data), 48u << 24);
    assert_int_equal(data[9], 0x1e);
    assert_int_equal(data[17], 0x00);                       /* 0100h; not 1Fh */
    assert_int_equal(CMD(0x46, 2, 0, 3, 0, 0, 0, 1, 0), 0); /* one */
    assert_data(0, 0, 0, 12, 0, 0, 0, 8, 0, 3, 0x07, 4, 0x39, 0, 0, 0);
    assert_int_equal(CMD(0x46, 2, 0, 4, 0, 0, 0, 1, 0), 0); /* that it has not */
    assert_data(0, 0, 0, 4, 0, 0, 0, 8);
    assert_int_equal(CMD(0x46, 0, 0xff, 0xff, 0, 0, 0, 1, 0), 0);
    assert_int_equal(req.bytes, 8);
    assert_int_equal(CMD(0x46, 0, 0, 0, 0, 0, 0, 0, 8), 0); /* how much there would be */
    assert_data(0, 0, 0, 108, 0, 0, 0, 8);
    assert_int_equal(CMD(0x46, 3, 0, 0, 0, 0, 0, 1, 0), 0x052400);
}

static void features_dvd(void **state)
{
    assert_int_equal(CMD(0x46, 2, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_data(0, 0, 0, 16, 0, 0, 0, 0x10, 0, 0, 0x03, 8, 0, 0x10, 1, 0, 0, 0x08, 0, 0);
    assert_int_equal(CMD(0x46, 2, 0, 0x10, 0, 0, 0, 1, 0), 0);
    assert_data(0, 0, 0, 16, 0, 0, 0, 0x10, 0, 0x10, 0x01, 8, 0, 0, 8, 0, 0, 16, 1, 0);
    assert_int_equal(CMD(0x46, 1, 0, 0x1e, 0, 0, 0, 1, 0), 0);
    assert_int_equal(data[9], 0x1f);
}

static void features_empty(void **state)
{
    assert_int_equal(CMD(0x46, 2, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_data(0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0x03, 8, 0, 0x10, 0, 0, 0, 0x08, 0, 0);
    assert_int_equal(CMD(0x46, 1, 0, 0x10, 0, 0, 0, 1, 0), 0);
    assert_int_equal(data[8], 1); /* 0100h: none of the reading ones */
}

/* The longest CD and the shortest DVD. */
static void profiles(void **state)
{
    enum { LONGEST = (99 * 60 + 59) * 75 + 74 - 150 };
    new_drive(LONGEST);
    assert_int_equal(CMD(0x46, 2, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_int_equal(data[7], 8);
    atapi_fini(&drive);
    new_drive(LONGEST + 1);
    assert_int_equal(CMD(0x46, 2, 0, 0, 0, 0, 0, 1, 0), 0);
    assert_int_equal(data[7], 0x10);
    atapi_fini(&drive);
}

static void mechanism_status(void **state)
{
    assert_int_equal(CMD(0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), 0);
    assert_data(0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 2), 0);
    assert_int_equal(CMD(0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 4), 0);
    assert_data(0, 0x10, 0, 0);
}

/* -- mode pages -- */

#define PAGE_01 0x01, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0
#define PAGE_0E 0x0e, 14, 4, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0
#define PAGE_1A 0x1a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
#define PAGE_2A(lock, hi, lo)                                                                                          \
    0x2a, 24, 0x0b, 0, 0x70, 0, 0x29 | (lock), 0, 0x1b, 0x90, 0, 0, 2, 0, hi, lo, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0

static void mode_sense(void **state)
{
    assert_int_equal(CMD(0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 18, 0, 0, 0, 0, 0, 0, PAGE_01);
    assert_int_equal(CMD(0x5a, 8, 0x0e, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 22, 0, 0, 0, 0, 0, 0, PAGE_0E);
    assert_int_equal(CMD(0x5a, 0, 0x1a, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 18, 0, 0, 0, 0, 0, 0, PAGE_1A);
    assert_int_equal(CMD(0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 32, 0, 0, 0, 0, 0, 0, PAGE_2A(0, 0x1b, 0x90));
    assert_int_equal(CMD(0x5a, 0, 0x3f, 0xff, 0, 0, 0, 1, 0), 0);
    assert_data(0, 72, 0, 0, 0, 0, 0, 0, PAGE_01, PAGE_0E, PAGE_1A, PAGE_2A(0, 0x1b, 0x90));
    assert_int_equal(CMD(0x1a, 0, 0x2a, 0, 255), 0);
    assert_data(29, 0, 0, 0, PAGE_2A(0, 0x1b, 0x90));
    assert_int_equal(CMD(0x1a, 0, 0x3f, 0, 10), 0);
    assert_data(69, 0, 0, 0, 1, 10, 0, 5, 0, 0);
    assert_int_equal(CMD(0x5a, 0, 0x41, 0, 0, 0, 0, 0, 255), 0); /* what can be changed */
    assert_data(0, 18, 0, 0, 0, 0, 0, 0, 0x01, 10, 0x37, 0xff, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x5a, 0, 0x4e, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 22, 0, 0, 0, 0, 0, 0, 0x0e, 14, 0, 0, 0, 0, 0, 0, 15, 255, 15, 255, 15, 255, 15, 255);
    assert_int_equal(CMD(0x5a, 0, 0x6a, 0, 0, 0, 0, 0, 10), 0);
    assert_data(0, 32, 0, 0, 0, 0, 0, 0, 0x2a, 24);
    assert_int_equal(CMD(0x5a, 0, 0xc1, 0, 0, 0, 0, 0, 255), 0x053900); /* saved ones */
    assert_int_equal(CMD(0x5a, 0, 0x05, 0, 0, 0, 0, 0, 255), 0x052400);
    assert_int_equal(CMD(0x5a, 0, 0x01, 1, 0, 0, 0, 0, 255), 0x052400); /* a subpage */
    assert_int_equal(CMD(0x5a, 0, 0x01, 0xff, 0, 0, 0, 0, 255), 0x052400);
    assert_int_equal(CMD(0x1e, 0, 0, 0, 1), 0);    /* the lock shows, */
    assert_int_equal(CMD(0xbb, 0, 0x03, 0x72), 0); /* so does the speed */
    assert_int_equal(CMD(0x1a, 0, 0x2a, 0, 255), 0);
    assert_data(29, 0, 0, 0, PAGE_2A(2, 0x03, 0x72));
    assert_int_equal(CMD(0xbb, 0, 0xff, 0xff), 0);
    assert_int_equal(CMD(0x1a, 0, 0x2a, 0, 255), 0);
    assert_data(29, 0, 0, 0, PAGE_2A(2, 0x1b, 0x90));
}

#define SELECT(...) run_out(select, ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))
static void mode_select(void **state)
{
    uint8_t select[ATAPI_CDB_LEN] = {0x55, 0x10, 0, 0, 0, 0, 0, 0, 20};
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 0x81, 10, 0x20, 9, 0, 0, 0, 0, 0, 0, 0, 0), 0);
    assert_int_equal(req.bytes, 20);
    assert_int_equal(req.more, 0);
    assert_int_equal(CMD(0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 18, 0, 0, 0, 0, 0, 0, 0x01, 10, 0x20, 9, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x5a, 0, 0x81, 0, 0, 0, 0, 0, 255), 0); /* the default is still the default */
    assert_data(0, 18, 0, 0, 0, 0, 0, 0, PAGE_01);

    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 1, 10, 0x40, 9, 0, 0, 0, 0, 0, 0, 0, 0), 0x052600);
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0), 0x052600);
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 5, 10, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0), 0x052600);
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0); /* as it is */
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 0x1a, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), 0x052600);
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 8, 1, 10, 0, 9, 0, 0, 8, 0, 0, 0, 0, 0), 0x052600); /* ends early */

    /* All or nothing: the first page is right, the second one is not. */
    select[8] = 32;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, PAGE_01, 0x1a, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0), 0x052600);
    assert_int_equal(drive.s.page_recovery[0], 0x20);

    select[8] = 24; /* volumes; then with a block descriptor */
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 0x0e, 14, 4, 0, 0, 0, 0, 0, 2, 0x80, 1, 0x40, 0, 0, 0, 0), 0);
    assert_int_equal(drive.s.page_audio[7], 0x80);
    select[8] = 28;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 8, 0, PAGE_01), 0);
    assert_int_equal(drive.s.page_recovery[1], 5);
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0, PAGE_01), 0x052600); /* other blocks */
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 8, 0, PAGE_01), 0x051a00);

    /* Lengths. */
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, PAGE_01), 0x051a00); /* 20 of the 28 that were announced */
    assert_int_equal(req.bytes, 20);
    assert_int_equal(req.more, 8);
    select[8] = 9;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 1), 0x051a00);
    select[8] = 12;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0, 0, 1, 10, 0, 5), 0x051a00);
    select[8] = 7;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0), 0x051a00);
    select[7] = 0xff;
    assert_int_equal(SELECT(0, 0, 0, 0, 0, 0, 0), 0x051a00);
    select[7] = select[8] = 0;
    assert_int_equal(SELECT(0), 0);
    select[1] = 0x11;
    assert_int_equal(SELECT(0), 0x052400);
    select[1] = 0;
    assert_int_equal(SELECT(0), 0x052400);

    /* Of 6 bytes; and with a data area that is not for it. */
    uint8_t six[ATAPI_CDB_LEN] = {0x15, 0x10, 0, 0, 16};
    memcpy(select, six, sizeof(six));
    assert_int_equal(SELECT(0, 0, 0, 0, 1, 10, 0x10, 1, 0, 0, 0, 0, 0, 0, 0, 0), 0);
    assert_int_equal(drive.s.page_recovery[0], 0x10);
    assert_int_equal(run_area(six, 16, 16), 0x051a00);
    assert_int_equal(req.bytes, 0);
}

/* -- the disc -- */

static void capacity(void **state)
{
    assert_int_equal(CMD(0x25), 0);
    assert_data(0, 0, 0x03, 0xe7, 0, 0, 8, 0);
    assert_int_equal(run_area(CDB(0x25), 5, 5), 0);
    assert_int_equal(req.bytes, 5);
    assert_int_equal(req.more, 3);
}

/* Nobody makes such discs; nothing may wrap. */
static void huge(void **state)
{
    new_drive(UINT64_C(1) << 33);
    assert_int_equal(CMD(0x25), 0);
    assert_data(0xff, 0xff, 0xff, 0xfe, 0, 0, 8, 0);
    assert_int_equal(run_area(CDB(0x28, 0, 0xff, 0xff, 0xff, 0xfe, 0, 0, 1), 2048, 2048), 0);
    assert_int_equal(data[1000], fake_byte(UINT64_C(0xfffffffe) * 2048 + 1000));
    assert_int_equal(CMD(0x28, 0, 0xff, 0xff, 0xff, 0xfe, 0, 0, 2), 0x052100);
    assert_int_equal(CMD(0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), 0x052100);
    disc->reads = 0;
    assert_int_equal(CMD(0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), 0); /* for 4096 bytes of room */
    assert_int_equal(disc->reads, 1);
    assert_int_equal(req.bytes, 4096);
    assert_int_equal(req.more, UINT64_C(0xffffffff) * 2048 - 4096);
    assert_int_equal(CMD(0x43, 2, 0, 0, 0, 0, 0, 0, 255), 0); /* the last place there is */
    assert_data(0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 255, 59, 74);
    assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 0, 0, 0, 20), 0);
    assert_data(8, 2, 0, 0, 1, 0x0f, 1, 0, 0, 3, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0);
    atapi_fini(&drive);
}

static void toc(void **state)
{
    assert_int_equal(CMD(0x43, 0, 0, 0, 0, 0, 0, 3, 0x24), 0);
    assert_data(0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0x03, 0xe8);
    assert_int_equal(CMD(0x43, 2, 0, 0, 0, 0, 1, 0, 255), 0); /* 1000 + 150 frames are 15 seconds and 25 frames */
    assert_data(0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 15, 25);
    assert_int_equal(CMD(0x43, 0, 0, 0, 0, 0, 0xaa, 0, 12), 0);
    assert_data(0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 0x03, 0xe8);
    assert_int_equal(CMD(0x43, 0, 0, 0, 0, 0, 0, 0, 4), 0); /* how much there would be */
    assert_data(0, 18, 1, 1);
    assert_int_equal(CMD(0x43, 0, 0, 0, 0, 0, 2, 0, 255), 0x052400);

    assert_int_equal(CMD(0x43, 0, 1, 0, 0, 0, 0, 0, 255), 0); /* sessions */
    assert_data(0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x43, 2, 0, 0, 0, 0, 0, 0, 255, 0x40), 0); /* as SFF-8020i asks */
    assert_data(0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0);

    assert_int_equal(CMD(0x43, 0, 2, 0, 0, 0, 1, 0, 255), 0); /* the lead-in */
    assert_data(0, 46, 1, 1, 1, 0x14, 0, 0xa0, 0, 0, 0, 0, 1, 0, 0, 1, 0x14, 0, 0xa1, 0, 0, 0, 0, 1, 0, 0, 1, 0x14, 0,
                0xa2, 0, 0, 0, 0, 0, 15, 25, 1, 0x14, 0, 1, 0, 0, 0, 0, 0, 2, 0);
    assert_int_equal(CMD(0x43, 0, 2, 0, 0, 0, 2, 0, 255), 0x052400);
    for (uint8_t format = 3; format < 16; format++)
        assert_int_equal(CMD(0x43, 0, format, 0, 0, 0, 0, 0, 255), 0x052400);
}

static void disc_information(void **state)
{
    assert_int_equal(CMD(0x51, 0, 0, 0, 0, 0, 0, 0, 255), 0);
    assert_data(0, 32, 0x0e, 1, 1, 1, 1, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x51, 0, 0, 0, 0, 0, 0, 0, 2), 0);
    assert_data(0, 32);
    assert_int_equal(CMD(0x51, 1, 0, 0, 0, 0, 0, 0, 255), 0x052400);
}

static void track_information(void **state)
{
    assert_int_equal(CMD(0x52, 1, 0, 0, 0, 1, 0, 0, 255), 0);
    assert_data(0, 34, 1, 1, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0,
                0, 0, 0);
    assert_int_equal(CMD(0x52, 0, 0, 0, 3, 0xe7, 0, 0, 8), 0); /* by address */
    assert_data(0, 34, 1, 1, 0, 4, 1, 0);
    assert_int_equal(CMD(0x52, 2, 0, 0, 0, 1, 0, 0, 8), 0); /* by session */
    assert_int_equal(CMD(0x52, 0, 0, 0, 3, 0xe8, 0, 0, 8), 0x052100);
    assert_int_equal(CMD(0x52, 1, 0, 0, 0, 2, 0, 0, 8), 0x052400);
    assert_int_equal(CMD(0x52, 1, 0, 0, 0, 0xff, 0, 0, 8), 0x052400); /* a track that can be written */
    assert_int_equal(CMD(0x52, 2, 0, 0, 0, 0, 0, 0, 8), 0x052400);
    assert_int_equal(CMD(0x52, 3, 0, 0, 0, 1, 0, 0, 8), 0x052400);
    assert_int_equal(CMD(0x52, 5, 0, 0, 0, 1, 0, 0, 8), 0x052400);
}

static void dvd_structure(void **state)
{
    assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4), 0); /* 2052 bytes */
    assert_int_equal(req.bytes, 2052);
    assert_memory_equal(data, "\x08\x02\0\0\x01\x0f\x01\0\0\x03\0\0\0\x21\x84\x7f\0\0\0\0", 20); /* 2000000 sectors */
    for (unsigned i = 20; i < 2052; i++)
        assert_int_equal(data[i], 0);
    assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 0, 0, 0, 4), 0);
    assert_data(8, 2, 0, 0);
    for (unsigned format = 1; format < 256; format++)
        assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 0, (uint8_t)format, 8, 4), 0x052400);
    assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 1, 0, 8, 4), 0x052400); /* another layer */
    assert_int_equal(CMD(0xad, 1, 0, 0, 0, 0, 0, 0, 8, 4), 0x052400); /* of a Blu-ray disc */
}

static void dvd_structure_of_cd(void **state) { assert_int_equal(CMD(0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4), 0x053002); }

static void subchannel(void **state)
{
    assert_int_equal(CMD(0x42, 0, 0, 1, 0, 0, 0, 0, 255), 0);
    assert_data(0, 0x15, 0, 0);
    assert_int_equal(CMD(0x42, 2, 0x40, 1, 0, 0, 0, 0, 16), 0);
    assert_data(0, 0x15, 0, 12, 1, 0x14, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x42, 0, 0x40, 2, 0, 0, 0, 0, 255), 0);
    assert_data(0, 0x15, 0, 20, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x42, 0, 0x40, 3, 0, 0, 1, 0, 255), 0);
    assert_data(0, 0x15, 0, 20, 3, 0x14, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x42, 0, 0x40, 3, 0, 0, 2, 0, 255), 0x052400);
    assert_int_equal(CMD(0x42, 0, 0x40, 0, 0, 0, 0, 0, 255), 0x052400);
    assert_int_equal(CMD(0x42, 0, 0x40, 4, 0, 0, 0, 0, 255), 0x052400);
}

/* -- commands that have little to say -- */

static void small(void **state)
{
    assert_int_equal(CMD(0x00), 0);
    assert_int_equal(CMD(0x35), 0);
    assert_int_equal(CMD(0x2b, 0, 0, 0, 3, 0xe7), 0);
    assert_int_equal(CMD(0x2b, 0, 0, 0, 3, 0xe8), 0x052100);
    assert_int_equal(CMD(0x2b, 0, 0xff, 0xff, 0xff, 0xff), 0x052100);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 0), 0); /* stop, start, and power conditions */
    assert_int_equal(CMD(0x1b, 0, 0, 0, 1), 0);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 0x32), 0);
    assert_false(drive.s.tray_open);

    disc->reads = 0;
    assert_int_equal(CMD(0x2f, 0, 0, 0, 0, 0, 0, 3, 0xe8), 0); /* VERIFY(10): all of it is read */
    assert_int_equal(req.bytes, 0);
    assert_int_equal(req.more, 0);
    assert_int_equal(disc->reads, (CD_SECTORS + 31) / 32);
    assert_int_equal(CMD(0x2f, 0, 0, 0, 0, 1, 0, 3, 0xe8), 0x052100);
    assert_int_equal(CMD(0x2f, 2, 0, 0, 0, 0, 0, 0, 1), 0x052400);
    disc->bad = 999 * 2048;
    assert_int_equal(CMD(0x2f, 0, 0, 0, 0, 0, 0, 3, 0xe8), 0x031100);
}

/* Everything else. */
static void unknown(void **state)
{
    static const uint8_t known[] = {0x00, 0x03, 0x08, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x2f, 0x35, 0x42,
                                    0x43, 0x46, 0x4a, 0x51, 0x52, 0x55, 0x5a, 0xa0, 0xa8, 0xad, 0xb9, 0xbb, 0xbd, 0xbe};
    for (unsigned op = 0; op < 256; op++) {
        if (memchr(known, (int)op, sizeof(known)))
            continue;
        assert_int_equal(CMD((uint8_t)op, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), 0x052000);
        assert_int_equal(req.bytes, 0);
        assert_int_equal(sense(), 0x052000);
        assert_int_equal(sense(), 0);
    }
    assert_int_equal(CMD(0x45, 0, 0, 0, 0, 0, 0, 0, 1), 0x052000); /* PLAY AUDIO(10), as for a data disc */
}

/* What tells of a pending UNIT ATTENTION, and what does not. */
static void attention(void **state)
{
    for (unsigned op = 0; op < 256; op++) {
        bool silent = op == 0x03 || op == 0x12 || op == 0x46 || op == 0x4a || op == 0xa0;
        unsigned found;
        drive.s.media_attention = true;
        drive.s.key = 0;
        found = CMD((uint8_t)op, 0x10, 0, 0, 0, 0, 0, 0, 0);
        if (op == 0x4a)
            assert_int_equal(found, 0x052400); /* for it was not polled */
        else if (silent)
            assert_int_equal(found, 0);
        else if (found != 0x052000)
            assert_int_equal(found, 0x062800);
        assert_int_equal(drive.s.media_attention, op != 0x03 && (silent || found == 0x052000));
    }
    drive.s.reset_attention = drive.s.media_attention = true;
    assert_int_equal(CMD(0x00), 0x062900); /* one after the other */
    assert_int_equal(CMD(0x00), 0x062800);
    drive.s.reset_attention = drive.s.media_attention = true;
    assert_int_equal(sense(), 0x062800); /* that of the last command */
    assert_int_equal(sense(), 0x062900);
    assert_int_equal(sense(), 0x062800);
    assert_int_equal(sense(), 0);
}

static void empty(void **state)
{
    static const uint8_t medium[] = {0x00, 0x08, 0x25, 0x28, 0x2b, 0x2f, 0x35, 0x42,
                                     0x43, 0x51, 0x52, 0xa8, 0xad, 0xb9, 0xbe};
    static const uint8_t none[] = {0x03, 0x12, 0x1e, 0x46, 0xa0, 0xbb, 0xbd};
    for (unsigned i = 0; i < sizeof(medium); i++) {
        assert_int_equal(CMD(medium[i]), 0x023a01);
        assert_int_equal(sense(), 0x023a01);
    }
    for (unsigned i = 0; i < sizeof(none); i++)
        assert_int_equal(CMD(none[i]), 0);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 1), 0x023a01);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 2), 0);
    for (unsigned i = 0; i < sizeof(medium); i++)
        assert_int_equal(CMD(medium[i]), 0x023a02);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 1), 0x023a02);
    assert_int_equal(CMD(0x1b, 0, 0, 0, 3), 0);
    assert_int_equal(CMD(0x00), 0x023a01);
}

static void request_sense(void **state)
{
    disc->bad = UINT64_C(0x123) * 2048 + 5;
    assert_int_equal(CMD(0x28, 0, 0, 0, 1, 0x23, 0, 0, 1), 0x031100);
    assert_int_equal(CMD(0x03, 0, 0, 0, 255), 0);
    assert_data(0xf0, 0, 3, 0, 0, 1, 0x23, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0); /* and where */
    assert_int_equal(CMD(0x03, 0, 0, 0, 18), 0);
    assert_data(0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(CMD(0x28, 0, 0, 0, 1, 0x23, 0, 0, 1), 0x031100);
    assert_int_equal(CMD(0x00), 0); /* another command forgets it */
    assert_int_equal(sense(), 0);
    assert_int_equal(CMD(0x99), 0x052000);
    assert_int_equal(CMD(0x03, 0, 0, 0, 3), 0);
    assert_data(0x70, 0, 5);
    assert_int_equal(CMD(0x03, 1, 0, 0, 255), 0x052400); /* as descriptors */
}

static void not_polled(void **state)
{
    assert_int_equal(CMD(0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8), 0x052400);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0, 0, 0, 0, 8), 0); /* no class, or one that it has not */
    assert_data(0, 2, 0x80, 0x56);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x20, 0, 0, 0, 8), 0);
    assert_data(0, 2, 0x80, 0x56);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0xff, 0, 0, 0, 8), 0);
    assert_data(0, 6, 1, 0x56, 0, 0, 0, 0);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x04, 0, 0, 0, 8), 0);
    assert_data(0, 6, 2, 0x56, 0, 1, 0, 0);
    assert_int_equal(CMD(0x4a, 1, 0, 0, 0x40, 0, 0, 0, 6), 0);
    assert_data(0, 6, 6, 0x56, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(identify, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(inquiry, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(report_luns, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(features, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(features_dvd, setup_dvd, teardown),
        cmocka_unit_test_setup_teardown(features_empty, setup_empty, teardown),
        cmocka_unit_test(profiles),
        cmocka_unit_test_setup_teardown(mechanism_status, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(mode_sense, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(mode_select, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(capacity, setup_cd, teardown),
        cmocka_unit_test(huge),
        cmocka_unit_test_setup_teardown(toc, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(disc_information, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(track_information, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(dvd_structure, setup_dvd, teardown),
        cmocka_unit_test_setup_teardown(dvd_structure_of_cd, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(subchannel, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(small, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(unknown, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(attention, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(empty, setup_empty, teardown),
        cmocka_unit_test_setup_teardown(request_sense, setup_cd, teardown),
        cmocka_unit_test_setup_teardown(not_polled, setup_cd, teardown),
    };
    return cmocka_run_group_tests(tests, open_loop, close_loop);
}
