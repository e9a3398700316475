/* fw_cfg, as QEMU's docs/specs/fw_cfg describes it; run with a file opt/test that says hello. */
#include "rt/rt.h"

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint32_t swap32(uint32_t v) { return __builtin_bswap32(v); }

static void select(uint16_t key) { outw(0x510, key); }
static void get(void *to, size_t n)
{
    uint8_t *p = to;
    while (n--)
        *p++ = inb(0x511);
}

struct dma {
    uint32_t control, length;
    uint64_t address; /* all big-endian */
} __attribute__((packed));

static uint32_t dma(uint32_t control, void *at, uint32_t length)
{
    static volatile struct dma d __attribute__((aligned(16)));
    d.control = swap32(control);
    d.length = swap32(length);
    d.address = __builtin_bswap64((uintptr_t)at);
    outl(0x514, 0);
    outl(0x518, swap32((uint32_t)(uintptr_t)&d));
    WAIT(!(swap32(d.control) & ~1u), 500);
    return swap32(d.control);
}

void payload(void)
{
    static uint8_t buf[256];
    select(0);
    get(buf, 4);
    check("signature", (uint32_t)memcmp(buf, "QEMU", 4), 0);
    get(buf, 4);
    check("behind the end: zeros", le32(buf), 0);
    select(1);
    get(buf, 4);
    uint32_t id = le32(buf);
    check("id: traditional and DMA", id & 3, 3);
    select(5);
    get(buf, 2);
    check("number of CPUs", le16(buf), 1);
    select(3);
    get(buf, 8);
    check("size of RAM", le64(buf), 64 << 20);

    select(0x19);
    get(buf, 4);
    uint32_t files = be32(buf), size = 0;
    uint16_t key = 0;
    check_range("files in the directory", files, 1, 200);
    uint8_t last[56] = "";
    bool sorted = true;
    for (uint32_t i = 0; i < files && i < 200; i++) {
        get(buf, 64);
        if (str_equal((const char *)buf + 8, "opt/test")) {
            size = be32(buf);
            key = (uint16_t)(buf[4] << 8 | buf[5]);
        }
        for (unsigned c = 0; c < 56; c++)
            if (last[c] != buf[8 + c] || !last[c]) {
                sorted &= last[c] <= buf[8 + c];
                break;
            }
        memcpy(last, buf + 8, 56);
    }
    check("sorted by name", sorted, true);
    check_range("opt/test: its key", key, 0x20, 0x3fff);
    check("opt/test: its size", size, 5);
    select(key);
    memset(buf, 0, sizeof(buf));
    get(buf, 5);
    check("opt/test: what it says", (uint32_t)memcmp(buf, "hello", 5), 0);

    outl(0x514, 0);
    check("DMA register reads as its signature", inl(0x514) == swap32(0x51454d55) && inl(0x518) == swap32(0x20434647),
          true);
    memset(buf, 0xee, sizeof(buf));
    check("DMA: select and read", dma((uint32_t)key << 16 | 8 | 2, buf + 3, 5), 0);
    check("DMA: the bytes", (uint32_t)memcmp(buf + 2, "\xeehello\xee", 7), 0);
    check("DMA: skip", dma((uint32_t)key << 16 | 8 | 4, 0, 2), 0);
    check("DMA: read on", dma(2, buf, 3), 0);
    check("DMA: the rest", (uint32_t)memcmp(buf, "llo", 3), 0);
    memset(buf, 0xee, sizeof(buf));
    check("DMA: behind the end", dma((uint32_t)key << 16 | 8 | 2, buf, 16), 0);
    check("DMA: is zero", (uint32_t)memcmp(buf, "hello\0\0\0\0\0\0\0\0\0\0\0\xee", 17), 0);
    check_strict("DMA: writing a read-only item is an error", dma((uint32_t)key << 16 | 8 | 16, buf, 5), 1);
    check("DMA: into nowhere is an error", on_xhyve() ? dma((uint32_t)key << 16 | 8 | 2, (void *)0x70000000, 5) : 1, 1);
    select(0x3ffe);
    get(buf, 4);
    check("no such item: zeros", le32(buf), 0);
}
