/*
 * A program with something of everything that compiled C asks of a processor. It prints a line a part: its name and a
 * sum over all that the part computed. Two processors that are right print the same.
 *
 * cc -O2 program.c -lm -lpthread; it is also built for 32 bits, without optimisation, and static.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static uint64_t sum;

static void mix(const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        sum = (sum ^ p[i]) * UINT64_C(0x100000001b3);
}

static void mix_u64(uint64_t v) { mix(&v, sizeof v); }
static void mix_double(double v) { mix(&v, sizeof v); }

static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- integers ---------------------------------------------------------------------------------------------------- */

static void integers(void)
{
    uint64_t s = 1;
    for (int i = 0; i < 60000; i++) {
        uint64_t a = next(&s), b = next(&s);
        uint32_t c = (uint32_t)a, d = (uint32_t)(b >> 32);
        uint16_t e = (uint16_t)a, f = (uint16_t)(b >> 8);
        uint8_t g = (uint8_t)(a >> 40), h = (uint8_t)b;
        int64_t x = (int64_t)a >> (b & 31), y = (int64_t)(b | 1) >> (a & 31);
        unsigned k = (unsigned)(b & 63);
        mix_u64(a / (b | 1) + a % (b >> (k & 31) | 1));
        mix_u64((uint64_t)(x / (y ? y : 1)) + (uint64_t)(x % (y ? y : 1)));
        mix_u64(c / (d | 1) * 3u + c % (d >> 7 | 1));
        mix_u64((uint32_t)((int32_t)e * (int16_t)f) + (uint32_t)((int8_t)g * (int8_t)h));
        mix_u64((a << k | a >> (-k & 63)) ^ (c << (k & 31) | c >> (-k & 31)));
        mix_u64((uint64_t)(e << 3 | e >> 13) + (uint8_t)(g << 5 | g >> 3));
        mix_u64((uint64_t)__builtin_popcountll(a) + (uint64_t)__builtin_clzll(a | 1) +
                (uint64_t)__builtin_ctzll(b | 1ull << 63));
        mix_u64(__builtin_bswap64(a) + __builtin_bswap32(d) + __builtin_bswap16(f));
        uint64_t r;
        uint32_t q;
        int64_t t;
        mix_u64((uint64_t)__builtin_add_overflow(a, b, &r) + r);
        mix_u64((uint64_t)__builtin_sub_overflow(c, d, &q) + q);
        mix_u64((uint64_t)__builtin_mul_overflow(x, y, &t) + (uint64_t)t);
        mix_u64((a > b) + 2 * (x < y) + 4 * (c >= d) + 8 * ((int32_t)c <= (int32_t)d) + 16 * (g > h) +
                32 * ((int8_t)g < (int8_t)h));
#ifdef __SIZEOF_INT128__
        unsigned __int128 w = (unsigned __int128)a * b;
        mix_u64((uint64_t)(w >> 64) + (uint64_t)(w / (b | 1)) + (uint64_t)(w % c ? w % c : 1));
#endif
    }
}

/* ---- numbers of many digits, a sieve, sorting, a hash table ------------------------------------------------------ */

static void factorial(void)
{
    static uint32_t digit[600];
    unsigned n = 1;
    digit[0] = 1;
    for (uint32_t k = 2; k <= 500; k++) {
        uint64_t carry = 0;
        for (unsigned i = 0; i < n; i++) {
            carry += (uint64_t)digit[i] * k;
            digit[i] = (uint32_t)(carry % 1000000000);
            carry /= 1000000000;
        }
        while (carry) {
            digit[n++] = (uint32_t)(carry % 1000000000);
            carry /= 1000000000;
        }
    }
    mix(digit, n * sizeof *digit);
}

