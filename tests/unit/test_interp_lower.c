/* Lowering: fields of struct op, address kinds by mode, CPUID gates, rows of the tables. */
#include "interp_fixture.h"

static void fields(void **state)
{
    struct rig *r = *state;
    struct op op;
    bool ends;
    rig_set_mode(r, RIG_LONG64);
    LOWER(r, &op, &ends, 0x00, 0xe1); /* ADD CL, AH */
    assert_int_equal(op.reg, 8 * RCX);
    assert_int_equal(op.rm, 8 * RAX + 1);
    assert_false(ends);
    LOWER(r, &op, &ends, 0x40, 0x00, 0xe1); /* ADD CL, SPL */
    assert_int_equal(op.rm, 8 * RSP);
    LOWER(r, &op, &ends, 0x48, 0x81, 0x44, 0xcd, 0xf0, 0xfe, 0xff, 0xff, 0xff); /* ADD [RBP+RCX*8-16], -2 */
    assert_int_equal(op.base, RBP);
    assert_int_equal(op.index, RCX);
    assert_int_equal(OP_SCALE(&op), 3);
    assert_int_equal(op.disp, -16);
    assert_int_equal(op.imm, (uint64_t)-2);
    assert_int_equal(OP_SEG(&op), SEG_SS);
    assert_int_equal(OP_SIZE(&op), 8);
    assert_int_equal(OP_ASIZE(&op), 8);
    assert_int_equal(OP_LEN(&op), 9);
    assert_int_equal(OP_OFF(&op), 0);
    assert_true(OP_IS_MEM(&op));
    r->cpu->rip = 0x7123;
    LOWER(r, &op, &ends, 0x8b, 0x05, 0x10, 0x00, 0x00, 0x00); /* MOV EAX, [RIP+16] */
    assert_int_equal(op.base, REG_IP);
    assert_int_equal(op.disp, 0x123 + 6 + 16);
    LOWER(r, &op, &ends, 0x74, 0xf0); /* JZ -16 */
    assert_int_equal(op.imm, (uint64_t)-16);
    assert_int_equal(op.disp, 0x123 + 2 - 16);
    assert_true(ends);
    LOWER(r, &op, &ends, 0xf0, 0xf3, 0x48, 0x0f, 0xb1, 0x0e); /* LOCK (REP) CMPXCHG [RSI], RCX */
    assert_int_equal(op.len & OP_LOCK, OP_LOCK);
    LOWER(r, &op, &ends, 0xf3, 0x65, 0xa4); /* REP MOVS, source in GS */
    assert_int_equal(op.len & OP_REP, OP_REP);
    assert_int_equal(OP_SEG(&op), SEG_GS);
    assert_int_equal(OP_EA_KIND(&op), EA_SEG);
    assert_int_equal(op.base, RSI);
    assert_false(OP_IS_MEM(&op));
}

static unsigned kind(struct rig *r, const uint8_t *bytes, size_t n)
{
    struct op op;
    bool ends;
    rig_lower(r, bytes, n, &op, &ends);
    return OP_EA_KIND(&op);
}
#define KIND(r, ...) kind(r, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void address_kinds(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    assert_int_equal(KIND(r, 0x8b, 0x00), EA_64);
    assert_int_equal(KIND(r, 0x67, 0x8b, 0x00), EA_FLAT);
    assert_int_equal(KIND(r, 0x65, 0x8b, 0x00), EA_SEG);
    assert_int_equal(KIND(r, 0x65, 0x67, 0x8b, 0x00), EA_CHECK);
    assert_int_equal(KIND(r, 0x2e, 0x8b, 0x00), EA_64);

    rig_set_mode(r, RIG_PROT32);
    assert_int_equal(KIND(r, 0x8b, 0x00), EA_FLAT);
    assert_int_equal(KIND(r, 0x8b, 0x45, 0x00), EA_FLAT);  /* [EBP]: SS */
    assert_int_equal(KIND(r, 0x67, 0x8b, 0x00), EA_CHECK); /* [BX+SI] */
    assert_int_equal(KIND(r, 0x64, 0x8b, 0x00), EA_CHECK); /* FS */
    assert_int_equal(KIND(r, 0x2e, 0x8b, 0x00), EA_CHECK); /* CS cannot be written to */
    r->cpu->seg[SEG_DS].limit = 0xfffff;
    rig_changed(r);
    assert_int_equal(KIND(r, 0x8b, 0x00), EA_CHECK);
    assert_int_equal(KIND(r, 0x8b, 0x45, 0x00), EA_FLAT);
    r->cpu->seg[SEG_SS].base = 16;
    rig_changed(r);
    assert_int_equal(KIND(r, 0x8b, 0x45, 0x00), EA_CHECK);

    rig_set_mode(r, RIG_REAL);
    assert_int_equal(KIND(r, 0x8b, 0x07), EA_CHECK);
    assert_int_equal(KIND(r, 0x67, 0x8b, 0x00), EA_CHECK);
}

