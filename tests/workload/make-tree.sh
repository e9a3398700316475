#!/usr/bin/env bash
# Makes the root file system of the workload tests from Debian's (or Ubuntu's) own packages; the host installs nothing.
#
#   tests/workload/make-tree.sh
#
# It becomes build/guest/workload/root: a compiler with its 32-bit libraries, Python, Perl, OpenSSL, SQLite, stress-ng
# and the usual tools, without what nobody runs there (manuals, translations, sanitizers, graphics). It is made once,
# and anew when this script has changed; the packages stay in build/guest/workload/debs.
set -eu
cd "$(dirname "$0")/../.."
self=$PWD/tests/workload/make-tree.sh
home=$PWD/build/guest/workload

stamp=$(sha256sum <"$self")
[ "$(cat "$home/stamp" 2>/dev/null)" != "$stamp" ] || exit 0

mkdir -p "$home/debs"
chmod 755 "$home" "$home/debs" # apt fetches as a user of its own
work=$(mktemp -d "$home/making.XXXXXX")
trap 'rm -rf "$work"' EXIT

fail() {
    echo "make-tree: $*" >&2
    exit 1
}

# ---- which packages -------------------------------------------------------------------------------------------------

wanted=(gcc libc6-dev libc6-dev-i386 python3-minimal libpython3-stdlib perl-base openssl sqlite3 stress-ng coreutils
    bash busybox-static mawk grep sed gzip bzip2 xz-utils diffutils)

# What these depend on in a full system and none of our programs needs. The check at the end finds it if one does.
unwanted=(base-files cpp debconf debianutils dpkg 'gcc-[0-9]*-base' install-info libasan'[0-9]+' libcc1-0 libcom-err2
    libdrm-common libgomp1 libgssapi-krb5-2 libhwasan0 libitm1 libk5crypto3 libkeyutils1 'libkrb5.*' liblsan0 libnsl-dev
    libnsl2 libquadmath0 'libtirpc.*' 'libtsan[0-9]+' 'libubsan[0-9]+' libwayland-client0 'libx11.*' libxau6 'libxcb.*'
    libxdmcp6 libxshmfence1 'lib(egl|glx|gl1)-mesa.*' libgl1-mesa-dri 'libllvm.*' media-types netbase original-awk
    python3 readline-common rpcsvc-proto tar tzdata ucf '.*-dev-bin'
    # The third architecture of multilib, and the sanitizers of the second.
    'libx32.*' libc6-x32 libc6-dev-x32 'lib32(asan|gomp|itm|quadmath|stdc[+][+]|ubsan)[0-9]*')
no=$(printf '|%s' "${unwanted[@]}")
no="^(${no#|})\$"

# As for a machine on which nothing is installed at all.
: >"$work/status"
empty=(-o "Dir::State::status=$work/status" -o "Dir::State::extended_states=$work/extended" -o Debug::NoLocking=1)

# Lines of NAME VERSION.
closure() {
    apt-get "${empty[@]}" install --simulate --no-install-recommends -y "$@" 2>"$work/log" </dev/null |
        sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1 \2/p' | sort -u >"$work/closure"
    [ -s "$work/closure" ]
}

refresh() {
    [ "$(id -u)" -eq 0 ] && apt-get -o DPkg::Lock::Timeout=300 update >"$work/log" 2>&1 </dev/null
}

why() {
    sed -n 's/^E: /make-tree: /p' "$work/log" >&2
}

# The 32-bit part of the compiler's own library has its version in its name.
find_all() {
    local compiler
    closure "${wanted[@]}" || return 1
    compiler=$(sed -n 's/^gcc-\([0-9]*\) .*/\1/p' "$work/closure")
    closure "${wanted[@]}" "lib32gcc-$compiler-dev" || return 1
    awk -v no="$no" '$1 !~ no { print $1 "=" $2 }' "$work/closure" >"$work/packages"
}

fetch_all() {
    local missing=() entry name version
    while IFS='=' read -r name version; do
        entry="$home/debs/${name}_${version//:/%3a}_"
        compgen -G "${entry}*.deb" >/dev/null || missing+=("$name=$version")
    done <"$work/packages"
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "make-tree: fetching ${#missing[@]} packages" >&2
    (cd "$home/debs" && apt-get "${empty[@]}" download "${missing[@]}" >"$work/log" 2>&1 </dev/null)
}

