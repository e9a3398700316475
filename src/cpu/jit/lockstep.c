/*
 * Lockstep (-o jit.lockstep=1): every block is run by the interpreter and then
 * by generated code, from the same state, and the outcomes are compared.
 *
 *   1. The interpreter runs the block's instructions one by one. Before each,
 *      the state is kept, and the bytes that it may write.
 *   2. The writes are undone, the state of the beginning is put back.
 *   3. Generated code runs, one block, and leaves: at the block's end, or at an
 *      instruction that it has for the interpreter.
 *   4. Registers must be those of the interpreter before that instruction, and
 *      every page that was written must be as it was then.
 *
 * The interpreter stops early at what cannot be undone or raises: devices,
 * faults, stores into pages of code. Generated code must leave there too. What
 * has no defined outcome (time, random numbers) is not compared.
 *
 * Flags that the manuals leave undefined are not compared, nor those which the
 * rest of a block, or the code behind it, certainly overwrites before anybody
 * looks at them: a block that goes on there must not need them. Pages that are
 * written are compared whole, so a store that went astray near the right place
 * is seen, one that went far is not.
 */
#include <stdio.h>
#include <sys/mman.h>

#include "core/vm.h"
#include "cpu/block.h"
#include "cpu/exc.h"
#include "cpu/flags.h"
#include "cpu/form.h"
#include "cpu/jit/int.h"
#include "cpu/mmu_int.h"
#include "util/bytes.h"
#include "util/log.h"

#define MAX_OPERANDS 3
#define MAX_PIECES 512        /* of memory that a block writes */
#define MAX_BYTES (64 * 1024) /* in all */
#define MAX_PAGES 64
#define MAX_KNOWN (256 * 1024)
#define ARENA_SIZE MiB(512) /* of what is known of blocks; emptied when it is full */

/* -- what is known of an instruction -- */

enum place { PLACE_PLAIN, PLACE_PUSH, PLACE_POP, PLACE_STRING, PLACE_BITS };

struct operand {
    int8_t base, index; /* guest registers, -1: none */
    uint8_t scale, segment, place;
    bool write, narrow, wrap; /* narrow: a 32-bit offset; wrap: a 32-bit address */
    uint16_t size;            /* bytes */
    int64_t disp;             /* RIP and all */
    int8_t bit;               /* PLACE_BITS: the register that says which */
};

struct step {
    struct operand operand[MAX_OPERANDS];
    uint8_t noperands, len;
    bool branch, repeats, wide_state, undefined; /* undefined: its outcome differs from run to run */
    uint16_t live;                               /* flags that it or the rest of the block needs */
    uint16_t open, kills;                        /* flags it leaves undefined, and that it certainly writes */
};

struct known_block {
    uint64_t rip;
    unsigned n;
    uint16_t live;  /* flags needed behind it */
    struct op *ops; /* and a link */
    struct step *steps;
};

/* -- states -- */

/* The parts of struct cpu that instructions change. What lies between, exit_request, is not ours. */
#define FRONT_SIZE offsetof(struct cpu, words)
#define BACK_AT offsetof(struct cpu, seg)
#define BACK_SIZE (offsetof(struct cpu, tlb_sets) - BACK_AT)

struct front {
    uint8_t bytes[FRONT_SIZE] __attribute__((aligned(64)));
};
struct back {
    uint8_t bytes[BACK_SIZE] __attribute__((aligned(16)));
};

struct written {
    uint8_t *host;
    unsigned len, step, at; /* at: of its bytes in `old` and `new` */
};

enum stop { STOP_END, STOP_MUST, STOP_MAY };

struct lockstep {
    struct known_block known[MAX_KNOWN]; /* by the number of the jit_block */
    uint32_t nknown;                     /* those beyond are empty */
    uint8_t arena[ARENA_SIZE] __attribute__((aligned(64)));
    size_t arena_used;
    struct front front[JIT_MAX_INSNS + 1];
    struct back back[JIT_MAX_INSNS + 1];
    uint8_t back_of[JIT_MAX_INSNS + 1]; /* which of `back` belongs to a step */
    uint64_t rip[JIT_MAX_INSNS + 1];
    unsigned steps, nback; /* done by the interpreter */
    enum stop stop;
    struct written piece[MAX_PIECES];
    unsigned npieces, nbytes;
    uint8_t old[MAX_BYTES], new[MAX_BYTES];
    uint8_t *page[MAX_PAGES];
    unsigned npages;
    uint8_t expected[MAX_PAGES][4096];
    uint64_t compared, cut, unknown;
    bool walked;     /* generated code has missed the TLB */
    uint64_t next;   /* where it went last, */
    uint16_t spoilt; /* and the flags that it has not kept; 0: none, or other code ran since */
    bool differs;
};

