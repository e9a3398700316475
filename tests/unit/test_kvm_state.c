/* The KVM accelerator: registers, MSRs, the TSC, the local APIC's page and CPUID, there and back through the real KVM. */
#if defined(__linux__) && defined(__x86_64__)

#include "kvm_fixture.h"

/* ---- registers ---- */

static void fill(struct x86_state *s)
{
    x86_state_reset(s, true);
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = UINT64_C(0x0101010101010101) * (i + 1);
    s->rip = 0x123456;
    s->rflags = RFL_FIXED | RFL_CF | RFL_IF;
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP;
    s->cr2 = 0xdead000;
    s->cr3 = 0x5000;
    s->cr4 = CR4_PAE | CR4_OSFXSR;
    s->cr8 = 5;
    s->efer = EFER_LME | EFER_LMA | EFER_SCE;
    s->seg[SEG_CS] = x86_flat_segment(8, SEG_L | 11);
    s->seg[SEG_SS] = x86_flat_segment(16, SEG_DB | 3);
    s->seg[SEG_FS].base = UINT64_C(0x7f1234567000);
    s->gdtr = (struct x86_table){.base = UINT64_C(0xffff800000001000), .limit = 0x7f};
    s->idtr = (struct x86_table){.base = UINT64_C(0xffff800000002000), .limit = 0xfff};
    s->dr[0] = 0x1000;
    s->dr[7] = 0x402;
    s->star = UINT64_C(0x0023001000000000);
    s->lstar = UINT64_C(0xffffffff81000000);
    s->sfmask = 0x47700;
    s->kernel_gs_base = UINT64_C(0xffff888000000000);
    s->sysenter_eip = 0x1234;
    s->pat = UINT64_C(0x0007010600070106);
    s->mtrr_def_type = 0x806;
    s->mtrr_base[3] = 0x40000006;
    s->xsave[160] = 0x5a; /* XMM0 */
    s->xsave[160 + 16 * 15 + 7] = 0xa5;
    s->nmi_blocked = 1;
}

static void same_registers(const struct x86_state *a, const struct x86_state *b)
{
    assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(a->rflags, b->rflags);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        assert_int_equal(a->seg[i].sel, b->seg[i].sel);
        assert_int_equal(a->seg[i].base, b->seg[i].base);
        assert_int_equal(a->seg[i].limit, b->seg[i].limit);
        assert_int_equal(a->seg[i].attr, b->seg[i].attr);
    }
    assert_int_equal(a->gdtr.base, b->gdtr.base);
    assert_int_equal(a->idtr.limit, b->idtr.limit);
    assert_int_equal(a->cr0, b->cr0);
    assert_int_equal(a->cr2, b->cr2);
    assert_int_equal(a->cr3, b->cr3);
    assert_int_equal(a->cr4, b->cr4);
    assert_int_equal(a->cr8, b->cr8);
    assert_int_equal(a->xcr0, b->xcr0);
    assert_int_equal(a->efer, b->efer);
    assert_int_equal(a->dr[0], b->dr[0]);
    assert_int_equal(a->dr[7], b->dr[7]);
    assert_int_equal(a->star, b->star);
    assert_int_equal(a->lstar, b->lstar);
    assert_int_equal(a->sfmask, b->sfmask);
    assert_int_equal(a->kernel_gs_base, b->kernel_gs_base);
    assert_int_equal(a->sysenter_eip, b->sysenter_eip);
    assert_int_equal(a->pat, b->pat);
    assert_int_equal(a->mtrr_def_type, b->mtrr_def_type);
    assert_int_equal(a->mtrr_base[3], b->mtrr_base[3]);
    assert_memory_equal(a->xsave, b->xsave, sizeof(a->xsave));
    assert_int_equal(a->nmi_blocked, b->nmi_blocked);
    assert_int_equal(a->run_state, b->run_state);
}

