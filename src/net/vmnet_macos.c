/* vmnet.framework: dictionaries in, dictionaries out, and waiting for what it does on its own queue. */
#include <dispatch/dispatch.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vmnet/vmnet.h>
#include <xpc/xpc.h>

#include "net/vmnet.h"

struct interface {
    interface_ref ref;
    dispatch_queue_t queue; /* serial: its events */
};

static int to_errno(vmnet_return_t status)
{
    switch (status) {
    case VMNET_SUCCESS: return 0;
    case VMNET_MEM_FAILURE: return -ENOMEM;
    case VMNET_INVALID_ARGUMENT: return -EINVAL;
    case VMNET_SETUP_INCOMPLETE: return -ENXIO;
    case VMNET_INVALID_ACCESS: return VMNET_NO_RIGHT;
    case VMNET_PACKET_TOO_BIG: return -EMSGSIZE;
    case VMNET_BUFFER_EXHAUSTED: return -ENOBUFS;
    case VMNET_TOO_MANY_PACKETS: return -E2BIG;
    case VMNET_SHARING_SERVICE_BUSY: return VMNET_BUSY;
    default: return -EIO;
    }
}

/* Does macOS offer to bridge to an interface of that name? */
static bool can_bridge(const char *name)
{
    __block bool found = false;
    xpc_object_t list = vmnet_copy_shared_interface_list();

    if (!list)
        return true; /* it does not say; starting will */
    xpc_array_apply(list, ^bool(size_t i, xpc_object_t one) {
      (void)i;
      const char *text = xpc_string_get_string_ptr(one);
      found = found || (text && strcmp(text, name) == 0);
      return true;
    });
    xpc_release(list);
    return found;
}

static int describe(xpc_object_t d, const struct vmnet_setup *s)
{
    static const uint64_t modes[] = {[NET_VMNET_SHARED] = VMNET_SHARED_MODE,
                                     [NET_VMNET_HOST] = VMNET_HOST_MODE,
                                     [NET_VMNET_BRIDGED] = VMNET_BRIDGED_MODE};

    xpc_dictionary_set_uint64(d, vmnet_operation_mode_key, modes[s->mode]);
    xpc_dictionary_set_uuid(d, vmnet_interface_id_key, s->id);
    xpc_dictionary_set_bool(d, vmnet_allocate_mac_address_key, false); /* ours comes from the UUID and the slot */
    if (s->ifname)
        xpc_dictionary_set_string(d, vmnet_shared_interface_name_key, s->ifname);
    if (s->mtu)
        xpc_dictionary_set_uint64(d, vmnet_mtu_key, s->mtu);
    if (s->first) {
        xpc_dictionary_set_string(d, vmnet_start_address_key, s->first);
        xpc_dictionary_set_string(d, vmnet_end_address_key, s->last);
        xpc_dictionary_set_string(d, vmnet_subnet_mask_key, s->mask);
    }
    if (!s->isolated)
        return 0;
/* Imported weakly: it is at NULL before macOS 11. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wunguarded-availability-new"
#pragma clang diagnostic ignored "-Wpointer-bool-conversion"
    if (!&vmnet_enable_isolation_key)
        return -ENOTSUP;
    xpc_dictionary_set_bool(d, vmnet_enable_isolation_key, true);
#pragma clang diagnostic pop
    return 0;
}

static void host_stop(void *arg)
{
    struct interface *i = arg;
    dispatch_semaphore_t done = dispatch_semaphore_create(0);

    vmnet_interface_set_event_callback(i->ref, VMNET_INTERFACE_PACKETS_AVAILABLE, NULL, NULL);
    vmnet_return_t r = vmnet_stop_interface(i->ref, i->queue, ^(vmnet_return_t status) {
      (void)status;
      dispatch_semaphore_signal(done);
    });
    if (r == VMNET_SUCCESS)
        dispatch_semaphore_wait(done, DISPATCH_TIME_FOREVER); /* NOLINT(*GCDAntipattern): the caller must not go on */
    /* The queue is serial, so an event that was under way is through after this. */
    dispatch_sync(i->queue, ^{});
    dispatch_release(done);
    dispatch_release(i->queue);
    free(i);
}

