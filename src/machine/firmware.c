/* Tables, kernels and their hand-over. */
#include "machine/firmware.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "boot/acpi.h"
#include "boot/e820.h"
#include "boot/linux.h"
#include "boot/mptable.h"
#include "boot/multiboot.h"
#include "boot/smbios.h"
#include "os/random.h"
#include "util/bytes.h"
#include "x86/cpuid.h"

int firmware_open(struct firmware *f, const struct vm_config *c, char *why, size_t n)
{
    f->config = c;
    f->kernel.fd = f->initrd.fd = -1;
    for (unsigned i = 0; i < CONFIG_MAX_MODULES; i++)
        f->module[i].fd = -1;
    int err = boot_file_open(&f->kernel, c->kernel, "kernel", why, n);
    if (!err && c->initrd)
        err = boot_file_open(&f->initrd, c->initrd, "initrd", why, n);
    for (unsigned i = 0; i < c->nmodules && !err; i++)
        err = boot_file_open(&f->module[i], c->module[i].path, "module", why, n);
    if (err)
        firmware_close(f);
    return err;
}

void firmware_close(struct firmware *f)
{
    boot_file_close(&f->kernel);
    boot_file_close(&f->initrd);
    for (unsigned i = 0; i < CONFIG_MAX_MODULES; i++)
        boot_file_close(&f->module[i]);
}

static int install_smbios(struct pc *pc, char *why, size_t n)
{
    const struct cpuid_table *table = pc->vm->cpuid;
    struct cpuid_view view = {.cr4 = 0, .xcr0 = 1, .apic_enabled = true};
    uint32_t leaf[4];
    char vendor[13] = "", brand[49] = "";

    cpuid_query(table, &view, 0, 0, leaf);
    put_le32(vendor, leaf[1]);
    put_le32(vendor + 4, leaf[3]);
    put_le32(vendor + 8, leaf[2]);
    for (unsigned i = 0; i < 3; i++) {
        cpuid_query(table, &view, 0x80000002 + i, 0, leaf);
        for (unsigned r = 0; r < 4; r++)
            put_le32(brand + 16 * i + 4 * r, leaf[r]);
    }
    struct smbios_params p = {
        .version = XHYVE_VERSION,
        .cpu_vendor = vendor,
        .cpu_brand = brand,
        .cpu_signature = pc->platform.cpu_signature,
        .cpu_features = pc->platform.cpu_features,
        .sockets = pc->config->sockets,
        .cores = pc->config->cores,
        .threads = pc->config->threads,
    };
    memcpy(p.uuid, pc->config->uuid, sizeof(p.uuid));
    return smbios_install(&p, &pc->vm->mem, why, n);
}

static int install_tables(struct pc *pc, uint64_t *rsdp, char *why, size_t n)
{
    const struct vm_config *c = pc->config;
    struct cpuid_view view = {.xcr0 = 1, .apic_enabled = true};
    uint32_t leaf[4];
    uint16_t com[4];

    cpuid_query(pc->vm->cpuid, &view, 1, 0, leaf);
    pc->platform.cpu_signature = leaf[0];
    pc->platform.cpu_features = leaf[3];
    for (unsigned i = 0; i < 4; i++)
        com[i] = pc->platform.com[i].port;

    *rsdp = 0;
    int err = e820_write_bda(&pc->vm->mem, com);
    if (err)
        snprintf(why, n, "-m: not enough memory for the BIOS data area");
    if (!err && c->acpi)
        err = acpi_install(&pc->platform, &pc->vm->mem, rsdp, why, n);
    if (!err)
        err = install_smbios(pc, why, n);
    if (!err && c->mptable)
        err = mptable_install(&pc->platform, &pc->vm->mem, why, n);
    return err;
}

static int load_linux(const struct firmware *f, struct pc *pc, const struct e820_map *e820, uint64_t rsdp,
                      struct x86_state *bsp, char *why, size_t n)
{
    uint8_t seed[64];
    struct linux_boot boot = {
        .kernel = &f->kernel,
        .initrd = f->config->initrd ? &f->initrd : NULL,
        .cmdline = f->config->cmdline,
        .e820 = e820,
        .acpi_rsdp = rsdp,
        .unpack = f->config->unpack,
    };
    if (os_random(seed, sizeof(seed)) == 0) {
        boot.rng_seed = seed;
        boot.rng_seed_len = sizeof(seed);
    }
    return boot_linux_load(&boot, &pc->vm->mem, bsp, why, n);
}

static int load_multiboot(const struct firmware *f, struct pc *pc, const struct e820_map *e820, struct x86_state *bsp,
                          char *why, size_t n)
{
    struct multiboot_module module[CONFIG_MAX_MODULES];
    for (unsigned i = 0; i < f->config->nmodules; i++)
        module[i] = (struct multiboot_module){&f->module[i], f->config->module[i].string};
    struct multiboot_boot boot = {
        .kernel = &f->kernel,
        .cmdline = f->config->cmdline,
        .module = module,
        .nmodules = f->config->nmodules,
        .e820 = e820,
    };
    return boot_multiboot_load(&boot, &pc->vm->mem, bsp, why, n);
}

int firmware_load(const struct firmware *f, struct pc *pc, struct x86_state *bsp, char *why, size_t n)
{
    struct e820_map e820;
    uint64_t rsdp;

    int err = install_tables(pc, &rsdp, why, n);
    if (err)
        return err;
    e820_build(&e820, &pc->vm->mem, f->config->acpi);
    /* Configuration space is no place for BARs: a guest without ACPI can know it only from here. */
    err = e820_add(&e820, pc->platform.ecam_base, (uint64_t)pc->platform.ecam_buses << 20, E820_RESERVED);
    if (err) {
        snprintf(why, n, "the memory map: %s", strerror(-err));
        return err;
    }
    if (f->config->boot == BOOT_MULTIBOOT)
        return load_multiboot(f, pc, &e820, bsp, why, n);
    return load_linux(f, pc, &e820, rsdp, bsp, why, n);
}
