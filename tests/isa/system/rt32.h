/*
 * What a 32-bit payload stands on: flat protected mode without paging,
 * exceptions that come back to who tried something, ports 0xE9 (text) and 0xF4
 * (exit status).
 */
#ifndef RT32_H
#define RT32_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UCODE 0x18
#define SEL_UDATA 0x20
#define SEL_TSS 0x28
#define SEL_KCODE16 0x30
#define SEL_KDATA16 0x38
#define SEL_TEST 0x40 /* from here on: the payload's */

enum { NONE = 256 };

struct frame {
    uint32_t gs, fs, es, ds;
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
    uint32_t vector, error, eip, cs, eflags;
    uint32_t esp, ss;                        /* from another privilege level */
    uint32_t v86_es, v86_ds, v86_fs, v86_gs; /* from virtual-8086 mode */
};
extern struct frame trap;
extern uint32_t trap_cr2;
extern uint32_t user_flags;
extern bool (*trap_hook)(struct frame *);

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
};
extern struct tss32 tss;
extern uint64_t gdt[64], idt[256];
extern uint8_t isr_stubs[], kernel_stack_top[], ring0_stack_top[], user_stack_top[];

unsigned try_kernel(void (*fn)(uint32_t), uint32_t arg);
unsigned try_user(void (*fn)(uint32_t), uint32_t arg);
unsigned try_iret(const uint32_t *words, unsigned n); /* pushes n words, the last first, and IRETs */

void check(const char *what, uint32_t got, uint32_t want);
void check_num(const char *what, uint32_t n, uint32_t got, uint32_t want);
void expect(const char *what, unsigned got, unsigned vector, uint32_t error);
void put(const char *);
void put_hex(uint32_t);
_Noreturn void finish(void);
void payload(void);

void idt_set(unsigned vector, uint32_t sel, uint32_t off, unsigned type_dpl);
/* attr: access byte, and G and D/B in bits 15 and 14 */
uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr);
uint64_t gate(uint32_t sel, uint32_t off, unsigned type_dpl, unsigned params);

#define CR(n)                                                                                                          \
    static inline uint32_t read_cr##n(void)                                                                            \
    {                                                                                                                  \
        uint32_t v;                                                                                                    \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                                 \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_cr##n(uint32_t v) { __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory"); }
CR(0) CR(2) CR(3) CR(4) static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void invlpg(uint32_t a) { __asm__ volatile("invlpg (%0)" : : "r"(a) : "memory"); }

#endif
