"""Real SLURM clusters for the tests of this folder, commands in the background, and sweeps held at a gate."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fixtures.children import Child, killed_at_end
from fixtures.gate import HELD
from fixtures.held_sweep import HeldSweep
from fixtures.slurm import Cluster, missing_accounting, missing_slurm, running_cluster

TESTS = Path(__file__).parents[1]

# ``plain`` has SLURM's defaults. ``accounting`` knows the ends of jobs that the controller has forgotten, which it does
# after two seconds, and sends the signal of the time limit to jobs that it preempts.
_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accounting": {"accounting": True, "more": "SlurmctldParameters=preempt_send_user_signal\nMinJobAge=2\n"},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Each process of the tests starts a plain cluster of its own, which takes seconds. The one with accounting needs a
    # database and takes longer, so one process runs all tests with it.
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("cluster") == "accounting":
            item.add_marker(pytest.mark.xdist_group("accounting"))


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[str], Cluster]]:
    """``clusters("plain")`` is the cluster of this kind; it starts with the first test that needs it."""
    with ExitStack() as stack:
        running: dict[str, Cluster] = {}

        def get(kind: str) -> Cluster:
            if reason := missing_slurm() or (missing_accounting() if kind == "accounting" else None):
                pytest.skip(f"no SLURM cluster: {reason}")
            pytest.importorskip("submitit")
            if kind not in running:
                running[kind] = stack.enter_context(running_cluster(**_KINDS[kind]))
            return running[kind]

        yield get


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, clusters: Callable[[str], Cluster], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """A shared cluster, used by this process and the commands that it starts; no job is left afterwards.

    Its kind is ``plain`` unless the test gives another one as the parameter of this fixture.
    """
    shared = clusters(getattr(request, "param", "plain"))
    for name, value in shared.environment.items():
        monkeypatch.setenv(name, value)
    # The jobs inherit these: the sources under test, and the callback that holds runs.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DIGITLAB_ALLOW", "fixtures")
    shared.hide_jobs()
    yield shared
    shared.cancel_all()
    shared.return_nodes()


@pytest.fixture
def forked() -> Iterator[Callable[..., Child]]:
    """``forked(act)`` calls ``act`` in a child at once and returns the child; it is killed after the test."""
    with killed_at_end() as started:

        def start(act: Callable[[], object]) -> Child:
            # Much memory: SLURM gives the limits of the command to its jobs.
            started.append(Child(act, more_bytes=1 << 40))
            return started[-1]

        yield start


@pytest.fixture
def background(train_py_here: Callable[..., None], forked: Callable[..., Child]) -> Callable[..., Child]:
    """``background("-m", ...)`` starts ``train.py`` in a child and returns it."""
    return lambda *words: forked(lambda: train_py_here(*words))


@pytest.fixture
def held_sweep(tmp_path: Path, background: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> HeldSweep:
    """A new sweep on the cluster; its gate is closed until the test opens it."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("GATE", str(gate))
    return HeldSweep(tmp_path / "sweep", gate, background)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, train_py_here: Callable[..., None]) -> Path:
    """The folder of the sweep over ``seed=0,1,2`` as the basic launcher runs it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    words = ("-m", *HELD, "hydra/launcher=basic", "seed=0,1,2", f"hydra.sweep.dir={folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIGITLAB_ALLOW", "fixtures")
        patch.delenv("GATE", raising=False)
        ended = Child(lambda: train_py_here(*words)).wait()
    assert (ended.code, ended.stderr) == (0, "")
    return folder
