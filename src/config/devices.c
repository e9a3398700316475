/*
 * The options whose values have a grammar of their own: -s SLOT,DEVICE,
 * -l LPCDEVICE and -f BOOT.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

static const struct {
    const char *name, *text, *options; /* options: what it takes, NULL: nothing */
} pci_devices[] = {
    {"hostbridge", "host bridge (slot 0 has one unless you say otherwise)", NULL},
    {"amd_hostbridge", "the same with AMD's ids, for guests that look for them", NULL},
    {"lpc", "LPC bridge to the serial ports and other fixed devices (slot 31 has one by default)", NULL},
    {"dummy", "BARs of each kind, MSI and MSI-X, and nothing behind them: for tests", NULL},
    {"ahci", "SATA controller with up to 32 ports",
     "hd:IMAGE|cd:ISO[,OPTIONS][,hd:IMAGE|cd:ISO...]; each drive's options as for ahci-hd and ahci-cd"},
    {"ahci-cd", "SATA controller with one CD drive",
     "[ISO][,direct,serial=S,format=F,aio=io_uring|threads]; without ISO it is empty"},
    {"ahci-hd", "SATA controller with one disk; IMAGE as for virtio-blk",
     "IMAGE[,ro,direct,sync,nodelete,sectorsize=L[/P],serial=S,format=F,aio=io_uring|threads]"},
    {"uart", "serial port, a 16550 on PCI; BACKEND as for -l com1", "BACKEND"},
    {"virtio-blk", "disk; IMAGE is a file, a block device or an NBD address",
     "IMAGE[,ro,direct,sync,nodelete,sectorsize=L[/P],serial=S,queues=N,packed,format=F,aio=io_uring|threads]"},
    {"virtio-console", "console (hvc0) and named ports; BACKEND as for -l com1; NAME=/PATH is bhyve's",
     "BACKEND,port=NAME:BACKEND,NAME=/PATH,resize=cols|rows|off"},
    {"virtio-net", "network card; user, the default, needs no privilege",
     "user|tap=NAME|socket=PATH|vmnet[=shared|host|bridged:IF],mac=M,mtu=N,queues=N,packed,hostfwd=tcp|udp:[ADDR:]PORT-"
     "[GUEST]:PORT,hostname=H,"
     "net=A/BITS,restrict,ipv6=off,reconnect,isolated,vhost=auto|on|off"},
    {"virtio-rnd", "entropy from the host", "rate=BYTES[/SECONDS],max-bytes=BYTES,period=MILLISECONDS"},
    {"virtio-tap", "network card on a tap interface: virtio-net,tap=NAME in bhyve's words",
     "NAME[,mac=M,mtu=N,queues=N,packed,vhost=auto|on|off]"},
};

static const struct {
    const char *name, *text;
} lpc_devices[] = {
    {"com1..com4[,BACKEND]",
     "serial port; BACKEND: stdio, autopty[=LINK], /dev/TTY, tcp=[ADDR:]PORT, socket=PATH, file=PATH, null"},
    {"debugcon[,BACKEND]", "debug consoles at ports 0x402 and 0xe9"},
    {"fwcfg,name=NAME,file=PATH", "a named item for the guest's fw_cfg driver; or string=TEXT in place of file="},
    {"pc-testdev", "test device: exit at port 0xf4, interrupts at 0x2000"},
    {"bootrom,FILE[,VARS]", "not in this version"},
};

/* The row of a device, by the first `len` characters of a name; -1: no such device. */
static int find_pci(const char *name, size_t len)
{
    for (unsigned i = 0; i < sizeof(pci_devices) / sizeof(pci_devices[0]); i++)
        if (strlen(pci_devices[i].name) == len && strncmp(pci_devices[i].name, name, len) == 0)
            return (int)i;
    return -1;
}

void config_list_pci(void)
{
    for (unsigned i = 0; i < sizeof(pci_devices) / sizeof(pci_devices[0]); i++)
        printf("%-16s %s%s%s\n", pci_devices[i].name, pci_devices[i].text, pci_devices[i].options ? "; " : "",
               pci_devices[i].options ? pci_devices[i].options : "");
}

void config_list_lpc(void)
{
    for (unsigned i = 0; i < sizeof(lpc_devices) / sizeof(lpc_devices[0]); i++)
        printf("%-26s %s\n", lpc_devices[i].name, lpc_devices[i].text);
}

static char *copy(const char *s, size_t len)
{
    char *p = malloc(len + 1);
    if (p) {
        memcpy(p, s, len);
        p[len] = '\0';
    }
    return p;
}

