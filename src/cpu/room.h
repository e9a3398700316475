/*
 * Where a software CPU lives: its context, its TLB and the tables of generated
 * code at constant distances from each other, above a stack of its own, on
 * which generated code runs with the stack pointer at the context.
 */
#ifndef XHYVE_CPU_ROOM_H
#define XHYVE_CPU_ROOM_H

#include <stddef.h>

#include "cpu/cpu.h"
#include "cpu/jit/tables.h"
#include "cpu/mmu_int.h"

#define ROOM_GUARD 4096
#define ROOM_STACK (256 * 1024)

struct cpu_room {
    uint8_t guard[ROOM_GUARD]; /* no access */
    uint8_t stack[ROOM_STACK];
    struct cpu cpu __attribute__((aligned(4096)));
    struct mmu mmu __attribute__((aligned(4096)));
    struct jit_tables jit __attribute__((aligned(4096)));
};

#endif
