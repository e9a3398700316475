/*
 * Local APICs in the framework's kernel (HV_VM_ACCEL_APIC, macOS 12): the
 * project's own (src/chipset/lapic.c) behind Apple's calls.
 *
 * What Apple's headers say is done. What they leave open is done as programs
 * that use it on Macs have found it: HLT stays in the kernel, and so do MSRs
 * of x2APIC mode; reads of the APIC page come with their value, writes as
 * APIC-access exits; a WRMSR with a consequence for the client leaves RIP at
 * itself. HVSIM has switches for the other ways (hvsim.h).
 *
 * Not there, as nobody calls it: IOAPIC and 8259As in the kernel, the cache of
 * loads and stores, timers that are the client's, hv_vcpu_inject_extint().
 */
#include "hvsim.h"

#include <string.h>

#include "chipset/lapic_page.h"
#include "chipset/lapic_priv.h"
#include "os/clock.h"
#include "os/wait.h"
#include "util/bytes.h"

#define DEFAULT_BUS_FREQ UINT64_C(200000000)
#define PAGE_END 0x400u

enum { OFF_EOI = 0xb0, OFF_ICR = 0x300, OFF_ICR_HIGH = 0x310, X2APIC_ICR = 0x830, TSC_DEADLINE = 0x6e0 };

/* Whose write is being carried out: sinks are not told. */
static _Thread_local struct hvsim_vcpu *writer;

/* ---- time: the model counts nanoseconds, of a clock that goes as the bus does ---- */

static uint64_t scale(uint64_t val, uint64_t mul, uint64_t div)
{
    return (uint64_t)((unsigned __int128)val * mul / div);
}
static uint64_t bus_clock(void *arg)
{
    (void)arg;
    return scale(os_clock_ns(), hvsim.bus_freq, NS_PER_S);
}
static uint64_t tsc_now(void *arg)
{
    const struct hvsim_vcpu *v = arg;
    return os_clock_ns() + CTRL(v, VMCS_CTRL_TSC_OFFSET);
}
static uint64_t tsc_to_ns(void *arg, uint64_t tsc)
{
    const struct hvsim_vcpu *v = arg;
    return scale(tsc - CTRL(v, VMCS_CTRL_TSC_OFFSET), hvsim.bus_freq, NS_PER_S);
}

uint64_t hvsim_apic_deadline(const struct hvsim_vcpu *v)
{
    uint64_t at = v->apic ? lapic_timer_deadline(v->apic) : NO_DEADLINE;
    return at == NO_DEADLINE ? at : scale(at, NS_PER_S, hvsim.bus_freq) + 1;
}

/* ---- life ---- */

/* Somebody has raised an event for the CPU. NMIs go in between blocks, when nothing of the client's is in the way. */
static void kick(struct vcpu *core)
{
    struct hvsim_vcpu *v = core->intc_dev;
    if (atomic_fetch_and(&core->events, ~(uint32_t)VCPU_EV_NMI) & VCPU_EV_NMI)
        hvsim_raise(v, WANT_NMI);
    atomic_store(&v->cpu->exit_request, 1);
    os_wake_all(&core->events);
}
static const struct accel_ops kernel_ops = {.name = "hvsim", .kick = kick};

static void level_ended(void *dev, uint8_t vector)
{
    (void)dev;
    if (!writer || !(writer->ctrl & HV_APIC_CTRL_IOAPIC_EOI))
        return; /* it is the kernel's IOAPIC's, which nobody has wired */
    writer->info = HV_VM_EXITINFO_IOAPIC_EOI;
    writer->eoi_vector = vector;
}

void hvsim_apic_open(void)
{
    lapic_bus_init(&hvsim.bus);
    (void)lapic_bus_add_sink(&hvsim.bus, (struct apic_eoi_sink){.eoi = level_ended});
    hvsim.bus_freq = DEFAULT_BUS_FREQ;
    hvsim.vm.accel = &kernel_ops;
}

