/* The trial guest of probe.c: its code, and the little world that the code expects. */
#ifndef XHYVE_ACCEL_KVM_PROBE_GUEST_H
#define XHYVE_ACCEL_KVM_PROBE_GUEST_H

/* Guest-physical addresses, mapped one to one, also for CPL 3. Plain numbers: the assembler reads them too. */
#define GUEST_PML4 0x1000
#define GUEST_PDPT 0x2000
#define GUEST_PD 0x3000      /* the first 2 MiB */
#define GUEST_APIC_PD 0x4000 /* the 2 MiB around the local APIC */
#define GUEST_GDT 0x5000
#define GUEST_TSS 0x5800
#define GUEST_IDT 0x6000
#define GUEST_STACK 0x8000      /* grows down from here */
#define GUEST_USER_STACK 0x9000 /* the same */
#define GUEST_DATA 0xa000
#define GUEST_CODE 0x10000
#define GUEST_APIC 0xfee00000

#define GUEST_CS 0x08
#define GUEST_SS 0x10
#define GUEST_USER_SS 0x1b
#define GUEST_USER_CS 0x23
#define GUEST_TR 0x28

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
#include <stdint.h>

extern const uint8_t probe_guest[], probe_guest_end[];                             /* starts at its first byte */
extern const uint8_t probe_guest_fault[], probe_guest_timer[], probe_guest_call[]; /* handlers within it */
#endif

#endif
