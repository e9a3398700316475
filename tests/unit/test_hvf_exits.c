/*
 * The Hypervisor.framework accelerator against a framework that is only its
 * registers: what each kind of exit does to the guest and to the machine.
 */
#include "hvf_fixture.h"

#include <errno.h>

#define VALID 0x80000000u
#define DEVICE UINT64_C(0xd0000000)

/* ---- a device ---- */

static struct {
    uint64_t off, val, answer;
    unsigned size, reads, writes;
} device;

static uint64_t device_read(void *d, uint64_t off, unsigned size)
{
    (void)d;
    device.off = off;
    device.size = size;
    device.reads++;
    return device.answer;
}
static void device_write(void *d, uint64_t off, unsigned size, uint64_t val)
{
    (void)d;
    device.off = off;
    device.size = size;
    device.val = val;
    device.writes++;
}
static const struct io_ops device_ops = {.read = device_read, .write = device_write};

static void add_device(struct bus *bus, uint64_t base, uint64_t len)
{
    const struct io_range range = {.base = base, .len = len, .ops = &device_ops, .name = "device"};
    memset(&device, 0, sizeof(device));
    assert_int_equal(bus_add(bus, &range), 0);
}

/* An exception that is to go in. */
static void raised(struct rig *rig, unsigned vector)
{
    assert_int_equal(rig->hv->event.info & (VALID | 0x7ff), VALID | 3u << 8 | vector);
    rig->hv->event.info = 0;
}

static void not_raised(struct rig *rig) { assert_int_equal(rig->hv->event.info, 0); }

/* ---- ports ---- */

static uint64_t io_exit(unsigned port, unsigned size, bool in)
{
    return (uint64_t)port << 16 | (in ? 8 : 0) | (size - 1);
}

static void ports(void **state)
{
    struct rig *rig = *state;
    add_device(rig->vm->pio, 0x300, 8);
    long_mode(rig);
    fake.reg[HV_X86_RAX] = UINT64_C(0x1122334455667788);
    exits(rig, VMX_REASON_IO, io_exit(0x301, 1, false), 1, NULL);
    assert_int_equal(device.val, 0x88);
    assert_int_equal(device.off, 1);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 1);
    exits(rig, VMX_REASON_IO, io_exit(0x300, 2, false), 2, NULL);
    assert_int_equal(device.val, 0x7788);
    exits(rig, VMX_REASON_IO, io_exit(0x300, 4, false), 2, NULL);
    assert_int_equal(device.val, 0x55667788);

    device.answer = 0xaabbccdd;
    exits(rig, VMX_REASON_IO, io_exit(0x300, 1, true), 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RAX], UINT64_C(0x11223344556677dd));
    exits(rig, VMX_REASON_IO, io_exit(0x300, 2, true), 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RAX], UINT64_C(0x112233445566ccdd));
    exits(rig, VMX_REASON_IO, io_exit(0x300, 4, true), 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RAX], 0xaabbccdd);

    enum vcpu_exit out;
    unsigned reads = device.reads;
    assert_true(exits(rig, VMX_REASON_IO, io_exit(0x300, 3, true), 2, &out));
    assert_int_equal(out, VCPU_EXIT_ERROR);
    assert_int_equal(device.reads, reads);
}

static void what_ends_an_instruction(void **state)
{
    struct rig *rig = *state;
    long_mode(rig);
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_STI_BLOCKING | GUEST_INTRBILITY_NMI_BLOCKING;
    exits(rig, VMX_REASON_INVD, 0, 2, NULL);
    assert_int_equal(fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY], GUEST_INTRBILITY_NMI_BLOCKING);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 0);
    fake.reg[HV_X86_RFLAGS] |= RFL_TF;
    exits(rig, VMX_REASON_WBINVD, 0, 2, NULL);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 1u << 14);

    /* RF is of the instruction that has ended: the next one's breakpoint counts. */
    fake.reg[HV_X86_RFLAGS] |= RFL_RF;
    uint64_t rflags = fake.reg[HV_X86_RFLAGS];
    exits(rig, VMX_REASON_INVD, 0, 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RFLAGS], rflags & ~(uint64_t)RFL_RF);

    /* The end of the 32-bit space: 64-bit code goes on, other code begins anew. */
    fake.reg[HV_X86_RIP] = 0xffffffff;
    exits(rig, VMX_REASON_INVD, 0, 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RIP], UINT64_C(0x100000001));
    fake.reg[HV_X86_RIP] = 0xffffffff;
    fake.vmcs[VMCS_GUEST_CS_AR] &= ~(uint64_t)SEG_L;
    exits(rig, VMX_REASON_INVD, 0, 2, NULL);
    assert_int_equal(fake.reg[HV_X86_RIP], 1);
}

