/* The command line: bhyve's letters, and ours. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"

const char config_usage[] =
    "usage: xhyve [options] -f kexec,KERNEL[,INITRD[,CMDLINE]]\n"
    "\n"
    "  -f kexec,KERNEL[,INITRD[,CMDLINE]]   boot a Linux kernel; the command line may hold commas\n"
    "  -f linux,kernel=K[,initrd=I][,unpack][,cmdline=...]   the same by name; unpack: on the host\n"
    "  -f multiboot,KERNEL[ ARGS][,MODULE[ ARGS]...]   boot a multiboot 1 kernel\n"
    "  -c N | [cpus=]N[,sockets=,cores=,threads=]   vCPUs, 1 to 64 (1)\n"
    "  -m N[K,M,G,T]        memory (256M)\n"
    "  -l com1..com4[,BACKEND]   serial port; BACKEND: stdio, autopty[=LINK], /dev/TTY,\n"
    "                       tcp=[ADDR:]PORT, file=PATH or null\n"
    "  -l DEVICE            other fixed devices; -l help lists them\n"
    "  -s [[bus:]slot[:func],]DEVICE   PCI device; -s help lists them\n"
    "  -a auto|hvf|kvm|soft accelerator (auto: the first that is proven to work)\n"
    "  -o NAME=VALUE        any setting by name: cpu=MODEL, acpi=off, triplefault=exit|reset,\n"
    "                       reboot=restart|exit, exitcodes=xhyve|bhyve, stats=exit, ...\n"
    "  -k FILE              settings, a NAME=VALUE a line\n"
    "  -n NAME              name of the VM\n"
    "  -p VCPU:HOSTCPU      pin a vCPU\n"
    "  -U UUID              SMBIOS UUID\n"
    "  -F FILE              pid file, removed at exit\n"
    "  -u                   RTC keeps UTC, not local time\n"
    "  -x                   local APICs start in x2APIC mode\n"
    "  -Y                   no MP table\n"
    "  -A                   ACPI tables (they are on by default)\n"
    "  -D                   accepted: a VM always goes with its process\n"
    "  -w                   ignore unknown MSRs: read 0, writes vanish (default: #GP)\n"
    "  -e                   exit on an access to a port that nobody has\n"
    "  -H  -P               accepted for the sake of scripts; without effect\n"
    "  -S                   wire guest memory\n"
    "  -C                   include guest memory in a core file\n"
    "  -W                   virtio with MSI, not MSI-X\n"
    "  -g [w][ADDR:]PORT    gdb stub (not in this version)\n"
    "  -r FILE              resume from a snapshot (not in this version)\n"
    "  -M                   print the MAC addresses and exit (no network devices in this version)\n"
    "  -h  -v               this help; version and accelerators\n"
    "\n"
    "Exit status: 0 power-off, 1 error, 2 reboot (-o reboot=exit), 3 triple fault, 4 halted for good.\n";

/* [cpus=]N[,sockets=N][,cores=N][,threads=N] */
static int set_cpus(struct vm_config *c, const char *value, char *why, size_t n)
{
    char text[128];
    if (strlen(value) >= sizeof(text))
        return config_error(why, n, "-c: expected [cpus=]N[,sockets=N][,cores=N][,threads=N], found '%s'", value);
    strcpy(text, value);
    char *rest = text, *part;
    while ((part = strsep(&rest, ","))) {
        char *eq = strchr(part, '=');
        const char *name = "cpus";
        if (eq) {
            *eq = '\0';
            name = part;
            part = eq + 1;
        }
        if (strcmp(name, "cpus") != 0 && strcmp(name, "sockets") != 0 && strcmp(name, "cores") != 0 &&
            strcmp(name, "threads") != 0)
            return config_error(why, n, "-c: expected cpus, sockets, cores or threads, found '%s'", name);
        char as[32];
        snprintf(as, sizeof(as), "-c %s", name);
        int err = config_set(c, eq ? as : "-c", name, part, why, n);
        if (err)
            return err;
    }
    return 0;
}

static int set_pin(struct vm_config *c, const char *value, char *why, size_t n)
{
    unsigned vcpu, host;
    int used = 0;
    if (sscanf(value, "%u:%u%n", &vcpu, &host, &used) != 2 || value[used])
        return config_error(why, n, "-p: expected VCPU:HOSTCPU, found '%s'", value);
    long online = sysconf(_SC_NPROCESSORS_CONF);
    if (vcpu >= CONFIG_MAX_VCPUS)
        return config_error(why, n, "-p %s: expected a vCPU below %u", value, CONFIG_MAX_VCPUS);
    if (host >= (unsigned long)online)
        return config_error(why, n, "-p %s: expected a host CPU from 0 to %ld", value, online - 1);
    c->pin[vcpu] = (int)host;
    return 0;
}

