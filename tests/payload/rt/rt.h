/*
 * The payloads' runtime. A payload is one file with a `void payload(void)`; it
 * runs on the bootstrap processor with interrupts off, all interrupts of the
 * 8259A pair masked and the local APIC enabled. What it finds out it reports
 * through check() and its kin; when it returns, the machine ends with success
 * if no check failed.
 */
#ifndef PAYLOAD_RT_H
#define PAYLOAD_RT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rt/cpu.h"
#include "rt/layout.h"

void payload(void);
void early(void); /* a payload may have one, which runs before anything else and has no interrupts and no console */

/* ---- reports: each is a line `PASS name`, `FAIL name: ...` or `SKIP name: why` ---- */

void check(const char *name, uint64_t found, uint64_t expected);
void check_range(const char *name, uint64_t found, uint64_t low, uint64_t high);
/* What the specification says and QEMU, on which payloads are tried out, does not do: a note there, not a failure. */
void check_strict(const char *name, uint64_t found, uint64_t expected);
void check_true(const char *name, bool truth);
void fail(const char *name, const char *why);
void skip(const char *name, const char *why);
void puts(const char *s); /* a line of talk */
void put_named(const char *name, uint64_t value);
/* "text N" in one of eight buffers that take turns. */
const char *numbered(const char *text, unsigned n);
__attribute__((noreturn)) void finish(void);

/* ---- strings ---- */

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
bool str_equal(const char *a, const char *b);
bool str_contains(const char *s, const char *part);
/* n / d, where the quotient has 32 bits. */
uint32_t divide(uint64_t n, uint32_t d);

/* ---- interrupts ---- */

struct frame {
#ifdef __x86_64__
    uintptr_t r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
    uintptr_t di, si, bp, sp_unused, bx, dx, cx, ax;
#endif
    uintptr_t vector, error, ip, cs, flags;
};

typedef void handler_fn(struct frame *);

/*
 * A vector without a handler: an exception is reported and ends the payload,
 * an interrupt is reported as a failure, once.
 */
void set_handler(unsigned vector, handler_fn *fn);
/* Handlers that do what most need: count in irq_count[CPU][vector], and end the interrupt at its chip. */
void count_lapic(struct frame *); /* EOI to the local APIC */
void count_pic(struct frame *);   /* EOI to the 8259A pair, vector PIC_BASE + IRQ */
void count_only(struct frame *);
extern volatile uint32_t irq_count[MAX_CPUS][256];
unsigned taken(unsigned vector); /* by this CPU, since the last call for this vector */
/* Interrupts on for an instant, so that all that is pending comes. */
void let_in(void);

/* True if the access faulted with #GP (vector 13), which is then skipped. */
bool wrmsr_faults(uint32_t msr, uint64_t v);
bool rdmsr_faults(uint32_t msr);

/* ---- time: by the ACPI PM timer ---- */

#define PM_HZ 3579545u
uint32_t pm_now(void);                      /* 24 bits count */
uint32_t pm_since(uint32_t then);           /* ticks, for up to 4.6 s */
bool us_passed(uint32_t then, uint32_t us); /* at most 4000000 */
void delay_us(uint32_t us);                 /* polls */
/*
 * The frequency of another clock by the PM timer, over so many us (1000 to
 * 1000000): it goes forward by 32 bits' worth at most. A host that takes the
 * CPU from us between two reads does no harm: such samples are thrown away.
 */
uint32_t measure_hz(uint64_t (*clock)(void), uint32_t us);
#define US(n) ((n)*3580u / 1000u)

/* Waits, polling, until the condition holds. False if it did not within so many ms (at most 4000). */
#define WAIT(condition, ms)                                                                                            \
    ({                                                                                                                 \
        uint32_t wait_start_ = pm_now();                                                                               \
        bool wait_good_, wait_late_ = false;                                                                           \
        /* Looks once more after the end: the host may have taken the CPU from us between the two. */                  \
        while (!(wait_good_ = (condition)) && !wait_late_) {                                                           \
            wait_late_ = us_passed(wait_start_, (ms)*1000u);                                                           \
            cpu_pause();                                                                                               \
        }                                                                                                              \
        wait_good_;                                                                                                    \
    })

/* The same with interrupts on, off again afterwards. */
#define WAIT_OPEN(condition, ms)                                                                                       \
    ({                                                                                                                 \
        sti();                                                                                                         \
        bool open_good_ = WAIT(condition, ms);                                                                         \
        cli();                                                                                                         \
        open_good_;                                                                                                    \
    })

/* Halts until this interrupt has come; us since that moment, at most 4 s. */
uint32_t halt_until(unsigned vector, uint32_t since);

/* ---- chips that many payloads need ---- */

#define PIC_BASE 0x20
void pic_init(void); /* vectors PIC_BASE to PIC_BASE + 15, all masked, edge-triggered */
void pic_mask(uint16_t mask);

#define TESTDEV_GSI 0x2000
static inline void gsi(unsigned n, bool level) { outb((uint16_t)(TESTDEV_GSI + n), level); }

uint8_t cmos_read(uint8_t index);
void cmos_write(uint8_t index, uint8_t v);

uint32_t pci_read(unsigned bus, unsigned dev, unsigned func, unsigned reg); /* 32 bits */
void pci_write(unsigned bus, unsigned dev, unsigned func, unsigned reg, uint32_t v);

bool fwcfg_here(void); /* a fw_cfg device answers */

/* An ACPI table by its signature, or NULL. "DSDT" and "FACS" are found through the FADT, "RSD PTR" is the root. */
const uint8_t *acpi_table(const char *signature);
static inline uint32_t le32(const void *p) { return *(const uint32_t *)p; }
static inline uint16_t le16(const void *p) { return *(const uint16_t *)p; }
static inline uint64_t le64(const void *p) { return *(const uint64_t *)p; }
uint8_t byte_sum(const void *p, size_t n);

extern uint32_t multiboot_magic, multiboot_info;
bool on_xhyve(void); /* rather than on the machine that the payloads are developed on */
const char *command_line(void);

/* ---- processors ---- */

unsigned cpu_id(void);                 /* the initial APIC id */
unsigned smp_start(void);              /* starts all others by INIT and SIPI; how many CPUs run then */
void smp_init_and_start(unsigned cpu); /* one of them, again */
bool cpu_online(unsigned cpu);
/* Runs fn on an idle other CPU, interrupts off unless it lets them in; false if that one does not answer. */
bool run_on(unsigned cpu, void (*fn)(void));
bool wait_for(unsigned cpu, uint32_t ms);
#define WAKE_VECTOR 0xfe /* idle CPUs halt with interrupts on; this one wakes them to look for work */

#endif
