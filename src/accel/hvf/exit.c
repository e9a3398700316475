/*
 * Exits: one entry for every basic exit reason of appendix C. What no setting
 * of ours lets happen, or nobody can serve, is told with a full dump.
 */
#include "accel/hvf/priv.h"
#include "util/bytes.h"

/* True: leave run() with *out. */
typedef bool exit_fn(struct hvf_vcpu *, enum vcpu_exit *out);

/* ---- what ends here ---- */

/* The host's own business, or a window that the next entry looks at. */
static bool again(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)hv;
    (void)out;
    return false;
}

static bool unexpected(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    hvf_dump(hv, NULL);
    *out = VCPU_EXIT_ERROR;
    return true;
}

static bool triple_fault(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)hv;
    *out = VCPU_EXIT_TRIPLE_FAULT;
    return true;
}

/* Instructions of extensions that the guest's CPUID does not offer: VMX, SMX, SGX, MONITOR, UMONITOR and the like. */
static bool undefined(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)out;
    hvf_raise(hv, EXC_UD);
    return false;
}

/* Those that have no effect here: caches are the host's, and PAUSE is a hint. */
static bool nothing(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)out;
    hvf_skip_exit(hv);
    return false;
}

static bool hlt(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)out;
    hvf_skip_exit(hv);
    if (hv->hvf->split.on) /* whose local APIC wakes it sees it halted, and nobody else */
        hvf_set_vmcs(hv, VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_HLT);
    else
        hv->run_state = X86_HALTED;
    return false;
}

/* There are no performance counters. */
static bool rdpmc(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)out;
    hvf_raise_error(hv, EXC_GP, 0);
    return false;
}

static bool invlpg(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    (void)out;
    hv_return_t r = hv_vcpu_invalidate_tlb(hv->id);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_invalidate_tlb", 0);
    hvf_skip_exit(hv);
    return false;
}

static bool rdtsc(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t tsc = hvf_tsc_now(hv->vcpu), aux;
    (void)out;
    hvf_set_gpr(hv, RAX, (uint32_t)tsc);
    hvf_set_gpr(hv, RDX, tsc >> 32);
    if ((hv->reason & 0xffff) == VMX_REASON_RDTSCP && hvf_rdmsr(hv, HV_MSR_IA32_TSC_AUX, &aux))
        hvf_set_gpr(hv, RCX, (uint32_t)aux);
    hvf_skip_exit(hv);
    return false;
}

static bool rdmsr(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t val;
    (void)out;
    if (hvf_rdmsr(hv, (uint32_t)hvf_gpr(hv, RCX), &val)) {
        hvf_set_gpr(hv, RAX, (uint32_t)val);
        hvf_set_gpr(hv, RDX, val >> 32);
        hvf_skip_exit(hv);
    } else {
        hvf_raise_error(hv, EXC_GP, 0);
    }
    return false;
}

static bool wrmsr(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t val = hvf_gpr(hv, RDX) << 32 | (uint32_t)hvf_gpr(hv, RAX);
    (void)out;
    if (hvf_wrmsr(hv, (uint32_t)hvf_gpr(hv, RCX), val))
        hvf_skip_exit(hv);
    else
        hvf_raise_error(hv, EXC_GP, 0);
    return false;
}

/* The bits of DR6 that a #DB exit's qualification reports (28.2.1); the register itself is not yet changed. */
static void note_debug(struct hvf_vcpu *hv)
{
    const uint64_t reported = 0x600f, fixed = 0xffff0ff0;
    uint64_t dr6 = hvf_reg(hv, HV_X86_DR6) & ~UINT64_C(15);
    hvf_set_reg(hv, HV_X86_DR6, dr6 | fixed | (hv->qualification & reported));
    hvf_set_vmcs(hv, VMCS_GUEST_DR7, hvf_vmcs(hv, VMCS_GUEST_DR7) & ~(UINT64_C(1) << 13)); /* GD */
}

