"""Fixtures of all tests: the real configuration made small, run folders, the command as users run it, and real data."""

import csv
import importlib.util
import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from digitlab import cli
from digitlab.config import ROOT, compose
from digitlab.data.chunks import Chunk, Position
from digitlab.data.source import ImageSet, Source
from digitlab.data.sources import Cifar10Source, FashionMnistSource, MnistSource
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.sweeps.population import population
from digitlab.sweeps.population.learner import Learner
from digitlab.training import classifier
from digitlab.training.assembly import chunk_plan, initial_classifier, read_data, set_length
from digitlab.training.experiment import Experiment
from digitlab.training.replay import Recorder

Digitlab = Callable[..., tuple[int, str, str]]

# More threads than cores make small networks slow, and the suite runs in several processes.
torch.set_num_threads(1)

_SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=2",
)


# Whoever is that late has come to a halt: no test waits so long, on however busy a machine.
_HUNG_SECONDS = 600


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them, and every process that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="tests of endurance in their long form: minutes each")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the long form of a test of endurance is asked for."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without a generator of its own is the same in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture
def shrunk() -> Callable[..., DictConfig]:
    """``shrunk("model=lenet", ...)`` is what the command would run on the CPU, cut to a few mini-batches."""

    def compose_small(*overrides: str) -> DictConfig:
        return compose([*_SMALL, *overrides])

    return compose_small


_READ = {source: source.read for source in (MnistSource, FashionMnistSource, Cifar10Source)}


@cache
def _images(source: type[Source], root: Path) -> tuple[ImageSet, ImageSet]:
    return _READ[source](source(), root)


@pytest.fixture(autouse=True)
def read_once() -> Iterator[None]:
    """Each data set that tests train on is read once for all of them, and MNIST before children are forked.

    Nothing writes to images. Tests of reading have a ``read_once`` of their own that does nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        for source in _READ:
            patch.setattr(source, "read", lambda self, root, source=source: _images(source, root))
        # Which comes with the package, wherever the others are.
        patch.setattr(MnistSource, "read", lambda self, root: _images(MnistSource, Path()))
        _images(MnistSource, Path())
        yield


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Where a run of the test may write; not yet made."""
    return tmp_path / "run"


@pytest.fixture
def recorder() -> Recorder:
    """What takes the place of CUDA graphs: it replays by doing it again, in the same places."""

    def record(work: Callable[[], list[torch.Tensor]]) -> tuple[Callable[[], None], list[torch.Tensor]]:
        results = work()

        def replay() -> None:
            for own, new in zip(results, work(), strict=True):
                own.copy_(new)

        return replay, results

    return record


