# All tasks of the project. The first one in a fresh clone builds .venv from requirements.lock.
#   make train ARGS="model=mlp data=cifar10"     PYTHON=python3.12 chooses the interpreter of .venv

.PHONY: help install train test test-fast test-extra test-instruction-sets torture lint docs bench bench-members bench-sweeps compare-revisions gpu-check performance tensorboard lock clean

# make passes only these variables on. `make train model=lenet` would train the default network without a warning.
UNUSED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNUSED := $(filter-out ARGS PYTHON MAKEOVERRIDES MAKEFLAGS -%-,$(UNUSED))
ifneq ($(UNUSED),)
$(error $(firstword $(UNUSED))=$($(firstword $(UNUSED))) has no effect here: write make $(or $(firstword $(MAKECMDGOALS)),train) ARGS="$(firstword $(UNUSED))=$($(firstword $(UNUSED)))")
endif

# Default: the interpreter with which .venv was built.
PYTHON ?= $(or $(realpath .venv/bin/python),python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
MINIMUM := $(shell sed -n 's/^requires-python = ">=\([0-9.]*\).*/\1/p' pyproject.toml)
BELOW := $(shell sed -n 's/^requires-python = .*<\([0-9.]*\).*/\1/p' pyproject.toml)
PIP := .venv/bin/python -m pip --disable-pip-version-check --no-input

# Stamps are written last, so that an interrupted installation starts again. Each Python version has its own stamps.
LOCKED := .venv/locked-$(VERSION)
INSTALLED := .venv/installed-$(VERSION)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 24

install: $(INSTALLED) ## build or update .venv

train: $(INSTALLED) ## run train.py with ARGS, for instance ARGS="model=lenet trainer.max_epochs=10"
	.venv/bin/python train.py $(ARGS)

# Two test processes with one thread each: more threads would compete for the same cores.
test: lint ## run lint and types, then the tests except those of test-extra; ARGS go to pytest
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --durations=10 -m "not extra" $(ARGS)

test-fast: lint ## run lint and types, then the unit tests
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --durations=10 -m unit $(ARGS)

test-extra: $(INSTALLED) ## run the tests that `make test` leaves out: browser, pretended GPU
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --durations=10 -m extra $(ARGS)

torture: $(INSTALLED) ## run the long form of the fault, fuzzing and load tests: an hour or more
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --torture tests/torture tests/faults tests/sweeps/test_sweep.py $(ARGS)

# All values of both variables, with one and with two threads. Instruction sets that the processor lacks are skipped.
INSTRUCTION_SETS := default:SSE41:none:1 avx2:AVX2:avx2:1 avx512:AVX512_CORE:avx512bw:1 \
	default:SSE41:none:2 avx2:AVX2:avx2:2 avx512:AVX512_CORE:avx512bw:2

test-instruction-sets: $(INSTALLED) ## run the tests that depend on rounding with each instruction set
	@for each in $(INSTRUCTION_SETS); do \
		set -- $$(echo $$each | tr : " "); aten=$$1 onednn=$$2 flag=$$3 threads=$$4; \
		if [ $$flag != none ] && ! grep -qw $$flag /proc/cpuinfo; then \
			echo "$$aten with $$threads threads: skipped, this processor has no $$flag"; continue; fi; \
		echo "ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn OMP_NUM_THREADS=$$threads"; \
		ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn OMP_NUM_THREADS=$$threads \
			.venv/bin/pytest -q -m numerics $(ARGS) || exit 1; \
	done

lint: $(INSTALLED) ## run ruff, the layers of the packages, and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

# The reference of the configuration is written first; in strict mode a broken link is an error.
docs: $(INSTALLED) ## build the documentation in site/; open site/index.html in a browser
	.venv/bin/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

bench: $(INSTALLED) ## compare speed with bare PyTorch loops; fails if a target is missed
	.venv/bin/python benchmarks/bench.py $(ARGS)

bench-members: $(INSTALLED) ## compare a member of a population with a bare loop; fails if a target is missed
	.venv/bin/python benchmarks/members.py $(ARGS)

bench-sweeps: $(INSTALLED) ## compare whole sweeps with both launchers; fails if a target is missed
	.venv/bin/python benchmarks/sweeps.py $(ARGS)

compare-revisions: $(INSTALLED) ## compare the results of two revisions bit by bit; ARGS="HEAD~1 HEAD --only mlp --jobs 2"
	.venv/bin/python benchmarks/compare_revisions.py $(ARGS)

gpu-check: $(INSTALLED) ## does everything work on this GPU, and how fast? ARGS="--device cpu --quick" is a dry run
	.venv/bin/python benchmarks/gpu_check.py $(ARGS)

# A missed target (the leading "-") does not stop the other measurements; the table shows it.
performance: $(INSTALLED) ## measure all tables of docs/performance.md and write them there: an hour on an idle machine
	-.venv/bin/python benchmarks/bench.py --all
	-.venv/bin/python benchmarks/members.py
	.venv/bin/python benchmarks/step_profile.py
	.venv/bin/python benchmarks/curves.py
	.venv/bin/python benchmarks/page.py

tensorboard: $(INSTALLED) ## show the curves of all runs in outputs/
	.venv/bin/tensorboard --logdir outputs $(ARGS)

# One lock for all platforms and Python versions. ARGS=--upgrade updates all pins; without it, only necessary ones change.
# The new lock is compared first: an unchanged lock keeps its time stamp, so that .venv is not rebuilt.
lock: $(LOCKED) ## rewrite requirements.lock from pyproject.toml
	cp requirements.lock .venv/requirements.lock
	.venv/bin/uv pip compile --quiet --universal --python-version $(MINIMUM) --fork-strategy fewest --extra dev \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --output-file .venv/requirements.lock $(ARGS) pyproject.toml
	cmp -s .venv/requirements.lock requirements.lock || cp .venv/requirements.lock requirements.lock

clean: ## remove .venv and caches, but not data/ and outputs/
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis src/*.egg-info

# .venv is rebuilt from scratch, so that no package of an earlier lock remains. One dependency exists only as a source
# archive. Its build backend comes from the lock as well: pip's build isolation would download an unchecked one.
$(LOCKED): requirements.lock
	@[ -n "$(VERSION)" ] || { echo "PYTHON=$(PYTHON): not found; Python $(MINIMUM) or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, "$(MINIMUM)".split("."))))' || \
		{ echo "PYTHON=$(PYTHON): is Python $(VERSION); $(MINIMUM) or newer is needed, for instance PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] >= tuple(map(int, "$(BELOW)".split("."))))' || \
		{ echo "PYTHON=$(PYTHON): is Python $(VERSION), which Hydra does not support; choose one below $(BELOW), for instance PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "PYTHON=$(PYTHON): has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f .venv/locked-* .venv/installed-*
	$(PYTHON) -m venv --clear .venv
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock | $(PIP) install --require-hashes -r /dev/stdin
	$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	@touch $@

# Without an index, pip can install nothing that the lock lacks: a missing dependency is an error here.
$(INSTALLED): pyproject.toml $(LOCKED)
	$(PIP) install --quiet --no-index --no-build-isolation -e '.[dev]' || \
		{ echo "does requirements.lock hold what pyproject.toml asks for? \`make lock\` rewrites it" >&2; exit 1; }
	@touch $@
