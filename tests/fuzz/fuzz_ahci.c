/*
 * Fuzz target: an AHCI controller with two disks and a CD drive. The guest
 * writes registers, command lists, tables and packets in any order, and the I/O
 * thread has its turns in between. Promised: no access outside of memory, every
 * reset ends, nothing is written after it, and bounded memory of the host's.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/bus.h"
#include "devices/ahci_priv.h"
#include "fuzz.h"

#define MEM_SIZE MiB(1)
#define SLOT 3
#define MMIO_BASE 0xc0000000u
#define LISTS 0x10000u  /* a page a port */
#define TABLES 0x20000u /* 1 KiB a slot and port */
#define DATA 0x40000u
#define NPORTS 3

struct machine {
    struct guest_mem mem;
    struct bus *pio, *mmio;
    struct pci_bus pci;
    struct ahci *hba;
};
static struct machine *m;

static void on_message(void *dev, uint64_t addr, uint32_t data) {}
static void on_wire(void *chip, unsigned pin, bool level) {}

static void turn(void) { must(loop_turn(ahci_loop(m->hba), 0) == 0); }
static void wr(unsigned off, uint32_t v) { bus_write(m->mmio, MMIO_BASE + off, 4, v); }
static uint32_t rd(unsigned off) { return (uint32_t)bus_read(m->mmio, MMIO_BASE + off, 4); }
static void pwr(unsigned port, unsigned off, uint32_t v) { wr(PORTS + PORT_SIZE * port + off, v); }

