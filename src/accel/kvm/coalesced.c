/*
 * Writes that need no exit of their own (KVM_CAP_COALESCED_MMIO and _PIO): KVM
 * keeps them in a ring that all vCPUs share, and the next one that exits takes
 * them out before it does anything else.
 */
#include <errno.h>
#include <string.h>

#include "accel/kvm/priv.h"
#include "util/bytes.h"

#define RING_ENTRIES ((MEM_PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

int kvm_coalesce(struct vm *vm, bool pio, uint64_t addr, unsigned size)
{
    struct kvm_vm *kvm = vm->accel_vm;
    struct kvm_coalesced_mmio_zone zone = {.addr = addr, .size = size, .pio = pio};

    if (!kvm->ring_page || (pio && !kvm_has(kvm, KVM_CAP_COALESCED_PIO)))
        return 0; /* then they exit */
    return kvm_ioctl(kvm, kvm->fd, KVM_REGISTER_COALESCED_MMIO, &zone);
}

static void replay(struct vcpu *vcpu, const struct kvm_coalesced_mmio *e)
{
    if (e->len != 1 && e->len != 2 && e->len != 4 && e->len != 8)
        return;
    uint64_t val = 0;
    memcpy(&val, e->data, e->len);
    if (!e->pio)
        vcpu_mmio_write(vcpu, e->phys_addr, e->len, val);
    else if (e->len <= 4)
        vcpu_pio_write(vcpu, (uint16_t)e->phys_addr, e->len, (uint32_t)val);
}

void kvm_coalesced_flush(struct kvm_vcpu *kv)
{
    struct kvm_coalesced_mmio_ring *ring = kv->ring;
    struct kvm_vm *kvm = kv->kvm;

    if (!ring || __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
        return;
    /* An entry leaves the ring once it has been written: who finds the ring empty knows that all of them have. */
    pthread_mutex_lock(&kvm->ring_lock);
    uint32_t first = ring->first;
    while (first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) && first < RING_ENTRIES) {
        struct kvm_coalesced_mmio e = ring->coalesced_mmio[first];
        replay(kv->vcpu, &e);
        first = (uint32_t)((first + 1) % RING_ENTRIES);
        __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&kvm->ring_lock);
}
