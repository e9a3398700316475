#!/usr/bin/env bash
# Installs the packages that a task needs and this machine lacks (Debian, Ubuntu and their kin; macOS with Homebrew).
#
#   scripts/setup.sh [build|macos|demo|check|bench]
#
# Each level contains build, check and bench also the ones before them. With nothing missing this is one dpkg query. As
# root the missing packages are installed; otherwise the one command to run is printed, and the status is 1. On a Mac
# Homebrew is asked, and what it lacks is printed in the same way. XHYVE_SETUP=no skips all of it.
set -eu

level=${1:-build}

packages=(gcc make meson ninja-build pkg-config libc6-dev libzydis-dev libseccomp-dev zlib1g-dev liblzma-dev liblz4-dev
    libzstd-dev libslirp-dev liburing-dev libnbd-dev)
macos=(lld llvm openssl)
command -v npm >/dev/null || macos+=(npm)
demo=(busybox-static cpio e2fsprogs fakeroot kmod mmdebstrap python3 uidmap)
check=(clang clang-format clang-tidy libcmocka-dev acpica-tools dmidecode git iperf3 mandoc nbdkit qemu-system-x86 qemu-utils
    rng-tools-debian)
bench=(qemu-system-x86)

case $level in
build) ;;
macos) packages+=("${macos[@]}") ;;
demo) packages+=("${demo[@]}") ;;
check) packages+=("${macos[@]}" "${demo[@]}" "${check[@]}") ;;
bench) packages+=("${demo[@]}" "${bench[@]}") ;;
*)
    echo "setup: unknown level '$level': expected build, macos, demo, check or bench" >&2
    exit 1
    ;;
esac

if [ "${XHYVE_SETUP:-yes}" = no ]; then
    exit 0
fi
if [ "$(uname -s)" = Darwin ]; then
    brewfile=packaging/Brewfile
    cd "$(dirname "$0")/.."
    if [ "$level" != build ]; then
        echo "setup: '$level' is for Linux: a Mac builds xhyve (make) and runs it" >&2
        exit 1
    fi
    if ! command -v brew >/dev/null; then
        echo "setup: Homebrew (https://brew.sh) is missing. Needed, by its names:" >&2
        sed -n 's/^brew "\(.*\)".*/  \1/p' "$brewfile" >&2
        echo "Once they are there, by whatever way, go on with XHYVE_SETUP=no make ..." >&2
        exit 1
    fi
    brew bundle check --quiet --no-upgrade --file="$brewfile" >/dev/null && exit 0
    echo "Some packages are missing. Run this, and then the same command again:" >&2
    echo >&2
    echo "  brew bundle --no-upgrade --file=$brewfile" >&2
    echo >&2
    exit 1
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "setup: this is neither Debian nor Ubuntu, so nothing is installed. Needed, by their Debian names:" >&2
    echo "  ${packages[*]}" >&2
    echo "Once they are there, go on with XHYVE_SETUP=no make ..." >&2
    exit 1
fi

# A name counts as present when a package of that name, or one that provides it, is installed.
installed=$(dpkg-query -W -f='${db:Status-Abbrev}|${Package}, ${Provides}\n' | sed -n 's/^.i |//p' |
    sed 's/ *([^)]*)//g; s/:[a-z0-9]*//g; s/, */\n/g')
missing=()
for name in "${packages[@]}"; do
    if ! grep -qxF -- "$name" <<<"$installed"; then
        missing+=("$name")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
    echo "Some packages are missing. Run this, and then the same command again:" >&2
    echo >&2
    echo "  sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    echo >&2
    exit 1
fi

echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null
}
# The package lists may be absent or stale: fetch them when the first attempt fails.
if ! install; then
    if ! apt-get -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 </dev/null || ! install; then
        tail -n 20 "$log" >&2
        echo "setup: the packages could not be installed; apt-get's last words are above. Is there a network?" >&2
        exit 1
    fi
fi
