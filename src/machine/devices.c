/* From the name and the options of -s to a device in its slot. */
#include "machine/devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/ahci.h"
#include "devices/uart.h"
#include "os/clock.h"
#include "pci/bridges.h"
#include "util/bytes.h"
#include "util/log.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"
#include "virtio/pci.h"
#include "virtio/rnd.h"

/*
 * What a device has begun on the host it ends before the machine is built anew
 * or freed. A host that does not get to an end (a network file system without a
 * server) gets as long; a reset may have a slow disk's cache to write.
 */
enum { SETTLE_S = 60, STOP_S = 25, SETTLE_TICK_NS = 20000000 };

#define DEFAULT_QUEUES 8 /* of a disk, or as many as there are vCPUs */

/* Hands a virtio device to the bus, and remembers it: its thread is to be ended before the VM is. */
static int add_virtio(struct pc *pc, unsigned slot, unsigned func, struct virtio_dev *dev)
{
    struct virtio_pci_options options = {.msi = pc->config->virtio_msi};
    int err = virtio_pci_new(&pc->pci, slot, func, dev, &options);
    if (!err)
        pc->virtio[pc->nvirtio++] = dev;
    return err;
}

static int new_rnd(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    struct rnd_options o;
    struct virtio_dev *dev;
    int err = rnd_parse(options, &o, why, n);
    if (!err)
        err = rnd_new(&dev, &pc->vm->mem, &o);
    return err ? err : add_virtio(pc, slot, func, dev);
}

static int new_console(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    struct console_options o;
    struct virtio_dev *dev;
    int err = console_parse(options, &o, why, n);
    if (!err)
        err = console_new(&dev, &pc->vm->mem, &o, why, n);
    console_options_fini(&o);
    return err ? err : add_virtio(pc, slot, func, dev);
}

static int new_blk(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    unsigned cpus = pc->vm->nvcpus;
    struct blk_options o = {.queues = cpus < DEFAULT_QUEUES ? cpus : DEFAULT_QUEUES};
    struct virtio_dev *dev;
    size_t len = options ? strcspn(options, ",") : 0;
    if (!len) {
        snprintf(why, n, "expected the name of an image: virtio-blk,IMAGE[,OPTIONS]");
        return -EINVAL;
    }
    char *image = strndup(options, len);
    if (!image)
        return -ENOMEM;
    int err = blk_parse(options[len] ? options + len + 1 : NULL, &o, why, n);
    if (!err)
        err = blk_new(&dev, &pc->vm->mem, image, &o, why, n);
    free(image);
    if (err)
        return err;
    pc->has_disk = true;
    return add_virtio(pc, slot, func, dev);
}

/* `kind` as ahci_parse() has it. */
static int add_ahci(struct pc *pc, unsigned slot, unsigned func, int kind, const char *options, char *why, size_t n)
{
    struct ahci_options o;
    struct ahci *ahci = NULL;
    int err = ahci_parse(options, kind, &o, why, n);
    if (!err)
        err = ahci_new(&ahci, &pc->pci, slot, func, &pc->vm->mem, &o, why, n);
    ahci_options_free(&o);
    if (err)
        return err;
    pc->has_disk = true;
    pc->ahci[pc->nahci++] = ahci;
    return ahci_start(ahci);
}

static int new_ahci(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    return add_ahci(pc, slot, func, -1, options, why, n);
}

static int new_ahci_hd(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    return add_ahci(pc, slot, func, AHCI_DISK, options, why, n);
}

static int new_ahci_cd(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    return add_ahci(pc, slot, func, AHCI_CD, options, why, n);
}

/* The options of a NIC and its address; tap: the first of them is the name of an interface. */
static int nic_from(struct nic_options *o, const struct vm_config *config, unsigned slot, unsigned func, bool tap,
                    const char *options, char *why, size_t n)
{
    size_t len = options ? strcspn(options, ",") : 0;
    nic_options_init(o);
    if (tap) {
        char name[64];
        if (!len || len > sizeof(name) - sizeof("tap=")) {
            snprintf(why, n, "expected the name of an interface: virtio-tap,NAME[,OPTIONS]");
            return -EINVAL;
        }
        snprintf(name, sizeof(name), "tap=%.*s", (int)len, options);
        int taken = net_option(&o->net, name, why, n);
        if (taken < 0)
            return taken;
        options = options[len] ? options + len + 1 : NULL;
    }
    int err = nic_parse(options, o, why, n);
    /* -M comes before config_finish(), which gives a VM without a name this one. */
    const void *id = config->has_uuid ? (const void *)config->uuid : config->name ? config->name : "vm";
    len = config->has_uuid ? sizeof(config->uuid) : strlen(id);
    net_id_derive(id, len, slot, func, o->net.id);
    if (!err && !o->net.has_mac)
        net_mac_derive(id, len, slot, func, o->net.mac);
    return err;
}

