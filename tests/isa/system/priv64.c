/*
 * Privilege in long mode: interrupts and stacks, IRETQ, SYSCALL and SYSRET,
 * SYSENTER, call gates, compatibility mode, segment loads, control registers,
 * MSRs, I/O permissions, UMIP, double faults.
 */
#include "rt64.h"

#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_EFER 0xc0000080

/* -- one instruction each -- */
#define INSN(name, text)                                                                                               \
    static void name(uint64_t a) { __asm__ volatile(text : "+a"(a) : : "rcx", "rdx", "rbx", "memory"); }
INSN(i_cli, "cli")
INSN(i_hlt, "hlt")
INSN(i_ud2, "ud2")
INSN(i_int3, "int3")
INSN(i_int1, ".byte 0xf1")
INSN(i_int20, "int $0x20")
INSN(i_rdmsr, "mov %%eax, %%ecx; rdmsr")
INSN(i_wrmsr0, "mov %%eax, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr")
INSN(i_wrmsr_f, "mov %%eax, %%ecx; mov $-1, %%eax; mov $-1, %%edx; wrmsr")
INSN(i_mov_cr0, "mov %%cr0, %%rax")
INSN(i_mov_cr8, "mov %%rax, %%cr8")
INSN(i_to_cr0, "mov %%rax, %%cr0")
INSN(i_to_cr4, "mov %%rax, %%cr4")
INSN(i_to_dr7, "mov %%rax, %%dr7")
INSN(i_from_dr4, "mov %%dr4, %%rax")
INSN(i_invlpg, "invlpg (%%rax)")
INSN(i_lgdt, "lgdt (%%rax)")
INSN(i_sgdt, "sub $16, %%rsp; sgdt (%%rsp); add $16, %%rsp")
INSN(i_sidt, "sub $16, %%rsp; sidt (%%rsp); add $16, %%rsp")
INSN(i_sldt, "sldt %%eax")
INSN(i_str, "str %%eax")
INSN(i_smsw, "smsw %%eax")
INSN(i_clts, "clts")
INSN(i_swapgs, "swapgs")
INSN(i_wbinvd, "wbinvd")
INSN(i_rdtsc, "rdtsc")
INSN(i_rdpmc, "xor %%ecx, %%ecx; rdpmc")
INSN(i_ds, "mov %%eax, %%ds")
INSN(i_ss, "mov %%eax, %%ss")
INSN(i_lldt, "lldt %%ax")
INSN(i_ltr, "ltr %%ax")
INSN(i_sysret, "sysretq")
INSN(i_in, "mov %%eax, %%edx; in %%dx, %%al")
INSN(i_in4, "mov %%eax, %%edx; in %%dx, %%eax")
INSN(i_div, "xor %%ecx, %%ecx; div %%ecx")
INSN(i_stac, "stac")
INSN(i_rdfsbase, "rdfsbase %%rax")
INSN(i_xsetbv, "xor %%ecx, %%ecx; xor %%edx, %%edx; xsetbv")
INSN(i_xgetbv, "mov %%eax, %%ecx; xgetbv")
INSN(i_clac, "clac")

