/*
 * What is asked of the translator: the settings jit and jit.NAME, one row each.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "cpu/jit/jit.h"
#include "util/bytes.h"

enum kind { KIND_SWITCH, KIND_COUNT, KIND_SIZE, KIND_FEATURES };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    uint64_t min, max;
};

#define AT(member) offsetof(struct jit_options, member)

static const struct option options[] = {
    {"jit", KIND_SWITCH, AT(on), 0, 0},
    {"jit.chain", KIND_SWITCH, AT(chain), 0, 0},
    {"jit.elide", KIND_SWITCH, AT(elide), 0, 0},
    {"jit.flags", KIND_SWITCH, AT(flags), 0, 0},
    {"jit.pext", KIND_SWITCH, AT(pext), 0, 0},
    {"jit.recent", KIND_SWITCH, AT(recent), 0, 0},
    {"jit.string", KIND_SWITCH, AT(string), 0, 0},
    {"jit.superblock", KIND_SWITCH, AT(superblock), 0, 0},
    {"jit.vector", KIND_SWITCH, AT(vector), 0, 0},
    {"jit.tlb2", KIND_SWITCH, AT(tlb2), 0, 0},
    {"jit.slow", KIND_SWITCH, AT(slow), 0, 0},
    {"jit.lockstep", KIND_SWITCH, AT(lockstep), 0, 0},
    {"jit.perf", KIND_SWITCH, AT(perf), 0, 0},
    {"jit.cache", KIND_SIZE, AT(cache), KiB(256), GiB(1)},
    {"jit.exits", KIND_COUNT, AT(exits), 0, 1000000000},
    {"jit.threshold", KIND_COUNT, AT(threshold), 1, 65535},
    {"jit.tlb", KIND_COUNT, AT(tlb), 1, TLB_ENTRIES},
    {"jit.without", KIND_FEATURES, AT(without), 0, 0},
};

static bool parse_switch(const char *v, bool *out)
{
    static const char *const yes[] = {"on", "true", "yes", "1"}, *const no[] = {"off", "false", "no", "0"};
    for (unsigned i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(v, yes[i]) == 0 || strcmp(v, no[i]) == 0) {
            *out = strcmp(v, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static bool parse_number(const struct option *o, const char *v, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(v, &end, 10);
    if (!isdigit((unsigned char)*v) || errno)
        return false;
    if (o->kind == KIND_SIZE && *end) {
        unsigned shift = toupper((unsigned char)*end) == 'K'   ? 10
                         : toupper((unsigned char)*end) == 'M' ? 20
                         : toupper((unsigned char)*end) == 'G' ? 30
                                                               : 0;
        if (!shift || n > o->max >> shift)
            return false;
        n <<= shift;
        end++;
    }
    *out = n;
    return !*end && n >= o->min && n <= o->max;
}

/* "bmi2+adx" */
static bool parse_features(const char *v, uint32_t *words)
{
    char name[32];
    for (;;) {
        size_t n = strcspn(v, "+");
        snprintf(name, sizeof name, "%.*s", (int)n, v);
        enum x86_feature f = cpuid_feature(name);
        if (f == X86_NONE)
            return false;
        words[f >> 5] |= 1u << (f & 31);
        if (!v[n])
            return true;
        v += n + 1;
    }
}

/* The names there are, for a message. */
static void name_all(char *text, size_t n)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(options) && used < n; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%s", i ? ", " : "", options[i].name);
}

static int set(struct jit_options *out, const char *name, const char *v, char *why, size_t n)
{
    char names[256];
    for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        void *place = (char *)out + o->offset;
        if (strcmp(name, o->name) != 0)
            continue;
        if (o->kind == KIND_SWITCH) {
            if (parse_switch(v, place))
                return 0;
            snprintf(why, n, "-o %s: expected on or off, found '%s'", name, v);
        } else if (o->kind == KIND_FEATURES) {
            if (parse_features(v, place))
                return 0;
            snprintf(why, n, "-o %s: expected features with + between, as in bmi2+adx, found '%s'", name, v);
        } else {
            if (parse_number(o, v, place))
                return 0;
            if (o->kind == KIND_SIZE)
                snprintf(why, n, "-o %s: expected a size from 256K to 1G, found '%s'", name, v);
            else
                snprintf(why, n, "-o %s: expected a number from %llu to %llu, found '%s'", name,
                         (unsigned long long)o->min, (unsigned long long)o->max, v);
        }
        return -EINVAL;
    }
    name_all(names, sizeof names);
    snprintf(why, n, "-o %s: unknown name; the translator knows %s", name, names);
    return -EINVAL;
}

void jit_options_default(struct jit_options *out)
{
    *out = (struct jit_options){
        .on = true,
        .chain = true,
        .elide = true,
        .flags = true,
        .pext = cpuid_host_pext_is_fast(),
        .recent = true,
        .string = true,
        .superblock = true,
        .vector = true,
        .tlb2 = true,
        .cache = MiB(32),
        .threshold = 8,
        .tlb = TLB_ENTRIES,
    };
}

int jit_options_parse(struct jit_options *out, const char *text, char *why, size_t n)
{
    jit_options_default(out);
    if (n)
        why[0] = '\0';
    if (!text)
        return 0;
    char *copy = strdup(text), *rest = copy, *part;
    int err = copy ? 0 : -ENOMEM;
    while (!err && (part = strsep(&rest, ","))) {
        char *value = strchr(part, '=');
        if (strcmp(part, "stats=exit") == 0) {
            out->stats = true;
        } else if (!value) {
            snprintf(why, n, "-o %s: expected name=value", part);
            err = -EINVAL;
        } else {
            *value++ = '\0';
            err = set(out, part, value, why, n);
        }
    }
    free(copy);
    if (!err && out->lockstep) { /* a block must stand for itself */
        out->chain = false;
        out->superblock = false;
    }
    return err;
}