static int set_by_name(struct vm_config *c, const char *value, char *why, size_t n)
{
    char name[128], as[160];
    size_t len = strcspn(value, "=");
    if (!value[len] || len >= sizeof(name))
        return config_error(why, n, "-o: expected NAME=VALUE, found '%s'", value);
    memcpy(name, value, len);
    name[len] = '\0';
    snprintf(as, sizeof(as), "-o %s", name);
    return config_set(c, as, name, value + len + 1, why, n);
}

/* The letters that are a name and a value. */
static const struct {
    char letter;
    const char *name, *value; /* value NULL: the argument */
} simple[] = {
    {'A', "acpi", "on"},        {'C', "memory.guest_in_core", "on"}, {'e', "x86.strictio", "on"},
    {'F', "pidfile", NULL},     {'H', "x86.vmexit_on_hlt", "on"},    {'P', "x86.vmexit_on_pause", "on"},
    {'m', "memory.size", NULL}, {'S', "memory.wired", "on"},         {'u', "rtc.use_localtime", "off"},
    {'U', "uuid", NULL},        {'w', "x86.strictmsr", "off"},       {'W', "virtio_msix", "off"},
    {'x', "x86.x2apic", "on"},  {'Y', "x86.mptable", "off"},         {'a', "accel", NULL},
    {'n', "name", NULL},
};

static int set_simple(struct vm_config *c, int letter, const char *arg, char *why, size_t n)
{
    for (unsigned i = 0; i < sizeof(simple) / sizeof(simple[0]); i++) {
        if (simple[i].letter != letter)
            continue;
        char as[3] = {'-', (char)letter, '\0'};
        return config_set(c, as, simple[i].name, simple[i].value ? simple[i].value : arg, why, n);
    }
    return config_error(why, n, "-%c: unknown option; -h lists those there are", letter);
}

int config_parse(struct vm_config *c, int argc, char **argv, enum config_action *action, char *why, size_t n)
{
    int letter, err = 0;
    *action = CONFIG_RUN;
    opterr = 0;
    optind = 1;
    while (!err && (letter = getopt(argc, argv, "+:Ac:CDeF:f:g:hHk:l:Mm:n:o:Pp:r:Ss:uU:vWwxYa:")) != -1) {
        switch (letter) {
        case 'c': err = set_cpus(c, optarg, why, n); break;
        case 'D': /* bhyve's "destroy at exit": our VMs always go with their process */ break;
        case 'f': err = config_boot(c, optarg, why, n); break;
        case 'g': err = config_error(why, n, "-g %s: the gdb stub is not in this version", optarg); break;
        case 'h': *action = CONFIG_HELP; return 0;
        case 'k': err = config_load(c, optarg, why, n); break;
        case 'l':
            if (strcmp(optarg, "help") == 0) {
                *action = CONFIG_LIST_LPC;
                return 0;
            }
            err = config_lpc(c, optarg, why, n);
            break;
        case 'M': *action = CONFIG_MAC; break;
        case 'o': err = set_by_name(c, optarg, why, n); break;
        case 'p': err = set_pin(c, optarg, why, n); break;
        case 'r': err = config_error(why, n, "-r %s: snapshots are not in this version", optarg); break;
        case 's':
            if (strcmp(optarg, "help") == 0) {
                *action = CONFIG_LIST_PCI;
                return 0;
            }
            err = config_slot(c, optarg, why, n);
            break;
        case 'v': *action = CONFIG_VERSION; return 0;
        case ':': err = config_error(why, n, "-%c: expected an argument behind it (-h for help)", optopt); break;
        case '?': err = config_error(why, n, "-%c: unknown option; -h lists those there are", optopt); break;
        default: err = set_simple(c, letter, optarg, why, n); break;
        }
    }
    if (err)
        return err;
    if (optind < argc && !c->name) { /* bhyve's trailing name */
        c->name = strdup(argv[optind++]);
        if (!c->name)
            return config_error(why, n, "out of memory");
    } else if (optind < argc) {
        optind++;
    }
    if (optind < argc)
        return config_error(why, n, "%s: expected an option; -h lists those there are", argv[optind]);
    return *action == CONFIG_RUN ? config_finish(c, why, n) : 0;
}
