#!/usr/bin/env bash
# Turns the packages of scripts/make-disk.sh into the guest that it promises. Nothing of the tree is run.
#
#   scripts/disk/configure.sh TREE
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1

echo guest >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 guest\n::1 localhost\n' >"$tree/etc/hosts"
printf '/dev/root / ext4 defaults 0 0\ntmpfs /tmp tmpfs mode=1777 0 0\n' >"$tree/etc/fstab"

# Root has no password, here and over SSH: whoever reaches the guest is on the host already.
sed -i 's/^root:[^:]*:/root::/' "$tree/etc/shadow"
: >"$tree/etc/motd"
ln -sf ../proc/self/mounts "$tree/etc/mtab"
cp "$here/profile.sh" "$tree/etc/profile.d/guest.sh"
cat >"$tree/etc/inittab" <<'END'
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
~~:S:wait:/sbin/sulogin --force
l0:0:wait:/etc/init.d/rc 0
l1:1:wait:/etc/init.d/rc 1
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
S0:2:respawn:/sbin/agetty --autologin root --noclear --noissue --keep-baud 115200 ttyS0 linux
w0:2:respawn:/bin/busybox httpd -f -p 80 -h /srv/www
END

# Every network card that is there at the start asks for an address; the first one's router is the default.
{
    printf 'auto lo\niface lo inet loopback\nauto /eth*\n'
    for nic in 0 1 2 3; do
        printf 'iface eth%d inet dhcp\n    metric %d\n' "$nic" $((nic * 10))
    done
} >"$tree/etc/network/interfaces"

# The key is made by the package: one for each image, and images are made where they are used.
echo 'DROPBEAR_EXTRA_ARGS="-B"' >>"$tree/etc/default/dropbear"

mkdir -p "$tree/srv/www"
cp "$here/index.html" "$tree/srv/www/"

printf 'event=button/power.*\naction=/sbin/poweroff\n' >"$tree/etc/acpi/events/power"

# Cards are eth0, eth1, ... in the order of their slots; the kernel has set its clock by the RTC before.
for rule in 80-ifupdown 80-net-setup-link 85-hwclock 85-hdparm; do
    ln -sf /dev/null "$tree/etc/udev/rules.d/$rule.rules"
done

# What only takes time in a guest that lives for minutes, and what has its own way here.
for service in hwclock.sh mountnfs.sh mountnfs-bootclean.sh checkfs.sh checkroot.sh checkroot-bootclean.sh bootlogs \
    mountall-bootclean.sh bootmisc.sh procps urandom mount-configfs kmod fio rmnologin brightness rc.local umountnfs.sh \
    rng-tools-debian rng-tools smartmontools smartd iperf3 stop-bootlogd stop-bootlogd-single; do
    rm -f "$tree"/etc/rc[S0-6].d/[SK][0-9][0-9]"$service"
done
rm -f "$tree"/etc/update-motd.d/*
