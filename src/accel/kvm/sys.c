/* Calls into the kernel, and what is wrong with /dev/kvm when it cannot be opened. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "accel/kvm/priv.h"

#define DEVICE "/dev/kvm"

static int host_open(const char *path) { return open(path, O_RDWR | O_CLOEXEC); }

static int host_ioctl(int fd, unsigned long request, void *arg) { return ioctl(fd, request, arg); }

const struct kvm_sys kvm_sys_host = {.open = host_open, .ioctl = host_ioctl};

int kvm_ioctl(const struct kvm_vm *kvm, int fd, unsigned long request, void *arg)
{
    int r;
    do
        r = kvm->sys->ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR && request != KVM_RUN);
    return r < 0 ? -errno : r;
}

int kvm_ioctl_val(const struct kvm_vm *kvm, int fd, unsigned long request, unsigned long arg)
{
    return kvm_ioctl(kvm, fd, request, (void *)arg);
}

int kvm_has(const struct kvm_vm *kvm, unsigned cap)
{
    int r = kvm_ioctl_val(kvm, kvm->fd >= 0 ? kvm->fd : kvm->dev, KVM_CHECK_EXTENSION, cap);
    return r < 0 ? 0 : r;
}

static void explain_permission(char *why, size_t n)
{
    struct stat st;
    const struct group *group = NULL;

    if (stat(DEVICE, &st) == 0 && st.st_gid != 0 && (st.st_mode & 0060) == 0060)
        group = getgrgid(st.st_gid);
    if (group)
        snprintf(why, n,
                 DEVICE ": permission denied: join the group \"%s\" (usermod -aG %s USER, as root) and log in anew",
                 group->gr_name, group->gr_name);
    else
        snprintf(why, n,
                 DEVICE ": permission denied, and no group but root's has it: as root, give it one "
                        "(chgrp kvm " DEVICE "; chmod 660 " DEVICE ") and join that");
}

int kvm_dev_open(const struct kvm_sys *sys, char *why, size_t n)
{
    int fd = sys->open(DEVICE);
    if (fd >= 0)
        return fd;
    int err = errno;
    switch (err) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        snprintf(why, n,
                 DEVICE " is missing: the kernel module kvm_intel or kvm_amd is not loaded, or this machine has "
                        "no VT-x or AMD-V to give");
        break;
    case EACCES:
    case EPERM: explain_permission(why, n); break;
    default: snprintf(why, n, DEVICE ": %s", strerror(err));
    }
    return -err;
}