static void sieve(void)
{
    static unsigned char composite[200000];
    memset(composite, 0, sizeof composite);
    for (uint32_t i = 2; i < sizeof composite; i++) {
        if (composite[i])
            continue;
        mix_u64(i);
        for (uint64_t j = (uint64_t)i * i; j < sizeof composite; j += i)
            composite[j] = 1;
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void sorting(void)
{
    enum { N = 20000 };
    uint64_t s = 2, *v = malloc(N * sizeof *v);
    char **name = malloc(N / 4 * sizeof *name);
    for (int i = 0; i < N; i++)
        v[i] = next(&s) >> (i & 31);
    qsort(v, N, sizeof *v, by_value);
    mix(v, N * sizeof *v);
    for (int i = 0; i < N / 4; i++) {
        name[i] = malloc(48);
        snprintf(name[i], 48, "%x-%s-%d", (unsigned)next(&s), i & 1 ? "odd" : "even", i);
    }
    qsort(name, N / 4, sizeof *name, by_name);
    for (int i = 0; i < N / 4; i++) {
        mix(name[i], strlen(name[i]));
        free(name[i]);
    }
    free(name);
    free(v);
}

struct entry {
    struct entry *next;
    uint32_t count;
    char key[];
};

static void hash_table(void)
{
    static struct entry *bucket[1024];
    uint64_t s = 3;
    for (int i = 0; i < 40000; i++) {
        char key[32];
        int n = snprintf(key, sizeof key, "key%u", (unsigned)(next(&s) % 5000));
        uint32_t h = 5381;
        for (int k = 0; k < n; k++)
            h = h * 33 + (unsigned char)key[k];
        struct entry **at = &bucket[h & 1023];
        while (*at && strcmp((*at)->key, key))
            at = &(*at)->next;
        if (!*at) {
            *at = calloc(1, sizeof **at + (size_t)n + 1);
            memcpy((*at)->key, key, (size_t)n + 1);
        }
        (*at)->count++;
    }
    for (int i = 0; i < 1024; i++)
        for (struct entry *e = bucket[i], *after; e; e = after) {
            mix(e->key, strlen(e->key));
            mix_u64(e->count);
            after = e->next;
            free(e);
        }
}

/* ---- a bytecode interpreter by computed goto: indirect branches without end -------------------------------------- */

static void bytecode(void)
{
    static const unsigned char code[] = {0, 1, 2, 3, 4, 5, 1, 4, 2, 5, 3, 3, 1, 0, 4, 2, 6};
    static const void *const label[] = {&&add, &&rotate, &&multiply, &&swap, &&mask, &&branch, &&again};
    uint64_t a = 1, b = 2;
    unsigned left = 60000;
    const unsigned char *pc = code;
#define NEXT goto *label[*pc++]
    NEXT;
add:
    a += b;
    NEXT;
rotate:
    a = a << 13 | a >> 51;
    NEXT;
multiply:
    b *= a | 1;
    NEXT;
swap:;
    uint64_t t = a;
    a = b;
    b = t;
    NEXT;
mask:
    b ^= a & 0xff00ff;
    NEXT;
branch:
    pc += a & 1;
    NEXT;
again:
    pc = code;
    if (--left)
        NEXT;
    mix_u64(a);
    mix_u64(b);
}

/* ---- strings and memory ------------------------------------------------------------------------------------------ */

static void strings(void)
{
    static char buf[9000], other[9000];
    uint64_t s = 4;
    for (int i = 0; i < 3000; i++) {
        size_t n = next(&s) % 4000, at = next(&s) % 4096, from = next(&s) % 4096;
        memset(buf + at, 'a' + i % 26, n);
        memmove(buf + from, buf + at, n);
        memcpy(other + at, buf + from, n);
        buf[at + n] = 0;
        mix_u64(strlen(buf + at));
        char *found = memchr(other, 'c', sizeof other);
        mix_u64(found ? (uint64_t)(found - other) : 77);
        mix_u64((uint64_t)(memcmp(buf, other, 4000) > 0));
        found = strstr(buf + at, "qrs");
        mix_u64(found ? (uint64_t)(found - buf) : 78);
        mix_u64((uint64_t)(strncmp(buf + at, other + from, 100) > 0));
        mix_u64(strspn(buf + at, "abcd") + strcspn(other + at, "xyz"));
    }
    mix(buf, sizeof buf);
    mix(other, sizeof other);
}

static void formatted(const char *format, ...)
{
    char text[256];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    mix(text, (size_t)n);
}

static void formats(void)
{
    uint64_t s = 5;
    for (int i = 0; i < 4000; i++) {
        uint64_t a = next(&s);
        double d = (double)(int64_t)a / 1e9;
        formatted("%d %u %x %o %lld %5.3s|%-8d|%+d|%c", (int)a, (unsigned)a, (unsigned)a, (unsigned)a, (long long)a,
                  "abcdef", (int)(a >> 40), (int)(a >> 33), (int)('a' + a % 26));
        formatted("%.17g %a %e %.0f %Lg %.3Lf", d, d, d * d, d, (long double)d / 3, (long double)d * 7);
        char text[64];
        snprintf(text, sizeof text, "%.17g", d);
        double back = strtod(text, NULL);
        mix_u64(back == d);
        mix_u64(strtoull("123456789012345", NULL, 10 + i % 20));
    }
}

/* ---- floating point ---------------------------------------------------------------------------------------------- */

static void doubles(void)
{
    uint64_t s = 6;
    double acc = 1;
    for (int i = 0; i < 20000; i++) {
        int64_t n = (int64_t)next(&s);
        double a = (double)n / 4e15, b = (double)(int32_t)n / 3e5;
        float f = (float)a, g = (float)b;
        mix_double(a + b);
        mix_double(a * b);
        mix_double(a / (b + 0.5));
        mix_double(sqrt(fabs(a)));
        mix_double((double)(f * g + f / (g + 1.5f)));
        mix_double(floor(a) + ceil(b) + trunc(a) + rint(b) + nearbyint(a));
        mix_u64((uint64_t)(int64_t)a + (uint64_t)(int32_t)b + (uint64_t)lrint(b));
        mix_u64((uint64_t)((a < b) + 2 * (a == b) + 4 * isnan(a / (a - a)) + 8 * (fmin(a, b) == b) + 16 * signbit(a)));
        mix_double(fma(a, b, acc));
        acc = fmod(acc * 1.000001 + a, 1e6);
    }
    for (int i = 1; i < 3000; i++) {
        double x = i / 97.0;
        mix_double(sin(x));
        mix_double(cos(x) * tan(x));
        mix_double(exp(-x) + log(x) + log2(x) + log10(x));
        mix_double(pow(x, 1.37) + cbrt(x));
        mix_double(atan2(x, 3) + asin(1 / (1 + x)) + acos(1 / (2 + x)));
        mix_double(sinh(x / 10) + cosh(x / 10) + tanh(x));
        mix_double(hypot(x, 2) + erf(x) + tgamma(1 + x / 10) + lgamma(x));
        float f = (float)x;
        mix_double((double)(sinf(f) + expf(-f) + logf(f) + powf(f, 0.7f)));
    }
    mix_double(acc);
}

/* The x87 registers: long double is theirs. Only the ten bytes that hold the value count. */
static void long_doubles(void)
{
    long double acc = 0.1L;
    for (int i = 1; i < 3000; i++) {
        long double x = i / 89.0L;
        long double part[] = {sinl(x),
                              cosl(x),
                              tanl(x),
                              atanl(x),
                              expl(-x),
                              logl(x),
                              log2l(x),
                              sqrtl(x),
                              powl(x, 0.3L),
                              fmodl(x * 1000, 7.3L),
                              rintl(x),
                              floorl(-x),
                              ldexpl(x, i % 40 - 20),
                              x / 3 - x * 7};
        for (size_t k = 0; k < sizeof part / sizeof *part; k++) {
            mix(&part[k], 10);
            acc = acc * 0.999L + part[k];
        }
        mix_u64((uint64_t)(int64_t)(acc * 1000));
        mix_u64((uint64_t)((acc > x) + 2 * (acc == x) + 4 * isinf(acc)));
    }
    mix(&acc, 10);
}

/* Loops that a compiler turns into vector instructions. */
static void vectors(void)
{
    enum { N = 512 };
    static float a[N], b[N], c[N];
    static double d[N];
    static int32_t k[N];
    static uint8_t p[N], q[N];
    static uint16_t w[N];
    for (int i = 0; i < N; i++) {
        a[i] = (float)i / 7;
        b[i] = (float)(N - i) / 5;
        d[i] = i;
        p[i] = (uint8_t)(i * 37);
        q[i] = (uint8_t)(i * 91 >> 2);
        k[i] = i * 12345;
    }
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < N; i++)
            c[i] = a[i] * 0.99f + b[i] * 0.01f;
        for (int i = 0; i < N; i++)
            d[i] = d[i] * 0.5 + (double)c[i];
        for (int i = 0; i < N; i++)
            k[i] = (k[i] ^ (k[i] >> 3)) + (int32_t)c[i] * 3;
        for (int i = 0; i < N; i++)
            w[i] = (uint16_t)(p[i] * q[i] + w[i]);
        for (int i = 0; i < N; i++)
            p[i] = (uint8_t)((p[i] + q[i] + 1) >> 1);
        for (int i = 0; i < N; i++)
            q[i] = q[i] > p[i] ? (uint8_t)(q[i] - p[i]) : (uint8_t)(w[i] >> 8);
        int32_t most = k[0];
        uint64_t all = 0;
        for (int i = 0; i < N; i++)
            most = k[i] > most ? k[i] : most;
        for (int i = 0; i < N; i++)
            all += (uint64_t)(uint32_t)k[i] * w[i];
        mix_u64((uint64_t)(uint32_t)most + all);
    }
    mix(c, sizeof c);
    mix(d, sizeof d);
    mix(p, sizeof p);
    mix(q, sizeof q);
}