static bool is_ud(struct rig *r, const uint8_t *bytes, size_t n)
{
    struct op op;
    bool ends;
    rig_lower(r, bytes, n, &op, &ends);
    return op.fn == op_ud;
}
#define IS_UD(r, ...) is_ud(r, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void feature_gates(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    static const struct {
        enum x86_feature feature;
        uint8_t bytes[8], len;
    } gated[] = {
        {X86_POPCNT, {0xf3, 0x0f, 0xb8, 0xc1}, 4},
        {X86_MOVBE, {0x0f, 0x38, 0xf0, 0x01}, 4},
        {X86_CMOV, {0x0f, 0x44, 0xc1}, 3},
        {X86_ADX, {0x66, 0x0f, 0x38, 0xf6, 0xc1}, 5},
        {X86_BMI1, {0xc4, 0xe2, 0x70, 0xf2, 0xc2}, 5},
        {X86_BMI2, {0xc4, 0xe2, 0x71, 0xf7, 0xc2}, 5},
        {X86_SSE4_2, {0xf2, 0x0f, 0x38, 0xf0, 0xc1}, 5},
        {X86_RDRAND, {0x0f, 0xc7, 0xf0}, 3},
        {X86_CX16, {0x48, 0x0f, 0xc7, 0x0f}, 4},
        {X86_LAHF_LM, {0x9f}, 1},
    };
    for (unsigned i = 0; i < sizeof(gated) / sizeof(gated[0]); i++) {
        uint32_t *word = &r->cpuid.words[gated[i].feature >> 5], bit = 1u << (gated[i].feature & 31);
        assert_false(is_ud(r, gated[i].bytes, gated[i].len));
        *word &= ~bit;
        assert_true(is_ud(r, gated[i].bytes, gated[i].len));
        *word |= bit;
    }
    rig_set_mode(r, RIG_PROT32);
    r->cpuid.words[CPUID_80000001_ECX] &= ~1u;
    assert_false(IS_UD(r, 0x9f)); /* LAHF outside 64-bit mode */
    r->cpuid.words[CPUID_80000001_ECX] |= 1;
}

/* LZCNT and TZCNT on a CPU without them: BSR and BSF. */
static void bit_scans(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    r->cpu->reg[RCX] = 0x10;
    RUN(r, 0xf3, 0x0f, 0xbd, 0xc1); /* LZCNT EAX, ECX */
    assert_int_equal(r->cpu->reg[RAX], 27);
    RUN(r, 0xf3, 0x0f, 0xbc, 0xc1);
    assert_int_equal(r->cpu->reg[RAX], 4);
    r->cpuid.words[CPUID_80000001_ECX] &= ~(1u << 5);
    r->cpuid.words[CPUID_7_EBX] &= ~(1u << 3);
    RUN(r, 0xf3, 0x0f, 0xbd, 0xc1);
    assert_int_equal(r->cpu->reg[RAX], 4);
    r->cpu->reg[RCX] = 0;
    r->cpu->reg[RAX] = 77;
    RUN(r, 0xf3, 0x0f, 0xbc, 0xc1); /* BSF of zero writes nothing */
    assert_int_equal(r->cpu->reg[RAX], 77);
    memset(r->cpuid.words, 0xff, sizeof(r->cpuid.words));
}

static void modes_and_locks(void **state)
{
    struct rig *r = *state;
    rig_set_mode(r, RIG_LONG64);
    assert_true(IS_UD(r, 0x37));             /* AAA */
    assert_true(IS_UD(r, 0x0f, 0x0b));       /* UD2 */
    assert_true(IS_UD(r, 0xf0, 0x01, 0xd8)); /* LOCK ADD of registers */
    assert_false(IS_UD(r, 0xf0, 0x01, 0x18));
    assert_true(IS_UD(r, 0xf0, 0x90));
    rig_set_mode(r, RIG_PROT32);
    assert_false(IS_UD(r, 0x37));
    assert_false(IS_UD(r, 0x60));
}

/* Every table's rows are found by their mnemonic, in order, and name at least one handler. */
static void tables(void **state)
{
    (void)state;
    static const struct form_table *const all[] = {&forms_alu,  &forms_mov,   &forms_shift,  &forms_muldiv,
                                                   &forms_bits, &forms_stack, &forms_branch, &forms_string};
    for (size_t t = 0; t < sizeof(all) / sizeof(all[0]); t++)
        for (size_t i = 0; i < all[t]->nrows; i++) {
            const struct form *f = &all[t]->rows[i];
            const struct form *const *rows;
            size_t n = form_rows(f->mnemonic, &rows), k = 0;
            while (k < n && rows[k] != f)
                k++;
            assert_true(k < n);
            assert_true(f->fn[0] || f->fn[1] || f->fn[2] || f->fn[3]);
            /* A fast variant behind a row that takes everything would never be used. */
            if (f->flags & (FORM_BASE | FORM_EA64 | FORM_NEAR))
                for (size_t j = 0; j < k; j++)
                    assert_false(rows[j]->pattern == f->pattern &&
                                 !(rows[j]->flags & (FORM_BASE | FORM_EA64 | FORM_NEAR)) && rows[j]->fn[2] && f->fn[2]);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields),    cmocka_unit_test(address_kinds),   cmocka_unit_test(feature_gates),
        cmocka_unit_test(bit_scans), cmocka_unit_test(modes_and_locks), cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
