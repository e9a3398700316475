/*
 * The state a processor wakes up in (SDM vol. 3 section 10.1.1, table 10-1).
 */
#include "x86/state.h"

#include <string.h>

#include "util/bytes.h"

#define ACCESSED_DATA (SEG_P | SEG_S | 3)  /* read/write, accessed */
#define ACCESSED_CODE (SEG_P | SEG_S | 11) /* execute/read, accessed */

void x86_state_reset(struct x86_state *s, bool bsp)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < SEG_LDTR; i++)
        s->seg[i] = (struct x86_segment){.limit = 0xffff, .attr = ACCESSED_DATA};
    s->seg[SEG_CS] = (struct x86_segment){.sel = 0xf000, .base = 0xffff0000, .limit = 0xffff, .attr = ACCESSED_CODE};
    s->seg[SEG_LDTR] = (struct x86_segment){.limit = 0xffff, .attr = SEG_P | 2};
    s->seg[SEG_TR] = (struct x86_segment){.limit = 0xffff, .attr = SEG_P | 11};
    s->gdtr.limit = s->idtr.limit = 0xffff;
    s->rip = 0xfff0;
    s->rflags = RFL_FIXED;
    s->gpr[RDX] = 0x00000600; /* a family 6 signature */
    s->cr0 = CR0_CD | CR0_NW | CR0_ET;
    s->xcr0 = 1;
    s->dr[6] = 0xffff0ff0;
    s->dr[7] = 0x400;
    s->pat = UINT64_C(0x0007040600070406);
    s->misc_enable = 1; /* fast strings */

    /* FINIT state would have FCW 037Fh; power-up has 0040h and all tags empty ("valid zero" on paper, empty to FXSAVE). */
    put_le16(s->xsave, 0x40);
    put_le32(s->xsave + 24, 0x1f80); /* MXCSR */
    put_le32(s->xsave + 28, 0xffff); /* MXCSR_MASK */

    s->run_state = bsp ? X86_RUNNING : X86_WAIT_SIPI;
}

struct x86_segment x86_flat_segment(uint16_t sel, uint32_t attr)
{
    return (struct x86_segment){.sel = sel, .limit = 0xffffffff, .attr = attr | SEG_P | SEG_S | SEG_G};
}