/* Two cards with one address hear each other's frames, or neither does. 0 or -EEXIST. */
static int claim_mac(uint8_t (*macs)[6], unsigned *count, const uint8_t *mac, char *why, size_t n)
{
    char text[NET_MAC_TEXT];
    for (unsigned i = 0; i < *count; i++)
        if (memcmp(macs[i], mac, 6) == 0) {
            snprintf(why, n, "mac=%s: another network card has this address; each needs its own",
                     net_mac_text(mac, text));
            return -EEXIST;
        }
    memcpy(macs[(*count)++], mac, 6);
    return 0;
}

static int add_nic(struct pc *pc, unsigned slot, unsigned func, bool tap, const char *options, char *why, size_t n)
{
    struct nic_options o;
    struct virtio_dev *dev;
    int err = nic_from(&o, pc->config, slot, func, tap, options, why, n);
    o.irqfds = pc->vm->irqfds;
    if (!err)
        err = claim_mac(pc->macs, &pc->nmacs, o.net.mac, why, n);
    if (!err && o.net.kind == NET_USER) {
        if (!o.net.has_net) /* each has its own: a guest with one network on two cards cannot tell them apart */
            net_default(&o.net, pc->nuser % NET_MAX_DEFAULTS);
        o.net.number = (uint8_t)pc->nuser++;
    }
    if (!err)
        err = nic_new(&dev, &pc->vm->mem, &o, why, n);
    return err ? err : add_virtio(pc, slot, func, dev);
}

static int new_net(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    return add_nic(pc, slot, func, false, options, why, n);
}

static int new_tap(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    return add_nic(pc, slot, func, true, options, why, n);
}

static int new_uart(struct pc *pc, unsigned slot, unsigned func, const char *options, char *why, size_t n)
{
    struct serial *line;
    int err = serial_open(&line, options && *options ? options : "null", pc->vm->loop, why, n);
    if (err)
        return err;
    pc->has_socket |= serial_needs_network(line);
    return pci_uart_new(&pc->pci, slot, func, line, pc->vm->loop);
}

static bool is_device(const char *spec, const char *name)
{
    size_t len = strlen(name);
    return strncmp(spec, name, len) == 0 && (!spec[len] || spec[len] == ',');
}

int devices_print_macs(const struct vm_config *config, char *why, size_t n)
{
    uint8_t macs[CONFIG_PCI_SLOTS * CONFIG_PCI_FUNCS][6];
    unsigned found = 0;
    for (unsigned slot = 0; slot < CONFIG_PCI_SLOTS; slot++)
        for (unsigned func = 0; func < CONFIG_PCI_FUNCS; func++) {
            const char *spec = config->pci[slot][func];
            bool tap = spec && is_device(spec, "virtio-tap");
            if (!spec || (!tap && !is_device(spec, "virtio-net")))
                continue;
            struct nic_options o;
            char text[NET_MAC_TEXT], reason[256];
            const char *options = strchr(spec, ',');
            int err = nic_from(&o, config, slot, func, tap, options ? options + 1 : NULL, reason, sizeof(reason));
            if (!err)
                err = claim_mac(macs, &found, o.net.mac, reason, sizeof(reason));
            if (err) {
                snprintf(why, n, "-s %u:%u,%s: %s", slot, func, spec, reason);
                return err;
            }
            printf("MAC: %s\n", net_mac_text(o.net.mac, text));
        }
    if (!found)
        snprintf(why, n, "-M: expected a network device (-s N,virtio-net)");
    return found ? 0 : -ENODEV;
}

int device_new(struct pc *pc, unsigned slot, unsigned func, const char *spec, char *why, size_t n)
{
    static const struct {
        const char *name;
        int (*plain)(struct pci_bus *, unsigned slot, unsigned func); /* takes no options, or: */
        int (*make)(struct pc *, unsigned slot, unsigned func, const char *options, char *why, size_t n);
    } makers[] = {
        {"hostbridge", hostbridge_new, NULL},
        {"amd_hostbridge", amd_hostbridge_new, NULL},
        {"lpc", lpc_new, NULL},
        {"dummy", pci_dummy_new, NULL},
        {"ahci", NULL, new_ahci},
        {"ahci-cd", NULL, new_ahci_cd},
        {"ahci-hd", NULL, new_ahci_hd},
        {"uart", NULL, new_uart},
        {"virtio-blk", NULL, new_blk},
        {"virtio-console", NULL, new_console},
        {"virtio-net", NULL, new_net},
        {"virtio-rnd", NULL, new_rnd},
        {"virtio-tap", NULL, new_tap},
    };
    size_t len = strcspn(spec, ",");
    const char *options = spec[len] ? spec + len + 1 : NULL;
    int err = -ENODEV;
    *why = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(makers); i++)
        if (strlen(makers[i].name) == len && strncmp(makers[i].name, spec, len) == 0)
            err = makers[i].plain ? makers[i].plain(&pc->pci, slot, func)
                                  : makers[i].make(pc, slot, func, options, why, n);
    if (err && !*why)
        snprintf(why, n, "%s", err == -EEXIST ? "a machine has one of these, and it is there already" : strerror(-err));
    return err;
}