/* An exception that is looked at only so that it cannot go on for ever: it is the guest's. */
static bool exception(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint32_t info = (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_IRQ_INFO);
    unsigned vector = info & 0xff, type = info & IRQ_INFO_TYPE_MASK;

    if (type == IRQ_INFO_NMI) /* the host's, which the framework has served */
        return false;
    if (!(info & INFO_VALID) || vector == EXC_MC)
        return unexpected(hv, out);
    if ((info & NMI_UNBLOCKED_BY_IRET) && !(hv->idt_info & INFO_VALID) && vector != EXC_DF)
        hvf_nmi_unblocked(hv);
    if (vector == EXC_DB && type == IRQ_INFO_HARD_EXC)
        note_debug(hv);
    /* What was being delivered meanwhile is lost, as table 6-5 has it: these exceptions are benign. */
    hv->event = hvf_event_again(info, (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_IRQ_ERROR),
                                (uint32_t)hvf_vmcs(hv, VMCS_RO_VMEXIT_INSTR_LEN));
    hv->event_written = false;
    return false;
}

/* The APIC page is what can be done without: once more with the controls that all Macs have. */
static bool failed_entry(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    if ((hv->reason & 0xffff) == VMX_REASON_VMENTRY_GUEST && hvf_step_missing(hv))
        return false;
    if (!hv->apic_page_on || hv->entered_ever)
        return unexpected(hv, out);
    log_warn("vCPU %u: the processor does not enter the guest with APIC-access exits; going on without", hv->vcpu->id);
    hv->hvf->apic_page = false;
    hvf_apic_page_off(hv);
    return false;
}

/* ---- the table ---- */

static const struct reason {
    const char *name;
    exit_fn *serve;
    bool amid_delivery; /* it can cut short the delivery of an event (28.2.4) */
} reasons[] = {
    [VMX_REASON_EXC_NMI] = {"exception", exception, true},
    [VMX_REASON_IRQ] = {"host interrupt", again, false},
    [VMX_REASON_TRIPLE_FAULT] = {"triple fault", triple_fault, false},
    [VMX_REASON_INIT] = {"INIT", unexpected, false},
    [VMX_REASON_SIPI] = {"start-up IPI", unexpected, false},
    [VMX_REASON_IO_SMI] = {"I/O SMI", unexpected, false},
    [VMX_REASON_OTHER_SMI] = {"SMI", unexpected, false},
    [VMX_REASON_IRQ_WND] = {"interrupt window", again, false},
    [VMX_REASON_VIRTUAL_NMI_WND] = {"NMI window", again, false},
    [VMX_REASON_TASK] = {"task switch", hvf_exit_task, true},
    [VMX_REASON_CPUID] = {"cpuid", hvf_exit_cpuid, false},
    [VMX_REASON_GETSEC] = {"getsec", undefined, false},
    [VMX_REASON_HLT] = {"hlt", hlt, false},
    [VMX_REASON_INVD] = {"invd", nothing, false},
    [VMX_REASON_INVLPG] = {"invlpg", invlpg, false},
    [VMX_REASON_RDPMC] = {"rdpmc", rdpmc, false},
    [VMX_REASON_RDTSC] = {"rdtsc", rdtsc, false},
    [VMX_REASON_RSM] = {"rsm", undefined, false},
    [VMX_REASON_VMCALL] = {"vmcall", undefined, false},
    [VMX_REASON_VMCLEAR] = {"vmclear", undefined, false},
    [VMX_REASON_VMLAUNCH] = {"vmlaunch", undefined, false},
    [VMX_REASON_VMPTRLD] = {"vmptrld", undefined, false},
    [VMX_REASON_VMPTRST] = {"vmptrst", undefined, false},
    [VMX_REASON_VMREAD] = {"vmread", undefined, false},
    [VMX_REASON_VMRESUME] = {"vmresume", undefined, false},
    [VMX_REASON_VMWRITE] = {"vmwrite", undefined, false},
    [VMX_REASON_VMOFF] = {"vmxoff", undefined, false},
    [VMX_REASON_VMON] = {"vmxon", undefined, false},
    [VMX_REASON_MOV_CR] = {"control register", hvf_exit_cr, false},
    [VMX_REASON_MOV_DR] = {"debug register", hvf_exit_dr, false},
    [VMX_REASON_IO] = {"port", hvf_exit_io, false},
    [VMX_REASON_RDMSR] = {"rdmsr", rdmsr, false},
    [VMX_REASON_WRMSR] = {"wrmsr", wrmsr, false},
    [VMX_REASON_VMENTRY_GUEST] = {"entry: guest state", unexpected, false},
    [VMX_REASON_VMENTRY_MSR] = {"entry: MSR loading", unexpected, false},
    [VMX_REASON_MWAIT] = {"mwait", undefined, false},
    [VMX_REASON_MTF] = {"monitor trap", again, false},
    [VMX_REASON_MONITOR] = {"monitor", undefined, false},
    [VMX_REASON_PAUSE] = {"pause", nothing, false},
    [VMX_REASON_VMENTRY_MC] = {"entry: machine check", unexpected, false},
    [VMX_REASON_TPR_THRESHOLD] = {"tpr below threshold", again, false},
    [VMX_REASON_APIC_ACCESS] = {"apic access", hvf_exit_apic_access, true},
    [VMX_REASON_VIRTUALIZED_EOI] = {"virtualized EOI", unexpected, false},
    [VMX_REASON_GDTR_IDTR] = {"gdtr or idtr", unexpected, false},
    [VMX_REASON_LDTR_TR] = {"ldtr or tr", unexpected, false},
    [VMX_REASON_EPT_VIOLATION] = {"ept violation", hvf_exit_ept_violation, true},
    [VMX_REASON_EPT_MISCONFIG] = {"ept misconfiguration", unexpected, true},
    [VMX_REASON_EPT_INVEPT] = {"invept", undefined, false},
    [VMX_REASON_RDTSCP] = {"rdtscp", rdtsc, false},
    [VMX_REASON_VMX_TIMER_EXPIRED] = {"deadline", again, false},
    [VMX_REASON_INVVPID] = {"invvpid", undefined, false},
    [VMX_REASON_WBINVD] = {"wbinvd", nothing, false},
    [VMX_REASON_XSETBV] = {"xsetbv", hvf_exit_xsetbv, false},
    [VMX_REASON_APIC_WRITE] = {"apic write", unexpected, false},
    [VMX_REASON_RDRAND] = {"rdrand", unexpected, false},
    [VMX_REASON_INVPCID] = {"invpcid", invlpg, false},
    [VMX_REASON_VMFUNC] = {"vmfunc", undefined, false},
    [VMX_REASON_ENCLS] = {"encls", undefined, false},
    [VMX_REASON_RDSEED] = {"rdseed", unexpected, false},
    [VMX_REASON_PML_FULL] = {"page modification log", unexpected, true},
    [VMX_REASON_XSAVES] = {"xsaves", hvf_step, false},
    [VMX_REASON_XRSTORS] = {"xrstors", hvf_step, false},
    [65] = {"pconfig", undefined, false},
    [VMX_REASON_SPP_EVENT] = {"sub-page permission", unexpected, true},
    [VMX_REASON_UMWAIT] = {"umwait", undefined, false},
    [VMX_REASON_TPAUSE] = {"tpause", undefined, false},
    [69] = {"loadiwkey", undefined, false},
    [70] = {"enclv", undefined, false},
    [72] = {"enqcmd pasid", unexpected, true},
    [73] = {"enqcmds pasid", unexpected, true},
    [74] = {"bus lock", again, false},
    [75] = {"notify window", again, true},
    [76] = {"seamcall", undefined, false},
    [77] = {"tdcall", undefined, false},
};

