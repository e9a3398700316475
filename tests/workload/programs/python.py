"""Python at work: a line a part, with what it computed. Two processors that are right print the same."""

import array
import bisect
import bz2
import cmath
import collections
import ctypes
import decimal
import fractions
import functools
import hashlib
import heapq
import hmac
import io
import itertools
import json
import lzma
import math
import pickle
import queue
import random
import re
import sqlite3
import statistics
import string
import struct
import sys
import threading
import unicodedata
import zlib

SCALE = int(sys.argv[1])  # how much of everything; 1 is the least


def digest(*values):
    return hashlib.sha256(repr(values).encode()).hexdigest()[:32]


def bigints():
    a, b = 1, 1
    for _ in range(2000 * SCALE):
        a, b = b, a + b
    power = pow(3, 10 ** 5 + 7, 2 ** 1279 - 1)
    text = str(3 ** (2000 * SCALE))
    assert int(text) == 3 ** (2000 * SCALE)
    quotient, rest = divmod(math.factorial(400 * SCALE), 7 ** 99 - 2)
    return digest(a), power, len(text), text[-30:], hex(quotient)[:60], rest, \
        math.isqrt(10 ** 301), math.gcd(a, 2 ** 64 * 3 ** 30)


def floats():
    rng = random.Random(1)
    values = [rng.uniform(-1e3, 1e3) * 10 ** rng.randrange(-30, 30) for _ in range(300 * SCALE)]
    out = []
    for v in values:
        assert float(repr(v)) == v and float.fromhex(v.hex()) == v
        out += [repr(v), f"{v:.3e}", f"{v:.10g}", math.frexp(v), v.as_integer_ratio(), repr(math.sin(v)), math.atan(v)]
    out += [math.fsum(values), sum(values), math.pi ** math.e, math.gamma(7.5), math.erf(0.3), cmath.exp(1j + 0.5)]
    out += [round(2.675, 2), 1e308 * 10, -0.0, 5e-324, 1 / 3, 0.1 + 0.2, math.fmod(-7.5, 2), -7.5 % 2, 7.5 // -2]
    return digest(out), out[-1], out[-10]


def containers():
    table, order = {}, []
    for i in range(4000 * SCALE):
        key = (i * 7919) % 1009, f"k{i % 613}"
        table[key] = table.get(key, 0) + i
        if i % 3 == 0:
            table.pop(((i * 31) % 1009, f"k{i % 7}"), None)
    heap = [(i * 7907) % 4001 for i in range(1000 * SCALE)]
    heapq.heapify(heap)
    while heap:
        order.append(heapq.heappop(heap))
    counts = collections.Counter(order)
    line = collections.deque(order, maxlen=50)
    line.rotate(7)
    numbers = sorted(range(2000 * SCALE), key=lambda v: (v * 2654435761) & 0xFFFF)
    sets = {i * i % 1013 for i in range(2000)} ^ {i * 3 % 1013 for i in range(500)}
    return digest(sorted(table.items())), digest(order), counts.most_common(3), list(line)[:5], digest(numbers), \
        sum(sets), \
        bisect.bisect(order, 77)


def regexes():
    text = " ".join(f"{string.ascii_letters[i % 50:i % 50 + 6]}{i}@host{i % 17}.example {i / 7:.3f};"
                    for i in range(400 * SCALE))
    mails = re.findall(r"(\w+)@(host\d+)\.example", text)
    swapped = re.sub(r"(?P<a>[a-f]+)(?P<d>\d+)", lambda m: m["d"] + m["a"].upper(), text)
    lazy = re.findall(r"h.*?(?=;)", text)
    words = re.split(r"[\s;@.]+", text)
    back = re.findall(r"(\d)\1", text)
    return len(mails), digest(mails), digest(swapped), digest(lazy), len(words), digest(back), \
        bool(re.fullmatch(r"(a|b)*c", "ab" * 500 + "c"))


def binary():
    rng = random.Random(2)
    out = []
    for _ in range(400 * SCALE):
        q, i, h, b = rng.getrandbits(64), rng.getrandbits(31), rng.getrandbits(15), rng.getrandbits(7)
        f, d = rng.random() * 1e10, rng.random() / 1e200
        for order in "<>":
            packed = struct.pack(order + "QiHbfde", q, i, h, b, f, d, f / 1e8)
            out.append(struct.unpack(order + "QiHbfde", packed))
            out.append(packed)
    a = array.array("d", (i / 3 for i in range(500)))
    a.byteswap()
    view = memoryview(bytearray(range(256))).cast("H")
    return digest(out), digest(a.tobytes()), digest(view.tolist()), \
        int.from_bytes(b"\x01\x02\x03" * 9, "little", signed=True)


def hashes():
    data = bytes(i * i >> 3 & 255 for i in range(20000 * SCALE))
    out = [(name, hashlib.new(name, data).hexdigest()[:24]) for name in
           ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512", "blake2b", "blake2s")]
    out.append(hashlib.shake_128(data).hexdigest(12))
    out.append(hmac.new(b"key", data, "sha256").hexdigest()[:24])
    out.append(hashlib.pbkdf2_hmac("sha512", b"pass", b"salt", 100 * SCALE).hex()[:24])
    out.append(hashlib.scrypt(b"pass", salt=b"salt", n=64, r=4, p=1).hex()[:24])
    return digest(out), out[0], out[3], zlib.crc32(data), zlib.adler32(data)


def documents():
    value = {f"k{i}": [i, i / 3, None, True, {"s": "\u00fc\u4e2d" * (i % 5) + "\\\"\n", "n": -i ** 5}]
             for i in range(150 * SCALE)}
    text = json.dumps(value, sort_keys=True, indent=1)
    assert json.loads(text) == value
    pickled = pickle.dumps(value, protocol=4)
    assert pickle.loads(pickled) == value
    return digest(text), digest(pickled), unicodedata.normalize("NFKD", "\u00fc\ufb01\u2460").encode().hex()


def compression():
    data = b"".join(f"line {i * 7919 % 1000} of {i % 13}\n".encode() for i in range(2500 * SCALE))
    out = []
    for name, pack, unpack in (("zlib 1", lambda d: zlib.compress(d, 1), zlib.decompress),
                               ("zlib 9", lambda d: zlib.compress(d, 9), zlib.decompress),
                               ("bz2", bz2.compress, bz2.decompress),
                               ("lzma", lambda d: lzma.compress(d, preset=1), lzma.decompress)):
        packed = pack(data)
        assert unpack(packed) == data
        out.append((name, len(packed), hashlib.md5(packed).hexdigest()[:12]))
    return out


def exact():
    decimal.getcontext().prec = 60
    d = sum((decimal.Decimal(1) / k for k in range(1, 200 * SCALE)), decimal.Decimal(0))
    f = sum((fractions.Fraction(1, k) for k in range(1, 120 * SCALE)), fractions.Fraction(0))
    return d, decimal.Decimal(2).sqrt(), decimal.Decimal(3).ln(), (d ** 7).exp(), digest(f.numerator, f.denominator), \
        statistics.stdev([i * i % 97 for i in range(200)])


def functions():
    @functools.lru_cache(maxsize=None)
    def ways(n, most):
        return 1 if n == 0 else sum(ways(n - k, k) for k in range(1, min(n, most) + 1))

    def primes():
        found = {}
        for n in itertools.count(2):
            p = found.pop(n, None)
            if p:
                at = n + p
                while at in found:
                    at += p
                found[at] = p
            else:
                found[n * n] = n
                yield n

    def fails(n):
        try:
            return [1, 2, 3][n] // (n % 3)
        except (IndexError, ZeroDivisionError) as error:
            return type(error).__name__
        finally:
            order.append(n)

    class Counter:
        def __init__(self):
            self.n = 0

        def __getattr__(self, name):
            return len(name)

        def __iadd__(self, other):
            self.n += other
            return self

    order = []
    c = Counter()
    for i in range(3000 * SCALE):
        c += i + c.missing
    return ways(60, 60), list(itertools.islice(primes(), 300 * SCALE))[-3:], [fails(i) for i in range(5)], order, c.n, \
        digest(list(itertools.permutations("abcdef"))), \
        eval("sum(x*x for x in range(1000))")  # pylint: disable=eval-used


def with_threads():
    jobs, done, lock, total = queue.Queue(), queue.Queue(), threading.Lock(), [0]

    def worker():
        while True:
            job = jobs.get()
            if job is None:
                return
            value = hashlib.sha1(str(job).encode() * 300).hexdigest()
            with lock:
                total[0] += int(value[:6], 16)
            done.put((job, value[:8]))

    workers = [threading.Thread(target=worker) for _ in range(4)]
    for w in workers:
        w.start()
    for job in range(200 * SCALE):
        jobs.put(job)
    for _ in workers:
        jobs.put(None)
    for w in workers:
        w.join()
    return digest(sorted(done.queue)), total[0]


def foreign():
    """Calls through libffi: code and closures that are made at run time."""
    libc, libm = ctypes.CDLL("libc.so.6"), ctypes.CDLL("libm.so.6")
    compare_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 100)(*[(i * 7919) % 1009 for i in range(100)])
    libc.qsort(numbers, 100, 4, compare_type(lambda a, b: a[0] - b[0]))
    libm.pow.restype = ctypes.c_double
    libm.pow.argtypes = [ctypes.c_double, ctypes.c_double]
    return digest(list(numbers)), [libm.pow(i / 7, 1.3) for i in range(1, 4)], libc.strlen(b"x" * 333)


def database():
    db = sqlite3.connect(":memory:")
    db.create_function("odd", 1, lambda v: v * 2 + 1)
    db.execute("create table t(a integer primary key, b real, c text)")
    db.executemany("insert into t values(?,?,?)", ((i, i / 7, f"row {i % 37}") for i in range(500 * SCALE)))
    rows = db.execute("select c, count(*), sum(b), max(odd(a)) from t group by c order by c").fetchall()
    return digest(rows), rows[1]


def turtle():
    """A picture made of arithmetic."""
    out = io.StringIO()
    for y in range(12 * SCALE):
        for x in range(40):
            z, c, n = 0j, complex(x / 13 - 2.2, y / (5.0 * SCALE) - 1.2), 0
            while abs(z) < 2 and n < 60:
                z, n = z * z + c, n + 1
            out.write(" .:-=+*#%@"[n % 10])
    return digest(out.getvalue())


PARTS = (bigints, floats, containers, regexes, binary, hashes, documents, compression, exact, functions, with_threads,
         foreign, database, turtle)
sys.set_int_max_str_digits(0)
for part in PARTS:
    print(f"{part.__name__}: {part()}", flush=True)
