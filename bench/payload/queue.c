/*
 * A guest that does nothing but drive a virtio-blk queue and look for what comes back, so that the cost of a guest's
 * kernel is out of the figure (Virtual I/O Device 1.2, sections 2.7, 4.1 and 5.2). It runs wherever Multiboot images do;
 * the runtime is that of tests/payload. Interrupts are off; the disk's blocks begin with the numbers of marks.h.
 *
 * Command line: begin NAME read|write random|onward BYTES DEPTH COUNT; NAME ... Output: "# ready",
 * whereupon it waits for a byte; "# start", "# stop" and "# disk NAME TICKS HZ BYTES" for each, TICKS being those of the time stamp counter, HZ its frequency.
 */
#include "../programs/marks.h"
#include "rt/rt.h"

#define COM1 0x3f8
#define BAR_PLACE 0xd8000000u /* where both machines have nothing */
#define BUFFERS 0x1800000u    /* 24 MiB; the machine has 64 */

enum { QUEUE = 128, MOST_DEPTH = 32, MOST_BYTES = 1 << 20 };
enum { COMMON = 1, NOTIFY = 2 };
enum { T_IN, T_OUT };
enum { F_NEXT = 1, F_WRITE = 2 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};
static struct desc descs[QUEUE] __attribute__((aligned(4096)));
static volatile struct {
    uint16_t flags, idx, ring[QUEUE];
} avail __attribute__((aligned(4096)));
static volatile struct {
    uint16_t flags, idx;
    struct {
        uint32_t id, len;
    } ring[QUEUE];
} used __attribute__((aligned(4096)));
static struct {
    uint32_t type, reserved;
    uint64_t sector;
} header[MOST_DEPTH];
static volatile uint8_t status[MOST_DEPTH];

static unsigned slot;
static uintptr_t common, notify, notify_at;
static uint64_t sectors;

static uint32_t cfg(unsigned reg) { return pci_read(0, slot, 0, reg); }

static bool find(void)
{
    for (slot = 1; slot < 32; slot++) {
        uint32_t id = cfg(0);
        if (id == 0x10011af4 || id == 0x10421af4)
            return true;
    }
    return false;
}

/* The structures are where its vendor capabilities say, in one 64-bit BAR that is put where the page tables reach. */
static void place(void)
{
    uint32_t multiplier = 0, device = 0;
    unsigned bar = 0;

    for (unsigned cap = cfg(0x34) & 0xff; cap; cap = cfg(cap) >> 8 & 0xff) {
        uint32_t head = cfg(cap), off = cfg(cap + 8);
        if ((head & 0xff) != 9)
            continue;
        if (head >> 24 == COMMON) {
            bar = cfg(cap + 4) & 0xff;
            common = BAR_PLACE + off;
        } else if (head >> 24 == NOTIFY) {
            notify = BAR_PLACE + off;
            multiplier = cfg(cap + 16);
        } else if (head >> 24 == 4) {
            device = BAR_PLACE + off;
        }
    }
    pci_write(0, slot, 0, 4, cfg(4) & ~7u);
    pci_write(0, slot, 0, 0x10 + 4 * bar, BAR_PLACE);
    pci_write(0, slot, 0, 0x14 + 4 * bar, 0);
    pci_write(0, slot, 0, 4, (cfg(4) & 0xffff) | 6);
    sectors = read32(device) | (uint64_t)read32(device + 4) << 32;
    write16(common + 0x16, 0);
    notify_at = notify + read16(common + 0x1e) * multiplier;
}

static void set64(unsigned off, const volatile void *p)
{
    write32(common + off, (uint32_t)(uintptr_t)p);
    write32(common + off + 4, 0);
}

static bool start(void)
{
    write8(common + 0x14, 0);
    while (read8(common + 0x14))
        cpu_pause();
    write8(common + 0x14, 3);
    write32(common + 8, 0);
    write32(common + 12, 1 << 9); /* VIRTIO_BLK_F_FLUSH: without it every write would have to be on the platter */
    write32(common + 8, 1);
    write32(common + 12, 1); /* VIRTIO_F_VERSION_1 */
    write8(common + 0x14, 11);
    write16(common + 0x16, 0);
    write16(common + 0x18, QUEUE);
    set64(0x20, descs);
    set64(0x28, &avail);
    set64(0x30, &used);
    write16(common + 0x1c, 1);
    write8(common + 0x14, 15);
    avail.flags = 1; /* no interrupts */
    return read8(common + 0x14) == 15;
}

struct job {
    char name[24];
    bool write, random;
    uint32_t bytes, depth, count;
};

static uint8_t *buffer(unsigned i) { return (uint8_t *)(uintptr_t)(BUFFERS + i * (uint32_t)MOST_BYTES); }

static uint64_t random_state;

static uint64_t random_number(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 32)) * 0xd6e8feb86659fd93;
    return z ^ (z >> 32);
}