/* All at once, and touched as it is used: malloc() would make system calls that the sandbox forbids. */
struct lockstep *lockstep_new(void)
{
    void *p = mmap(NULL, sizeof(struct lockstep), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void lockstep_flush(struct lockstep *l)
{
    if (!l)
        return;
    memset(l->known, 0, l->nknown * sizeof *l->known);
    l->nknown = 0;
    l->arena_used = 0;
}

void lockstep_free(struct lockstep *l)
{
    if (l)
        munmap(l, sizeof *l);
}

bool lockstep_failed(const struct lockstep *l) { return l->differs; }
uint64_t lockstep_compared(const struct lockstep *l) { return l->compared; }

void lockstep_print(const struct lockstep *l, unsigned n)
{
    log_info("cpu %u: lockstep: %llu blocks compared, %llu of them up to where generated code left early, %llu not "
             "comparable",
             n, (unsigned long long)l->compared, (unsigned long long)l->cut, (unsigned long long)l->unknown);
}

static void keep_front(struct front *f, const struct cpu *cpu) { memcpy(f->bytes, cpu, FRONT_SIZE); }

static void put_front(struct cpu *cpu, const struct front *f)
{
    const size_t hole = offsetof(struct cpu, exit_request), behind = offsetof(struct cpu, mode);
    memcpy(cpu, f->bytes, hole);
    memcpy((uint8_t *)cpu + behind, f->bytes + behind, FRONT_SIZE - behind);
}

static void keep_back(struct back *b, const struct cpu *cpu)
{
    memcpy(b->bytes, (const uint8_t *)cpu + BACK_AT, BACK_SIZE);
}
static void put_back(struct cpu *cpu, const struct back *b) { memcpy((uint8_t *)cpu + BACK_AT, b->bytes, BACK_SIZE); }

/* -- decoding -- */

static int guest_register(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15    ? (int)(r - ZYDIS_REGISTER_RAX)
           : r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D ? (int)(r - ZYDIS_REGISTER_EAX)
                                                                 : -1;
}

static bool is_string(const struct insn *in) { return in->z.meta.category == ZYDIS_CATEGORY_STRINGOP; }

static bool open_outcome(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDPID: return true;
    default: return false;
    }
}

static void describe_operand(struct operand *d, const struct insn *in, const ZydisDecodedOperand *o, uint64_t next)
{
    bool hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN;
    bool write = o->actions & (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE);
    bool stack = hidden && (o->mem.base == ZYDIS_REGISTER_RSP || o->mem.base == ZYDIS_REGISTER_ESP);
    *d = (struct operand){.base = (int8_t)guest_register(o->mem.base),
                          .index = (int8_t)guest_register(o->mem.index),
                          .scale = o->mem.scale,
                          .segment = o->mem.segment == ZYDIS_REGISTER_FS   ? SEG_FS
                                     : o->mem.segment == ZYDIS_REGISTER_GS ? SEG_GS
                                                                           : SEG_DS,
                          .write = write,
                          .narrow = in->z.address_width == 32 && !(stack && o->mem.base == ZYDIS_REGISTER_RSP),
                          .wrap = in->z.machine_mode != ZYDIS_MACHINE_MODE_LONG_64,
                          .size = (uint16_t)(o->size / 8),
                          .disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0,
                          .bit = -1};
    if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
        d->disp += (int64_t)next;
    if (stack && write)
        d->place = PLACE_PUSH;
    else if (is_string(in))
        d->place = PLACE_STRING;
    else if (in->z.mnemonic == ZYDIS_MNEMONIC_POP && write && d->base == RSP)
        d->place = PLACE_POP;
    else if ((in->z.mnemonic == ZYDIS_MNEMONIC_BT || in->z.mnemonic == ZYDIS_MNEMONIC_BTC ||
              in->z.mnemonic == ZYDIS_MNEMONIC_BTR || in->z.mnemonic == ZYDIS_MNEMONIC_BTS) &&
             in->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
        d->place = PLACE_BITS;
        d->bit = (int8_t)tr_gpr(in->op[1].reg.value);
    }
}

/* Flags of which the manual says nothing, or nothing for some counts. */
static uint16_t open_flags(const struct insn *in)
{
    const ZydisAccessedFlags *f = in->z.cpu_flags;
    uint16_t open = f ? (uint16_t)(f->undefined & RFL_ARITH) : 0;
    switch (in->z.mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR: return open | RFL_OF | RFL_AF | RFL_CF;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: return RFL_ARITH;
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR: return open | RFL_OF;
    default: return open;
    }
}

/* Whether it may change more than general registers and flags. */
static bool is_wide(const struct tr *t, const struct insn *in)
{
    if (tr_is_branch(in))
        return in->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    return !tr_is_integer(t, in) && !is_string(in);
}

static void describe(struct step *s, const struct tr *t, const struct insn *in, uint64_t next)
{
    *s = (struct step){.len = in->z.length,
                       .branch = tr_is_branch(in),
                       .repeats = is_string(in),
                       .undefined = open_outcome(in->z.mnemonic),
                       .wide_state = is_wide(t, in),
                       .live = flag_use_of(in).needs,
                       .open = open_flags(in),
                       .kills = flag_use_of(in).kills};
    if (in->z.mnemonic == ZYDIS_MNEMONIC_DIV || in->z.mnemonic == ZYDIS_MNEMONIC_IDIV)
        s->kills = RFL_ARITH; /* all undefined: they are lost even where the interpreter will raise #DE */
    for (unsigned i = 0; i < in->z.operand_count; i++) {
        const ZydisDecodedOperand *o = &in->op[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY || o->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
            in->z.mnemonic == ZYDIS_MNEMONIC_NOP || in->z.meta.category == ZYDIS_CATEGORY_PREFETCH)
            continue;
        if (s->noperands < MAX_OPERANDS)
            describe_operand(&s->operand[s->noperands++], in, o, next);
    }
}

/* As the translator sees it. */
static void set_liveness(struct known_block *k)
{
    uint16_t live = k->live;
    for (unsigned i = k->n; i-- > 0;) {
        struct step *s = &k->steps[i];
        live = (uint16_t)((live & ~s->kills) | s->live);
        s->live = live;
    }
}

/* The guest's code of a block, at most a page of it; an instruction on two pages has its end wherever that page is. */
static bool read_code(const struct cpu *cpu, const struct jit_block *b, uint8_t *out)
{
    const struct guest_mem *mem = &cpu->vcpu->vm->mem;
    uint32_t here = 4096 - (uint32_t)(b->gpa & 0xfff);
    if (!b->id2)
        return mem_read(mem, b->gpa, out, b->len) == 0;
    return mem_read(mem, b->gpa, out, here) == 0 &&
           mem_read(mem, cpu->jit->pages[b->id2].gpa << 12, out + here, b->len - here) == 0;
}

static struct known_block *known(struct cpu *cpu, const struct jit_block *b)
{
    struct lockstep *l = cpu->jit->lockstep;
    uint32_t n = (uint32_t)(b - cpu->jit->blocks);
    const size_t ops = (JIT_MAX_INSNS + 2) * sizeof(struct op), steps = JIT_MAX_INSNS * sizeof(struct step);
    if (n >= MAX_KNOWN)
        return NULL;
    struct known_block *k = &l->known[n];
    if (k->ops && k->rip == b->rip)
        return k;
    if (l->arena_used + ops + steps + 64 > ARENA_SIZE)
        lockstep_flush(l);
    if (n >= l->nknown)
        l->nknown = n + 1;
    uint8_t bytes[4096];
    bool there = read_code(cpu, b, bytes);
    *k = (struct known_block){.rip = b->rip, .live = b->live};
    k->ops = (struct op *)(void *)(l->arena + l->arena_used);
    memset(k->ops, 0, ops);
    k->steps = (struct step *)(void *)(l->arena + l->arena_used + ops);
    for (unsigned at = 0; there && at < b->len && k->n < JIT_MAX_INSNS; k->n++) {
        struct insn in;
        bool ends;
        struct op *op = &k->ops[k->n];
        if (insn_decode((cpu->mode & MODE_SIZE) == MODE_64 ? 64 : 32, 0, bytes + at, b->len - at, &in))
            break;
        in.mode = cpu->mode;
        lower_insn(cpu, &in, (unsigned)(b->rip & 0xfff) + at, op, &ends);
        op->off = (uint16_t)((op->off & ~0xfff) | (((b->rip & 0xfff) + at) & 0xfff));
        op->len = (uint8_t)((op->len & 0xf0) | in.z.length);
        at += in.z.length;
        describe(&k->steps[k->n], &cpu->jit->tr, &in, b->rip + at);
    }
    set_liveness(k);
    l->arena_used = align_up(l->arena_used + ops + k->n * sizeof *k->steps, 64);
    return k->n ? k : NULL;
}

/* -- memory -- */

static uint8_t *host_of_byte(struct cpu *cpu, uint64_t lin, bool write, bool *mapped)
{
    uint64_t gpa;
    uint8_t *p = write ? mmu_hit_w(cpu, lin, 1) : mmu_hit_r(cpu, lin, 1);
    *mapped = true;
    if (p)
        return p;
    *mapped = mmu_canonical(lin) && mmu_peek(cpu, lin, &gpa);
    if (!*mapped || (write && !code_page_clean(cpu->code, gpa)))
        return NULL;
    const struct mem_region *r = mem_find(&cpu->vcpu->vm->mem, gpa);
    return !r || (write && r->readonly) ? NULL : r->host + (gpa - r->gpa);
}

static bool add_page(struct lockstep *l, uint8_t *host)
{
    uint8_t *page = host - ((uintptr_t)host & 0xfff);
    for (unsigned i = 0; i < l->npages; i++)
        if (l->page[i] == page)
            return true;
    if (l->npages == MAX_PAGES)
        return false;
    l->page[l->npages++] = page;
    return true;
}

/* Keeps what the step may write. STOP_END: go on. */
static enum stop look_at_memory(struct cpu *cpu, uint64_t lin, uint64_t len, bool write)
{
    struct lockstep *l = cpu->jit->lockstep;
    if (len > MAX_BYTES / 4)
        return STOP_MAY;
    while (len) {
        bool mapped;
        unsigned n = 4096 - (unsigned)(lin & 0xfff);
        if (n > len)
            n = (unsigned)len;
        uint8_t *host = host_of_byte(cpu, lin, write, &mapped);
        if (!mapped)
            return STOP_END; /* the instruction will raise, and say so itself */
        if (!host)
            return STOP_MUST; /* a device, ROM, or code */
        if (write) {
            if (l->npieces == MAX_PIECES || l->nbytes + n > MAX_BYTES || !add_page(l, host))
                return STOP_MAY;
            l->piece[l->npieces++] = (struct written){host, n, l->steps, l->nbytes};
            memcpy(l->old + l->nbytes, host, n);
            l->nbytes += n;
        }
        lin += n;
        len -= n;
    }
    return STOP_END;
}

static enum stop look_at_operand(struct cpu *cpu, const struct step *s, const struct op *op, const struct operand *o)
{
    uint64_t lin = (uint64_t)o->disp, len = o->size;
    if (o->base >= 0)
        lin += cpu->reg[o->base];
    if (o->index >= 0)
        lin += cpu->reg[o->index] * o->scale;
    if (o->place == PLACE_PUSH)
        lin -= o->size;
    if (o->place == PLACE_POP)
        lin += o->size;
    if (o->place == PLACE_BITS && o->bit >= 0) {
        int64_t bit = o->size == 8   ? (int64_t)cpu->reg[o->bit]
                      : o->size == 4 ? (int32_t)cpu->reg[o->bit]
                                     : (int16_t)cpu->reg[o->bit];
        lin += (uint64_t)((bit >> (o->size == 8 ? 6 : o->size == 4 ? 5 : 4)) * o->size);
    }
    if (o->narrow)
        lin = (uint32_t)lin;
    if (o->segment != SEG_DS)
        lin += cpu->seg[o->segment].base;
    if (o->wrap)
        lin = (uint32_t)lin;
    if (s->repeats && op->len & (OP_REP | OP_REPNE)) {
        uint64_t count = o->narrow ? (uint32_t)cpu->reg[RCX] : cpu->reg[RCX];
        if (count > MAX_BYTES / 4)
            return STOP_MAY;
        len *= count;
        if (cpu->eflags & RFL_DF && count)
            lin -= len - o->size;
    }
    return look_at_memory(cpu, lin, len, o->write);
}

static void undo(struct lockstep *l)
{
    for (unsigned i = l->npieces; i-- > 0;)
        memcpy(l->piece[i].host, l->old + l->piece[i].at, l->piece[i].len);
}

/* -- the interpreter's turn -- */

static const struct op *one(struct cpu *cpu, const struct op *op, const struct step *s)
{
    for (;;) {
        cpu->op = op;
        const struct op *next = op->fn(cpu, op);
        if (next || !s->repeats || cpu->rip != cpu_rip(cpu, op))
            return next;
    }
}

static void keep_state(struct cpu *cpu, bool with_back)
{
    struct lockstep *l = cpu->jit->lockstep;
    keep_front(&l->front[l->steps], cpu);
    if (with_back)
        keep_back(&l->back[l->nback++], cpu);
    l->back_of[l->steps] = (uint8_t)(l->nback - 1);
}

static void interpret(struct cpu *cpu, const struct known_block *k)
{
    struct lockstep *l = cpu->jit->lockstep;
    jmp_buf outer;
    memcpy(outer, cpu->fault, sizeof outer);
    l->steps = l->nback = l->npieces = l->nbytes = l->npages = 0;
    l->stop = STOP_END;
    cpu->reg[REG_IP] = k->rip & ~UINT64_C(0xfff);
    l->rip[0] = k->rip;
    keep_state(cpu, true);
    if (setjmp(cpu->fault)) {
        l->stop = STOP_MUST;
    } else {
        while (l->steps < k->n) {
            const struct step *s = &k->steps[l->steps];
            const struct op *op = &k->ops[l->steps];
            unsigned first = l->npieces;
            if (s->undefined)
                l->stop = STOP_MAY;
            for (unsigned i = 0; i < s->noperands && l->stop == STOP_END; i++)
                l->stop = look_at_operand(cpu, s, op, &s->operand[i]);
            if (l->stop != STOP_END)
                break;
            const struct op *next = one(cpu, op, s);
            for (unsigned i = first; i < l->npieces; i++)
                memcpy(l->new + l->piece[i].at, l->piece[i].host, l->piece[i].len);
            l->rip[++l->steps] = next ? k->rip - (k->rip & 0xfff) + OP_OFF(op) + OP_LEN(op) : cpu->rip;
            keep_state(cpu, s->wide_state);
        }
    }
    memcpy(cpu->fault, outer, sizeof outer);
    undo(l);
    put_front(cpu, &l->front[0]);
    put_back(cpu, &l->back[0]);
    memcpy(cpu->fault, outer, sizeof outer);
    for (unsigned i = 0; i < l->npages; i++)
        memcpy(l->expected[i], l->page[i], 4096);
}

/* -- comparing -- */

static const char *const reg_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static unsigned bits_of(const struct cpu *cpu) { return (cpu->mode & MODE_SIZE) == MODE_64 ? 64 : 32; }

static void disassemble(const char *what, unsigned bits, const uint8_t *bytes, size_t n, uint64_t address)
{
    ZydisFormatter formatter;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    log_error("%s:", what);
    for (size_t at = 0; at < n;) {
        struct insn in;
        char text[128];
        const unsigned long long where = address + at;
        if (insn_decode(bits, 0, bytes + at, n - at < 15 ? n - at : 15, &in)) {
            log_error("  %016llx  .byte %02x", where, bytes[at]);
            at++;
            continue;
        }
        ZydisFormatterFormatInstruction(&formatter, &in.z, in.op, in.z.operand_count_visible, text, sizeof text,
                                        address + at, NULL);
        log_error("  %016llx  %s", where, text);
        at += in.z.length;
    }
}

static void print_word(const char *name, uint64_t before, uint64_t wanted, uint64_t found)
{
    log_error("  %-6s %016llx  ->  interpreter %016llx  generated code %016llx%s", name, (unsigned long long)before,
              (unsigned long long)wanted, (unsigned long long)found, wanted == found ? "" : "  <--");
}

/* The flags that count after `steps` instructions: the manuals say something of them, and somebody looks at them. */
static uint32_t flag_mask(const struct known_block *k, unsigned steps)
{
    uint32_t open = 0;
    for (unsigned i = 0; i < steps; i++)
        open = (open & ~(uint32_t)k->steps[i].kills) | k->steps[i].open;
    uint32_t dead = RFL_ARITH & ~(uint32_t)(steps < k->n ? k->steps[steps].live : k->live);
    return ~open & ~dead;
}

static const struct cpu *state_of(const struct front *f) { return (const struct cpu *)(const void *)f->bytes; }

/* All vector and x87 registers and their control words; not FOP, FIP and FDP, nor which of them are in their initial state. */
static bool same_vectors(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, 6) == 0 && memcmp(a + 24, b + 24, 4) == 0 && memcmp(a + 32, b + 32, 384) == 0 &&
           memcmp(a + 576, b + 576, 256) == 0;
}

