#!/usr/bin/env python3
"""The host's part in a demo without a terminal: tries the guest's ports, and types what it saw into the guest's console.

    scripts/demo-host.py LOG SSH-PORT HTTP-PORT

It waits until the console's log says that the guest is ready; standard output is the guest's input. It ends when
nobody reads that any more.
"""

import select
import socket
import sys
import time
import urllib.request


def gone():
    """Nobody reads our output."""
    poll = select.poll()
    poll.register(1, select.POLLERR)
    return bool(poll.poll(200))


def main():
    log, ssh, http = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    end = time.monotonic() + 600
    while time.monotonic() < end and not gone():
        with open(log, "rb") as file:
            if b"demo: ports are open" in file.read():
                break
    else:
        return
    try:
        with socket.create_connection(("127.0.0.1", ssh), timeout=60) as s:
            banner = s.makefile("rb").readline(256).decode(errors="replace").strip()
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/", timeout=60) as page:
            text = page.read(4096).decode(errors="replace").strip().split("\n")[-1]
    except OSError as error:
        banner = text = f"no answer: {error}"
    print(banner, text, sep="\n", flush=True)
    while not gone():  # the end of our output would be that of the guest's input
        pass


if __name__ == "__main__":
    main()