static void port_breakpoints(void **state)
{
    struct rig *rig = *state;
    long_mode(rig);
    fake.reg[HV_X86_DR1] = 0x302;
    fake.vmcs[VMCS_GUEST_DR7] = 0x400 | 1u << 3 | 2u << 20 | 1u << 22; /* I/O, 2 bytes */
    fake.vmcs[VMCS_CTRL_CR4_SHADOW] = fake.vmcs[VMCS_GUEST_CR4] |= CR4_DE;
    exits(rig, VMX_REASON_IO, io_exit(0x304, 1, false), 1, NULL);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 0);
    exits(rig, VMX_REASON_IO, io_exit(0x300, 4, false), 1, NULL);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 1u << 12 | 2);
}

static void string_output(void **state)
{
    struct rig *rig = *state;
    add_device(rig->vm->pio, 0x300, 8);
    long_mode(rig);
    memcpy(rig->vm->mem.region[0].host + 0x9000, "\x01\x02\x03", 3);
    CODE(rig, "\xf3\x6e"); /* rep outsb */
    fake.reg[HV_X86_RSI] = 0x9000;
    fake.reg[HV_X86_RCX] = 3;
    fake.reg[HV_X86_RDX] = 0x300;
    assert_false(exits(rig, VMX_REASON_IO, io_exit(0x300, 1, false) | 1u << 4 | 1u << 5, 2, NULL));
    assert_int_equal(device.writes, 3);
    assert_int_equal(device.val, 3);
    assert_int_equal(fake.reg[HV_X86_RCX], 0);
    assert_int_equal(fake.reg[HV_X86_RSI], 0x9003);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 2);
}

/* ---- memory ---- */

static void ept(struct rig *rig, uint64_t gpa, bool write)
{
    fake.vmcs[VMCS_GUEST_PHYSICAL_ADDRESS] = gpa;
    fake.vmcs[VMCS_RO_IDT_VECTOR_INFO] = 0;
    assert_false(exits(rig, VMX_REASON_EPT_VIOLATION, 0x180 | (write ? 2 : 1), 0, NULL));
}

static void moves_go_the_short_way(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    add_device(rig->vm->mmio, DEVICE, 0x2000);
    long_mode(rig);
    fake.reg[HV_X86_RBX] = DEVICE;

    CODE(rig, "\x89\x43\x10"); /* mov [rbx+0x10], eax */
    fake.reg[HV_X86_RAX] = UINT64_C(0x5555555512345678);
    ept(rig, DEVICE + 0x10, true);
    assert_int_equal(device.val, 0x12345678);
    assert_int_equal(device.size, 4);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 3);

    CODE(rig, "\x66\xc7\x03\x34\x12"); /* mov word [rbx], 0x1234 */
    ept(rig, DEVICE, true);
    assert_int_equal(device.val, 0x1234);
    assert_int_equal(device.size, 2);

    CODE(rig, "\x48\xc7\x43\x08\xff\xff\xff\xff"); /* mov qword [rbx+8], -1 */
    ept(rig, DEVICE + 8, true);
    assert_int_equal(device.val, UINT64_MAX);
    assert_int_equal(device.size, 8);

    CODE(rig, "\x40\x8a\x73\x04"); /* mov sil, [rbx+4] */
    device.answer = 0x80;
    fake.reg[HV_X86_RSI] = 0x1111;
    ept(rig, DEVICE + 4, false);
    assert_int_equal(fake.reg[HV_X86_RSI], 0x1180);

    CODE(rig, "\x4c\x0f\xbe\x43\x04"); /* movsx r8, byte [rbx+4] */
    ept(rig, DEVICE + 4, false);
    assert_int_equal(fake.reg[HV_X86_R8], UINT64_C(0xffffffffffffff80));

    CODE(rig, "\x0f\xb7\x43\x04"); /* movzx eax, word [rbx+4] */
    device.answer = 0xffff8001;
    ept(rig, DEVICE + 4, false);
    assert_int_equal(fake.reg[HV_X86_RAX], 0x8001);

    CODE(rig, "\x8b\x43\x04"); /* mov eax, [rbx+4] */
    ept(rig, DEVICE + 4, false);
    assert_int_equal(fake.reg[HV_X86_RAX], 0xffff8001);
    assert_int_equal(hv->quick_mmio, 7);
    assert_int_equal(hv->slow_steps, 0);
}

