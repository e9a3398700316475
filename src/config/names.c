/*
 * Settings by name. The names are bhyve_config(5)'s where it has them; each is
 * one row: name, kind, place in struct vm_config.
 */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

int config_error(char *why, size_t n, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

enum kind { KIND_BOOL, KIND_NOT, KIND_STRING, KIND_COUNT, KIND_SIZE, KIND_UUID, KIND_CHOICE, KIND_IRQCHIP };

struct setting {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *off, *on; /* KIND_CHOICE: the two words */
    unsigned max;         /* KIND_COUNT */
};

#define AT(member) offsetof(struct vm_config, member)

static const struct setting settings[] = {
    {.name = "name", .kind = KIND_STRING, .offset = AT(name)},
    {.name = "pidfile", .kind = KIND_STRING, .offset = AT(pid_file)},
    {.name = "accel", .kind = KIND_STRING, .offset = AT(accel)},
    {.name = "cpu", .kind = KIND_STRING, .offset = AT(cpu_model)},
    {.name = "irqchip", .kind = KIND_IRQCHIP, .offset = AT(irqchip)},
    {.name = "cpus", .kind = KIND_COUNT, .offset = AT(cpus), .max = CONFIG_MAX_VCPUS},
    {.name = "sockets", .kind = KIND_COUNT, .offset = AT(sockets), .max = CONFIG_MAX_VCPUS},
    {.name = "cores", .kind = KIND_COUNT, .offset = AT(cores), .max = CONFIG_MAX_VCPUS},
    {.name = "threads", .kind = KIND_COUNT, .offset = AT(threads), .max = CONFIG_MAX_VCPUS},
    {.name = "memory.size", .kind = KIND_SIZE, .offset = AT(mem_size)},
    {.name = "memory.wired", .kind = KIND_BOOL, .offset = AT(mem_wired)},
    {.name = "memory.guest_in_core", .kind = KIND_BOOL, .offset = AT(mem_in_core)},
    {.name = "acpi", .kind = KIND_BOOL, .offset = AT(acpi)},
    {.name = "acpi_tables", .kind = KIND_BOOL, .offset = AT(acpi)},
    {.name = "x86.mptable", .kind = KIND_BOOL, .offset = AT(mptable)},
    {.name = "x86.x2apic", .kind = KIND_BOOL, .offset = AT(x2apic)},
    {.name = "x86.strictio", .kind = KIND_BOOL, .offset = AT(strict_io)},
    {.name = "x86.strictmsr", .kind = KIND_BOOL, .offset = AT(strict_msr)},
    {.name = "x86.vmexit_on_hlt", .kind = KIND_BOOL, .offset = AT(exit_on_hlt)},
    {.name = "x86.vmexit_on_pause", .kind = KIND_BOOL, .offset = AT(exit_on_pause)},
    {.name = "rtc.use_localtime", .kind = KIND_NOT, .offset = AT(rtc_utc)},
    {.name = "virtio_msix", .kind = KIND_NOT, .offset = AT(virtio_msi)},
    {.name = "uuid", .kind = KIND_UUID, .offset = AT(uuid)},
    {.name = "triplefault", .kind = KIND_CHOICE, .offset = AT(triple_fault_resets), .off = "exit", .on = "reset"},
    {.name = "reboot", .kind = KIND_CHOICE, .offset = AT(reboot_exits), .off = "restart", .on = "exit"},
    {.name = "exitcodes", .kind = KIND_CHOICE, .offset = AT(bhyve_exit_codes), .off = "xhyve", .on = "bhyve"},
    {.name = "stats", .kind = KIND_CHOICE, .offset = AT(stats), .off = "off", .on = "exit"},
    {.name = "lpc.com1.path", .kind = KIND_STRING, .offset = AT(com[0])},
    {.name = "lpc.com2.path", .kind = KIND_STRING, .offset = AT(com[1])},
    {.name = "lpc.com3.path", .kind = KIND_STRING, .offset = AT(com[2])},
    {.name = "lpc.com4.path", .kind = KIND_STRING, .offset = AT(com[3])},
    {.name = "lpc.debugcon.path", .kind = KIND_STRING, .offset = AT(debugcon)},
    {.name = "lpc.pc-testdev", .kind = KIND_BOOL, .offset = AT(testdev)},
};

static int parse_bool(const char *v, bool *out)
{
    static const char *const yes[] = {"on", "true", "yes", "1"}, *const no[] = {"off", "false", "no", "0"};
    for (unsigned i = 0; i < 4; i++) {
        if (strcmp(v, yes[i]) == 0 || strcmp(v, no[i]) == 0) {
            *out = strcmp(v, yes[i]) == 0;
            return 0;
        }
    }
    return -EINVAL;
}

static int parse_count(const char *v, unsigned max, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(v, &end, 10);
    if (!isdigit((unsigned char)*v) || *end || errno || n < 1 || n > max)
        return -EINVAL;
    *out = (unsigned)n;
    return 0;
}

/* N[K,M,G,T][B]; a bare number below 1 MiB means MiB. */
static int parse_size(const char *v, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(v, &end, 10);
    if (!isdigit((unsigned char)*v) || errno)
        return -EINVAL;
    unsigned shift = 0;
    switch (toupper((unsigned char)*end)) {
    case 'K': shift = 10; break;
    case 'M': shift = 20; break;
    case 'G': shift = 30; break;
    case 'T': shift = 40; break;
    case '\0': *out = n < 1 << 20 ? n << 20 : n; return 0;
    default: return -EINVAL;
    }
    if (end[1] && !(toupper((unsigned char)end[1]) == 'B' && !end[2]))
        return -EINVAL;
    if (n > UINT64_MAX >> shift)
        return -ERANGE;
    *out = n << shift;
    return 0;
}

const char *config_size(uint64_t bytes, char *buf, size_t n)
{
    static const char units[] = "KMGT";
    unsigned unit = 0;
    for (bytes >>= 10; unit < 3 && bytes && bytes % 1024 == 0; unit++)
        bytes >>= 10;
    snprintf(buf, n, "%llu%c", (unsigned long long)bytes, units[unit]);
    return buf;
}

static int hex_digit(char c) { return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10; }

/* 8-4-4-4-12 hexadecimal digits, in the order of their bytes. */
static int parse_uuid(const char *v, uint8_t uuid[16])
{
    unsigned digits = 0;
    if (strlen(v) != 36)
        return -EINVAL;
    for (unsigned i = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (v[i] != '-')
                return -EINVAL;
            continue;
        }
        if (!isxdigit((unsigned char)v[i]))
            return -EINVAL;
        uint8_t *byte = &uuid[digits / 2];
        *byte = (uint8_t)(digits % 2 ? *byte | hex_digit(v[i]) : hex_digit(v[i]) << 4);
        digits++;
    }
    return 0;
}

