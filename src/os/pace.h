/* Letting work gather before one looks for more of it. */
#ifndef XHYVE_OS_PACE_H
#define XHYVE_OS_PACE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A thread that is woken for every piece of work pays for a wake-up with each, and
 * so does who wakes it; where both share a CPU, the one stops the other each time.
 * If it sleeps for a while after it has served something (a nap, in which nobody
 * need wake it) it finds several pieces at once. Whether more is done that way only
 * a trial can tell: a stream gains by naps, while somebody who asks, waits for the
 * answer and asks again loses. So both ways are tried, for some dozens of pieces at
 * a time, and the one in which more bytes were moved is kept, longer each time that
 * it has won. How long a nap is follows from how long a piece takes: the rule is the
 * same on fast machines and slow ones.
 *
 *     for (;;) {
 *         ns = pace_rest(p, now);
 *         if (ns)
 *             sleep for ns;
 *         else
 *             wait for work;
 *         pace_woke(p, now);
 *         ... pace_worked(p, pieces, bytes);
 *     }
 *
 * On one thread; `now` is os_clock_ns(). All zeroes: never naps.
 */
struct pace {
    uint64_t most;          /* ns of a nap, at the most */
    uint64_t least;         /* ns of a trial, at the least: it has to be longer than others' turns on the CPU */
    uint64_t piece;         /* ns that one takes: a mean of the last ones */
    uint64_t since;         /* when the wait, or the work after it, began */
    uint64_t pieces, bytes; /* served since */
    bool napped;            /* instead of the last wait */

    bool best;      /* the way that was the better one when both were tried: with naps? */
    bool naps;      /* the way of the trial under way */
    bool settled;   /* the trial began some time after its way was taken */
    uint64_t begin; /* of the trial, and what it has seen */
    uint64_t trial_pieces, trial_bytes;
    double rate[2];      /* bytes a ns of the last trial without naps, and with */
    unsigned left, term; /* trials until the other way's turn, and how many there were at first */
};

/* Pieces of work that have been served, and what they moved. */
void pace_worked(struct pace *, uint64_t pieces, uint64_t bytes);
/* Will there be a nap, if a piece is served before? */
static inline bool pace_naps(const struct pace *p) { return p->naps; }
/* ns to sleep; 0: wait for work. */
uint64_t pace_rest(struct pace *, uint64_t now);
void pace_woke(struct pace *, uint64_t now);

#endif