static void new_image(char path[32], size_t size)
{
    snprintf(path, 32, "/tmp/xhyve-fuzz.XXXXXX");
    int fd = mkstemp(path);
    must(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    close(fd);
}

static void make(void)
{
    static const struct mem_options plain;
    struct pci_wires wires = {.msi = {on_message, NULL}};
    struct ahci_options o;
    char path[NPORTS][32], text[200], why[300];
    m = calloc(1, sizeof(*m));
    must(m && mem_init(&m->mem, MEM_SIZE, &plain) == 0 && bus_new(&m->pio) == 0 && bus_new(&m->mmio) == 0);
    for (unsigned i = 0; i < PCI_PIRQS; i++)
        wires.gsi[i] = (struct irq_line){.set = on_wire};
    must(pci_bus_init(&m->pci, m->pio, m->mmio, &wires, NULL, NULL) == 0);
    for (unsigned i = 0; i < NPORTS; i++)
        new_image(path[i], MiB(1));
    snprintf(text, sizeof(text), "hd:%s,aio=threads,cd:%s,hd:%s,sectorsize=4096,aio=threads", path[0], path[1],
             path[2]);
    must(ahci_parse(text, -1, &o, why, sizeof(why)) == 0);
    must(ahci_new(&m->hba, &m->pci, SLOT, 0, &m->mem, &o, why, sizeof(why)) == 0);
    ahci_options_free(&o);
    for (unsigned i = 0; i < NPORTS; i++)
        unlink(path[i]);
}

/* As after power-on, and a driver has set up all ports. */
static void start(void)
{
    static const struct pci_windows windows = {0xc000, 0x1000, MMIO_BASE, 0x10000000, 0, 0};
    char why[200];
    if (!m)
        make();
    pci_bus_reset(&m->pci);
    for (unsigned i = 0; rd(GHC) & 1 || m->hba->resetting; i++) {
        must(i < 1000 && loop_turn(ahci_loop(m->hba), 10000000) == 0);
        must(pci_assign_bars(&m->pci, &windows, why, sizeof(why)) == 0);
    }
    m->hba->log = (struct log_limit){.burst = 10, .next_ns = UINT64_MAX}; /* says nothing */
    m->hba->port[1].atapi.log = m->hba->log;
    must(pci_assign_bars(&m->pci, &windows, why, sizeof(why)) == 0);
    pci_cfg_write(&m->pci, SLOT, 0, PCI_COMMAND, 2, 7);
    memset(mem_w(&m->mem, LISTS, DATA - LISTS), 0, DATA - LISTS);
    turn();
    wr(GHC, 2);
    for (unsigned i = 0; i < NPORTS; i++) {
        pwr(i, PxCLB, LISTS + 0x1000 * i);
        pwr(i, PxFB, LISTS + 0x1000 * i + 0x800);
        pwr(i, PxIE, UINT32_MAX);
        pwr(i, PxCMD, CMD_FRE);
        pwr(i, PxCMD, CMD_FRE | CMD_ST);
    }
}

/* Commands that are worth more tries than others. */
static const uint8_t commands[] = {0x25, 0x35, 0x60, 0x61, 0xec, 0xa0, 0xa1, 0x06, 0x2f, 0x47, 0xb0, 0xef,
                                   0xe7, 0x42, 0xc4, 0xca, 0x20, 0x30, 0x3d, 0xe6, 0xc6, 0xf8, 0x08, 0x90};

/* A whole command. */
static void command(struct fuzz_input *in, bool issue)
{
    uint8_t header[32] = {0}, t[0x80] = {0x27, 0x80}, how = take8(in);
    unsigned port = how % NPORTS, slot = (how >> 2) % 32, prds = take8(in) % 8;
    uint32_t table = TABLES + 0x400 * (32 * (port % 2) + slot);
    uint8_t code = take8(in);
    t[2] = code & 0x80 ? take8(in) : port == 1 ? 0xa0 : commands[code % sizeof(commands)];
    t[3] = take8(in);
    put_le16(t + 4, take16(in));
    t[6] = t[2] == 0xb0 ? 0xc2 : take8(in) & 0x0f;
    t[7] = take8(in) | 0x40;
    t[11] = 0;
    put_le16(t + 12, take8(in) & 0x1f);
    if (t[2] == 0x60 || t[2] == 0x61)
        t[12] = (uint8_t)(slot << 3);
    if (t[2] == 0xa0)
        for (unsigned i = 0; i < 12; i++)
            t[0x40 + i] = take8(in);
    put_le32(header, 5u | (take8(in) & 0x40) | prds << 16);
    put_le64(header + 8, table);
    mem_write(&m->mem, LISTS + 0x1000 * port + 32 * slot, header, sizeof(header));
    mem_write(&m->mem, table, t, sizeof(t));
    for (unsigned i = 0; i < prds; i++) {
        uint8_t prd[16] = {0};
        uint16_t where = take16(in);
        put_le64(prd, where >= 0xff00 ? ~(uint64_t)(where & 0xff) : DATA + 8 * (uint64_t)where);
        put_le32(prd + 12, take8(in) * 256u + 0xff);
        mem_write(&m->mem, table + 0x80 + 16 * i, prd, sizeof(prd));
    }
    if (!issue)
        return;
    if (t[2] == 0x60 || t[2] == 0x61)
        pwr(port, PxSACT, UINT32_C(1) << slot);
    pwr(port, PxCI, UINT32_C(1) << slot);
}

static void check(void)
{
    must(m->hba->underway <= MiB(96));
    for (unsigned i = 0; i < NPORTS; i++)
        must(!(m->hba->port[i].forgotten & ~m->hba->port[i].active));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    start();
    while (in.left) {
        uint8_t op = take8(&in);
        unsigned port = (op >> 4) % NPORTS;
        switch (op % 12) {
        case 0: wr((unsigned)take8(&in) * 4, take32(&in) & ~(uint32_t)GHC_HR); break;
        case 1: pwr(port, take8(&in) % PORT_SIZE & ~3u, take32(&in)); break;
        case 2: bus_read(m->mmio, MMIO_BASE + take16(&in) % 0x2000, 1u << (op >> 6)); break;
        case 3: pwr(port, PxCI, take32(&in)); break;
        case 4: {
            uint8_t word[4];
            uint32_t where = LISTS + take32(&in) % (DATA - LISTS);
            put_le32(word, take32(&in));
            mem_write(&m->mem, where, word, 4);
            break;
        }
        case 5:
        case 6:
        case 7: command(&in, true); break;
        case 8: turn(); break;
        case 9: /* what drivers do after errors */
            pwr(port, PxCMD, op & 0x80 ? CMD_FRE : 0);
            pwr(port, PxIS, UINT32_MAX);
            pwr(port, PxCMD, CMD_FRE | CMD_CLO);
            pwr(port, PxCMD, CMD_FRE | CMD_ST);
            break;
        case 10:
            pwr(port, PxSCTL, 1);
            pwr(port, PxSCTL, 0);
            break;
        default:
            if (op & 0x80)
                wr(GHC, take8(&in) & 3);
            else
                loop_turn(ahci_loop(m->hba), 1000000);
        }
        check();
    }
    return 0;
}
