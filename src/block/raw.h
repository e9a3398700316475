/* A raw file or block device: what its parts know of each other. */
#ifndef XHYVE_BLOCK_RAW_H
#define XHYVE_BLOCK_RAW_H

#include "block/impl.h"

struct ring;
struct pool;

struct raw {
    struct disk disk;
    int fd;
    bool device;              /* a block device, not a file */
    bool sync;                /* opened so */
    bool keep;                /* nodelete: space stays allocated */
    int sync_error;           /* of the first FLUSH that failed, and so of all later ones */
    unsigned memory_align;    /* of the memory of a transfer, */
    unsigned file_align;      /* of its offset and lengths: what the host asks for; 1 without O_DIRECT */
    unsigned call_align;      /* of a device's other calls; 1 for a file */
    bool own_io;              /* this thread may copy from and to the page cache itself, */
    uint64_t own_writes_from; /* writes not before this moment: they had to wait */
    unsigned own_reads_skip;  /* so many reads not: what they want was not in the cache */
    struct disk_req *apart;   /* the large read that a thread of the kernel's makes meanwhile */
    struct ring *ring;        /* NULL: all goes through the pool */
    struct pool *pool;        /* NULL: the ring does all */
    struct disk_list waiting; /* for a place in the ring */
    struct disk_list blocked; /* writes that would touch a block that another write has to itself */
    struct disk_req *active;  /* writes under way, if there can be such conflicts */
};

/* One call to the host. */
struct host_io {
    enum host_op {
        HOST_READ,
        HOST_WRITE,
        HOST_SYNC,
        HOST_PUNCH,   /* a file: gives the space back; reads as zeroes */
        HOST_ZERO,    /* a file: zeroes; the space stays */
        HOST_DISCARD, /* a device */
        HOST_BLANK,   /* a device: zeroes */
    } op;
    bool dsync;  /* WRITE: stable when done */
    bool nowait; /* READ: -EAGAIN rather than wait for a disk */
    bool apart;  /* READ, by the ring: not by the thread that submits it */
    const struct iovec *iov;
    unsigned niov;
    uint64_t offset, length;
};

/* rawio.c: the way of a request through one or more calls. raw_io() says which is next; any thread. */
void raw_start(struct disk *, struct disk_req *);
void raw_io(const struct disk_req *, struct host_io *);
void raw_result(struct disk_req *, int64_t result); /* bytes or 0, or -errno */
void raw_refill(struct disk *);                     /* there may be room in the ring for those who wait */
void raw_hurry(struct disk *);

/* hostfile_*.c: the host's calls, and what it tells of a file. */
int64_t host_call(int fd, const struct host_io *); /* any thread; waits */
struct stat;
bool host_is_device(const struct stat *); /* one that may be a disk */
/* Opens a file, or a device for nobody else to use; direct: past the page cache; sync: writes last. A descriptor or -errno. */
int host_open(const char *path, int flags, bool device, bool direct, bool sync);
struct host_file {
    uint64_t size;
    bool device, rotational, discard;
    bool local; /* a file system of this host's kernel alone: a write goes to the page cache and no further */
    unsigned logical, physical; /* 0: no opinion */
    unsigned discard_align;
    uint64_t max_discard;
    unsigned memory_align, file_align; /* for O_DIRECT; 0: it cannot */
};
int host_file_look(int fd, bool write, struct host_file *); /* 0 or -errno; -ENOTBLK: neither file nor block device */
int host_file_size(int fd, uint64_t *size);

/*
 * ring.c: io_uring, loaded when it is first used; 0 or -errno, with why: it is
 * not built in, not installed, not allowed or too old. Results go to
 * raw_result() in ring_submit().
 */
int ring_new(int fd, struct loop *, struct disk *, struct ring **, char *why, size_t n);
bool ring_add(struct ring *, struct disk_req *, const struct host_io *); /* false: full, for now */
void ring_submit(struct ring *);
void ring_wait(struct ring *);
unsigned ring_inflight(const struct ring *);
void ring_free(struct ring *);
bool ring_can(const struct host_io *);

/* pool.c: threads that make the calls. Results go to raw_result() in pool_collect(). */
int pool_new(int fd, unsigned threads, struct loop *, struct disk *, struct pool **);
void pool_add(struct pool *, struct disk_req *);
void pool_collect(struct pool *);
void pool_wait(struct pool *);
struct disk_list pool_take_back(struct pool *); /* what no thread has begun */
void pool_free(struct pool *);

#endif
