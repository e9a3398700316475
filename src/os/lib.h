/* Shared libraries that are loaded when they are first needed. */
#ifndef XHYVE_OS_LIB_H
#define XHYVE_OS_LIB_H

/*
 * dlopen(3) of version `major` of lib`name` under the system's file name for it,
 * with `flags`; where Homebrew and MacPorts put it is looked at too. NULL:
 * dlerror() says why. os_lib_file() is that file name, in `text` of OS_LIB_NAME bytes.
 */
enum { OS_LIB_NAME = 64 };
void *os_lib_open(const char *name, unsigned major, int flags);
const char *os_lib_file(const char *name, unsigned major, char *text);

/* How a person gets the library: "Debian: libslirp0", "brew install libslirp". */
const char *os_lib_hint(const char *debian, const char *homebrew);

#endif
