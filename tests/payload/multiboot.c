/* What the loader told us (Multiboot specification 0.6.96). Run with arguments `one two=2` and two modules. */
#include "rt/rt.h"

extern char _end[];

void payload(void)
{
    const uint32_t *info = (const uint32_t *)(uintptr_t)multiboot_info;
    check("magic", multiboot_magic, 0x2badb002);
    check("memory, command line, modules, map are given", info[0] & 0x4d, 0x4d);
    check_range("lower memory (KiB)", info[1], 600, 640);
    check_range("upper memory (KiB)", info[2], 62 * 1024, 63 * 1024);
    puts(command_line());
    check("command line: arguments", str_contains(command_line(), " one two=2"), true);
    check("command line: begins with the image", command_line()[0] != ' ' && command_line()[0], true);

    const uint32_t *module = (const uint32_t *)(uintptr_t)info[6];
    check("two modules", info[5], 2);
    if (info[5] == 2) {
        check("module 1: its length", module[1] - module[0], 5);
        check("module 1: its bytes", (uint32_t)memcmp((void *)(uintptr_t)module[0], "first", 5), 0);
        check("module 1: its string", str_contains((const char *)(uintptr_t)module[2], " alpha"), true);
        check("module 2: its length", module[5] - module[4], 5000);
        check("module 2: its end", *(const uint8_t *)(uintptr_t)(module[5] - 1), 'z');
        check("module 2: its string", str_contains((const char *)(uintptr_t)module[6], " beta gamma"), true);
        check("modules on page boundaries", (module[0] | module[4]) & 0xfff, 0);
        check("modules behind the image", module[0] >= (uintptr_t)_end && module[4] >= (uintptr_t)_end, true);
    }

    uint64_t ram = 0, top = 0, last = 0;
    bool order = true, ours = false;
    uint32_t at = info[12], end = at + info[11];
    while (at < end) {
        const uint8_t *e = (const uint8_t *)(uintptr_t)at;
        uint64_t base = le64(e + 4), len = le64(e + 12);
        order &= base >= last && len;
        last = base + len;
        if (le32(e + 20) == 1) {
            ram += len;
            top = base + len;
            ours |= base <= 0x100000 && base + len >= (uintptr_t)_end;
        }
        at += le32(e) + 4;
    }
    check("map: ends where it says", at, end);
    check("map: in order, no overlaps", order, true);
    check_range("map: RAM (KiB)", (uint32_t)(ram >> 10), 63 * 1024, 64 * 1024);
    check_range("map: its top (KiB)", (uint32_t)(top >> 10), 63 * 1024, 64 * 1024);
    check("map: we are in RAM", ours, true);
    if (info[0] & 1u << 9)
        puts((const char *)(uintptr_t)info[16]);

    uintptr_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    check("protected mode", cr0 & 1, 1);
    check("interrupts off", read_flags() & 0x200, 0);
}
