/* vmnet.framework where there is none. */
#include <errno.h>

#include "net/vmnet.h"

static int start(const struct vmnet_setup *setup, struct vmnet_params *params, void **interface) { return -ENOSYS; }

const struct vmnet_sys vmnet_sys_host = {.start = start};
