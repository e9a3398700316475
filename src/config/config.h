/*
 * The configuration of one virtual machine, however it was said: letters of
 * the command line, `-o name=value`, or a file of such lines (-k).
 */
#ifndef XHYVE_CONFIG_CONFIG_H
#define XHYVE_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_COM_PORTS 4
#define CONFIG_PCI_SLOTS 32
#define CONFIG_PCI_FUNCS 8
#define CONFIG_MAX_VCPUS 64
#define CONFIG_MAX_FWCFG 32
#define CONFIG_MAX_MODULES 32

enum config_boot { BOOT_NONE, BOOT_LINUX, BOOT_MULTIBOOT };

struct config_module {
    char *path;
    char *string; /* what the guest is told: path and arguments */
};

struct vm_config {
    char *name;
    char *pid_file;  /* NULL: none */
    char *accel;     /* "auto" or an accelerator's name */
    char *cpu_model; /* NULL: max */
    char *jit;       /* "jit.NAME=VALUE,...": what was said of the translator, or NULL */
    char *irqchip;   /* "split", "kernel", "user"; NULL: the accelerator's choice */

    unsigned cpus, sockets, cores, threads; /* cpus = sockets * cores * threads after config_finish() */
    int pin[CONFIG_MAX_VCPUS];              /* -p: host CPU of each vCPU, or -1 */
    uint64_t mem_size;                      /* bytes */
    bool mem_wired, mem_in_core;

    bool acpi, mptable, x2apic, rtc_utc;
    bool strict_io, strict_msr;
    bool exit_on_hlt, exit_on_pause;
    bool virtio_msi; /* -W */
    bool triple_fault_resets, reboot_exits, bhyve_exit_codes, stats;
    bool has_uuid;
    uint8_t uuid[16];

    char *com[CONFIG_COM_PORTS]; /* backend, or NULL: no such port */
    bool testdev;
    char *debugcon; /* backend of the debug console at 0x402, or NULL */
    char *fwcfg[CONFIG_MAX_FWCFG];
    unsigned nfwcfg;
    char *pci[CONFIG_PCI_SLOTS][CONFIG_PCI_FUNCS]; /* "DEVICE[,OPTIONS]" or NULL */

    enum config_boot boot;
    char *kernel, *initrd, *cmdline; /* initrd, cmdline: NULL if none. multiboot: cmdline is "KERNEL ARGS" */
    bool unpack;
    struct config_module module[CONFIG_MAX_MODULES];
    unsigned nmodules;
};

void config_init(struct vm_config *); /* the defaults */
void config_free(struct vm_config *);

/*
 * Sets one name; the letters of the command line come down to this too. `as`
 * is how the user said it ("-m", "-o memory.size", "file:3"), for messages.
 * 0; -EINVAL with one line in why[n].
 */
int config_set(struct vm_config *, const char *as, const char *name, const char *value, char *why, size_t n);

/* `-k`: a name=value a line, # comments. */
int config_load(struct vm_config *, const char *path, char *why, size_t n);

/* -s, -l and -f, whose values have a grammar of their own. */
int config_slot(struct vm_config *, const char *value, char *why, size_t n);
int config_lpc(struct vm_config *, const char *value, char *why, size_t n);
int config_boot(struct vm_config *, const char *value, char *why, size_t n);

/* What only the whole can tell: topology, pins, a kernel. */
int config_finish(struct vm_config *, char *why, size_t n);

enum config_action { CONFIG_RUN, CONFIG_HELP, CONFIG_VERSION, CONFIG_MAC, CONFIG_LIST_PCI, CONFIG_LIST_LPC };

/* The whole command line. 0 with what to do in *action, or -EINVAL with one line in why[n]. */
int config_parse(struct vm_config *, int argc, char **argv, enum config_action *action, char *why, size_t n);

/* Texts for stdout, ending in a newline. */
extern const char config_usage[];
void config_list_pci(void);
void config_list_lpc(void);

/* A size as -m takes it, in its largest whole unit; returns buf. */
const char *config_size(uint64_t bytes, char *buf, size_t n);

/* "expected ..., found ...": writes the line and returns -EINVAL. */
int config_error(char *why, size_t n, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
