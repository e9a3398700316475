#!/bin/bash
# Runs workloads at once, each in a folder of its own, and prints one after the other what they said.
#
#   go.sh NAME COMMAND [NAME COMMAND]...
#
# Before the output of each stands a line `@@ NAME STATUS LINES SHA256`; of long output the digest counts and the first
# lines are there to look at.
unset ${!LC_*} OLDPWD
export PATH=/usr/sbin:/usr/bin LC_ALL=C LANG=C TZ=UTC HOME=/tmp TMPDIR=/tmp SOURCE_DATE_EPOCH=1000000000
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 PERL_HASH_SEED=0
umask 022
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -d /dev/shm ] || { mkdir /dev/shm && mount -t tmpfs tmpfs /dev/shm; }
mkdir -p /tmp/work /tmp/said
names=()
while [ $# -ge 2 ]; do
    names+=("$1")
    rm -rf "/tmp/work/$1"
    mkdir "/tmp/work/$1"
    (
        cd "/tmp/work/$1" || exit 126
        bash -c "$2" >"/tmp/said/$1" 2>&1 </dev/null
        echo $? >"/tmp/said/$1.status"
    ) &
    shift 2
done
wait
for name in "${names[@]}"; do
    digest=$(sha256sum <"/tmp/said/$name")
    echo "@@ $name $(cat "/tmp/said/$name.status") $(wc -l <"/tmp/said/$name") ${digest%% *}"
    head -n 300 "/tmp/said/$name" | cut -c 1-300
    rm -rf "/tmp/work/$name" "/tmp/said/$name" "/tmp/said/$name.status"
done
