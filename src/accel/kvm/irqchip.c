/*
 * The interrupt controllers that KVM has for a VM, in the three ways of
 * sharing the work.
 *
 * split: the local APICs are KVM's. Messages of our IOAPIC and of devices go
 * in through KVM_SIGNAL_MSI. KVM tells of the end of a level-triggered vector
 * (KVM_EXIT_IOAPIC_EOI) if its routing table has a message with that vector
 * among the pins reserved for an IOAPIC; so a pin's message is entered there
 * when it is first sent. That is later than redirection entries are written,
 * and much rarer: changing the table makes KVM wait for all vCPUs. The
 * 8259A's vector is handed over by KVM_INTERRUPT when the guest can take one.
 *
 * kernel: all are KVM's. Its 8254 raises GSI 0; our sources have GSIs of their
 * own for each pin of the IOAPIC and of the 8259A pair, so what arrives at
 * which pin stays the machine's to say.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

/* GSIs. With split the first 24 are the IOAPIC's reserved ones. */
#define GSI_PIT 0
#define GSI_IOAPIC(pin) (24 + (pin))
#define GSI_PIC(pin) (48 + (pin))
#define GSI_MSI(route) (64 + (route))

#define MAX_ROUTES (2 + KVM_IOAPIC_PINS + KVM_PIC_PINS + ACCEL_MSI_ROUTES)

#define MSI_LEVEL (1u << 15)

/* ---- the routing table ---- */

static struct kvm_irq_routing_entry chip_route(unsigned gsi, unsigned chip, unsigned pin)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

static void add_chip_routes(struct kvm_irq_routing *t)
{
    for (unsigned pin = 0; pin < KVM_IOAPIC_PINS; pin++)
        t->entries[t->nr++] = chip_route(GSI_IOAPIC(pin), KVM_IRQCHIP_IOAPIC, pin);
    for (unsigned pin = 0; pin < KVM_PIC_PINS; pin++) {
        unsigned chip = pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
        if (pin != 2) /* the cascade */
            t->entries[t->nr++] = chip_route(GSI_PIC(pin), chip, pin & 7);
    }
    /* Last: KVM's 8254 hears of its interrupt's end through the GSI that a pin was last given. */
    t->entries[t->nr++] = chip_route(GSI_PIT, KVM_IRQCHIP_IOAPIC, 2);
    t->entries[t->nr++] = chip_route(GSI_PIT, KVM_IRQCHIP_PIC_MASTER, 0);
}

static bool same_message(const struct kvm_irq_routing_entry *a, const struct kvm_irq_routing_entry *b)
{
    return a->type == b->type && memcmp(&a->u.msi, &b->u.msi, sizeof(a->u.msi)) == 0;
}

static struct kvm_irq_routing_entry msi_route(unsigned gsi, uint64_t addr, uint32_t data)
{
    struct kvm_irq_routing_entry e = {.gsi = gsi, .type = KVM_IRQ_ROUTING_MSI};
    e.u.msi.address_lo = (uint32_t)addr;
    e.u.msi.address_hi = (uint32_t)(addr >> 32);
    e.u.msi.data = data;
    return e;
}

/* Puts e in the table in place of what its GSI had. The lock is held. 0 or -errno, the table then as before. */
static int put_route(struct kvm_vm *kvm, const struct kvm_irq_routing_entry *e)
{
    struct kvm_irq_routing *t = kvm->routes;
    unsigned i = 0;
    while (i < t->nr && t->entries[i].gsi != e->gsi)
        i++;
    if (i == MAX_ROUTES)
        return -ENOSPC;
    if (i < t->nr && same_message(&t->entries[i], e))
        return 0;
    struct kvm_irq_routing_entry old = t->entries[i];
    uint32_t nr = t->nr;
    t->entries[i] = *e;
    if (i == t->nr)
        t->nr++;
    int err = kvm_ioctl(kvm, kvm->fd, KVM_SET_GSI_ROUTING, t);
    if (err) {
        t->entries[i] = old;
        t->nr = nr;
    }
    return err;
}

int kvm_set_route(struct vm *vm, unsigned route, uint64_t addr, uint32_t data)
{
    struct kvm_vm *kvm = vm->accel_vm;
    if (route >= ACCEL_MSI_ROUTES)
        return -EINVAL;
    if (kvm->mode == IRQCHIP_USER)
        return -EOPNOTSUPP; /* the local APICs are ours: KVM has nobody to send it to */
    struct kvm_irq_routing_entry e = msi_route(GSI_MSI(route), addr, data);
    pthread_mutex_lock(&kvm->routes_lock);
    int err = put_route(kvm, &e);
    pthread_mutex_unlock(&kvm->routes_lock);
    return err;
}