static bool same_back(const struct cpu *cpu, const struct back *want)
{
    const size_t vectors = offsetof(struct cpu, xsave) - BACK_AT;
    const uint8_t *now = (const uint8_t *)cpu + BACK_AT;
    return memcmp(now, want->bytes, vectors) == 0 && same_vectors(now + vectors, want->bytes + vectors);
}

/*
 * Both take the same TLB, but not always: a full one may serve the interpreter alone, from tables that have been
 * changed since. Then generated code alone has set A and D in a table, and it may be one of the pages.
 */
static bool same_but_for_walks(const uint8_t *wanted, const uint8_t *found)
{
    enum { A = 1 << 5, D = 1 << 6 };
    for (unsigned i = 0; i < 4096; i++)
        if (wanted[i] != found[i] && (i % 4 || (wanted[i] & ~found[i]) || (found[i] & ~wanted[i] & ~(A | D))))
            return false;
    return true;
}

static bool same_memory(struct lockstep *l, unsigned steps)
{
    for (unsigned i = 0; i < l->npieces; i++) {
        const struct written *p = &l->piece[i];
        if (p->step >= steps)
            break;
        for (unsigned n = 0; n < l->npages; n++)
            if (p->host - ((uintptr_t)p->host & 0xfff) == l->page[n])
                memcpy(l->expected[n] + ((uintptr_t)p->host & 0xfff), l->new + p->at, p->len);
    }
    for (unsigned n = 0; n < l->npages; n++)
        if (memcmp(l->expected[n], l->page[n], 4096) != 0 &&
            !(l->walked && same_but_for_walks(l->expected[n], l->page[n])))
            return false;
    return true;
}