static void registers(void **state)
{
    struct rig r;
    struct x86_state in, out;
    (void)state;
    build(&r, "split", NULL);
    fill(&in);
    in.tsc_at_ns = os_clock_ns();
    assert_int_equal(kvm_set_state(r.vcpu, &in), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    same_registers(&in, &out);

    in.run_state = X86_WAIT_SIPI;
    assert_int_equal(kvm_set_state(r.vcpu, &in), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    assert_int_equal(out.run_state, X86_WAIT_SIPI);

    /* A reset leaves nothing behind. */
    struct x86_state power_on;
    x86_state_reset(&power_on, true);
    assert_int_equal(kvm_set_state(r.vcpu, &power_on), 0);
    assert_int_equal(kvm_get_state(r.vcpu, &out), 0);
    same_registers(&power_on, &out);
    tear_down(&r);
}

static void paravirtual_msrs_end_at_a_reset(void **state)
{
    const uint32_t system_time = 0x4b564d01;
    struct rig r;
    struct x86_state s;
    uint64_t val;
    (void)state;
    build(&r, "split", NULL);
    struct kvm_vcpu *kv = r.vcpu->accel;
    if (kvm_msr_set(kv, system_time, 0x2001)) {
        tear_down(&r);
        skip();
    }
    x86_state_reset(&s, true);
    assert_int_equal(kvm_set_state(r.vcpu, &s), 0);
    assert_int_equal(kvm_msr_get(kv, system_time, &val), 0);
    assert_int_equal(val, 0);
    tear_down(&r);
}

static void tsc(void **state)
{
    struct rig r;
    struct x86_state s;
    (void)state;
    build(&r, "split", NULL);
    x86_state_reset(&s, true);
    s.tsc = 1000000;
    s.tsc_at_ns = os_clock_ns();
    assert_int_equal(kvm_set_state(r.vcpu, &s), 0);
    char why[256];
    if (kvm_trial(&kvm_sys_host, why, sizeof(why))) { /* one that runs no guests keeps no TSC either */
        tear_down(&r);
        skip();
    }
    uint64_t now = kvm_tsc_now(r.vcpu);
    assert_in_range(now, s.tsc, s.tsc + 10 * r.vm->tsc_hz);
    uint64_t at = kvm_tsc_to_ns(r.vcpu, now + r.vm->tsc_hz);
    uint64_t ns = os_clock_ns();
    assert_in_range(at, ns, ns + NS_PER_S);
    assert_int_equal(kvm_tsc_to_ns(r.vcpu, 1), 0);
    tear_down(&r);
}

static void local_apic(void **state)
{
    struct rig r;
    uint8_t in[ACCEL_LAPIC_PAGE], out[ACCEL_LAPIC_PAGE];
    uint64_t base;
    (void)state;
    build(&r, "split", NULL);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, in), 0);
    assert_int_equal(base, 0xfee00900);
    in[0x80] = 0x30; /* TPR */
    in[0xf1] = 1;    /* enabled */
    in[0x350] = 0;
    in[0x351] = 7; /* LINT0: ExtINT */
    in[0x352] = 0;
    assert_int_equal(kvm_set_lapic(r.vcpu, base, in), 0);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, out), 0);
    assert_int_equal(out[0x80], 0x30);
    assert_int_equal(out[0x351], 7);
    /* And into x2APIC mode, whose ID register has 32 bits. */
    memset(in + 0x20, 0, 4);
    assert_int_equal(kvm_set_lapic(r.vcpu, base | 0x400, in), 0);
    assert_int_equal(kvm_get_lapic(r.vcpu, &base, out), 0);
    assert_int_equal(base, 0xfee00d00);
    tear_down(&r);
}

/* ---- CPUID ---- */

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < c->nent; i++)
        if (c->entries[i].function == function && c->entries[i].index == index)
            return &c->entries[i];
    return NULL;
}

static void cpuid(void **state)
{
    struct rig r;
    const struct kvm_cpuid_entry2 *e;
    (void)state;
    for (unsigned user = 0; user < 2; user++) {
        build(&r, user ? "user" : "split", NULL);
        struct kvm_cpuid2 *c = kvm_cpuid_leaves(r.vm->accel_vm, &r.cpuid, 9);
        assert_non_null(c);
        e = leaf(c, 0x40000000, 0);
        assert_non_null(e);
        assert_memory_equal(&e->ebx, "KVMKVMKVM\0\0\0", 12);
        assert_true(e->eax >= 0x40000001);
        e = leaf(c, 0x40000001, 0);
        assert_non_null(e);
        if (user) /* nothing that KVM's local APIC would have to do */
            assert_int_equal(e->eax & (1u << 6 | 1u << 7 | 1u << 11 | 1u << 14), 0);
        e = leaf(c, 1, 0);
        assert_int_equal(e->ebx >> 24, 9);
        if (user)
            assert_int_equal(e->ecx & 1u << 24, 0);           /* no TSC deadline that KVM would swallow */
        assert_int_equal(e->ecx & 1u << 5, 0);                /* no VMX, */
        assert_true(e->ecx & 1u << 31);                       /* but a hypervisor */
        assert_int_equal(leaf(c, 0x80000001, 0)->ecx & 4, 0); /* no SVM */
        e = leaf(c, 0xb, 0);
        assert_int_equal(e->edx, 9);
        e = leaf(c, 0x16, 0);
        assert_int_equal(e->eax, r.vm->tsc_hz / 1000000);
        e = leaf(c, 7, 0);
        assert_int_equal(e->ebx & (1u << 16), 0); /* no AVX-512 without a place for its state */
        free(c);
        tear_down(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registers), TEST(paravirtual_msrs_end_at_a_reset), TEST(tsc), TEST(local_apic), TEST(cpuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) { return 77; /* KVM is Linux' and x86-64's */ }

#endif
