#!/usr/bin/env bash
# Fetches guest kernels as the distribution ships them and unpacks them under build/guest; the host installs nothing.
#
#   scripts/fetch-kernel.sh [cloud|generic|i386|pae]...      (default: cloud)
#
#   cloud    Debian's kernel for virtual machines (Ubuntu: linux-image-virtual)
#   generic  the kernel that a PC gets
#   i386     the 32-bit kernel of Debian's installer, which has no PAE
#   pae      Debian's 32-bit kernel with PAE
#
# Each becomes build/guest/NAME with vmlinuz, lib/modules/VERSION with a modules.dep and, for the 32-bit ones, root/ with
# a 32-bit busybox. What is already there is not fetched again: remove build/guest/NAME to get a newer one.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
guest=$top/build/guest
cache=$top/build/guest/download

depmod=$(command -v depmod || echo /sbin/depmod)

fail() {
    echo "fetch-kernel: $*" >&2
    exit 1
}

say() {
    echo "fetch-kernel: $*"
}

# The i386 packages are looked up with package lists of their own, so that the host need not know that architecture.
i386_options=()
i386_lists() {
    i386_options=(-o "Dir::State::Lists=$cache/apt-i386/lists" -o "Dir::Cache=$cache/apt-i386/cache"
        -o APT::Architecture=i386 -o APT::Architectures::=i386)
    if [ ! -e "$cache/apt-i386/done" ]; then
        mkdir -p "$cache/apt-i386/lists/partial" "$cache/apt-i386/cache/archives/partial"
        # Some of the host's sources may have no i386 part; what matters is whether the package is found afterwards.
        apt-get "${i386_options[@]}" update >"$cache/apt-i386/log" 2>&1 </dev/null || true
        [ -n "$(apt-cache "${i386_options[@]}" search --names-only '^busybox-static$')" ] || return 1
        : >"$cache/apt-i386/done"
    fi
}

# What a meta package such as linux-image-amd64 stands for today; the name itself if it is no meta package.
resolve() {
    apt-cache "${i386_options[@]}" depends --important "$1" 2>/dev/null |
        sed -n 's/^  Depends: \(linux-image-[^ :]*\).*/\1/p' | head -n 1 | grep . || echo "$1"
}

known() {
    apt-cache "${i386_options[@]}" show "$1" >/dev/null 2>&1
}

# download PACKAGE: prints the path of its .deb in the cache
download() {
    local package=$1 dir=$cache/$1
    mkdir -p "$cache"
    if ! ls "$dir"/*.deb >/dev/null 2>&1; then
        rm -rf "$dir" "$dir.part"
        mkdir -p "$dir.part"
        (cd "$dir.part" && apt-get "${i386_options[@]}" download "$package" >log 2>&1 </dev/null) || {
            tail -n 3 "$dir.part/log" >&2
            return 1
        }
        mv "$dir.part" "$dir"
    fi
    ls "$dir"/*.deb
}

# kernel NAME IMAGE-PACKAGE: unpacks the kernel and its modules
kernel() {
    local name=$1 image deb dir=$guest/$1.part version
    image=$(resolve "$2")
    if ! deb=$(download "$image"); then
        # An old package list names kernels that the mirror has dropped. Only root may renew the host's lists.
        if [ "$(id -u)" -eq 0 ] && [ ${#i386_options[@]} -eq 0 ]; then
            apt-get -o DPkg::Lock::Timeout=300 update >/dev/null 2>&1 </dev/null || true
            image=$(resolve "$2")
        fi
        deb=$(download "$image") ||
            fail "cannot download $image: no network, or a stale package list (then: sudo apt-get update)"
    fi
    rm -rf "$dir"
    mkdir -p "$dir"
    dpkg-deb -x "$deb" "$dir/tree"
    # Ubuntu keeps the modules in packages of their own.
    local modules=${image/linux-image-/linux-modules-}
    if [ ! -d "$dir/tree/lib/modules" ] && known "$modules" && deb=$(download "$modules"); then
        dpkg-deb -x "$deb" "$dir/tree"
    fi
    version=$(basename "$dir"/tree/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    cp "$dir/tree/boot/vmlinuz-$version" "$dir/vmlinuz"
    cp "$dir/tree/boot/config-$version" "$dir/config" 2>/dev/null || true
    if [ -d "$dir/tree/lib/modules" ]; then
        mkdir -p "$dir/lib"
        mv "$dir/tree/lib/modules" "$dir/lib/modules"
        "$depmod" -b "$dir" "$version"
    fi
    rm -rf "$dir/tree"
    echo "$version" >"$dir/version"
    rm -rf "${guest:?}/$name"
    mv "$dir" "$guest/$name"
    say "$name: Linux $version"
}

installer() {
    local deb dir=$guest/i386.part files
    deb=$(download debian-installer-12-netboot-i386) ||
        fail "cannot download debian-installer-12-netboot-i386: no network, or not a Debian 12 package list"
    rm -rf "$dir"
    mkdir -p "$dir/tree"
    files=./usr/lib/debian-installer/images/12/i386/text/debian-installer/i386
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir/tree" "$files/linux" "$files/initrd.gz"
    mv "$dir/tree/$files/linux" "$dir/vmlinuz"
    # Of its initrd we take the modules, and the dynamically linked busybox as a 32-bit userland.
    mkdir -p "$dir/root"
    gzip -dc "$dir/tree/$files/initrd.gz" >"$dir/tree/initrd"
    (cd "$dir/root" && cpio -idm --quiet --no-absolute-filenames bin/busybox lib/ld-linux.so.2 \
        'lib/i386-linux-gnu/ld-linux.so.2' 'lib/i386-linux-gnu/libc.so.6' 'lib/modules/*' <"$dir/tree/initrd")
    mkdir "$dir/lib"
    mv "$dir/root/lib/modules" "$dir/lib/modules"
    basename "$dir"/lib/modules/* >"$dir/version"
    "$depmod" -b "$dir" "$(cat "$dir/version")"
    rm -rf "$dir/tree" "$guest/i386"
    mv "$dir" "$guest/i386"
    say "i386: Linux $(cat "$guest/i386/version"), from Debian's installer"
}

for name in "${@:-cloud}"; do
    [ -e "$guest/$name/vmlinuz" ] && continue
    i386_options=()
    case $name in
    cloud)
        meta=linux-image-cloud-amd64
        known "$meta" || meta=linux-image-virtual
        kernel cloud "$meta"
        ;;
    generic)
        meta=linux-image-amd64
        known "$meta" || meta=linux-image-generic
        kernel generic "$meta"
        ;;
    i386) installer ;;
    pae)
        i386_lists || fail "no i386 packages found at this host's package sources"
        deb=$(download busybox-static) || fail "cannot download busybox-static for i386"
        dpkg-deb -x "$deb" "$cache/busybox-i386"
        kernel pae linux-image-686-pae
        mkdir -p "$guest/pae/root/bin"
        mv "$cache/busybox-i386/bin/busybox" "$guest/pae/root/bin/busybox"
        ;;
    *) fail "unknown kernel '$name': expected cloud, generic, i386 or pae" ;;
    esac
done
rm -rf "$cache"