static void matrix(void)
{
    enum { N = 48 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 7 + j * 3) % 11 / 3.0 + (i == j);
            b[i][j] = (i + j * 5) % 13 / 7.0;
        }
    for (int round = 0; round < 8; round++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double t = 0;
                for (int k = 0; k < N; k++)
                    t += a[i][k] * b[k][j];
                c[i][j] = t / 100;
            }
        memcpy(a, c, sizeof a);
    }
    mix(c, sizeof c);
}

/* ---- jumps, signals, faults -------------------------------------------------------------------------------------- */

static jmp_buf env;
static sigjmp_buf fault_env;
static volatile sig_atomic_t signals;

static __attribute__((noinline)) void deeper(int n)
{
    volatile int here = n;
    if (here > 0)
        deeper(here - 1);
    if (here < 30)
        longjmp(env, 42);
    mix_u64((uint64_t)here);
}

static void jumps(void)
{
    volatile uint64_t count = 0;
    for (volatile int i = 0; i < 2000; i++) {
        int value = setjmp(env);
        if (!value)
            deeper(i % 30);
        count += (uint64_t)value;
    }
    mix_u64(count);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    mix_u64((uint64_t)number);
    if (number == SIGSEGV)
        mix_u64((uintptr_t)info->si_addr & 4095);
    mix_u64((uint64_t)info->si_code);
    siglongjmp(fault_env, 1);
}

