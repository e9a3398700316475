#!/usr/bin/env bash
# Makes an initrd from busybox and scripts/init.sh.
#
#   scripts/make-initrd.sh [-r ROOT] [-k KERNEL] [-m MODULE]... [-a SCRIPT] [-f FILE=PATH]... OUTPUT
#
#   -r ROOT       a folder whose files are the userland (default: the host's /bin/busybox, from busybox-static)
#   -k KERNEL     a folder of scripts/fetch-kernel.sh, in which -m finds modules
#   -m MODULE     a module to load at start, with all it depends on; none is added if it is built into the kernel
#   -a SCRIPT     runs in the guest instead of the interactive shell; the guest powers off after it
#   -f FILE=PATH  adds a file of the host under a path in the guest
#
# The archive is not compressed: unpacking it would cost an emulated CPU more than reading it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "make-initrd: $*" >&2
    exit 1
}

root='' kernel='' autorun='' modules=() files=()
while getopts r:k:m:a:f: option; do
    case $option in
    r) root=$OPTARG ;;
    k) kernel=$OPTARG ;;
    m) modules+=("$OPTARG") ;;
    a) autorun=$OPTARG ;;
    f) files+=("$OPTARG") ;;
    *) fail "usage: make-initrd.sh [-r ROOT] [-k KERNEL] [-m MODULE]... [-a SCRIPT] [-f FILE=PATH]... OUTPUT" ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || fail "expected one output file, found $# arguments"
output=$(realpath -m "$1")

busybox=$(command -v busybox) || fail "busybox is missing: install busybox-static"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

chmod 755 "$tree"
mkdir -p "$tree"/{bin,dev,proc,sys,root,tmp}
if [ -n "$root" ]; then
    cp -a "$root"/. "$tree"/
else
    cp "$busybox" "$tree/bin/busybox"
fi
"$busybox" --list | while read -r applet; do
    [ -e "$tree/bin/$applet" ] || ln -s busybox "$tree/bin/$applet"
done
install -m 755 "$here/init.sh" "$tree/init"
[ -z "$autorun" ] || install -m 755 "$autorun" "$tree/autorun"
for file in "${files[@]}"; do
    install -D -m 755 "${file%%=*}" "$tree/${file#*=}"
done

# A module's line in modules.dep names it and then what it needs, the nearest first: to be loaded from right to left.
if [ ${#modules[@]} -gt 0 ]; then
    [ -n "$kernel" ] || fail "-m needs -k"
    dir=$(echo "$kernel"/lib/modules/*)
    [ -f "$dir/modules.dep" ] || fail "no modules.dep in $kernel/lib/modules/*"
    mkdir "$tree/modules"
    for module in "${modules[@]}"; do
        pattern=$(sed 's/[-_]/[-_]/g' <<<"$module")
        line=$(grep -E "(^|/)$pattern\.ko[.a-z]*:" "$dir/modules.dep" | head -n 1)
        if [ -z "$line" ]; then
            grep -qE "/$pattern\.ko" "$dir/modules.builtin" 2>/dev/null && continue
            fail "no module $module in $dir"
        fi
        for path in $(tr -d : <<<"$line" | tr ' ' '\n' | tac); do
            name=$(basename "$path")
            plain=${name%%.ko*}.ko
            grep -qxF "$plain" "$tree/modules/order" 2>/dev/null && continue
            case $name in
            *.xz) xz -dc "$dir/$path" ;;
            *.zst) zstd -dcq "$dir/$path" ;;
            *.gz) gzip -dc "$dir/$path" ;;
            *) cat "$dir/$path" ;;
            esac >"$tree/modules/$plain"
            echo "$plain" >>"$tree/modules/order"
        done
    done
fi

mkdir -p "$(dirname "$output")"
(cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R +0:+0 --reproducible) >"$output.part.$$"
mv "$output.part.$$" "$output"
