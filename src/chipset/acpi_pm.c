/*
 * ACPI fixed hardware registers. Specification: ACPI 6.4, chapter 4.8.
 *
 * There is no system management mode behind it: what would raise an SMI while
 * the machine is in legacy mode is recorded and otherwise silent, and SMI_CMD
 * only knows how to enter and leave ACPI mode.
 */
#include "chipset/acpi_pm.h"

#include "chipset/ticks.h"
#include "util/bytes.h"

#define PM_BASE ACPI_PM1A_EVT_PORT
#define PM_LEN 0x19

/* Offsets from PM_BASE, in aligned double words. */
#define OFF_PM1_EVT 0x00
#define OFF_PM1_CNT 0x04
#define OFF_PM_TMR 0x08
#define OFF_GPE0_STS 0x10
#define OFF_GPE0_EN 0x14
#define OFF_RESET 0x18

#define TMR_STS 0x0001
#define BM_STS 0x0010
#define GBL_STS 0x0020
#define PWRBTN_STS 0x0100
#define SLPBTN_STS 0x0200
#define RTC_STS 0x0400
#define WAK_STS 0x8000
#define STS_BITS (TMR_STS | BM_STS | GBL_STS | PWRBTN_STS | SLPBTN_STS | RTC_STS | WAK_STS)
/* TMR_EN, GBL_EN, PWRBTN_EN, SLPBTN_EN and RTC_EN stand where their status does. */
#define EN_BITS (TMR_STS | GBL_STS | PWRBTN_STS | SLPBTN_STS | RTC_STS)

#define SCI_EN 0x0001
#define BM_RLD 0x0002
#define SLP_TYP_SHIFT 10
#define SLP_TYP 0x1c00
#define SLP_EN 0x2000 /* write-only, as GBL_RLS is */
#define CNT_BITS (SCI_EN | BM_RLD | SLP_TYP)

static const struct state_field acpi_pm_fields[] = {
    STATE_FIELD(struct acpi_pm_state, pm1_sts, 1, 0), STATE_FIELD(struct acpi_pm_state, pm1_en, 1, 0),
    STATE_FIELD(struct acpi_pm_state, pm1_cnt, 1, 0), STATE_FIELD(struct acpi_pm_state, gpe0_sts, 1, 0),
    STATE_FIELD(struct acpi_pm_state, gpe0_en, 1, 0), STATE_FIELD(struct acpi_pm_state, gpe0_level, 1, 0),
    STATE_ARRAY(struct acpi_pm_state, apm, 1, 0),     STATE_FIELD(struct acpi_pm_state, age_ns, 1, 0),
    STATE_FIELD(struct acpi_pm_state, toggles, 1, 0),
};
static const struct state_desc acpi_pm_desc = STATE_DESC("acpi_pm", 1, struct acpi_pm_state, acpi_pm_fields);

/* ---- the timer ---- */

static unsigned top_bit(const struct acpi_pm *pm) { return pm->config.tmr_val_ext ? 31 : 23; }

/* In more bits than the guest sees. No lock needed. */
static uint64_t pm_ticks(const struct acpi_pm *pm)
{
    return ns_to_ticks(os_clock_ns() - atomic_load_explicit(&pm->epoch_ns, memory_order_relaxed), ACPI_PM_TMR_HZ);
}

static uint32_t pm_tmr(const struct acpi_pm *pm)
{
    uint32_t v = (uint32_t)pm_ticks(pm);
    return pm->config.tmr_val_ext ? v : v & 0xffffff;
}

/* TMR_STS is set by every change of the top bit. */
static void pm_advance(struct acpi_pm *pm)
{
    uint64_t toggles = pm_ticks(pm) >> top_bit(pm);
    if (toggles != pm->s.toggles) {
        pm->s.toggles = toggles;
        pm->s.pm1_sts |= TMR_STS;
    }
}

/* ---- the SCI ---- */

static void pm_arm(struct acpi_pm *pm)
{
    uint64_t at = NO_DEADLINE;

    if ((pm->s.pm1_en & TMR_STS) && !(pm->s.pm1_sts & TMR_STS) && (pm->s.pm1_cnt & SCI_EN))
        at = deadline_add(atomic_load(&pm->epoch_ns), ticks_to_ns((pm->s.toggles + 1) << top_bit(pm), ACPI_PM_TMR_HZ));
    if (at == pm->armed_ns)
        return;
    pm->armed_ns = at;
    if (at == NO_DEADLINE)
        timer_cancel(&pm->timer);
    else
        timer_set(&pm->timer, at);
}

