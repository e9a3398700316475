/*
 * Declarations of vmnet.framework for builds without Apple's SDK: what net/vmnet_macos.c uses, and no more. Written
 * from Apple's documentation of the framework.
 */
#ifndef XHYVE_SDK_VMNET_H
#define XHYVE_SDK_VMNET_H

#include <dispatch/dispatch.h>
#include <os/availability.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <xpc/xpc.h>

typedef uint32_t operating_modes_t;
enum { VMNET_HOST_MODE = 1000, VMNET_SHARED_MODE = 1001, VMNET_BRIDGED_MODE = 1002 /* 10.15 */ };

typedef uint32_t interface_event_t;
enum { VMNET_INTERFACE_PACKETS_AVAILABLE = 1 };

typedef uint32_t vmnet_return_t;
enum {
    VMNET_SUCCESS = 1000,
    VMNET_FAILURE = 1001,
    VMNET_MEM_FAILURE = 1002,
    VMNET_INVALID_ARGUMENT = 1003,
    VMNET_SETUP_INCOMPLETE = 1004,
    VMNET_INVALID_ACCESS = 1005,
    VMNET_PACKET_TOO_BIG = 1006,
    VMNET_BUFFER_EXHAUSTED = 1007,
    VMNET_TOO_MANY_PACKETS = 1008,
    VMNET_SHARING_SERVICE_BUSY = 1009, /* 11.0 */
};

struct vmpktdesc {
    size_t vm_pkt_size;
    struct iovec *vm_pkt_iov;
    uint32_t vm_pkt_iovcnt;
    uint32_t vm_flags;
};

typedef struct vmnet_interface *interface_ref;

/* Keys of the dictionaries that go in and come out. */
extern const char *vmnet_operation_mode_key API_AVAILABLE(macos(10.10));        /* uint64 */
extern const char *vmnet_shared_interface_name_key API_AVAILABLE(macos(10.15)); /* string */
extern const char *vmnet_mac_address_key API_AVAILABLE(macos(10.10));           /* string */
extern const char *vmnet_allocate_mac_address_key API_AVAILABLE(macos(10.15));  /* bool */
extern const char *vmnet_interface_id_key API_AVAILABLE(macos(10.10));          /* uuid */
extern const char *vmnet_mtu_key API_AVAILABLE(macos(10.10));                   /* uint64 */
extern const char *vmnet_max_packet_size_key API_AVAILABLE(macos(10.10));       /* uint64 */
extern const char *vmnet_start_address_key API_AVAILABLE(macos(10.15));         /* string */
extern const char *vmnet_end_address_key API_AVAILABLE(macos(10.15));           /* string */
extern const char *vmnet_subnet_mask_key API_AVAILABLE(macos(10.15));           /* string */
extern const char *vmnet_enable_isolation_key API_AVAILABLE(macos(11.0));       /* bool */

interface_ref vmnet_start_interface(xpc_object_t description, dispatch_queue_t queue,
                                    void (^handler)(vmnet_return_t status, xpc_object_t parameters))
    API_AVAILABLE(macos(10.10));
vmnet_return_t vmnet_interface_set_event_callback(interface_ref interface, interface_event_t events,
                                                  dispatch_queue_t queue,
                                                  void (^callback)(interface_event_t events, xpc_object_t event))
    API_AVAILABLE(macos(10.10));
vmnet_return_t vmnet_write(interface_ref interface, struct vmpktdesc *packets, int *count) API_AVAILABLE(macos(10.10));
vmnet_return_t vmnet_read(interface_ref interface, struct vmpktdesc *packets, int *count) API_AVAILABLE(macos(10.10));
vmnet_return_t vmnet_stop_interface(interface_ref interface, dispatch_queue_t queue,
                                    void (^handler)(vmnet_return_t status)) API_AVAILABLE(macos(10.10));
xpc_object_t vmnet_copy_shared_interface_list(void) API_AVAILABLE(macos(10.15)); /* an array of strings */

#endif
