/*
 * What a running VM may still ask of macOS: a sandbox profile (sandbox(7),
 * sandbox_init(3)). What has been opened before stays open; from now on no
 * program is run, no file opened but the system's own libraries, nothing written
 * by name but removed (the pid file, the link to a pty), and no socket connected
 * or bound beyond the needs.
 */
#include "os/sandbox.h"

#include <errno.h>
#include <sandbox.h>
#include <stdio.h>

#include "util/log.h"

static const char always[] = "(version 1)\n"
                             "(allow default)\n"
                             "(deny process-exec)\n"
                             "(deny process-fork)\n"
                             "(deny file-write*)\n"
                             "(allow file-write-unlink)\n"
                             "(deny file-read-data)\n"
                             "(allow file-read-data (subpath \"/System\") (subpath \"/usr/lib\")"
                             " (subpath \"/Library/Apple\"))\n"
                             "(deny network-outbound)\n"
                             "(deny network-bind)\n";

void sandbox_prepare(void) {}

int sandbox_enter(const struct sandbox_needs *needs)
{
    char profile[2048], *why = NULL;

    int n = snprintf(profile, sizeof(profile), "%s%s%s%s", always, needs->network ? "" : "(deny network-inbound)\n",
                     needs->new_inet ? "(allow network-outbound (remote ip))\n(allow network-bind (local ip))\n" : "",
                     needs->new_unix ? "(allow network-outbound (remote unix-socket))\n" : "");
    if (n < 0 || (size_t)n >= sizeof(profile))
        return -E2BIG;
/* Deprecated since 10.8 in favour of App Sandbox, which is for bundles; the system's own daemons use it. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
    if (sandbox_init(profile, 0, &why) == 0)
        return 0;
    log_error("sandbox: macOS refuses the profile: %s", why ? why : "no reason given");
    if (why)
        sandbox_free_error(why);
#pragma clang diagnostic pop
    return -EPERM;
}
