/*
 * The Hypervisor.framework accelerator against a framework that is only its
 * registers: life, words for errors, controls, the run loop with its kick, what
 * goes into the guest and when.
 */
#include "hvf_fixture.h"

#include <errno.h>

#define VALID 0x80000000u

/* ---- controls ---- */

static void controls_keep_to_the_host(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (unsigned turn = 0; turn < 2000; turn++) {
        struct hvf_caps caps;
        struct hvf_controls c;
        char why[256] = "";
        uint64_t *cap[5] = {&caps.pin, &caps.proc, &caps.proc2, &caps.entry, &caps.exit};
        memset(&caps, 0, sizeof(caps));
        for (unsigned i = 0; i < 5; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            uint32_t may = (uint32_t)(seed >> 32) | (turn % 3 ? 0xffffffff ^ (1u << (turn / 3 % 32)) : 0);
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            *cap[i] = (uint64_t)may << 32 | ((uint32_t)(seed >> 32) & may & (uint32_t)(seed >> 16));
        }
        int err = hvf_controls_compute(&caps, &c, why, sizeof(why));
        if (err) {
            assert_int_equal(err, -ENOTSUP);
            assert_non_null(strstr(why, "control 0x"));
            continue;
        }
        uint32_t set[5] = {c.pin, c.proc, c.proc2, c.entry, c.exit};
        for (unsigned i = 0; i < 5; i++) {
            assert_int_equal(set[i] & ~(uint32_t)(*cap[i] >> 32), 0);
            if (i != 3 && i != 0) /* IA-32e mode and virtual NMIs follow something else */
                assert_int_equal((uint32_t)*cap[i] & ~set[i], 0);
        }
        assert_true(c.proc & CPU_BASED_HLT);
        assert_true(c.proc2 & CPU_BASED2_UNRESTRICTED);
    }
}

static void control_that_is_needed(void **state)
{
    (void)state;
    fake_reset();
    fake.cap[HV_VMX_CAP_PROCBASED2] &= ~((uint64_t)CPU_BASED2_UNRESTRICTED << 32);
    struct rig *rig = rig_new();
    assert_null(rig->hv);
    assert_non_null(strstr(rig->why, "secondary processor-based control 0x80"));
    assert_false(fake.vm);
    rig_free(rig);
}

static void vmcs_at_the_start(void **state)
{
    struct rig *rig = *state;
    assert_int_equal(fake.vmcs[VMCS_CTRL_CPU_BASED] & (CPU_BASED_CR3_LOAD | CPU_BASED_CR3_STORE), 0);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_UNCOND_IO);
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);
    assert_false(fake.vmcs[VMCS_CTRL_VMENTRY_CONTROLS] & VMENTRY_GUEST_IA32E);
    assert_int_equal(fake.vmcs[VMCS_CTRL_EXC_BITMAP], 1u << 17 | 1u << 1 | 1u << 18);
    assert_int_equal(fake.vmcs[VMCS_GUEST_LINK_POINTER], UINT64_MAX);
    assert_true(fake.vmcs[VMCS_GUEST_CR4] & 1u << 13);
    assert_true(fake.vmcs[VMCS_GUEST_CR0] & CR0_NE);
    assert_false(fake.vmcs[VMCS_GUEST_CR0] & (CR0_CD | CR0_NW));
    assert_int_equal(hvf_cr0(rig->hv), CR0_CD | CR0_NW | CR0_ET);
    assert_int_equal(hvf_cr4(rig->hv), 0);
    assert_null(hvf_failing_check(rig->hv));
}

/* ---- words ---- */

