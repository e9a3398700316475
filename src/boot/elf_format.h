/* The parts of an ELF file that are read here, as in the file (System V gABI, chapters 4 and 5). */
#ifndef XHYVE_BOOT_ELF_FORMAT_H
#define XHYVE_BOOT_ELF_FORMAT_H

#include <stdint.h>

#define ELF_MAGIC "\177ELF"

enum { ELF_MAGIC_LEN = 4, ELF_CLASS = 4, ELF_DATA = 5, ELF_VERSION = 6, ELF_NIDENT = 16 };
enum { ELF_CLASS_32 = 1, ELF_CLASS_64 = 2 };
enum { ELF_DATA_LSB = 1 };
enum { ELF_VERSION_CURRENT = 1 };
enum { ELF_TYPE_EXEC = 2, ELF_TYPE_DYN = 3 };
enum { ELF_MACHINE_386 = 3, ELF_MACHINE_X86_64 = 62 };
enum { ELF_PT_LOAD = 1, ELF_PT_NOTE = 4 };

struct elf32_ehdr {
    uint8_t ident[ELF_NIDENT];
    uint16_t type, machine;
    uint32_t version, entry, phoff, shoff, flags;
    uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
_Static_assert(sizeof(struct elf32_ehdr) == 52, "as in the file");

struct elf64_ehdr {
    uint8_t ident[ELF_NIDENT];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, phoff, shoff;
    uint32_t flags;
    uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};
_Static_assert(sizeof(struct elf64_ehdr) == 64, "as in the file");

struct elf32_phdr {
    uint32_t type, offset, vaddr, paddr, filesz, memsz, flags, align;
};
_Static_assert(sizeof(struct elf32_phdr) == 32, "as in the file");

struct elf64_phdr {
    uint32_t type, flags;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};
_Static_assert(sizeof(struct elf64_phdr) == 56, "as in the file");

#endif
