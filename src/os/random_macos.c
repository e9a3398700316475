/* Random numbers of macOS: the C library's generator, which the kernel seeds and which cannot fail. */
#include "os/random.h"

#include <stdlib.h>

int os_random(void *to, size_t len)
{
    arc4random_buf(to, len);
    return 0;
}
