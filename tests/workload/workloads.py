"""The workloads: what runs in the guest and, from the very same files, on the host."""

import collections

# seconds: what it may take at most, on a CPU that executes 400 million instructions a second, before SLOW; short: it is
# part of the short selection.
Workload = collections.namedtuple("Workload", "name command seconds short")

ALL = []


def add(name, command, seconds, short=False):
    ALL.append(Workload(name, command, seconds, short))


def script(name, file, *arguments, seconds, short=False):
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    runner = {"py": "python3", "pl": "perl", "sh": "bash"}[file.rsplit(".", 1)[1]]
    add(name, f"{runner} /workload/{file} {quoted}", seconds, short)


# ---- compiled C -----------------------------------------------------------------------------------------------------

script("gcc-small", "compile.sh", "small.c", "-O2", seconds=60, short=True)
script("gcc-O0", "compile.sh", "generated.c", "-O0 -g", seconds=120)
script("gcc-O2", "compile.sh", "generated.c", "-O2", seconds=300)
script("gcc-O3", "compile.sh", "generated.c", "-O3 -mavx2 -mbmi2 -mfma", seconds=400)
script("gcc-m32", "compile.sh", "generated.c", "-m32 -O2 -msse2 -mfpmath=sse", seconds=300)
script("gcc-m32-small", "compile.sh", "small.c", "-m32 -march=i586 -O1", "-m32 -Os -static", seconds=60)

script("program", "program.sh", "-O2", seconds=60, short=True)
script("program-O0", "program.sh", "-O0", seconds=90)
script("program-O3", "program.sh", "-O3 -mavx2 -mbmi -mbmi2 -mfma -mf16c -mmovbe -madx", seconds=90)
script("program-size", "program.sh", "-Os -static -fno-pie -no-pie", seconds=90)
script("program-i386", "program.sh", "-m32 -static -O2", seconds=90, short=True)
script("program-i386-x87", "program.sh", "-m32 -march=i586 -O1", "-m32 -march=i686 -mfpmath=387 -O3", seconds=120)
script("program-i386-sse", "program.sh", "-m32 -msse2 -mfpmath=sse -O2", "-m32 -mavx2 -mfpmath=sse -O3", seconds=120)

# ---- languages and tools --------------------------------------------------------------------------------------------

script("python", "python.py", "1", seconds=60, short=True)
script("python-long", "python.py", "8", seconds=300)
script("perl", "perl.pl", "1", seconds=40, short=True)
script("perl-long", "perl.pl", "8", seconds=200)
script("sqlite", "sqlite.sh", "800", seconds=40, short=True)
script("sqlite-long", "sqlite.sh", "8000", seconds=200)
script("shell", "shell.sh", "1500", seconds=60)
script("shell-long", "shell.sh", "20000", seconds=200)

# ---- OpenSSL: with everything, and with features turned off, so that other code of it runs ---------------------------

script("openssl", "openssl.sh", "all", "2000", seconds=90)
script("openssl-long", "openssl.sh", "all", "20000", seconds=120)
# Bits as OPENSSL_ia32cap has them: leaf 1 (EDX low, ECX high), then leaf 7 (EBX).
NO_AES = 1 << (32 + 25) | 1 << (32 + 1)
NO_AVX = 1 << (32 + 28)
NO_SSSE3 = 1 << (32 + 9) | NO_AES | NO_AVX
script("openssl-no-aes", "openssl.sh", f"~{NO_AES:#x}:~{1 << 29:#x}", "3000", seconds=90)
script("openssl-no-avx", "openssl.sh", f"~{NO_AVX:#x}:~{1 << 29 | 1 << 5 | 1 << 8 | 1 << 19:#x}", "3000", seconds=90)
script("openssl-no-ssse3", "openssl.sh", f"~{NO_SSSE3:#x}:~0", "3000", seconds=90)
script("openssl-speed", "speed.sh", "1", "md5", "sha1", "sha256", "sha512", "aes-128-gcm", "aes-256-cbc",
       "chacha20-poly1305", "rsa2048", "ecdsap256", "ed25519", seconds=90)

# ---- stress-ng -----------------------------------------------------------------------------------------------------


def stress(name, ops, *options, seconds=60, short=False, suffix=""):
    script(f"stress-{name}{suffix}", "stress.sh", name, f"--{name}-ops", str(ops), *options, seconds=seconds,
           short=short)


