# What a newcomer and CI run. Needed beforehand: Python >= 3.11 with its venv module, a C compiler and make.
# All else goes into .build/, a folder for each Python: `make test PYTHON=python3.12 CC=clang` stands beside
# `make test`.

PYTHON ?= python3
CC ?= cc
TAG := $(shell $(PYTHON) -c 'import sys; print(sys.implementation.cache_tag)')
BUILD := $(CURDIR)/.build/$(TAG)
VENV := $(BUILD)/venv

# The tools of the virtual environment first, and none of the caller's modules.
export PYTHONPATH :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
IN_VENV := PATH="$(VENV)/bin:$$PATH"

# A changed folder tells of files that are gone.
SOURCES := $(shell find src meson.build meson.options pyproject.toml -name __pycache__ -prune -o ! -name '*.pyc' -print)

.PHONY: help demo test test-native test-simulation test-python lint sanitize valgrind warnings \
    aarch64-check dist bench bench-quick fuzz fuzz-corpus fuzzers soak editable clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo            install into a fresh environment and train iris on 2 ranks'
	@echo 'make test            all of test-native, test-simulation (both C) and test-python (PYTEST_ARGS="-k words")'
	@echo 'make lint            ruff, mypy --strict, the stubs of the compiled modules against these, widths and lengths'
	@echo 'make sanitize        C tests under AddressSanitizer + UndefinedBehaviorSanitizer, then ThreadSanitizer'
	@echo 'make soak            ten hours of calls that must leave nothing behind (SOAK_SECONDS=60 SOAK_CALLS=100000)'
	@echo 'make fuzz            look for inputs that break what reads bytes of others, for an hour (FUZZ_SECONDS=120)'
	@echo 'make valgrind        some of the C tests under valgrind'
	@echo 'make warnings        a build in which warnings are errors (CC=gcc, CC=clang)'
	@echo 'make aarch64-check   compile the C core for aarch64'
	@echo 'make dist            sdist and wheel into dist/, and what must be true of them'
	@echo 'make bench           measure commops, its peers and the machine, in half an hour (BENCH_ARGS="objects --quick")'
	@echo 'make bench-quick     some seconds of that beside one peer, to see that it works'
	@echo 'make editable        an environment whose commops is this folder, rebuilt on import'
	@echo 'make clean           remove .build/ and dist/'

# ---------------------------------------------------------------- what a user does: pip install, and a first run

demo: $(BUILD)/demo/installed
	"$(BUILD)/demo/bin/commops" train iris -n 2

$(BUILD)/demo/installed: $(SOURCES)
	$(PYTHON) -m venv "$(BUILD)/demo"
	@echo 'commops and what it needs go into $(BUILD)/demo: a minute or two'
	"$(BUILD)/demo/bin/python" -m pip install --quiet '.[train]'
	touch $@

# ---------------------------------------------------------------- what a developer does

# A new pip, because older ones do not read [dependency-groups].
$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "commops needs Python 3.11 or newer")'
	$(PYTHON) -m venv "$(VENV)"
	@echo 'Tools go into $(VENV): a minute or two'
	"$(VENV)/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
	"$(VENV)/bin/python" -m pip install --quiet --group dev
	touch $@

# Installed as users have it, but out of a build folder that is kept, so that only what has changed is compiled.
$(BUILD)/installed: $(VENV)/ready $(SOURCES)
	$(IN_VENV) pip install --quiet --no-build-isolation -Cbuild-dir="$(BUILD)/wheel" '.[train,redis,bfloat16,tls]'
	touch $@

# The simulations, in virtual time, need a processor and no clock: they take what the tests of Python leave of it.
test: test-native $(BUILD)/installed
	$(MAKE) -j2 test-simulation test-python

test-native: $(BUILD)/native/build.ninja
	$(IN_VENV) meson test -C "$(BUILD)/native" --print-errorlogs --no-suite simulation

test-simulation: $(BUILD)/native/build.ninja
	$(IN_VENV) nice meson test -C "$(BUILD)/native" --print-errorlogs --suite simulation

test-python: $(BUILD)/installed
	$(IN_VENV) pytest $(PYTEST_ARGS)

$(BUILD)/native/build.ninja: | $(VENV)/ready
	$(IN_VENV) meson setup "$(BUILD)/native" -Dtests=true -Dbuildtype=debugoptimized

