/*
 * Disk backends: what stands behind a virtio-blk or AHCI disk, whatever holds
 * the bytes (a raw file, a block device, an NBD server). Names say `disk`,
 * because a block is a piece of code elsewhere (cpu/block.h).
 *
 * A disk belongs to the loop it was opened with: everything but disk_open() is
 * called on that loop's thread, or before it runs. Requests are asynchronous:
 *
 *     disk_queue(disk, req); disk_queue(disk, req2); ...
 *     disk_submit(disk);                      one system call for the batch, where io_uring is
 *     ... req->done(req, 0 or -errno)         on the same thread, in any order
 *
 * Nothing a guest asks for ends the process: what cannot be done is the
 * request's error.
 */
#ifndef XHYVE_BLOCK_BLOCK_H
#define XHYVE_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "os/loop.h"

struct disk;
struct disk_req;

enum disk_op {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,        /* every write done before this one was queued survives a loss of power once it is done */
    DISK_DISCARD,      /* what the range holds does not matter any more; it may read as anything then */
    DISK_WRITE_ZEROES, /* it reads as zeroes then */
};

enum {
    DISK_FUA = 1,   /* WRITE, WRITE_ZEROES: on stable storage when done */
    DISK_UNMAP = 2, /* WRITE_ZEROES: the space may be given back too */
    DISK_MORE = 4,  /* a hint: others follow at once */
};

struct disk_req {
    /*
     * The caller's; not changed until done() is called. offset and length are
     * bytes, multiples of the logical sector size (FLUSH: 0 and 0). READ and
     * WRITE: the iovecs hold `length` bytes together, cut up anyhow, at any
     * address; they and what they point to stay until done().
     */
    enum disk_op op;
    unsigned flags;
    uint64_t offset, length;
    const struct iovec *iov;
    unsigned niov;
    void (*done)(struct disk_req *, int error);

    /* The backend's while the request is under way. */
    struct disk_work {
        struct disk *disk;
        struct disk_req *next;
        int error;
        int64_t result;
        uint64_t pos;           /* bytes of the request that are through */
        const struct iovec *at; /* the memory of the rest */
        unsigned nat;
        struct iovec *copy; /* owns `at`, once a transfer ended in the middle of an iovec */
        unsigned step;      /* which way of doing it is being tried, */
        unsigned tries;     /* and how often again */
        uint64_t from, to;  /* the range of calls that move no data: what is left of it */
        struct iovec one;   /* the beginning of an iovec that is more than one call should take */
        struct disk_req *next_active, **prev_active;
        void *arg;
    } work;
};

/* How to open. Zero-initialise; disk_option() fills it from text. */
struct disk_options {
    bool ro;
    bool direct;                /* past the host's page cache */
    bool sync;                  /* each write is on stable storage when done */
    bool nodelete;              /* DISCARD is not offered, and the image never loses allocated space */
    unsigned logical, physical; /* sector sizes, bytes; 0: the backend's own, else 512 */
    char format[16];            /* "raw", "qcow2", ...; empty: the name tells */
    char serial[21];            /* what the guest is told, up to DISK_SERIAL_LEN characters; empty: see disk_serial() */
    enum { DISK_AIO_AUTO, DISK_AIO_URING, DISK_AIO_THREADS } aio;
};

/*
 * Takes one option of a disk as a person writes it: ro, direct, sync, nodelete,
 * sectorsize=LOGICAL[/PHYSICAL], serial=S, format=NAME, aio=io_uring|threads.
 * 1: taken; 0: not one of them; -EINVAL: one of them, but wrong, and `why` is a
 * line that says how.
 */
int disk_option(struct disk_options *, const char *text, char *why, size_t n);
#define DISK_OPTIONS_HELP "ro,direct,sync,nodelete,sectorsize=L[/P],serial=S,format=F,aio=io_uring|threads"

/*
 * Takes all of them, with commas between; NULL: none. What disk_option() does not
 * know goes to the device's own `other`, if not NULL, with the same results. What
 * nobody knows is an error that says which there are: `help`. 0; -errno and why.
 */
int disk_parse(struct disk_options *, const char *text, int (*other)(void *arg, const char *one, char *why, size_t n),
               void *arg, const char *help, char *why, size_t n);

/* The serial number: what was asked for, or one that stays the same as long as the image's name does. */
#define DISK_SERIAL_LEN 20
void disk_serial(const struct disk_options *, const char *image, char out[DISK_SERIAL_LEN + 1]);

/*
 * Opens what `spec` names, and locks it:
 *
 *     PATH                            raw file or block device; *.qcow2, *.vmdk, *.vhdx, *.vdi or format=: by a private
 *                                     qemu-storage-daemon or qemu-nbd
 *     nbd://HOST[:PORT]/EXPORT        and nbds://, nbd+unix:///EXPORT?socket=PATH, nbds+unix://: an NBD server
 *     test:drop-unflushed:PATH        for tests: what was not flushed is lost when the process ends
 *     test:ignore-flush:PATH          for tests of those tests: the same, and FLUSH does nothing
 *
 * On failure -errno, `why` is one line (no newline) that names spec, what was
 * found and what to do, and nothing is left open, locked or running. Before the
 * sandbox (os/sandbox.h, needs->disk; NBD and foreign formats: needs->network
 * too), on a thread that lives as long as the disk.
 */
int disk_open(const char *spec, const struct disk_options *, struct loop *, struct disk **out, char *why, size_t n);

/*
 * Submits and waits for what was queued (its done() is called; it must not
 * queue more), then closes and unlocks. Not from done(). NULL is allowed.
 */
void disk_close(struct disk *);

struct disk_info {
    uint64_t size;              /* bytes, a multiple of `logical` */
    unsigned logical, physical; /* bytes, powers of two */
    bool ro;
    bool writeback;         /* FLUSH means something: false with `sync` */
    bool discard;           /* DISCARD is worth offering; WRITE_ZEROES always works on what is not read-only */
    unsigned discard_align; /* bytes: ranges smaller or not aligned to it may be kept */
    uint64_t max_discard;   /* bytes a request worth offering, also for WRITE_ZEROES; any length is accepted */
    bool rotational;
    bool network;        /* the sandbox must let it send and receive */
    const char *backend; /* for people: "io_uring", "threads", "nbd" */
};
const struct disk_info *disk_info(const struct disk *);

/*
 * disk_queue() takes a request and calls nobody; a wrong one (a range outside
 * the disk, a write to a read-only one) gets its error through done() like any
 * other. disk_submit() starts what was queued and calls done() of what is ready,
 * also that of earlier requests. done() may queue and submit; its request's
 * memory is the caller's again.
 */
void disk_queue(struct disk *, struct disk_req *);
void disk_submit(struct disk *);
unsigned disk_inflight(const struct disk *); /* requests queued whose done() has not been called */

/*
 * What is under way is to end soon, for who asked waits for that alone (a reset):
 * what the host has not been told yet ends in -EIO, as does what is queued before
 * the rest is through, and a server that says nothing for DISK_PATIENCE_S seconds,
 * or is not through in DISK_MOST_PATIENCE_S, is given up: every request fails
 * from then on. What a kernel is at, 16 MiB at most a request, is waited for.
 */
void disk_hurry(struct disk *);
enum { DISK_PATIENCE_S = 5, DISK_MOST_PATIENCE_S = 20 };

/*
 * Looks anew at the size of a file or device that may have grown; disk_info()
 * tells, and so does a line. 0; -errno, with a line that says why, and the size
 * is as before (-EOPNOTSUPP: behind NBD a size is known from the beginning only).
 */
int disk_refresh(struct disk *);

#endif