static void exceptions(void)
{
    expect("UD2", try_kernel(i_ud2, 0), 6, 0);
    expect("divide error", try_kernel(i_div, 0), 0, 0);
    expect("INT3 from ring 3", try_user(i_int3, 0), 3, 0);
    check("saves the next RIP", *(uint8_t *)(trap.rip - 1 - USER_ALIAS), 0xcc);
    check("CS of ring 3", trap.cs, SEL_UCODE | 3);
    check("SS of ring 3", trap.ss, SEL_UDATA | 3);
    expect("INT 20h from ring 3, gate of ring 0", try_user(i_int20, 0), 13, 0x20 * 8 + 2);
    check("RIP of the instruction", *(uint8_t *)(trap.rip - USER_ALIAS), 0xcd);
    check("faults set RF", trap.rflags >> 16 & 1, 1);
    expect("the same from ring 0", try_kernel(i_int20, 0), 0x20, 0);
    check("INT n leaves RF clear", trap.rflags >> 16 & 1, 0);
    expect("INT1 from ring 3: the gate's DPL is not looked at", try_user(i_int1, 0), 1, 0);
    idt[2 * 0x20] &= ~(1ull << 47);
    expect("absent gate", try_kernel(i_int20, 0), 11, 0x20 * 8 + 2);
    idt_set(0x20, isr_stubs + 16 * 0x20, 0x85, 0);
    expect("task gate in long mode", try_kernel(i_int20, 0), 13, 0x20 * 8 + 2);
    idt_set(0x20, isr_stubs + 16 * 0x20, 0x8e, 0);
    idt[2 * 0x20] = (idt[2 * 0x20] & ~0xffff0000ull) | SEL_KDATA << 16;
    expect("gate to a data segment", try_kernel(i_int20, 0), 13, SEL_KDATA);
    idt[2 * 0x20] = (idt[2 * 0x20] & ~0xffff0000ull) | SEL_KCODE32 << 16;
    expect("gate to 32-bit code", try_kernel(i_int20, 0), 13, SEL_KCODE32);
    idt[2 * 0x20] = (idt[2 * 0x20] & ~0xffff0000ull) | 0xf8 << 16;
    expect("gate to an empty descriptor", try_kernel(i_int20, 0), 13, 0xf8);
    idt[2 * 0x20] = (idt[2 * 0x20] & ~0xffff0000ull);
    expect("gate to a null selector", try_kernel(i_int20, 0), 13, 0);
    idt_set(0x20, isr_stubs + 16 * 0x20, 0x8e, 1);
    expect("IST", try_kernel(i_int20, 0), 0x20, 0);
    idt_set(0x20, isr_stubs + 16 * 0x20, 0x8e, 0);
}

static uint64_t handler_rsp;
static bool note_rsp(struct frame *f)
{
    handler_rsp = (uint64_t)f + sizeof *f;
    return false;
}
static void odd_stack(uint64_t sp)
{
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; ud2" : : "r"(sp) : "rbx", "memory");
}
static void stacks(void)
{
    static uint8_t odd[512] __attribute__((aligned(16)));
    trap_hook = note_rsp;
    expect("on an odd stack", try_kernel(odd_stack, (uint64_t)odd + 505), 6, 0);
    check("the frame is aligned", handler_rsp, (uint64_t)odd + 496);
    check("RSP is saved", trap.rsp, (uint64_t)odd + 505);
    uint64_t ss;
    __asm__ volatile("mov %%ss, %0" : "=r"(ss));
    check("SS is saved", trap.ss, ss);
    try_user(i_ud2, 0);
    check("RSP0", handler_rsp, (uint64_t)kernel_stack_top - 4096);
    idt_set(6, isr_stubs + 16 * 6, 0x8e, 1);
    try_user(i_ud2, 0);
    check("IST1", handler_rsp, (uint64_t)ist_stack_top);
    try_kernel(i_ud2, 0);
    check("IST1 without a change of privilege", handler_rsp, (uint64_t)ist_stack_top);
    idt_set(6, isr_stubs + 16 * 6, 0x8e, 0);
    trap_hook = 0;
}