static void words_for_errors(void **state)
{
    (void)state;
    const struct {
        hv_return_t r;
        const char *word;
    } cases[] = {
        {HV_DENIED, "com.apple.security.hypervisor"},
        {HV_BUSY, "another hypervisor"},
        {HV_UNSUPPORTED, "kern.hv_support"},
        {HV_NO_RESOURCES, "no more VMs"},
        {HV_ERROR, "entitlement"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        fake_reset();
        fake.create_error = cases[i].r;
        struct rig *rig = rig_new();
        assert_null(rig->hv);
        assert_non_null(strstr(rig->why, cases[i].word));
        rig_free(rig);
    }
    fake_reset();
    fake.supported = false;
    struct rig *rig = rig_new();
    assert_non_null(strstr(rig->why, "sysctl kern.hv_support"));
    assert_non_null(strstr(rig->why, "-a soft"));
    rig_free(rig);
}

static void other_irqchips_are_refused(void **state)
{
    struct rig *rig = *state;
    struct vm vm = {.nvcpus = 1};
    char why[256];
    (void)rig;
    assert_int_equal(hvf_vm_open(&vm, "kernel", why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "irqchip=kernel"));
    vm.nvcpus = 9;
    assert_int_equal(hvf_vm_open(&vm, "user", why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "at most 8"));
}

/* ---- the run loop ---- */

static struct rig *running;

static void hlt_exit(void)
{
    fake.vmcs[VMCS_RO_EXIT_REASON] = VMX_REASON_HLT;
    fake.vmcs[VMCS_RO_VMEXIT_INSTR_LEN] = 1;
    fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO] &= ~(uint64_t)VALID;
}

static void halts(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    fake.on_run = hlt_exit;
    fake.reg[HV_X86_RFLAGS] = RFL_FIXED | RFL_IF;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_STI_BLOCKING;
    uint64_t rip = fake.reg[HV_X86_RIP];
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_HALT);
    assert_int_equal(fake.reg[HV_X86_RIP], rip + 1);
    assert_int_equal(fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0); /* else what wakes it would not get in */
    fake.reg[HV_X86_RFLAGS] = RFL_FIXED;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_HALT_FOREVER);
    assert_int_equal(fake.runs, 1);
}

static void kick_from_within(void)
{
    vcpu_raise(running->vcpu, VCPU_EV_STOP);
    fake.vmcs[VMCS_RO_EXIT_REASON] = VMX_REASON_IRQ;
}

static void a_kick_is_sticky(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    rig->vm->accel = &accel_hvf;
    rig->vcpu->kickable = true;
    running = rig;
    fake.on_run = kick_from_within;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(fake.runs, 1);
    assert_int_equal(fake.interrupts, 1); /* it was in the guest */

    /* Before the entry there is nobody to interrupt, and the entry does not come. */
    vcpu_raise(rig->vcpu, VCPU_EV_STOP);
    assert_int_equal(fake.interrupts, 1);
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(fake.runs, 1);
}

/* The kick comes when the events have been looked at: from the local APIC, asked right before the entry. */
static int raise_when_asked(void *d)
{
    (void)d;
    if (fake.runs == 0 && !atomic_load(&running->hv->kicked))
        vcpu_raise(running->vcpu, VCPU_EV_STOP);
    return -1;
}

static void a_kick_between_look_and_entry(void **state)
{
    struct rig *rig = *state;
    struct intc_ops ops = fake_intc;
    enum vcpu_exit out;
    ops.pending = raise_when_asked;
    rig->vcpu->intc = &ops;
    rig->vm->accel = &accel_hvf;
    rig->vcpu->kickable = true;
    running = rig;
    fake.on_run = hlt_exit;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(fake.runs, 0);
    assert_int_equal(fake.interrupts, 0);
}

static void stop_at_once(void)
{
    fake.vmcs[VMCS_RO_EXIT_REASON] = VMX_REASON_VMX_TIMER_EXPIRED;
    vcpu_raise(running->vcpu, VCPU_EV_STOP);
}

/* HLT with TF: its trap is what ends it. */
static void a_step_over_hlt(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    running = rig;
    fake.on_run = stop_at_once;
    rig->hv->run_state = X86_HALTED;
    fake.vmcs[VMCS_GUEST_DEBUG_EXC] = 1u << 14;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(fake.runs, 1);
    assert_int_equal(rig->hv->run_state, X86_RUNNING);
}

