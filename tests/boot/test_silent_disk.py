"""A disk whose server stops answering: the guest's reset, the power button's absence and SIGTERM all come to an end."""

import os
import signal
import socket
import struct
import tempfile
import threading
import time

from harness import Guest, boot, expect, expect_equal, test

MODULES = ("button", "evdev", "virtio_pci", "virtio_blk")


class Server:
    """An NBD server (fixed newstyle, one connection, zeroes) that falls silent when it is told to."""

    OPTION, REPLY, REQUEST, SIMPLE = 0x49484156454F5054, 0x0003E889045565A9, 0x25609513, 0x67446698

    def __init__(self, path, size):
        self.size, self.silent = size, threading.Event()
        self.asked = threading.Event()  # after it fell silent
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        self.peer, _ = self.listener.accept()
        try:
            self._talk(self.peer)
        except OSError:
            pass

    def _get(self, peer, size):
        data = b""
        while len(data) < size:
            more = peer.recv(size - len(data))
            if not more:
                raise OSError("hung up")
            data += more
        return data

    def _talk(self, peer):
        peer.sendall(b"NBDMAGIC" + struct.pack(">QH", self.OPTION, 3))
        self._get(peer, 4)
        while True:
            _, option, size = struct.unpack(">QII", self._get(peer, 16))
            self._get(peer, size)
            if option != 7:  # NBD_OPT_GO
                peer.sendall(struct.pack(">QIII", self.REPLY, option, 0x80000001, 0))
                continue
            peer.sendall(struct.pack(">QIII", self.REPLY, option, 3, 12) + struct.pack(">HQH", 0, self.size, 5))
            peer.sendall(struct.pack(">QIII", self.REPLY, option, 1, 0))
            break
        while True:
            _, _, kind, handle, _, size = struct.unpack(">IHHQQI", self._get(peer, 28))
            if kind == 1:
                self._get(peer, size)
            if self.silent.is_set():
                self.asked.set()
                continue
            peer.sendall(struct.pack(">IIQ", self.SIMPLE, 0, handle) + (bytes(size) if kind == 0 else b""))


def hang(g, server):
    """Has the guest wait for the server."""
    server.silent.set()
    g.send("dd if=/dev/vda of=/dev/null bs=64k iflag=direct &\n")
    expect(server.asked.wait(30), "the guest's read has not come to the server")


@test("disks: a server that stops answering")
def silent(t):
    with tempfile.TemporaryDirectory(prefix="xhyve-test-") as folder:
        path = os.path.join(folder, "nbd")
        args = ["-m", "256M", "-s", f"3,virtio-blk,nbd+unix:///?socket={path}"] + boot("cloud", modules=MODULES)
        server = Server(path, 64 << 20)
        with Guest("silent-disk", args) as g:
            g.ready()
            expect_equal(g.run("cat /sys/block/vda/size"), str(64 << 11), "sectors")
            with t.case("a reboot comes through, without the disk"):
                hang(g, server)
                start = time.monotonic()
                g.send("reboot -f\n")
                g.ready()
                expect(b"does not answer" in g.stderr, f"nothing said of the server: {g.stderr!r}")
                expect(time.monotonic() - start < 60, "it took too long")
                g.poweroff()
        os.unlink(path)
        server = Server(path, 64 << 20)
        with Guest("silent-disk-term", args) as g:
            g.ready()
            with t.case("SIGTERM twice ends the process"):
                hang(g, server)
                g.signal(signal.SIGTERM)
                time.sleep(3.2)  # the time of grace, which the guest lets pass: it waits for its disk
                if g.process.poll() is None:
                    g.signal(signal.SIGTERM)
                expect_equal(g.exit(20), 0, "status")