bool hvsim_apic_create(struct hvsim_vcpu *v)
{
    const struct lapic_config config = {
        .phys_bits = HVSIM_SPACE_BITS,
        .tsc_now = tsc_now,
        .tsc_to_ns = tsc_to_ns,
        .tsc_arg = v,
        .clock_ns = bus_clock,
    };
    const struct intc_ops *intc = v->core.intc;
    if (!(hvsim.flags & HV_VM_ACCEL_APIC))
        return true;
    v->info = HV_VM_EXITINFO_VMX;
    v->boot_state = v->core.id ? HV_BS_INIT : HV_BS_RUNNING;
    if (lapic_init(&v->apic_room, &v->core, &hvsim.bus, &config))
        return false;
    v->core.intc = intc;
    v->core.intc_dev = v;
    v->apic = &v->apic_room;
    atomic_store(&v->core.kickable, true);
    return true;
}

void hvsim_apic_destroy(struct hvsim_vcpu *v)
{
    if (v->apic)
        hvsim.bus.lapic[v->core.id] = NULL;
}

/* ---- registers ---- */

static bool is_x2apic(const struct hvsim_vcpu *v) { return v->apic->s.apic_base & APIC_BASE_EXTD; }

/* INIT and start-up are the client's to carry out. True: it is one of these. */
static bool starts_others(struct hvsim_vcpu *v, uint64_t icr)
{
    struct apic_msg msg = {
        .dest = (uint32_t)(icr >> (is_x2apic(v) ? 32 : 56)),
        .wide = is_x2apic(v),
        .logical = icr >> 11 & 1,
        .mode = icr >> 8 & 7,
    };
    if (msg.mode != APIC_INIT && msg.mode != APIC_SIPI)
        return false;
    v->apic->s.icr = icr;
    if (msg.mode == APIC_INIT && (icr >> 15 & 1) && !(icr >> 14 & 1)) /* level de-assert */
        return true;
    unsigned shorthand = icr >> 18 & 3;
    uint64_t to = shorthand == 0 ? lapic_bus_targets(&hvsim.bus, &msg) : 0;
    for (unsigned i = 0; i < VM_MAX_VCPUS; i++) {
        if (shorthand == 3 && hvsim.bus.lapic[i] && i != v->core.id)
            to |= UINT64_C(1) << i;
        v->targets[i] = to >> i & 1;
        if (v->targets[i] && hvsim.vcpu[i])
            hvsim.vcpu[i]->boot_state = msg.mode == APIC_INIT ? HV_BS_INIT : HV_BS_SIPI;
    }
    if (!to)
        return true;
    v->info = msg.mode == APIC_INIT ? HV_VM_EXITINFO_INIT_AP : HV_VM_EXITINFO_STARTUP_AP;
    v->ap_rip = (icr & 0xff) << 12;
    return true;
}

/* 0; negative: a fault, or nothing that there is. What it leaves to the client is in v->info. */
static int write_register(struct hvsim_vcpu *v, uint32_t off, uint32_t val)
{
    struct lapic *apic = v->apic;
    uint64_t icr = (apic->s.icr & ~(uint64_t)UINT32_MAX) | (val & ~(1u << 12));
    int err = 0;
    v->info = HV_VM_EXITINFO_VMX;
    writer = v;
    if (off == OFF_ICR_HIGH)
        apic->s.icr = (apic->s.icr & UINT32_MAX) | (uint64_t)(is_x2apic(v) ? val : val & 0xff000000) << 32;
    else if (off == OFF_ICR && starts_others(v, icr))
        err = 0;
    else if (off == OFF_ICR && is_x2apic(v))
        err = lapic_msr_write(apic, X2APIC_ICR, icr);
    else if (is_x2apic(v))
        err = lapic_msr_write(apic, MSR_X2APIC_FIRST + (off >> 4), val);
    else
        lapic_mmio_write(apic, off, val);
    writer = NULL;
    return err;
}

static struct hvsim_vcpu *mine(hv_vcpuid_t id, hv_return_t *err)
{
    struct hvsim_vcpu *v = hvsim_mine(id, err);
    if (!v || v->apic)
        return v;
    *err = HV_UNSUPPORTED;
    return NULL;
}

