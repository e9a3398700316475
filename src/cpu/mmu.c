/*
 * Memory accesses that miss the TLB: translation, page crossing, devices, pages
 * with code, data breakpoints, alignment checks.
 *
 * An access is translated as a whole before its first byte is read or written,
 * so a fault on the second page leaves the first untouched.
 */
#include "cpu/mmu.h"

#include "core/vcpu.h"
#include "cpu/exc.h"
#include "cpu/hooks.h"
#include "cpu/mmu_int.h"

static enum tlb_mode access_mode(const struct cpu *cpu, unsigned access)
{
    if (access & MMU_SYSTEM)
        return TLB_KERNEL; /* AC does not lift SMAP for implicit accesses */
    if (cpu->cpl == 3)
        return TLB_USER;
    return cpu->eflags & RFL_AC ? TLB_KERNEL_AC : TLB_KERNEL;
}

/* A stack reference: through SS, or a push or pop, whose operand lies at the stack pointer. */
static bool is_stack(const struct cpu *cpu, uint64_t lin, unsigned access)
{
    const struct op *op = cpu->op;
    if (access & (MMU_STACK | MMU_SYSTEM))
        return access & MMU_STACK;
    if (op && (OP_IS_MEM(op) || op->base != REG_ZERO)) /* hidden ones too: strings, LEAVE */
        return OP_SEG(op) == SEG_SS;
    return lin - cpu->reg[RSP] + 64 <= 128;
}

/* One page's worth: translates, fills the TLB, raises. */
static void translate(struct cpu *cpu, uint64_t lin, unsigned access, struct xlat *x)
{
    enum tlb_mode mode = access_mode(cpu, access);
    if (UNLIKELY(cpu->long_mode && !mmu_canonical(lin)))
        cpu_raise(cpu, is_stack(cpu, lin, access) ? EXC_SS : EXC_GP, 0);
    if (UNLIKELY(!mmu_translate(cpu, lin, access & (MMU_READ | MMU_WRITE), mode, x)))
        cpu_page_fault(cpu, lin, x->pfec);
    if (UNLIKELY(cpu->hooks) && !cpu->hooks->memory(cpu, lin, x->gpa, access & (MMU_READ | MMU_WRITE)))
        x->write_ok = false;
    if (LIKELY(!(mode == TLB_USER && cpu->tlb == &cpu->tlb_sets[TLB_USER_AC])))
        tlb_fill(cpu, lin, mode, access & MMU_WRITE, x);
}

/* Up to two pieces, one a page. len is at most 4096. */
static unsigned translate_range(struct cpu *cpu, uint64_t lin, unsigned len, unsigned access, struct piece piece[2])
{
    unsigned n = 0;
    uint64_t mask = cpu->long_mode ? ~UINT64_C(0) : UINT64_C(0xffffffff);
    lin &= mask;
    if (UNLIKELY(cpu->long_mode && len && !mmu_canonical(lin + len - 1)))
        cpu_raise(cpu, is_stack(cpu, lin, access) ? EXC_SS : EXC_GP, 0);
    while (len) {
        struct xlat x;
        unsigned part = 4096 - (lin & 0xfff);
        if (part > len)
            part = len;
        translate(cpu, lin, access, &x);
        piece[n++] = (struct piece){.host = x.host, .gpa = x.gpa, .len = part, .rom = x.rom};
        lin = (lin + part) & mask;
        len -= part;
    }
    return n;
}

void mmu_check_alignment(struct cpu *cpu, uint64_t lin, unsigned align)
{
    /* That an address is not canonical comes first. */
    if (UNLIKELY(cpu->tlb == &cpu->tlb_sets[TLB_USER_AC]) && (lin & (align - 1)) &&
        (!cpu->long_mode || mmu_canonical(lin)))
        cpu_raise(cpu, EXC_AC, 0);
}

static void check_alignment(struct cpu *cpu, uint64_t lin, unsigned size)
{
    if ((size & (size - 1)) == 0 && size <= 8)
        mmu_check_alignment(cpu, lin, size);
}

static void check_watch(struct cpu *cpu, uint64_t lin, unsigned len, bool write)
{
    struct mmu *m = mmu_of(cpu);
    for (unsigned i = 0; i < m->nwatch; i++) {
        const struct watch *w = &m->watch[i];
        if ((write || w->reads) && lin < w->lin + w->len && w->lin < lin + len) {
            cpu->db_status |= w->bit;
            atomic_store_explicit(&cpu->exit_request, 1, memory_order_relaxed);
        }
    }
}

