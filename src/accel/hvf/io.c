/*
 * Ports (table 28-5). IN and OUT are served from the exit's qualification; the
 * string forms, which go through segments and paging and may fault or repeat,
 * are executed by the interpreter.
 */
#include "accel/hvf/priv.h"

#define IO_IN (1u << 3)
#define IO_STRING (1u << 4)

/*
 * I/O breakpoints (18.2.4): the processor does not look for them in what has
 * exited. DR7 is the guest's to write, so it is read each time.
 */
static void check_breakpoints(struct hvf_vcpu *hv, uint16_t port, unsigned size)
{
    static const hv_x86_reg_t address[4] = {HV_X86_DR0, HV_X86_DR1, HV_X86_DR2, HV_X86_DR3};
    static const uint8_t bytes[4] = {1, 2, 8, 4};
    uint64_t dr7 = hvf_vmcs(hv, VMCS_GUEST_DR7), hit = 0;

    if (!(dr7 & 0xff) || !(hvf_cr4(hv) & CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned len = bytes[dr7 >> (18 + 4 * i) & 3];
        if (!(dr7 >> (2 * i) & 3) || (dr7 >> (16 + 4 * i) & 3) != 2)
            continue;
        uint64_t first = hvf_reg(hv, address[i]) & ~(uint64_t)(len - 1);
        if (port < first + len && first < (uint64_t)port + size)
            hit |= UINT64_C(1) << i;
    }
    if (hit)
        hvf_set_vmcs(hv, VMCS_GUEST_DEBUG_EXC, hvf_vmcs(hv, VMCS_GUEST_DEBUG_EXC) | hit | PENDING_DEBUG_ENABLED);
}

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
    check_breakpoints(hv, port, size);
    return false;
}