static void on_signal(int number)
{
    (void)number;
    signals++;
}

static void faults(void)
{
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &act, NULL);
    sigaction(SIGFPE, &act, NULL);
    sigaction(SIGILL, &act, NULL);
    sigaction(SIGTRAP, &act, NULL);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_NONE);
    for (volatile int i = 0; i < 400; i++) {
        volatile int zero = 0;
        if (sigsetjmp(fault_env, 1))
            continue;
        switch (i & 7) {
        case 0: mix_u64((uint64_t)(uint8_t) * (volatile char *)(page + 4096 + i)); break;
        case 1: *(volatile char *)(page + 4096 + i) = 1; break;
        case 2: mix_u64((uint64_t)(i / zero)); break;
        case 3: __asm__ volatile("ud2"); break;
        case 4: mix_u64(*(volatile uint64_t *)(page + 4096 - 1 - i % 7)); break; /* across the edge */
        case 5: __asm__ volatile("int3"); break;
        case 6: *(volatile uint32_t *)(page + 4093) = 0x01020304; break;
        case 7: __asm__ volatile("hlt"); break;
        }
        mix_u64(12345); /* only if nothing happened */
    }
    mix(page, 4096);
    munmap(page, 8192);
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 500; i++)
        raise(SIGUSR1);
    mix_u64((uint64_t)signals);
}

/* ---- code that is written while the program runs ----------------------------------------------------------------- */

static void written_code(void)
{
    unsigned char *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t s = 7;
    for (int i = 0; i < 6000; i++) {
        /* On one page, on another, across both; new or with only its constant changed: mov eax, imm32; ret */
        unsigned char *at = code + (i % 3 == 0 ? 0 : i % 3 == 1 ? 4092 : 4096 + (i & 255));
        uint32_t value = (uint32_t)next(&s);
        if (i & 8) {
            at[0] = 0xb8;
            at[5] = 0xc3;
        } else if (at[0] != 0xb8 || at[5] != 0xc3) {
            continue;
        }
        memcpy(at + 1, &value, 4);
        uint32_t (*function)(void);
        memcpy(&function, &at, sizeof function);
        mix_u64(function() == value);
        at[0] = 0xb9; /* into ecx, and what eax was */
        memcpy(at + 1, &i, 4);
        at[0] = 0xb8;
        mix_u64(function());
    }
    munmap(code, 8192);
}