static void entries_are_bounded(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    running = rig;
    fake.on_run = stop_at_once;
    uint64_t now = os_clock_ns();
    hvf_vcpu_run(rig->vcpu, &out);
    assert_in_range(fake.until, now, os_clock_ns() + UINT64_C(10000000));

    rig->vcpu->events = 0;
    apic.deadline = now = os_clock_ns() + 1000000; /* sooner than that */
    hvf_vcpu_run(rig->vcpu, &out);
    if (apic.expired == 0) /* a busy machine may be late */
        assert_int_equal(fake.until, now);

    rig->vcpu->events = 0;
    apic.deadline = 1; /* long past */
    apic.expired = 0;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(apic.expired, 1);
}

static void without_a_preemption_timer(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    running = rig;
    fake.on_run = stop_at_once;
    fake.run_result = HV_UNSUPPORTED;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_KICKED);
    assert_int_equal(fake.runs, 2);
}

static void a_call_that_fails(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    fake.run_result = HV_BAD_ARGUMENT;
    hvf_vcpu_run(rig->vcpu, &out);
    assert_int_equal(out, VCPU_EXIT_ERROR);
    assert_int_equal(fake.runs, 1);
}

static void a_refused_entry(void **state)
{
    struct rig *rig = *state;
    enum vcpu_exit out;
    fake.vmcs[VMCS_GUEST_CS_AR] = SEG_P | SEG_S | 10; /* not accessed */
    assert_string_equal(hvf_failing_check(rig->hv), "CS type: not accessed");
    assert_true(exits(rig, 0x80000000u | VMX_REASON_VMENTRY_GUEST, 0, 0, &out));
    assert_int_equal(out, VCPU_EXIT_ERROR);
}

/* An exit between MOV SS and what follows need not save the single step that is pending; an entry needs it (27.3.1.5). */
static void a_step_that_was_not_saved(void **state)
{
    struct rig *rig = *state;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_MOVSS_BLOCKING;
    fake.reg[HV_X86_RFLAGS] |= RFL_TF;
    assert_false(exits(rig, 0x80000000u | VMX_REASON_VMENTRY_GUEST, 0, 0, NULL));
    assert_int_equal(fake.vmcs[VMCS_GUEST_DEBUG_EXC], 1u << 14);
    assert_true(exits(rig, 0x80000000u | VMX_REASON_VMENTRY_GUEST, 0, 0, NULL)); /* it was not that */

    /* And an exception that is injected ends the shadow. */
    fake.vmcs[VMCS_GUEST_DEBUG_EXC] = 0;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_STI_BLOCKING | GUEST_INTRBILITY_NMI_BLOCKING;
    hvf_raise(rig->hv, EXC_DB);
    hvf_inject(rig->hv);
    assert_int_equal(fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY], GUEST_INTRBILITY_NMI_BLOCKING);
}

static void unknown_reasons_end_the_vm(void **state)
{
    struct rig *rig = *state;
    for (unsigned reason = 0; reason < 100; reason++) {
        enum vcpu_exit out = VCPU_EXIT_KICKED;
        bool known = strcmp(hvf_exit_name(reason), "unknown") != 0;
        if (reason == 35 || reason == 38 || reason == 42 || reason == 71 || reason > 77)
            assert_false(known);
        if (known)
            continue;
        assert_true(exits(rig, reason, 0, 0, &out));
        assert_int_equal(out, VCPU_EXIT_ERROR);
    }
}

/* ---- events ---- */

static void interrupts_go_in_when_they_may(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;

    apic.vector = 0x31;
    fake.reg[HV_X86_RFLAGS] = RFL_FIXED;
    hvf_inject(hv);
    assert_int_equal(apic.acks, 0);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);

    fake.reg[HV_X86_RFLAGS] = RFL_FIXED | RFL_IF;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_MOVSS_BLOCKING;
    hvf_inject(hv);
    assert_int_equal(apic.acks, 0);

    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = 0;
    hvf_inject(hv);
    assert_int_equal(apic.acks, 1);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 0x31);
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);

    /* The run came back without an entry, and another interrupt came: the first is still to go in. */
    apic.vector = 0x52;
    hvf_collect(hv);
    hvf_inject(hv);
    assert_int_equal(apic.acks, 1);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 0x31);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);

    fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO] = 0x31; /* gone in */
    hvf_collect(hv);
    hvf_inject(hv);
    assert_int_equal(apic.acks, 2);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 0x52);
}