static void privileged(void)
{
    static const struct {
        const char *name;
        void (*fn)(uint64_t);
        uint64_t arg;
    } list[] = {
        {"CLI", i_cli, 0},           {"HLT", i_hlt, 0},         {"RDMSR", i_rdmsr, 0x10},
        {"WRMSR", i_wrmsr0, 0x174},  {"MOV CR0", i_mov_cr0, 0}, {"MOV to CR8", i_mov_cr8, 0},
        {"MOV to DR7", i_to_dr7, 0}, {"INVLPG", i_invlpg, 0},   {"LGDT", i_lgdt, 0},
        {"CLTS", i_clts, 0},         {"SWAPGS", i_swapgs, 0},   {"WBINVD", i_wbinvd, 0},
        {"LLDT", i_lldt, 0},         {"LTR", i_ltr, SEL_TSS},   {"SYSRET", i_sysret, 0},
        {"RDPMC", i_rdpmc, 0},
    };
    for (unsigned i = 0; i < sizeof list / sizeof list[0]; i++)
        expect(list[i].name, try_user(list[i].fn, list[i].arg), 13, 0);
    expect("STAC in ring 3", try_user(i_stac, 0), 6, 0);
    expect("CLAC in ring 3", try_user(i_clac, 0), 6, 0);
    expect("RDTSC in ring 3", try_user(i_rdtsc, 0), NONE, 0);
    write_cr4(read_cr4() | 4);
    expect("RDTSC with TSD", try_user(i_rdtsc, 0), 13, 0);
    expect("RDTSC with TSD in ring 0", try_kernel(i_rdtsc, 0), NONE, 0);
    write_cr4(read_cr4() & ~4ull);
    static void (*const umip[])(uint64_t) = {i_sgdt, i_sidt, i_sldt, i_str, i_smsw};
    for (unsigned i = 0; i < 5; i++)
        expect("without UMIP", try_user(umip[i], 0), NONE, 0);
    uint32_t r[4];
    cpuid(7, 0, r);
    if (r[2] & 4) {
        write_cr4(read_cr4() | 1 << 11);
        for (unsigned i = 0; i < 5; i++) {
            expect("with UMIP", try_user(umip[i], 0), 13, 0);
            expect("with UMIP, ring 0", try_kernel(umip[i], 0), NONE, 0);
        }
        write_cr4(read_cr4() & ~(1ull << 11));
    }
    expect("RDFSBASE, not enabled", try_kernel(i_rdfsbase, 0), 6, 0);
    if (r[1] & 1) {
        write_cr4(read_cr4() | 1 << 16);
        expect("RDFSBASE, enabled", try_user(i_rdfsbase, 0), NONE, 0);
        write_cr4(read_cr4() & ~(1ull << 16));
    }
}

static void control(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();
    expect("PG without PE", try_kernel(i_to_cr0, cr0 & ~1ull), 13, 0);
    expect("NW without CD", try_kernel(i_to_cr0, cr0 | 1 << 29), 13, 0);
    expect("CR0 bit 32", try_kernel(i_to_cr0, cr0 | 1ull << 32), 13, 0);
    expect("PG cleared in 64-bit mode", try_kernel(i_to_cr0, cr0 & ~(1ull << 31)), 13, 0);
    expect("PAE cleared in long mode", try_kernel(i_to_cr4, cr4 & ~0x20ull), 13, 0);
    expect("CR4 reserved", try_kernel(i_to_cr4, cr4 | 1ull << 31), 13, 0);
    expect("CR4 bit 63", try_kernel(i_to_cr4, cr4 | 1ull << 63), 13, 0);
    expect("CR8 > 15", try_kernel(i_mov_cr8, 16), 13, 0);
    expect("DR7 bit 32", try_kernel(i_to_dr7, 1ull << 32), 13, 0);
    expect("DR4 is DR6", try_kernel(i_from_dr4, 0), NONE, 0);
    write_cr4(cr4 | 8);
    expect("DR4 with DE", try_kernel(i_from_dr4, 0), 6, 0);
    write_cr4(cr4);
    expect("EFER reserved", try_kernel(i_wrmsr_f, MSR_EFER), 13, 0);
    expect("LME cleared while paging", try_kernel(i_wrmsr0, MSR_EFER), 13, 0);
    expect("LSTAR non-canonical", try_kernel(i_wrmsr_f, MSR_LSTAR), NONE, 0);
    expect("PAT", try_kernel(i_wrmsr_f, 0x277), 13, 0);
    expect("an MSR that is none", try_kernel(i_rdmsr, 0x4000dead), 13, 0);
    expect("XSETBV, not enabled", try_kernel(i_xsetbv, 3), 6, 0);
    write_cr4(cr4 | 1 << 18 | 1 << 9);
    expect("XSETBV", try_kernel(i_xsetbv, 3), NONE, 0);
    expect("XSETBV without x87", try_kernel(i_xsetbv, 2), 13, 0);
    expect("XSETBV, AVX without SSE", try_kernel(i_xsetbv, 5), 13, 0);
    expect("XSETBV, not offered", try_kernel(i_xsetbv, 0x3 | 1 << 20), 13, 0);
    expect("XSETBV in ring 3", try_user(i_xsetbv, 3), 13, 0);
    expect("XGETBV in ring 3", try_user(i_xgetbv, 0), NONE, 0);
    expect("XGETBV of 7", try_user(i_xgetbv, 7), 13, 0);
    write_cr4(cr4);
}

