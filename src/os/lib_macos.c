/* Shared libraries of macOS: dyld looks into /usr/local/lib, but not where Homebrew lives on Apple silicon. */
#include <dlfcn.h>
#include <stdio.h>

#include "os/lib.h"

const char *os_lib_file(const char *name, unsigned major, char *text)
{
    snprintf(text, OS_LIB_NAME, "lib%s.%u.dylib", name, major);
    return text;
}

void *os_lib_open(const char *name, unsigned major, int flags)
{
    static const char *const places[] = {"/opt/homebrew/lib", "/usr/local/lib", "/opt/local/lib"};
    char file[OS_LIB_NAME], path[OS_LIB_NAME + 32];

    os_lib_file(name, major, file);
    for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", places[i], file);
        void *handle = dlopen(path, flags);
        if (handle)
            return handle;
    }
    return dlopen(file, flags); /* wherever DYLD_LIBRARY_PATH says; and dlerror() names the file alone */
}

const char *os_lib_hint(const char *debian, const char *homebrew)
{
    (void)debian;
    return homebrew;
}
