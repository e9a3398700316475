/*
 * An interpreter of a small register machine, as scripting languages have them: one indirect branch an instruction.
 * It runs a sieve of Eratosthenes, a recursive Fibonacci and the Collatz sequences.
 */
#include "bench.h"

enum op { SET, MOVE, ADD, ADDI, SUB, MUL, AND, SHR, LESS, ZERO, JUMP, LOAD, STORE, CALL, RET, STOP };

/* SET: a = imm; ADDI, AND, SHR: a = b op imm; LESS: skips the next unless a < b; ZERO: skips the next unless a is 0. */
struct insn {
    uint8_t op, a, b, c;
    int32_t imm;
};

#define MEMORY 65536
#define DEPTH 64
#define FRAME 4 /* r0 to r3 belong to a function, the others to all */

static int64_t interpret(const struct insn *code, int64_t argument, uint8_t *memory)
{
    int64_t r[16] = {argument}, saved[DEPTH][FRAME];
    const struct insn *back[DEPTH];
    size_t depth = 0;

    for (const struct insn *i = code;; i++) {
        switch ((enum op)i->op) {
        case SET: r[i->a] = i->imm; break;
        case MOVE: r[i->a] = r[i->b]; break;
        case ADD: r[i->a] = (int64_t)((uint64_t)r[i->b] + (uint64_t)r[i->c]); break;
        case ADDI: r[i->a] = r[i->b] + i->imm; break;
        case SUB: r[i->a] = r[i->b] - r[i->c]; break;
        case MUL: r[i->a] = (int64_t)((uint64_t)r[i->b] * (uint64_t)r[i->c]); break;
        case AND: r[i->a] = r[i->b] & i->imm; break;
        case SHR: r[i->a] = r[i->b] >> i->imm; break;
        case LESS: i += r[i->a] >= r[i->b]; break;
        case ZERO: i += r[i->a] != 0; break;
        case JUMP: i += i->imm; break;
        case LOAD: r[i->a] = memory[r[i->b] & (MEMORY - 1)]; break;
        case STORE: memory[r[i->b] & (MEMORY - 1)] = (uint8_t)r[i->a]; break;
        case CALL:
            if (depth == DEPTH)
                bench_fail("bytecode: stack overflow");
            memcpy(saved[depth], r, sizeof(saved[depth]));
            back[depth++] = i;
            i += i->imm;
            break;
        case RET:
            if (depth == 0)
                bench_fail("bytecode: stack underflow");
            i = back[--depth];
            memcpy(r, saved[depth], sizeof(saved[depth]));
            break;
        case STOP: return r[i->a];
        }
    }
}

/* Primes below r0; r5: their number. */
static const struct insn sieve[] = {
    {SET, 5, 0, 0, 0},   {SET, 1, 0, 0, 0},   {SET, 2, 0, 0, 1},   {LESS, 1, 0, 0, 0},  {JUMP, 0, 0, 0, 1},
    {JUMP, 0, 0, 0, 3},  {STORE, 2, 1, 0, 0}, {ADDI, 1, 1, 0, 1},  {JUMP, 0, 0, 0, -6}, {SET, 1, 0, 0, 2},
    {LESS, 1, 0, 0, 0},  {JUMP, 0, 0, 0, 1},  {STOP, 5, 0, 0, 0},  {LOAD, 3, 1, 0, 0},  {ZERO, 3, 0, 0, 0},
    {JUMP, 0, 0, 0, 7},  {ADDI, 5, 5, 0, 1},  {ADD, 4, 1, 1, 0},   {SET, 6, 0, 0, 0},   {LESS, 4, 0, 0, 0},
    {JUMP, 0, 0, 0, 1},  {JUMP, 0, 0, 0, 1},  {JUMP, 0, 0, 0, 2},  {ADDI, 1, 1, 0, 1},  {JUMP, 0, 0, 0, -15},
    {STORE, 6, 4, 0, 0}, {ADD, 4, 4, 1, 0},   {JUMP, 0, 0, 0, -9},
};

/* Fibonacci number r0 into r4, by recursion. */
static const struct insn fibonacci[] = {
    {CALL, 0, 0, 0, 1},  {STOP, 4, 0, 0, 0},  {SET, 1, 0, 0, 2},  {LESS, 0, 1, 0, 0},  {JUMP, 0, 0, 0, 7},
    {ADDI, 0, 0, 0, -1}, {CALL, 0, 0, 0, -5}, {MOVE, 2, 4, 0, 0}, {ADDI, 0, 0, 0, -1}, {CALL, 0, 0, 0, -8},
    {ADD, 4, 2, 4, 0},   {RET, 0, 0, 0, 0},   {MOVE, 4, 0, 0, 0}, {RET, 0, 0, 0, 0},
};

/* The sum of the lengths of the Collatz sequences that start below r0. */
static const struct insn collatz[] = {
    {SET, 5, 0, 0, 0},    {SET, 1, 0, 0, 1},   {SET, 6, 0, 0, 3},  {SET, 7, 0, 0, 1},    {LESS, 1, 0, 0, 0},
    {JUMP, 0, 0, 0, 1},   {STOP, 5, 0, 0, 0},  {MOVE, 2, 1, 0, 0}, {LESS, 7, 2, 0, 0},   {JUMP, 0, 0, 0, 2},
    {ADDI, 1, 1, 0, 1},   {JUMP, 0, 0, 0, -8}, {ADDI, 5, 5, 0, 1}, {AND, 3, 2, 0, 1},    {ZERO, 3, 0, 0, 0},
    {JUMP, 0, 0, 0, 3},   {MUL, 2, 2, 6, 0},   {ADDI, 2, 2, 0, 1}, {JUMP, 0, 0, 0, -11}, {SHR, 2, 2, 0, 1},
    {JUMP, 0, 0, 0, -13},
};

uint64_t bench_bytecode(struct bench *b)
{
    unsigned rounds = bench_scale(b, 6);
    uint8_t *memory = bench_alloc(MEMORY, 1);
    uint64_t sum = 0;

    bench_start(b);
    for (unsigned i = 0; i < rounds; i++) {
        sum = bench_mix(sum, (uint64_t)interpret(sieve, 60000 + i, memory));
        sum = bench_mix(sum, (uint64_t)interpret(fibonacci, 19 + i % 2, memory));
        sum = bench_mix(sum, (uint64_t)interpret(collatz, 3000 + i, memory));
    }
    bench_stop(b);
    /* What a wrong program would not give. */
    if (interpret(sieve, 60000, memory) != 6057 || interpret(fibonacci, 19, memory) != 4181 ||
        interpret(collatz, 10, memory) != 61)
        bench_fail("bytecode: wrong result");
    return sum;
}
