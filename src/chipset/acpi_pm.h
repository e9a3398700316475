/*
 * The fixed hardware of ACPI: PM1a event and control blocks, the power
 * management timer, GPE block 0, the SMI command port and a reset register.
 * What the ACPI tables must say about it is here.
 */
#ifndef XHYVE_CHIPSET_ACPI_PM_H
#define XHYVE_CHIPSET_ACPI_PM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/bus.h"
#include "core/irq.h"
#include "core/state.h"
#include "os/loop.h"

/* I/O ports, for the FADT; clear of 0x402, where firmware looks for a debug console. */
#define ACPI_PM1A_EVT_PORT 0x600 /* PM1a_EVT_BLK, 4 bytes: status, enable */
#define ACPI_PM1A_EVT_LEN 4
#define ACPI_PM1A_CNT_PORT 0x604 /* PM1a_CNT_BLK, 2 bytes */
#define ACPI_PM1A_CNT_LEN 2
#define ACPI_PM_TMR_PORT 0x608 /* PM_TMR_BLK, 4 bytes */
#define ACPI_PM_TMR_LEN 4
#define ACPI_GPE0_PORT 0x610 /* GPE0_BLK, 8 bytes: 32 status bits, 32 enable bits */
#define ACPI_GPE0_LEN 8
#define ACPI_RESET_PORT 0x618   /* RESET_REG, 1 byte */
#define ACPI_RESET_VALUE 0x06   /* RESET_VALUE */
#define ACPI_SMI_CMD_PORT 0xb2  /* SMI_CMD */
#define ACPI_ENABLE_VALUE 0xe1  /* written there: ACPI_ENABLE ... */
#define ACPI_DISABLE_VALUE 0x1e /* ... and ACPI_DISABLE */
#define ACPI_SCI_IRQ 9          /* SCI_INT */
/* FADT flags that describe us: TMR_VAL_EXT only if init was told so; fixed power button; RTC alarm in PM1. */
#define ACPI_PM_TMR_HZ 3579545

/* SLP_TYPx values, for the _Sx objects. */
#define ACPI_SLP_TYP_S5 5

struct acpi_pm_state {
    uint16_t pm1_sts, pm1_en, pm1_cnt;
    uint32_t gpe0_sts, gpe0_en;
    uint32_t gpe0_level; /* inputs that are high */
    uint8_t apm[2];      /* ports 0xB2 and 0xB3 as last written */
    uint64_t age_ns;     /* time since the PM timer was zero: made for save, used by load */
    uint64_t toggles;    /* changes of the PM timer's top bit that TMR_STS knows of */
};

struct acpi_pm_config {
    bool tmr_val_ext;    /* the PM timer has 32 bits, not 24 */
    struct irq_line sci; /* level, active high */
    /* The guest has set SLP_EN; `type` is SLP_TYP, 0 to 7. vCPU thread, no lock of ours held. */
    void (*sleep)(void *arg, unsigned type);
    void (*reset)(void *arg); /* the reset register was written; the same */
    void *arg;
};

struct acpi_pm {
    struct acpi_pm_state s;
    _Atomic uint64_t epoch_ns; /* os_clock_ns() at which the PM timer was zero */
    pthread_mutex_t *lock;
    struct acpi_pm_config config;
    struct timer timer;
    uint64_t armed_ns;
    bool level; /* what the SCI was last told */
};

/* Adds all of it to the I/O port bus. `lock` is the chipset lock. 0 or -errno. */
int acpi_pm_init(struct acpi_pm *, struct bus *pio, struct loop *, pthread_mutex_t *lock,
                 const struct acpi_pm_config *);
void acpi_pm_fini(struct acpi_pm *);
void acpi_pm_reset(struct acpi_pm *);

/*
 * Presses the power button. True if the guest's OS listens (ACPI mode, button
 * enabled); if not, the press is remembered and nobody will notice. Any thread.
 */
bool acpi_pm_power_button(struct acpi_pm *);

/* The RTC's alarm has come: RTC_STS. Under the chipset lock. */
void acpi_pm_rtc_alarm(struct acpi_pm *);

/* The machine goes on after a sleeping state: WAK_STS. Any thread. */
void acpi_pm_wake(struct acpi_pm *);

/* General purpose event 0 to 31: its status bit is set while the wire is high. Any thread. */
struct irq_line acpi_pm_gpe(struct acpi_pm *, unsigned gpe);

/* 0 or -errno. */
int acpi_pm_save(struct acpi_pm *, struct state_blob *out);
int acpi_pm_load(struct acpi_pm *, const uint8_t *data, size_t len, size_t *pos);

#endif