static void the_rest_is_interpreted(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    add_device(rig->vm->mmio, DEVICE, 0x2000);
    long_mode(rig);
    fake.reg[HV_X86_RBX] = DEVICE;

    CODE(rig, "\x83\x4b\x10\x01"); /* or dword [rbx+0x10], 1 */
    device.answer = 0x10;
    ept(rig, DEVICE + 0x10, true);
    assert_int_equal(device.val, 0x11);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);

    CODE(rig, "\x88\x63\x10"); /* mov [rbx+0x10], ah */
    fake.reg[HV_X86_RAX] = 0x4321;
    ept(rig, DEVICE + 0x10, true);
    assert_int_equal(device.val, 0x43);

    /* From one page of the device into the next: reported with either. */
    CODE(rig, "\x89\x83\xfe\x0f\x00\x00"); /* mov [rbx+0xffe], eax */
    unsigned writes = device.writes;
    ept(rig, DEVICE + 0xffe, true);
    fake.reg[HV_X86_RIP] = CODE_AT;
    ept(rig, DEVICE + 0x1000, true);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 6);
    assert_true(device.writes > writes + 1);
    assert_int_equal(hv->slow_steps, 4);
    assert_int_equal(hv->quick_mmio, 0);

    /* A single step over it is owed to the guest. */
    CODE(rig, "\x83\x4b\x10\x01");
    fake.reg[HV_X86_RFLAGS] |= RFL_TF;
    ept(rig, DEVICE + 0x10, true);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 1u << 14);
    fake.reg[HV_X86_RFLAGS] &= ~(uint64_t)RFL_TF;

    /* Bytes that say otherwise than the exit does: a hostile guest's, who rewrites them. */
    CODE(rig, "\x8b\x43\x04"); /* mov eax, [rbx+4]; the exit is of a write */
    ept(rig, DEVICE + 4, true);
    assert_int_equal(hv->quick_mmio, 0);

    /* Code that is nowhere: no bytes to look at, and the interpreter finds the page fault, without a handler. */
    enum vcpu_exit out;
    fake.reg[HV_X86_RIP] = 0x5000000000;
    assert_true(exits(rig, VMX_REASON_EPT_VIOLATION, 0x182, 0, &out));
    assert_int_equal(out, VCPU_EXIT_TRIPLE_FAULT);
}

static void rom_and_memory(void **state)
{
    struct rig *rig = *state;
    static uint8_t rom[4096] __attribute__((aligned(4096)));
    struct guest_mem *mem = &rig->vm->mem;
    mem->region[mem->nregions++] = (struct mem_region){.gpa = 0xd0100000, .len = 4096, .host = rom, .readonly = true};
    long_mode(rig);
    rom[8] = 7;
    fake.reg[HV_X86_RBX] = 0xd0100000;
    CODE(rig, "\xc6\x43\x08\x00"); /* mov byte [rbx+8], 0 */
    ept(rig, 0xd0100008, true);
    assert_int_equal(rom[8], 7);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);

    ept(rig, 0xd0100008, false); /* the framework's own: nothing is done, the guest tries again */
    ept(rig, 0x3000, true);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);
    mem->nregions--;
}

