/*
 * Unpacking a bzImage's payload on the host. What Linux packs is described in
 * Documentation/arch/x86/boot.rst ("payload_offset"): one stream of gzip
 * (RFC 1952), xz, lzma-alone, LZ4's legacy frame or Zstandard (RFC 8878),
 * followed by the unpacked size as 32 bits (gzip ends in that anyway).
 */
#include "boot/unpack.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "util/bytes.h"

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_LZMA
#include <lzma.h>
#endif
#ifdef HAVE_LZ4
#include <lz4.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#define LZ4_LEGACY_MAGIC 0x184c2102u

struct stream {
    const uint8_t *in;
    size_t in_len;
    uint8_t *out;
    size_t out_len; /* what must come out, exactly */
};

#ifdef HAVE_ZLIB
static int unpack_gzip(const struct stream *s)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)s->in,
                  .avail_in = (uInt)s->in_len,
                  .next_out = s->out,
                  .avail_out = (uInt)s->out_len};
    if (inflateInit2(&z, 15 + 16) != Z_OK) /* 32 KiB window, gzip header */
        return -ENOMEM;
    int r = inflate(&z, Z_FINISH);
    bool done = r == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    return done ? 0 : r == Z_MEM_ERROR ? -ENOMEM : -EINVAL;
}
#else
#define unpack_gzip NULL
#endif

#ifdef HAVE_LZMA
static int run_lzma(lzma_stream *z, lzma_ret r, const struct stream *s)
{
    if (r != LZMA_OK)
        return r == LZMA_MEM_ERROR ? -ENOMEM : -EINVAL;
    z->next_in = s->in;
    z->avail_in = s->in_len;
    z->next_out = s->out;
    z->avail_out = s->out_len;
    do
        r = lzma_code(z, LZMA_FINISH);
    while (r == LZMA_OK && z->avail_in);
    /* lzma-alone of a known size may want another call to see that it has ended: what counts is what came out. */
    bool done = (r == LZMA_STREAM_END || r == LZMA_OK || r == LZMA_BUF_ERROR) && z->avail_out == 0;
    lzma_end(z);
    return done ? 0 : r == LZMA_MEM_ERROR || r == LZMA_MEMLIMIT_ERROR ? -ENOMEM : -EINVAL;
}

/* Linux packs with a 32 MiB dictionary (128 MiB: generous); the limit stops a forged one. */
#define LZMA_MEMORY MiB(512)

static int unpack_xz(const struct stream *s)
{
    lzma_stream z = LZMA_STREAM_INIT;
    return run_lzma(&z, lzma_stream_decoder(&z, LZMA_MEMORY, 0), s);
}

static int unpack_lzma(const struct stream *s)
{
    lzma_stream z = LZMA_STREAM_INIT;
    return run_lzma(&z, lzma_alone_decoder(&z, LZMA_MEMORY), s);
}
#else
#define unpack_xz NULL
#define unpack_lzma NULL
#endif

#ifdef HAVE_LZ4
/* After the magic: blocks of (packed size, 32 bits; bytes), each of at most 8 MiB unpacked. */
static int unpack_lz4(const struct stream *s)
{
    size_t at = 4, got = 0;
    while (got < s->out_len) {
        if (s->in_len - at < 4)
            return -EINVAL;
        uint32_t packed = get_le32(s->in + at);
        at += 4;
        if (packed == LZ4_LEGACY_MAGIC) /* frames put one behind the other */
            continue;
        if (packed > s->in_len - at || packed > INT32_MAX)
            return -EINVAL;
        size_t room = s->out_len - got < MiB(8) ? s->out_len - got : MiB(8);
        int r = LZ4_decompress_safe((const char *)s->in + at, (char *)s->out + got, (int)packed, (int)room);
        if (r <= 0)
            return -EINVAL;
        at += packed;
        got += (size_t)r;
    }
    return 0;
}
#else
#define unpack_lz4 NULL
#endif

#ifdef HAVE_ZSTD
static int unpack_zstd(const struct stream *s)
{
    size_t packed = ZSTD_findFrameCompressedSize(s->in, s->in_len);
    if (ZSTD_isError(packed))
        return -EINVAL;
    size_t got = ZSTD_decompress(s->out, s->out_len, s->in, packed);
    return !ZSTD_isError(got) && got == s->out_len ? 0 : -EINVAL;
}
#else
#define unpack_zstd NULL
#endif

