/*
 * fw_cfg, after QEMU's docs/specs/fw_cfg: selector, data and DMA registers.
 *
 * On x86 the selector is little-endian; the DMA register, its descriptor and
 * the file directory are big-endian; the old numbered items little-endian.
 */
#include "chipset/fwcfg.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/bytes.h"

#define PORT_SELECTOR 0x510
#define PORT_DMA 0x514

enum { ID_TRADITIONAL = 1 << 0, ID_DMA = 1 << 1 };
enum { KEY_WRITE = 0x4000, KEY_MASK = 0x3fff, KEY_ARCH = 0x8000 };
enum { DMA_ERROR = 1 << 0, DMA_READ = 1 << 1, DMA_SKIP = 1 << 2, DMA_SELECT = 1 << 3, DMA_WRITE = 1 << 4 };

#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */
#define DIR_ENTRY (8 + FWCFG_NAME_MAX + 1)

static const struct state_field fwcfg_fields[] = {
    STATE_FIELD(struct fwcfg_state, selector, 1, 0),
    STATE_FIELD(struct fwcfg_state, offset, 1, 0),
    STATE_FIELD(struct fwcfg_state, dma_high, 1, 0),
};
static const struct state_desc fwcfg_desc = STATE_DESC("fwcfg", 1, struct fwcfg_state, fwcfg_fields);

static void put_be(uint8_t *p, uint64_t v, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * (size - 1 - i));
}

static uint64_t get_be(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < size; i++)
        v = v << 8 | p[i];
    return v;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void select_item(struct fwcfg *f, uint16_t key)
{
    f->s.selector = key;
    f->s.offset = 0;
}

/* The item selected, or an empty one. None of ours is specific to the architecture. */
static const struct fwcfg_item *selected(const struct fwcfg *f)
{
    static const struct fwcfg_item none;
    unsigned key = f->s.selector & KEY_MASK;
    if ((f->s.selector & KEY_ARCH) || key >= ARRAY_LEN(f->item))
        return &none;
    return &f->item[key];
}

/* Moves on by n bytes and says where those that the item has are; behind its end there are zeroes. Lock held. */
static const uint8_t *advance(struct fwcfg *f, uint32_t n, uint32_t *have)
{
    const struct fwcfg_item *it = selected(f);
    uint32_t at = f->s.offset < it->len ? f->s.offset : it->len;
    *have = it->len - at < n ? it->len - at : n;
    f->s.offset = at + *have;
    return *have ? it->data + at : NULL;
}

/* ---- 0x510, 0x511 ----------------------------------------------------------------------------------------------- */

static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
    struct fwcfg *f = dev;
    uint8_t v = 0xff;
    if (off == 1 && size == 1) {
        uint32_t have;
        pthread_mutex_lock(f->lock);
        const uint8_t *p = advance(f, 1, &have);
        v = p ? *p : 0;
        pthread_mutex_unlock(f->lock);
        return v;
    }
    return size_mask(size); /* the selector cannot be read */
}

static void port_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct fwcfg *f = dev;
    /* A byte to 0x510 is no selector, and data cannot be written. */
    if (off == 0 && size == 2) {
        pthread_mutex_lock(f->lock);
        select_item(f, (uint16_t)val);
        pthread_mutex_unlock(f->lock);
    }
}

static const struct io_ops port_ops = {.read = port_read, .write = port_write, .sizes = 1 | 2};

/* ---- DMA -------------------------------------------------------------------------------------------------------- */

/*
 * The guest's descriptor: copied out once, then checked. A length may be that
 * of all RAM, so the bytes themselves move without the lock, which timers and
 * other vCPUs wait for; items do not change while the guest runs.
 */
