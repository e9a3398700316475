"""Disks and networks under a real kvm-amd: io_inside.py runs in the rig, its results are told here."""

import os

import rig
from harness import test
from test_kvm import relay

INSIDE = os.path.join(rig.HERE, "io_inside.py")
MODULES = ("button", "evdev", "virtio_pci", "virtio_rng", "virtio_blk", "ext4", "virtio_net")


def run(t, words, seconds):
    relay(t, words, seconds, INSIDE, MODULES)


@test("io: split")
def split(t):
    run(t, ["irqchip=split"], 200)


@test("io: kernel")
def kernel(t):
    run(t, ["irqchip=kernel"], 200)


@test("io: user")
def user(t):
    run(t, ["irqchip=user"], 200)


@test("io: vhost")
def vhost(t):
    run(t, ["vhost"], 400)
