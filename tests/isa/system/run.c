/*
 * Runs a bare-metal payload on an accelerator: a VM with RAM, one CPU, a text
 * port and an exit port, nothing else.
 *
 *     isa-run PAYLOAD [accel=NAME] [irqchip=MODE] [cpu=MODEL] [options=NAME=VALUE,...] [triple]
 *
 * accel: soft, or another of this build. triple: a triple fault is how it
 * shall end.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "accel/table.h"
#include "core/vm.h"
#include "x86/cpuid.h"
#include "x86/state.h"

static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return 0xe9;
}
static void text_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    (void)dev, (void)off, (void)size;
    putchar((int)(val & 0xff));
}
static void exit_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    (void)off, (void)size;
    vm_request_exit(dev, (int)(val & 0xff));
}
/* A register at port 0xE0, which remembers, and a device at 0xFF000000 that counts its accesses. */
static uint64_t memory_read(void *dev, uint64_t off, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, (uint8_t *)dev + off, size);
    return v;
}
static void memory_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    memcpy((uint8_t *)dev + off, &val, size);
}
static const struct io_ops text_ops = {port_read, text_write, 0}, exit_ops = {port_read, exit_write, 0},
                           memory_ops = {memory_read, memory_write, 0};

static int load(struct vm *vm, const char *path, uint64_t *entry)
{
    static uint8_t file[8 << 20];
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return -1;
    }
    size_t len = fread(file, 1, sizeof file, f);
    fclose(f);
    const Elf32_Ehdr *eh = (const void *)file;
    if (len < sizeof *eh || memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_ident[EI_CLASS] != ELFCLASS32) {
        fprintf(stderr, "%s: not a 32-bit ELF file\n", path);
        return -1;
    }
    for (unsigned i = 0; i < eh->e_phnum; i++) {
        const Elf32_Phdr *ph = (const void *)(file + eh->e_phoff + i * eh->e_phentsize);
        if (ph->p_type == PT_LOAD && ph->p_filesz &&
            mem_write(&vm->mem, ph->p_paddr, file + ph->p_offset, ph->p_filesz))
            return -1;
    }
    *entry = eh->e_entry;
    return 0;
}

static struct cpuid_table table;
static struct x86_state start;

static void prepare(struct vcpu *v, void *arg)
{
    (void)arg;
    v->vm->accel->set_cpuid(v, &table);
    v->vm->accel->set_state(v, &start);
}

static void ended(struct vcpu *v, void *arg) { v->vm->accel->get_state(v, arg); }

int main(int argc, char **argv)
{
    const char *model = NULL, *name = "soft", *irqchip = NULL;
    const char *options_text = NULL;
    bool triple = false;
    if (argc < 2)
        return 64;
    for (int i = 2; i < argc; i++) {
        if (!strncmp(argv[i], "cpu=", 4))
            model = argv[i] + 4;
        else if (!strncmp(argv[i], "accel=", 6))
            name = argv[i] + 6;
        else if (!strncmp(argv[i], "irqchip=", 8))
            irqchip = argv[i] + 8;
        else if (!strncmp(argv[i], "options=", 8))
            options_text = argv[i] + 8;
        else if (!strcmp(argv[i], "triple"))
            triple = true;
        else
            return 64;
    }
    const struct accel_ops *accel = accel_find(name);
    if (!accel) {
        fprintf(stderr, "no accelerator %s in this build\n", name);
        return 64;
    }

    struct vm *vm;
    const struct mem_options options = {0};
    if (vm_new(&vm, "isa", 1, 64 << 20, &options))
        return 70;
    static uint8_t ports[4], device[4096];
    bus_add(vm->pio, &(struct io_range){.base = 0xe9, .len = 1, .ops = &text_ops, .name = "text"});
    bus_add(vm->pio, &(struct io_range){.base = 0xf4, .len = 4, .ops = &exit_ops, .dev = vm, .name = "exit"});
    bus_add(vm->pio, &(struct io_range){.base = 0xe0, .len = 4, .ops = &memory_ops, .dev = ports, .name = "ports"});
    bus_add(vm->mmio,
            &(struct io_range){.base = 0xff000000, .len = 4096, .ops = &memory_ops, .dev = device, .name = "device"});

    uint64_t entry;
    if (load(vm, argv[1], &entry))
        return 66;
    uint32_t offered[CPUID_WORDS] = {0};
    char why[300];
    vm->tsc_hz = accel->tsc_hz;
    vm->accel_options = options_text;
    if (accel->vm_open && accel->vm_open(vm, irqchip, why, sizeof why)) {
        fprintf(stderr, "%s\n", why);
        return 69;
    }
    accel->offered(vm, offered);
    if (cpuid_build(&table, model, offered, &(struct cpuid_topology){1, 1, 1, 1}, vm->tsc_hz, 0, why, sizeof why)) {
        fprintf(stderr, "%s\n", why);
        return 64;
    }
    vm->cpuid = &table;

    /* What Multiboot promises. */
    x86_state_reset(&start, true);
    start.cr0 = CR0_PE | CR0_ET;
    start.rip = entry;
    for (unsigned s = 0; s < SEG_LDTR; s++)
        start.seg[s] = x86_flat_segment(0x10, 3 | SEG_DB);
    start.seg[SEG_CS] = x86_flat_segment(0x08, 11 | SEG_DB);
    start.gpr[RAX] = 0x2badb002;

    if (vm_start(vm, accel))
        return 70;
    vcpu_call(vm->vcpu[0], prepare, NULL);
    vm_resume(vm);
    loop_run(vm->loop);
    uint32_t why_stopped = vm->stop;
    int status = vm->exit_status;
    struct x86_state end = {0};
    vcpu_call(vm->vcpu[0], ended, &end);
    vm_join(vm);
    if (accel->vm_close)
        accel->vm_close(vm);
    vm_free(vm);
    fflush(stdout);
    if (why_stopped == VM_TRIPLE_FAULT) {
        if (!triple)
            printf("CS:RIP %x:%llx RSP %llx CR0 %llx CR2 %llx CR3 %llx CR4 %llx EFER %llx\n", end.seg[SEG_CS].sel,
                   (unsigned long long)end.rip, (unsigned long long)end.gpr[RSP], (unsigned long long)end.cr0,
                   (unsigned long long)end.cr2, (unsigned long long)end.cr3, (unsigned long long)end.cr4,
                   (unsigned long long)end.efer);
        printf("triple fault%s\n", triple ? ", as it should be" : "");
        return triple ? 0 : 3;
    }
    if (why_stopped != VM_EXIT_STATUS || triple) {
        printf("stopped by %u, status %d\n", why_stopped, status);
        return 4;
    }
    return status;
}
