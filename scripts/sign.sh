#!/bin/sh
# Signs xhyve on a Mac, so that macOS lets it use Hypervisor.framework; `make` and `make install` call this.
#
#   scripts/sign.sh [PROGRAM]       (without: the one that Meson has just installed)
#
# XHYVE_SIGN names the identity: "-", the default, is an ad-hoc signature. With a team's identity, say
# XHYVE_ENTITLEMENTS=packaging/xhyve-team.entitlements if Apple has granted the team com.apple.vm.networking.
set -eu
[ "$(uname -s)" = Darwin ] || exit 0
top=$(cd "$(dirname "$0")/.." && pwd)
program=${1:-${MESON_INSTALL_DESTDIR_PREFIX:?}/bin/xhyve}
identity=${XHYVE_SIGN:--}
entitlements=${XHYVE_ENTITLEMENTS:-$top/packaging/xhyve.entitlements}

if codesign --verify "$program" 2>/dev/null &&
    codesign --display --entitlements - --xml "$program" 2>/dev/null | grep -q com.apple.security.hypervisor &&
    [ "$identity" = - ] && [ "$entitlements" = "$top/packaging/xhyve.entitlements" ]; then
    exit 0
fi
if [ "$identity" = - ]; then
    codesign --force --sign - --entitlements "$entitlements" "$program"
else
    codesign --force --options runtime --timestamp --sign "$identity" --entitlements "$entitlements" "$program"
fi
