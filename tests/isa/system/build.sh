#!/bin/sh
# build.sh OUTPUT SOURCE...: a payload as a 32-bit ELF file with a Multiboot header. 64-bit code unless ISA_BITS=32. By gcc,
# whatever builds xhyve: the guest is the same.
set -e
out=$1
shift
bits=${ISA_BITS:-64}
here=$(dirname "$0")
flags="-m$bits -O1 -ffreestanding -fno-pic -fno-pie -mno-red-zone -fno-stack-protector -fcf-protection=none -mgeneral-regs-only \
-fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -Wall -Wextra -Wno-unused-parameter -Wno-array-bounds -nostdlib"
[ "$bits" = 64 ] && flags="$flags -mcmodel=small"
gcc $flags -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -T "$here/link.ld" -o "$out.elf" "$here/start$bits.S" "$here/rt$bits.c" "$@" 2>"$out.err" ||
    { sed -i '/no-warn-rwx/d' "$out.err"; gcc $flags -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -T "$here/link.ld" -o "$out.elf" "$here/start$bits.S" "$here/rt$bits.c" "$@"; }
objcopy -O elf32-i386 "$out.elf" "$out"
