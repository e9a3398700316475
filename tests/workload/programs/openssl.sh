#!/bin/bash
# OpenSSL at work with given keys: digests, ciphers, signatures; every code path that the processor's features choose.
# openssl.sh FEATURES SIZE    FEATURES: all, or a value of OPENSSL_ia32cap that turns some off
[ "$1" = all ] || export OPENSSL_ia32cap=$1
keys=/workload/keys
head -c "$2" /workload/program.c >plain
cat plain plain plain >data
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
iv=f0e0d0c0b0a090807060504030201000

for name in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-256 sha3-512 shake128 blake2b512 \
    blake2s256 sm3 ripemd160; do
    openssl dgst "-$name" data || echo "$name: none"
done
openssl dgst -sha256 -hmac secret data
openssl dgst -mac cmac -macopt cipher:aes-128-cbc -macopt hexkey:${key:0:32} data
openssl kdf -keylen 24 -kdfopt digest:SHA2-256 -kdfopt key:secret -kdfopt salt:salt -kdfopt info:label HKDF
openssl kdf -keylen 24 -kdfopt pass:secret -kdfopt salt:salt -kdfopt iter:500 PBKDF2

for name in aes-128-cbc aes-192-cbc aes-256-cbc aes-128-ctr aes-256-ctr aes-128-ecb aes-256-cfb aes-128-ofb \
    aes-256-cfb8 camellia-128-cbc camellia-256-ctr aria-128-cbc sm4-ctr des-ede3-cbc chacha20; do
    case $name in *128*|sm4*) k=${key:0:32} ;; *192*|des*) k=${key:0:48} ;; *) k=$key ;; esac
    case $name in des*) v=${iv:0:16} ;; *-ecb) v= ;; *) v=$iv ;; esac
    openssl enc "-$name" -K "$k" ${v:+-iv $v} -in data -out packed || echo "$name: none"
    echo "$name $(sha256sum <packed | cut -c 1-32)"
    openssl enc -d "-$name" -K "$k" ${v:+-iv $v} -in packed | cmp - data || echo "$name: decrypted wrongly"
done

for name in rsa ec ed25519; do
    case $name in ed25519) how='-rawin' ;; *) how='-rawin -digest sha256' ;; esac
    openssl pkeyutl -sign -inkey $keys/$name.pem $how -in data -out signature
    # ECDSA takes a random number; the others sign the same each time.
    [ $name = ec ] || echo "$name $(sha256sum <signature)"
    openssl pkeyutl -verify -inkey $keys/$name.pem $how -in data -sigfile signature
    sed 's/the/eht/' data >forged
    openssl pkeyutl -verify -inkey $keys/$name.pem $how -in forged -sigfile signature 2>/dev/null
    echo "of another text: $?"
done
openssl pkeyutl -verify -inkey $keys/ec.pem -rawin -digest sha256 -in $keys/text -sigfile $keys/ec.signature
openssl pkeyutl -derive -inkey $keys/x25519.pem -peerkey $keys/x25519-peer.pem | sha256sum
openssl pkeyutl -derive -inkey $keys/ec.pem -peerkey $keys/ec-peer.pem | sha256sum
openssl pkeyutl -encrypt -inkey $keys/rsa.pem -pkeyopt rsa_padding_mode:oaep -in <(head -c 100 plain) -out packed
openssl pkeyutl -decrypt -inkey $keys/rsa.pem -pkeyopt rsa_padding_mode:oaep -in packed | sha256sum
openssl rsa -in $keys/rsa.pem -check -noout
openssl prime 170141183460469231731687303715884105727 170141183460469231731687303715884105729
openssl rand 1000 | wc -c