static void dirty_pages(void **state)
{
    struct rig *rig = *state;
    struct vm *vm = rig->vm;
    const struct mem_region *r = &vm->mem.region[0];
    unsigned long bits[512 / (8 * sizeof(unsigned long))] = {0};

    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_FETCH, bits), -EINVAL);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_START, NULL), 0);
    assert_int_equal(fake.protects, 1);
    assert_int_equal(fake.protect[0].len, MiB(2));
    assert_int_equal(fake.protect[0].flags, HV_MEMORY_READ | HV_MEMORY_EXEC);

    long_mode(rig);
    ept(rig, 0x3010, true); /* the guest */
    assert_int_equal(fake.protects, 2);
    assert_int_equal(fake.protect[1].gpa, 0x3000);
    assert_int_equal(fake.protect[1].len, 4096);
    assert_true(fake.protect[1].flags & HV_MEMORY_WRITE);
    mem_written(&vm->mem, 0x4ffc, 8); /* a device, across pages */
    add_device(vm->mmio, DEVICE, 0x1000);
    fake.reg[HV_X86_RSI] = DEVICE; /* the interpreter: a device read into memory */
    fake.reg[HV_X86_RDI] = 0x9000;
    CODE(rig, "\xa5"); /* movsd */
    ept(rig, DEVICE, false);

    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_FETCH, bits), 0);
    /* 3: the guest; 4 and 5: the device; 9: the interpreter; and its page tables' accessed bits */
    assert_int_equal(bits[0] & 0x3ff, 0x238);
    assert_true(bits[0] >> 16);
    bool again = false;
    for (unsigned i = 2; i < fake.protects && i < ARRAY_LEN(fake.protect); i++)
        again |= fake.protect[i].gpa == 0x3000 && fake.protect[i].len == 3 * 4096 &&
                 !(fake.protect[i].flags & HV_MEMORY_WRITE);
    assert_true(again);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_FETCH, bits), 0);
    assert_int_equal(bits[0], 0);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_START, NULL), -EBUSY);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_STOP, NULL), 0);

    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_FETCH, bits), -EINVAL);
    mem_written(&vm->mem, 0x5000, 8); /* nobody watches */
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_START, NULL), 0);
    mem_written(&vm->mem, 0x7000, 8);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_FETCH, bits), 0);
    assert_int_equal(bits[0], 0x80);
    assert_int_equal(hvf_dirty_log(vm, r, ACCEL_DIRTY_STOP, NULL), 0);
}

static void apic_page(void **state)
{
    (void)state;
    fake_reset();
    fake.cap[HV_VMX_CAP_PROCBASED2] |= (uint64_t)CPU_BASED2_VIRTUAL_APIC << 32;
    struct rig *rig = rig_new();
    long_mode(rig);
    assert_int_equal(fake.apic_gpa, 0xfee00000);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED2] & CPU_BASED2_VIRTUAL_APIC);
    fake.reg[HV_X86_RBX] = 0xfee00000;
    fake.reg[HV_X86_RAX] = 0x77;
    CODE(rig, "\x89\x83\x00\x03\x00\x00"); /* mov [rbx+0x300], eax */
    assert_false(exits(rig, VMX_REASON_APIC_ACCESS, 1u << 12 | 0x300, 0, NULL));
    assert_int_equal(apic_written_off, 0x300);
    assert_int_equal(apic_written, 0x77);
    CODE(rig, "\x8b\x43\x20"); /* mov eax, [rbx+0x20] */
    assert_false(exits(rig, VMX_REASON_APIC_ACCESS, 0x20, 0, NULL));
    assert_int_equal(fake.reg[HV_X86_RAX], 0xa0000020);

    /* The guest moves it; the framework then refuses, and it is a page like another. */
    assert_true(hvf_wrmsr(rig->hv, 0x1b, 0xfed00900));
    assert_int_equal(fake.apic_gpa, 0xfed00000);
    fake.apic_error = HV_BAD_ARGUMENT;
    assert_true(hvf_wrmsr(rig->hv, 0x1b, 0xfee00900));
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED2] & CPU_BASED2_VIRTUAL_APIC);
    assert_int_equal(rig->hv->error, HV_SUCCESS);
    rig_free(rig);

    /* A processor that does not enter with it, at the very first entry: once more without. */
    fake_reset();
    fake.cap[HV_VMX_CAP_PROCBASED2] |= (uint64_t)CPU_BASED2_VIRTUAL_APIC << 32;
    rig = rig_new();
    long_mode(rig);
    assert_false(exits(rig, 0x80000000u | VMX_REASON_VMENTRY_GUEST, 0, 0, NULL));
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED2] & CPU_BASED2_VIRTUAL_APIC);
    assert_true(exits(rig, 0x80000000u | VMX_REASON_VMENTRY_GUEST, 0, 0, NULL));
    rig_free(rig);
}

/* ---- registers ---- */

static void write_cr(struct rig *rig, unsigned cr, uint64_t val)
{
    fake.reg[HV_X86_RCX] = val;
    exits(rig, VMX_REASON_MOV_CR, cr | 1u << 8, 3, NULL);
}

