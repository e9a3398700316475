#!/usr/bin/env bash
# Has clang-tidy read every C file of src/ with the checks of .clang-tidy, as many at once as there are cores.
#
#   scripts/tidy.sh [BUILD]       (default: build; it must be configured)
#
# Files for Macs are read as `make macos` compiles them, if it has.
set -u
cd "$(dirname "$0")/.."
build=${1:-build}

if ! command -v clang-tidy >/dev/null; then
    echo "tidy: clang-tidy is missing: scripts/setup.sh check" >&2
    exit 1
fi
if [ ! -f "$build/compile_commands.json" ]; then
    echo "tidy: $build is not configured: run make" >&2
    exit 1
fi
# read_files BUILD [ARGUMENT]: reads the files named on standard input as BUILD compiles them. clang does not know all of gcc's options
# in compile_commands.json; that is no finding.
read_files() {
    sort | xargs -r -P "$(nproc)" -n 4 clang-tidy --quiet -p "$1" --extra-arg=-Wno-unknown-warning-option "${@:2}" 2>&1 |
        grep -vE '^[0-9]+ warnings? (generated|treated)|^Suppressed|^Use -header-filter|^$'
    return "${PIPESTATUS[1]}"
}

# compiled BUILD: which files of src/ it compiles.
compiled() {
    sed -n 's|^ *"file": ".*/\(src/[^"]*\.c\)",*$|\1|p' "$1/compile_commands.json" | sort -u
}

status=0
compiled "$build" | read_files "$build" || status=1
mac=build/macos/x86_64
if [ -f "$mac/compile_commands.json" ]; then
    comm -13 <(compiled "$build") <(compiled "$mac") |
        # Not the headers of the other clang's own.
        read_files "$mac" --extra-arg="-resource-dir=$(clang -print-resource-dir)" || status=1
fi
exit "$status"