# Package lists may be absent, or name what the mirror has dropped: one more attempt with new ones.
if ! find_all || ! fetch_all; then
    if ! refresh || ! find_all || ! fetch_all; then
        why
        fail "cannot fetch Debian's packages: no network, or old package lists (then: sudo apt-get update)"
    fi
fi

# ---- the tree -------------------------------------------------------------------------------------------------------

tree=$work/root
mkdir -p "$tree"/{usr/{bin,sbin,lib,lib32,lib64},dev,proc,sys,tmp,root,etc,run,var/tmp,workload}
for name in bin sbin lib lib32 lib64; do
    ln -s "usr/$name" "$tree/$name"
done

# Patterns as tar has them: an asterisk matches slashes too.
gcc='./usr/lib/gcc/*' python='./usr/lib/python3*'
skip=('./etc/*' './var/*' './usr/share/*' './usr/lib/locale/*' './*/gconv/*' './usr/lib/*/gprofng/*'
    './usr/lib/*/libgprofng*' './usr/lib/engines-*' './usr/lib/*/perl-base/unicore/*' './usr/lib/*/lib*_g.a'
    './usr/bin/*gcov*' './usr/bin/*lto-dump*' './usr/bin/*gp-*' './usr/bin/*gprof*' './usr/bin/*dwp' './usr/bin/*gold'
    './usr/bin/gcc-*ranlib*'
    "$gcc/lto*" "$gcc/lib*san*" "$gcc/libcaf*" "$gcc/plugin/*" "$gcc/libgfortran*" "$gcc/libgomp*" "$gcc/libitm*"
    "$gcc/libquadmath*" "$gcc/libgcov*"
    './usr/include/drm/*' './usr/include/rdma/*' './usr/include/sound/*' './usr/include/scsi/*' './usr/include/misc/*'
    './usr/include/video/*' './usr/include/xen/*' './usr/include/linux/*/*'
    "$python/test/*" "$python/*/test/*" "$python/idlelib/*" "$python/lib2to3/*" "$python/ensurepip/*"
    "$python/pydoc_data/*" "$python/distutils/*" "$python/tkinter/*" "$python/lib-dynload/nis.*")
exclude=()
for pattern in "${skip[@]}"; do
    exclude+=("--exclude=$pattern")
done
while IFS='=' read -r name version; do
    for deb in "$home/debs/${name}_${version//:/%3a}_"*.deb; do
        dpkg-deb --fsys-tarfile "$deb" |
            tar -x -C "$tree" --keep-directory-symlink --no-same-owner --wildcards "${exclude[@]}"
    done
done <"$work/packages"

# What the packages' scripts would do.
ln -sf bash "$tree/bin/sh"
ln -sf mawk "$tree/bin/awk"
"$tree/bin/busybox" --list | while read -r applet; do
    [ -e "$tree/bin/$applet" ] || [ -e "$tree/sbin/$applet" ] || ln -s busybox "$tree/bin/$applet"
done
mkdir -p "$tree/etc/ssl"
printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
printf '127.0.0.1 localhost\n' >"$tree/etc/hosts"
printf '[req]\n' >"$tree/etc/ssl/openssl.cnf"

# Libraries that somebody needs and nobody brought. 32-bit and 64-bit ones have the same names: good enough.
find "$tree" -type f \( -perm /111 -o -name '*.so*' \) -print0 |
    xargs -0 readelf -d 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u >"$work/needed"
(cd "$tree" && find . -name '*.so*' -printf '%f\n') | sort -u >"$work/present"
lacking=$(comm -23 "$work/needed" "$work/present" | tr '\n' ' ')
[ -z "$lacking" ] || fail "the tree lacks $lacking"

chmod -R u+rwX,go+rX "$tree"
rm -rf "$home/root"
mv "$tree" "$home/root"
awk -F= '{ print $1, $2 }' "$work/packages" >"$home/packages"
echo "$stamp" >"$home/stamp"
echo "make-tree: $(wc -l <"$home/packages") packages, $(du -sm "$home/root" | cut -f1) MiB" >&2
