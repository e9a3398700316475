/* Letting work gather: see os/pace.h. */
#include "os/pace.h"

enum {
    NAP = 12,       /* pieces that take as long as a nap */
    WEIGHT = 8,     /* of the mean, against 1 of the newest */
    SETTLE = 16,    /* pieces that a change of ways is given to have its effect */
    TRIAL = 48,     /* pieces, after that */
    HOPELESS = 8,   /* pieces after which a trial of naps may be given up */
    LONG = 8,       /* a wait of so many naps is the end of what has been */
    TERM = 4,       /* trials of one way before the other's turn, at first */
    TERM_MOST = 64, /* and when the other has lost again and again */
};

static uint64_t nap_of(const struct pace *p) { return p->piece * NAP < p->most ? p->piece * NAP : p->most; }

static void begin_trial(struct pace *p, bool naps, uint64_t now)
{
    p->settled &= naps == p->naps;
    p->naps = naps;
    p->begin = now;
    p->trial_pieces = p->trial_bytes = 0;
}

static void begin_term(struct pace *p, unsigned term) { p->left = p->term = term < TERM_MOST ? term : TERM_MOST; }

/* Both ways have been tried. Naps have to be worth it: some work waits for their end. */
static void judge(struct pace *p)
{
    bool best = p->rate[true] > p->rate[false] * 9 / 8;
    begin_term(p, best == p->best ? 2 * p->term : TERM);
    p->best = best;
}

static void end_trial(struct pace *p, uint64_t now)
{
    double last = p->rate[p->naps], rate = (double)p->trial_bytes / (double)(now - p->begin + 1);

    p->rate[p->naps] = rate;
    if (p->naps != p->best)
        judge(p);
    else if (p->left > TERM && (rate < last / 2 || rate > last * 2))
        begin_term(p, TERM); /* another load: what was best may be so no more */
    else
        p->left--;
    begin_trial(p, p->left ? p->best : !p->best, now);
}

/* A trial of naps that has come to less than half of what there was without need not go on. */
static bool hopeless(const struct pace *p, uint64_t now)
{
    return p->naps && !p->best && p->trial_pieces >= HOPELESS &&
           (double)p->trial_bytes < (double)(now - p->begin) * p->rate[false] / 2;
}

void pace_worked(struct pace *p, uint64_t pieces, uint64_t bytes)
{
    p->pieces += pieces;
    p->bytes += bytes;
}

uint64_t pace_rest(struct pace *p, uint64_t now)
{
    p->napped = p->most && p->naps && p->pieces;
    if (p->most && p->pieces) {
        uint64_t each = (now - p->since) / p->pieces;
        p->piece = p->piece ? (p->piece * (WEIGHT - 1) + each) / WEIGHT : each;
        p->trial_pieces += p->pieces;
        p->trial_bytes += p->bytes;
        bool enough = p->trial_pieces >= TRIAL && now - p->begin >= p->least;
        if ((p->settled && enough) || hopeless(p, now)) {
            end_trial(p, now);
        } else if (!p->settled && p->trial_pieces >= SETTLE) {
            begin_trial(p, p->naps, now);
            p->settled = true;
        }
    }
    p->since = now;
    return p->napped ? nap_of(p) : 0;
}

void pace_woke(struct pace *p, uint64_t now)
{
    if (!p->napped && now - p->since >= LONG * nap_of(p)) {
        if (p->naps || p->best || !p->term)
            begin_term(p, TERM);
        p->best = false;
        begin_trial(p, false, now);
    }
    p->pieces = p->bytes = 0;
    p->since = now;
}
