/* Looking for work before one sleeps: see os/spin.h. */
#include "os/spin.h"

#include "os/clock.h"

enum { LOOKS = 16 }; /* between two looks at the clock */

bool spin_until(struct spin *s, uint64_t deadline_ns, bool (*ready)(void *arg), void *arg)
{
    s->since = os_clock_ns();
    if (!s->window)
        return false;
    uint64_t end = s->since + s->window < deadline_ns ? s->since + s->window : deadline_ns;
    do {
        for (unsigned i = 0; i < LOOKS; i++) {
            if (ready(arg))
                return true;
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
        }
    } while (os_clock_ns() < end);
    return false;
}

void spin_slept(struct spin *s)
{
    if (s->most)
        s->window = os_clock_ns() - s->since < s->most ? s->most : 0;
}