static void segments(void)
{
    expect("DS null", try_kernel(i_ds, 0), NONE, 0);
    expect("DS null with an RPL", try_user(i_ds, 3), NONE, 0);
    expect("DS of ring 0 from ring 3", try_user(i_ds, SEL_KDATA | 3), 13, SEL_KDATA);
    expect("DS beyond the GDT", try_kernel(i_ds, 0x200), 13, 0x200);
    expect("DS empty", try_kernel(i_ds, 0xf8), 13, 0xf8);
    expect("DS from the missing LDT", try_kernel(i_ds, 0xc), 13, 0xc);
    gdt[12] = 0x00cf13000000ffff; /* absent data */
    expect("DS absent", try_kernel(i_ds, SEL_SPARE), 11, SEL_SPARE);
    expect("SS absent", try_kernel(i_ss, SEL_SPARE), 12, SEL_SPARE);
    gdt[12] = 0x00cf91000000ffff; /* read-only data */
    expect("SS read-only", try_kernel(i_ss, SEL_SPARE), 13, SEL_SPARE);
    gdt[12] = 0x00cf92000000ffff; /* not accessed */
    expect("DS", try_kernel(i_ds, SEL_SPARE), NONE, 0);
    check("accessed bit", gdt[12] >> 40 & 1, 1);
    expect("SS null in ring 0", try_kernel(i_ss, 0), NONE, 0);
    expect("SS null in ring 3", try_user(i_ss, 3), 13, 0);
    expect("SS of the wrong DPL", try_kernel(i_ss, SEL_UDATA), 13, SEL_UDATA);
    expect("SS of the wrong RPL", try_kernel(i_ss, SEL_KDATA | 3), 13, SEL_KDATA);
    expect("LTR of a busy TSS", try_kernel(i_ltr, SEL_TSS), 13, SEL_TSS);
    expect("LTR of data", try_kernel(i_ltr, SEL_KDATA), 13, SEL_KDATA);
    expect("LLDT of data", try_kernel(i_lldt, SEL_KDATA), 13, SEL_KDATA);
    expect("LLDT null", try_kernel(i_lldt, 0), NONE, 0);
    __asm__ volatile("mov %0, %%ss" : : "r"(SEL_KDATA));
}

static uint64_t lar(uint64_t sel, bool *ok)
{
    uint64_t v = 0x5555;
    __asm__ volatile("lar %w2, %%eax; setz %1" : "+a"(v), "=m"(*ok) : "r"(sel) : "cc");
    return v;
}
static uint64_t lsl(uint64_t sel, bool *ok)
{
    uint64_t v = 0x5555;
    __asm__ volatile("lsl %w2, %%eax; setz %1" : "+a"(v), "=m"(*ok) : "r"(sel) : "cc");
    return v;
}
static bool ver(uint64_t sel, bool write)
{
    bool ok;
    if (write)
        __asm__ volatile("verw %w1; setz %0" : "=m"(ok) : "r"(sel) : "cc");
    else
        __asm__ volatile("verr %w1; setz %0" : "=m"(ok) : "r"(sel) : "cc");
    return ok;
}
static void look(void)
{
    bool ok;
    check("LAR of code", lar(SEL_KCODE, &ok), 0x00a09b00);
    check_true("is fine", ok);
    check("LSL of data", lsl(SEL_KDATA, &ok), 0xffffffff);
    check("LSL of the TSS", lsl(SEL_TSS, &ok), 103);
    check_true("is fine", ok);
    check("LAR of nothing", lar(0xf8, &ok), 0x5555);
    check_true("is not", !ok);
    check("LAR with an RPL that is too high", lar(SEL_KDATA | 3, &ok), 0x5555);
    check("VERR", ver(SEL_KDATA, false), 1);
    check("VERW of code", ver(SEL_KCODE, true), 0);
    check("VERR of the TSS", ver(SEL_TSS, false), 0);
    check("VERW", ver(SEL_UDATA, true), 1);
}

/* -- SYSCALL -- */