static int ioeventfd(void *arg, int fd, const struct accel_io_event *event, bool add)
{
    struct vm *vm = arg;
    return vm->accel->ioeventfd(vm, fd, event, add);
}

static int set_route(void *arg, unsigned route, uint64_t addr, uint32_t data)
{
    struct vm *vm = arg;
    return vm->accel->set_route(vm, route, addr, data);
}

static int irqfd(void *arg, int fd, unsigned route, bool add)
{
    struct vm *vm = arg;
    return vm->accel->irqfd(vm, fd, route, add);
}

int devices_started(struct pc *pc)
{
    unsigned routes = 0;
    int err = 0;
    for (unsigned i = 0; i < pc->nvirtio && !err && pc->vm->accel->ioeventfd; i++) {
        struct virtio_pci_events events = {.ioeventfd = ioeventfd, .arg = pc->vm, .first_route = routes};
        /* A device that comes too late for routes keeps its queues. */
        if (pc->vm->irqfds && routes + pc->virtio[i]->lendable <= ACCEL_MSI_ROUTES) {
            events.irqfds = (struct pci_irqfd_ops){set_route, irqfd, pc->vm};
            routes += pc->virtio[i]->lendable;
        }
        err = virtio_pci_set_events(pc->virtio[i], &events);
    }
    return err;
}

static int too_long(const char *name, unsigned seconds)
{
    log_error("%s: its requests to the host have not ended for %u s", name, seconds);
    return -ETIMEDOUT;
}

/* A device with an I/O thread: the nth of all, virtio first. */
static int wait_for(struct pc *pc, unsigned n, uint64_t deadline)
{
    return n < pc->nvirtio ? virtio_wait_until(pc->virtio[n], deadline)
                           : ahci_wait_until(pc->ahci[n - pc->nvirtio], deadline);
}

static const char *name_of(struct pc *pc, unsigned n) { return n < pc->nvirtio ? pc->virtio[n]->ops->name : "ahci"; }

int devices_settle(struct pc *pc, const bool *quit)
{
    uint64_t end = os_clock_ns() + SETTLE_S * NS_PER_S;
    for (unsigned i = 0; i < pc->nvirtio + pc->nahci; i++)
        for (uint64_t now; wait_for(pc, i, (now = os_clock_ns()) + SETTLE_TICK_NS);) {
            (void)loop_turn(pc->vm->loop, 0); /* signals */
            if (*quit)
                return -ECANCELED;
            if (now > end)
                return too_long(name_of(pc, i), SETTLE_S);
        }
    return 0;
}

void devices_refresh_disks(struct pc *pc)
{
    int err = 0;
    for (unsigned i = 0; i < pc->nvirtio; i++)
        err |= blk_refresh(pc->virtio[i]);
    for (unsigned i = 0; i < pc->nahci; i++)
        err |= ahci_refresh(pc->ahci[i]);
    if (err)
        log_error("out of memory: a disk's size is not looked at");
}

void devices_need(const struct pc *pc, struct sandbox_needs *needs)
{
    needs->disk |= pc->has_disk;
    needs->network |= pc->has_socket;
    for (unsigned i = 0; i < pc->nvirtio; i++) {
        needs->network |= blk_needs_network(pc->virtio[i]);
        needs->network |= console_needs_network(pc->virtio[i]);
        nic_needs(pc->virtio[i], needs);
    }
    for (unsigned i = 0; i < pc->nahci; i++)
        needs->network |= ahci_needs_network(pc->ahci[i]);
}

void devices_window_changed(struct pc *pc)
{
    for (unsigned i = 0; i < pc->nvirtio; i++)
        console_window_changed(pc->virtio[i]);
}

int devices_stop(struct pc *pc)
{
    uint64_t end = os_clock_ns() + STOP_S * NS_PER_S;
    int err = 0;
    for (unsigned i = 0; i < pc->nvirtio; i++) {
        virtio_pci_set_events(pc->virtio[i], NULL);
        if (io_thread_running(pc->virtio[i]->io))
            virtio_reset(pc->virtio[i]); /* all are told before any is waited for */
    }
    for (unsigned i = 0; i < pc->nahci; i++)
        ahci_reset(pc->ahci[i]);
    for (unsigned i = 0; i < pc->nvirtio; i++)
        if (virtio_stop_by(pc->virtio[i], end))
            err = too_long(pc->virtio[i]->ops->name, STOP_S);
    for (unsigned i = 0; i < pc->nahci; i++)
        if (ahci_stop_by(pc->ahci[i], end))
            err = too_long("ahci", STOP_S);
    return err;
}
