/*
 * The Hypervisor.framework accelerator with irqchip=split, against a framework
 * whose local APICs are only what they were told: the order of calls, what an
 * exit or a write leaves to us, HLT, and the guest that has halted for good.
 */
#include "hvf_fixture.h"

#include <errno.h>

#define VALID 0x80000000u
#define BSP_BASE UINT64_C(0xfee00900)
#define EXTD UINT64_C(0x400)

/* ---- local APICs of the framework's ---- */

static struct {
    uint32_t reg[64];
    hv_apic_state_ext_t state;
    uint64_t gpa_mask; /* bits of apic_gpa that stay */
    bool id_is_fixed;
    hv_return_t put_error;
    unsigned puts;
    uint64_t freq, msi_addr, msi_data, entry;
    unsigned msis, entries;
    hv_apic_ctrl_t ctrl;
    hv_vm_exitinfo_t info, write_info; /* of an exit, and of the next write */
    uint32_t refuse;                   /* an offset that takes no write */
    uint64_t rip;
    uint8_t vector;
    uint64_t idle_ns;
    uint32_t order[64]; /* offsets as they were written */
    unsigned writes;
} chip;

hv_return_t hv_vm_set_apic_bus_freq(uint64_t freq)
{
    chip.freq = freq;
    return HV_SUCCESS;
}
hv_return_t hv_vm_lapic_msi(uint64_t addr, uint64_t data)
{
    chip.msi_addr = addr;
    chip.msi_data = data;
    chip.msis++;
    return HV_SUCCESS;
}
hv_return_t hv_vm_send_ioapic_intr(uint64_t entry)
{
    chip.entry = entry;
    chip.entries++;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_apic_ctrl(hv_vcpuid_t id, hv_apic_ctrl_t ctrl)
{
    (void)id;
    chip.ctrl = ctrl;
    chip.state.state.apic_gpa = BSP_BASE & chip.gpa_mask; /* of a vCPU that is new */
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_apic_read(hv_vcpuid_t id, uint32_t off, uint32_t *val)
{
    (void)id;
    if (off >= 0x400)
        return HV_BAD_ARGUMENT;
    *val = chip.reg[off / 16];
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_apic_write(hv_vcpuid_t id, uint32_t off, uint32_t val, bool *no_side_effect)
{
    (void)id;
    if (off >= 0x400 || (chip.refuse && off == chip.refuse))
        return HV_BAD_ARGUMENT;
    chip.reg[off / 16] = val;
    chip.order[chip.writes++ % ARRAY_LEN(chip.order)] = off;
    chip.info = chip.write_info ? chip.write_info : HV_VM_EXITINFO_VMX;
    *no_side_effect = !chip.write_info;
    chip.write_info = 0;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_apic_get_state(hv_vcpuid_t id, hv_apic_state_ext_t *s)
{
    (void)id;
    if (s->version != HV_APIC_STATE_EXT_VER)
        return HV_BAD_ARGUMENT;
    *s = chip.state;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_apic_put_state(hv_vcpuid_t id, const hv_apic_state_ext_t *s)
{
    (void)id;
    if (chip.put_error != HV_SUCCESS)
        return chip.put_error;
    chip.puts++;
    uint32_t apic_id = chip.state.state.apic_id;
    chip.state = *s;
    chip.state.state.apic_gpa &= chip.gpa_mask;
    if (chip.id_is_fixed)
        chip.state.state.apic_id = apic_id;
    chip.reg[2] = chip.state.state.apic_id << 24;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_exit_info(hv_vcpuid_t id, hv_vm_exitinfo_t *code)
{
    (void)id;
    *code = chip.info;
    return HV_SUCCESS;
}
static hv_return_t targets(bool *is_actv, unsigned count)
{
    assert_int_equal(count, 8); /* the vCPU is number 7 */
    is_actv[7] = true;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_exit_init_ap(hv_vcpuid_t id, bool is_actv[], unsigned count)
{
    (void)id;
    return targets(is_actv, count);
}
hv_return_t hv_vcpu_exit_startup_ap(hv_vcpuid_t id, bool is_actv[], unsigned count, uint64_t *rip)
{
    (void)id;
    *rip = chip.rip;
    return targets(is_actv, count);
}
hv_return_t hv_vcpu_exit_ioapic_eoi(hv_vcpuid_t id, uint8_t *vector)
{
    (void)id;
    *vector = chip.vector;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_exit_inject_excp(hv_vcpuid_t id, uint8_t *vector, bool *valid, uint32_t *code, bool *restart)
{
    (void)id;
    *vector = chip.vector;
    *valid = true;
    *code = 0;
    *restart = true;
    return HV_SUCCESS;
}
hv_return_t hv_vcpu_get_idle_time(hv_vcpuid_t id, uint64_t *ns)
{
    (void)id;
    *ns = chip.idle_ns;
    return HV_SUCCESS;
}

/* ---- a VM with them ---- */

static void chip_reset(void)
{
    fake_reset();
    fake.irqchip = "split";
    memset(&chip, 0, sizeof(chip));
    chip.info = HV_VM_EXITINFO_VMX;
    chip.gpa_mask = UINT64_MAX;
    chip.state.version = HV_APIC_STATE_EXT_VER;
    chip.state.state.apic_gpa = BSP_BASE;
    chip.state.state.svr = 0xff;
}

static int split_setup(void **state)
{
    chip_reset();
    struct rig *rig = rig_new();
    *state = rig;
    assert_non_null(rig->hv);
    long_mode(rig);
    rig->vcpu->events = 0;
    return 0;
}

#define SPLIT(fn) cmocka_unit_test_setup_teardown(fn, split_setup, teardown)

static bool offers(struct rig *rig, enum x86_feature f)
{
    uint32_t words[CPUID_WORDS];
    hvf_offered(rig->vm, words);
    return words[f >> 5] >> (f & 31) & 1;
}

static void opened(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(rig->vm->irqchip, IRQCHIP_SPLIT);
    assert_false(rig->vm->irqfds);
    assert_int_equal(fake.flags, HV_VM_ACCEL_APIC);
    assert_int_equal(chip.freq, 1000000000);
    assert_int_equal(chip.ctrl, HV_APIC_CTRL_IOAPIC_EOI);
    assert_true(rig->hv->hvf->split.x2apic);
    assert_true(offers(rig, X86_X2APIC));
    assert_false(offers(rig, X86_TSC_DEADLINE));
    assert_ptr_equal(rig->vcpu->intc_dev, rig->hv);
}

static void no_x2apic(void **state)
{
    (void)state;
    for (unsigned turn = 0; turn < 3; turn++) {
        chip_reset();
        if (turn == 0) /* it does not stay */
            chip.gpa_mask = ~EXTD;
        else if (turn == 1) /* nor is it IA32_APIC_BASE */
            chip.gpa_mask = chip.state.state.apic_gpa = 0xfee00000;
        else
            chip.put_error = HV_BAD_ARGUMENT;
        struct rig *rig = rig_new();
        assert_non_null(rig->hv);
        assert_false(offers(rig, X86_X2APIC));
        assert_int_equal(rig->vcpu->intc->msr_write(rig->hv, 0x1b, BSP_BASE | EXTD), -EPERM);
        uint64_t val;
        assert_int_equal(rig->vcpu->intc->msr_read(rig->hv, 0x803, &val), -EPERM);
        uint8_t page[ACCEL_LAPIC_PAGE] = {0};
        assert_int_equal(hvf_set_lapic(rig->vcpu, BSP_BASE | EXTD, page), -ENOTSUP);
        rig_free(rig);
    }
}

static void refused(void **state)
{
    (void)state;
    chip_reset();
    fake.refused = HV_VM_ACCEL_APIC;
    struct rig *rig = rig_new();
    assert_null(rig->hv);
    assert_non_null(strstr(rig->why, "irqchip=split"));
    assert_non_null(strstr(rig->why, "HV_UNSUPPORTED"));
    assert_non_null(strstr(rig->why, "irqchip=user"));
    assert_false(fake.vm);
    rig_free(rig);

    chip_reset(); /* no VM at all is another matter */
    fake.create_error = HV_BUSY;
    rig = rig_new();
    assert_null(rig->hv);
    assert_null(strstr(rig->why, "irqchip"));
    rig_free(rig);

    chip_reset();
    fake.irqchip = "kernel";
    rig = rig_new();
    assert_null(rig->hv);
    assert_non_null(strstr(rig->why, "irqchip=kernel"));
    assert_non_null(strstr(rig->why, "split"));
    rig_free(rig);
}

static void ids(void **state)
{
    (void)state;
    chip_reset();
    chip.state.state.apic_id = 5;
    chip.reg[2] = 5u << 24;
    struct rig *rig = rig_new(); /* 0 is wanted, and set */
    assert_non_null(rig->hv);
    assert_int_equal(chip.state.state.apic_id, 0);
    hvf_vcpu_fini(rig->vcpu);
    assert_null(rig->vcpu->intc);
    rig->hv = NULL;

    chip.state.state.apic_id = 5;
    chip.reg[2] = 5u << 24;
    chip.id_is_fixed = true;
    assert_int_equal(hvf_vcpu_init(rig->vcpu), -ENOTSUP);
    assert_null(rig->vcpu->accel);
    rig_free(rig);
}

/* ---- messages ---- */

static void messages(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(hvf_msi(rig->vm, 0xfee01004, 0x4031, -1), 1);
    assert_int_equal(chip.msi_addr, 0xfee01004);
    assert_int_equal(chip.msi_data, 0x4031);
    assert_int_equal(chip.entries, 0);

    /* An IOAPIC's: level, logical, lowest priority, to 3. */
    assert_int_equal(hvf_msi(rig->vm, 0xfee03004, 0xc155, 9), 1);
    assert_int_equal(chip.msis, 1);
    assert_int_equal(chip.entry, UINT64_C(3) << 56 | 1u << 15 | 1u << 11 | 1u << 8 | 0x55);

    /* A destination that its entries have no room for. */
    assert_int_equal(hvf_msi(rig->vm, UINT64_C(1) << 40 | 0xfee01000, 0x31, 9), 1);
    assert_int_equal(chip.entries, 1);
    assert_int_equal(chip.msis, 2);
}

/* ---- consequences ---- */

static uint8_t ended;
static void on_eoi(void *arg, uint8_t vector)
{
    (void)arg;
    ended = vector;
}

static void consequences_of_a_write(void **state)
{
    struct rig *rig = *state;
    const struct intc_ops *ops = rig->vcpu->intc;
    rig->vm->upcalls.eoi = on_eoi;

    chip.write_info = HV_VM_EXITINFO_INIT_AP;
    ops->mmio_write(rig->hv, 0x300, 0x4500);
    assert_int_equal(rig->vcpu->events, VCPU_EV_INIT);
    rig->vcpu->events = 0;

    chip.write_info = HV_VM_EXITINFO_STARTUP_AP;
    chip.rip = 0x9f000;
    ops->mmio_write(rig->hv, 0x300, 0x469f);
    assert_int_equal(rig->vcpu->events, VCPU_EV_SIPI);
    assert_int_equal(rig->vcpu->sipi_vector, 0x9f);
    rig->vcpu->events = 0;

    ended = 0;
    chip.write_info = HV_VM_EXITINFO_IOAPIC_EOI;
    chip.vector = 0x61;
    ops->mmio_write(rig->hv, 0xb0, 0);
    assert_int_equal(ended, 0x61);

    ended = 0; /* the last one's is not this one's */
    ops->mmio_write(rig->hv, 0xb0, 0);
    assert_int_equal(ended, 0);
    assert_int_equal(rig->vcpu->events, 0);
}

static void serve(struct rig *rig, hv_vm_exitinfo_t info, unsigned reason)
{
    enum vcpu_exit out;
    chip.info = info;
    assert_false(exits(rig, reason, 0, 2, &out));
    chip.info = HV_VM_EXITINFO_VMX;
}

static void consequences_of_an_exit(void **state)
{
    struct rig *rig = *state;
    rig->vm->upcalls.eoi = on_eoi;
    ended = 0;
    chip.vector = 0x71;

    CODE(rig, "\x90\x90\x0f\x30\x90\x90");
    fake.reg[HV_X86_RIP] = CODE_AT + 2; /* at the WRMSR */
    serve(rig, HV_VM_EXITINFO_IOAPIC_EOI, VMX_REASON_WRMSR);
    assert_int_equal(ended, 0x71);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);

    /* One right behind another: as before. */
    CODE(rig, "\x0f\x30\x0f\x30");
    fake.reg[HV_X86_RIP] = CODE_AT + 2;
    serve(rig, HV_VM_EXITINFO_SMI, VMX_REASON_WRMSR);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);

    /* Beyond it: nothing to do, and that is remembered, too. */
    CODE(rig, "\x90\x90\x0f\x30\x90\x90");
    fake.reg[HV_X86_RIP] = CODE_AT + 4;
    serve(rig, HV_VM_EXITINFO_STARTUP_AP, VMX_REASON_WRMSR);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 4);
    assert_int_equal(rig->vcpu->events, VCPU_EV_SIPI);
    CODE(rig, "\x0f\x30\x0f\x30");
    fake.reg[HV_X86_RIP] = CODE_AT + 2;
    serve(rig, HV_VM_EXITINFO_INIT_AP, VMX_REASON_WRMSR);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 2);
    assert_true(rig->vcpu->events & VCPU_EV_INIT);

    /* An exit behind the instruction, as those of virtualized writes are. */
    CODE(rig, "\x0f\x30\x90\x90");
    serve(rig, HV_VM_EXITINFO_IOAPIC_EOI, VMX_REASON_APIC_WRITE);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT);
}

static void faults(void **state)
{
    struct rig *rig = *state;
    CODE(rig, "\x0f\x30");
    chip.vector = 13;
    fake.reg[HV_X86_RCX] = 0x80d;
    serve(rig, HV_VM_EXITINFO_INJECT_EXCP, VMX_REASON_WRMSR);
    assert_int_equal(rig->hv->event.info, VALID | 1u << 11 | 3u << 8 | 13);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT);

    /* Of IA32_APIC_BASE we know better. */
    rig->hv->event.info = 0;
    fake.reg[HV_X86_RCX] = 0x1b;
    fake.reg[HV_X86_RAX] = (uint32_t)(BSP_BASE | EXTD);
    fake.reg[HV_X86_RDX] = 0;
    serve(rig, HV_VM_EXITINFO_INJECT_EXCP, VMX_REASON_WRMSR);
    assert_int_equal(rig->hv->event.info, 0);
    assert_int_equal(chip.state.state.apic_gpa, BSP_BASE | EXTD);
}

static void unknown_consequence(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out = VCPU_EXIT_HALT;
    chip.info = 99;
    assert_true(exits(rig, VMX_REASON_CPUID, 0, 2, &out));
    assert_int_equal(out, VCPU_EXIT_ERROR);
}

/* ---- registers ---- */

static void x2apic_msrs(void **state)
{
    struct rig *rig = *state;
    const struct intc_ops *ops = rig->vcpu->intc;
    uint64_t val, base;

    assert_true(ops->page(rig->hv, &base));
    assert_int_equal(ops->msr_read(rig->hv, 0x803, &val), -EPERM); /* not yet */
    assert_int_equal(ops->msr_write(rig->hv, 0x1b, BSP_BASE | EXTD), 0);
    assert_int_equal(chip.state.state.apic_gpa, BSP_BASE | EXTD);
    assert_false(ops->page(rig->hv, &base));
    assert_int_equal(ops->msr_write(rig->hv, 0x1b, BSP_BASE), -EPERM); /* only through off */

    chip.writes = 0;
    assert_int_equal(ops->msr_write(rig->hv, 0x830, UINT64_C(0x12345) << 32 | 0x40fd), 0);
    assert_int_equal(chip.writes, 2);
    assert_int_equal(chip.order[0], 0x310);
    assert_int_equal(chip.order[1], 0x300);
    assert_int_equal(ops->msr_read(rig->hv, 0x830, &val), 0);
    assert_int_equal(val, UINT64_C(0x12345) << 32 | 0x40fd);
    assert_int_equal(ops->msr_read(rig->hv, 0x831, &val), -EPERM);
    assert_int_equal(ops->msr_write(rig->hv, 0x808, UINT64_C(1) << 32), -EPERM);
    assert_int_equal(ops->msr_write(rig->hv, 0x838, 1000), 0);
    assert_int_equal(chip.reg[0x38], 1000);
    chip.refuse = 0x80;
    assert_int_equal(ops->msr_write(rig->hv, 0x808, 1), -EPERM);
    assert_int_equal(ops->msr_read(rig->hv, 0x6e0, &val), -EPERM);

    assert_int_equal(ops->msr_write(rig->hv, 0x1b, 0xfee00000), 0);
    assert_int_equal(ops->msr_read(rig->hv, 0x1b, &val), 0);
    assert_int_equal(val, 0xfee00100); /* BSP is hardware's to say */
    assert_int_equal(ops->msr_write(rig->hv, 0x1b, 0xfee00c00), -EPERM);
    assert_int_equal(ops->msr_write(rig->hv, 0x1b, UINT64_C(1) << 52 | 0x800), -EPERM);
}

/* Nobody has asked for APIC-access exits: they are of the page where the APIC is. */
static void unasked_access(void **state)
{
    struct rig *rig = *state;
    assert_false(rig->hv->apic_page_on);
    CODE(rig, "\x8b\x04\x25\x30\x00\xe0\xfe"); /* mov eax, [0xfee00030] */
    chip.reg[3] = 0x50014;
    chip.info = HV_VM_EXITINFO_APIC_ACCESS_READ;
    assert_false(exits(rig, VMX_REASON_APIC_ACCESS, 0x30, 7, NULL));
    assert_int_equal(fake.reg[HV_X86_RAX], 0x50014);
    assert_int_equal(fake.reg[HV_X86_RIP], CODE_AT + 7);
}

static void tpr(void **state)
{
    struct rig *rig = *state;
    rig->vcpu->intc->set_tpr(rig->hv, 0x50);
    assert_int_equal(chip.reg[8], 0x50);
    struct x86_state s;
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(s.cr8, 5);
}

static void start_and_reset(void **state)
{
    struct rig *rig = *state;
    uint8_t page[ACCEL_LAPIC_PAGE] = {0}, back[ACCEL_LAPIC_PAGE];
    uint64_t base;
    unsigned svr = 64, lint0 = 64;
    put_le32(page + 0xf0, 0x1ff);
    put_le32(page + 0x350, 0x700);
    put_le32(page + 0xe0, UINT32_MAX);

    chip.writes = chip.puts = 0;
    assert_int_equal(hvf_set_lapic(rig->vcpu, BSP_BASE, page), 0);
    assert_int_equal(chip.puts, 0); /* it is as it was made */
    for (unsigned i = 0; i < chip.writes; i++) {
        if (chip.order[i] == 0xf0)
            svr = i;
        if (chip.order[i] == 0x350)
            lint0 = i;
        assert_int_not_equal(chip.order[i], 0x380); /* the timer stands */
        assert_int_not_equal(chip.order[i], 0x300);
    }
    assert_true(svr < lint0 && lint0 < 64);
    assert_int_equal(hvf_get_lapic(rig->vcpu, &base, back), 0);
    assert_int_equal(base, BSP_BASE);
    assert_int_equal(get_le32(back + 0x350), 0x700);

    /* Anew: what has come meanwhile is gone. */
    chip.state.state.irr[3] = 1;
    chip.state.state.tpr = 0x80;
    assert_int_equal(hvf_set_lapic(rig->vcpu, BSP_BASE, page), 0);
    assert_int_equal(chip.puts, 1);
    assert_int_equal(chip.state.state.irr[3], 0);
    assert_int_equal(chip.state.state.tpr, 0);

    chip.put_error = HV_ERROR;
    assert_int_equal(hvf_set_lapic(rig->vcpu, BSP_BASE, page), -EIO);
}

static void init_signal(void **state)
{
    struct rig *rig = *state;
    chip.puts = 0;
    rig->vcpu->intc->init(rig->hv); /* the framework has done it */
    assert_int_equal(chip.puts, 0);
    chip.state.state.svr = 0x1ff;
    chip.state.state.isr[2] = 4;
    chip.state.state.boot_state = HV_BS_SIPI;
    rig->vcpu->intc->init(rig->hv);
    assert_int_equal(chip.puts, 1);
    assert_int_equal(chip.state.state.svr, 0xff);
    assert_int_equal(chip.state.state.isr[2], 0);
    assert_int_equal(chip.state.state.boot_state, HV_BS_SIPI); /* what came meanwhile stays */
    assert_int_equal(chip.state.state.apic_gpa, BSP_BASE);
}

/* ---- the 8259A ---- */

static unsigned acks;
static int pic_ack(void *pic)
{
    (void)pic;
    acks++;
    return 0x28;
}

static void extint(void **state)
{
    struct rig *rig = *state;
    rig->vm->upcalls.pic_ack = pic_ack;
    acks = 0;
    chip.reg[0x35] = 0x10700; /* LINT0: ExtINT, masked */
    fake.reg[HV_X86_RFLAGS] = 0x202;
    hvf_set_intr(rig->vm, true);
    assert_int_equal(rig->vcpu->events, VCPU_EV_INTR);
    hvf_inject(rig->hv);
    assert_int_equal(acks, 0);

    chip.reg[0x35] = 0x31; /* a vector of the local APIC's is not ours */
    hvf_inject(rig->hv);
    assert_int_equal(acks, 0);

    chip.reg[0x35] = 0x700;
    fake.reg[HV_X86_RFLAGS] = 2;
    hvf_inject(rig->hv);
    assert_int_equal(acks, 0);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);

    fake.reg[HV_X86_RFLAGS] = 0x202;
    hvf_inject(rig->hv);
    assert_int_equal(acks, 1);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 0x28);

    hvf_set_intr(rig->vm, false);
    rig->hv->event.info = 0;
    rig->hv->event_written = false;
    hvf_inject(rig->hv);
    assert_int_equal(acks, 1);
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);
}

