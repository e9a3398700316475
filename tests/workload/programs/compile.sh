#!/bin/bash
# The compiler at work on what generate.py wrote: each of its stages, and what the program prints.
# compile.sh SOURCE OPTIONS...
source=$1
shift
cp "/workload/$source" .
for options in "$@"; do
    echo "gcc $options"
    gcc -ffp-contract=off $options -save-temps -c "$source"
    gcc $options -o out "${source%.c}.o" -lm
    sha256sum "${source%.c}".[iso] out
    ./out >said
    echo "status $?, $(wc -l <said) lines, $(sha256sum <said)"
    tail -n 2 said
done
