#!/bin/sh
# Process 1 of the guests that scripts/make-initrd.sh makes: mounts what a shell needs, loads the modules that came along,
# and then runs, in this order of preference,
#
#   /autorun                      if it is in the initrd
#   xhyve.run="COMMAND"           of the kernel command line
#   an interactive shell          on the console, with job control
#
# When that ends the guest powers off. `poweroff`, `reboot` and the power button work at any time.

echo "xhyve: init is running"

export PATH=/bin:/sbin HOME=/root PS1='guest:\w# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /root /tmp
mount -t devpts devpts /dev/pts 2>/dev/null

# busybox's halt, poweroff and reboot tell process 1 by signal.
trap 'poweroff -f' USR2
trap 'reboot -f' TERM
trap 'halt -f' USR1

# Dependencies come first in this list.
if [ -f /modules/order ]; then
    while read -r module; do
        insmod "/modules/$module" || echo "xhyve: $module did not load"
    done </modules/order
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

command=$(sed -n 's/.*xhyve\.run="\([^"]*\)".*/\1/p; t; s/.*xhyve\.run=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -f /autorun ]; then
    sh /autorun </dev/console &
elif [ -n "$command" ]; then
    sh -c "$command" </dev/console &
else
    echo
    echo "This is Linux $(uname -r) under xhyve. Leave it with: poweroff"
    cd /root || cd /
    if busybox cttyhack true 2>/dev/null; then
        setsid cttyhack sh </dev/console >/dev/console 2>&1 &
    else
        sh -i </dev/console >/dev/console 2>&1 &
    fi
fi

# A signal ends the wait early, to run its trap.
shell=$!
while kill -0 $shell 2>/dev/null; do
    wait $shell
done
poweroff -f
