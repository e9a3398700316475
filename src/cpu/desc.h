/*
 * Descriptors, and stacks other than the current one: what exceptions, far
 * transfers and task switches share (SDM vol. 3 chapters 3, 5, 7).
 */
#ifndef XHYVE_CPU_DESC_H
#define XHYVE_CPU_DESC_H

#include "cpu/cpu.h"
#include "cpu/exc.h"
#include "cpu/mmu.h"

/* System descriptor types. */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS32 = 9,
    DESC_TSS32_BUSY = 11,
    DESC_CALL32 = 12,
    DESC_INT32 = 14,
    DESC_TRAP32 = 15,
};

#define SEL_NULL(sel) (((sel)&0xfffc) == 0)
#define SEL_RPL(sel) ((sel)&3)
#define SEL_ERROR(sel) ((uint32_t)(sel)&0xfffc)

static inline uint32_t desc_attr(uint64_t raw) { return raw >> 40 & 0xf0ff; }
static inline unsigned attr_dpl(uint32_t attr) { return attr >> SEG_DPL_SHIFT & 3; }
static inline bool attr_is_code(uint32_t attr) { return (attr & (SEG_S | 8)) == (SEG_S | 8); }
static inline bool attr_is_conforming(uint32_t attr) { return (attr & (SEG_S | 12)) == (SEG_S | 12); }
static inline bool attr_is_writable_data(uint32_t attr) { return (attr & (SEG_S | 10)) == (SEG_S | 2); }
static inline bool attr_is_readable(uint32_t attr) { return (attr & SEG_S) && (attr & 10) != 8; }
static inline unsigned attr_system_type(uint32_t attr) { return attr & SEG_S ? 0 : attr & SEG_TYPE; } /* 0: none */

/* The 8 bytes of sel's descriptor. False: outside its table (or in an unusable LDT). *at: its linear address. */
bool desc_fetch(struct cpu *, uint16_t sel, uint64_t *raw, uint64_t *at);
/* The same, raising `vector` with the selector as error code. */
uint64_t desc_fetch_or(struct cpu *, uint16_t sel, unsigned vector, uint64_t *at);
struct x86_segment desc_segment(uint16_t sel, uint64_t raw);
/* Sets the accessed bit in memory and in *raw. */
void desc_touch(struct cpu *, uint64_t at, uint64_t *raw);
/* A system descriptor (LDT, TSS): in long mode it has 8 more bytes, with the upper half of the base. */
struct x86_segment desc_system_segment(struct cpu *, uint16_t sel, uint64_t raw, uint64_t at);

/* A stack to push to or pop from before it is the current one. Nothing is committed until far_stack_commit(). */
struct far_stack {
    struct x86_segment ss;
    uint64_t sp, mask;
    unsigned access; /* of its accesses: MMU_STACK, MMU_SYSTEM unless at CPL 3 */
    uint32_t error;  /* of #SS at its limit */
};
void far_stack_current(struct cpu *, struct far_stack *);
void far_stack_push(struct cpu *, struct far_stack *, unsigned size, uint64_t val);
uint64_t far_stack_pop(struct cpu *, struct far_stack *, unsigned size);
/* New SS for a transfer to privilege dpl, checked as the TSS's are: #TS, #SS(sel). Legacy modes. */
void far_stack_new(struct cpu *, struct far_stack *, uint16_t ss, uint64_t sp, unsigned cpl);
/* SS:ESP of the given privilege from the TSS (legacy), RSP or IST (long mode: slot 0-2 RSPn, 4-10 IST1-7). */
void tss_stack(struct cpu *, unsigned cpl, uint16_t *ss, uint32_t *esp);
uint64_t tss_stack64(struct cpu *, unsigned slot);

/* Null SS of 64-bit mode at the given privilege. */
static inline struct x86_segment null_segment(uint16_t sel)
{
    return (struct x86_segment){.sel = sel, .attr = SEG_UNUSABLE | (uint32_t)SEL_RPL(sel) << SEG_DPL_SHIFT};
}

static inline bool cpu_real(const struct cpu *cpu) { return !(cpu->cr0 & CR0_PE); }
static inline bool cpu_v86(const struct cpu *cpu) { return cpu->eflags & RFL_VM; }
static inline bool cpu_code64(const struct cpu *cpu) { return (cpu->mode & MODE_SIZE) == MODE_64; }
static inline unsigned cpu_iopl(const struct cpu *cpu) { return cpu->eflags >> 12 & 3; }
static inline bool cpu_canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* Segments as real and virtual-8086 mode load them. */
struct x86_segment v86_segment(uint16_t sel);

/* cpu/task.c. Switches to the TSS of descriptor `raw` at linear address `at`, checked for type by the caller. */
enum task_switch { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INT };
void task_switch(struct cpu *, uint16_t sel, uint64_t raw, uint64_t at, enum task_switch, uint64_t next_rip);
/* Looks up and checks a TSS selector for JMP, CALL (#GP), or a task gate (#GP; INT the same) and switches. */
void task_switch_to(struct cpu *, uint16_t sel, enum task_switch, uint64_t next_rip);

/* cpu/exc*.c: deliveries by mode. error is pushed if has_error. */
struct event {
    unsigned vector;
    enum exc_kind kind;
    bool has_error;
    uint32_t error;
    uint64_t rip;    /* to be pushed */
    uint32_t rflags; /* to be pushed */
};
void exc_real(struct cpu *, const struct event *);
void exc_prot(struct cpu *, const struct event *);
void exc_long(struct cpu *, const struct event *);

/* INT n, INT3, INTO, INT1 by the instruction being executed. */
void exc_soft(struct cpu *, unsigned vector, enum exc_kind, uint64_t next_rip);

#endif