static uint64_t seen[8];
extern uint8_t syscall_entry[], sysenter_entry[];
__asm__(".text\n"
        "syscall_entry:\n"
        "    mov %rcx, seen\n"
        "    mov %r11, seen + 8\n"
        "    mov %cs, seen + 16\n"
        "    mov %ss, seen + 24\n"
        "    pushfq\n" /* on the user's stack, at its alias: mapped for ring 0 too */
        "    popq seen + 32\n"
        "    mov seen + 48, %rax\n" /* what to return to, if anything */
        "    test %rax, %rax\n"
        "    jz 1f\n"
        "    mov %rax, %rcx\n"
        "1:  sysretq\n"
        "sysenter_entry:\n"
        "    mov %rsp, seen\n"
        "    mov %cs, seen + 16\n"
        "    mov %ss, seen + 24\n"
        "    mov %r8, %rdx\n"
        "    mov %r9, %rcx\n"
        "    rex.W sysexit\n");

static void do_syscall(uint64_t a) { __asm__ volatile("stc; syscall" : "+a"(a) : : "rcx", "r11", "memory", "cc"); }
static void do_sysenter(uint64_t a)
{
    __asm__ volatile("lea 1f(%%rip), %%r8; mov %%rsp, %%r9; sysenter; 1:"
                     : "+a"(a)
                     :
                     : "rcx", "rdx", "r8", "r9", "memory");
}
static void syscalls(void)
{
    wrmsr(MSR_STAR, (uint64_t)(SEL_UCODE - 16 | 3) << 48 | (uint64_t)SEL_KCODE << 32);
    wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
    wrmsr(MSR_FMASK, 0x700 | 1);
    user_flags = 0x202;
    expect("SYSCALL and back", try_user(do_syscall, 0), NONE, 0);
    check("RCX points behind it", *(uint16_t *)(seen[0] - 2 - USER_ALIAS), 0x050f);
    check("R11 has the flags", seen[1] & ~0xd4ull, 0x203);
    check("CS", seen[2] & 0xffff, SEL_KCODE);
    check("SS", seen[3] & 0xffff, SEL_KDATA);
    check("FMASK", seen[4] & 0x701, 0);
    check("back in ring 3", trap.cs, SEL_UCODE | 3);
    check("SS of ring 3", trap.ss, SEL_UDATA | 3);
    user_flags = 2;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
    expect("SYSCALL, not enabled", try_user(do_syscall, 0), 6, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
    seen[6] = 1ull << 47;
    idt_set(13, isr_stubs + 16 * 13, 0x8e, 1);
    expect("SYSRET to a non-canonical address", try_user(do_syscall, 0), 13, 0);
    check("faults in ring 0", trap.cs, SEL_KCODE);
    idt_set(13, isr_stubs + 16 * 13, 0x8e, 0);
    seen[6] = 0;

    wrmsr(0x174, 0);
    expect("SYSENTER without a CS", try_user(do_sysenter, 0), 13, 0);
    wrmsr(0x174, SEL_KCODE);
    wrmsr(0x175, (uint64_t)ist_stack_top);
    wrmsr(0x176, (uint64_t)sysenter_entry);
    /* SYSEXIT with REX.W takes CS + 32 and + 40: 28h and 30h, the latter being anything, as it is not looked at. */
    expect("SYSENTER and SYSEXIT", try_user(do_sysenter, 0), NONE, 0);
    check("RSP", seen[0], (uint64_t)ist_stack_top);
    check("CS", seen[2] & 0xffff, SEL_KCODE);
    check("SS", seen[3] & 0xffff, SEL_KDATA);
    check("CS of ring 3", trap.cs, SEL_UCODE | 3);
    check("SS of ring 3", trap.ss, 0x33);
}

/* -- IRETQ and RETF -- */

static void iretq(uint64_t *f)
{
    __asm__ volatile("pushq 32(%0); pushq 24(%0); pushq 16(%0); pushq 8(%0); pushq (%0); iretq" : : "r"(f) : "memory");
}
static void do_iretq(uint64_t a) { iretq((uint64_t *)a); }
static uint64_t frame[5];
static void set_frame(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
    frame[0] = rip;
    frame[1] = cs;
    frame[2] = flags;
    frame[3] = rsp;
    frame[4] = ss;
}
static void returns(void)
{
    uint64_t user_ud2 = (uint64_t)i_ud2 + USER_ALIAS, sp = USER_ALIAS + (uint64_t)ist_stack_top;
    set_frame(user_ud2, SEL_UCODE | 3, 2, sp, SEL_UDATA | 3);
    expect("IRETQ to ring 3", try_kernel(do_iretq, (uint64_t)frame), 6, 0);
    check("there", *(uint16_t *)(trap.rip - USER_ALIAS), 0x0b0f);
    check("RSP", trap.rsp, sp - 8); /* it pushes RBX */
    frame[1] = SEL_UCODE;           /* RPL 0, DPL 3 */
    expect("IRETQ, RPL below DPL", try_kernel(do_iretq, (uint64_t)frame), 13, SEL_UCODE);
    set_frame(user_ud2, 0, 2, sp, SEL_UDATA | 3);
    expect("IRETQ to null", try_kernel(do_iretq, (uint64_t)frame), 13, 0);
    set_frame(user_ud2, SEL_UCODE | 3, 2, sp, SEL_KDATA);
    expect("IRETQ, SS of ring 0", try_kernel(do_iretq, (uint64_t)frame), 13, SEL_KDATA);
    set_frame(user_ud2, SEL_UCODE | 3, 2, sp, 0);
    expect("IRETQ, SS null for ring 3", try_kernel(do_iretq, (uint64_t)frame), 13, 0);
    set_frame((uint64_t)i_ud2, SEL_KCODE, 2, (uint64_t)ist_stack_top, 0);
    expect("IRETQ, SS null for ring 0", try_kernel(do_iretq, (uint64_t)frame), 6, 0);
    check("SS is null", trap.ss, 0);
    set_frame(1ull << 50, SEL_UCODE | 3, 2, sp, SEL_UDATA | 3);
    expect("IRETQ to a non-canonical RIP", try_kernel(do_iretq, (uint64_t)frame), 13, 0);
    check("faults before it leaves", trap.cs, SEL_KCODE);
    set_frame(user_ud2, SEL_UCODE | 3, 2 | 1 << 14, sp, SEL_UDATA | 3);
    expect("IRETQ may set NT", try_kernel(do_iretq, (uint64_t)frame), 6, 0);
    check("NT is set", trap.rflags >> 14 & 1, 1);
    __asm__ volatile("pushfq; orq $0x4000, (%%rsp); popfq" : : : "cc", "memory");
    set_frame(user_ud2, SEL_UCODE | 3, 2, sp, SEL_UDATA | 3);
    expect("IRETQ with NT", try_kernel(do_iretq, (uint64_t)frame), 13, 0);
    __asm__ volatile("pushfq; andq $~0x4000, (%%rsp); popfq" : : : "cc", "memory");
    /* To compatibility mode and a 32-bit INT 80h there. */
    set_frame((uint64_t)i_ud2, SEL_UCODE32 | 3, 2, 0x100000, SEL_UDATA | 3);
    expect("IRETQ to 32-bit code that ring 3 cannot reach", try_kernel(do_iretq, (uint64_t)frame), 14, 0x15);
    check("CR2", trap_cr2, (uint64_t)i_ud2);
    check("CS", trap.cs, SEL_UCODE32 | 3);
}

/* Flags that ring 3 cannot change by IRETQ or POPFQ. */
static uint64_t user_popf_result;
static void user_popf(uint64_t a)
{
    (void)a;
    uint64_t v;
    __asm__ volatile("pushq $0x3202; popfq; pushfq; popq %0" : "=r"(v) : : "cc", "memory");
    *(volatile uint64_t *)((uint64_t)&user_popf_result + USER_ALIAS) = v;
}
static void flags(void)
{
    user_flags = 2;
    expect("POPFQ in ring 3", try_user(user_popf, 0), NONE, 0);
    check("keeps IF and IOPL", user_popf_result & 0x3200, 0);
    user_flags = 0x3002;
    expect("CLI with IOPL 3", try_user(i_cli, 0), NONE, 0);
    expect("POPFQ with IOPL 3", try_user(user_popf, 0), NONE, 0);
    check("may set IF", user_popf_result & 0x3200, 0x3200);
    user_flags = 2;
}

/* -- call gates -- */

extern uint8_t gate_entry[];
__asm__(".text\n"
        "gate_entry:\n"
        "    mov %rsp, seen\n"
        "    mov %cs, seen + 16\n"
        "    mov %ss, seen + 24\n"
        "    mov (%rsp), %rax\n    mov %rax, seen + 32\n"
        "    mov 8(%rsp), %rax\n    mov %rax, seen + 40\n"
        "    mov 16(%rsp), %rax\n    mov %rax, seen + 48\n"
        "    mov 24(%rsp), %rax\n    mov %rax, seen + 56\n"
        "    lretq\n");
struct far_ptr {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));
static struct far_ptr gate_ptr = {0, SEL_GATE};
static void call_gate(uint64_t a)
{
    __asm__ volatile("lcall *(%0)" : : "r"(a + (uint64_t)&gate_ptr) : "rax", "memory");
}
static void gate_set(unsigned sel, uint64_t off, unsigned type_dpl)
{
    gdt[SEL_GATE / 8] = (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)type_dpl << 40 | (off >> 16 & 0xffff) << 48;
    gdt[SEL_GATE / 8 + 1] = off >> 32;
}
static void gates(void)
{
    gate_set(SEL_KCODE, (uint64_t)gate_entry, 0xec);
    gate_ptr.sel = SEL_GATE;
    expect("call gate, same privilege", try_kernel(call_gate, 0), NONE, 0);
    check("CS on the stack", seen[5], SEL_KCODE);
    gate_ptr.sel = SEL_GATE | 3;
    expect("call gate from ring 3", try_user(call_gate, USER_ALIAS), NONE, 0);
    check("on RSP0", seen[0], *(uint64_t *)(tss + 4) - 32);
    check("CS", seen[2] & 0xffff, SEL_KCODE);
    check("SS null", seen[3] & 0xffff, 0);
    check("CS of ring 3", seen[5], SEL_UCODE | 3);
    check("SS of ring 3", seen[7], SEL_UDATA | 3);
    check("back in ring 3", trap.cs, SEL_UCODE | 3);
    gate_set(SEL_KCODE, (uint64_t)gate_entry, 0x8c);
    expect("call gate of DPL 0 from ring 3", try_user(call_gate, USER_ALIAS), 13, SEL_GATE);
    gate_set(SEL_KCODE, (uint64_t)gate_entry, 0x6c);
    expect("absent call gate", try_user(call_gate, USER_ALIAS), 11, SEL_GATE);
    gate_set(SEL_KDATA, (uint64_t)gate_entry, 0xec);
    expect("call gate to data", try_user(call_gate, USER_ALIAS), 13, SEL_KDATA);
    gate_set(SEL_KCODE32, (uint64_t)gate_entry, 0xec);
    expect("call gate to 32-bit code", try_user(call_gate, USER_ALIAS), 13, SEL_KCODE32);
    gate_set(SEL_KCODE, 1ull << 50, 0xec);
    expect("call gate to a non-canonical address", try_user(call_gate, USER_ALIAS), 13, 0);
    gate_set(SEL_KCODE, (uint64_t)gate_entry, 0xec);
    gdt[SEL_GATE / 8 + 1] |= 1ull << 40;
    expect("call gate with a type in its upper half", try_user(call_gate, USER_ALIAS), 13, SEL_GATE);
}

