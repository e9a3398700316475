/*
 * Local APICs of the framework's own (HV_VM_ACCEL_APIC, macOS 12), beside our
 * IOAPIC and 8259As: irqchip=split. Written from what Apple's headers say of
 * the calls; docs/macos.md lists what they leave open, and how each is met.
 *
 * Messages go to the framework, from any thread. It delivers the vectors of
 * its IRRs by itself, keeps HLT (idle.c) and its timers. The guest's accesses
 * that exit, to the APIC page or to MSRs, are reads and writes of a register
 * for hv_vcpu_apic_read() and hv_vcpu_apic_write(): to the rest of the
 * accelerator it is a local APIC like ours (core/intc.h), whose only interrupt
 * to inject is the 8259A's. What a write has besides of consequences, here or
 * after an exit, hv_vcpu_exit_info() tells: INIT, start-up, the end of an
 * IOAPIC's interrupt, a fault.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "accel/hvf/priv.h"
#include "os/clock.h"
#include "util/bytes.h"

enum {
    MSR_X2APIC_FIRST = 0x800,
    MSR_X2APIC_LAST = 0x8ff,
    MSR_X2APIC_ICR = 0x830,
};

/* Offsets in the APIC page (table 11-1). */
enum {
    OFF_ID = 0x20,
    OFF_TPR = 0x80,
    OFF_LDR = 0xd0,
    OFF_DFR = 0xe0,
    OFF_SVR = 0xf0,
    OFF_ISR = 0x100,
    OFF_TMR = 0x180,
    OFF_IRR = 0x200,
    OFF_LVT_CMCI = 0x2f0,
    OFF_ICR = 0x300,
    OFF_ICR_HIGH = 0x310,
    OFF_LVT_TIMER = 0x320,
    OFF_LVT_LINT0 = 0x350,
    OFF_LVT_ERROR = 0x370,
    OFF_INITIAL_COUNT = 0x380,
    OFF_CURRENT_COUNT = 0x390,
    OFF_DIVIDE_CONFIG = 0x3e0,
};

#define SVR_ENABLE (1u << 8)
#define LVT_MASKED (1u << 16)
#define MODE_EXTINT 7
#define EXTINT 256 /* of intc_ops.pending() */

/* A local APIC's timer counts at this rate: CPUID leaf 0x15 gives it as the crystal's, as for our own. */
#define APIC_TIMER_HZ NS_PER_S

/* After a WRMSR that the framework has carried out: who moves RIP beyond it? */
enum hvf_who_skips { NOT_SEEN, WE_SKIP, FRAMEWORK_SKIPS };

static const struct hvf_apic_api *api(const struct hvf_vcpu *hv) { return &hv->hvf->api.apic; }

/* ---- registers ---- */

static uint32_t get_reg(struct hvf_vcpu *hv, uint32_t off)
{
    uint32_t val = 0;
    return api(hv)->read(hv->id, off, &val) == HV_SUCCESS ? val : 0;
}

/* The vCPUs that INIT and start-up are for, by the framework's numbers. */
static void raise_all(struct hvf_vm *hvf, const bool *targets, unsigned n, uint32_t event, uint32_t page)
{
    for (unsigned i = 0; i < hvf->vm->nvcpus; i++) {
        struct vcpu *vcpu = hvf->vm->vcpu[i];
        const struct hvf_vcpu *hv = vcpu->accel;
        if (!hv || hv->id >= n || !targets[hv->id])
            continue;
        if (event == VCPU_EV_SIPI)
            atomic_store(&vcpu->sipi_vector, page);
        vcpu_raise(vcpu, event);
    }
}

static unsigned count_ids(const struct hvf_vm *hvf)
{
    unsigned n = 0;
    for (unsigned i = 0; i < hvf->vm->nvcpus; i++) {
        const struct hvf_vcpu *hv = hvf->vm->vcpu[i]->accel;
        if (hv && hv->id < VM_MAX_VCPUS && hv->id >= n)
            n = hv->id + 1;
    }
    return n;
}

