# What a person types. Meson and Ninja do the building (meson.build); everything made lands in build/ and build-*/.
#
#   make              build/xhyve
#   make macos        build/macos/x86_64/xhyve and build/macos/arm64/xhyve, for Macs, made on Linux
#   make demo         boot Debian from a disk to a shell, after installing and fetching what that needs
#   make check        all tests; the last line counts them
#   make check-kvm    those that need KVM, in a machine whose AMD-V is emulated
#   make check-hvf    the accelerator for Macs over a simulated Hypervisor.framework, in full
#   make check-long   the tests that take an hour
#   make soak         an hour of real programs on 2 vCPUs (MINUTES=60)
#   make bench        how fast it is, beside QEMU where that is installed (BENCH="--quick": bench/run -h;
#                     BENCH_IO="--quick", for disks and networks: bench/io -h)
#   make bench-nested the same for KVM, in an emulated machine that has it (BENCH_NESTED="--quick": bench/nested -h)
#   make bench-hvf    exits of a guest on the accelerator for Macs, simulated, beside KVM's
#   make install      into /usr/local (PREFIX=, DESTDIR=)
#   make format       lay the C files out anew          make tidy    have clang-tidy read them
#   make clean        remove what was built             make distclean    and what was fetched

PREFIX ?= /usr/local
MINUTES ?= 60

all: build/build.ninja
	@ninja -C build
	@scripts/sign.sh build/xhyve

# Meson configures once; after that Ninja sees changes by itself, except that a folder got its first meson.build.
build/build.ninja: meson.build meson_options.txt $(wildcard src/*/meson.build)
	@scripts/setup.sh build
	@meson setup $(if $(wildcard $@),--reconfigure) -Dtests=false --prefix=$(PREFIX) build
	@touch $@

macos:
	@scripts/setup.sh macos
	@scripts/macos.sh

demo:
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory all
	@scripts/demo.sh

check:
	@scripts/setup.sh check
	@tests/run

check-kvm:
	@scripts/setup.sh check
	@tests/run --kvm

check-hvf:
	@scripts/setup.sh check
	@tests/run --hvf

check-long:
	@scripts/setup.sh check
	@tests/run --long

soak:
	@scripts/setup.sh check
	@$(MAKE) --no-print-directory all
	@tests/workload/run --soak $(MINUTES)

bench:
	@scripts/setup.sh bench || echo "bench: goes on without QEMU"
	@$(MAKE) --no-print-directory all
	@bench/run $(BENCH)
	@bench/io $(BENCH_IO)

bench-nested:
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory all
	@scripts/fetch-kernel.sh cloud generic
	@bench/nested $(BENCH_NESTED)

bench-hvf:
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory all
	@scripts/fetch-kernel.sh cloud generic
	@[ -f build-gcc/build.ninja ] || CC=gcc meson setup -Dwerror=true build-gcc
	@ninja -C build-gcc tests/hvsim/xhyve-hvsim
	@bench/hvf

install: all
	@meson install -C build --no-rebuild

format:
	find src tests bench -name '*.[ch]' -exec clang-format -i {} +

tidy: all
	@scripts/tidy.sh

clean:
	rm -rf build-gcc build-clang build-asan build-fuzz build/test-logs
	@[ ! -f build/build.ninja ] || ninja -C build clean

distclean:
	rm -rf build build-gcc build-clang build-asan build-fuzz

.PHONY: all macos demo check check-kvm check-hvf check-long soak bench bench-nested bench-hvf install format tidy clean distclean