static void pm_changed(struct acpi_pm *pm)
{
    struct acpi_pm_state *s = &pm->s;

    s->gpe0_sts |= s->gpe0_level;
    bool level = (s->pm1_cnt & SCI_EN) && ((s->pm1_sts & s->pm1_en) || (s->gpe0_sts & s->gpe0_en));
    if (level != pm->level) {
        pm->level = level;
        irq_set(&pm->config.sci, level);
    }
    pm_arm(pm);
}

static void pm_timer(void *arg)
{
    struct acpi_pm *pm = arg;
    pm->armed_ns = NO_DEADLINE;
    pm_advance(pm);
    pm_changed(pm);
}

/* ---- the registers, by aligned double words ---- */

static uint32_t pm_register(const struct acpi_pm *pm, uint64_t reg)
{
    const struct acpi_pm_state *s = &pm->s;
    switch (reg) {
    case OFF_PM1_EVT: return s->pm1_sts | (uint32_t)s->pm1_en << 16;
    case OFF_PM1_CNT: return s->pm1_cnt;
    case OFF_PM_TMR: return pm_tmr(pm);
    case OFF_GPE0_STS: return s->gpe0_sts;
    case OFF_GPE0_EN: return s->gpe0_en;
    default: return 0;
    }
}

/* The bus cuts what the guest does into aligned accesses of 1, 2 or 4 bytes. */
static uint64_t pm_read(void *dev, uint64_t off, unsigned size)
{
    struct acpi_pm *pm = dev;
    uint64_t reg = off & ~UINT64_C(3);
    unsigned shift = (off & 3) * 8;

    if (reg == OFF_PM_TMR)
        return (pm_tmr(pm) >> shift) & size_mask(size);
    pthread_mutex_lock(pm->lock);
    pm_advance(pm);
    pm_changed(pm);
    uint64_t val = pm_register(pm, reg) >> shift;
    pthread_mutex_unlock(pm->lock);
    return val & size_mask(size);
}

/* What a write asks of the machine once the lock is gone. */
struct pm_request {
    bool sleep, reset;
    unsigned type;
};

static void pm_write_register(struct acpi_pm *pm, uint64_t reg, uint32_t val, uint32_t lanes, struct pm_request *req)
{
    struct acpi_pm_state *s = &pm->s;

    switch (reg) {
    case OFF_PM1_EVT:
        s->pm1_sts &= (uint16_t)~val;
        s->pm1_en = (uint16_t)(((s->pm1_en & ~(lanes >> 16)) | val >> 16) & EN_BITS);
        break;
    case OFF_PM1_CNT:
        s->pm1_cnt = (uint16_t)(((s->pm1_cnt & ~lanes) | val) & CNT_BITS);
        if (val & SLP_EN) {
            req->sleep = true;
            req->type = (s->pm1_cnt & SLP_TYP) >> SLP_TYP_SHIFT;
        }
        break;
    case OFF_GPE0_STS: s->gpe0_sts &= ~val; break;
    case OFF_GPE0_EN: s->gpe0_en = (s->gpe0_en & ~lanes) | val; break;
    case OFF_RESET:
        if ((lanes & 0xff) && (val & 0xff) == ACPI_RESET_VALUE)
            req->reset = true;
        break;
    default: break;
    }
}

static void pm_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct acpi_pm *pm = dev;
    uint64_t reg = off & ~UINT64_C(3);
    unsigned shift = (off & 3) * 8;
    struct pm_request req = {0};

    uint32_t lanes = (uint32_t)size_mask(size) << shift;
    pthread_mutex_lock(pm->lock);
    pm_advance(pm);
    pm_write_register(pm, reg, (uint32_t)val << shift & lanes, lanes, &req);
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
    if (req.reset && pm->config.reset)
        pm->config.reset(pm->config.arg);
    else if (req.sleep && pm->config.sleep)
        pm->config.sleep(pm->config.arg, req.type);
}

static uint64_t apm_read(void *dev, uint64_t off, unsigned size)
{
    struct acpi_pm *pm = dev;
    pthread_mutex_lock(pm->lock);
    uint8_t val = pm->s.apm[off & 1];
    pthread_mutex_unlock(pm->lock);
    return val;
}