/* Does what is left to do after a write, or after an exit. False: `code` is not one of a write. */
static bool consequence(struct hvf_vcpu *hv, hv_vm_exitinfo_t code)
{
    struct hvf_vm *hvf = hv->hvf;
    const struct accel_upcalls *up = &hvf->vm->upcalls;
    bool targets[VM_MAX_VCPUS] = {0};
    unsigned n = count_ids(hvf);
    uint64_t rip = 0;
    uint8_t vector = 0;
    hv_return_t r = HV_SUCCESS;

    switch (code) {
    case HV_VM_EXITINFO_INIT_AP:
        r = api(hv)->exit_init_ap(hv->id, targets, n);
        if (r == HV_SUCCESS)
            raise_all(hvf, targets, n, VCPU_EV_INIT, 0);
        break;
    case HV_VM_EXITINFO_STARTUP_AP:
        r = api(hv)->exit_startup_ap(hv->id, targets, n, &rip);
        if (r == HV_SUCCESS)
            raise_all(hvf, targets, n, VCPU_EV_SIPI, (uint32_t)(rip >> 12) & 0xff);
        break;
    case HV_VM_EXITINFO_IOAPIC_EOI:
        r = api(hv)->exit_ioapic_eoi(hv->id, &vector);
        if (r == HV_SUCCESS && up->eoi)
            up->eoi(up->eoi_arg, vector);
        break;
    case HV_VM_EXITINFO_SMI: break; /* there is no SMM */
    default: return false;
    }
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_exit_*", code);
    return true;
}

/* 0; -EPERM: the framework takes no such write. */
static int put_reg(struct hvf_vcpu *hv, uint32_t off, uint32_t val)
{
    bool no_side_effect = true;
    hv_vm_exitinfo_t code = HV_VM_EXITINFO_VMX;
    if (api(hv)->write(hv->id, off, val, &no_side_effect) != HV_SUCCESS)
        return -EPERM;
    if (no_side_effect || api(hv)->exit_info(hv->id, &code) != HV_SUCCESS)
        return 0;
    (void)consequence(hv, code);
    return code == HV_VM_EXITINFO_INJECT_EXCP ? -EPERM : 0;
}

/* ---- the whole state ---- */

static hv_return_t get_state(struct hvf_vcpu *hv, hv_apic_state_ext_t *s)
{
    memset(s, 0, sizeof(*s));
    s->version = HV_APIC_STATE_EXT_VER;
    return api(hv)->get_state(hv->id, s);
}

/*
 * Apple wants it quiescent. So no message of ours comes meanwhile; an IPI of
 * another vCPU's to one that is being changed is lost as it would be a moment
 * earlier, with what is reset.
 */
static hv_return_t put_state(struct hvf_vcpu *hv, const hv_apic_state_ext_t *s)
{
    hv->apic.used = true;
    return api(hv)->put_state(hv->id, s);
}

static uint64_t address_in_state(const struct hvf_vcpu *hv, uint64_t base)
{
    return hv->hvf->split.has_base ? base : base & ~(MEM_PAGE - 1);
}

/* IA32_APIC_BASE is another now, and `reset` all else. */
static hv_return_t replace(struct hvf_vcpu *hv, uint64_t base, bool reset)
{
    hv_apic_state_ext_t now, next;
    pthread_rwlock_wrlock(&hv->hvf->split.lock);
    hv_return_t r = get_state(hv, &now);
    if (r == HV_SUCCESS) {
        next = reset ? hv->apic.fresh : now;
        next.state.apic_gpa = address_in_state(hv, base);
        next.state.boot_state = now.state.boot_state;
        r = put_state(hv, &next);
    }
    pthread_rwlock_unlock(&hv->hvf->split.lock);
    return r;
}

