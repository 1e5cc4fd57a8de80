# All tasks of the project. The first one in a fresh clone builds .venv from requirements.lock; tests and documentation
# add requirements-dev.lock.
#   make train ARGS="model=mlp data=cifar10"     PYTHON=python3.12 chooses the interpreter of .venv

.PHONY: help install dev train test test-fast main-tests unit-tests test-cluster test-extra test-long test-minimums test-notebooks test-systems test-instruction-sets mutations torture lint lint-systems docs notebooks bench bench-members bench-sweeps bench-setup cluster compare-revisions gpu-check performance tensorboard lock release clean

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
# Not --compile-bytecode: it compiles 20,000 files, of which a run imports a fifth. COMPILE_BYTECODE imports these once,
# even if the environment tells Python to keep no bytecode, as in many containers. Each start would take ten seconds more.
UV_INSTALL := .venv/bin/uv pip install --python .venv/bin/python --no-build-isolation
COMPILE_BYTECODE := env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -W ignore -c

# Stamps are written last, so that an interrupted installation starts again. Each Python version has its own stamps.
LOCKED := .venv/locked-$(VERSION)
INSTALLED := .venv/installed-$(VERSION)
DEV := .venv/dev-$(VERSION)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 24

install: $(INSTALLED) ## build or update .venv with what digitlab needs and its options use

dev: $(DEV) ## add the tools for tests, lint and documentation to .venv

train: $(INSTALLED) ## run train.py with ARGS, for instance ARGS="model=lenet trainer.max_epochs=10"
	.venv/bin/python train.py $(ARGS)

# Two test processes with one thread each: more threads would compete for the same cores. With worksteal, each takes half
# of the tests in their order, so that the tests of a file share its runs, and at the end a part of what the other one has
# left. With loadgroup, tests with the same mark xdist_group, which share a server, run in one process.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --durations=10

# mypy uses one core, so the tests begin while it works.
test: $(DEV) ## run lint, types and the tests; ARGS go to pytest
	@$(MAKE) --no-print-directory -j2 lint main-tests

test-fast: $(DEV) ## run lint, types and the unit tests
	@$(MAKE) --no-print-directory -j2 lint unit-tests

cluster: $(DEV) ## start a SLURM cluster of two nodes on this machine (as root) and a shell that uses it; ARGS: a command
	PYTHONPATH=tests:$$PYTHONPATH .venv/bin/python tests/fixtures/slurm.py $(ARGS)

# An environment of its own; .venv keeps the versions of requirements.lock. Versions that no minimum names, those of
# indirect dependencies, are the newest ones that fit.
test-minimums: $(LOCKED) ## run the unit tests and one run of every model with the oldest version of each dependency
	.venv/bin/uv venv --quiet --allow-existing --python $(PYTHON) .venv-minimums
	.venv/bin/uv pip install --quiet --python .venv-minimums/bin/python --resolution lowest-direct -e '.[dev]'
	OMP_NUM_THREADS=1 .venv-minimums/bin/python -m pytest -n 2 -m unit $(ARGS)
	OMP_NUM_THREADS=1 .venv-minimums/bin/python -m pytest -n 2 tests/training/test_every_model.py $(ARGS)

main-tests: $(DEV)
	$(PYTEST) --dist worksteal -m "unit or runs or equivalence or faults" $(ARGS)

unit-tests: $(DEV)
	$(PYTEST) --dist worksteal -m unit $(ARGS)

# Three processes on two cores, because some tests mostly wait: for SLURM, for a server or for the browser.
test-extra: $(DEV) ## run tests with a browser, compiler, pretended GPU, SLURM or databases, and with an old instruction set
	$(PYTEST) -n 3 --dist loadgroup -m "(extra or cluster) and not long" -rs $(ARGS)
	INSTRUCTION_SETS=default:SSE41:none:1 $(MAKE) test-instruction-sets

test-long: $(DEV) ## run the long cases of the other tests, the notebooks and the tests of the wheel: an hour or more
	$(PYTEST) --dist loadgroup -m "(extra or cluster) and long" $(ARGS)
	$(MAKE) test-instruction-sets test-notebooks test-systems

test-cluster: $(DEV) ## run all tests that need SLURM and database servers on this machine, as root
	$(PYTEST) --dist loadgroup -m cluster tests/cluster $(ARGS)

test-notebooks: $(DEV) ## run the notebooks of the documentation
	$(PYTEST) -m notebooks $(ARGS)

test-systems: lint-systems ## build and use a wheel; imitate macOS, Windows and users without a home
	$(PYTEST) -m systems $(ARGS)

torture: $(DEV) ## run the long form of the fault, fuzzing and load tests: an hour or more
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --torture tests/torture tests/faults tests/sweeps/test_sweep.py \
		tests/training/test_stopped_anywhere.py $(ARGS)

mutations: $(DEV) ## do the tests find random bugs? ARGS="--count 60 --seed 1"; an hour, or less with Python 3.12
	[ -d .calls ] || .venv/bin/python tests/mutations.py record
	.venv/bin/python tests/mutations.py run $(ARGS)

# The sets that torch and oneDNN can be limited to, with one and with two threads. Instruction sets that the processor
# lacks are skipped. Only files with such tests are collected.
INSTRUCTION_SETS ?= default:SSE41:none:1 avx2:AVX2:avx2:1 avx512:AVX512_CORE:avx512bw:1 avx2:AVX2:avx2:2
NUMERIC_TESTS = $(shell grep -rl --include="test_*.py" "mark.numerics" tests)

