/* Shared libraries of Linux. */
#include <dlfcn.h>
#include <stdio.h>

#include "os/lib.h"

const char *os_lib_file(const char *name, unsigned major, char *text)
{
    snprintf(text, OS_LIB_NAME, "lib%s.so.%u", name, major);
    return text;
}

void *os_lib_open(const char *name, unsigned major, int flags)
{
    char file[OS_LIB_NAME];
    return dlopen(os_lib_file(name, major, file), flags);
}

const char *os_lib_hint(const char *debian, const char *homebrew)
{
    (void)homebrew;
    return debian;
}