# Every method of the CPU stressor once.
stress("cpu", 90, "--cpu-method", "all", seconds=400)
stress("cpu", 12, "--cpu-method", "fft", seconds=60, suffix="-fft")
# Not sdbm: what it finds depends on the rate of its rounds.
for _method in ("int128decimal128", "int64longdouble", "float80", "decimal128", "crc16", "queens", "trig", "union"):
    stress("cpu", 3, "--cpu-method", _method, suffix=f"-{_method}")

# Arithmetic, memory and strings.
stress("bsearch", 3)
stress("crypt", 20)
stress("fp", 10)
stress("fp-error", 100, short=True)
stress("funccall", 2)
stress("funcret", 2)
stress("hash", 2)
stress("heapsort", 1, "--heapsort-size", "32768")
stress("hsearch", 2)
stress("ipsec-mb", 5)
stress("jpeg", 1)
stress("judy", 1, "--judy-size", "32768")
stress("list", 5, "--list-size", "1000")
stress("lsearch", 1, "--lsearch-size", "2048")
stress("matrix", 5, "--matrix-size", "64")
stress("matrix-3d", 2, "--matrix-3d-size", "24")
stress("memcpy", 5)
stress("mergesort", 1, "--mergesort-size", "32768")
stress("qsort", 1, "--qsort-size", "32768", short=True)
stress("radixsort", 1, "--radixsort-size", "32768")
stress("randlist", 1, "--randlist-items", "20000")
stress("shellsort", 1, "--shellsort-size", "32768")
stress("skiplist", 1)
stress("sparsematrix", 2, "--sparsematrix-size", "100", "--sparsematrix-items", "1000")
stress("str", 20, short=True)
stress("stream", 1, "--stream-l3-size", "512K")
stress("tree", 1, "--tree-size", "4000")
stress("tsearch", 1, "--tsearch-size", "16384")
stress("vecfp", 5)
stress("vecmath", 20, short=True)
stress("vecshuf", 5)
stress("vecwide", 20)
stress("wcs", 20)
stress("zlib", 2)

# What is particular to the processor.
stress("atomic", 10, short=True)
stress("branch", 20)
stress("cacheline", 5)
stress("dekker", 50)
stress("far-branch", 4)
stress("goto", 20)
stress("icache", 20)
stress("lockbus", 20)
stress("membarrier", 10)
stress("nop", 50)
stress("opcode", 50)
stress("peterson", 50)
stress("prefetch", 1, "--prefetch-l3-size", "512K")
stress("rdrand", 50)
stress("regs", 20)
stress("tsc", 50)
stress("x86cpuid", 2)
stress("x86syscall", 20)

# Memory management.
stress("bad-altstack", 50)
stress("fault", 200)
stress("madvise", 2)
stress("malloc", 500)
stress("memfd", 1, "--memfd-bytes", "16M")
stress("memthrash", 2)
stress("mlock", 5)
stress("mmap", 2, "--mmap-bytes", "2M")
stress("mprotect", 10)
stress("mremap", 3, "--mremap-bytes", "2M")
stress("remap", 2)
stress("rmap", 2)
stress("shm", 1, "--shm-bytes", "2M")
stress("tlb-shootdown", 5)
stress("vm", 100, "--vm-bytes", "4M")
stress("vm-rw", 2, "--vm-rw-bytes", "4M")
stress("vm-splice", 50)

# Signals, processes, threads and what they say to each other.
stress("clone", 50)
stress("context", 200, short=True)
stress("daemon", 5)
stress("eventfd", 200)
stress("fifo", 100)
stress("fork", 50)
stress("futex", 200)
stress("getrandom", 50)
stress("itimer", 20)
stress("kill", 50)
stress("longjmp", 1000, short=True)
stress("msg", 500)
stress("mutex", 500)
stress("nanosleep", 5)
stress("pipe", 500)
stress("poll", 50)
stress("pthread", 20)
stress("sem-sysv", 200)
stress("sigabrt", 20)
stress("sigfpe", 200)
stress("signal", 500)
stress("sigq", 200)
stress("sigrt", 200)
stress("sigsegv", 200, short=True)
stress("sigsuspend", 100)
stress("sigtrap", 200)
stress("splice", 50)
stress("switch", 500)
stress("timer", 50)
stress("vdso", 200)
stress("vfork", 20)
stress("wait", 20)