COMPILED := $(patsubst src/_native/commops/%.pyx,commops.%,$(wildcard src/_native/commops/*.pyx))

lint: $(BUILD)/installed
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy
	$(IN_VENV) stubtest $(COMPILED) --allowlist .ci/stubtest-allow.txt --mypy-config-file pyproject.toml
	$(IN_VENV) pytest -q tests/test_sources.py

# Quick grids: a sanitizer looks at what code does, and needs no case twice. Threads of one process stand for ranks,
# because ThreadSanitizer does not see between processes; it also needs a memory layout that is not randomised too far.
# SUITES='--suite simulation' chooses.
sanitize: $(BUILD)/address/build.ninja $(BUILD)/thread/build.ninja
	$(IN_VENV) QUICK=1 ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    meson test -C "$(BUILD)/address" --print-errorlogs --timeout-multiplier 4 $(SUITES)
	$(IN_VENV) QUICK=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
	    $(UNRANDOMISED) meson test -C "$(BUILD)/thread" --print-errorlogs --timeout-multiplier 4 $(SUITES)

# What the sanitizers do not see: values that were never written. Not of attach, for which valgrind lacks a system call,
# nor of the longest grids.
VALGRIND_TESTS ?= drive faults jobs news point shm_direct shm_protocol tcp_ends tls window wire
valgrind: $(BUILD)/native/build.ninja
	@if ! command -v valgrind >/dev/null; then echo 'skipped: there is no valgrind here'; exit 0; fi; \
	$(IN_VENV) QUICK=1 meson test -C "$(BUILD)/native" --print-errorlogs --timeout-multiplier 4 --wrapper \
	    'valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite' $(VALGRIND_TESTS)

UNRANDOMISED := $(shell setarch -R true 2>/dev/null && echo setarch -R)

$(BUILD)/address/build.ninja: | $(VENV)/ready
	$(IN_VENV) meson setup "$(BUILD)/address" -Dtests=true -Dbuildtype=debugoptimized \
	    -Db_sanitize=address,undefined -Db_lundef=false

$(BUILD)/thread/build.ninja: | $(VENV)/ready
	$(IN_VENV) meson setup "$(BUILD)/thread" -Dtests=true -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false

# Needs clang with libFuzzer for the targets in C; those in Python need atheris, which not every Python has. What is
# missing is skipped, and said. FUZZ_TARGETS="channel tcp" chooses. See CONTRIBUTING.md.
FUZZ_SECONDS ?= 3600
FUZZ_CC ?= clang
FUZZ_BUILD := $(BUILD)/fuzz
HAS_FUZZER = echo 'int LLVMFuzzerTestOneInput(void); int LLVMFuzzerTestOneInput(void) { return 0; }' | \
    $(FUZZ_CC) -fsanitize=fuzzer,address,undefined -x c - -o "$(BUILD)/has-fuzzer" >/dev/null 2>&1
FUZZ = $(IN_VENV) python tests/fuzz/run.py "$(BUILD)/fuzzing" --fuzzers "$(FUZZ_BUILD)/tests/fuzz"

# Ten hours of everything on each transport's turn; the tests have some seconds of it.
SOAK_SECONDS ?= 36000
SOAK_CALLS ?= 10000000
soak: $(BUILD)/installed
	$(IN_VENV) COMMOPS_TRANSPORT=shm commops run -n 3 tests/faults/soak.py $$(($(SOAK_SECONDS) / 2)) $(SOAK_CALLS)
	$(IN_VENV) COMMOPS_TRANSPORT=tcp commops run -n 3 tests/faults/soak.py $$(($(SOAK_SECONDS) / 2)) $(SOAK_CALLS)

fuzz: $(BUILD)/installed fuzzers
	$(FUZZ) --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

# The corpus in the tree, from the code that writes such bytes in earnest: for a format that has changed.
fuzz-corpus: $(BUILD)/installed $(BUILD)/native/build.ninja fuzzers
	$(IN_VENV) ninja -C "$(BUILD)/native" tests/fuzz/seeds
	$(FUZZ) --seeds "$(BUILD)/native/tests/fuzz/seeds" $(FUZZ_TARGETS)

fuzzers: $(VENV)/ready
	@$(IN_VENV) pip install --quiet --group fuzz || echo 'atheris cannot be installed for this Python'
	@$(HAS_FUZZER) || exit 0; \
	test -d "$(FUZZ_BUILD)" || $(IN_VENV) CC="$(FUZZ_CC)" meson setup "$(FUZZ_BUILD)" -Dfuzz=true \
	    -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false || exit 1; \
	$(IN_VENV) ninja -C "$(FUZZ_BUILD)" fuzzers

warnings: $(VENV)/ready
	test -d "$(BUILD)/warnings-$(CC)" || \
	    $(IN_VENV) CC=$(CC) meson setup "$(BUILD)/warnings-$(CC)" -Dtests=true -Dwerror=true
	$(IN_VENV) ninja -C "$(BUILD)/warnings-$(CC)"

# The core only: an extension would need a Python for aarch64.
AARCH64_CC ?= aarch64-linux-gnu-gcc
aarch64-check:
	@if ! command -v $(AARCH64_CC) >/dev/null; then echo 'skipped: there is no $(AARCH64_CC) here'; exit 0; fi; \
	mkdir -p "$(BUILD)/aarch64"; \
	for source in $$(find src/_native -name '*.c'); do \
	    echo "$(AARCH64_CC) $$source"; \
	    $(AARCH64_CC) -std=c11 -D_GNU_SOURCE= -O2 -Wall -Wextra -Werror -DCMO_ISA=baseline -Isrc/_native \
	        -c "$$source" -o "$(BUILD)/aarch64/out.o" || exit 1; \
	done

# The sdist is made of what is committed. The wheel is built from the sdist, in isolation.
dist: $(BUILD)/installed
	rm -rf dist
	$(IN_VENV) python -m build --outdir dist
	$(IN_VENV) COMMOPS_TEST_DIST="$(CURDIR)/dist" pytest tests/test_packaging.py

# Peers are downloaded into .build/peers the first time. A quick look needs the smallest of them only.
bench: $(BUILD)/installed
	$(IN_VENV) python bench/run.py $(BENCH_ARGS)

bench-quick: $(BUILD)/installed
	$(IN_VENV) python bench/run.py --quick --peers openmpi collectives messages objects startup

editable: $(VENV)/ready
	$(PYTHON) -m venv "$(BUILD)/editable"
	"$(BUILD)/editable/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
	"$(BUILD)/editable/bin/python" -m pip install --quiet --group dev
	PATH="$(BUILD)/editable/bin:$$PATH" pip install --quiet --no-build-isolation -Cbuild-dir="$(BUILD)/editable-build" \
	    --editable '.[train,redis,bfloat16,tls]'
	@echo 'Ready: . $(BUILD)/editable/bin/activate'

clean:
	rm -rf .build dist
