#!/bin/sh
# /init of the guests that scripts/make-initrd.sh makes: mounts what a shell needs, loads the modules that came along,
# and leaves process 1 to busybox's init, which starts this script once more as the session. That runs, in this order of
# preference,
#
#   /autorun                      if it is in the initrd
#   xhyve.run="COMMAND"           of the kernel command line
#   an interactive shell          on the console, with job control
#
# When that ends the guest powers off. `poweroff`, `reboot` and the power button work at any time.
#
# With root=DEVICE on the kernel's command line all that is left to the system on that disk: it is mounted, and its
# /sbin/init becomes process 1.

export PATH=/bin:/sbin HOME=/root PS1='guest:\w# '
if [ "$1" = session ]; then
    command=$(sed -n 's/.*xhyve\.run="\([^"]*\)".*/\1/p; t; s/.*xhyve\.run=\([^ ]*\).*/\1/p' /proc/cmdline)
    if [ -f /autorun ]; then
        sh /autorun </dev/console
    elif [ -n "$command" ]; then
        sh -c "$command" </dev/console
    else
        echo
        echo "This is Linux $(uname -r) under xhyve. Leave it with: poweroff"
        cd /root || cd /
        if busybox cttyhack true 2>/dev/null; then
            setsid cttyhack sh </dev/console
        else
            sh -i </dev/console
        fi
    fi
    exec poweroff -f
fi

echo "xhyve: init is running"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /root /tmp
mount -t devpts devpts /dev/pts 2>/dev/null

# Dependencies come first in this list.
if [ -f /modules/order ]; then
    while read -r module; do
        insmod "/modules/$module" || echo "xhyve: $module did not load"
    done </modules/order
fi

# A console whose driver is a module is there only now.
if [ ! -t 1 ] && (: >/dev/console) 2>/dev/null; then
    exec </dev/console >/dev/console 2>&1
fi

root=$(sed -n 's/\(^\|.* \)root=\(\/dev\/[^ ]*\).*/\2/p' /proc/cmdline)
if [ -n "$root" ] && [ "$root" != /dev/ram0 ]; then
    # A driver may still be looking for its disks.
    tries=0
    while [ ! -b "$root" ] && [ $tries -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    mkdir -p /new
    # /sbin/init may be a link that means nothing yet.
    if mount -t ext4 "$root" /new && { [ -L /new/sbin/init ] || [ -x /new/sbin/init ]; }; then
        [ ! -f /autorun ] || cp /autorun /new/autorun # scripts/disk/profile.sh runs it, and takes it away
        mount -t devtmpfs devtmpfs /new/dev
        umount /dev/pts /dev /sys /proc
        rm -rf /modules
        exec switch_root /new /sbin/init
    fi
    echo "xhyve: no system on $root; a shell in its place"
fi

# The power button is an input device; its first event powers off.
for name in /sys/class/input/event*/device/name; do
    case $(cat "$name" 2>/dev/null) in
    "Power Button")
        event=${name#/sys/class/input/}
        (dd if="/dev/input/${event%%/*}" of=/dev/null bs=64 count=1 2>/dev/null &&
            echo "xhyve: the power button was pressed" && poweroff -f) &
        ;;
    esac
done

mkdir -p /etc
echo "::once:/init session" >/etc/inittab
exec busybox init