static int set_string(char **place, const char *value, char *why, size_t n)
{
    char *copy = strdup(value);
    if (!copy)
        return config_error(why, n, "out of memory");
    free(*place);
    *place = copy;
    return 0;
}

static int apply(struct vm_config *c, const struct setting *s, const char *as, const char *v, char *why, size_t n)
{
    void *place = (char *)c + s->offset;
    bool flag = false;
    switch (s->kind) {
    case KIND_BOOL:
    case KIND_NOT:
        if (parse_bool(v, &flag))
            return config_error(why, n, "%s: expected on or off, found '%s'", as, v);
        *(bool *)place = flag != (s->kind == KIND_NOT);
        return 0;
    case KIND_STRING:
        if (!*v)
            return config_error(why, n, "%s: expected a value, found nothing", as);
        return set_string(place, v, why, n);
    case KIND_COUNT:
        if (parse_count(v, s->max, place))
            return config_error(why, n, "%s: expected a number from 1 to %u, found '%s'", as, s->max, v);
        return 0;
    case KIND_SIZE:
        if (parse_size(v, place))
            return config_error(why, n, "%s: expected a size such as 512M or 4G, found '%s'", as, v);
        if (*(uint64_t *)place < 1 << 20)
            return config_error(why, n, "%s: expected at least 1M, found '%s'", as, v);
        *(uint64_t *)place &= ~UINT64_C(4095);
        return 0;
    case KIND_UUID:
        if (parse_uuid(v, place))
            return config_error(why, n, "%s: expected a UUID such as 12345678-9abc-def0-1234-56789abcdef0, found '%s'",
                                as, v);
        c->has_uuid = true;
        return 0;
    case KIND_CHOICE:
        if (strcmp(v, s->on) != 0 && strcmp(v, s->off) != 0)
            return config_error(why, n, "%s: expected %s or %s, found '%s'", as, s->off, s->on, v);
        *(bool *)place = strcmp(v, s->on) == 0;
        return 0;
    case KIND_IRQCHIP:
        if (strcmp(v, "split") != 0 && strcmp(v, "kernel") != 0 && strcmp(v, "user") != 0)
            return config_error(why, n, "%s: expected split, kernel or user, found '%s'", as, v);
        return set_string(place, v, why, n);
    }
    return -EINVAL;
}

