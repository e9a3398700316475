#!/usr/bin/env bash
# Builds xhyve for Macs on Linux, as `make macos` and the tests do: build/macos/x86_64/xhyve and build/macos/arm64/xhyve.
# They are linked against stubs and can run on a Mac only; docs/macos.md says how they are made.
#
#   scripts/macos.sh [MESON-OPTION...]
set -eu
cd "$(dirname "$0")/.."

scripts/macos-sdk.sh >/dev/null
for arch in x86_64 arm64; do
    folder=build/macos/$arch
    # Anew when the compiler, the stubs or the cross file have changed.
    stamp=$(cat build/macos/stamp build/macos/$arch.ini | sha256sum)
    if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -rf "$folder"
        meson setup --cross-file "build/macos/$arch.ini" -Dtests=false -Dwerror=true "$@" "$folder" >"build/macos/$arch.log" 2>&1 || {
            cat "build/macos/$arch.log" >&2
            exit 1
        }
        echo "$stamp" >"$folder/stamp"
    fi
    ninja -C "$folder"
done
