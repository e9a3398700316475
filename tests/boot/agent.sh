#!/bin/sh
# Runs in the guest of a boot test: takes a command a line from the console, and says with what status each ended.
stty -echo </dev/console 2>/dev/null
dmesg -n 1
echo "<READY>"
while read -r line; do
    eval "$line"
    echo "<END $?>"
done