/* One number of a slot's address; *s moves behind it. */
static int number(const char **s, unsigned *out)
{
    char *end;
    if (!isdigit((unsigned char)**s))
        return -EINVAL;
    unsigned long v = strtoul(*s, &end, 10);
    if (v > 1000)
        return -EINVAL;
    *s = end;
    *out = (unsigned)v;
    return 0;
}

/* [BUS:]SLOT[:FUNC] before the comma; two numbers are slot and function, as in bhyve. */
static int parse_place(const char *value, unsigned *slot, unsigned *func, const char **rest)
{
    unsigned part[3] = {0}, parts = 0;
    const char *p = value;
    for (;;) {
        if (parts == 3 || number(&p, &part[parts]))
            return -EINVAL;
        parts++;
        if (*p != ':')
            break;
        p++;
    }
    if (*p != ',')
        return -EINVAL;
    *rest = p + 1;
    if (parts == 3 && part[0] != 0)
        return -ERANGE;
    *slot = parts == 3 ? part[1] : part[0];
    *func = parts == 3 ? part[2] : parts == 2 ? part[1] : 0;
    return *slot < CONFIG_PCI_SLOTS && *func < CONFIG_PCI_FUNCS ? 0 : -ERANGE;
}

int config_slot(struct vm_config *c, const char *value, char *why, size_t n)
{
    unsigned slot = 0, func = 0;
    const char *device = value;
    bool placed = isdigit((unsigned char)*value);

    if (placed) {
        int err = parse_place(value, &slot, &func, &device);
        if (err == -ERANGE)
            return config_error(why, n, "-s %s: expected bus 0, slot 0 to %u and function 0 to %u", value,
                                CONFIG_PCI_SLOTS - 1, CONFIG_PCI_FUNCS - 1);
        if (err)
            return config_error(why, n, "-s %s: expected [bus:]slot[:function],DEVICE[,options]", value);
    }
    size_t len = strcspn(device, ",");
    int row = find_pci(device, len);
    if (row < 0)
        return config_error(why, n, "-s %s: unknown device '%.*s'; -s help lists those there are", value, (int)len,
                            device);
    if (device[len] && !pci_devices[row].options)
        return config_error(why, n, "-s %s: %.*s takes no options", value, (int)len, device);
    if (!placed) {
        for (slot = 1; slot < CONFIG_PCI_SLOTS && c->pci[slot][0]; slot++)
            ;
        if (slot == CONFIG_PCI_SLOTS)
            return config_error(why, n, "-s %s: all slots are taken", value);
    }
    if (c->pci[slot][func])
        return config_error(why, n, "-s %s: slot %u, function %u is taken by %s", value, slot, func,
                            c->pci[slot][func]);
    c->pci[slot][func] = strdup(device);
    return c->pci[slot][func] ? 0 : config_error(why, n, "out of memory");
}

int config_lpc(struct vm_config *c, const char *value, char *why, size_t n)
{
    size_t len = strcspn(value, ",");
    const char *rest = value[len] ? value + len + 1 : "";

    if (len == 4 && strncmp(value, "com", 3) == 0 && value[3] >= '1' && value[3] <= '4') {
        char **com = &c->com[value[3] - '1'];
        if (*com)
            return config_error(why, n, "-l %s: com%c has been given before, as '%s'", value, value[3], *com);
        *com = strdup(*rest ? rest : "null");
        return *com ? 0 : config_error(why, n, "out of memory");
    }
    if (len == 8 && strncmp(value, "debugcon", 8) == 0) {
        if (c->debugcon)
            return config_error(why, n, "-l %s: debugcon has been given before, as '%s'", value, c->debugcon);
        c->debugcon = strdup(*rest ? rest : "null");
        return c->debugcon ? 0 : config_error(why, n, "out of memory");
    }
    if (len == 5 && strncmp(value, "fwcfg", 5) == 0 && *rest) {
        if (c->nfwcfg == CONFIG_MAX_FWCFG)
            return config_error(why, n, "-l %s: expected at most %u fwcfg items", value, CONFIG_MAX_FWCFG);
        c->fwcfg[c->nfwcfg] = strdup(rest);
        return c->fwcfg[c->nfwcfg++] ? 0 : config_error(why, n, "out of memory");
    }
    if (strcmp(value, "pc-testdev") == 0) {
        c->testdev = true;
        return 0;
    }
    if (len == 7 && strncmp(value, "bootrom", 7) == 0)
        return config_error(why, n, "-l %s: boot ROMs are not in this version; boot a kernel with -f", value);
    return config_error(why, n, "-l %s: unknown device '%.*s'; -l help lists those there are", value, (int)len, value);
}

