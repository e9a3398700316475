/* The options of -s N,virtio-console: see virtio/console.h. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/log.h"
#include "virtio/console_priv.h"

#define SOCKET "socket=" /* what NAME=PATH means, in words of the serial backends */

static int bad(char *why, size_t n, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int bad(char *why, size_t n, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, n, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

static bool name_good(const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++)
        if (!isgraph((unsigned char)name[i]) || strchr(":=/", name[i]))
            return false;
    return len && len <= CONSOLE_MAX_NAME;
}

static int add_port(struct console_options *o, const char *name, const char *backend, char *why, size_t n)
{
    if (!name_good(name))
        return bad(why, n, "port '%s': expected a name of 1 to %u visible characters other than : = / and the comma",
                   name, CONSOLE_MAX_NAME);
    for (unsigned i = 0; i < o->nports; i++)
        if (strcmp(o->port[i].name, name) == 0)
            return bad(why, n, "port %s is named twice; the guest knows ports by their names", name);
    if (o->nports == CONSOLE_MAX_PORTS)
        return bad(why, n, "port %s is one too many: a device has up to %u; put it on a second one", name,
                   CONSOLE_MAX_PORTS);
    o->port[o->nports++] = (struct console_port_options){name, backend};
    return 0;
}

static int set_resize(struct console_options *o, const char *value, char *why, size_t n)
{
    static const char *const words[] = {"cols", "rows", "off"}; /* in the order of enum console_resize */
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(value, words[i]) == 0) {
            o->resize = (enum console_resize)i;
            return 0;
        }
    return bad(why, n, "resize=%s: expected cols or rows, whichever the guest takes to be first, or off", value);
}

/* One option, in o->text, with room for SOCKET behind it. */
static int option(struct console_options *o, char *text, char *why, size_t n)
{
    char *value = strchr(text, '=');
    if (strncmp(text, "port=", 5) == 0) {
        char *backend = strchr(text, ':');
        if (!backend || !backend[1])
            return bad(why, n, "%s: expected port=NAME:BACKEND", text);
        *backend++ = '\0';
        return add_port(o, text + 5, backend, why, n);
    }
    if (strncmp(text, "resize=", 7) == 0)
        return set_resize(o, text + 7, why, n);
    if (serial_known(text)) {
        if (o->backend)
            return bad(why, n, "%s: the console is on %s already; another port needs a name, port=NAME:%s", text,
                       o->backend, text);
        o->backend = text;
        return 0;
    }
    if (value && (value[1] == '/' || value[1] == '.')) {
        *value++ = '\0';
        memmove(value + strlen(SOCKET), value, strlen(value) + 1);
        memcpy(value, SOCKET, strlen(SOCKET));
        return add_port(o, text, value, why, n);
    }
    return bad(why, n,
               "expected a serial backend for the console, port=NAME:BACKEND, NAME=/PATH or resize=, found '%s'", text);
}

int console_parse(const char *text, struct console_options *o, char *why, size_t n)
{
    *o = (struct console_options){0};
    /* Each option in a place of its own, with room for what bhyve leaves out. */
    size_t options = 1;
    for (const char *p = text; p && *p; p++)
        options += *p == ',';
    size_t size = (text ? strlen(text) : 0) + options * (strlen(SOCKET) + 1);
    char *to = o->text = malloc(size);
    if (!to) {
        snprintf(why, n, "out of memory");
        return -ENOMEM;
    }
    while (text && *text) {
        size_t len = strcspn(text, ",");
        memcpy(to, text, len);
        to[len] = '\0';
        int err = option(o, to, why, n);
        if (err)
            return err;
        to += len + strlen(SOCKET) + 1;
        text += text[len] ? len + 1 : len;
    }
    if (o->resize && !(o->backend && o->nports))
        return bad(why, n,
                   "resize= is for a console that shares its device with ports; without, the order is not in doubt");
    if (!o->backend && !o->nports)
        o->backend = "null";
    return 0;
}

void console_options_fini(struct console_options *o)
{
    free(o->text);
    *o = (struct console_options){0};
}
