/*
 * Instruction decoding: Zydis behind one function of ours.
 */
#ifndef XHYVE_X86_DECODE_H
#define XHYVE_X86_DECODE_H

#include <Zydis/Zydis.h>
#include <stddef.h>
#include <stdint.h>

struct insn {
    ZydisDecodedInstruction z;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t *bytes; /* the encoding, z.length bytes */
    unsigned mode;        /* enum code_mode (cpu/op.h) of the code */
};

/*
 * Decodes one instruction of at most n bytes (n up to 15). bits is 16, 32 or
 * 64; real is true where the CPU is in real or virtual-8086 mode.
 * 0; -EAGAIN if it does not end within n < 15 bytes; -EINVAL if it is no
 * instruction (#UD), -E2BIG if it is longer than 15 bytes (#GP).
 */
int insn_decode(unsigned bits, int real, const uint8_t *bytes, size_t n, struct insn *out);

#endif
