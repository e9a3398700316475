/*
 * All tables of instruction forms, found by mnemonic.
 */
#include "cpu/form.h"

#include <assert.h>
#include <pthread.h>

static const struct form_table *const tables[] = {
    &forms_alu,   &forms_mov,     &forms_shift,  &forms_muldiv, &forms_bits,
    &forms_stack, &forms_branch,  &forms_string, &forms_system, &forms_segment,
    &forms_far,   &forms_control, &forms_call,   &forms_io,     &forms_state,
};
#define NTABLES (sizeof(tables) / sizeof(tables[0]))
#define MAX_ROWS 1536

/* The constant tables, sorted: filled in once, never changed. */
static struct {
    const struct form *rows[MAX_ROWS]; /* by mnemonic, then in the order of the tables */
    uint16_t first[ZYDIS_MNEMONIC_MAX_VALUE + 2];
} sorted;
static pthread_once_t sorted_once = PTHREAD_ONCE_INIT;

static void sort_rows(void)
{
    size_t total = 0;
    for (size_t t = 0; t < NTABLES; t++)
        for (size_t i = 0; i < tables[t]->nrows; i++) {
            sorted.first[tables[t]->rows[i].mnemonic + 1]++;
            total++;
        }
    assert(total <= MAX_ROWS);
    for (size_t m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        sorted.first[m + 1] = (uint16_t)(sorted.first[m + 1] + sorted.first[m]);
    for (size_t t = 0; t < NTABLES; t++)
        for (size_t i = 0; i < tables[t]->nrows; i++) {
            const struct form *f = &tables[t]->rows[i];
            size_t at = sorted.first[f->mnemonic];
            while (sorted.rows[at])
                at++;
            sorted.rows[at] = f;
        }
}

size_t form_rows(ZydisMnemonic mnemonic, const struct form *const **rows)
{
    pthread_once(&sorted_once, sort_rows);
    *rows = &sorted.rows[sorted.first[mnemonic]];
    return (size_t)(sorted.first[mnemonic + 1] - sorted.first[mnemonic]);
}