/* ---- HLT ---- */

static void hlt(void **state)
{
    struct rig *rig = *state;
    struct x86_state s;
    CODE(rig, "\xf4");
    fake.reg[HV_X86_RFLAGS] = 0x202;
    assert_false(exits(rig, VMX_REASON_HLT, 0, 1, NULL));
    assert_int_equal(fake.vmcs[VMCS_GUEST_ACTIVITY_STATE], 1); /* the framework wakes it */
    assert_int_equal(rig->hv->run_state, X86_RUNNING);
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(s.run_state, X86_HALTED);

    s.run_state = X86_RUNNING;
    assert_int_equal(hvf_set_state(rig->vcpu, &s), 0);
    assert_int_equal(fake.vmcs[VMCS_GUEST_ACTIVITY_STATE], 0);
    s.run_state = X86_HALTED;
    assert_int_equal(hvf_set_state(rig->vcpu, &s), 0);
    assert_int_equal(fake.vmcs[VMCS_GUEST_ACTIVITY_STATE], 1);
    assert_int_equal(rig->hv->run_state, X86_RUNNING);
    hvf_state_init(rig->hv);
    assert_int_equal(fake.vmcs[VMCS_GUEST_ACTIVITY_STATE], 0);
}

static void look(struct rig *rig, unsigned reason, uint64_t length, uint64_t idle)
{
    chip.idle_ns += idle;
    rig->hv->reason = reason;
    hvf_idle_look(rig->hv, os_clock_ns() - length);
}

