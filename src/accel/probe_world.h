/*
 * The little world of a trial guest: what is where in its 2 MiB of memory, and
 * the state in which its first instruction finds the processor. 64-bit mode at
 * CPL 0, interrupts off, all memory mapped one to one, also for CPL 3.
 */
#ifndef XHYVE_ACCEL_PROBE_WORLD_H
#define XHYVE_ACCEL_PROBE_WORLD_H

/* Guest-physical addresses. Plain numbers: the assembler reads them too. */
#define GUEST_PML4 0x1000
#define GUEST_PDPT 0x2000
#define GUEST_PD 0x3000 /* the first 2 MiB */
#define GUEST_GDT 0x5000
#define GUEST_TSS 0x5800
#define GUEST_IDT 0x6000        /* empty, and its limit 0: a fault is a triple fault */
#define GUEST_STACK 0x8000      /* grows down from here */
#define GUEST_USER_STACK 0x9000 /* the same */
#define GUEST_DATA 0xa000
#define GUEST_CODE 0x10000

#define GUEST_CS 0x08
#define GUEST_SS 0x10
#define GUEST_USER_SS 0x1b
#define GUEST_USER_CS 0x23
#define GUEST_TR 0x28

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

#include "x86/state.h"

#define GUEST_RAM (UINT64_C(2) << 20)

/* Page table entries (Intel SDM vol. 3A, 4.5) */
#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_PCD 16u
#define PTE_PS 128u

/* Fills ram, GUEST_RAM bytes of zeroes: page tables, GDT, TSS, and n bytes of code at GUEST_CODE. */
void probe_world_build(uint8_t *ram, const uint8_t *code, size_t n);

/* The whole state of a vCPU that begins at GUEST_CODE. */
void probe_world_state(struct x86_state *s);
#endif

#endif
