"""Writes small CD images: ISO 9660 (ECMA-119) with directories, names of level 2, no extensions."""

import struct

SECTOR = 2048


def both16(value):
    return struct.pack("<H", value) + struct.pack(">H", value)


def both32(value):
    return struct.pack("<I", value) + struct.pack(">I", value)


def record(name, lba, size, directory):
    """A directory record (9.1); the name as bytes."""
    length = 33 + len(name) + (len(name) + 1) % 2
    out = bytes([length, 0]) + both32(lba) + both32(size) + bytes([126, 11, 22, 12, 0, 0, 0])
    out += bytes([2 if directory else 0, 0, 0]) + both16(1) + bytes([len(name)]) + name
    return out.ljust(length, b"\0")


class Directory:
    def __init__(self, name, parent):
        self.name, self.parent = name, parent or self
        self.files, self.directories = [], []
        self.lba = self.size = self.number = 0

    def records(self):
        """All of them, none across a sector."""
        entries = [record(b"\0", self.lba, self.size, True), record(b"\1", self.parent.lba, self.parent.size, True)]
        named = [(d.name.encode(), d.lba, d.size, True) for d in self.directories]
        named += [(f"{name};1".encode(), lba, size, False) for name, lba, size in self.files]
        entries += [record(*entry) for entry in sorted(named)]
        out = b""
        for entry in entries:
            if len(out) % SECTOR + len(entry) > SECTOR:
                out = out.ljust(-(-len(out) // SECTOR) * SECTOR, b"\0")
            out += entry
        return out.ljust(-(-len(out) // SECTOR) * SECTOR, b"\0")


def path_table(directories, order):
    out = b""
    for d in directories:
        name = d.name.encode() if d.name else b"\0"
        out += struct.pack(order + "BBIH", len(name), 0, d.lba, d.parent.number) + name + b"\0" * (len(name) % 2)
    return out


def write(path, files, label, sectors=0):
    """Writes an image with these files: {"DIR/NAME.EXT": bytes}. With `sectors` it has so many, its data at the end."""
    root = Directory("", None)
    found = {"": root}
    for name in sorted(files):
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            key = "/".join(parts[:depth + 1])
            if key not in found:
                parent = found["/".join(parts[:depth])]
                found[key] = Directory(parts[depth], parent)
                parent.directories.append(found[key])
    # The path table lists parents first, then by name.
    directories = sorted(found.values(), key=lambda d: (depth_of(d), d.parent.number, d.name))
    for number, d in enumerate(directories):
        d.number = number + 1
    blocks = {name: -(-len(data) // SECTOR) for name, data in files.items()}
    for name, data in files.items():
        folder, _, base = name.rpartition("/")
        found[folder].files.append((base, 0, len(data)))
    table = path_table(directories, "<")
    at = 16 + 2
    tables = at, at + -(-len(table) // SECTOR)
    at = tables[1] + -(-len(table) // SECTOR)
    for d in directories:
        d.lba, d.size = at, len(d.records())
        at += d.size // SECTOR
    at = max(at, sectors - sum(blocks.values()))
    where = {}
    for name in sorted(files):
        where[name] = at if blocks[name] else 0
        at += blocks[name]
    for folder, d in found.items():
        d.files = [(base, where[f"{folder}/{base}" if folder else base], size) for base, _, size in d.files]

    pvd = b"\1CD001\1\0" + b"XHYVE".ljust(32) + label.encode().ljust(32) + bytes(8) + both32(at) + bytes(32)
    pvd += both16(1) + both16(1) + both16(SECTOR) + both32(len(table))
    pvd += struct.pack("<II", tables[0], 0) + struct.pack(">II", tables[1], 0)
    pvd += record(b"\0", root.lba, root.size, True) + b" " * (128 * 4 + 37 * 3)
    pvd += (b"2026112212000000" + b"\0") * 2 + (b"0" * 16 + b"\0") * 2 + b"\1"
    with open(path, "wb") as image:
        image.truncate(at * SECTOR)
        for lba, data in [(16, pvd), (17, b"\xffCD001\1"), (tables[0], path_table(directories, "<")),
                          (tables[1], path_table(directories, ">"))] + [(d.lba, d.records()) for d in directories] + \
                         [(where[name], data) for name, data in files.items()]:
            image.seek(lba * SECTOR)
            image.write(data)
    return at


def depth_of(directory):
    return 0 if directory.parent is directory else 1 + depth_of(directory.parent)
