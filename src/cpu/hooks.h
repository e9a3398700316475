/*
 * Who watches a software CPU from outside: a virtualization extension that is
 * simulated around it (tests/hvsim). cpu->hooks is NULL otherwise, and nothing
 * of this costs anything then.
 *
 * Any of these may leave the CPU for good, by a longjmp() to where cpu_run()
 * was called: then code_stopped() has to be called there, and what the
 * dispatcher keeps in cpu->mode to be taken away. They are set before the CPU
 * runs, and called on its thread.
 */
#ifndef XHYVE_CPU_HOOKS_H
#define XHYVE_CPU_HOOKS_H

#include <stdbool.h>
#include <stdint.h>

struct cpu;
struct event; /* cpu/desc.h */
struct insn;  /* x86/decode.h */
struct op;

#define MMU_WALK 16 /* with MMU_READ or MMU_WRITE, for memory(): an entry of a paging structure */

struct cpu_hooks {
    /* While decoding: whether insn() is asked before each execution of this instruction. It is never translated then. */
    bool (*wants)(struct cpu *, const struct insn *);
    /*
     * An instruction that wants() has named is about to be executed. op has all that was decoded, but its mnemonic
     * (ZydisMnemonic) in imm and op_hooked() in fn; op[1] is what will run. True: it has been executed, go on behind it.
     */
    bool (*insn)(struct cpu *, const struct op *op);
    /* An event is about to go through the IDT. cpu->exc.nested: it arose while another one did. */
    void (*event)(struct cpu *, const struct event *);
    /* A task switch has passed its checks (enum task_switch). */
    void (*task)(struct cpu *, uint16_t sel, unsigned why);
    /*
     * lin was translated to gpa, which is not in a TLB, for MMU_READ, MMU_WRITE or MMU_FETCH; or gpa is an entry of a
     * paging structure on the way there. Must not return if there is no memory. Whether writes may go there too.
     */
    bool (*memory)(struct cpu *, uint64_t lin, uint64_t gpa, unsigned access);
};

#endif