/* ---- set-up ---- */

static int enable(struct kvm_vm *kvm, unsigned cap, uint64_t arg)
{
    struct kvm_enable_cap e = {.cap = cap, .args = {arg}};
    return kvm_ioctl(kvm, kvm->fd, KVM_ENABLE_CAP, &e);
}

static int init_split(struct kvm_vm *kvm) { return enable(kvm, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_PINS); }

static int init_kernel(struct kvm_vm *kvm)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int err = kvm_ioctl(kvm, kvm->fd, KVM_CREATE_IRQCHIP, NULL);
    if (!err)
        err = kvm_ioctl(kvm, kvm->fd, KVM_CREATE_PIT2, &pit);
    if (err)
        return err;
    add_chip_routes(kvm->routes);
    return kvm_ioctl(kvm, kvm->fd, KVM_SET_GSI_ROUTING, kvm->routes);
}

int kvm_irqchip_init(struct kvm_vm *kvm, char *why, size_t n)
{
    static const char *const names[] = {"user", "split", "kernel"};
    int err = 0;

    if (kvm->mode == IRQCHIP_USER)
        return 0;
    kvm->routes = calloc(1, sizeof(*kvm->routes) + MAX_ROUTES * sizeof(kvm->routes->entries[0]));
    if (!kvm->routes) {
        snprintf(why, n, "out of memory");
        return -ENOMEM;
    }
    err = kvm->mode == IRQCHIP_SPLIT ? init_split(kvm) : init_kernel(kvm);
    /* APIC ids beyond 255, in messages and in the state of a local APIC. */
    if (!err && (kvm_has(kvm, KVM_CAP_X2APIC_API) & KVM_X2APIC_API_USE_32BIT_IDS))
        err = enable(kvm, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
    if (err)
        snprintf(why, n, "KVM's interrupt controllers (-o irqchip=%s): %s", names[kvm->mode], strerror(-err));
    return err;
}

void kvm_irqchip_fini(struct kvm_vm *kvm)
{
    free(kvm->routes);
    kvm->routes = NULL;
}

/* ---- messages and wires ---- */

int kvm_msi(struct vm *vm, uint64_t addr, uint32_t data, int pin)
{
    struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_msi msi = {.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};

    if (pin >= 0 && pin < KVM_IOAPIC_PINS && (data & MSI_LEVEL) && kvm->mode == IRQCHIP_SPLIT) {
        struct kvm_irq_routing_entry e = msi_route((unsigned)pin, addr, data);
        pthread_mutex_lock(&kvm->routes_lock);
        int err = put_route(kvm, &e);
        pthread_mutex_unlock(&kvm->routes_lock);
        if (err) {
            log_error("KVM does not take the route of IOAPIC pin %d: %s", pin, strerror(-err));
            return 0;
        }
    }
    /* An error is how KVM says that nobody is there. */
    return kvm_ioctl(kvm, kvm->fd, KVM_SIGNAL_MSI, &msi) > 0;
}

void kvm_set_intr(struct vm *vm, bool level)
{
    struct kvm_vm *kvm = vm->accel_vm;
    if (!atomic_exchange(&kvm->intr, level) && level)
        vcpu_raise(vm->vcpu[0], VCPU_EV_INTR);
}

void kvm_inject_extint(struct kvm_vcpu *kv)
{
    struct kvm_vm *kvm = kv->kvm;
    const struct accel_upcalls *up = &kvm->vm->upcalls;

    kv->run->request_interrupt_window = 0;
    if (!atomic_load(&kvm->intr) || !up->pic_ack)
        return;
    if (kv->run->ready_for_interrupt_injection) {
        int vector = up->pic_ack(up->pic);
        struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
        kv->run->ready_for_interrupt_injection = 0;
        if (vector >= 0) {
            int err = kvm_ioctl(kvm, kv->fd, KVM_INTERRUPT, &interrupt);
            if (err)
                log_error("KVM does not take the 8259A's vector %d: %s", vector, strerror(-err));
        }
        if (!atomic_load(&kvm->intr))
            return;
    }
    kv->run->request_interrupt_window = 1;
}

void kvm_set_pin(struct vm *vm, enum irqchip_chip chip, unsigned pin, bool level)
{
    struct kvm_vm *kvm = vm->accel_vm;
    unsigned gsi = chip == IRQCHIP_PIC ? GSI_PIC(pin) : GSI_IOAPIC(pin);
    struct kvm_irq_level irq = {.irq = gsi, .level = level};

    if (pin >= (chip == IRQCHIP_PIC ? KVM_PIC_PINS : KVM_IOAPIC_PINS) || (chip == IRQCHIP_PIC && pin == 2))
        return;
    int err = kvm_ioctl(kvm, kvm->fd, KVM_IRQ_LINE, &irq);
    if (err)
        log_error("KVM does not take the level of an interrupt pin: %s", strerror(-err));
}

/* ---- reset of what is KVM's ---- */

static int reset_pic(struct kvm_vm *kvm, unsigned chip, uint8_t elcr)
{
    struct kvm_irqchip state = {.chip_id = chip};
    int err = kvm_ioctl(kvm, kvm->fd, KVM_GET_IRQCHIP, &state);
    if (err)
        return err;
    struct kvm_pic_state *pic = &state.chip.pic;
    uint8_t mask = pic->elcr_mask;
    memset(pic, 0, sizeof(*pic));
    pic->elcr_mask = mask;
    pic->imr = 0xff; /* as our own: nothing arrives before somebody wants it */
    pic->elcr = elcr & mask;
    return kvm_ioctl(kvm, kvm->fd, KVM_SET_IRQCHIP, &state);
}

static int reset_ioapic(struct kvm_vm *kvm, uint8_t id)
{
    struct kvm_irqchip state = {.chip_id = KVM_IRQCHIP_IOAPIC};
    int err = kvm_ioctl(kvm, kvm->fd, KVM_GET_IRQCHIP, &state);
    if (err)
        return err;
    struct kvm_ioapic_state *ioapic = &state.chip.ioapic;
    ioapic->ioregsel = 0;
    ioapic->id = id;
    ioapic->irr = 0;
    for (unsigned pin = 0; pin < KVM_IOAPIC_PINS; pin++) {
        ioapic->redirtbl[pin].bits = 0;
        ioapic->redirtbl[pin].fields.mask = 1;
    }
    return kvm_ioctl(kvm, kvm->fd, KVM_SET_IRQCHIP, &state);
}

/* Counters as after power-on: all stopped until programmed. */
static int reset_pit(struct kvm_vm *kvm)
{
    struct kvm_pit_state2 pit = {0};
    for (unsigned i = 0; i < 3; i++) {
        pit.channels[i].count = 0x10000;
        pit.channels[i].mode = 0xff; /* none that KVM has a timer for */
        pit.channels[i].gate = i != 2;
    }
    return kvm_ioctl(kvm, kvm->fd, KVM_SET_PIT2, &pit);
}

int kvm_reset_irqchip(struct vm *vm, uint16_t elcr, uint8_t ioapic_id)
{
    struct kvm_vm *kvm = vm->accel_vm;
    int err = reset_pic(kvm, KVM_IRQCHIP_PIC_MASTER, (uint8_t)elcr);
    if (!err)
        err = reset_pic(kvm, KVM_IRQCHIP_PIC_SLAVE, (uint8_t)(elcr >> 8));
    if (!err)
        err = reset_ioapic(kvm, ioapic_id);
    if (!err)
        err = reset_pit(kvm);
    return err;
}

void kvm_connect_pit(struct vm *vm, bool connected)
{
    struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_pit_state2 pit;
    int err = kvm_ioctl(kvm, kvm->fd, KVM_GET_PIT2, &pit);
    if (!err) {
        pit.flags = (pit.flags & ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY) | (connected ? 0 : KVM_PIT_FLAGS_HPET_LEGACY);
        err = kvm_ioctl(kvm, kvm->fd, KVM_SET_PIT2, &pit);
    }
    if (err)
        log_error("KVM's 8254 cannot be %s: %s", connected ? "connected" : "disconnected", strerror(-err));
}

/* ---- event descriptors ---- */

int kvm_irqfd(struct vm *vm, int fd, unsigned route, bool add)
{
    struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = GSI_MSI(route), .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

    if (route >= ACCEL_MSI_ROUTES)
        return -EINVAL;
    if (kvm->mode == IRQCHIP_USER)
        return -EOPNOTSUPP;
    return kvm_ioctl(kvm, kvm->fd, KVM_IRQFD, &irqfd);
}

int kvm_ioeventfd(struct vm *vm, int fd, const struct accel_io_event *e, bool add)
{
    struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_ioeventfd io = {
        .datamatch = e->value,
        .addr = e->addr,
        .len = e->size,
        .fd = fd,
        .flags = (e->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) | (e->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_ioctl(kvm, kvm->fd, KVM_IOEVENTFD, &io);
}
