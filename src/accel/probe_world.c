#include "accel/probe_world.h"

#include <string.h>

#include "os/clock.h"
#include "util/bytes.h"

void probe_world_build(uint8_t *ram, const uint8_t *code, size_t n)
{
    const uint32_t table = PTE_P | PTE_W | PTE_U;
    memcpy(ram + GUEST_CODE, code, n);
    put_le64(ram + GUEST_PML4, GUEST_PDPT | table);
    put_le64(ram + GUEST_PDPT, GUEST_PD | table);
    put_le64(ram + GUEST_PD, table | PTE_PS);

    put_le64(ram + GUEST_GDT + GUEST_CS, UINT64_C(0x00af9b000000ffff));
    put_le64(ram + GUEST_GDT + GUEST_SS, UINT64_C(0x00cf93000000ffff));
    put_le64(ram + GUEST_GDT + (GUEST_USER_SS & ~7), UINT64_C(0x00cff3000000ffff));
    put_le64(ram + GUEST_GDT + (GUEST_USER_CS & ~7), UINT64_C(0x00affb000000ffff));
    put_le64(ram + GUEST_GDT + GUEST_TR, UINT64_C(0x00008b0000000067) | (uint64_t)GUEST_TSS << 16);
    put_le64(ram + GUEST_TSS + 4, GUEST_STACK); /* RSP0 */
    put_le16(ram + GUEST_TSS + 102, 104);       /* no I/O bitmap */
}

void probe_world_state(struct x86_state *s)
{
    x86_state_reset(s, true);
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    s->cr3 = GUEST_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->efer = EFER_LME | EFER_LMA;
    s->rip = GUEST_CODE;
    s->gpr[RSP] = GUEST_STACK;
    struct x86_segment data = x86_flat_segment(GUEST_SS, SEG_DB | 3);
    s->seg[SEG_ES] = s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_FS] = s->seg[SEG_GS] = data;
    s->seg[SEG_CS] = x86_flat_segment(GUEST_CS, SEG_L | 11);
    s->seg[SEG_TR] = (struct x86_segment){.sel = GUEST_TR, .base = GUEST_TSS, .limit = 0x67, .attr = SEG_P | 11};
    s->seg[SEG_LDTR] = (struct x86_segment){.attr = SEG_UNUSABLE};
    s->gdtr = (struct x86_table){.base = GUEST_GDT, .limit = GUEST_TR + 15};
    s->idtr = (struct x86_table){.base = GUEST_IDT};
    s->tsc_at_ns = os_clock_ns();
}