hv_return_t hv_vcpu_apic_read(hv_vcpuid_t vcpu, uint32_t offset, uint32_t *data)
{
    hv_return_t err;
    struct hvsim_vcpu *v = mine(vcpu, &err);
    uint64_t val = 0;
    if (!v)
        return err;
    if (!data || offset >= PAGE_END || (offset & 15))
        return HV_BAD_ARGUMENT;
    if (!is_x2apic(v))
        val = lapic_mmio_read(v->apic, offset);
    else if (offset == OFF_ICR_HIGH)
        val = v->apic->s.icr >> 32;
    else if (lapic_msr_read(v->apic, MSR_X2APIC_FIRST + (offset >> 4), &val))
        return HV_BAD_ARGUMENT;
    *data = (uint32_t)val;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_apic_write(hv_vcpuid_t vcpu, uint32_t offset, uint32_t data, bool *no_side_effect)
{
    hv_return_t err;
    struct hvsim_vcpu *v = mine(vcpu, &err);
    if (!v)
        return err;
    if (!no_side_effect || offset >= PAGE_END || (offset & 15) || write_register(v, offset, data))
        return HV_BAD_ARGUMENT;
    *no_side_effect = v->info == HV_VM_EXITINFO_VMX;
    return HV_SUCCESS;
}

/* ---- MSRs of x2APIC mode, executed in the kernel ---- */

static _Noreturn void leave_with(struct hvsim_vcpu *v, hv_vm_exitinfo_t info, bool write, bool fault)
{
    unsigned len = v->cpu->op ? OP_LEN(v->cpu->op) : 2;
    hvsim_record(v, write ? VMX_REASON_WRMSR : VMX_REASON_RDMSR, 0, len);
    if (!fault && hvsim.options.advanced)
        v->cpu->rip += len;
    v->info = info;
    hvsim_leave(v);
}

bool hvsim_apic_msr(struct hvsim_vcpu *v, bool write)
{
    struct cpu *cpu = v->cpu;
    uint32_t msr = (uint32_t)cpu->reg[RCX];
    uint64_t val = cpu->reg[RDX] << 32 | (uint32_t)cpu->reg[RAX];
    if (!v->apic || msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || !is_x2apic(v) ||
        hvsim.options.x2apic != X2APIC_KERNEL)
        return false;
    int err;
    if (!write) {
        err = lapic_msr_read(v->apic, msr, &val);
        if (!err) {
            cpu->reg[RAX] = (uint32_t)val;
            cpu->reg[RDX] = val >> 32;
        }
    } else if (msr == X2APIC_ICR) {
        v->apic->s.icr = (v->apic->s.icr & UINT32_MAX) | val >> 32 << 32;
        err = write_register(v, OFF_ICR, (uint32_t)val);
    } else {
        err = val >> 32 ? -1 : write_register(v, (msr - MSR_X2APIC_FIRST) << 4, (uint32_t)val);
    }
    if (err)
        leave_with(v, HV_VM_EXITINFO_INJECT_EXCP, write, true);
    if (write && v->info != HV_VM_EXITINFO_VMX)
        leave_with(v, v->info, write, false);
    return true;
}

/* A read of the APIC page that is about to exit: the kernel has it with its value. */
void hvsim_apic_access(struct hvsim_vcpu *v, uint64_t gpa, bool read)
{
    if (!v->apic || !read || is_x2apic(v))
        return;
    v->info = HV_VM_EXITINFO_APIC_ACCESS_READ;
    v->read_value = (gpa & 15) == 0 && (gpa & 0xfff) < PAGE_END ? lapic_mmio_read(v->apic, gpa & 0xfff) : 0;
}

/* ---- what an exit has to tell ---- */

hv_return_t hv_vcpu_exit_info(hv_vcpuid_t vcpu, hv_vm_exitinfo_t *code)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = mine(vcpu, &err);
    if (!v)
        return err;
    if (!code)
        return HV_BAD_ARGUMENT;
    *code = v->info;
    return HV_SUCCESS;
}

static const struct hvsim_vcpu *telling(hv_vcpuid_t vcpu, hv_vm_exitinfo_t what, hv_return_t *err)
{
    const struct hvsim_vcpu *v = mine(vcpu, err);
    if (!v || v->info == what)
        return v;
    *err = HV_ERROR;
    return NULL;
}

static hv_return_t tell_targets(const struct hvsim_vcpu *v, bool is_actv[], unsigned count)
{
    if (!is_actv || !count)
        return HV_BAD_ARGUMENT;
    for (unsigned i = 0; i < count; i++)
        is_actv[i] = i < VM_MAX_VCPUS && v->targets[i];
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_exit_init_ap(hv_vcpuid_t vcpu, bool is_actv[], unsigned int count)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = telling(vcpu, HV_VM_EXITINFO_INIT_AP, &err);
    return v ? tell_targets(v, is_actv, count) : err;
}

