#!/usr/bin/env bash
# Has clang-tidy read every C file of src/ with the checks of .clang-tidy, as many at once as there are cores.
#
#   scripts/tidy.sh [BUILD]       (default: build; it must be configured)
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
# clang does not know all of gcc's options in compile_commands.json; that is no finding.
find src -name '*.c' | sort |
    xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$build" --extra-arg=-Wno-unknown-warning-option 2>&1 |
    grep -vE '^[0-9]+ warnings? (generated|treated)|^Suppressed|^Use -header-filter|^$'
exit "${PIPESTATUS[2]}"