static void print_vectors(const uint8_t *want, const uint8_t *found)
{
    for (unsigned at = 0; at < 832; at += 8) {
        uint64_t w, f;
        memcpy(&w, want + at, 8);
        memcpy(&f, found + at, 8);
        if (w != f)
            log_error("  xsave+%-3u interpreter %016llx  generated code %016llx", at, (unsigned long long)w,
                      (unsigned long long)f);
    }
}

static void print_memory(const struct lockstep *l)
{
    for (unsigned n = 0, said = 0; n < l->npages; n++)
        for (unsigned i = 0; i < 4096; i++)
            if (l->expected[n][i] != l->page[n][i] && said++ < 32) {
                log_error("  page %u+%03x: interpreter %02x  generated code %02x", n, i, l->expected[n][i],
                          l->page[n][i]);
            }
}

static void report(struct cpu *cpu, const struct jit_block *b, const struct known_block *k, unsigned steps,
                   const char *what)
{
    struct jit *jit = cpu->jit;
    struct lockstep *l = jit->lockstep;
    const struct cpu *before = state_of(&l->front[0]), *want = state_of(&l->front[steps]);
    uint32_t mask = flag_mask(k, steps);
    log_error("lockstep: %s differ after %u of %u instructions at %#llx (block %llu compared)", what, steps, k->n,
              (unsigned long long)b->rip, (unsigned long long)l->compared);
    for (unsigned i = 0; i < 16; i++)
        print_word(reg_names[i], before->reg[i], want->reg[i], cpu->reg[i]);
    print_word("rip", b->rip, l->rip[steps], cpu->rip);
    print_word("flags", cpu_rflags(before) & mask, cpu_rflags(want) & mask, cpu_rflags(cpu) & mask);
    const size_t vectors = offsetof(struct cpu, xsave) - BACK_AT;
    print_vectors(l->back[l->back_of[steps]].bytes + vectors, cpu->xsave);
    print_memory(l);
    uint8_t bytes[4096];
    if (read_code(cpu, b, bytes))
        disassemble("guest code", bits_of(cpu), bytes, b->len, b->rip);
    uint32_t end = b->away;
    disassemble("generated code", 64, jit->mem.rx + b->guarded, end > b->guarded ? end - b->guarded : 0,
                (uint64_t)(uintptr_t)(jit->mem.rx + b->guarded));
}