hv_return_t hv_vcpu_exit_startup_ap(hv_vcpuid_t vcpu, bool is_actv[], unsigned int count, uint64_t *ap_rip)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = telling(vcpu, HV_VM_EXITINFO_STARTUP_AP, &err);
    if (!v)
        return err;
    if (!ap_rip)
        return HV_BAD_ARGUMENT;
    *ap_rip = v->ap_rip;
    return tell_targets(v, is_actv, count);
}

hv_return_t hv_vcpu_exit_ioapic_eoi(hv_vcpuid_t vcpu, uint8_t *vec)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = telling(vcpu, HV_VM_EXITINFO_IOAPIC_EOI, &err);
    if (!v)
        return err;
    if (!vec)
        return HV_BAD_ARGUMENT;
    *vec = v->eoi_vector;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_exit_apic_access_read(hv_vcpuid_t vcpu, uint32_t *value)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = telling(vcpu, HV_VM_EXITINFO_APIC_ACCESS_READ, &err);
    if (!v)
        return err;
    if (!value)
        return HV_BAD_ARGUMENT;
    *value = v->read_value;
    return HV_SUCCESS;
}

/* Always #GP(0). */
hv_return_t hv_vcpu_exit_inject_excp(hv_vcpuid_t vcpu, uint8_t *vec, bool *valid, uint32_t *code, bool *restart)
{
    hv_return_t err;
    if (!telling(vcpu, HV_VM_EXITINFO_INJECT_EXCP, &err))
        return err;
    if (!vec || !valid || !code || !restart)
        return HV_BAD_ARGUMENT;
    *vec = 13;
    *valid = true;
    *code = 0;
    *restart = true;
    return HV_SUCCESS;
}

/* ---- messages ---- */

static hv_return_t send(struct apic_msg msg)
{
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created)
        r = HV_NO_DEVICE;
    else if (!(hvsim.flags & HV_VM_ACCEL_APIC))
        r = HV_UNSUPPORTED;
    else if (msg.mode != APIC_INIT && msg.mode != APIC_SIPI && msg.mode != APIC_EXTINT) /* nobody to carry them out */
        (void)lapic_bus_deliver(&hvsim.bus, msg);
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

hv_return_t hv_vm_lapic_msi(uint64_t addr, uint64_t data)
{
    struct apic_msg msg = {
        .dest = (uint32_t)(addr >> 12 & 0xff) | (uint32_t)(addr >> 40) << 8,
        .logical = addr >> 2 & 1,
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .level = data >> 15 & 1,
    };
    msg.deassert = msg.level && !(data >> 14 & 1);
    if ((addr >> 20 & 0xfffff) != 0xfee) /* the whole address, not what is beyond the page's */
        return HV_BAD_ARGUMENT;
    return send(msg);
}

hv_return_t hv_vm_send_ioapic_intr(uint64_t data)
{
    return send((struct apic_msg){
        .dest = data >> 56,
        .logical = data >> 11 & 1,
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .level = data >> 15 & 1,
    });
}

hv_return_t hv_vm_set_apic_bus_freq(uint64_t freq)
{
    hv_return_t r = HV_SUCCESS;
    pthread_mutex_lock(&hvsim.lock);
    if (!hvsim.created)
        r = HV_NO_DEVICE;
    else if (!(hvsim.flags & HV_VM_ACCEL_APIC))
        r = HV_UNSUPPORTED;
    else if (hvsim.nvcpus)
        r = HV_BUSY;
    else if (freq < 16000000 || freq > 2000000000)
        r = HV_BAD_ARGUMENT;
    else
        hvsim.bus_freq = freq;
    pthread_mutex_unlock(&hvsim.lock);
    return r;
}

/* ---- behaviour and state ---- */

hv_return_t hv_vcpu_apic_ctrl(hv_vcpuid_t vcpu, hv_apic_ctrl_t ctrls)
{
    hv_return_t err;
    struct hvsim_vcpu *v = mine(vcpu, &err);
    if (!v)
        return err;
    if (ctrls & ~(hv_apic_ctrl_t)HV_APIC_CTRL_IOAPIC_EOI) /* the others are not simulated */
        return HV_UNSUPPORTED;
    v->ctrl = ctrls;
    return HV_SUCCESS;
}