static void dma(struct fwcfg *f, uint64_t gpa)
{
    uint8_t desc[16], status[4];
    if (mem_read(f->mem, gpa, desc, sizeof(desc)) != 0) {
        log_guest(&f->limit, "fw_cfg: the guest's DMA descriptor at 0x%llx is not in RAM", (unsigned long long)gpa);
        return;
    }
    uint32_t control = (uint32_t)get_be(desc, 4), len = (uint32_t)get_be(desc + 4, 4);
    uint64_t addr = get_be(desc + 8, 8);
    uint32_t result = 0, have = 0;
    const uint8_t *from = NULL;
    uint8_t *to = (control & DMA_READ) && len ? mem_w(f->mem, addr, len) : NULL;

    pthread_mutex_lock(f->lock);
    if (control & DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    if (control & DMA_READ) {
        if (to)
            from = advance(f, len, &have);
        else if (len)
            result = DMA_ERROR;
    } else if (control & DMA_WRITE) {
        result = DMA_ERROR; /* no item of ours may be written */
    } else if (control & DMA_SKIP) {
        advance(f, len, &have);
    }
    pthread_mutex_unlock(f->lock);
    if (to) {
        if (from)
            memcpy(to, from, have);
        memset(to + have, 0, len - have);
        mem_written(f->mem, addr, len);
    }
    /* Last: the data may have been put on top of the descriptor. */
    put_be(status, result, 4);
    mem_write(f->mem, gpa, status, sizeof(status));
}

static uint64_t dma_read(void *dev, uint64_t off, unsigned size)
{
    uint8_t sig[8];
    put_be(sig, DMA_SIGNATURE, 8);
    return off + size <= 8 ? get_le(sig + off, size) : size_mask(size);
}

static uint32_t swap32(uint64_t v) { return __builtin_bswap32((uint32_t)v); }

static void dma_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct fwcfg *f = dev;
    if (off == 0 && size == 8) {
        dma(f, __builtin_bswap64(val));
        return;
    }
    if (size != 4)
        return;
    pthread_mutex_lock(f->lock);
    uint64_t gpa = (uint64_t)f->s.dma_high << 32 | swap32(val);
    f->s.dma_high = off == 0 ? swap32(val) : 0;
    pthread_mutex_unlock(f->lock);
    if (off == 4)
        dma(f, gpa);
}

static const struct io_ops dma_ops = {.read = dma_read, .write = dma_write, .sizes = 4 | 8};

/* ---- items ------------------------------------------------------------------------------------------------------ */

static int set_item(struct fwcfg *f, unsigned key, const void *data, size_t len)
{
    if (len > FWCFG_MAX_SIZE)
        return -EFBIG;
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy)
        return -ENOMEM;
    if (len)
        memcpy(copy, data, len);
    free(f->item[key].data);
    f->item[key] = (struct fwcfg_item){.data = copy, .len = (uint32_t)len};
    return 0;
}

int fwcfg_add_item(struct fwcfg *f, unsigned key, const void *data, size_t len)
{
    return key < FWCFG_FILE_DIR ? set_item(f, key, data, len) : -EINVAL;
}

static int add_number(struct fwcfg *f, unsigned key, uint64_t v, unsigned size)
{
    uint8_t le[8];
    put_le(le, v, size);
    return set_item(f, key, le, size);
}

static int build_directory(struct fwcfg *f)
{
    size_t len = 4 + (size_t)f->nfiles * DIR_ENTRY;
    uint8_t *dir = calloc(1, len);
    if (!dir)
        return -ENOMEM;
    put_be(dir, f->nfiles, 4);
    for (unsigned i = 0; i < f->nfiles; i++) {
        uint8_t *e = dir + 4 + (size_t)i * DIR_ENTRY;
        put_be(e, f->item[FWCFG_FILE_FIRST + i].len, 4);
        put_be(e + 4, FWCFG_FILE_FIRST + i, 2);
        memcpy(e + 8, f->name[i], sizeof(f->name[i]));
    }
    int err = set_item(f, FWCFG_FILE_DIR, dir, len);
    free(dir);
    return err;
}

int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, size_t len)
{
    size_t name_len = strlen(name);
    if (name_len == 0 || name_len > FWCFG_NAME_MAX)
        return -EINVAL;
    for (unsigned i = 0; i < f->nfiles; i++) {
        if (strcmp(f->name[i], name) == 0)
            return -EEXIST;
    }
    if (f->nfiles == FWCFG_MAX_FILES)
        return -ENOSPC;
    int err = set_item(f, FWCFG_FILE_FIRST + f->nfiles, data, len);
    if (err)
        return err;
    memset(f->name[f->nfiles], 0, sizeof(f->name[0]));
    memcpy(f->name[f->nfiles], name, name_len);
    f->nfiles++;
    err = build_directory(f);
    if (err)
        f->nfiles--;
    return err;
}

/* ---- the command line ------------------------------------------------------------------------------------------- */

static int fail(char *why, size_t n, int err, const char *fmt, ...) PRINTF_LIKE(4, 5);
static int fail(char *why, size_t n, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return err;
}

static int read_file(const char *path, uint8_t **out, size_t *len)
{
    int err = 0;
    struct stat st;
    FILE *file = fopen(path, "rb");
    if (!file)
        return -errno;
    *out = NULL;
    if (fstat(fileno(file), &st) != 0)
        err = -errno;
    else if (S_ISDIR(st.st_mode))
        err = -EISDIR;
    else if (!S_ISREG(st.st_mode))
        err = -EINVAL;
    else if (st.st_size > (off_t)FWCFG_MAX_SIZE)
        err = -EFBIG;
    else if (!(*out = malloc((size_t)st.st_size + 1)))
        err = -ENOMEM;
    if (!err) {
        *len = fread(*out, 1, (size_t)st.st_size, file);
        if (ferror(file))
            err = -EIO;
    }
    if (err)
        free(*out);
    fclose(file);
    return err;
}

