/*
 * Interrupts that are eventfds: MSI-X vectors that an accelerator sends by
 * itself when somebody outside of this process (vhost) writes to a descriptor.
 *
 * A descriptor is the accelerator's, with the message of its vector's table
 * entry, exactly while that message could be sent now. All that may change
 * this happens under msi_lock, which is held until the accelerator has
 * followed: once a guest's write of a mask has returned, nothing more comes by
 * the old entry. A message changes before its descriptor is handed over, or in
 * one piece while it is. At other times the descriptor's owner reads it and
 * calls pci_notify(), which keeps the interrupt pending; what was written
 * between the two is still in the descriptor when the one or the other comes.
 */
#include <string.h>

#include "pci/priv.h"

/* Both ask the accelerator; msi_lock held. */
static void detach(struct pci_irqfd *f)
{
    int err = f->attached ? f->accel.irqfd(f->accel.arg, f->fd, f->route, false) : 0;
    if (err)
        log_error("the accelerator keeps an interrupt's descriptor: %s", strerror(-err));
    f->attached = false;
}

static void attach(struct pci_dev *d, struct pci_irqfd *f, const struct pci_message *m)
{
    int err = 0;
    if (!f->routed || f->message.addr != m->addr || f->message.data != m->data) {
        err = f->accel.set_route(f->accel.arg, f->route, m->addr, m->data);
        f->routed = !err;
        f->message = *m;
    }
    if (!err && !f->attached) {
        err = f->accel.irqfd(f->accel.arg, f->fd, f->route, true);
        f->attached = !err;
    }
    if (err) {
        log_guest(&d->bus->log, "%s: an interrupt takes the slow path: %s", d->ops->name, strerror(-err));
        detach(f);
    }
}

static void sync_one(struct pci_dev *d, struct pci_irqfd *f)
{
    struct pci_message m;
    if (pci_msix_message(d, f->vector, &m))
        attach(d, f, &m);
    else
        detach(f);
}

void pci_irqfds_sync(struct pci_dev *d)
{
    for (struct pci_irqfd *f = d->irqfds; f; f = f->next)
        sync_one(d, f);
}

void pci_irqfd_add(struct pci_dev *d, struct pci_irqfd *f)
{
    pthread_mutex_lock(&d->msi_lock);
    f->next = d->irqfds;
    f->attached = f->routed = false;
    d->irqfds = f;
    sync_one(d, f);
    pthread_mutex_unlock(&d->msi_lock);
}

void pci_irqfd_remove(struct pci_dev *d, struct pci_irqfd *f)
{
    pthread_mutex_lock(&d->msi_lock);
    for (struct pci_irqfd **p = &d->irqfds; *p; p = &(*p)->next) {
        if (*p != f)
            continue;
        *p = f->next;
        detach(f);
        break;
    }
    pthread_mutex_unlock(&d->msi_lock);
}

void pci_irqfd_vector(struct pci_dev *d, struct pci_irqfd *f, unsigned vector)
{
    pthread_mutex_lock(&d->msi_lock);
    f->vector = vector;
    for (struct pci_irqfd *p = d->irqfds; p; p = p->next)
        if (p == f)
            sync_one(d, f);
    pthread_mutex_unlock(&d->msi_lock);
}