/* How far generated code came; -1: to a place where the interpreter never was. */
static int steps_of(const struct cpu *cpu, const struct lockstep *l, const struct known_block *k)
{
    bool whole = l->steps == k->n && l->rip[k->n] == cpu->rip;
    if (cpu->words.reason == JIT_LINK || (cpu->words.reason == JIT_LOOKUP && whole))
        return whole ? (int)k->n : -1;
    for (unsigned i = 0; i <= l->steps; i++)
        if (l->rip[i] == cpu->rip)
            return (int)i;
    return -1;
}

static void fail(struct cpu *cpu)
{
    cpu->jit->lockstep->differs = true;
    if (cpu->vcpu->vm->loop)
        vm_request(cpu->vcpu->vm, VM_ERROR);
}

static void compare(struct cpu *cpu, const struct jit_block *b, const struct known_block *k)
{
    struct lockstep *l = cpu->jit->lockstep;
    int n = steps_of(cpu, l, k);
    const char *what = NULL;
    if (n < 0 && l->stop == STOP_MAY) {
        l->unknown++;
        return;
    }
    unsigned steps = n < 0 ? l->steps : (unsigned)n;
    const struct cpu *want = state_of(&l->front[steps]);
    if (n >= 0 && steps < k->n && k->steps[steps].repeats &&
        memcmp(cpu->reg, want->reg, 16 * sizeof cpu->reg[0]) != 0) { /* left in the midst of it */
        l->unknown++;
        return;
    }
    l->compared++;
    l->cut += steps < k->n;
    if (n < 0)
        what = "places";
    else if (memcmp(cpu->reg, want->reg, 16 * sizeof cpu->reg[0]) != 0)
        what = "registers";
    else if ((cpu_rflags(cpu) ^ cpu_rflags(want)) & flag_mask(k, steps))
        what = "flags";
    else if (cpu->mode != want->mode || cpu->cpl != want->cpl || cpu->tlb != want->tlb)
        what = "modes";
    else if (!same_back(cpu, &l->back[l->back_of[steps]]))
        what = "system or vector registers";
    else if (!same_memory(l, steps))
        what = "memory";
    if (!what) {
        l->next = cpu->rip;
        l->spoilt = steps == k->n && cpu->words.reason != JIT_INTERP ? RFL_ARITH & (uint16_t)~k->live : 0;
        return;
    }
    report(cpu, b, k, steps, what);
    fail(cpu);
}