static void marks(const struct job *j, unsigned i, bool put)
{
    uint64_t block = header[i].sector / (MARK_BLOCK / 512);
    for (uint32_t at = 0; at < j->bytes; at += MARK_BLOCK, block++) {
        uint64_t *mark = (uint64_t *)(buffer(i) + at);
        if (put)
            *mark = mark_of(block);
        else if (*mark != mark_of(block))
            fail(j->name, "a block has not the contents that were written to it");
    }
}

static void prepare(const struct job *j, unsigned i, uint32_t number)
{
    uint64_t places = sectors / (j->bytes / 512);
    uint64_t at = (j->random ? random_number() : number) % places;
    struct desc *d = &descs[3 * i];

    header[i].type = j->write ? T_OUT : T_IN;
    header[i].sector = at * (j->bytes / 512);
    status[i] = 0xff;
    d[0] = (struct desc){(uintptr_t)&header[i], 16, F_NEXT, (uint16_t)(3 * i + 1)};
    d[1] = (struct desc){(uintptr_t)buffer(i), j->bytes, F_NEXT | (j->write ? 0 : F_WRITE), (uint16_t)(3 * i + 2)};
    d[2] = (struct desc){(uintptr_t)&status[i], 1, F_WRITE, 0};
    if (j->write)
        marks(j, i, true);
}

static void run(const struct job *j)
{
    uint32_t started = 0, finished = 0, new = 0;
    uint16_t seen = used.idx, next = avail.idx;

    random_state = j->count;
    while (started < j->depth && started < j->count) {
        prepare(j, started, started);
        avail.ring[(uint16_t)(next + new ++) % QUEUE] = (uint16_t)(3 * started++);
    }
    while (finished < j->count) {
        if (new) {
            __asm__ volatile("" : : : "memory");
            avail.idx = next = (uint16_t)(next + new);
            new = 0;
            __sync_synchronize();
            if (!(used.flags & 1))
                write16(notify_at, 0);
        }
        while (seen == used.idx)
            cpu_pause();
        while (seen != used.idx) {
            __asm__ volatile("" : : : "memory");
            unsigned i = used.ring[seen++ % QUEUE].id / 3;
            finished++;
            if (status[i])
                fail(j->name, "the disk reports an error");
            else if (!j->write)
                marks(j, i, false);
            if (started < j->count) {
                prepare(j, i, started++);
                avail.ring[(uint16_t)(next + new ++) % QUEUE] = (uint16_t)(3 * i);
            }
        }
    }
}

/* ---- what to do, and what came of it ---- */

static const char *word(const char *s, char *to, unsigned n)
{
    unsigned len = 0;
    while (*s == ' ')
        s++;
    for (; *s && *s != ' ' && *s != ';'; s++)
        if (len + 1 < n)
            to[len++] = *s;
    to[len] = '\0';
    return s;
}

static const char *number(const char *s, uint32_t *v)
{
    char text[12];
    s = word(s, text, sizeof(text));
    *v = 0;
    for (const char *p = text; *p; p++)
        *v = *v * 10 + (uint32_t)(*p - '0');
    return s;
}

static void add(char **to, const char *s)
{
    while (*s)
        *(*to)++ = *s++;
    *(*to)++ = ' ';
}

static void add_number(char **to, uint64_t v)
{
    char text[24], *p = text + sizeof(text);
    *--p = '\0';
    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    add(to, p);
}

void payload(void)
{
    const char *s = command_line();
    uint32_t hz = measure_hz(rdtsc, 200000);
    struct job j;

    if (!find()) {
        fail("disk", "there is no virtio-blk");
        return;
    }
    place();
    /* Once, so that no request pays for the host's making the memory. */
    memset(buffer(0), 0x5a, (size_t)MOST_DEPTH * MOST_BYTES);
    check_true("the device takes the driver", start());
    /* One machine puts the image's name before the command line, the other does not. */
    while (*s && memcmp(s, "begin ", 6) != 0)
        s++;
    while (*s) {
        char text[12], line[96], *end = line;
        while (*s == ';' || *s == ' ')
            s++;
        s = word(s, j.name, sizeof(j.name));
        if (str_equal(j.name, "begin"))
            continue;
        s = word(s, text, sizeof(text));
        j.write = str_equal(text, "write");
        s = word(s, text, sizeof(text));
        j.random = str_equal(text, "random");
        s = number(number(number(s, &j.bytes), &j.depth), &j.count);
        if (!j.bytes || j.bytes > MOST_BYTES || j.bytes % MARK_BLOCK || !j.depth || j.depth > MOST_DEPTH)
            break;
        /* Whoever watches says when: so he can look at the clock between two of them. */
        puts("ready");
        while (!(inb(COM1 + 5) & 1))
            cpu_pause();
        inb(COM1);
        puts("start");
        uint64_t then = rdtsc();
        run(&j);
        uint64_t ticks = rdtsc() - then;
        puts("stop");
        add(&end, "disk");
        add(&end, j.name);
        add_number(&end, ticks);
        add_number(&end, hz);
        add_number(&end, (uint64_t)j.bytes * j.count);
        *end = '\0';
        puts(line);
    }
    puts("ready");
    while (!(inb(COM1 + 5) & 1))
        cpu_pause();
}
