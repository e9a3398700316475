/* Finds libslirp and its functions with dlopen(3): a VM without user networking does not pay for it. */
#include "net/slirp_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

#include "net/impl.h"
#include "os/lib.h"
#include "util/bytes.h"

/* Not a state of ours: it guards the library's. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

void slirp_lib_lock(void) { pthread_mutex_lock(&guard); }

void slirp_lib_unlock(void) { pthread_mutex_unlock(&guard); }

int slirp_lib_load(struct slirp_lib *lib, char *why, size_t n)
{
    /* A second load finds the first. GLib, which comes along, cannot be unloaded. */
    void *handle = os_lib_open("slirp", 0, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle)
        return net_fail(why, n, -ENOENT,
                        "user networking needs libslirp, which cannot be loaded (%s); install it (%s), "
                        "or use tap=NAME or socket=PATH",
                        dlerror(), os_lib_hint("Debian: libslirp0", "brew install libslirp"));
    const struct {
        const char *name;
        void **place;
    } symbols[] = {
        {"slirp_new", (void **)&lib->new},
        {"slirp_cleanup", (void **)&lib->cleanup},
        {"slirp_pollfds_fill", (void **)&lib->pollfds_fill},
        {"slirp_pollfds_poll", (void **)&lib->pollfds_poll},
        {"slirp_input", (void **)&lib->input},
        {"slirp_add_hostfwd", (void **)&lib->add_hostfwd},
        {"slirp_version_string", (void **)&lib->version_string},
    };
    for (size_t i = 0; i < ARRAY_LEN(symbols); i++) {
        *symbols[i].place = dlsym(handle, symbols[i].name);
        if (!*symbols[i].place) {
            dlclose(handle);
            return net_fail(why, n, -ENOSYS, "user networking: this libslirp has no %s; install version 4.0 or later",
                            symbols[i].name);
        }
    }
    return 0;
}