/* pci.0.SLOT.FUNC.device=NAME */
static int set_pci(struct vm_config *c, const char *as, const char *name, const char *value, char *why, size_t n)
{
    unsigned slot, func;
    int used = 0;
    if (sscanf(name, "pci.0.%u.%u.device%n", &slot, &func, &used) != 2 || !used || name[used])
        return config_error(why, n, "%s: unknown name '%s'; pci.0.SLOT.FUNCTION.device=NAME is meant?", as, name);
    char text[256];
    snprintf(text, sizeof(text), "%u:%u,%s", slot, func, value);
    return config_slot(c, text, why, n);
}

/* jit, jit.NAME: the accelerator soft knows which there are (cpu/jit/options.c). */
static int set_jit(struct vm_config *c, const char *as, const char *name, const char *value, char *why, size_t n)
{
    char *text;
    if (!*value || strchr(value, ','))
        return config_error(why, n, "%s: expected a value, found '%s'", as, value);
    if (asprintf(&text, "%s%s%s=%s", c->jit ? c->jit : "", c->jit ? "," : "", name, value) < 0)
        return config_error(why, n, "out of memory");
    free(c->jit);
    c->jit = text;
    return 0;
}

int config_set(struct vm_config *c, const char *as, const char *name, const char *value, char *why, size_t n)
{
    for (unsigned i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        if (strcmp(settings[i].name, name) == 0)
            return apply(c, &settings[i], as, value, why, n);
    if (strncmp(name, "pci.", 4) == 0)
        return set_pci(c, as, name, value, why, n);
    if (strcmp(name, "jit") == 0 || strncmp(name, "jit.", 4) == 0)
        return set_jit(c, as, name, value, why, n);
    return config_error(why, n, "%s: unknown name '%s'; see OPTIONS BY NAME in xhyve(1)", as, name);
}

int config_load(struct vm_config *c, const char *path, char *why, size_t n)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return config_error(why, n, "-k %s: %s", path, strerror(errno));
    char line[4096], as[512];
    int err = 0;
    for (unsigned number = 1; !err && fgets(line, sizeof(line), f); number++) {
        size_t len = strcspn(line, "\r\n");
        if (!line[len] && !feof(f)) {
            err = config_error(why, n, "-k %s: line %u is longer than %zu characters", path, number, sizeof(line) - 2);
            break;
        }
        line[len] = '\0';
        char *p = line + strspn(line, " \t");
        if (!*p || *p == '#')
            continue;
        char *eq = strchr(p, '=');
        snprintf(as, sizeof(as), "%s:%u", path, number);
        if (!eq) {
            err = config_error(why, n, "%s: expected name=value, found '%s'", as, p);
            break;
        }
        *eq = '\0';
        err = config_set(c, as, p, eq + 1, why, n);
    }
    if (!err && ferror(f))
        err = config_error(why, n, "-k %s: cannot be read: %s", path, strerror(errno));
    fclose(f);
    return err;
}