/* A single step that is owed comes before interrupts and NMIs: an entry with one of these would lose it. */
static void debug_traps_come_first(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    static const uint64_t owed[] = {1u << 14, 1u << 12 | 1};

    apic.vector = 0x31;
    hv->nmi_pending = true;
    fake.reg[HV_X86_RFLAGS] = RFL_FIXED | RFL_IF | RFL_TF;
    for (unsigned i = 0; i < 2; i++) {
        fake.vmcs[VMCS_GUEST_DEBUG_EXC] = owed[i];
        hvf_inject(hv);
        assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO] & VALID, 0);
        assert_int_equal(apic.acks, 0);
        assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_IRQ_WND);
        assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_VIRTUAL_NMI_WND);
    }
    fake.vmcs[VMCS_GUEST_DEBUG_EXC] = 1; /* a breakpoint that is not enabled: a note for DR6, no trap */
    hvf_inject(hv);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 2u << 8 | 2);
}

static void nmis_wait_for_their_window(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;

    hv->nmi_pending = true;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_NMI_BLOCKING;
    hvf_inject(hv);
    assert_true(hv->nmi_pending);
    assert_true(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_VIRTUAL_NMI_WND);
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = 0;
    hvf_inject(hv);
    assert_false(hv->nmi_pending);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 2u << 8 | 2);
    assert_false(fake.vmcs[VMCS_CTRL_CPU_BASED] & CPU_BASED_VIRTUAL_NMI_WND);
}

static void deliveries_begin_again(void **state)
{
    struct rig *rig = *state;
    struct hvf_vcpu *hv = rig->hv;
    const struct {
        uint32_t info, error, len;
        struct hvf_event want;
    } cases[] = {
        {VALID | 0x31, 9, 3, {VALID | 0x31, 0, 0}},
        {VALID | 1u << 12 | 3u << 8 | 1u << 11 | 14, 6, 3, {VALID | 3u << 8 | 1u << 11 | 14, 6, 0}},
        {VALID | 4u << 8 | 0x80, 0, 2, {VALID | 4u << 8 | 0x80, 0, 2}},
        {VALID | 6u << 8 | 3, 0, 1, {VALID | 6u << 8 | 3, 0, 1}},
        {VALID | 5u << 8 | 1, 0, 1, {VALID | 5u << 8 | 1, 0, 1}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct hvf_event e = hvf_event_again(cases[i].info, cases[i].error, cases[i].len);
        assert_memory_equal(&e, &cases[i].want, sizeof(e));
    }

    /* A page that the framework had to bring in, amid the delivery of an NMI. */
    fake.vmcs[VMCS_GUEST_PHYSICAL_ADDRESS] = 0x3000;
    fake.vmcs[VMCS_RO_IDT_VECTOR_INFO] = VALID | 2u << 8 | 2;
    fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY] = GUEST_INTRBILITY_NMI_BLOCKING;
    assert_false(exits(rig, VMX_REASON_EPT_VIOLATION, 0x182, 0, NULL));
    hvf_inject(hv);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], VALID | 2u << 8 | 2);
    assert_int_equal(fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY], 0);

    /* And an IRET that is to be executed again keeps NMIs blocked. */
    hv->event.info = 0;
    fake.vmcs[VMCS_RO_IDT_VECTOR_INFO] = 0;
    assert_false(exits(rig, VMX_REASON_EPT_VIOLATION, 0x1182, 0, NULL));
    assert_int_equal(fake.vmcs[VMCS_GUEST_INTERRUPTIBILITY], GUEST_INTRBILITY_NMI_BLOCKING);
}

