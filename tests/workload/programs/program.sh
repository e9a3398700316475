#!/bin/bash
# Compiles program.c with each set of options and runs it.
# native.sh OPTIONS...
for options in "$@"; do
    echo "gcc $options"
    gcc -ffp-contract=off $options -o program /workload/program.c -lm -lpthread
    sha256sum program
    ./program
    echo "status $?"
done
