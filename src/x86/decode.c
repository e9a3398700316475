/*
 * Instruction decoding by Zydis (SDM vol. 2).
 *
 * The decoder is told of none of the extensions that give a meaning to hint
 * NOPs (MPX, CET, CLDEMOTE) or drop a prefix (WBNOINVD): we offer none of
 * them, and a CPU without them executes the plain instruction. LZCNT and TZCNT
 * stay on: whether they are BSR and BSF is for who knows CPUID.
 */
#include "x86/decode.h"

#include <errno.h>

static ZydisDecoder decoder_for(unsigned bits, int real)
{
    ZydisDecoder d;
    if (bits == 64)
        ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (bits == 32)
        ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&d, real ? ZYDIS_MACHINE_MODE_REAL_16 : ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    d.decoder_mode[ZYDIS_DECODER_MODE_MPX] = ZYAN_FALSE;
    d.decoder_mode[ZYDIS_DECODER_MODE_CET] = ZYAN_FALSE;
    d.decoder_mode[ZYDIS_DECODER_MODE_CLDEMOTE] = ZYAN_FALSE;
    d.decoder_mode[ZYDIS_DECODER_MODE_WBNOINVD] = ZYAN_FALSE;
    return d;
}

/*
 * A SIB byte without base (mod 00, base 101) has none whatever REX.B says.
 * Zydis 4.0 takes R13D and no displacement there if addresses are of 32 bits.
 */
static void mend_base(struct insn *in)
{
    const ZydisDecodedInstruction *z = &in->z;
    if (z->address_width != 32 || !(z->attributes & ZYDIS_ATTRIB_HAS_MODRM) || z->raw.modrm.mod != 0 ||
        z->raw.modrm.rm != 4 || z->raw.sib.base != 5)
        return;
    for (unsigned i = 0; i < z->operand_count; i++)
        if (in->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && in->op[i].mem.base == ZYDIS_REGISTER_R13D &&
            in->op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
            in->op[i].mem.base = ZYDIS_REGISTER_NONE;
            in->op[i].mem.disp.has_displacement = ZYAN_TRUE;
            in->op[i].mem.disp.value = z->raw.disp.value;
        }
}

int insn_decode(unsigned bits, int real, const uint8_t *bytes, size_t n, struct insn *out)
{
    const ZydisDecoder d = decoder_for(bits, real);
    ZyanStatus status = ZydisDecoderDecodeFull(&d, bytes, n, &out->z, out->op);
    if (ZYAN_SUCCESS(status)) {
        out->bytes = bytes;
        mend_base(out);
        /* VEX, EVEX and XOP prefixes do not exist in real and virtual-8086 mode. */
        return real && out->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ? -EINVAL : 0;
    }
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return n < ZYDIS_MAX_INSTRUCTION_LENGTH ? -EAGAIN : -E2BIG;
    return status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? -E2BIG : -EINVAL;
}