static void exceptions_are_the_guests(void **state)
{
    struct rig *rig = *state;
    fake.vmcs[VMCS_RO_VMEXIT_IRQ_INFO] = VALID | 3u << 8 | 1u << 11 | EXC_AC;
    fake.vmcs[VMCS_RO_VMEXIT_IRQ_ERROR] = 0;
    assert_false(exits(rig, VMX_REASON_EXC_NMI, 0, 0, NULL));
    assert_int_equal(rig->hv->event.info, VALID | 3u << 8 | 1u << 11 | EXC_AC);

    fake.vmcs[VMCS_RO_VMEXIT_IRQ_INFO] = VALID | 3u << 8 | EXC_DB;
    fake.reg[HV_X86_DR6] = 0xffff0ff2;
    fake.vmcs[VMCS_GUEST_DR7] = 0x2400;
    assert_false(exits(rig, VMX_REASON_EXC_NMI, 0x6001, 0, NULL));
    assert_int_equal(fake.reg[HV_X86_DR6], 0xffff6ff1);
    assert_int_equal(fake.vmcs[VMCS_GUEST_DR7], 0x400);

    fake.vmcs[VMCS_RO_VMEXIT_IRQ_INFO] = VALID | 2u << 8 | 2; /* the host's NMI */
    rig->hv->event.info = 0;
    assert_false(exits(rig, VMX_REASON_EXC_NMI, 0, 0, NULL));
    assert_int_equal(rig->hv->event.info, 0);
}

/* An interrupt that has been taken from the local APIC is in no register: it is delivered before they are read. */
static void state_has_what_was_on_its_way(void **state)
{
    struct rig *rig = *state;
    struct x86_state s;
    uint8_t *ram = rig->vm->mem.region[0].host;

    long_mode(rig);
    put_le64(ram + 0x5000 + 16 * 0x31, UINT64_C(0x00008e0000089000)); /* to 0x9000 */
    put_le64(ram + 0x5000 + 16 * 0x31 + 8, 0);
    put_le64(ram + 0x4000 + 8, UINT64_C(0x00af9b000000ffff));
    fake.vmcs[VMCS_GUEST_IDTR_LIMIT] = 0xfff;
    fake.reg[HV_X86_RFLAGS] = RFL_FIXED | RFL_IF;
    apic.vector = 0x31;
    hvf_inject(rig->hv);
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(s.rip, 0x9000);
    assert_false(s.rflags & RFL_IF);
    assert_int_equal(get_le64(ram + s.gpr[RSP]), CODE_AT);
    assert_int_equal(fake.vmcs[VMCS_CTRL_VMENTRY_IRQ_INFO], 0);
}

/* ---- INIT and start-up ---- */

static void init_and_startup(void **state)
{
    struct rig *rig = *state;
    struct x86_state s;
    rig->vcpu->id = 1;
    long_mode(rig);
    fake.reg[HV_X86_RAX] = 5;
    hvf_state_init(rig->hv);
    assert_int_equal(rig->hv->run_state, X86_WAIT_SIPI);
    hvf_state_startup(rig->hv, 0x9a);
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(s.run_state, X86_RUNNING);
    assert_int_equal(s.seg[SEG_CS].sel, 0x9a00);
    assert_int_equal(s.seg[SEG_CS].base, 0x9a000);
    assert_int_equal(s.rip, 0);
    assert_int_equal(s.efer, 0);
    assert_int_equal(s.gpr[RAX], 0);
    assert_int_equal(s.cr0, CR0_ET); /* INIT leaves CD and NW, which were 0 */
    assert_false(fake.vmcs[VMCS_CTRL_VMENTRY_CONTROLS] & VMENTRY_GUEST_IA32E);
    assert_null(hvf_failing_check(rig->hv));
    rig->vcpu->id = 0;
}

