/* The trial guest of probe.c: its code, and what the code expects. */
#ifndef XHYVE_ACCEL_KVM_PROBE_GUEST_H
#define XHYVE_ACCEL_KVM_PROBE_GUEST_H

#include "accel/probe_world.h"

/* What it wants beyond that world. Plain numbers: the assembler reads them too. */
#define GUEST_APIC 0xfee00000
#define GUEST_APIC_PD 0x4000 /* the 2 MiB around it; that world has nothing there */
#define GUEST_IDT_LIMIT 0xfff

#define GUEST_TIMER_VECTOR 0x40
#define GUEST_CALL_VECTOR 0x80

/* What it writes to its port: a stage has been passed; a loop begins or ends; what it computes is wrong; a fault. */
#define GUEST_PORT 0x10
#define GUEST_LONG_MODE 1
#define GUEST_SSE 2
#define GUEST_CMPXCHG16B 3
#define GUEST_CPL3 4
#define GUEST_TIMER 5
#define GUEST_DONE 6
#define GUEST_LOOP_BEGINS 0x10
#define GUEST_LOOP_ENDS 0x11
#define GUEST_WRONG 0xfe
#define GUEST_FAULT 0xff

#define GUEST_LOOPS 4        /* so many of them, */
#define GUEST_TURNS 1000000  /* each of so many turns */
#define GUEST_TIMER_NS 20000 /* the local APIC's timer runs at 1 GHz */

#ifndef __ASSEMBLER__
extern const uint8_t probe_guest[], probe_guest_end[];                             /* starts at its first byte */
extern const uint8_t probe_guest_fault[], probe_guest_timer[], probe_guest_call[]; /* handlers within it */
#endif

#endif