static void into_long_mode_and_back(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    uint64_t on = CR0_PE | CR0_PG | CR0_ET;

    fake.vmcs[VMCS_GUEST_CS_AR] = 0xc09b;
    fake.vmcs[VMCS_GUEST_TR_AR] = SEG_P | 3; /* a TSS of 16 bits */
    write_cr(rig, 0, CR0_PG | CR0_ET);
    raised(rig, EXC_GP); /* paging without protection */
    write_cr(rig, 0, CR0_NW | CR0_ET);
    raised(rig, EXC_GP);
    assert_true(hvf_wrmsr(hv, HV_MSR_IA32_EFER, EFER_LME));
    write_cr(rig, 0, on);
    raised(rig, EXC_GP); /* no PAE */
    fake.vmcs[VMCS_GUEST_CR4] |= CR4_PAE;
    write_cr(rig, 0, on);
    not_raised(rig);
    assert_int_equal(fake.vmcs[VMCS_GUEST_IA32_EFER], EFER_LME | EFER_LMA);
    assert_true(fake.vmcs[VMCS_CTRL_VMENTRY_CONTROLS] & VMENTRY_GUEST_IA32E);
    assert_int_equal(fake.vmcs[VMCS_GUEST_TR_AR], SEG_P | 11);
    assert_int_equal(hvf_cr0(hv), on);
    assert_true(fake.flushes > 0);
    assert_false(hvf_wrmsr(hv, HV_MSR_IA32_EFER, 0)); /* LME with paging on */
    write_cr(rig, 4, 0);
    raised(rig, EXC_GP); /* PAE is needed */

    fake.vmcs[VMCS_GUEST_CR4] |= CR4_PCIDE;
    write_cr(rig, 0, CR0_PE | CR0_ET);
    raised(rig, EXC_GP); /* PCIDE */
    fake.vmcs[VMCS_GUEST_CR4] &= ~(uint64_t)CR4_PCIDE;
    fake.vmcs[VMCS_GUEST_CS_AR] |= SEG_L;
    fake.vmcs[VMCS_GUEST_CS_AR] &= ~(uint64_t)SEG_DB;
    write_cr(rig, 0, CR0_PE | CR0_ET);
    raised(rig, EXC_GP); /* out of 64-bit code */
    fake.vmcs[VMCS_GUEST_CS_AR] = 0xc09b;
    write_cr(rig, 0, CR0_PE | CR0_ET);
    not_raised(rig);
    assert_int_equal(fake.vmcs[VMCS_GUEST_IA32_EFER], EFER_LME);
    assert_false(fake.vmcs[VMCS_CTRL_VMENTRY_CONTROLS] & VMENTRY_GUEST_IA32E);
}

static void pae_loads_its_pdptes(void **state)
{
    struct rig *rig = *state;
    uint8_t *ram = rig->vm->mem.region[0].host;
    fake.vmcs[VMCS_GUEST_CR3] = 0x5020;
    fake.vmcs[VMCS_GUEST_CR4] |= CR4_PAE;
    for (unsigned i = 0; i < 4; i++)
        put_le64(ram + 0x5020 + 8 * i, 0x1000 * i + 0x6001);
    write_cr(rig, 0, CR0_PE | CR0_PG | CR0_ET);
    not_raised(rig);
    assert_int_equal(fake.vmcs[VMCS_GUEST_PDPTE0], 0x6001);
    assert_int_equal(fake.vmcs[VMCS_GUEST_PDPTE3], 0x9001);

    put_le64(ram + 0x5028, 0x7003); /* R/W is reserved here */
    write_cr(rig, 0, CR0_PE | CR0_PG | CR0_ET | CR0_CD);
    raised(rig, EXC_GP);
    assert_int_equal(hvf_cr0(rig->hv), CR0_PE | CR0_PG | CR0_ET);
    fake.vmcs[VMCS_GUEST_CR3] = 0xfffff000; /* outside memory */
    write_cr(rig, 0, CR0_PE | CR0_PG | CR0_ET | CR0_CD);
    raised(rig, EXC_GP);
}

