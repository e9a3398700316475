/*
 * Declarations of Apple's Hypervisor.framework for x86-64, written from its documentation
 * (developer.apple.com/documentation/hypervisor): what xhyve and its tests need to be compiled where there is no
 * macOS SDK. Used by tests/hvsim (a simulated framework on Linux) and by `make macos` (a cross build); a build on a
 * Mac uses the SDK's own headers.
 *
 * HV_SINCE_x_y marks the macOS that first has a function. xhyve asks for macOS 10.15, so what is older or as old may be
 * called at once; what is later is a weak import: on an older system its address is NULL.
 */
#ifndef XHYVE_HYPERVISOR_HV_BASE_H
#define XHYVE_HYPERVISOR_HV_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __APPLE__
#define HV_LATER_ __attribute__((weak_import))
#else
#define HV_LATER_
#endif

#define HV_SINCE_10_10
#define HV_SINCE_10_15
#define HV_SINCE_11_0 HV_LATER_
#define HV_SINCE_12_0 HV_LATER_

#endif
