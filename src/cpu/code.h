/*
 * Which bytes of guest memory have been decoded: the VM-wide map through which
 * a store by any vCPU, or by a device, drops decoded instructions.
 *
 * Each RAM page has a 64-bit word, one bit for each 64 bytes, that says where
 * any CPU of the VM has decoded instructions. A page with a bit set is in no
 * write TLB, so stores to it take the slow path and come here.
 *
 *   decoding   code_claim() before the bytes are read: sets bits and, if the
 *              page had none, evicts its write entries on every CPU and waits
 *              until each has done so or is outside guest code.
 *   storing    store, then code_written(): clears the bits it hit and posts an
 *              invalidation to every CPU. Dekker's order (store, fence, load
 *              bits against set bits, fence, read bytes) leaves no gap.
 *   filling    a write TLB entry is published, then code_page_free() is asked
 *              again and the entry dropped if it says no.
 *
 * Clear bits say that nothing is decoded any more only when those who cleared
 * them have told everybody, and the asking CPU has read its mail: until then
 * its own stores must still drop what it has.
 */
#ifndef XHYVE_CPU_CODE_H
#define XHYVE_CPU_CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct code_map;
struct cpu;
struct guest_mem;

int code_map_new(struct code_map **out, const struct guest_mem *);
void code_map_free(struct code_map *);

/* Also calls fn of what code_written() hears of, on the writer's thread. Before the CPUs join. */
void code_map_watch(struct code_map *, void (*fn)(void *arg, uint64_t gpa, uint64_t len), void *arg);

/* CPUs join before they run guest code and leave when they are freed. Their own threads. */
int code_join(struct code_map *, struct cpu *);
void code_leave(struct code_map *, struct cpu *);

/* cpu is about to decode [gpa, gpa+len), within one page. False: not RAM; the caller must not cache. */
bool code_claim(struct cpu *, uint64_t gpa, size_t len);

/* True if no code is known in the page of gpa. */
bool code_page_clean(const struct code_map *, uint64_t gpa);
/* And nobody can still have decoded instructions that a store has just dropped: it may be entered in a write TLB. */
bool code_page_free(struct cpu *, uint64_t gpa);

/* [gpa, gpa+len) was written, by a CPU (its own stores: cpu, else NULL) or a device. Any thread. */
void code_written(struct code_map *, struct cpu *cpu, uint64_t gpa, uint64_t len);

/* One CPU at a time changes bytes of two pages by one instruction. Not held while waiting for anything. */
void code_lock_crossing(struct code_map *);
void code_unlock_crossing(struct code_map *);

/* Serves this CPU's mailbox: evictions and invalidations posted by others. */
void code_serve(struct cpu *);

/* Brackets waiting and device access: in between, the CPU counts as stopped. */
void code_stopped(struct cpu *);
void code_running(struct cpu *);

#endif