/* Conforming code runs at the caller's privilege. */
extern uint8_t conforming_entry[];
__asm__(".text\nconforming_entry:\n    mov %cs, %eax\n    lretq\n");
static uint64_t conforming_cs;
static void call_conforming(uint64_t a)
{
    struct {
        uint64_t off;
        uint16_t sel;
    } __attribute__((packed)) p = {(uint64_t)conforming_entry + a, SEL_CONFORMING};
    uint64_t cs;
    __asm__ volatile("rex.W lcall *%1" : "=a"(cs) : "m"(p) : "memory");
    *(volatile uint64_t *)((uint64_t)&conforming_cs + a) = cs;
}
static void conforming(void)
{
    gdt[SEL_CONFORMING / 8] = 0x00af9f000000ffff;
    expect("conforming code from ring 0", try_kernel(call_conforming, 0), NONE, 0);
    check("CS", conforming_cs & 0xffff, SEL_CONFORMING);
    expect("conforming code from ring 3", try_user(call_conforming, USER_ALIAS), NONE, 0);
    check("CS keeps the CPL", conforming_cs & 0xffff, SEL_CONFORMING | 3);
}

/* -- I/O permissions -- */

static void io(void)
{
    uint16_t *map = (uint16_t *)(tss + 102);
    static uint8_t big_tss[104 + 0x2000 + 1] __attribute__((aligned(16)));
    expect("IN in ring 3 without a bitmap", try_user(i_in, 0xe0), 13, 0);
    (void)map;
    for (unsigned i = 0; i < 104; i++)
        big_tss[i] = tss[i];
    for (unsigned i = 104; i < sizeof big_tss; i++)
        big_tss[i] = 0xff;
    big_tss[104 + 0xe0 / 8] = 0xf0; /* E0 to E3 */
    uint64_t base = (uint64_t)big_tss;
    gdt[6] = (sizeof big_tss - 1) | (base & 0xffffff) << 16 | (uint64_t)0x89 << 40 | (base >> 24 & 0xff) << 56;
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    expect("IN that the bitmap allows", try_user(i_in, 0xe0), NONE, 0);
    expect("IN of 4 bytes", try_user(i_in4, 0xe0), NONE, 0);
    expect("IN that it denies", try_user(i_in, 0xe4), 13, 0);
    expect("IN of 4 bytes, partly denied", try_user(i_in4, 0xe1), 13, 0);
    expect("the last port", try_user(i_in, 0xffff), 13, 0);
    user_flags = 0x3002;
    expect("IOPL 3 allows all", try_user(i_in, 0xe4), NONE, 0);
    user_flags = 2;
}

