/*
 * fw_cfg: named data for firmware and guests, in the way of QEMU's device of
 * that name (its docs/specs/fw_cfg): ports 0x510 (selector), 0x511 (data) and
 * 0x514 (DMA).
 */
#ifndef XHYVE_CHIPSET_FWCFG_H
#define XHYVE_CHIPSET_FWCFG_H

#include <pthread.h>
#include <stdbool.h>

#include "core/bus.h"
#include "core/mem.h"
#include "core/state.h"
#include "util/log.h"

#define FWCFG_NAME_MAX 55 /* characters */
#define FWCFG_MAX_FILES 512
#define FWCFG_MAX_SIZE (UINT32_C(256) << 20) /* of one item */

enum { /* keys */
       FWCFG_SIGNATURE = 0x00,
       FWCFG_ID = 0x01,
       FWCFG_UUID = 0x02,
       FWCFG_RAM_SIZE = 0x03,
       FWCFG_NOGRAPHIC = 0x04,
       FWCFG_NB_CPUS = 0x05,
       FWCFG_BOOT_MENU = 0x0e,
       FWCFG_MAX_CPUS = 0x0f,
       FWCFG_FILE_DIR = 0x19,
       FWCFG_FILE_FIRST = 0x20,
};

struct fwcfg_state {
    uint16_t selector;
    uint32_t offset; /* of the next byte of that item */
    uint32_t dma_high;
};

struct fwcfg_item {
    uint8_t *data; /* NULL: not there */
    uint32_t len;
};

struct fwcfg {
    struct fwcfg_state s;
    struct bus *pio;
    struct guest_mem *mem;
    pthread_mutex_t *lock;
    struct fwcfg_item item[FWCFG_FILE_FIRST + FWCFG_MAX_FILES];
    char (*name)[FWCFG_NAME_MAX + 1]; /* of the files, FWCFG_MAX_FILES of them */
    unsigned nfiles;
    struct log_limit limit;
};

/* Signature, id, RAM size, CPU counts and an empty directory are there afterwards. 0 or -errno. Main thread, as all here. */
int fwcfg_init(struct fwcfg *, struct bus *pio, struct guest_mem *, unsigned ncpus, pthread_mutex_t *lock);
void fwcfg_fini(struct fwcfg *);
void fwcfg_reset(struct fwcfg *);
int fwcfg_save(struct fwcfg *, struct state_blob *);
int fwcfg_load(struct fwcfg *, const uint8_t *data, size_t len, size_t *pos);

/* Sets an item by its key (under FWCFG_FILE_DIR), copied. 0, -EINVAL, -EFBIG, -ENOMEM. Before the guest runs. */
int fwcfg_add_item(struct fwcfg *, unsigned key, const void *data, size_t len);

/* Adds a named file, copied. -EINVAL: name empty or too long; -EEXIST; -ENOSPC: too many; -EFBIG; -ENOMEM. Before the guest runs. */
int fwcfg_add_file(struct fwcfg *, const char *name, const void *data, size_t len);

/* "-l fwcfg,SPEC": name=NAME,file=PATH or name=NAME,string=TEXT (the rest, commas too). -errno and a reason in why[n], SPEC not repeated. */
int fwcfg_add_spec(struct fwcfg *, const char *spec, char *why, size_t n);

#endif