static void state_comes_back(void **state)
{
    struct rig *rig = *state;
    struct x86_state a, b;
    long_mode(rig);
    assert_int_equal(hvf_get_state(rig->vcpu, &a), 0);
    for (unsigned i = 0; i < 16; i++)
        a.gpr[i] = 0x1111 * i;
    a.dr[0] = 0x1234;
    a.star = 1, a.lstar = 2, a.cstar = 3, a.sfmask = 4, a.kernel_gs_base = 5, a.tsc_aux = 6;
    a.sysenter_cs = 7, a.sysenter_esp = 8, a.sysenter_eip = 9, a.pat = 0x0606060606060606, a.misc_enable = 0x801;
    a.mtrr_fixed[3] = 0x0606, a.mtrr_base[1] = 0xc0000006, a.mtrr_mask[1] = 0x3fc0000800, a.mtrr_def_type = 0xc06;
    a.cr8 = 5, a.xcr0 = 7, a.nmi_blocked = 1, a.nmi_pending = 1, a.cr2 = 0xdead, a.run_state = X86_HALTED;
    memset(a.xsave + 160, 0x5a, 256);
    memset(a.xsave + 576, 0xa5, 256);
    assert_int_equal(hvf_set_state(rig->vcpu, &a), 0);
    assert_int_equal(apic.tpr, 0x50);
    assert_int_equal(hvf_get_state(rig->vcpu, &b), 0);
    b.tsc = a.tsc, b.tsc_at_ns = a.tsc_at_ns;
    assert_memory_equal(a.xsave, b.xsave, sizeof(a.xsave));
    memcpy(b.xsave, a.xsave, sizeof(a.xsave));
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(a.seg[i].base, b.seg[i].base);
        assert_int_equal(a.seg[i].limit, b.seg[i].limit);
        assert_int_equal(a.seg[i].attr, b.seg[i].attr);
        assert_int_equal(a.seg[i].sel, b.seg[i].sel);
    }
    memcpy(b.seg, a.seg, sizeof(a.seg));
    b.gdtr = a.gdtr, b.idtr = a.idtr;
    assert_memory_equal(&a, &b, offsetof(struct x86_state, seg));
    assert_memory_equal(&a.cr0, &b.cr0, offsetof(struct x86_state, tsc) - offsetof(struct x86_state, cr0));
    assert_int_equal(b.nmi_blocked, 1);
    assert_int_equal(b.nmi_pending, 1);
    assert_int_equal(b.run_state, X86_HALTED);
}

/* What an XSAVE image says is not there is as after reset, whatever stands in its place. */
static void vectors_that_are_not_there(void **state)
{
    struct rig *rig = *state;
    struct x86_state s;
    memset(fake.fp, 0x77, 832);
    memset(fake.fp + 512, 0, 64);
    put_le64(fake.fp + 512, 4);
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(get_le16(s.xsave), 0x37f);
    assert_int_equal(get_le64(s.xsave + 32), 0);
    assert_int_equal(get_le64(s.xsave + 160), 0);
    assert_int_equal(s.xsave[576], 0x77);
    put_le64(fake.fp + 512, 3);
    assert_int_equal(hvf_get_state(rig->vcpu, &s), 0);
    assert_int_equal(get_le16(s.xsave), 0x7777);
    assert_int_equal(s.xsave[160], 0x77);
    assert_int_equal(s.xsave[576], 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(controls_keep_to_the_host),
        cmocka_unit_test(control_that_is_needed),
        TEST(vmcs_at_the_start),
        cmocka_unit_test(words_for_errors),
        TEST(other_irqchips_are_refused),
        TEST(halts),
        TEST(a_kick_is_sticky),
        TEST(a_kick_between_look_and_entry),
        TEST(a_step_over_hlt),
        TEST(entries_are_bounded),
        TEST(without_a_preemption_timer),
        TEST(a_call_that_fails),
        TEST(a_refused_entry),
        TEST(a_step_that_was_not_saved),
        TEST(unknown_reasons_end_the_vm),
        TEST(interrupts_go_in_when_they_may),
        TEST(nmis_wait_for_their_window),
        TEST(debug_traps_come_first),
        TEST(deliveries_begin_again),
        TEST(exceptions_are_the_guests),
        TEST(state_has_what_was_on_its_way),
        TEST(init_and_startup),
        TEST(state_comes_back),
        TEST(vectors_that_are_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