static bool is_reset(const hv_apic_state_ext_t *ext)
{
    const struct hv_apic_state *s = &ext->state;
    uint32_t any = s->tpr | (s->svr & SVR_ENABLE) | s->icr_timer;
    for (unsigned w = 0; w < 8; w++)
        any |= s->isr[w] | s->irr[w];
    return !any;
}

/* ---- IA32_APIC_BASE ---- */

static bool base_is_legal(const struct hvf_vcpu *hv, uint64_t val)
{
    const uint64_t mode = APIC_BASE_EN | APIC_BASE_EXTD;
    uint64_t old = hv->apic.base;
    uint64_t address = ((UINT64_C(1) << cpuid_phys_bits(hv->hvf->vm->cpuid)) - 1) & ~(MEM_PAGE - 1);
    if (val & ~(address | mode | APIC_BASE_BSP))
        return false;
    switch (val & mode) {
    case 0: return true;
    case APIC_BASE_EN: return !(old & APIC_BASE_EXTD);
    case APIC_BASE_EN | APIC_BASE_EXTD: return (old & APIC_BASE_EN) && hv->hvf->split.x2apic;
    default: return false;
    }
}

static int write_base(struct hvf_vcpu *hv, uint64_t val)
{
    uint64_t old = hv->apic.base;
    if (!base_is_legal(hv, val))
        return -EPERM;
    val = (val & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
    if (val == old)
        return 0;
    bool disabled = !(val & APIC_BASE_EN);
    if (hv->hvf->split.has_base || disabled) {
        hv_return_t r = replace(hv, val, disabled);
        if (r != HV_SUCCESS)
            hvf_failed(hv, r, "hv_vcpu_apic_put_state", IA32_APIC_BASE);
    }
    hv->apic.base = val;
    return 0;
}

/* ---- what the accelerator asks of a local APIC ---- */

static bool lint0_is_extint(struct hvf_vcpu *hv)
{
    if (!(hv->apic.base & APIC_BASE_EN)) /* without APIC the pin is INTR */
        return true;
    uint32_t lvt = get_reg(hv, OFF_LVT_LINT0);
    return !(lvt & LVT_MASKED) && (lvt >> 8 & 7) == MODE_EXTINT;
}

/* Vectors of the local APIC's the framework delivers; the 8259A's output is LINT0 of the first vCPU. */
static int apic_pending(void *dev)
{
    struct hvf_vcpu *hv = dev;
    return hv->vcpu->id == 0 && atomic_load(&hv->hvf->split.intr) && lint0_is_extint(hv) ? EXTINT : -1;
}

static int apic_ack(void *dev)
{
    const struct hvf_vcpu *hv = dev;
    const struct accel_upcalls *up = &hv->hvf->vm->upcalls;
    return up->pic_ack ? up->pic_ack(up->pic) : -1;
}

static void apic_set_tpr(void *dev, uint8_t tpr) { (void)put_reg(dev, OFF_TPR, tpr); }
static uint8_t apic_get_tpr(void *dev) { return (uint8_t)get_reg(dev, OFF_TPR); }

/* The timer is the framework's. */
static uint64_t apic_deadline(void *dev)
{
    (void)dev;
    return NO_DEADLINE;
}
static void apic_expire(void *dev) { (void)dev; }

static bool apic_page(void *dev, uint64_t *base)
{
    const struct hvf_vcpu *hv = dev;
    *base = hv->apic.base & ~(MEM_PAGE - 1);
    return (hv->apic.base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EN;
}

static uint32_t apic_mmio_read(void *dev, uint32_t off) { return get_reg(dev, off); }
static void apic_mmio_write(void *dev, uint32_t off, uint32_t val) { (void)put_reg(dev, off, val); }

/* ICR is one MSR: the number of its upper half in the page is none's. */
static bool x2apic_msr(const struct hvf_vcpu *hv, uint32_t msr)
{
    return (hv->apic.base & APIC_BASE_EXTD) && msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST &&
           msr != MSR_X2APIC_ICR + 1;
}

static int apic_msr_read(void *dev, uint32_t msr, uint64_t *val)
{
    struct hvf_vcpu *hv = dev;
    uint32_t low = 0, high = 0, off = (msr - MSR_X2APIC_FIRST) << 4;
    if (msr == IA32_APIC_BASE) {
        *val = hv->apic.base;
        return 0;
    }
    if (!x2apic_msr(hv, msr) || api(hv)->read(hv->id, off, &low) != HV_SUCCESS)
        return -EPERM;
    if (msr == MSR_X2APIC_ICR)
        (void)api(hv)->read(hv->id, OFF_ICR_HIGH, &high);
    *val = (uint64_t)high << 32 | low;
    return 0;
}

static int apic_msr_write(void *dev, uint32_t msr, uint64_t val)
{
    struct hvf_vcpu *hv = dev;
    if (msr == IA32_APIC_BASE)
        return write_base(hv, val);
    if (!x2apic_msr(hv, msr) || (val >> 32 && msr != MSR_X2APIC_ICR))
        return -EPERM;
    if (msr == MSR_X2APIC_ICR && put_reg(hv, OFF_ICR_HIGH, (uint32_t)(val >> 32)))
        return -EPERM;
    return put_reg(hv, (msr - MSR_X2APIC_FIRST) << 4, (uint32_t)val);
}

/* Whether the framework resets what gets INIT, it does not say; to do it again would undo what came since. */
static void apic_init(void *dev)
{
    struct hvf_vcpu *hv = dev;
    hv_apic_state_ext_t now;
    hv_return_t r = get_state(hv, &now);
    if (r == HV_SUCCESS && !is_reset(&now))
        r = replace(hv, hv->apic.base, true);
    if (r != HV_SUCCESS)
        hvf_failed(hv, r, "hv_vcpu_apic_put_state", 0);
}

static const struct intc_ops apic_ops = {
    .pending = apic_pending,
    .ack = apic_ack,
    .set_tpr = apic_set_tpr,
    .get_tpr = apic_get_tpr,
    .deadline = apic_deadline,
    .expire = apic_expire,
    .page = apic_page,
    .mmio_read = apic_mmio_read,
    .mmio_write = apic_mmio_write,
    .msr_read = apic_msr_read,
    .msr_write = apic_msr_write,
    .init = apic_init,
};

/* ---- exits ---- */

static bool is_wrmsr(const uint8_t *code) { return code[0] == 0x0f && code[1] == 0x30; }

/*
 * The framework has carried out a WRMSR and has left something to us. Apple
 * does not say where RIP is then; others have found it at the instruction. The
 * bytes there and before tell, but for one WRMSR right behind another.
 */
static void end_wrmsr(struct hvf_vcpu *hv)
{
    uint8_t at[2] = {0}, before[2] = {0};
    if ((hv->reason & 0xffff) != VMX_REASON_WRMSR)
        return;
    bool here = hvf_code_bytes(hv, 0, at, 2) == 2 && is_wrmsr(at);
    bool behind = hvf_code_bytes(hv, 2, before, 2) == 2 && is_wrmsr(before);
    if (here != behind)
        atomic_store(&hv->hvf->split.who_skips, here ? WE_SKIP : FRAMEWORK_SKIPS);
    if (atomic_load(&hv->hvf->split.who_skips) != FRAMEWORK_SKIPS)
        hvf_skip_exit(hv);
}

/*
 * A fault of the guest's: it goes there, but for an MSR of x2APIC mode that the
 * framework does not serve and we can.
 */
static bool fault(struct hvf_vcpu *hv)
{
    uint8_t vector = EXC_GP;
    bool valid = false, restart = true;
    uint32_t code = 0, msr = (uint32_t)hvf_gpr(hv, RCX), basic = hv->reason & 0xffff;
    hv_return_t r = api(hv)->exit_inject_excp(hv->id, &vector, &valid, &code, &restart);
    if (r != HV_SUCCESS || vector > 31) {
        hvf_failed(hv, r != HV_SUCCESS ? r : (hv_return_t)HV_ERROR, "hv_vcpu_exit_inject_excp", vector);
        return true;
    }
    if (vector == EXC_GP && (basic == VMX_REASON_RDMSR || basic == VMX_REASON_WRMSR) && msr == IA32_APIC_BASE)
        return false; /* as any exit for it: which values are legal is ours to say */
    if (valid)
        hvf_raise_error(hv, vector, code);
    else
        hvf_raise(hv, vector);
    return true;
}

bool hvf_split_exit(struct hvf_vcpu *hv, enum vcpu_exit *out, bool *leave)
{
    hv_vm_exitinfo_t code = HV_VM_EXITINFO_VMX;
    hv_return_t r = api(hv)->exit_info(hv->id, &code);
    *leave = false;
    /* A read of the APIC page comes with its value; the VMCS tells it as any access, and it is served as such. */
    if (r != HV_SUCCESS || code == HV_VM_EXITINFO_VMX || code == HV_VM_EXITINFO_APIC_ACCESS_READ || code == 0)
        return false;
    if (code == HV_VM_EXITINFO_INJECT_EXCP)
        return fault(hv);
    if (consequence(hv, code)) {
        end_wrmsr(hv);
        return true;
    }
    char why[64];
    snprintf(why, sizeof(why), "hv_vcpu_exit_info() tells %u, which Apple does not document", code);
    hvf_dump(hv, why);
    *out = VCPU_EXIT_ERROR;
    *leave = true;
    return true;
}

/* ---- accel_ops ---- */

int hvf_msi(struct vm *vm, uint64_t addr, uint32_t data, int pin)
{
    struct hvf_vm *hvf = vm->accel_vm;
    hv_return_t r;
    pthread_rwlock_rdlock(&hvf->split.lock);
    if (pin >= 0 && addr >> 40 == 0) /* as the IOAPIC's redirection entry has it */
        r = hvf->api.apic.send_ioapic_intr((addr >> 12 & 0xff) << 56 | (addr >> 2 & 1) << 11 | (data & 0x87ff));
    else
        r = hvf->api.apic.msi(addr, data);
    pthread_rwlock_unlock(&hvf->split.lock);
    return r == HV_SUCCESS;
}

void hvf_set_intr(struct vm *vm, bool level)
{
    struct hvf_vm *hvf = vm->accel_vm;
    if (!atomic_exchange(&hvf->split.intr, level) && level)
        vcpu_raise(vm->vcpu[0], VCPU_EV_INTR);
}

static bool add_requests(hv_apic_state_ext_t *ext, const uint8_t *page)
{
    uint32_t any = 0;
    for (unsigned w = 0; w < 8; w++) {
        ext->state.isr[w] = get_le32(page + OFF_ISR + 16 * w);
        ext->state.tmr[w] = get_le32(page + OFF_TMR + 16 * w);
        ext->state.irr[w] = get_le32(page + OFF_IRR + 16 * w);
        any |= ext->state.isr[w] | ext->state.irr[w];
    }
    return any;
}

/* SVR first: as long as it says "off", entries of the LVT stay masked. The counter last: a write starts it. */
static int write_registers(struct hvf_vcpu *hv, uint64_t base, const uint8_t *page)
{
    uint32_t initial = get_le32(page + OFF_INITIAL_COUNT), left = get_le32(page + OFF_CURRENT_COUNT);
    int err = put_reg(hv, OFF_SVR, get_le32(page + OFF_SVR));
    if (!err)
        err = put_reg(hv, OFF_TPR, get_le32(page + OFF_TPR));
    if (!err && !(base & APIC_BASE_EXTD)) {
        err = put_reg(hv, OFF_LDR, get_le32(page + OFF_LDR));
        if (!err)
            err = put_reg(hv, OFF_DFR, get_le32(page + OFF_DFR));
    }
    for (uint32_t off = OFF_LVT_TIMER; off <= OFF_LVT_ERROR && !err; off += 16)
        err = put_reg(hv, off, get_le32(page + off));
    (void)put_reg(hv, OFF_LVT_CMCI, get_le32(page + OFF_LVT_CMCI)); /* not every APIC has it */
    if (!err)
        err = put_reg(hv, OFF_DIVIDE_CONFIG, get_le32(page + OFF_DIVIDE_CONFIG));
    if (!err && initial && left)
        err = put_reg(hv, OFF_INITIAL_COUNT, get_le32(page + OFF_LVT_TIMER) >> 17 & 1 ? initial : left);
    return err;
}

int hvf_set_lapic(struct vcpu *vcpu, uint64_t apic_base, const uint8_t page[ACCEL_LAPIC_PAGE])
{
    struct hvf_vcpu *hv = vcpu->accel;
    hv_apic_state_ext_t s = hv->apic.fresh;
    bool wide = apic_base & APIC_BASE_EXTD;

    if (wide && !hv->hvf->split.x2apic) {
        log_error("vCPU %u: it is to start in x2APIC mode (-x), which the local APICs of Hypervisor.framework do not "
                  "take here: leave -x out, or use -o irqchip=user",
                  vcpu->id);
        return -ENOTSUP;
    }
    s.state.apic_gpa = address_in_state(hv, apic_base);
    if (add_requests(&s, page) || hv->apic.used || s.state.apic_gpa != hv->apic.fresh.state.apic_gpa) {
        hv_return_t r = put_state(hv, &s);
        if (r != HV_SUCCESS) {
            log_error("vCPU %u: Hypervisor.framework does not take the state of its local APIC: "
                      "hv_vcpu_apic_put_state: %s",
                      vcpu->id, hvf_strerror(r));
            return -EIO;
        }
    }
    hv->apic.used = true;
    hv->apic.base = apic_base;
    int err = write_registers(hv, apic_base, page);
    if (err)
        log_error("vCPU %u: Hypervisor.framework does not take the registers of its local APIC", vcpu->id);
    return err;
}

int hvf_get_lapic(struct vcpu *vcpu, uint64_t *apic_base, uint8_t page[ACCEL_LAPIC_PAGE])
{
    struct hvf_vcpu *hv = vcpu->accel;
    memset(page, 0, ACCEL_LAPIC_PAGE);
    *apic_base = hv->apic.base;
    for (uint32_t off = OFF_ID; off <= OFF_DIVIDE_CONFIG; off += 16) {
        uint32_t val = 0;
        if (api(hv)->read(hv->id, off, &val) == HV_SUCCESS) /* registers that are none stay 0 */
            put_le32(page + off, val);
    }
    return 0;
}

/* ---- set-up ---- */

/* Can x2APIC mode be had? By a vCPU made for the purpose, in a VM of its own, so that the guest's have its numbers. */
static hv_return_t try_vcpu(struct hvf_vm *hvf)
{
    struct hvf_vcpu hv = {.hvf = hvf};
    hv_apic_state_ext_t s;
    hv_return_t r = hv_vcpu_create(&hv.id, HV_VCPU_DEFAULT);
    if (r != HV_SUCCESS)
        return r;
    r = get_state(&hv, &s);
    hvf->split.has_base = r == HV_SUCCESS && (s.state.apic_gpa & APIC_BASE_EN);
    if (hvf->split.has_base) {
        s.state.apic_gpa |= APIC_BASE_EXTD;
        hvf->split.x2apic = put_state(&hv, &s) == HV_SUCCESS && get_state(&hv, &s) == HV_SUCCESS &&
                            (s.state.apic_gpa & APIC_BASE_EXTD);
    }
    hv_return_t gone = hv_vcpu_destroy(hv.id);
    return r != HV_SUCCESS ? r : gone;
}

int hvf_split_probe(struct hvf_vm *hvf, char *why, size_t n)
{
    if (!hvf->api.has_apic) {
        snprintf(why, n,
                 "-o irqchip=split: expected macOS 12 or later, whose Hypervisor.framework has local APICs; this one "
                 "lacks their calls: use -o irqchip=user");
        return -ENOTSUP;
    }
    hv_return_t r = hv_vm_create(HV_VM_ACCEL_APIC);
    if (r == HV_SUCCESS) {
        r = try_vcpu(hvf);
        hv_return_t gone = hv_vm_destroy();
        r = r != HV_SUCCESS ? r : gone;
    } else {
        hv_return_t plain = hv_vm_create(HV_VM_DEFAULT); /* is it the APIC, or can there be no VM at all? */
        if (plain != HV_SUCCESS) {
            hvf_explain_vm(plain, why, n);
            return (unsigned)plain == (unsigned)HV_BUSY ? -EBUSY : -ENODEV;
        }
        (void)hv_vm_destroy();
    }
    if (r == HV_SUCCESS)
        return 0;
    snprintf(why, n,
             "-o irqchip=split: expected Hypervisor.framework to make a VM with local APICs of its own, found %s: use "
             "-o irqchip=user",
             hvf_strerror(r));
    return -ENOTSUP;
}

int hvf_split_open(struct hvf_vm *hvf, char *why, size_t n)
{
    hv_return_t r = hvf->api.apic.set_bus_freq(APIC_TIMER_HZ);
    if (r == HV_SUCCESS)
        return 0;
    snprintf(why, n,
             "-o irqchip=split: expected Hypervisor.framework to let the timers of its local APICs count at 1 GHz, "
             "found %s: use -o irqchip=user",
             hvf_strerror(r));
    return -ENOTSUP;
}

/* The guest finds its processors by the APIC ids that CPUID and the tables give. */
static int set_id(struct hvf_vcpu *hv)
{
    uint32_t id = hv->vcpu->apic_id, reg = get_reg(hv, OFF_ID);
    hv_apic_state_ext_t s;
    if (reg >> 24 == id)
        return 0;
    if (id < 0xff && get_state(hv, &s) == HV_SUCCESS) {
        s.state.apic_id = s.state.apic_id == reg && reg ? id << 24 : id;
        if (put_state(hv, &s) == HV_SUCCESS && get_reg(hv, OFF_ID) >> 24 == id)
            return 0;
    }
    log_error(
        "vCPU %u: its local APIC has the id %u of Hypervisor.framework's, and the id %u is wanted: ask for sockets, "
        "cores and threads that are powers of two (-c), or use -o irqchip=user",
        hv->vcpu->id, reg >> 24, id);
    return -ENOTSUP;
}

int hvf_split_vcpu_init(struct hvf_vcpu *hv)
{
    hv_return_t r = api(hv)->ctrl(hv->id, HV_APIC_CTRL_IOAPIC_EOI);
    int err = r == HV_SUCCESS ? set_id(hv) : 0;
    if (err)
        return err;
    if (r == HV_SUCCESS)
        r = get_state(hv, &hv->apic.fresh);
    if (r != HV_SUCCESS) {
        log_error("vCPU %u: Hypervisor.framework does not let its local APIC be set up: %s", hv->vcpu->id,
                  hvf_strerror(r));
        return -EIO;
    }
    hv->apic.base = UINT64_C(0xfee00000) | APIC_BASE_EN | (hv->vcpu->id == 0 ? APIC_BASE_BSP : 0);
    hv->apic.used = false;
    hv->apic.bound_ns = ENTRY_NS;
    hv->apic.idle_ns = UINT64_MAX;
    hv->vcpu->intc = &apic_ops;
    hv->vcpu->intc_dev = hv;
    return 0;
}
