#!/bin/sh
# /init of the nested rig's machine: loads KVM and what mounts the host's files, mounts them, hands over to the agent.

export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

# Dependencies come first in this list.
while read -r module; do
    case $module in
    kvm-amd.ko) options="npt=1 nested=0" ;;
    *) options= ;;
    esac
    # shellcheck disable=SC2086
    insmod "/modules/$module" $options || echo "rig: $module did not load"
done </modules/order

# The host's files do not change while the machine runs, as far as it has looked at them: what was read stays cached.
mkdir /root/host
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /root/host || exec poweroff -f
cd /root/host || exec poweroff -f
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tracefs tracefs sys/kernel/tracing
mount -t devtmpfs devtmpfs dev
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
ip link set lo up 2>/dev/null || ifconfig lo up

exec /agent /root/host
