"""Measures ``make install`` and ``make train`` in fresh clones with cold caches: ``make bench-setup``.

Two revisions take turns: the last one whose Makefile installs with pip alone, and this commit, which installs with uv.
The caches of pip and uv are new folders each time, so every package is downloaded and unpacked again. Each setup needs
12 GB of disk while it runs, and the network. The exit code is 1 if uv misses the target.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
# The parent of the commit with which make began to install with uv.
_BEFORE = "209369e~1"
_TARGET_RATIO = 0.4  # the largest ratio of the times with uv and with pip alone
# Variables of the environment that would give one of the revisions packages, caches or settings of this machine. With
# PYTHONDONTWRITEBYTECODE, each start of Python would compile all its modules again. With those in the last line,
# `make bench-setup ARGS=...` would pass its ARGS on to the `make` that it measures.
_HIDDEN = (
    "PYTHONPATH", "VIRTUAL_ENV", "DIGITLAB_DATA", "DIGITLAB_ALLOW", "XDG_CACHE_HOME", "PYTHONDONTWRITEBYTECODE",
    "ARGS", "PYTHON", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS",
)  # fmt: skip

Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--before", default=_BEFORE, metavar="REVISION", help="the slower one (default: %(default)s)")
    parser.add_argument("--after", default="HEAD", metavar="REVISION", help="the faster one (default: %(default)s)")
    parser.add_argument("--python", default=os.path.realpath(sys.executable), help="the interpreter of both")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    times: dict[str, list[Seconds]] = {options.before: [], options.after: []}
    for number in range(options.rounds):
        for revision, measured in times.items():
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="digitlab-setup-") as folder:
                measured.append(_set_up(revision, Path(folder), options.python))
            print(f"round {number + 1} of {options.rounds}, {revision}: {_text(measured[-1])}", flush=True)
    for revision, measured in times.items():
        print(f"median of {options.rounds}, {revision}: {_text(medians(measured))}")
    before, after = (medians(times[revision])["in all"] for revision in (options.before, options.after))
    ratio = after / before
    print(f"{options.after} takes {ratio:.2f} of the time of {options.before}; target: at most {_TARGET_RATIO}")
    sys.exit(ratio > _TARGET_RATIO)


def _set_up(revision: str, folder: Path, python: str) -> Seconds:
    """Clone ``revision`` into ``folder``, install it there, and train the first network."""
    clone = folder / "clone"
    _run(["git", "clone", "--quiet", "--no-checkout", _ROOT, clone], folder)
    _run(["git", "checkout", "--quiet", "--detach", _commit(revision)], clone)
    caches = {"PIP_CACHE_DIR": str(folder / "pip"), "UV_CACHE_DIR": str(folder / "uv")}
    install = _run(["make", "install", f"PYTHON={python}"], clone, caches)
    first_run = _run(["make", "train"], clone, caches)
    return {"in all": install + first_run, "install": install, "first run": first_run}


def _commit(revision: str) -> str:
    # Resolved here, because names such as HEAD mean something else in a clone.
    command = ["git", "rev-parse", "--verify", f"{revision}^{{commit}}"]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _run(command: Sequence[str | Path], folder: Path, variables: Mapping[str, str] | None = None) -> float:
    """Run a command and return its seconds; end with its output if it fails."""
    environment = visible_environment() | dict(variables or {})
    started = time.perf_counter()
    ended = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if ended.returncode:
        sys.exit(f"{shutil.which(str(command[0]))}: ended with {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return seconds


def visible_environment() -> dict[str, str]:
    """Return the environment variables that the measured commands see, without caches and settings of this machine."""
    return {name: value for name, value in os.environ.items() if name not in _HIDDEN}


def medians(measured: Sequence[Seconds]) -> Seconds:
    """Return the median of each part over all rounds. The medians of the parts need not add up to that of the sum."""
    return {part: statistics.median(each[part] for each in measured) for part in measured[0]}


def _text(seconds: Seconds) -> str:
    return ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())


if __name__ == "__main__":
    main()
