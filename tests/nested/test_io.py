"""Disks and networks under a real kvm-amd: io_inside.py runs in the rig, its results are told here."""

import os

import rig
from harness import test
from test_kvm import relay

INSIDE = os.path.join(rig.HERE, "io_inside.py")
MODULES = {"cloud": ("button", "evdev", "virtio_pci", "virtio_rng", "virtio_blk", "ext4", "virtio_net", "virtio_console"),
           "generic": ("button", "evdev", "ahci", "sd_mod", "crc32c_generic", "ext4")}


def run(t, words, seconds, kernel="cloud"):
    relay(t, words, seconds, INSIDE, kernel, MODULES[kernel])


@test("io: split")
def split(t):
    run(t, ["irqchip=split"], 200)


@test("io: kernel")
def kernel(t):
    run(t, ["irqchip=kernel"], 200)


@test("io: user")
def user(t):
    run(t, ["irqchip=user"], 200)


@test("io: ahci")
def ahci(t):
    run(t, ["ahci"], 300, "generic")


@test("io: vhost")
def vhost(t):
    run(t, ["vhost"], 400)
