/*
 * Ports (table 28-5). IN and OUT are served from the exit's qualification; the
 * string forms, which go through segments and paging and may fault or repeat,
 * are executed by the interpreter.
 */
#include "accel/hvf/priv.h"

#define IO_IN (1u << 3)
#define IO_STRING (1u << 4)

bool hvf_exit_io(struct hvf_vcpu *hv, enum vcpu_exit *out)
{
    uint64_t q = hv->qualification;
    unsigned size = (unsigned)(q & 7) + 1;
    uint16_t port = (uint16_t)(q >> 16);

    if (q & IO_STRING)
        return hvf_step(hv, out);
    if (size == 3 || size > 4) { /* reserved: no processor says so */
        hvf_dump(hv, "an access to a port has an impossible size");
        *out = VCPU_EXIT_ERROR;
        return true;
    }
    if (q & IO_IN) {
        uint32_t val = vcpu_pio_read(hv->vcpu, port, size);
        hvf_set_gpr_part(hv, RAX, size, val);
    } else {
        uint64_t mask = size == 4 ? UINT32_MAX : (UINT64_C(1) << 8 * size) - 1;
        vcpu_pio_write(hv->vcpu, port, size, (uint32_t)(hvf_gpr(hv, RAX) & mask));
    }
    hvf_skip_exit(hv);
    return false;
}
