/*
 * What a 64-bit payload stands on: long mode with 4 GiB identity-mapped for
 * ring 0, the first GiB again at USER_ALIAS for ring 3, exceptions that come
 * back to who tried something, ports 0xE9 (text) and 0xF4 (exit status).
 *
 * The first GiB above it all (TEST_BASE) belongs to the payload: tables test_pd
 * and test_pt map its first 2 MiB.
 */
#ifndef RT64_H
#define RT64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define USER_ALIAS 0x8000000000ull /* PML4 entry 1 */
#define TEST_BASE 0x10000000000ull /* PML4 entry 2 */

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UCODE32 0x18
#define SEL_UDATA 0x20
#define SEL_UCODE 0x28
#define SEL_TSS 0x30
#define SEL_KCODE32 0x40
#define SEL_GATE 0x48 /* two slots: 64-bit call gate */
#define SEL_CONFORMING 0x58
#define SEL_SPARE 0x60

enum { NONE = 256 }; /* no exception */

struct frame {
    uint64_t gpr[15]; /* r15 ... rax */
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

extern struct frame trap; /* the last exception */
extern uint64_t trap_cr2, trap_dr6;
extern uint64_t user_flags; /* RFLAGS that try_user() starts with */
/* If set, called for each exception; true: go on where it happened. */
extern bool (*trap_hook)(struct frame *);

extern uint64_t gdt[32], pml4[512], test_pdpt[512], test_pd[512], test_pt[512];
extern uint64_t idt[512];
extern uint8_t tss[104];
extern uint8_t kernel_stack_top[], ist_stack_top[];

/* Runs fn(arg) in ring 0 or 3 and returns the vector of the exception that ended it, or NONE. */
unsigned try_kernel(void (*fn)(uint64_t), uint64_t arg);
unsigned try_user(void (*fn)(uint64_t), uint64_t arg);

void check(const char *what, uint64_t got, uint64_t want);
void check_num(const char *what, uint64_t n, uint64_t got, uint64_t want);
void check_true(const char *what, bool ok);
/* All in one: vector and error code of the last trap. */
void expect(const char *what, unsigned got, unsigned vector, uint64_t error);
void put(const char *);
void put_hex(uint64_t);
_Noreturn void finish(void);
void payload(void);

void idt_set(unsigned vector, void *handler, unsigned type_dpl, unsigned ist);
extern uint8_t isr_stubs[]; /* 16 bytes each */

static inline uint64_t rdmsr(uint32_t n)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n));
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t n, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
#define CR(n)                                                                                                          \
    static inline uint64_t read_cr##n(void)                                                                            \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_cr##n(uint64_t v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
CR(0) CR(2) CR(3) CR(4) CR(8) static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline void invlpg(uint64_t a) { __asm__ volatile("invlpg (%0)" : : "r"(a) : "memory"); }
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

#endif