/* The largest access of 1, 2, 4 or 8 bytes, aligned if it is one of several. */
static unsigned mmio_part(uint64_t gpa, unsigned len)
{
    if (len == 1 || len == 2 || len == 4 || len == 8)
        return len;
    unsigned part = 8;
    while (part > len || (gpa & (part - 1)))
        part >>= 1;
    return part;
}

static void mmio_read(struct cpu *cpu, uint64_t gpa, uint8_t *buf, unsigned len)
{
    if (cpu->code)
        code_stopped(cpu);
    while (len) {
        unsigned part = mmio_part(gpa, len);
        put_le(buf, vcpu_mmio_read(cpu->vcpu, gpa, part), part);
        gpa += part;
        buf += part;
        len -= part;
    }
    if (cpu->code)
        code_running(cpu);
}

static void mmio_write(struct cpu *cpu, uint64_t gpa, const uint8_t *buf, unsigned len)
{
    if (cpu->code)
        code_stopped(cpu);
    while (len) {
        unsigned part = mmio_part(gpa, len);
        vcpu_mmio_write(cpu->vcpu, gpa, part, get_le(buf, part));
        gpa += part;
        buf += part;
        len -= part;
    }
    if (cpu->code)
        code_running(cpu);
}

static void piece_read(struct cpu *cpu, const struct piece *p, uint8_t *buf)
{
    if (LIKELY(p->host))
        mmu_copy(buf, p->host, p->len);
    else
        mmio_read(cpu, p->gpa, buf, p->len);
}

