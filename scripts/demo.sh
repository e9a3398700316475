#!/usr/bin/env bash
# `make demo`: boots the distribution's kernel to a shell on this terminal. Without a terminal the guest runs
# scripts/demo-guest.sh instead and powers off; the status is 0 only if all of it was seen to work.
#
# XHYVE=path tries another program; MEM, CPUS, ACCEL and CMDLINE change the machine.
set -eu
cd "$(dirname "$0")/.."

xhyve=${XHYVE:-build/xhyve}
guest=build/guest
log=build/demo.log
arguments=(-a "${ACCEL:-auto}" -m "${MEM:-512M}" -c "${CPUS:-1}" -l com1,stdio)
cmdline="console=ttyS0 ${CMDLINE:-}"

if [ ! -x "$xhyve" ]; then
    echo "demo: $xhyve does not exist: run make first" >&2
    exit 1
fi

scripts/fetch-kernel.sh cloud

# initrd OUTPUT OPTIONS...: makes it unless it is newer than all that goes into it
initrd() {
    local output=$1
    shift
    if [ ! -e "$output" ] || [ -n "$(find scripts $guest/cloud/vmlinuz -newer "$output" -print -quit)" ]; then
        scripts/make-initrd.sh -k $guest/cloud -m button -m evdev "$@" "$output"
    fi
}

if [ -t 0 ] && [ -t 1 ]; then
    initrd $guest/demo.cpio
    exec "$xhyve" "${arguments[@]}" -f "kexec,$guest/cloud/vmlinuz,$guest/demo.cpio,$cmdline"
fi

initrd $guest/demo-auto.cpio -a scripts/demo-guest.sh
echo "demo: no terminal, so the guest runs scripts/demo-guest.sh and powers off"
status=0
timeout "${TIMEOUT:-300}" "$xhyve" "${arguments[@]}" -o reboot=exit \
    -f "kexec,$guest/cloud/vmlinuz,$guest/demo-auto.cpio,$cmdline quiet panic=-1" </dev/null >"$log" 2>&1 || status=$?

# What was seen, without the terminal's control codes.
tr -d '\r' <"$log" | sed 's/\x1b[[(]*[0-9;?]*[a-zA-Z]//g; s/\x1bc//g' >"$log.text"

lost=()
version=$(cat $guest/cloud/version)
for seen in 'xhyve: init is running' "Linux .* $version .* x86_64" '^model name' '^Mem: *[1-9]' '^demo: 42$' \
    '^demo: the guest is done'; do
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
