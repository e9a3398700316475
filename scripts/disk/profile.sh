# Of the root disk that scripts/make-disk.sh makes: what the shell on the serial console does first.
#
# /autorun, which an initrd of scripts/make-initrd.sh -a leaves on the disk, or xhyve.run="COMMAND" on the kernel's
# command line run in place of that shell, once, and the guest powers off. Without, a line says how to leave.
if [ "$(tty)" = /dev/ttyS0 ] && [ "$(id -u)" = 0 ] && [ -z "$XHYVE_SESSION" ]; then
    export XHYVE_SESSION=1
    run=$(sed -n 's/.*xhyve\.run="\([^"]*\)".*/\1/p; t; s/.*xhyve\.run=\([^ ]*\).*/\1/p' /proc/cmdline)
    if [ -f /autorun ]; then
        mv /autorun /run/autorun
        sh /run/autorun
        exec poweroff -f
    elif [ -n "$run" ]; then
        sh -c "$run"
        exec poweroff -f
    fi
    echo
    echo "This is $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), under xhyve. Leave it with: poweroff"
fi
