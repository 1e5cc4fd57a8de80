"""Jobs that need no training on a real SLURM cluster: how they end, and what the command is told."""

import os
import signal
import threading

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.sweeps.workers.dispatch import run_jobs
from digitlab.sweeps.workers.slurm_queue import FORGOTTEN, array_size, read_states
from fixtures.waiting import HUNG_SECONDS, wait_until
from hydra_plugins.digitlab_workers import SubmititSlurmLauncher


@pytest.fixture
def pool(tmp_path, cluster):
    """``pool(cpus_per_task=1, ...)`` is the pool of ``hydra/launcher=submitit_slurm`` with these settings."""

    def make(**given):
        node = OmegaConf.load(CONF / "hydra" / "launcher" / "submitit_slurm.yaml")
        small = {"mem_gb": 1, "cpus_per_task": 1}
        launcher = SubmititSlurmLauncher(
            **{key: value for key, value in node.items() if key != "_target_"} | small | given
        )
        launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}})
        return launcher.pool()

    return make


@pytest.fixture
def running(pool):
    """``running(batches, ...)`` runs them in a thread; ``join`` of the thread waits for the returned outcomes."""
    threads = []

    def start(batches, **given):
        outcomes = {}
        made = pool(**given)

        def run():
            outcomes.update({batch.numbers[0]: outcome for batch, outcome in run_jobs(batches, made)})

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return threads[-1], outcomes

    yield start
    for thread in threads:
        thread.join(HUNG_SECONDS)


def test_jobs_at_the_same_time_have_different_gpus(batch, running, tmp_path):
    names = [str(tmp_path / f"started{number}") for number in range(2)]
    thread, outcomes = running(
        [batch("hold", name, number=number) for number, name in enumerate(names)],
        gpus_per_node=1, additional_parameters={"nodelist": "n1"},
    )  # fmt: skip
    wait_until(lambda: all(os.path.exists(name) for name in names))
    for name in names:
        open(f"{name}.go", "w").close()
    thread.join(HUNG_SECONDS)
    assert sorted(returns[0] for returns in outcomes.values()) == ["0", "1"]


def test_dead_jobs_are_reported_with_the_end_of_their_log(batch, running, pool, cluster, caplog):
    thread, outcomes = running([batch("die", number=0), batch("fail", number=1), batch("here", number=2)])
    thread.join(HUNG_SECONDS)
    assert all(isinstance(outcomes[number], RunError) for number in (0, 1))
    assert "died (FAILED)" in str(outcomes[0])
    assert "memory" not in str(outcomes[1])
    assert "ValueError: no such luck" in str(outcomes[1])
    assert all("\n" not in str(outcomes[number]) for number in (0, 1))
    assert outcomes[2][0]["OMP_NUM_THREADS"] == "1"
    assert caplog.text == "", "submitit asks sacct, which answers with a warning each time"


@pytest.mark.long
def test_a_job_that_has_reached_its_time_limit_too_often_is_reported(batch, running, cluster, tmp_path):
    saved, started = tmp_path / "saved", tmp_path / "started"
    thread, outcomes = running([batch("train", str(saved), str(started))], timeout_min=10, max_num_timeout=0)
    wait_until(started.exists)
    (job_id,) = cluster.states()
    cluster.ask("scancel", "--signal=USR2", job_id)
    thread.join(HUNG_SECONDS)
    assert saved.exists()
    assert "raise that or hydra.launcher.timeout_min" in str(outcomes[0])


def test_a_signal_saves_running_jobs_and_cancels_waiting_ones(batch, pool, cluster, signal_when, tmp_path):
    saved, started = ([tmp_path / f"{word}{run}" for run in range(3)] for word in ("saved", "started"))
    batches = [batch("train", str(saved[run]), str(started[run]), number=run) for run in range(3)]
    signal_when(signal.SIGINT, started[:2])
    with pytest.raises(Interrupted):
        list(run_jobs(batches, pool(array_parallelism=2)))
    assert [path.exists() for path in saved] == [True, True, False]
    assert set(cluster.states().values()) == {"CANCELLED"}


def test_more_jobs_than_an_array_may_have_are_several_arrays(batch, pool, cluster, monkeypatch):
    assert array_size() == 1000
    monkeypatch.setattr("digitlab.sweeps.workers.slurm_pool.array_size", lambda: 2)
    done = {
        batch.numbers[0]: outcome for batch, outcome in run_jobs([batch("here", number=n) for n in range(3)], pool())
    }
    assert sorted(done) == [0, 1, 2]
    assert sorted(name.partition("_")[2] for name in cluster.states()) == ["", "0", "1"]


@pytest.mark.parametrize("cluster", ["accounting"], indirect=True)
def test_accounting_knows_the_end_of_a_job_that_the_controller_has_forgotten(cluster):
    jobs = [
        cluster.ask("sbatch", "--parsable", "--output=/dev/null", f"--wrap={command}").strip()
        for command in ("true", "kill -9 $$")
    ]
    ends = dict(zip(jobs, ["COMPLETED", "FAILED"], strict=True))
    wait_until(lambda: read_states(jobs) == ends)
    wait_until(lambda: not cluster.states())
    assert read_states([*jobs, "999"]) == ends | {"999": FORGOTTEN}


def test_a_controller_that_does_not_answer_is_no_end(cluster, monkeypatch, tmp_path):
    nowhere = tmp_path / "slurm.conf"
    text = (cluster.folder / "slurm.conf").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("SlurmctldPort")]
    nowhere.write_text("\n".join([*lines, "MessageTimeout=2", ""]))
    monkeypatch.setenv("SLURM_CONF", str(nowhere))
    assert read_states(["1"]) is None