@pytest.fixture
def interrupting() -> Callable[..., Callable[..., Any]]:
    """``interrupting(method, at=3)`` is ``method``, which sends this process SIGTERM the third time it is called."""

    def make(method: Callable[..., Any], *, at: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def counted(*arguments: Any) -> Any:
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return method(*arguments)

        return counted

    return make


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> list[str]:
    """Updates are recorded as they are on CUDA; a word for each replay."""
    replays: list[str] = []

    def counted(work: Callable[[], list[torch.Tensor]]) -> tuple[Callable[[], None], list[torch.Tensor]]:
        replay, results = recorder(work)

        def count() -> None:
            replays.append("replayed")
            replay()

        return count, results

    def recorder_for(device: torch.device, *, allowed: bool) -> Recorder | None:
        return counted if allowed else None

    for module in (classifier, population):
        monkeypatch.setattr(module, "recorder_for", recorder_for)
    return replays


@pytest.fixture
def stacked() -> Callable[..., tuple[Learner, list[Chunk]]]:
    """``stacked("model=mlp", ...)``: two members of seed 0 and one of seed 1, and a chunk of 64 mini-batches a seed."""

    def stack(*overrides: str) -> tuple[Learner, list[Chunk]]:
        common = ["trainer=cpu", "data.batch_size=10", "data.train_size=640", "data.val_size=50", *overrides]
        jobs = [[*common, "seed=0"], [*common, "seed=0", "optimizer.weight_decay=1e-3"], [*common, "seed=1"]]
        experiments = [Experiment.from_config(compose(job), typed=job) for job in jobs]
        data = read_data(experiments[0])
        classifiers = [initial_classifier(experiment, data) for experiment in experiments]
        for each, experiment in zip(classifiers, experiments, strict=True):
            set_length(each.train(), experiment, 64)
        plans = [replace(chunk_plan(experiment), chunk_length=64) for experiment in experiments[1:]]
        chunks = [next(iter(data.chunks(plan, Position()))) for plan in plans]
        return Learner(classifiers, device=torch.device("cpu")), chunks

    return stack


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def train_py_process(tmp_path: Path) -> Command:
    """``train_py_process("model=mlp", ...)`` runs the script in ``cwd`` (default ``tmp_path``) until it ends."""

    def run(
        *arguments: str, cwd: Path = tmp_path, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        variables = {"OMP_NUM_THREADS": "1"} | dict(os.environ) | (environment or {})
        return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=_HUNG_SECONDS)

    return run


@pytest.fixture(scope="session")
def train_py_here() -> Callable[..., None]:
    """``train_py_here("model=mlp", ...)`` is what ``python train.py model=mlp ...`` does, in this process."""
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
def train_py(train_py_here: Callable[..., None], in_child: Callable[..., "Ended"]) -> Command:
    """As ``train_py_process``, but in a child that has torch already: imported anew it would take seconds."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]

        def act() -> None:
            if cwd is not None:
                os.chdir(cwd)
            train_py_here(*words)

        ended = in_child(act)
        return subprocess.CompletedProcess(words, ended.code, ended.stdout, ended.stderr)

    return run


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: its exit code, negative for a signal, and what it said."""

    code: int
    stdout: str
    stderr: str


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _in_child(act: Callable[[], object], out: BinaryIO, err: BinaryIO, more_bytes: int) -> int:
    """The exit code of ``act``; 70 for an exception, whose traceback is then on stderr."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    virtual_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes + more_bytes,) * 2)
    # As in a process of its own, where a warning is a line on stderr.
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warnings.showwarning = _say
    # After a fork the first who asks makes torch's pool anew; of several threads at once, one would find none.
    torch.set_num_threads(torch.get_num_threads())
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
def in_child() -> Callable[..., Ended]:
    """``in_child(act)`` calls ``act`` in a forked child, which starts in milliseconds.

    Above what the process has it gets no more memory than ``more_bytes``. One that hangs is killed: code -9.
    """

    def run(act: Callable[[], object], *, more_bytes: int = 3 << 30) -> Ended:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    code = _in_child(act, out, err, more_bytes)
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


@pytest.fixture
def one_line() -> Callable[[str], bool]:
    """``one_line(text)``: is it what a user should see of an error, one line and no traceback?"""
    return lambda text: len(text.strip().splitlines()) == 1 and "Traceback" not in text


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real Fashion-MNIST and CIFAR-10; without it the test is skipped (MNIST is in the package)."""
    root = Path(os.environ.get("DIGITLAB_DATA", ROOT / "data"))
    missing = [name for name in ("FashionMNIST/raw", "cifar-10-batches-py") if not (root / name).is_dir()]
    if missing:
        pytest.skip(f"data/ is not laid out: no {' and no '.join(missing)} in {root}")
    return root


@pytest.fixture
def digitlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Digitlab:
    """Runs the command; returns exit code, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["digitlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return command


# The commit is that of the tree, in which someone may be at work while tests run.
_NOT_OF_THE_RUN = ("git_commit", "events")
_TIMES = ("train_seconds", "images_per_second", "epoch_seconds", "best/train_seconds", "best/images_per_second")


@pytest.fixture
def remains() -> Callable[[Path], dict[str, Any]]:
    """``remains(folder)`` is all that a run left but times and log: equal for two runs that are the same to the bit."""

    def collect(folder: Path) -> dict[str, Any]:
        run = RunFolder(folder)
        with run.metrics.open(encoding="utf-8") as file:
            found: dict[str, Any] = {run.metrics.name: _timeless(list(csv.DictReader(file)))}
        found |= {path.name: _timeless(read_checkpoint(path)) for path in (run.best, run.last)}
        found[run.result.name] = _timeless(run.read_result())
        files = (run.confusion, run.summary, run.iterations)
        return found | {path.name: path.read_bytes() for path in files if path.exists()} | _events(folder)

    return collect


def _timeless(value: Any) -> Any:
    """Plain values without times, commit, and the sizes of event files, of which every start has its own."""
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in (*_TIMES, *_NOT_OF_THE_RUN)}
    if isinstance(value, list | tuple):
        return [_timeless(entry) for entry in value]
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    return repr(value)  # nan is equal to nan


def _begun(event_file: Path) -> tuple[int, int]:
    """The second, and which of one process's files in that second."""
    parts = event_file.name.split(".")
    return int(parts[3]), int(parts[-1])


def _events(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Every event as it lies in the files, nothing purged: (step, value) in their order, by subfolder and tag."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("events.out.tfevents.*"), key=_begun):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                timed = value.tag in _TIMES
                found[f"{path.parent.relative_to(folder)}:{value.tag}"].append(
                    (event.step, b"" if timed else value.SerializeToString())
                )
    return dict(found)