/* ---- threads and processes --------------------------------------------------------------------------------------- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static uint64_t guarded;
static _Atomic uint64_t counted, tangled;
static _Atomic uint32_t flag[2], broken;
static int turn;

static void *thread(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < 5000; i++) {
        atomic_fetch_add(&counted, 3);
        uint64_t old = atomic_load(&tangled);
        while (!atomic_compare_exchange_weak(&tangled, &old, old + 5))
            ;
        if (i % 8 == 0) {
            pthread_mutex_lock(&mutex);
            guarded = guarded + 7;
            pthread_mutex_unlock(&mutex);
        }
        /* What was written before a release must be seen after its acquire. */
        static uint64_t message[2];
        if (me < 2) {
            if (!atomic_load_explicit(&flag[me], memory_order_acquire)) {
                message[me] = (uint64_t)i * 3;
                atomic_store_explicit(&flag[me], (uint32_t)i + 1, memory_order_release);
            }
            uint32_t got = atomic_load_explicit(&flag[1 - me], memory_order_acquire);
            if (got) {
                if (message[1 - me] != (uint64_t)(got - 1) * 3)
                    atomic_fetch_add(&broken, 1);
                atomic_store_explicit(&flag[1 - me], 0, memory_order_release);
            }
        }
    }
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me)
            pthread_cond_wait(&turn_changed, &mutex);
        turn = (turn + 1) % 4;
        pthread_cond_broadcast(&turn_changed);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t id[4];
    for (intptr_t i = 0; i < 4; i++)
        pthread_create(&id[i], NULL, thread, (void *)i);
    for (int i = 0; i < 4; i++)
        pthread_join(id[i], NULL);
    mix_u64(counted);
    mix_u64(tangled);
    mix_u64(guarded);
    mix_u64(broken);
}

static void processes(void)
{
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        abort();
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        if (!child) {
            uint64_t v;
            for (int k = 0; k < 50; k++) {
                if (read(there[0], &v, sizeof v) != sizeof v)
                    _exit(1);
                v = v * 3 + 1;
                if (write(back[1], &v, sizeof v) != sizeof v)
                    _exit(2);
            }
            _exit(i);
        }
        for (uint64_t k = 0; k < 50; k++) {
            uint64_t v = k;
            if (write(there[1], &v, sizeof v) != sizeof v || read(back[0], &v, sizeof v) != sizeof v)
                abort();
            mix_u64(v);
        }
        int status;
        waitpid(child, &status, 0);
        mix_u64((uint64_t)status);
    }
}

static ucontext_t main_context, other_context;
static uint64_t visits;

static void visitor(void)
{
    for (;;) {
        visits = visits * 5 + 1;
        swapcontext(&other_context, &main_context);
    }
}

static void contexts(void)
{
    static char stack[65536];
    getcontext(&other_context);
    other_context.uc_stack.ss_sp = stack;
    other_context.uc_stack.ss_size = sizeof stack;
    makecontext(&other_context, visitor, 0);
    for (int i = 0; i < 1000; i++)
        swapcontext(&main_context, &other_context);
    mix_u64(visits);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*function)(void);
    } part[] = {
        {"integers", integers},   {"factorial", factorial},
        {"sieve", sieve},         {"sorting", sorting},
        {"hash", hash_table},     {"bytecode", bytecode},
        {"strings", strings},     {"formats", formats},
        {"doubles", doubles},     {"long doubles", long_doubles},
        {"vectors", vectors},     {"matrix", matrix},
        {"jumps", jumps},         {"faults", faults},
        {"code", written_code},   {"threads", threads},
        {"processes", processes}, {"contexts", contexts},
    };
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        sum = UINT64_C(0xcbf29ce484222325);
        part[i].function();
        printf("%-12s %016llx\n", part[i].name, (unsigned long long)sum);
        fflush(stdout);
    }
    return 0;
}
