/* libslirp, loaded when the first NIC needs it. */
#ifndef XHYVE_NET_SLIRP_LIB_H
#define XHYVE_NET_SLIRP_LIB_H

#include <slirp/libslirp.h>
#include <stddef.h>

struct slirp_lib {
    __typeof__(slirp_new) *new;
    __typeof__(slirp_cleanup) *cleanup;
    __typeof__(slirp_pollfds_fill) *pollfds_fill;
    __typeof__(slirp_pollfds_poll) *pollfds_poll;
    __typeof__(slirp_input) *input;
    __typeof__(slirp_add_hostfwd) *add_hostfwd;
    __typeof__(slirp_version_string) *version_string;
};

/* 0, or -errno and a line. It stays loaded. Before the sandbox. */
int slirp_lib_load(struct slirp_lib *, char *why, size_t n);

/*
 * The library keeps its clock and the address of the name server in variables of
 * its own, one for all networks of the process: whoever calls it holds this.
 */
void slirp_lib_lock(void);
void slirp_lib_unlock(void);

#endif