static int host_start(const struct vmnet_setup *s, struct vmnet_params *params, void **out)
{
    if (s->ifname && !can_bridge(s->ifname))
        return VMNET_NO_SUCH_IF;
    struct interface *i = calloc(1, sizeof(*i));
    xpc_object_t d = xpc_dictionary_create(NULL, NULL, 0);
    dispatch_semaphore_t started = dispatch_semaphore_create(0);
    __block vmnet_return_t status = VMNET_FAILURE;
    __block struct vmnet_params got = {0};
    int err = i && d && started ? describe(d, s) : -ENOMEM;

    if (!err)
        i->queue = dispatch_queue_create("vmnet", DISPATCH_QUEUE_SERIAL);
    if (!err && i->queue) {
        i->ref = vmnet_start_interface(d, i->queue, ^(vmnet_return_t r, xpc_object_t p) {
          status = r;
          if (r == VMNET_SUCCESS && p) {
              got.mtu = (unsigned)xpc_dictionary_get_uint64(p, vmnet_mtu_key);
              got.max_packet = (unsigned)xpc_dictionary_get_uint64(p, vmnet_max_packet_size_key);
          }
          dispatch_semaphore_signal(started);
        });
        /* Without a handle nothing was begun: that is how a process without the right to it is told. */
        if (i->ref)
            dispatch_semaphore_wait(started, DISPATCH_TIME_FOREVER); /* NOLINT(*GCDAntipattern): nothing runs yet */
        err = i->ref ? to_errno(status) : VMNET_NO_RIGHT;
        /* Or by a failure without a reason, which hardly anything else is the reason of. */
        if (i->ref && status == VMNET_FAILURE && geteuid() != 0)
            err = VMNET_NO_RIGHT;
    } else if (!err) {
        err = -ENOMEM;
    }
    void (*packets)(void *arg) = s->packets;
    void *arg = s->arg;
    if (!err)
        err = to_errno(vmnet_interface_set_event_callback(i->ref, VMNET_INTERFACE_PACKETS_AVAILABLE, i->queue,
                                                          ^(interface_event_t events, xpc_object_t event) {
                                                            (void)events;
                                                            (void)event;
                                                            packets(arg);
                                                          }));
    if (d)
        xpc_release(d);
    if (started)
        dispatch_release(started);
    if (!err) {
        *params = got;
        *out = i;
        return 0;
    }
    if (i && i->ref && status == VMNET_SUCCESS) {
        host_stop(i);
    } else if (i) {
        if (i->queue)
            dispatch_release(i->queue);
        free(i);
    }
    return err;
}

/* The framework's descriptions of our packets. */
static void to_framework(const struct vmnet_packet *p, unsigned n, struct vmpktdesc *d, struct iovec *iov)
{
    for (unsigned i = 0; i < n; i++) {
        iov[i] = (struct iovec){.iov_base = p[i].data, .iov_len = p[i].len};
        d[i] = (struct vmpktdesc){.vm_pkt_size = p[i].len, .vm_pkt_iov = &iov[i], .vm_pkt_iovcnt = 1};
    }
}

static int host_read(void *arg, struct vmnet_packet *p, unsigned *n)
{
    struct interface *i = arg;
    struct vmpktdesc d[VMNET_BATCH];
    struct iovec iov[VMNET_BATCH];
    int count = (int)(*n < VMNET_BATCH ? *n : VMNET_BATCH);

    to_framework(p, (unsigned)count, d, iov);
    int err = to_errno(vmnet_read(i->ref, d, &count));
    *n = err || count < 0 ? 0 : (unsigned)count;
    for (unsigned k = 0; k < *n; k++)
        p[k].len = d[k].vm_pkt_size;
    return err;
}

static int host_write(void *arg, const struct vmnet_packet *p, unsigned *n)
{
    struct interface *i = arg;
    struct vmpktdesc d[VMNET_BATCH];
    struct iovec iov[VMNET_BATCH];
    int count = (int)(*n < VMNET_BATCH ? *n : VMNET_BATCH);

    to_framework(p, (unsigned)count, d, iov);
    int err = to_errno(vmnet_write(i->ref, d, &count));
    *n = err || count < 0 ? 0 : (unsigned)count; /* all of them, or the call has failed */
    return err;
}

const struct vmnet_sys vmnet_sys_host = {
    .start = host_start, .read = host_read, .write = host_write, .stop = host_stop};
