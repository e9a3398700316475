/* The devices that -s puts into slots. */
#ifndef XHYVE_MACHINE_DEVICES_H
#define XHYVE_MACHINE_DEVICES_H

#include "machine/pc.h"
#include "os/sandbox.h"

/* Makes what `spec`, "DEVICE[,OPTIONS]", says. 0; -errno with a reason in why[n], without the place. */
int device_new(struct pc *, unsigned slot, unsigned func, const char *spec, char *why, size_t n);

/*
 * A line with the MAC address of each NIC on stdout, in the order of their slots;
 * nothing is opened. 0; -errno with one line in why[n]: there is none, or its options are wrong.
 */
int devices_print_macs(const struct vm_config *, char *why, size_t n);

/* The accelerator has its VM now: events instead of exits, where it has them. 0 or -errno. vCPUs parked. */
int devices_started(struct pc *);
/*
 * After the bus's reset: waits until no device writes to guest memory any more,
 * and serves the VM's loop meanwhile. vCPUs parked, main thread. 0; -ECANCELED:
 * *quit became true; -ETIMEDOUT, said in a line: a device does not end what it is at.
 */
int devices_settle(struct pc *, const bool *quit);
/* Every disk, of whatever controller, looks at the size of its image and tells the guest if it has changed. Any thread. */
void devices_refresh_disks(struct pc *);
/* Adds what the devices need of the host while the guest runs. */
void devices_need(const struct pc *, struct sandbox_needs *);
/* The process's terminal may have another size. Main thread. */
void devices_window_changed(struct pc *);
/* Ends the devices' threads. vCPUs parked for good. 0; -ETIMEDOUT, said in a line: one goes on, and the machine cannot be freed. */
int devices_stop(struct pc *);

#endif
