#!/usr/bin/env bash
# Fetches guest kernels as the distribution ships them and unpacks them under build/guest; the host installs nothing.
#
#   scripts/fetch-kernel.sh [cloud|generic|i386|pae|xen|memtest]...      (default: cloud)
#
#   cloud    Debian's kernel for virtual machines (Ubuntu: linux-image-virtual)
#   generic  the kernel that a PC gets
#   i386     the 32-bit kernel of Debian's installer, which has no PAE
#   pae      Debian's 32-bit kernel with PAE
#   xen      the hypervisor Xen, a multiboot kernel
#   memtest  memtest86+, which starts as Linux does
#
# Each becomes build/guest/NAME with vmlinuz, lib/modules/VERSION with a modules.dep and, for the 32-bit ones, root/ with
# a 32-bit busybox. What is already there is not fetched again: remove build/guest/NAME to get a newer one.
set -eu
cd "$(dirname "$0")/.."
guest=$PWD/build/guest

wanted=()
for name in "${@:-cloud}"; do
    [ -e "$guest/$name/vmlinuz" ] || wanted+=("$name")
done
[ ${#wanted[@]} -gt 0 ] || exit 0

mkdir -p "$guest"
work=$(mktemp -d "$guest/download.XXXXXX")
chmod 755 "$work" # apt fetches as a user of its own
trap 'rm -rf "$work"' EXIT
depmod=$(command -v depmod || echo /sbin/depmod)
apt=() # options for another architecture

fail() {
    echo "fetch-kernel: $*" >&2
    exit 1
}

known() {
    apt-cache "${apt[@]}" show "$1" >/dev/null 2>&1
}

# The first of some packages that the package lists know. Empty lists, as in a container, are fetched if we may.
first_known() {
    local name
    for _ in 1 2; do
        for name in "$@"; do
            if known "$name"; then
                echo "$name"
                return
            fi
        done
        refresh || break
    done
    fail "no package $1 in the package lists (sudo apt-get update fetches them)"
}

refresh() {
    [ "$(id -u)" -eq 0 ] && [ ${#apt[@]} -eq 0 ] &&
        apt-get -o DPkg::Lock::Timeout=300 update >/dev/null 2>&1 </dev/null
}

# What a meta package such as linux-image-amd64 stands for today; the name itself if it is no meta package.
resolve() {
    apt-cache "${apt[@]}" depends --important "$1" 2>/dev/null |
        sed -n 's/^  Depends: \(linux-image-[^ :]*\).*/\1/p' | head -n 1 | grep . || echo "$1"
}

# download META: prints the path of the .deb that META stands for. An old package list may name what the mirror has
# dropped, so a failure is followed by one more attempt with a new list.
download() {
    local package
    for _ in 1 2; do
        package=$(resolve "$1")
        mkdir -p "$work/$package"
        if (cd "$work/$package" && apt-get "${apt[@]}" download "$package" >"$work/log" 2>&1 </dev/null); then
            echo "$work/$package"/*.deb
            return
        fi
        refresh || break
    done
    sed -n 's/^E: /fetch-kernel: /p' "$work/log" >&2
    fail "cannot download $package: no network, or an old package list (then: sudo apt-get update)"
}

# The lists for i386 are kept apart from the host's, which need not know that architecture.
use_i386() {
    apt=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Architecture=i386
        -o APT::Architectures::=i386)
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    # Some of the host's sources may have no i386 part; what matters is whether the packages are found afterwards.
    apt-get "${apt[@]}" update >"$work/log" 2>&1 </dev/null || true
    known busybox-static || fail "no i386 packages at this host's package sources, or no network"
}

# finish NAME TREE VERSION: makes build/guest/NAME of an unpacked kernel
finish() {
    [ ! -d "$2/lib/modules" ] || "$depmod" -b "$2" "$3" 2>/dev/null
    echo "$3" >"$2/version"
    rm -rf "${guest:?}/$1"
    mv "$2" "$guest/$1"
    echo "fetch-kernel: $1: Linux $3"
}

# kernel NAME META...: one of the distribution's kernel packages
kernel() {
    local name=$1 meta deb image modules version tree=$work/tree-$1 into=$work/$1
    shift
    meta=$(first_known "$@")
    deb=$(download "$meta")
    dpkg-deb -x "$deb" "$tree"
    # Ubuntu keeps the modules in packages of their own.
    image=$(basename "$(dirname "$deb")")
    modules=${image/linux-image-/linux-modules-}
    if [ ! -d "$tree/lib/modules" ] && known "$modules"; then
        deb=$(download "$modules")
        dpkg-deb -x "$deb" "$tree"
    fi
    version=$(basename "$tree"/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    mkdir -p "$into/lib"
    cp "$tree/boot/vmlinuz-$version" "$into/vmlinuz"
    cp "$tree/boot/config-$version" "$into/config" 2>/dev/null || true
    [ ! -d "$tree/lib/modules" ] || mv "$tree/lib/modules" "$into/lib/modules"
    if [ -d "$work/root" ]; then
        mv "$work/root" "$into/root"
    fi
    finish "$name" "$into" "$version"
}

installer() {
    local deb files=./usr/lib/debian-installer/images/12/i386/text/debian-installer/i386 into=$work/i386
    deb=$(first_known debian-installer-12-netboot-i386)
    deb=$(download "$deb")
    mkdir -p "$work/tree-i386" "$into/root" "$into/lib"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/tree-i386" "$files/linux" "$files/initrd.gz"
    mv "$work/tree-i386/$files/linux" "$into/vmlinuz"
    # Of its initrd we take the modules, and the dynamically linked busybox as a 32-bit userland.
    gzip -dc "$work/tree-i386/$files/initrd.gz" >"$work/initrd"
    (cd "$into/root" && cpio -idm --quiet --no-absolute-filenames bin/busybox lib/ld-linux.so.2 \
        'lib/i386-linux-gnu/ld-linux.so.2' 'lib/i386-linux-gnu/libc.so.6' 'lib/modules/*' <"$work/initrd")
    mv "$into/root/lib/modules" "$into/lib/modules"
    finish i386 "$into" "$(basename "$into"/lib/modules/*)"
}

# other NAME PACKAGE GLOB: a kernel that is no Linux, unpacked if it is packed
other() {
    local deb into=$work/$1
    deb=$(first_known "$2")
    deb=$(download "$deb")
    mkdir -p "$into"
    dpkg-deb -x "$deb" "$work/tree-$1"
    # shellcheck disable=SC2086 # a pattern
    zcat -f "$work/tree-$1"/$3 >"$into/vmlinuz"
    rm -rf "${guest:?}/$1"
    mv "$into" "$guest/$1"
    echo "fetch-kernel: $1: $2"
}

# The newest Xen that the package lists know.
xen_package() {
    apt-cache pkgnames xen-hypervisor- | grep -E '^xen-hypervisor-[0-9.]+-amd64$' | sort -V | tail -n 1 | grep . ||
        echo xen-hypervisor-amd64
}

for name in "${wanted[@]}"; do
    apt=()
    case $name in
    cloud) kernel cloud linux-image-cloud-amd64 linux-image-virtual ;;
    generic) kernel generic linux-image-amd64 linux-image-generic ;;
    i386) installer ;;
    pae)
        use_i386
        deb=$(download busybox-static)
        dpkg-deb -x "$deb" "$work/tree-busybox"
        mkdir -p "$work/root/bin"
        mv "$work/tree-busybox/bin/busybox" "$work/root/bin/busybox"
        kernel pae linux-image-686-pae
        ;;
    xen) other xen "$(xen_package)" 'boot/xen-*-amd64.gz' ;;
    memtest) other memtest memtest86+ 'boot/memtest86+x64.bin' ;;
    *) fail "unknown kernel '$name': expected cloud, generic, i386, pae, xen or memtest" ;;
    esac
done
