/* Soft-off as an operating system does it: \_S5 from the DSDT, SLP_TYP and SLP_EN into PM1 control. */
#include "rt/rt.h"

/* An integer in AML: BytePrefix, ZeroOp, OneOp. */
static unsigned aml_byte(const uint8_t *p) { return *p == 0x0a ? p[1] : *p; }

void payload(void)
{
    const uint8_t *fadt = acpi_table("FACP"), *dsdt = acpi_table("DSDT");
    check_true("FADT and DSDT", fadt && dsdt);
    const uint8_t *s5 = NULL;
    for (uint32_t at = 36; at + 8 < le32(dsdt + 4); at++)
        if (!memcmp(dsdt + at, "_S5_\x12", 5))
            s5 = dsdt + at;
    check_true("\\_S5 in the DSDT", s5 != NULL);
    if (!s5)
        return;
    unsigned type = aml_byte(s5 + 7);
    put_named("SLP_TYP", type);
    uint16_t cnt = (uint16_t)le32(fadt + 64);
    if (!(inw(cnt) & 1)) {
        outb((uint16_t)le32(fadt + 48), fadt[52]);
        WAIT(inw(cnt) & 1, 300);
    }
    outw(cnt, (uint16_t)(type << 10 | 1));
    check("SLP_TYP alone does nothing", inw(cnt) & 0x1c01, type << 10 | 1);
    puts("power off");
    outw(cnt, (uint16_t)(type << 10 | 1 | 0x2000));
    delay_us(1000000);
    fail("power off", "the machine still runs");
}