static void code_touched(struct cpu *cpu, uint64_t gpa, unsigned len)
{
    if (!cpu->code)
        return;
    /* Dekker: our store must be visible before we look whether somebody decoded it. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!code_page_free(cpu, gpa))
        code_written(cpu->code, cpu, gpa, len);
}

static void piece_write(struct cpu *cpu, const struct piece *p, const uint8_t *buf)
{
    if (LIKELY(p->host && !p->rom)) {
        mmu_copy(p->host, buf, p->len);
        code_touched(cpu, p->gpa, p->len);
    } else if (!p->rom) {
        mmio_write(cpu, p->gpa, buf, p->len);
    }
}

uint64_t mmu_load_slow(struct cpu *cpu, uint64_t lin, unsigned size)
{
    struct piece p[2];
    uint64_t v = 0;
    check_alignment(cpu, lin, size);
    unsigned n = translate_range(cpu, lin, size, MMU_READ, p);
    piece_read(cpu, &p[0], (uint8_t *)&v);
    if (n == 2)
        piece_read(cpu, &p[1], (uint8_t *)&v + p[0].len);
    if (UNLIKELY(mmu_of(cpu)->nwatch))
        check_watch(cpu, lin, size, false);
    return v;
}

void mmu_store_slow(struct cpu *cpu, uint64_t lin, unsigned size, uint64_t val)
{
    struct piece p[2];
    check_alignment(cpu, lin, size);
    unsigned n = translate_range(cpu, lin, size, MMU_WRITE, p);
    piece_write(cpu, &p[0], (const uint8_t *)&val);
    if (n == 2)
        piece_write(cpu, &p[1], (const uint8_t *)&val + p[0].len);
    if (UNLIKELY(mmu_of(cpu)->nwatch))
        check_watch(cpu, lin, size, true);
}

/*
 * In place wherever it is RAM of one page, so that LOCK is atomic; a page with
 * code is told afterwards. Else on a copy.
 */
void *mmu_rmw_slow(struct cpu *cpu, uint64_t lin, unsigned size)
{
    struct mmu *m = mmu_of(cpu);
    check_alignment(cpu, lin, size);
    unsigned n = translate_range(cpu, lin, size, MMU_WRITE, m->piece);
    if (UNLIKELY(m->nwatch))
        check_watch(cpu, lin, size, true);
    cpu->rmw_lin = lin;
    cpu->rmw_size = size;
    struct piece *p = m->piece;
    if (n == 1 && p->host && !p->rom) {
        if (cpu->code && !code_page_free(cpu, p->gpa)) {
            m->rmw_kind = RMW_CODE;
            cpu->rmw_pending = true;
        }
        return p->host;
    }
    m->rmw_kind = RMW_COPY;
    cpu->rmw_pending = true;
    if (n == 2 && p[0].host && p[1].host &&
        cpu->code) { /* such accesses exclude each other; with others only their halves are atomic */
        code_lock_crossing(cpu->code);
        m->rmw_kind = RMW_CROSSING;
    }
    p[1].len = n == 2 ? p[1].len : 0;
    piece_read(cpu, &p[0], (uint8_t *)cpu->bounce);
    if (n == 2)
        piece_read(cpu, &p[1], (uint8_t *)cpu->bounce + p[0].len);
    return cpu->bounce;
}

void mmu_rmw_commit(struct cpu *cpu)
{
    struct mmu *m = mmu_of(cpu);
    struct piece *p = m->piece;
    cpu->rmw_pending = false;
    if (m->rmw_kind == RMW_CODE) {
        code_touched(cpu, p[0].gpa, cpu->rmw_size);
        return;
    }
    piece_write(cpu, &p[0], (const uint8_t *)cpu->bounce);
    if (p[1].len)
        piece_write(cpu, &p[1], (const uint8_t *)cpu->bounce + p[0].len);
    if (m->rmw_kind == RMW_CROSSING)
        code_unlock_crossing(cpu->code);
}

void mmu_rmw_abandon(struct cpu *cpu)
{
    if (UNLIKELY(cpu->rmw_pending) && mmu_of(cpu)->rmw_kind == RMW_CROSSING)
        code_unlock_crossing(cpu->code);
    cpu->rmw_pending = false;
}

/* The TLB of an access, and its entry for [lin, lin+len). */
static struct tlb_set *access_set(const struct cpu *cpu, unsigned access)
{
    return access & MMU_SYSTEM ? &cpu->tlb_sets[TLB_KERNEL] : cpu->tlb;
}
static void *hit(struct tlb_entry *table, uint64_t lin, size_t len)
{
    const struct tlb_entry *e = tlb_slot(table, lin);
    uint64_t off = lin + e->neg_page;
    return len <= 4096 && off <= 4096 - len ? tlb_host(e, lin) : NULL;
}

void mmu_read(struct cpu *cpu, uint64_t lin, void *buf, size_t len, unsigned access)
{
    uint8_t *to = buf;
    access &= ~(unsigned)MMU_WRITE;
    const void *quick = hit(access_set(cpu, access)->r, lin, len);
    if (LIKELY(quick)) {
        mmu_copy(to, quick, (unsigned)len);
        return;
    }
    if (UNLIKELY(mmu_of(cpu)->nwatch) && !(access & MMU_SYSTEM))
        check_watch(cpu, lin, (unsigned)len, false);
    while (len) {
        struct piece p[2];
        unsigned part = len > 4096 ? 4096 : (unsigned)len;
        unsigned n = translate_range(cpu, lin, part, access, p);
        piece_read(cpu, &p[0], to);
        if (n == 2)
            piece_read(cpu, &p[1], to + p[0].len);
        to += part;
        lin += part;
        len -= part;
    }
}

void mmu_probe_write(struct cpu *cpu, uint64_t lin, size_t len, unsigned access)
{
    while (len) {
        struct piece p[2];
        unsigned part = len > 4096 ? 4096 : (unsigned)len;
        if (!hit(access_set(cpu, access)->w, lin, part))
            translate_range(cpu, lin, part, access | MMU_WRITE, p);
        lin += part;
        len -= part;
    }
}

void mmu_write(struct cpu *cpu, uint64_t lin, const void *buf, size_t len, unsigned access)
{
    const uint8_t *from = buf;
    access |= MMU_WRITE;
    void *quick = hit(access_set(cpu, access)->w, lin, len);
    if (LIKELY(quick)) {
        mmu_copy(quick, from, (unsigned)len);
        return;
    }
    if (len > 4096)
        mmu_probe_write(cpu, lin, len, access);
    if (UNLIKELY(mmu_of(cpu)->nwatch) && !(access & MMU_SYSTEM))
        check_watch(cpu, lin, (unsigned)len, true);
    while (len) {
        struct piece p[2];
        unsigned part = len > 4096 ? 4096 : (unsigned)len;
        unsigned n = translate_range(cpu, lin, part, access, p);
        piece_write(cpu, &p[0], from);
        if (n == 2)
            piece_write(cpu, &p[1], from + p[0].len);
        from += part;
        lin += part;
        len -= part;
    }
}

uint64_t mmu_sys_load(struct cpu *cpu, uint64_t lin, unsigned size)
{
    uint64_t v = 0;
    mmu_read(cpu, lin, &v, size, MMU_SYSTEM);
    return v;
}

void mmu_sys_store(struct cpu *cpu, uint64_t lin, unsigned size, uint64_t val)
{
    mmu_write(cpu, lin, &val, size, MMU_SYSTEM | MMU_WRITE);
}
