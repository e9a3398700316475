# What a person types. Meson and Ninja do the building (meson.build); everything made lands in build/ and build-*/.
#
#   make              build/xhyve
#   make demo         boot Linux to a shell, after installing and fetching what that needs
#   make check        all tests; the last line counts them
#   make check-long   the tests that take an hour
#   make bench        how fast it is, beside QEMU where that is installed
#   make install      into /usr/local (PREFIX=, DESTDIR=)
#   make format       lay the C files out anew          make tidy    have clang-tidy read them
#   make clean        remove what was built             make distclean    and what was fetched

BUILD  := build
PREFIX ?= /usr/local
MESON  ?= meson

# Unit tests need cmocka; without it xhyve itself still builds.
TESTS := $(if $(shell pkg-config --exists cmocka 2>/dev/null && echo yes),true,false)

all: configure
	@ninja -C $(BUILD)

# Meson lists the unit tests when it configures, so it must look again when one was added, or cmocka was.
configure:
	@mkdir -p $(BUILD)
	@{ ls tests/unit/test_*.c 2>/dev/null; find src tests -name meson.build; echo tests=$(TESTS); } | sort >$(BUILD)/inputs.new
	@if [ ! -f $(BUILD)/build.ninja ]; then \
	    scripts/setup.sh build && $(MESON) setup -Dtests=$(TESTS) --prefix=$(PREFIX) $(BUILD) >$(BUILD)/configure.log \
	        || { cat $(BUILD)/configure.log; exit 1; }; \
	elif ! cmp -s $(BUILD)/inputs.new $(BUILD)/inputs; then \
	    $(MESON) setup --reconfigure -Dtests=$(TESTS) --prefix=$(PREFIX) $(BUILD) >$(BUILD)/configure.log \
	        || { cat $(BUILD)/configure.log; exit 1; }; \
	fi
	@mv $(BUILD)/inputs.new $(BUILD)/inputs

demo:
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory all
	@scripts/demo.sh

check:
	@scripts/setup.sh check
	@tests/run

check-long:
	@scripts/setup.sh check
	@tests/run --long

bench:
	@scripts/setup.sh bench || echo "bench: goes on without QEMU"
	@$(MAKE) --no-print-directory all
	@bench/run

install: all
	@$(MESON) install -C $(BUILD) --no-rebuild

C_FILES = $(shell find src tests -name '*.[ch]')

format:
	clang-format -i $(C_FILES)

tidy: all
	@scripts/tidy.sh

clean:
	rm -rf build-asan build-clang $(BUILD)/logs
	@[ ! -f $(BUILD)/build.ninja ] || ninja -C $(BUILD) clean

distclean:
	rm -rf $(BUILD) build-asan build-clang

.PHONY: all configure demo check check-long bench install format tidy clean distclean