/* So that an indirect jump, whose target has code, comes back as well. */
static void fail_guards(struct cpu *cpu)
{
    struct jit_tables *tables = &CONTAINER_OF(cpu, struct cpu_room, cpu)->jit;
    for (uint32_t i = 0; i < tables->nfilled; i++)
        tables->page[tables->filled[i] / JIT_PAGES][tables->filled[i] % JIT_PAGES] = 0;
    tables->nfilled = 0;
}

void lockstep_interrupted(struct lockstep *l)
{
    if (l)
        l->spoilt = 0;
}

/* The block before has counted on it that these flags are not needed here. */
static bool needs_spoilt(const struct cpu *cpu, const struct known_block *k)
{
    const struct lockstep *l = cpu->jit->lockstep;
    return k && l->spoilt & k->steps[0].live && l->next == k->rip;
}

void lockstep_run(struct cpu *cpu, const struct jit_block *b)
{
    struct lockstep *l = cpu->jit->lockstep;
    struct known_block *k = known(cpu, b);
    if (needs_spoilt(cpu, k)) {
        log_error("lockstep: the block at %#llx needs flags %#x, which the one before has not kept",
                  (unsigned long long)b->rip, l->spoilt & k->steps[0].live);
        fail(cpu);
        return;
    }
    l->spoilt = 0;
    if (!k) {
        l->unknown++;
        jit_enter_code(cpu, b->body);
        return;
    }
    interpret(cpu, k);
    fail_guards(cpu);
    uint64_t fills = cpu->jit->stats.fills;
    jit_enter_code(cpu, b->body);
    cpu->jit->lockstep->walked = fills != cpu->jit->stats.fills;
    compare(cpu, b, k);
}
