/* Messages of IOKit's power management for builds without Apple's SDK; the numbers are iokit_common_msg()'s. */
#ifndef XHYVE_SDK_IOMESSAGE_H
#define XHYVE_SDK_IOMESSAGE_H

#define kIOMessageCanSystemSleep ((natural_t)0xe0000270)
#define kIOMessageSystemWillSleep ((natural_t)0xe0000280)
#define kIOMessageSystemWillPowerOn ((natural_t)0xe0000320)
#define kIOMessageSystemHasPoweredOn ((natural_t)0xe0000300)

#endif