void config_init(struct vm_config *c)
{
    memset(c, 0, sizeof(*c));
    c->mem_size = UINT64_C(256) << 20;
    c->acpi = true;
    c->mptable = true;
    c->strict_msr = true;
    for (unsigned i = 0; i < CONFIG_MAX_VCPUS; i++)
        c->pin[i] = -1;
}

void config_free(struct vm_config *c)
{
    free(c->name);
    free(c->pid_file);
    free(c->accel);
    free(c->cpu_model);
    free(c->irqchip);
    free(c->jit);
    free(c->debugcon);
    free(c->kernel);
    free(c->initrd);
    free(c->cmdline);
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        free(c->com[i]);
    for (unsigned i = 0; i < c->nfwcfg; i++)
        free(c->fwcfg[i]);
    for (unsigned i = 0; i < c->nmodules; i++) {
        free(c->module[i].path);
        free(c->module[i].string);
    }
    for (unsigned s = 0; s < CONFIG_PCI_SLOTS; s++)
        for (unsigned f = 0; f < CONFIG_PCI_FUNCS; f++)
            free(c->pci[s][f]);
    memset(c, 0, sizeof(*c));
}

/* cpus and topology fill each other in: what is not said is 1, and what remains are sockets. */
static int finish_topology(struct vm_config *c, char *why, size_t n)
{
    unsigned product = (c->sockets ? c->sockets : 1) * (c->cores ? c->cores : 1) * (c->threads ? c->threads : 1);
    if (!c->cpus)
        c->cpus = product;
    if (c->cpus > CONFIG_MAX_VCPUS)
        return config_error(why, n, "-c: expected at most %u vCPUs, found %u sockets x cores x threads",
                            CONFIG_MAX_VCPUS, c->cpus);
    if (!c->threads)
        c->threads = 1;
    if (!c->sockets && !c->cores) {
        c->sockets = 1;
        c->cores = c->cpus / c->threads;
    } else if (!c->sockets) {
        c->sockets = c->cpus / (c->cores * c->threads);
    } else if (!c->cores) {
        c->cores = c->cpus / (c->sockets * c->threads);
    }
    if (c->sockets * c->cores * c->threads != c->cpus)
        return config_error(why, n, "-c: %u vCPUs are not %u sockets x %u cores x %u threads", c->cpus, c->sockets,
                            c->cores, c->threads);
    return 0;
}

int config_finish(struct vm_config *c, char *why, size_t n)
{
    int err = finish_topology(c, why, n);
    if (err)
        return err;
    for (unsigned i = c->cpus; i < CONFIG_MAX_VCPUS; i++)
        if (c->pin[i] >= 0)
            return config_error(why, n, "-p %u:%d: expected a vCPU from 0 to %u", i, c->pin[i], c->cpus - 1);
    unsigned stdio = 0;
    for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
        stdio += c->com[i] && strcmp(c->com[i], "stdio") == 0;
    stdio += c->debugcon && strcmp(c->debugcon, "stdio") == 0;
    if (stdio > 1)
        return config_error(why, n, "-l: stdio was given to %u devices; one of them can have it", stdio);
    if (c->boot == BOOT_NONE)
        return config_error(why, n,
                            "nothing to boot: give a kernel with -f kexec,KERNEL[,INITRD[,CMDLINE]] (-h for help)");
    if (!c->name && !(c->name = strdup("vm")))
        return config_error(why, n, "out of memory");
    if (!c->accel && !(c->accel = strdup("auto")))
        return config_error(why, n, "out of memory");
    return 0;
}
