/* A child of Linux ends with its parent: prctl(2). */
#include "os/child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

void os_child_ends_with(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
}