static void control_registers(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    long_mode(rig);
    write_cr(rig, 0, hvf_cr0(hv) | CR0_CD);
    not_raised(rig);
    assert_true(hvf_cr0(hv) & CR0_CD);
    assert_false(fake.vmcs[VMCS_GUEST_CR0] & CR0_CD); /* the host's caches stay on */
    write_cr(rig, 4, hvf_cr4(hv) | 1u << 13);
    raised(rig, EXC_GP); /* VMXE */
    write_cr(rig, 4, hvf_cr4(hv) | CR4_LA57);
    raised(rig, EXC_GP);
    write_cr(rig, 4, hvf_cr4(hv) | CR4_MCE);
    not_raised(rig);
    assert_true(hvf_cr4(hv) & CR4_MCE);
    write_cr(rig, 4, hvf_cr4(hv) & ~(uint64_t)CR4_MCE);
    assert_false(hvf_cr4(hv) & CR4_MCE);
    assert_true(fake.vmcs[VMCS_GUEST_CR4] & CR4_MCE);
    assert_true(fake.vmcs[VMCS_GUEST_CR4] & 1u << 13);
    write_cr(rig, 8, 5);
    assert_int_equal(apic.tpr, 0x50);
    write_cr(rig, 8, 16);
    raised(rig, EXC_GP);
    exits(rig, VMX_REASON_MOV_CR, 8 | 1u << 4 | 3u << 8, 3, NULL); /* mov rbx, cr8 */
    assert_int_equal(fake.reg[HV_X86_RBX], 5);
    exits(rig, VMX_REASON_MOV_CR, 3u << 4 | 0x000eu << 16, 3, NULL); /* lmsw: PE stays */
    assert_int_equal(hvf_cr0(hv) & 15, 15);
    exits(rig, VMX_REASON_MOV_CR, 2u << 4, 2, NULL); /* clts */
    assert_false(hvf_cr0(hv) & CR0_TS);
    write_cr(rig, 3, 0x12000);
    assert_int_equal(fake.vmcs[VMCS_GUEST_CR3], 0x12000);
    write_cr(rig, 3, UINT64_C(1) << 50);
    raised(rig, EXC_GP);
}

static void debug_registers(void **state)
{
    struct rig *rig = *state;
    long_mode(rig);
    fake.reg[HV_X86_RCX] = 0x1000;
    exits(rig, VMX_REASON_MOV_DR, 2 | 1u << 8, 3, NULL);
    assert_int_equal(fake.reg[HV_X86_DR2], 0x1000);
    exits(rig, VMX_REASON_MOV_DR, 2 | 16 | 3u << 8, 3, NULL);
    assert_int_equal(fake.reg[HV_X86_RBX], 0x1000);
    fake.reg[HV_X86_RCX] = UINT64_C(1) << 32;
    exits(rig, VMX_REASON_MOV_DR, 7 | 1u << 8, 3, NULL);
    raised(rig, EXC_GP);
    fake.vmcs[VMCS_GUEST_DR7] |= 1u << 13;
    exits(rig, VMX_REASON_MOV_DR, 0 | 16, 3, NULL);
    raised(rig, EXC_DB);
    assert_true(fake.reg[HV_X86_DR6] & 1u << 13);
    fake.vmcs[VMCS_GUEST_CR4] |= CR4_DE;
    exits(rig, VMX_REASON_MOV_DR, 4 | 16, 3, NULL);
    raised(rig, EXC_UD);
}

static void msrs(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    uint64_t val;
    long_mode(rig);
    fake.reg[HV_X86_RCX] = HV_MSR_IA32_LSTAR; /* native: no exit comes, but it can be served */
    fake.reg[HV_X86_RAX] = 0x1000;
    fake.reg[HV_X86_RDX] = 0;
    exits(rig, VMX_REASON_WRMSR, 0, 2, NULL);
    not_raised(rig);
    assert_int_equal(*fake_msr(HV_MSR_IA32_LSTAR), 0x1000);
    assert_null(fake_msr(HV_MSR_IA32_TSC)); /* it would be the host's */
    fake.reg[HV_X86_RCX] = 0x12345;
    uint64_t rip = fake.reg[HV_X86_RIP];
    exits(rig, VMX_REASON_RDMSR, 0, 2, NULL);
    raised(rig, EXC_GP);
    assert_int_equal(fake.reg[HV_X86_RIP], rip);
    assert_false(hvf_wrmsr(hv, HV_MSR_IA32_FS_BASE, UINT64_C(1) << 50));
    assert_true(hvf_wrmsr(hv, 0x277, UINT64_C(0x0007040600070406)));
    assert_false(hvf_wrmsr(hv, 0x277, 2)); /* a reserved memory type */
    assert_true(hvf_rdmsr(hv, 0xce, &val));
    assert_int_equal(val >> 8 & 0xff, FAKE_TSC_HZ / 100000000);
    assert_false(hvf_wrmsr(hv, HV_MSR_IA32_EFER, 2));
}

