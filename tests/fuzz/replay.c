/*
 * Feeds a fuzz target without libFuzzer: every file of a corpus as it is, and
 * then COUNT inputs made out of these by changing some of their bytes.
 *
 *     replay FOLDER [COUNT [SEED]]
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "fuzz.h"

#define MAX_FILES 4096
#define MAX_LEN 8192

struct file {
    uint8_t *data;
    size_t len;
};

static uint64_t state;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static int load(const char *folder, struct file *files)
{
    static uint8_t buf[1 << 20];
    int n = 0;
    DIR *dir = opendir(folder);
    if (!dir) {
        perror(folder);
        return -1;
    }
    for (struct dirent *entry; (entry = readdir(dir)) && n < MAX_FILES;) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        FILE *f = fopen(path, "rb");
        if (!f) {
            perror(path);
            n = -1;
            break;
        }
        files[n].len = fread(buf, 1, sizeof(buf), f);
        files[n].data = malloc(files[n].len + 1);
        fclose(f);
        if (!files[n].data) {
            n = -1;
            break;
        }
        memcpy(files[n].data, buf, files[n].len);
        n++;
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    static struct file files[MAX_FILES];
    static uint8_t buf[MAX_LEN];
    unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s FOLDER [COUNT [SEED]]\n", argv[0]);
        return 2;
    }
    int n = load(argv[1], files);
    if (n <= 0)
        return 2;
    for (int i = 0; i < n; i++)
        LLVMFuzzerTestOneInput(files[i].data, files[i].len);
    state = argc > 3 ? strtoull(argv[3], NULL, 0) | 1 : 88172645463325252u;
    for (unsigned long i = 0; i < count; i++) {
        const struct file *f = &files[next_random() % (unsigned)n];
        size_t len = f->len < MAX_LEN ? f->len : MAX_LEN;
        memcpy(buf, f->data, len);
        for (uint32_t changes = next_random() % 12; changes && len; changes--) {
            size_t at = next_random() % len;
            switch (next_random() % 4) {
            case 0: buf[at] = (uint8_t)next_random(); break;
            case 1: buf[at] ^= (uint8_t)(1u << next_random() % 8); break;
            case 2: /* a piece of another one */
            {
                const struct file *other = &files[next_random() % (unsigned)n];
                size_t from = other->len ? next_random() % other->len : 0, piece = next_random() % 64;
                piece = piece < other->len - from ? piece : other->len - from;
                piece = piece < len - at ? piece : len - at;
                memcpy(buf + at, other->data + from, piece);
                break;
            }
            default: len = at; break;
            }
        }
        LLVMFuzzerTestOneInput(buf, len);
    }
    for (int i = 0; i < n; i++)
        free(files[i].data);
    printf("%d files, %lu inputs made out of them\n", n, count);
    return 0;
}