static const struct reason *reason_of(unsigned basic)
{
    static const struct reason unknown = {"unknown", unexpected, true};
    return basic < ARRAY_LEN(reasons) && reasons[basic].serve ? &reasons[basic] : &unknown;
}

const char *hvf_exit_name(unsigned basic) { return reason_of(basic)->name; }

bool hvf_exit(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    hv->reason = (uint32_t)hvf_vmcs(hv, VMCS_RO_EXIT_REASON);
    unsigned basic = hv->reason & 0xffff;
    const struct reason *r = reason_of(basic);

    hv->exits[basic < HVF_EXIT_REASONS ? basic : HVF_EXIT_REASONS - 1]++;
    if (hv->reason & HVF_EXIT_FAILED)
        return failed_entry(hv, out);
    hv->entered_ever = true;
    bool left;
    if (hv->hvf->split.on && hvf_split_exit(hv, out, &left))
        return left;
    if (r->serve == again && !r->amid_delivery)
        return false;
    hv->qualification = hvf_vmcs(hv, VMCS_RO_EXIT_QUALIFIC);
    if (r->amid_delivery)
        hv->idt_info = (uint32_t)hvf_vmcs(hv, VMCS_RO_IDT_VECTOR_INFO);
    bool leave = r->serve(hv, out);
    if (r->serve == again)
        hvf_reinject(hv);
    return leave;
}