static void bounds(void **state)
{
    struct rig *rig = *state;
    fake.reg[HV_X86_RFLAGS] = 0x202;
    assert_int_equal(hvf_entry_bound(rig->hv), ENTRY_NS);
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, ENTRY_NS, 0);
    assert_int_equal(hvf_entry_bound(rig->hv), 2 * ENTRY_NS);
    for (unsigned i = 0; i < 20; i++)
        look(rig, VMX_REASON_VMX_TIMER_EXPIRED, ENTRY_NS, 0);
    assert_int_equal(hvf_entry_bound(rig->hv), 32 * ENTRY_NS);
    hvf_set_intr(rig->vm, true); /* nobody tells when LINT0 is opened */
    assert_int_equal(hvf_entry_bound(rig->hv), ENTRY_NS);
    hvf_set_intr(rig->vm, false);
    assert_int_equal(hvf_entry_bound(rig->hv), 32 * ENTRY_NS);
    look(rig, VMX_REASON_IO, ENTRY_NS, 0);
    assert_int_equal(hvf_entry_bound(rig->hv), ENTRY_NS);
}

static void halted_for_good(void **state)
{
    struct rig *rig = *state;
    fake.reg[HV_X86_RFLAGS] = 2;
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(100)); /* it is not known when it idled */
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(5));   /* not all the time */
    look(rig, VMX_REASON_IO, MiB(10), MiB(10));
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10));
    fake.reg[HV_X86_RFLAGS] = 0x202;
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10)); /* an interrupt may come */
    assert_int_equal(rig->vm->stop, VM_RUNNING);
    fake.reg[HV_X86_RFLAGS] = 2;
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10));
    assert_int_equal(rig->vm->stop, VM_HALT);
}

