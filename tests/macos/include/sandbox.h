/* Declarations of sandbox(7) for builds without Apple's SDK: what os/sandbox_macos.c uses, and no more. */
#ifndef XHYVE_SDK_SANDBOX_H
#define XHYVE_SDK_SANDBOX_H

#include <stdint.h>

/* With flags 0 the first argument is a profile's text. On failure -1, and a message that sandbox_free_error() frees. */
int sandbox_init(const char *profile, uint64_t flags, char **error);
void sandbox_free_error(char *error);

#endif
