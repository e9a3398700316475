#!/usr/bin/env bash
# `make demo`: boots Debian from a disk to a shell on this terminal, with a network and entropy. What the guest writes is
# gone at its end: it has a copy of the disk that scripts/make-disk.sh made once.
#
# Without a terminal the guest runs scripts/demo-guest.sh instead, its ports are tried from here, and it powers off; the
# status is 0 only if all of it was seen to work.
#
# XHYVE=path tries another program; MEM, CPUS, ACCEL and CMDLINE change the machine. DISK=path is a disk of yours, and
# is written to; DISK=none: without, to a shell in the initrd. SSH_PORT and HTTP_PORT are where looking for free ports
# begins (2222 and 8080).
set -eu
cd "$(dirname "$0")/.."

xhyve=${XHYVE:-build/xhyve}
guest=build/guest
log=build/demo.log
cmdline="console=ttyS0 cryptomgr.notests"
modules=(-m button -m evdev)

if [ ! -x "$xhyve" ]; then
    echo "demo: $xhyve does not exist: run make first" >&2
    exit 1
fi

scripts/fetch-kernel.sh cloud
if [ "${DISK:-}" != none ]; then
    [ -n "${DISK:-}" ] || scripts/make-disk.sh
    modules=(-m virtio_pci -m virtio_blk -m ext4)
    cmdline="$cmdline root=/dev/vda"
fi
cmdline="$cmdline ${CMDLINE:-}"

# initrd OUTPUT OPTIONS...: makes it unless it is newer than all that goes into it
initrd() {
    local output=$1
    shift
    if [ ! -e "$output" ] || [ -n "$(find scripts $guest/cloud/vmlinuz -newer "$output" -print -quit)" ]; then
        scripts/make-initrd.sh -k $guest/cloud "${modules[@]}" "$@" "$output"
    fi
}

# The first port from $1 on that nobody has.
free_port() {
    python3 -c '
import socket, sys
for port in range(int(sys.argv[1]), 65536):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
        print(port)
        break' "$1"
}

ssh=$(free_port "${SSH_PORT:-2222}")
http=$(free_port "${HTTP_PORT:-8080}")
arguments=(-a "${ACCEL:-auto}" -m "${MEM:-512M}" -c "${CPUS:-1}" -l com1,stdio)
kind=''
if [ "${DISK:-}" = none ]; then
    kind=-none
else
    image=${DISK:-}
    if [ -z "$image" ]; then
        # The copy has no name any more, so that nothing is left of it, however this ends.
        copy=$(mktemp $guest/demo.XXXXXX)
        trap 'rm -f "$copy"' EXIT
        cp --sparse=always --reflink=auto $guest/disk/disk.img "$copy"
        exec 9<>"$copy"
        rm "$copy"
        trap - EXIT
        image=/dev/fd/9
    fi
    arguments+=(-s "3,virtio-blk,$image" -s 5,virtio-rnd
        -s "4,virtio-net,user,hostfwd=tcp:127.0.0.1:$ssh-:22,hostfwd=tcp:127.0.0.1:$http-:80")
fi

reach() {
    [ -n "$kind" ] || cat <<END
demo: once the guest is up, from another terminal:
    ssh -p $ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1     (it asks for no password)
    curl http://127.0.0.1:$http/
END
}

if [ -t 0 ] && [ -t 1 ]; then
    initrd $guest/demo$kind.cpio
    reach
    exec "$xhyve" "${arguments[@]}" -f "kexec,$guest/cloud/vmlinuz,$guest/demo$kind.cpio,$cmdline"
fi

initrd $guest/demo-auto$kind.cpio -a scripts/demo-guest.sh
echo "demo: no terminal, so the guest runs scripts/demo-guest.sh and powers off"
reach
: >"$log"
status=0
exec 8< <(exec scripts/demo-host.py "$log" "$ssh" "$http")
timeout "${TIMEOUT:-300}" "$xhyve" "${arguments[@]}" -o reboot=exit \
    -f "kexec,$guest/cloud/vmlinuz,$guest/demo-auto$kind.cpio,$cmdline quiet panic=-1" <&8 >"$log" 2>&1 || status=$?
exec 8<&-

# What was seen, without the terminal's control codes.
tr -d '\r\0' <"$log" | sed 's/\x1b[[(]*[0-9;?]*[a-zA-Z]//g; s/\x1bc//g' >"$log.text"

version=$(cat $guest/cloud/version)
wanted=('xhyve: init is running' "Linux .* $version .* x86_64" '^model name' '^Mem: *[1-9]' '^demo: 42$'
    '^demo: the guest is done')
[ -n "$kind" ] || wanted+=('^/dev/vda .* /$' 'inet 10\.0\.2\.15/' '^virtio_rng' '^demo: host: SSH-' '^demo: host: .*guest of xhyve')
lost=()
for seen in "${wanted[@]}"; do
    grep -q -- "$seen" "$log.text" || lost+=("$seen")
done
[ "$status" -eq 0 ] || lost+=("exit status 0 (it was $status)")

if [ ${#lost[@]} -gt 0 ]; then
    echo "demo: FAILED. The end of the console ($log):" >&2
    tail -n 30 "$log.text" >&2
    echo "demo: not seen:" >&2
    printf '  %s\n' "${lost[@]}" >&2
    exit 1
fi
sed -n '/init is running/,$p' "$log.text"
echo "demo: Linux $version booted, ran its commands and powered off"
