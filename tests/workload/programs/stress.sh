#!/bin/bash
# One stressor of stress-ng that checks its own results. What it counted and how long it took is left out.
# stress.sh NAME OPTION...
name=$1
shift
stress-ng --"$name" 1 --verify --no-rand-seed --temp-path . "$@" >said 2>&1
status=$?
grep ': fail:' said | sed 's/\[[0-9]*\]/[]/'
if [ $status -ne 0 ] || ! grep -q 'successful run completed' said; then
    cat said
fi
echo "$name: status $status"
exit $status
