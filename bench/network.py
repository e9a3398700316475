"""The host's end of what the benchmarks send over networks."""

import atexit
import ctypes
import os
import re
import subprocess

import guests


def serve():
    """A process that takes and gives all that `programs stream` sends and wants: its port."""
    server = subprocess.Popen([guests.programs(), "serve", "0.0.0.0", "0"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return int(re.fullmatch(r"port (\d+)\n", server.stdout.readline()).group(1))


def own(taps):
    """A network namespace for this process, with tap interfaces: name -> the host's address. RuntimeError says why
    there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not os.path.exists("/dev/net/tun") or libc.unshare(0x40000000):  # CLONE_NEWNET
        raise RuntimeError("a tap interface of one's own takes root and /dev/net/tun")
    commands = ["link set lo up"]
    for name, address in taps.items():
        commands += [f"tuntap add {name} mode tap", f"addr add {address}/24 dev {name}", f"link set {name} up"]
    for command in commands:
        done = subprocess.run(["ip", *command.split()], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"`ip {command}`: {done.stderr.strip()}")
