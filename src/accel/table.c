/* One line an accelerator. Which ones this host can have, meson.build says. */
#include "accel/table.h"

#include <string.h>

#include "accel/soft/soft.h"
#ifdef HAVE_HVF
#include "accel/hvf/hvf.h"
#endif
#ifdef HAVE_KVM
#include "accel/kvm/kvm.h"
#endif

const struct accel_ops *const accel_table[] = {
#ifdef HAVE_HVF
    &accel_hvf,
#endif
#ifdef HAVE_KVM
    &accel_kvm,
#endif
    &accel_soft,
    NULL,
};

const struct accel_ops *accel_find(const char *name)
{
    for (const struct accel_ops *const *a = accel_table; *a; a++)
        if (strcmp((*a)->name, name) == 0)
            return *a;
    return NULL;
}

const char *accel_absent(const char *name)
{
    static const struct {
        const char *name, *why;
    } elsewhere[] = {
#ifndef HAVE_KVM
        {"kvm", "it is for Linux on x86-64 processors"},
#endif
#ifndef HAVE_HVF
        {"hvf", "it is for Macs with Intel processors: Apple silicon runs guests of its own architecture only"},
#endif
        {NULL, NULL},
    };
    for (unsigned i = 0; elsewhere[i].name; i++)
        if (strcmp(elsewhere[i].name, name) == 0)
            return elsewhere[i].why;
    return NULL;
}
