#!/usr/bin/env bash
# Makes a root disk for guests from the distribution's own packages; the host installs nothing.
#
#   scripts/make-disk.sh [-p]
#
#   -p    only says whether it would have to be made: status 0 if it is there, 1 if not
#
# It becomes build/guest/disk/disk.img, a sparse raw ext4 image of 1 GiB without partitions: this machine's release of
# Debian (or Ubuntu), minimal, with the modules of build/guest/cloud, an SSH server that lets root in without a password,
# a web page, DHCP on every card, root's shell on the serial console, and what the disk tests run. It is made once, and
# anew when this script, scripts/disk or the kernel has changed. It works as root and as anybody else who may have user
# namespaces. `MIRROR=http://...` is taken in place of this machine's package sources.
#
# Nobody should write to it: give a guest a copy (cp --sparse=always), as scripts/demo.sh does.
set -eu
cd "$(dirname "$0")/.."
home=$PWD/build/guest/disk
kernel=$PWD/build/guest/cloud
size=1G

# systemd without D-Bus, so the power button is acpid's. fio has most of the megabytes, for its engines' libraries.
packages=(sysvinit-core sysv-rc initscripts insserv udev kmod acpid ifupdown udhcpc busybox-static iproute2 iputils-ping netbase procps dropbear curl
    e2fsprogs ethtool fio smartmontools hdparm rng-tools-debian iperf3 pciutils)

fail() {
    echo "make-disk: $*" >&2
    exit 1
}

stamp() {
    cat scripts/make-disk.sh scripts/disk/* "$kernel/version" 2>/dev/null | sha256sum
}

made() {
    [ -e "$home/disk.img" ] && [ "$(cat "$home/stamp" 2>/dev/null)" = "$(stamp)" ]
}

if [ "${1:-}" = -p ]; then
    made
    exit
fi
[ $# -eq 0 ] || fail "usage: make-disk.sh [-p]"

scripts/fetch-kernel.sh cloud
made && exit 0
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
made && exit 0 # somebody else has

for tool in mmdebstrap fakeroot mke2fs; do
    PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null || fail "$tool is missing: scripts/setup.sh demo installs it"
done
PATH=$PATH:/usr/sbin:/sbin

work=$(mktemp -d "$home/making.XXXXXX")
trap 'rm -rf "$work"' EXIT
start=$SECONDS

# ---- the packages, installed in a folder and packed up --------------------------------------------------------------

# This machine's release, from where its own packages come: a mirror nearby, or the only one that can be reached.
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$release" ] || fail "/etc/os-release names no release: this script knows Debian and Ubuntu"
mapfile -t sources < <(apt-get indextargets --format '$(CODENAME) deb $(SITE) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Architecture: amd64' 2>/dev/null | sed -n "s/^${release}[a-z-]* deb /deb /p" | sort -u)
[ -z "${MIRROR:-}" ] || sources=("$MIRROR")

include=$(printf ',%s' "${packages[@]}")
echo "make-disk: installing $release into an image, once (about 2 minutes)" >&2
if ! mmdebstrap --variant=minbase --include="${include#,}" --format=tar \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$release" "$work/root.tar" "${sources[@]}" >"$work/log" 2>&1 </dev/null; then
    grep -E '^(E|W|Err|dpkg|.*rror)' "$work/log" | tail -n 8 | sed 's/^/    /' >&2
    case $(cat "$work/log") in
    *'Could not resolve'* | *'Failed to fetch'* | *'Could not connect'* | *'Unable to connect'*)
        fail "the package mirror cannot be reached (above): is there a network, a proxy in http_proxy? MIRROR=http://... names" \
            "another mirror; DISK=none make demo boots without a root disk"
        ;;
    *unshare* | *newuidmap* | *subuid* | *'no supported mode'*)
        fail "user namespaces are what this takes without root (above): scripts/setup.sh demo installs uidmap, and /etc/subuid" \
            "needs a line for you; or run scripts/make-disk.sh once as root"
        ;;
    esac
    fail "mmdebstrap failed (above)"
fi

# ---- what makes it a guest, and the image ---------------------------------------------------------------------------

# Owners and devices are pretended, so this takes no root and no mount.
export work kernel size
fakeroot bash -eu <<'END'
mkdir "$work/root"
tar -x -C "$work/root" -f "$work/root.tar" --exclude='./dev/*'
rm "$work/root.tar"
bash -eu scripts/disk/configure.sh "$work/root"
cp -a "$kernel/lib/modules" "$work/root/usr/lib/"
chown -R 0:0 "$work/root/usr/lib/modules"
truncate -s "$size" "$work/disk.img"
mke2fs -q -F -t ext4 -L root -m 0 -d "$work/root" "$work/disk.img"
END

stamp >"$work/stamp"
mv "$work/disk.img" "$home/disk.img"
mv "$work/stamp" "$home/stamp"
echo "make-disk: $(du -m "$home/disk.img" | cut -f1) MiB in $((SECONDS - start)) s: ${home#"$PWD"/}/disk.img" >&2
