/* Words behind `ahci`, `ahci-hd` and `ahci-cd`: see devices/ahci.h. */
#include "devices/ahci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The drive whose image stands at the beginning of text[len], its options behind. */
static int add_drive(struct ahci_options *o, int kind, const char *text, size_t len, char *why, size_t n)
{
    size_t name = strcspn(text, ",");
    if (name > len)
        name = len;
    if (o->ndrives == AHCI_MAX_PORTS) {
        snprintf(why, n, "expected up to %d ports; another controller has room for '%.*s'", AHCI_MAX_PORTS, (int)name,
                 text);
        return -EINVAL;
    }
    if (!name && kind != AHCI_CD) { /* a CD drive may be empty */
        snprintf(why, n, "expected the name of an image, found '%.*s'", (int)len, text);
        return -EINVAL;
    }
    struct ahci_drive *drive = &o->drive[o->ndrives];
    char *options = len > name ? strndup(text + name + 1, len - name - 1) : NULL;
    drive->kind = kind;
    drive->image = name ? strndup(text, name) : NULL;
    o->ndrives++;
    int err = (drive->image || !name) && (options || len <= name)
                  ? disk_parse(&drive->disk, options, NULL, NULL, DISK_OPTIONS_HELP, why, n)
                  : -ENOMEM;
    free(options);
    return err;
}

/* Where the next port's words begin: behind the comma before "hd:" or "cd:", or at the end. */
static const char *next_port(const char *text)
{
    while ((text = strchr(text, ','))) {
        text++;
        if (!strncmp(text, "hd:", 3) || !strncmp(text, "cd:", 3))
            return text;
    }
    return NULL;
}

int ahci_parse(const char *text, int kind, struct ahci_options *o, char *why, size_t n)
{
    int err = 0;
    memset(o, 0, sizeof(*o));
    if ((!text || !*text) && kind != AHCI_CD) {
        if (kind < 0)
            snprintf(why, n, "expected ports: ahci,hd:IMAGE[,OPTIONS][,cd:IMAGE...]");
        else
            snprintf(why, n, "expected the name of an image: ahci-hd,IMAGE[,OPTIONS]");
        return -EINVAL;
    }
    if (kind >= 0)
        return add_drive(o, kind, text ? text : "", text ? strlen(text) : 0, why, n);
    while (text && !err) {
        const char *next = next_port(text);
        size_t len = next ? (size_t)(next - text - 1) : strlen(text);
        if (strncmp(text, "hd:", 3) != 0 && strncmp(text, "cd:", 3) != 0) {
            snprintf(why, n, "expected hd:IMAGE or cd:IMAGE, found '%.*s'", (int)len, text);
            return -EINVAL;
        }
        err = add_drive(o, *text == 'c' ? AHCI_CD : AHCI_DISK, text + 3, len - 3, why, n);
        text = next;
    }
    return err;
}

void ahci_options_free(struct ahci_options *o)
{
    for (unsigned i = 0; i < o->ndrives; i++)
        free(o->drive[i].image);
    o->ndrives = 0;
}