static const struct format {
    const char *name, *library;
    uint8_t magic[6];
    unsigned magic_len;
    int (*unpack)(const struct stream *); /* NULL: not in this build, or (library NULL) not supported */
} formats[] = {
    {"gzip", "zlib", {0x1f, 0x8b}, 2, unpack_gzip},
    {"xz", "liblzma", {0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
    {"lzma", "liblzma", {0x5d, 0, 0}, 3, unpack_lzma},
    {"lz4", "liblz4", {0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
    {"zstd", "libzstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
    {"bzip2", NULL, {'B', 'Z', 'h'}, 3, NULL},
    {"lzo", NULL, {0x89, 'L', 'Z', 'O'}, 4, NULL},
};

static const struct format *find_format(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (len >= formats[i].magic_len && memcmp(data, formats[i].magic, formats[i].magic_len) == 0)
            return &formats[i];
    }
    return NULL;
}

static int check_format(const struct boot_file *f, const struct format *format, char *why, size_t n)
{
    if (!format)
        return boot_fail(why, n, -ENOTSUP,
                         "kernel \"%s\": its payload is in no format known here (gzip, xz, lzma, lz4, zstd); "
                         "leave out \"unpack\"",
                         f->path);
    if (!format->library)
        return boot_fail(why, n, -ENOTSUP,
                         "kernel \"%s\" is packed with %s, which \"unpack\" does not know; leave it out", f->path,
                         format->name);
    if (!format->unpack)
        return boot_fail(why, n, -ENOTSUP,
                         "kernel \"%s\" is packed with %s, but this xhyve was built without %s; leave out \"unpack\"",
                         f->path, format->name, format->library);
    return 0;
}

/* mmap: a kernel is tens of MiB, given back to the host as soon as it is loaded. */
static uint8_t *map_anonymous(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void unpack_free(uint8_t *data, uint64_t size)
{
    if (data)
        munmap(data, size);
}

static int decompress(const struct boot_file *f, const uint8_t *packed, size_t len, uint64_t max, uint8_t **data,
                      uint64_t *size, char *why, size_t n)
{
    const struct format *format = find_format(packed, len);
    int err = check_format(f, format, why, n);
    if (err)
        return err;
    *size = get_le32(packed + len - 4);
    if (*size == 0 || *size > max || *size > INT32_MAX)
        return boot_fail(why, n, *size > max ? -ENOMEM : -EINVAL,
                         "kernel \"%s\" unpacks to %llu MiB, which does not fit into the machine's memory; "
                         "give it more with -m",
                         f->path, (unsigned long long)(*size >> 20));
    *data = map_anonymous(*size);
    if (!*data)
        return boot_fail(why, n, -ENOMEM, "kernel \"%s\": the host has no %llu MiB to unpack it", f->path,
                         (unsigned long long)(*size >> 20));
    struct stream s = {.in = packed, .in_len = len, .out = *data, .out_len = *size};
    err = format->unpack(&s);
    if (err) {
        unpack_free(*data, *size);
        *data = NULL;
        boot_fail(why, n, err, "kernel \"%s\": its %s payload %s", f->path, format->name,
                  err == -ENOMEM ? "needs more memory to unpack than the host gives"
                                 : "is damaged and does not unpack; copy it again");
    }
    return err;
}

int unpack_payload(const struct boot_file *f, const struct linux_header *h, uint64_t max, uint8_t **data,
                   uint64_t *size, char *why, size_t n)
{
    *data = NULL;
    if (h->payload_length == 0)
        return boot_fail(
            why, n, -ENOTSUP,
            "kernel \"%s\" does not say where its payload is (boot protocol %u.%02u, \"unpack\" needs 2.08);"
            " leave out \"unpack\"",
            f->path, h->version >> 8, h->version & 0xff);
    uint64_t off = h->payload_offset, len = h->payload_length;
    if (len < 16 || off > h->kernel_size || len > h->kernel_size - off)
        return boot_fail(why, n, -EINVAL,
                         "kernel \"%s\" is damaged: its payload (%llu bytes at 0x%llx) is not inside it", f->path,
                         (unsigned long long)len, (unsigned long long)off);
    uint8_t *packed = map_anonymous(len);
    if (!packed)
        return boot_fail(why, n, -ENOMEM, "kernel \"%s\": the host has no %llu MiB to read it", f->path,
                         (unsigned long long)(len >> 20));
    int err = boot_file_read(f, h->setup_size + off, packed, len);
    if (err)
        boot_fail(why, n, err, "kernel \"%s\": %s", f->path,
                  err == -EIO ? "has become shorter since it was opened" : strerror(-err));
    else
        err = decompress(f, packed, len, max, data, size, why, n);
    unpack_free(packed, len);
    return err;
}