/* Where registers stand in struct hv_apic_state, which has the LVT as the page has it, and CMCI behind. */
static const struct {
    uint16_t page, state;
} places[] = {
#define PLACE(off, field)                                                                                              \
    {                                                                                                                  \
        off, offsetof(struct hv_apic_state, field)                                                                     \
    }
    PLACE(0x30, ver),        PLACE(0x80, tpr),        PLACE(0xd0, ldr),     PLACE(0xe0, dfr),
    PLACE(0xf0, svr),        PLACE(0x280, esr),       PLACE(0x300, icr),    PLACE(0x310, icr[1]),
    PLACE(0x320, lvt),       PLACE(0x330, lvt[1]),    PLACE(0x340, lvt[2]), PLACE(0x350, lvt[3]),
    PLACE(0x360, lvt[4]),    PLACE(0x370, lvt[5]),    PLACE(0x2f0, lvt[6]), PLACE(0x380, icr_timer),
    PLACE(0x3e0, dcr_timer), PLACE(0x390, ccr_timer),
};

hv_return_t hv_vcpu_apic_get_state(hv_vcpuid_t vcpu, hv_apic_state_ext_t *ext)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = mine(vcpu, &err);
    uint8_t page[ACCEL_LAPIC_PAGE];
    if (!v)
        return err;
    if (!ext || ext->version != HV_APIC_STATE_EXT_VER)
        return HV_BAD_ARGUMENT;
    struct hv_apic_state *s = &ext->state;
    memset(s, 0, sizeof(*s));
    lapic_to_page(v->apic, page);
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        *(uint32_t *)((char *)s + places[i].state) = get_le32(page + places[i].page);
    for (unsigned w = 0; w < 8; w++) {
        s->isr[w] = get_le32(page + 0x100 + 16 * w);
        s->tmr[w] = get_le32(page + 0x180 + 16 * w);
        s->irr[w] = get_le32(page + 0x200 + 16 * w);
    }
    s->apic_gpa = v->apic->s.apic_base;
    if (hvsim.options.x2apic == X2APIC_NONE)
        s->apic_gpa &= ~UINT64_C(0xfff);
    s->apic_controls = v->ctrl;
    s->apic_id = v->apic->apic_id;
    s->boot_state = v->boot_state;
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_apic_put_state(hv_vcpuid_t vcpu, const hv_apic_state_ext_t *ext)
{
    hv_return_t err;
    struct hvsim_vcpu *v = mine(vcpu, &err);
    uint8_t page[ACCEL_LAPIC_PAGE] = {0};
    if (!v)
        return err;
    const struct hv_apic_state *s = &ext->state;
    uint64_t base = s->apic_gpa;
    if (hvsim.options.x2apic == X2APIC_NONE)
        base = (base & ~UINT64_C(0xfff)) | (v->apic->s.apic_base & 0xfff);
    if (ext->version != HV_APIC_STATE_EXT_VER || base >> HVSIM_SPACE_BITS || (base & 0x2ff) ||
        (base & (APIC_BASE_EN | APIC_BASE_EXTD)) == APIC_BASE_EXTD || s->apic_controls != v->ctrl || s->apic_id > 254)
        return HV_BAD_ARGUMENT;
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        put_le32(page + places[i].page, *(const uint32_t *)((const char *)s + places[i].state));
    for (unsigned w = 0; w < 8; w++) {
        put_le32(page + 0x100 + 16 * w, s->isr[w]);
        put_le32(page + 0x180 + 16 * w, s->tmr[w]);
        put_le32(page + 0x200 + 16 * w, s->irr[w]);
    }
    v->apic->apic_id = s->apic_id;
    v->boot_state = s->boot_state;
    lapic_from_page(v->apic, base, page);
    return HV_SUCCESS;
}

hv_return_t hv_vcpu_get_idle_time(hv_vcpuid_t vcpu, uint64_t *time)
{
    hv_return_t err;
    const struct hvsim_vcpu *v = hvsim_mine(vcpu, &err);
    if (!v)
        return err;
    if (!time)
        return HV_BAD_ARGUMENT;
    *time = v->idle_ns;
    return HV_SUCCESS;
}
