"""Two processes never use one run folder at the same time, and a killed process releases it."""

import signal
import time

import pytest

from digitlab.population.job import Job
from digitlab.population.train import train_together
from digitlab.results.folder import RunFolder
from digitlab.results.lock import BusyError, locked_folder
from digitlab.training.experiment import Experiment
from digitlab.training.resuming import resume
from fixtures.children import Child


@pytest.fixture
def other(tmp_path):
    """``other(run)`` starts another process that holds the folder of a run."""
    holders = []

    def hold(run):
        holding = tmp_path / "holding"

        def act():
            with locked_folder(run):
                holding.touch()
                time.sleep(600)

        holders.append(Child(act))
        while not holding.exists():
            assert holders[-1].running(), holders[-1].wait()
            time.sleep(0.005)
        return holders[-1]

    yield hold
    for holder in holders:
        if holder.running():
            holder.send_signal(signal.SIGKILL)
            holder.wait()


def test_a_second_process_is_refused_until_the_first_one_ends(ready, other, tmp_path, one_line):
    run = ready(tmp_path / "run", "trainer.max_epochs=1")
    first = other(run)
    config = run.config.read_bytes()
    with pytest.raises(BusyError, match="another process is working on this run") as caught:
        resume(str(run.path), ["trainer.max_epochs=2"])
    assert one_line(str(caught.value))
    assert run.config.read_bytes() == config
    assert sorted(path.name for path in run.path.iterdir()) == [".hydra", ".lock"]
    first.send_signal(signal.SIGKILL)
    first.wait()
    resume(str(run.path), [])
    assert run.read_result()["status"] == "finished"
    assert not run.lock.exists()


def test_temporary_files_of_a_killed_process_are_removed(run_folder):
    run = RunFolder(run_folder)
    parts = [run.path / ".result.json.7.tmp", run.last.parent / ".last.ckpt.7.tmp"]
    for part in parts:
        part.parent.mkdir(exist_ok=True, parents=True)
        part.touch()
    with locked_folder(run):
        assert not any(part.exists() for part in parts)


@pytest.mark.extra
def test_only_the_member_held_by_another_process_fails(ready, other, tmp_path):
    jobs = []
    for seed in range(3):
        run = ready(tmp_path / str(seed), "trainer.max_epochs=1", f"seed={seed}")
        config = run.read_config()
        experiment = Experiment.from_config(config, typed=[])
        jobs.append(Job(number=seed, config=config, experiment=experiment, folder=run, overrides=[]))
    other(jobs[1].folder)
    ended = {job.number: error for job, error in train_together(jobs)}
    assert ended[0] is None
    assert isinstance(ended[1], BusyError)
    assert ended[2] is None
    assert [job.folder.result.exists() for job in jobs] == [True, False, True]
    assert not jobs[0].folder.lock.exists()
