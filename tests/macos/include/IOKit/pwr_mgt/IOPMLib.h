/* Declarations of IOKit's power notifications for builds without Apple's SDK: what os/power_macos.c uses, and no more. */
#ifndef XHYVE_SDK_IOPMLIB_H
#define XHYVE_SDK_IOPMLIB_H

#include <CoreFoundation/CoreFoundation.h>
#include <mach/mach.h>

typedef mach_port_t io_object_t;
typedef io_object_t io_service_t;
typedef io_object_t io_connect_t;
typedef kern_return_t IOReturn;
typedef struct IONotificationPort *IONotificationPortRef;
typedef void (*IOServiceInterestCallback)(void *refcon, io_service_t service, uint32_t message, void *argument);

io_connect_t IORegisterForSystemPower(void *refcon, IONotificationPortRef *port, IOServiceInterestCallback callback,
                                      io_object_t *notifier);
IOReturn IODeregisterForSystemPower(io_object_t *notifier);
IOReturn IOAllowPowerChange(io_connect_t connect, intptr_t notification);
IOReturn IOServiceClose(io_connect_t connect);
CFRunLoopSourceRef IONotificationPortGetRunLoopSource(IONotificationPortRef port);
void IONotificationPortDestroy(IONotificationPortRef port);

#endif
