/*
 * Entry states: Linux Documentation/arch/x86/boot.rst ("32-bit Boot Protocol",
 * "64-bit Boot Protocol"), Multiboot 0.6.96 section 3.2, Xen's PVH boot
 * interface. They differ in the registers that carry pointers only, which
 * their loaders set.
 */
#include "boot/entry.h"

#include <errno.h>

#include "util/bytes.h"

#define TSS_AT 0x80
#define TSS_LIMIT 0x67 /* of a 32-bit as of a 64-bit TSS */

#define ATTR_DATA (SEG_G | SEG_DB | SEG_P | SEG_S | 3)    /* read/write, accessed */
#define ATTR_CODE32 (SEG_G | SEG_DB | SEG_P | SEG_S | 11) /* execute/read, accessed */
#define ATTR_CODE64 (SEG_G | SEG_L | SEG_P | SEG_S | 11)
#define ATTR_TSS (SEG_P | 11) /* busy, 32-bit or 64-bit by mode */

#define PTE_P 0x1u
#define PTE_W 0x2u
#define PTE_PS 0x80u

#define MTRR_DEF_ENABLE 0x800u
#define MTRR_WB 6u

static uint64_t descriptor(const struct x86_segment *s)
{
    uint64_t limit = s->attr & SEG_G ? s->limit >> 12 : s->limit;
    return (limit & 0xffff) | (s->base & 0xffffff) << 16 | (uint64_t)(s->attr & 0xff) << 40 |
           (limit >> 16 & 0xf) << 48 | (uint64_t)(s->attr >> 12 & 0xf) << 52 | (s->base >> 24 & 0xff) << 56;
}

/* All that both modes share. */
static int entry_common(struct x86_state *s, struct guest_mem *mem, uint32_t gdt, uint32_t code_attr)
{
    x86_state_reset(s, true);

    struct x86_segment data = x86_flat_segment(ENTRY_DS, ATTR_DATA);
    s->seg[SEG_CS] = x86_flat_segment(ENTRY_CS, code_attr);
    s->seg[SEG_DS] = s->seg[SEG_ES] = s->seg[SEG_SS] = s->seg[SEG_FS] = s->seg[SEG_GS] = data;
    s->seg[SEG_TR] = (struct x86_segment){.base = gdt + TSS_AT, .limit = TSS_LIMIT, .attr = ATTR_TSS, .sel = ENTRY_TSS};
    s->seg[SEG_LDTR] = (struct x86_segment){.attr = SEG_UNUSABLE};
    s->gdtr = (struct x86_table){.base = gdt, .limit = ENTRY_TSS + 15};
    s->idtr = (struct x86_table){0};
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = 0;
    s->rflags = RFL_FIXED;
    s->cr0 = CR0_PE | CR0_ET;
    s->cr4 = 0;
    s->mtrr_def_type = MTRR_DEF_ENABLE | MTRR_WB;

    uint8_t *at = mem_w(mem, gdt, ENTRY_GDT_SIZE);
    if (!at)
        return -EFAULT;
    memset(at, 0, ENTRY_GDT_SIZE);
    put_le64(at + ENTRY_CS, descriptor(&s->seg[SEG_CS]));
    put_le64(at + ENTRY_DS, descriptor(&data));
    put_le64(at + ENTRY_TSS, descriptor(&s->seg[SEG_TR])); /* in long mode 16 bytes: the base's upper half is 0 */
    mem_written(mem, gdt, ENTRY_GDT_SIZE);
    return 0;
}

int entry_protected(struct x86_state *s, struct guest_mem *mem, uint32_t gdt, uint32_t eip)
{
    int err = entry_common(s, mem, gdt, ATTR_CODE32);
    s->rip = eip;
    return err;
}

int entry_long(struct x86_state *s, struct guest_mem *mem, uint32_t gdt, uint32_t tables, uint64_t rip)
{
    int err = entry_common(s, mem, gdt, ATTR_CODE64);
    if (err)
        return err;
    uint8_t *at = mem_w(mem, tables, 6 * MEM_PAGE);
    if (!at)
        return -EFAULT;
    memset(at, 0, 2 * MEM_PAGE);
    put_le64(at, (tables + MEM_PAGE) | PTE_P | PTE_W);
    for (uint64_t gib = 0; gib < 4; gib++)
        put_le64(at + MEM_PAGE + 8 * gib, (tables + (2 + gib) * MEM_PAGE) | PTE_P | PTE_W);
    for (uint64_t page = 0; page < 4 * 512; page++)
        put_le64(at + 2 * MEM_PAGE + 8 * page, page << 21 | PTE_P | PTE_W | PTE_PS);
    mem_written(mem, tables, 6 * MEM_PAGE);

    s->rip = rip;
    s->cr3 = tables;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->cr0 |= CR0_PG;
    return 0;
}