/* -- double faults -- */

static void folding(void)
{
    uint64_t pf0 = idt[28], gp0 = idt[26], ud0 = idt[12];
    idt[28] &= ~(1ull << 47); /* absent */
    expect("#NP within #PF: double fault", try_kernel((void (*)(uint64_t))0xdead00000, 0), 8, 0);
    idt[28] = pf0;
    idt[26] &= ~(1ull << 47);
    expect("#NP within #GP: double fault", try_kernel(i_wrmsr_f, MSR_EFER), 8, 0);
    idt[26] = gp0;
    idt[12] &= ~(1ull << 47);
    expect("#NP within #UD: only #NP", try_kernel(i_ud2, 0), 11, 6 * 8 + 2 + 1);
    idt[12] = ud0;
}

static void bad_push(uint64_t sp)
{
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax" : : "r"(sp) : "rbx", "memory");
}
static void double_faults(void)
{
    idt_set(8, isr_stubs + 16 * 8, 0x8e, 1);
    expect("push to nowhere: #PF cannot be pushed", try_kernel(bad_push, TEST_BASE + 0x1f0000), 8, 0);
    check("CR2 is that of the second: the frame is pushed from its top", trap_cr2, TEST_BASE + 0x1f0000 - 8);
    check("RSP", trap.rsp, TEST_BASE + 0x1f0000);
    expect("#UD on such a stack: #PF, which cannot be pushed either", try_kernel(odd_stack, TEST_BASE + 0x1f0000), 8,
           0);
    idt_set(14, isr_stubs + 16 * 14, 0x8e, 1);
    expect("#UD with such a stack and IST for #PF", try_kernel(odd_stack, TEST_BASE + 0x1f0000), 14, 2);
    check("CR2", trap_cr2, TEST_BASE + 0x1f0000 - 8);
    idt_set(14, isr_stubs + 16 * 14, 0x8e, 0);
}

static void gs_bases(void)
{
    wrmsr(0xc0000101, 0x1111);
    wrmsr(0xc0000102, 0x2222);
    __asm__ volatile("swapgs");
    check("GS base after SWAPGS", rdmsr(0xc0000101), 0x2222);
    check("kernel GS base", rdmsr(0xc0000102), 0x1111);
    wrmsr(0xc0000100, (uint64_t)frame);
    frame[1] = 0xabcdef;
    uint64_t v;
    __asm__ volatile("mov %%fs:8, %0" : "=r"(v));
    check("FS base", v, 0xabcdef);
    wrmsr(0xc0000101, 0);
}

void payload(void)
{
    exceptions();
    stacks();
    privileged();
    control();
    segments();
    look();
    syscalls();
    returns();
    flags();
    gates();
    conforming();
    folding();
    double_faults();
    gs_bases();
    io();
}