int fwcfg_add_spec(struct fwcfg *f, const char *spec, char *why, size_t n)
{
    static const char usage[] = "it is written fwcfg,name=NAME,file=PATH or fwcfg,name=NAME,string=TEXT";
    char name[FWCFG_NAME_MAX + 1];
    const char *rest;
    size_t name_len;

    if (strncmp(spec, "name=", 5) != 0 || !(rest = strchr(spec, ',')))
        return fail(why, n, -EINVAL, "%s", usage);
    name_len = (size_t)(rest - spec) - 5;
    if (name_len == 0 || name_len >= sizeof(name))
        return fail(why, n, -EINVAL, "the name has %zu characters; 1 to %d are possible", name_len, FWCFG_NAME_MAX);
    memcpy(name, spec + 5, name_len);
    name[name_len] = '\0';
    rest++;

    int err;
    if (strncmp(rest, "string=", 7) == 0) {
        err = fwcfg_add_file(f, name, rest + 7, strlen(rest + 7));
    } else if (strncmp(rest, "file=", 5) == 0) {
        uint8_t *data = NULL;
        size_t len = 0;
        err = read_file(rest + 5, &data, &len);
        if (err == -EFBIG)
            return fail(why, n, err, "the file has more than %u MiB", FWCFG_MAX_SIZE >> 20);
        if (err == -EINVAL)
            return fail(why, n, err, "\"%s\" is not a regular file", rest + 5);
        if (err)
            return fail(why, n, err, "\"%s\": %s", rest + 5, strerror(-err));
        err = fwcfg_add_file(f, name, data, len);
        free(data);
    } else {
        return fail(why, n, -EINVAL, "found \"%s\" after the name; %s", rest, usage);
    }
    if (err == -EEXIST)
        return fail(why, n, err, "the name \"%s\" is taken", name);
    if (err == -ENOSPC)
        return fail(why, n, err, "there are %d items already, no more are possible", FWCFG_MAX_FILES);
    return err ? fail(why, n, err, "%s", strerror(-err)) : 0;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

int fwcfg_init(struct fwcfg *f, struct bus *pio, struct guest_mem *mem, unsigned ncpus, pthread_mutex_t *lock)
{
    memset(f, 0, sizeof(*f));
    f->pio = pio;
    f->mem = mem;
    f->lock = lock;
    f->name = calloc(FWCFG_MAX_FILES, sizeof(*f->name));
    int err = f->name ? 0 : -ENOMEM;
    if (!err)
        err = fwcfg_add_item(f, FWCFG_SIGNATURE, "QEMU", 4);
    if (!err)
        err = add_number(f, FWCFG_ID, ID_TRADITIONAL | ID_DMA, 4);
    if (!err)
        err = add_number(f, FWCFG_RAM_SIZE, mem->low_len + mem->high_len, 8);
    if (!err)
        err = add_number(f, FWCFG_NOGRAPHIC, 1, 2);
    if (!err)
        err = add_number(f, FWCFG_NB_CPUS, ncpus, 2);
    if (!err)
        err = add_number(f, FWCFG_MAX_CPUS, ncpus, 2);
    if (!err)
        err = build_directory(f);
    if (!err)
        err = bus_add(
            pio, &(struct io_range){.base = PORT_SELECTOR, .len = 2, .ops = &port_ops, .dev = f, .name = "fw_cfg"});
    if (!err)
        err = bus_add(pio,
                      &(struct io_range){.base = PORT_DMA, .len = 8, .ops = &dma_ops, .dev = f, .name = "fw_cfg DMA"});
    if (err)
        fwcfg_fini(f);
    return err;
}

void fwcfg_fini(struct fwcfg *f)
{
    bus_remove(f->pio, PORT_SELECTOR, f);
    bus_remove(f->pio, PORT_DMA, f);
    for (unsigned i = 0; i < ARRAY_LEN(f->item); i++)
        free(f->item[i].data);
    free(f->name);
}

void fwcfg_reset(struct fwcfg *f)
{
    pthread_mutex_lock(f->lock);
    state_reset(&fwcfg_desc, &f->s);
    pthread_mutex_unlock(f->lock);
}

int fwcfg_save(struct fwcfg *f, struct state_blob *out)
{
    pthread_mutex_lock(f->lock);
    int err = state_save(&fwcfg_desc, &f->s, out);
    pthread_mutex_unlock(f->lock);
    return err;
}

int fwcfg_load(struct fwcfg *f, const uint8_t *data, size_t len, size_t *pos)
{
    pthread_mutex_lock(f->lock);
    int err = state_load(&fwcfg_desc, &f->s, data, len, pos);
    pthread_mutex_unlock(f->lock);
    return err;
}