static void the_tsc(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    uint64_t val;
    fake.tsc = 1000;
    long_mode(rig);
    uint64_t first = hvf_tsc_now(rig->vcpu);
    assert_true(hvf_wrmsr(hv, HV_MSR_IA32_TSC, 5000));
    assert_int_equal(fake.vmcs[VMCS_CTRL_TSC_OFFSET] + fake.tsc, 5000);
    assert_int_equal(hvf_tsc_now(rig->vcpu), 5000);
    assert_true(hvf_rdmsr(hv, 0x3b, &val));
    assert_int_equal(val, 5000 - first);
    fake.tsc_step = 7; /* time passes between two looks at it, and what was written is read back all the same */
    assert_true(hvf_wrmsr(hv, 0x3b, val + 100));
    fake.tsc_step = 0;
    uint64_t adjust;
    assert_true(hvf_rdmsr(hv, 0x3b, &adjust));
    assert_int_equal(adjust, val + 100);
    fake.tsc = 1000;
    assert_int_equal(hvf_tsc_now(rig->vcpu), 5100);
    uint64_t now = os_clock_ns();
    uint64_t at = hvf_tsc_to_ns(rig->vcpu, 5100 + FAKE_TSC_HZ);
    assert_in_range(at, now + NS_PER_S, os_clock_ns() + NS_PER_S);
    assert_int_equal(hvf_tsc_to_ns(rig->vcpu, 5), 0);

    /* The Mac has slept for an hour: its clock went on, its TSC began anew. */
    hvf_tsc_follow(hv, os_clock_ns());
    uint64_t before = hvf_tsc_now(rig->vcpu);
    fake.tsc = 7;
    os_clock_jump(3600 * NS_PER_S);
    hvf_tsc_follow(hv, os_clock_ns());
    uint64_t passed = hvf_tsc_now(rig->vcpu) - before;
    assert_in_range(passed, 3600 * FAKE_TSC_HZ, 3700 * FAKE_TSC_HZ);
    assert_int_equal(fake.vmcs[VMCS_CTRL_TSC_OFFSET] + fake.tsc, hvf_tsc_now(rig->vcpu));
}

/* Fields that the framework may keep to itself; without the TSC's offset all vCPUs are told the value. */
static void fields_that_are_not_ours(void **state)
{
    static const uint32_t fields[] = {VMCS_GUEST_LINK_POINTER, VMCS_GUEST_IA32_DEBUGCTL, VMCS_GUEST_ACTIVITY_STATE,
                                      VMCS_CTRL_XSS_EXITING_BITMAP, VMCS_CTRL_TSC_OFFSET};
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(fields); i++) {
        fake_reset();
        fake.denied = fields[i];
        struct rig *rig = rig_new();
        long_mode(rig);
        assert_true(hvf_wrmsr(rig->hv, HV_MSR_IA32_TSC, 5000));
        assert_int_equal(rig->hv->error, HV_SUCCESS);
        assert_int_equal(fake.synced, fields[i] == VMCS_CTRL_TSC_OFFSET ? 5000 : 0);
        rig_free(rig);
    }
}

static void instructions_it_does_not_have(void **state)
{
    struct rig *rig = *state;
    static const uint8_t undefined[] = {11, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 36, 39, 50, 53, 59, 60, 67, 68};
    for (unsigned i = 0; i < sizeof(undefined); i++) {
        assert_false(exits(rig, undefined[i], 0, 3, NULL));
        raised(rig, EXC_UD);
    }
    fake.vmcs[VMCS_GUEST_CR0] |= CR0_PE;
    exits(rig, VMX_REASON_RDPMC, 0, 2, NULL);
    assert_true(rig->hv->event.info & IRQ_INFO_ERROR_VALID);
    raised(rig, EXC_GP);
    fake.vmcs[VMCS_GUEST_CR0] &= ~(uint64_t)CR0_PE; /* an error code in real mode would not be let in */
    exits(rig, VMX_REASON_RDPMC, 0, 2, NULL);
    assert_false(rig->hv->event.info & IRQ_INFO_ERROR_VALID);
    raised(rig, EXC_GP);
}

