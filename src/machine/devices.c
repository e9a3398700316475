/* From the name and the options of -s to a device in its slot. */
#include "machine/devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pci/bridges.h"
#include "util/bytes.h"
#include "virtio/blk.h"
#include "virtio/pci.h"
#include "virtio/rnd.h"

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
        {"virtio-blk", NULL, new_blk},
        {"virtio-rnd", NULL, new_rnd},
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

int devices_started(struct pc *pc)
{
    const struct virtio_pci_events events = {ioeventfd, pc->vm};
    int err = 0;
    for (unsigned i = 0; i < pc->nvirtio && !err && pc->vm->accel->ioeventfd; i++)
        err = virtio_pci_set_events(pc->virtio[i], &events);
    return err;
}

void devices_settle(struct pc *pc)
{
    for (unsigned i = 0; i < pc->nvirtio; i++)
        virtio_wait(pc->virtio[i]);
}

void devices_need(const struct pc *pc, struct sandbox_needs *needs)
{
    needs->disk |= pc->has_disk;
    for (unsigned i = 0; i < pc->nvirtio; i++)
        needs->network |= blk_needs_network(pc->virtio[i]);
}

void devices_stop(struct pc *pc)
{
    for (unsigned i = 0; i < pc->nvirtio; i++) {
        virtio_pci_set_events(pc->virtio[i], NULL);
        virtio_stop(pc->virtio[i]);
    }
}