static void halted_by_the_processor(void **state)
{
    struct rig *rig = *state;
    fake.reg[HV_X86_RFLAGS] = 2;
    fake.vmcs[VMCS_GUEST_ACTIVITY_STATE] = 1;
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), 0);
    assert_int_equal(rig->vm->stop, VM_RUNNING);
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), 0);
    assert_int_equal(rig->vm->stop, VM_HALT);
}

/* A second vCPU: only stretches that overlap are one moment. */
static void halted_together(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *other = calloc(1, sizeof(*other));
    struct vcpu second = {.vm = rig->vm, .id = 1, .accel = other};
    other->hvf = rig->hv->hvf;
    other->vcpu = &second;
    rig->vm->vcpu[1] = &second;
    rig->vm->nvcpus = 2;
    fake.reg[HV_X86_RFLAGS] = 2;

    uint32_t stop[4];
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), 0);
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10));
    stop[0] = rig->vm->stop; /* the other one runs */
    other->apic.idle_from = 1;
    other->apic.idle_to = 2; /* it was halted once, long ago */
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10));
    stop[1] = rig->vm->stop;
    hvf_idle_waits(other, true); /* it has got INIT; since then nothing is known of the first */
    stop[2] = rig->vm->stop;
    other->apic.idle_from = 1; /* and waited through the next one */
    look(rig, VMX_REASON_VMX_TIMER_EXPIRED, MiB(10), MiB(10));
    stop[3] = rig->vm->stop;

    rig->vm->nvcpus = 1; /* before anything can fail */
    rig->vm->vcpu[1] = NULL;
    free(other);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(stop[i], VM_RUNNING);
    assert_int_equal(stop[3], VM_HALT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SPLIT(opened),
        cmocka_unit_test(no_x2apic),
        cmocka_unit_test(refused),
        cmocka_unit_test(ids),
        SPLIT(messages),
        SPLIT(consequences_of_a_write),
        SPLIT(consequences_of_an_exit),
        SPLIT(faults),
        SPLIT(unknown_consequence),
        SPLIT(x2apic_msrs),
        SPLIT(unasked_access),
        SPLIT(tpr),
        SPLIT(start_and_reset),
        SPLIT(init_signal),
        SPLIT(extint),
        SPLIT(hlt),
        SPLIT(bounds),
        SPLIT(halted_for_good),
        SPLIT(halted_by_the_processor),
        SPLIT(halted_together),
    };
    return cmocka_run_group_tests_name("hvf_split", tests, NULL, NULL);
}