static void task_gates(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    long_mode(rig);
    fake.vmcs[VMCS_RO_IDT_VECTOR_INFO] = 0;
    assert_true(exits(rig, VMX_REASON_TASK, UINT64_C(3) << 30 | 0x18, 0, &out)); /* a gate, and nothing led to it */
    assert_int_equal(out, VCPU_EXIT_ERROR);
    CODE(rig, "\x90");
    assert_false(
        exits(rig, VMX_REASON_TASK, UINT64_C(2) << 30 | 0x18, 0, &out)); /* a JMP: what is at RIP is executed */
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 1);
}

static void cpuid(void **state)
{
    struct rig *rig = *state;
    long_mode(rig);
    fake.reg[HV_X86_RAX] = UINT64_C(0xffffffff00000001);
    exits(rig, VMX_REASON_CPUID, 0, 2, NULL);
    assert_false(fake.reg[HV_X86_RCX] & 1u << 27);
    assert_true(fake.reg[HV_X86_RCX] & 1u << 31);
    assert_false(fake.reg[HV_X86_RCX] & 1u << 5); /* VMX */
    fake.vmcs[VMCS_GUEST_CR4] |= CR4_OSXSAVE;
    fake.reg[HV_X86_RAX] = 1;
    exits(rig, VMX_REASON_CPUID, 0, 2, NULL);
    assert_true(fake.reg[HV_X86_RCX] & 1u << 27);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);
}

static void xsetbv(void **state)
{
    struct rig *rig = *state;
    const struct {
        uint64_t ecx, eax, edx;
        bool ok;
    } cases[] = {{0, 7, 0, true},  {0, 3, 0, true},  {0, 5, 0, false},   {0, 2, 0, false},
                 {1, 7, 0, false}, {0, 7, 1, false}, {0, 0xe7, 0, false}};
    long_mode(rig);
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        fake.reg[HV_X86_XCR0] = 1;
        fake.reg[HV_X86_RCX] = cases[i].ecx;
        fake.reg[HV_X86_RAX] = cases[i].eax;
        fake.reg[HV_X86_RDX] = cases[i].edx;
        exits(rig, VMX_REASON_XSETBV, 0, 3, NULL);
        assert_int_equal(fake.reg[HV_X86_XCR0], cases[i].ok ? cases[i].eax : 1);
        if (cases[i].ok)
            not_raised(rig);
        else
            raised(rig, EXC_GP);
    }
}

static void what_is_offered_follows_the_controls(void **state)
{
    (void)state;
    uint32_t words[CPUID_WORDS];
    fake_reset();
    fake.cap[HV_VMX_CAP_PROCBASED2] = (uint64_t)(CPU_BASED2_EPT | CPU_BASED2_UNRESTRICTED) << 32;
    struct rig *rig = rig_new();
    hvf_offered(rig->vm, words);
    assert_false(words[CPUID_7_EBX] & 1u << 10);        /* INVPCID */
    assert_false(words[CPUID_80000001_EDX] & 1u << 27); /* RDTSCP */
    assert_false(words[CPUID_7_ECX] & 1u << 22);        /* RDPID */
    assert_false(words[CPUID_D1_EAX] & 8);              /* XSAVES */
    assert_true(words[CPUID_1_ECX] & 1u << 21);         /* x2APIC */
    assert_false(words[CPUID_7_EBX] & 1u << 16);        /* AVX-512: the list does not have it */
    rig_free(rig);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ports),
        TEST(what_ends_an_instruction),
        TEST(port_breakpoints),
        TEST(string_output),
        TEST(moves_go_the_short_way),
        TEST(the_rest_is_interpreted),
        TEST(rom_and_memory),
        TEST(dirty_pages),
        cmocka_unit_test(apic_page),
        TEST(into_long_mode_and_back),
        TEST(pae_loads_its_pdptes),
        TEST(control_registers),
        TEST(debug_registers),
        TEST(msrs),
        TEST(the_tsc),
        cmocka_unit_test(fields_that_are_not_ours),
        TEST(instructions_it_does_not_have),
        TEST(task_gates),
        TEST(cpuid),
        TEST(xsetbv),
        cmocka_unit_test(what_is_offered_follows_the_controls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
