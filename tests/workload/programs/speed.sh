#!/bin/bash
# openssl speed, shortly: that it runs, for how fast it is differs.
# speed.sh SECONDS ALGORITHM...
seconds=$1
shift
for name in "$@"; do
    case $name in rsa*|ecdsa*|ecdh*|ed25519) evp= ;; *) evp=-evp ;; esac
    openssl speed -seconds "$seconds" -bytes 4096 $evp "$name" >said 2>&1
    echo "$name: $?"
    grep -v '^compiler' said | grep -E -i 'error|fail|mismatch'
done
exit 0