test-instruction-sets: $(DEV) ## run the tests that depend on rounding with each instruction set
	@for each in $(INSTRUCTION_SETS); do \
		set -- $$(echo $$each | tr : " "); aten=$$1 onednn=$$2 flag=$$3 threads=$$4; \
		if [ $$flag != none ] && ! grep -qw $$flag /proc/cpuinfo; then \
			echo "$$aten with $$threads threads: skipped, this processor has no $$flag"; continue; fi; \
		echo "ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn OMP_NUM_THREADS=$$threads"; \
		ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn OMP_NUM_THREADS=$$threads \
			.venv/bin/pytest -q -n $$((3 - threads)) -m numerics $(NUMERIC_TESTS) $(ARGS) || exit 1; \
	done

lint: $(DEV) ## run ruff, the layers of the packages, and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy

# Not part of lint, because each system takes as long as the whole of lint the first time.
lint-systems: $(DEV) ## check the types of all code as on macOS and Windows
	.venv/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin
	.venv/bin/mypy --platform win32 --cache-dir .mypy_cache/win32

# The reference of the configuration is written first; in strict mode a broken link is an error.
docs: $(DEV) ## build the documentation in site/; open site/index.html in a browser
	.venv/bin/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

notebooks: $(DEV) ## run the notebooks of the documentation and store their outputs; ARGS names some of them
	.venv/bin/python docs/run_notebooks.py $(ARGS)

bench: $(INSTALLED) ## compare speed with bare PyTorch loops; fails if a target is missed
	.venv/bin/python benchmarks/bench.py $(ARGS)

bench-members: $(INSTALLED) ## compare a member of a population with a bare loop; fails if a target is missed
	.venv/bin/python benchmarks/members.py $(ARGS)

bench-sweeps: $(INSTALLED) ## compare whole sweeps with both launchers; fails if a target is missed
	.venv/bin/python benchmarks/sweeps.py $(ARGS)

bench-setup: ## measure the installation in fresh clones with cold caches, with pip alone and with uv; half an hour
	$(PYTHON) benchmarks/installation.py $(ARGS)

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

# Two locks, each for all platforms and Python versions: to use digitlab, and to work on it. The second contains the
# first. ARGS=--upgrade updates all pins; without it, only necessary ones change.
# New locks are compared first: unchanged locks keep their time stamps, so that .venv is not rebuilt.
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version $(MINIMUM) --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(LOCKED) ## rewrite requirements.lock and requirements-dev.lock from pyproject.toml
	cp requirements.lock requirements-dev.lock .venv/
	$(COMPILE) --extra install --extra launchers --extra search --output-file .venv/requirements.lock \
		$(ARGS) pyproject.toml
	$(COMPILE) --extra dev --constraint .venv/requirements.lock --output-file .venv/requirements-dev.lock \
		$(ARGS) pyproject.toml
	for each in requirements.lock requirements-dev.lock; do cmp -s .venv/$$each $$each || cp .venv/$$each $$each; done

release: $(DEV) ## build the source distribution and the wheel in dist/, and check them in a new environment
	.venv/bin/python tools/release.py $(ARGS)

clean: ## remove .venv, dist/ and caches, but not data/ and outputs/
	rm -rf .venv .venv-minimums dist build .mypy_cache .ruff_cache .hypothesis .calls src/*.egg-info

# .venv is rebuilt from scratch, so that no package of an earlier lock remains. pip installs uv, which installs the rest
# in parallel. uv does not read pip's settings: where it cannot reach its registry, pip tries with a mirror that they name.
# One dependency exists only as a source archive. Its build backend comes from the lock as well: build isolation would
# download an unchecked one.
$(LOCKED): requirements.lock requirements-dev.lock
	@[ -n "$(VERSION)" ] || { echo "PYTHON=$(PYTHON): not found; Python $(MINIMUM) or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, "$(MINIMUM)".split("."))))' || \
		{ echo "PYTHON=$(PYTHON): is Python $(VERSION); $(MINIMUM) or newer is needed, for instance PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] >= tuple(map(int, "$(BELOW)".split("."))))' || \
		{ echo "PYTHON=$(PYTHON): is Python $(VERSION), which Hydra does not support; choose one below $(BELOW), for instance PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "PYTHON=$(PYTHON): has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@rm -f .venv/locked-* .venv/installed-* .venv/dev-*
	$(PYTHON) -m venv --clear .venv
	sed -n -e '/^setuptools==/,/[^\\]$$/p' -e '/^uv==/,/[^\\]$$/p' requirements.lock | \
		$(PIP) install --quiet --require-hashes -r /dev/stdin
	$(UV_INSTALL) --require-hashes -r requirements.lock || \
		$(PIP) install --require-hashes --no-build-isolation -r requirements.lock
	@touch $@

# Without an index, nothing can be installed that the lock lacks: a missing dependency is an error here.
$(INSTALLED): pyproject.toml setup.py $(LOCKED)
	$(UV_INSTALL) --quiet --no-index -e '.[launchers,search]' || \
		{ echo "does requirements.lock hold what pyproject.toml asks for? \`make lock\` rewrites it" >&2; exit 1; }
	@$(COMPILE_BYTECODE) "import digitlab.training, digitlab.cli.commands, digitlab.figures.style, digitlab.api.commands"
	@touch $@

$(DEV): requirements-dev.lock $(INSTALLED)
	$(UV_INSTALL) --require-hashes -r requirements-dev.lock || \
		$(PIP) install --require-hashes --no-build-isolation -r requirements-dev.lock
	$(UV_INSTALL) --quiet --no-index -e '.[dev]' || \
		{ echo "does requirements-dev.lock hold what pyproject.toml asks for? \`make lock\` rewrites it" >&2; exit 1; }
	@$(COMPILE_BYTECODE) "import digitlab.report.page, digitlab.reproduce.runner, hypothesis, optuna, pytest, tensorboard.backend, torch._inductor.compile_fx"
	@touch $@
