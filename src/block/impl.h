/* What backends share: the part of a disk that does not care where the bytes are. */
#ifndef XHYVE_BLOCK_IMPL_H
#define XHYVE_BLOCK_IMPL_H

#include "block/block.h"

struct disk_ops {
    /* Takes a request that has been checked (length not 0 but for FLUSH); may disk_finish() it at once. */
    void (*start)(struct disk *, struct disk_req *);
    /* Tells the host about what was started and collects what is finished, without waiting. */
    void (*submit)(struct disk *);
    /* Waits until something can be collected. */
    void (*wait)(struct disk *);
    /* Optional. disk->hurry has been set: ends what has not begun, and sees to it that the rest ends. */
    void (*hurry)(struct disk *);
    int (*refresh)(struct disk *); /* NULL: the size is what it is */
    void (*close)(struct disk *);  /* nothing is under way; frees the disk */
};

struct disk_list {
    struct disk_req *first, **last; /* *last is where the next one goes; NULL: empty, never used */
};

struct disk {
    const struct disk_ops *ops;
    struct disk_info info;
    struct loop *loop;
    char *spec;
    struct disk_list finished;
    unsigned inflight;
    bool hurry;          /* until nothing is under way: no more calls to the host, requests end in -EIO */
    bool running, again; /* in disk_submit(); it was called once more from a done() */
    struct timer kick;
};

/* Sets up the common part; ops and info are the backend's. 0 or -ENOMEM. */
int disk_init(struct disk *, const struct disk_ops *, const char *spec, struct loop *);
void disk_fini(struct disk *);

/* The request is over; done() is called when disk_submit() comes to it. Backends call that after collecting. */
void disk_finish(struct disk *, struct disk_req *, int error);

/* Calls disk_submit() soon from the loop, at the latest in delay_ns. */
void disk_kick(struct disk *, uint64_t delay_ns);

void disk_list_add(struct disk_list *, struct disk_req *);
struct disk_req *disk_list_take(struct disk_list *); /* NULL: empty */

/* Copies between a request's memory, from byte `pos` of it, and a buffer. */
void disk_copy_out(const struct disk_req *, uint64_t pos, const void *from, size_t n);
void disk_copy_in(const struct disk_req *, uint64_t pos, void *to, size_t n);

/*
 * Settles the sector sizes from what was asked for and the backend's own (0: no
 * opinion), and checks that `size` is a number of sectors. 0 or -EINVAL with why.
 */
int disk_geometry(struct disk_info *, const char *spec, const struct disk_options *, uint64_t size, unsigned logical,
                  unsigned physical, char *why, size_t n);

typedef int disk_open_fn(const char *spec, const struct disk_options *, struct loop *, struct disk **, char *why,
                         size_t n);
disk_open_fn raw_open, nbd_open, powerloss_open;

/*
 * nbdserver.c: a private NBD server for the image `path` of format `format`;
 * *fd is a connection to its export "disk". It ends with the thread that
 * started it, at the latest. 0 or -errno with why.
 */
struct nbd_server;
int nbd_server_start(const char *path, const char *format, const struct disk_options *, int *fd,
                     struct nbd_server **out, char *why, size_t n);
/* What it last said on stderr, one line; "" if nothing. */
void nbd_server_words(struct nbd_server *, char *out, size_t n);
/* Ends it, after its connection was closed, and waits for that a while. `kill`: by force; not in the sandbox. NULL: none. */
void nbd_server_end(struct nbd_server *, bool kill);
/* nbd.c: a disk on such a connection; owns fd and server from here on, on failure too. */
int nbd_open_fd(int fd, struct nbd_server *, const char *spec, const struct disk_options *, struct loop *,
                struct disk **out, char *why, size_t n);

/*
 * Locks an image against other VMs and QEMU: one writer, or several readers.
 * 0, -EBUSY or another -errno with why.
 */
int image_lock(int fd, const char *path, bool write, char *why, size_t n);

/* The format that the first bytes of an image tell, or NULL; at least IMAGE_MAGIC_BYTES, zero-padded. */
enum { IMAGE_MAGIC_BYTES = 512 };
const char *image_magic(const uint8_t *head);

/* "why: LINE" in one place: fills why and returns error. */
int disk_error(int error, char *why, size_t n, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