static int set_path(char **place, const char *s, size_t len, char *why, size_t n)
{
    free(*place);
    *place = copy(s, len);
    return *place ? 0 : config_error(why, n, "out of memory");
}

/* KERNEL[,INITRD[,CMDLINE]]; the command line may hold commas. */
static int boot_kexec(struct vm_config *c, const char *rest, char *why, size_t n)
{
    size_t len = strcspn(rest, ",");
    if (!len)
        return config_error(why, n, "-f kexec: expected kexec,KERNEL[,INITRD[,CMDLINE]]");
    int err = set_path(&c->kernel, rest, len, why, n);
    if (err || !rest[len])
        return err;
    rest += len + 1;
    len = strcspn(rest, ",");
    if (len && (err = set_path(&c->initrd, rest, len, why, n)))
        return err;
    return rest[len] ? set_path(&c->cmdline, rest + len + 1, strlen(rest + len + 1), why, n) : 0;
}

/* kernel=,initrd=,unpack,cmdline=: the last takes the rest. */
static int boot_linux(struct vm_config *c, const char *rest, char *why, size_t n)
{
    int err = 0;
    while (*rest && !err) {
        size_t len = strcspn(rest, ",");
        if (strncmp(rest, "cmdline=", 8) == 0) {
            err = set_path(&c->cmdline, rest + 8, strlen(rest + 8), why, n);
            break;
        }
        if (strncmp(rest, "kernel=", 7) == 0)
            err = set_path(&c->kernel, rest + 7, len - 7, why, n);
        else if (strncmp(rest, "initrd=", 7) == 0)
            err = set_path(&c->initrd, rest + 7, len - 7, why, n);
        else if (len == 6 && strncmp(rest, "unpack", 6) == 0)
            c->unpack = true;
        else
            return config_error(why, n, "-f linux: expected kernel=, initrd=, unpack or cmdline= (last), found '%.*s'",
                                (int)len, rest);
        rest += rest[len] ? len + 1 : len;
    }
    if (!err && (!c->kernel || !*c->kernel))
        return config_error(why, n, "-f linux: expected kernel=FILE");
    return err;
}

/* KERNEL[ ARGS][,MODULE[ ARGS]...] */
static int boot_multiboot(struct vm_config *c, const char *rest, char *why, size_t n)
{
    for (unsigned i = 0;; i++) {
        size_t len = strcspn(rest, ","), path = strcspn(rest, ", ");
        if (!path)
            return config_error(why, n, "-f multiboot: expected multiboot,KERNEL[ ARGS][,MODULE[ ARGS]...]");
        int err;
        if (i == 0) {
            if ((err = set_path(&c->kernel, rest, path, why, n)) || (err = set_path(&c->cmdline, rest, len, why, n)))
                return err;
        } else {
            if (c->nmodules == CONFIG_MAX_MODULES)
                return config_error(why, n, "-f multiboot: expected at most %u modules", CONFIG_MAX_MODULES);
            struct config_module *m = &c->module[c->nmodules++];
            if ((err = set_path(&m->path, rest, path, why, n)) || (err = set_path(&m->string, rest, len, why, n)))
                return err;
        }
        if (!rest[len])
            return 0;
        rest += len + 1;
    }
}

int config_boot(struct vm_config *c, const char *value, char *why, size_t n)
{
    size_t len = strcspn(value, ",");
    const char *rest = value[len] ? value + len + 1 : "";
    static const struct {
        const char *name;
        enum config_boot boot;
        int (*parse)(struct vm_config *, const char *, char *, size_t);
    } kinds[] = {
        {"kexec", BOOT_LINUX, boot_kexec},
        {"linux", BOOT_LINUX, boot_linux},
        {"multiboot", BOOT_MULTIBOOT, boot_multiboot},
    };

    if (c->boot != BOOT_NONE)
        return config_error(why, n, "-f %s: -f has been given before; one kernel a VM", value);
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strlen(kinds[i].name) == len && strncmp(value, kinds[i].name, len) == 0) {
            c->boot = kinds[i].boot;
            return kinds[i].parse(c, rest, why, n);
        }
    if (len == 4 && strncmp(value, "fbsd", 4) == 0)
        return config_error(why, n,
                            "-f fbsd: FreeBSD's userboot is not in this version; kexec, linux and multiboot are");
    return config_error(why, n, "-f %.*s: expected kexec, linux or multiboot", (int)len, value);
}
