"""A real SLURM cluster for the tests of this folder, commands in the background, and sweeps held at a gate."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fixtures.children import _in_child
from fixtures.gate import HELD
from fixtures.slurm import Cluster, missing_slurm, running_cluster, wait_until

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """The cluster that all tests share; it starts with the first of them."""
    if reason := missing_slurm():
        pytest.skip(f"no SLURM cluster: {reason}")
    pytest.importorskip("submitit")
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The shared cluster, used by this process and the commands that it starts; no job is left afterwards."""
    for name, value in whole_cluster.environment.items():
        monkeypatch.setenv(name, value)
    # The jobs inherit these: the sources under test, and the callback that holds runs.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DIGITLAB_ALLOW", "fixtures")
    whole_cluster.hide_jobs()
    yield whole_cluster
    whole_cluster.cancel_all()


class Background:
    """A command in a forked child, which need not import torch again. ``wait`` returns exit code, stdout, stderr."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # until ``wait``
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                # Much memory: SLURM gives the limits of the command to its jobs.
                code = _in_child(act, self._out, self._err, 1 << 40)
            finally:
                os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300.0) -> tuple[int, str, str]:
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.05)
        texts = [file.seek(0) or file.read().decode() for file in (self._out, self._err)]
        self._out.close()
        self._err.close()
        return os.waitstatus_to_exitcode(ended[1]), texts[0], texts[1]


@pytest.fixture
def forked() -> Iterator[Callable[..., Background]]:
    """``forked(act)`` calls ``act`` in a child at once and returns the child; it is killed after the test."""
    started: list[Background] = []

    def start(act: Callable[[], object]) -> Background:
        started.append(Background(act))
        return started[-1]

    yield start
    for each in started:
        # A child that ``wait`` has seen no longer exists.
        with suppress(ProcessLookupError, ChildProcessError):
            each.kill()
            os.waitpid(each.pid, 0)


@pytest.fixture
def background(train_py_here: Callable[..., None], forked: Callable[..., Background]) -> Callable[..., Background]:
    """``background("-m", ...)`` starts ``train.py`` in a child and returns it."""
    return lambda *words: forked(lambda: train_py_here(*words))


class HeldSweep:
    """A sweep over ``seed`` on the cluster whose runs stop at a gate in their second epoch."""

    def __init__(self, folder: Path, gate: Path, start: Callable[..., Background]) -> None:
        self.folder, self.gate, self._start = folder, gate, start

    def start(self, seeds: str, *launcher: str, cluster: bool = True) -> Background:
        where = ("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=1") if cluster else ("hydra/launcher=basic",)
        return self._start("-m", *HELD, *where, *launcher, f"seed={seeds}", f"hydra.sweep.dir={self.folder}")

    def run(self, seed: int) -> Path:
        return next(self.folder.glob(f"*seed={seed}"))

    def held(self, *seeds: int) -> None:
        """Wait until the runs with these seeds are at the gate."""
        wait_until(lambda: all(any(self.gate.glob(f"*seed={seed}")) for seed in seeds))

    def pid(self, seed: int) -> int:
        """The process of a run at the gate; the gate forgets it."""
        (path,) = self.gate.glob(f"*seed={seed}")
        wait_until(lambda: path.read_text())
        return int(path.read_text())

    def leave(self, seed: int) -> None:
        """Forget that the run was at the gate."""
        for path in self.gate.glob(f"*seed={seed}"):
            path.unlink()

    def open(self) -> None:
        (self.gate / "open").touch()

    def job_ids(self) -> set[str]:
        return {path.name for path in (self.folder / ".submitit").iterdir() if path.name[0].isdigit()}


@pytest.fixture
def held_sweep(
    tmp_path: Path, background: Callable[..., Background], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., HeldSweep]:
    """``held_sweep()`` is a new sweep; its gate is closed until the test opens it."""

    def make() -> HeldSweep:
        gate = tmp_path / "gate"
        gate.mkdir()
        monkeypatch.setenv("GATE", str(gate))
        return HeldSweep(tmp_path / "sweep", gate, background)

    return make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, train_py_here: Callable[..., None]) -> Path:
    """The folder of the sweep over ``seed=0,1,2,3`` as the basic launcher runs it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    words = ("-m", *HELD, "hydra/launcher=basic", "seed=0,1,2,3", f"hydra.sweep.dir={folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIGITLAB_ALLOW", "fixtures")
        patch.delenv("GATE", raising=False)
        command = Background(lambda: train_py_here(*words))
    code, _, err = command.wait()
    assert (code, err) == (0, "")
    return folder