static void apm_write(void *dev, uint64_t off, unsigned size, uint64_t val)
{
    struct acpi_pm *pm = dev;

    pthread_mutex_lock(pm->lock);
    pm->s.apm[off & 1] = (uint8_t)val;
    if (off == 0 && val == ACPI_ENABLE_VALUE)
        pm->s.pm1_cnt |= SCI_EN;
    else if (off == 0 && val == ACPI_DISABLE_VALUE)
        pm->s.pm1_cnt &= (uint16_t)~SCI_EN;
    pm_advance(pm);
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write, .sizes = 1 | 2 | 4};
static const struct io_ops apm_ops = {.read = apm_read, .write = apm_write, .sizes = 1};

/* ---- events ---- */

bool acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(pm->lock);
    pm->s.pm1_sts |= PWRBTN_STS;
    bool listens = (pm->s.pm1_cnt & SCI_EN) && (pm->s.pm1_en & PWRBTN_STS);
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
    return listens;
}

void acpi_pm_rtc_alarm(struct acpi_pm *pm)
{
    pm->s.pm1_sts |= RTC_STS;
    pm_advance(pm);
    pm_changed(pm);
}

void acpi_pm_wake(struct acpi_pm *pm)
{
    pthread_mutex_lock(pm->lock);
    pm->s.pm1_sts |= WAK_STS;
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
}

static void gpe_set(void *chip, unsigned gpe, bool level)
{
    struct acpi_pm *pm = chip;

    pthread_mutex_lock(pm->lock);
    if (level)
        pm->s.gpe0_level |= 1u << gpe;
    else
        pm->s.gpe0_level &= ~(1u << gpe);
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
}

struct irq_line acpi_pm_gpe(struct acpi_pm *pm, unsigned gpe)
{
    return gpe < 32 ? (struct irq_line){.set = gpe_set, .chip = pm, .pin = gpe} : (struct irq_line){0};
}

/* ---- life ---- */

void acpi_pm_reset(struct acpi_pm *pm)
{
    pthread_mutex_lock(pm->lock);
    uint32_t gpe0_level = pm->s.gpe0_level; /* the inputs are their sources' affair */
    state_reset(&acpi_pm_desc, &pm->s);
    pm->s.gpe0_level = gpe0_level;
    atomic_store(&pm->epoch_ns, os_clock_ns());
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
}

int acpi_pm_save(struct acpi_pm *pm, struct state_blob *out)
{
    pthread_mutex_lock(pm->lock);
    pm_advance(pm);
    pm_changed(pm);
    pm->s.age_ns = os_clock_ns() - atomic_load(&pm->epoch_ns);
    int err = state_save(&acpi_pm_desc, &pm->s, out);
    pthread_mutex_unlock(pm->lock);
    return err;
}

int acpi_pm_load(struct acpi_pm *pm, const uint8_t *data, size_t len, size_t *pos)
{
    struct acpi_pm_state *s = &pm->s;

    pthread_mutex_lock(pm->lock);
    int err = state_load(&acpi_pm_desc, s, data, len, pos);
    s->pm1_sts &= STS_BITS;
    s->pm1_en &= EN_BITS;
    s->pm1_cnt &= CNT_BITS;
    atomic_store(&pm->epoch_ns, os_clock_ns() - s->age_ns);
    pm->level = false;
    irq_set(&pm->config.sci, false);
    pm_changed(pm);
    pthread_mutex_unlock(pm->lock);
    return err;
}

int acpi_pm_init(struct acpi_pm *pm, struct bus *pio, struct loop *loop, pthread_mutex_t *lock,
                 const struct acpi_pm_config *config)
{
    const struct io_range block = {.base = PM_BASE, .len = PM_LEN, .ops = &pm_ops, .dev = pm, .name = "acpi pm"};
    const struct io_range apm = {
        .base = ACPI_SMI_CMD_PORT, .len = 2, .ops = &apm_ops, .dev = pm, .name = "smi command"};

    *pm = (struct acpi_pm){.lock = lock, .config = *config, .armed_ns = NO_DEADLINE};
    state_reset(&acpi_pm_desc, &pm->s);
    atomic_store(&pm->epoch_ns, os_clock_ns());
    timer_init(&pm->timer, loop, lock, pm_timer, pm);
    int err = bus_add(pio, &block);
    return err ? err : bus_add(pio, &apm);
}

void acpi_pm_fini(struct acpi_pm *pm) { timer_cancel(&pm->timer); }
