"""What tests of endurance share: a child process for each attempt, forked so that it starts in milliseconds."""

import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import pytest

from digitlab.config import ROOT, compose
from digitlab.data.sources import Cifar10Source, FashionMnistSource, MnistSource

# Above what the process has: a test must not take the machine with it.
_MORE_MEMORY_BYTES = 3 << 30
_HUNG_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code, negative for a signal, and what it said."""

    code: int
    stdout: str
    stderr: str


def _in_child(act: Callable[[], object], out: BinaryIO, err: BinaryIO) -> int:
    """The exit code of ``act``; 70 for an exception, whose traceback is then on stderr."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    virtual_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes + _MORE_MEMORY_BYTES,) * 2)
    # As in a process of its own, where a warning is a line on stderr.
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    try:
        act()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


@pytest.fixture(scope="session")
def in_child() -> Callable[[Callable[[], object]], Ended]:
    """``in_child(act)`` calls ``act`` in a forked child with bounded memory; one that hangs is killed: code -9."""

    def run(act: Callable[[], object]) -> Ended:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    code = _in_child(act, out, err)
                finally:
                    os._exit(code)
            deadline = time.monotonic() + _HUNG_SECONDS
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.005)
            said = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        return Ended(os.waitstatus_to_exitcode(ended[1]), *said)

    return run


@pytest.fixture(scope="session")
def train_py_run() -> Callable[..., None]:
    """``train_py_run("model=mlp", ...)`` is what ``python train.py model=mlp ...`` does, in this process."""
    spec = importlib.util.spec_from_file_location("train_py", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    compose()  # Hydra looks for its plugins once

    def run(*arguments: str) -> None:
        sys.argv = ["train.py", *arguments]
        script.run()

    return run


@pytest.fixture(scope="session")
def read_once() -> None:
    """Have the children inherit the data sets as read by the parent."""
    with pytest.MonkeyPatch.context() as patch:
        for source in (MnistSource, FashionMnistSource, Cifar10Source):
            read = source.read
            known = cache(lambda name, root, read=read, source=source: read(source(), root))
            patch.setattr(source, "read", lambda self, root, known=known: known(self.name, root))
        yield
