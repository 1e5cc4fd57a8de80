"""``resume=auto`` finds the newest run of the same configuration that can be resumed, and no other run.

If ``resume=FOLDER`` gives a wrong folder, the message names the run that the user probably means.
"""

import json
import os

import pytest

from digitlab.api import resume_folder
from digitlab.api.auto_resume import find_resume_target
from digitlab.config import compose as config
from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.results import run_hints
from digitlab.results.checkpoint import write_checkpoint
from digitlab.results.folder import RunFolder

TYPED = ("model=linear", "optimizer.lr=0.1")


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """``begun("a", "seed=1", ...)`` makes a run of that configuration with a checkpoint, newer than all before."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    runs = []

    def begin(name, *typed, saved=True):
        run = RunFolder(tmp_path / "outputs" / "mnist-linear" / name)
        run.write_config(compose(typed), typed)
        runs.append(run)
        os.utime(run.config.parent, (len(runs), len(runs)))
        if saved:
            for epoch in (1, 2):
                write_checkpoint(run.last, {"state_dict": {}, "epoch": epoch}, keep=run.previous)
        return run

    return begin


def test_without_a_matching_run_the_command_starts_a_new_one(begun):
    found = find_resume_target([*TYPED, "resume=auto"])
    assert (found.run, found.arguments) == (None, list(TYPED))


def test_the_newest_run_of_the_same_configuration_is_found(begun):
    # Runs are ordered by their start, not by their names.
    begun("c", *TYPED)
    newest = begun("a", "optimizer.lr=1e-1", "model=linear", "trainer.chunk_length=7")
    begun("b", *TYPED, "seed=1")
    assert find_resume_target(["resume=auto", *TYPED]).run == newest


def test_runs_without_a_usable_checkpoint_are_skipped(begun):
    older = begun("a", *TYPED)
    begun("b", *TYPED, saved=False)
    damaged = begun("c", *TYPED)
    damaged.last.write_bytes(damaged.last.read_bytes()[:100])
    assert find_resume_target(TYPED).run == damaged, "the checkpoint before the last is good"
    damaged.previous.write_bytes(b"")
    assert find_resume_target(TYPED).run == older


def test_a_finished_run_is_found_and_marked_as_finished(begun):
    begun("a", *TYPED)
    assert not find_resume_target(TYPED).finished
    finished = begun("b", *TYPED)
    finished.result.write_text(json.dumps({"status": "finished"}))
    found = find_resume_target(TYPED)
    assert (found.run, found.finished) == (finished, True)


def test_a_named_folder_is_resumed_or_refused_with_the_differences(begun):
    run = begun("a", *TYPED, "augment=[shift]", saved=False)
    named = f"hydra.run.dir={run.path}"
    assert find_resume_target([*TYPED, "augment=[shift]", named]).run == run
    with pytest.raises(ConfigError) as refused:
        find_resume_target(["model=linear", "optimizer.lr=0.2", "trainer.max_epochs=7", "resume=auto", named])
    for difference in (
        "optimizer.lr: 0.1 -> 0.2",
        "trainer.max_epochs: 20 -> 7",
        "augment.shift.padding: 4 -> nothing",
    ):
        assert difference in str(refused.value)
    assert find_resume_target([*TYPED, f"hydra.run.dir={run.path / 'other'}"]).run is None


@pytest.mark.parametrize("argument", ["-m", "--cfg=job"])
def test_a_sweep_is_rejected(begun, argument):
    with pytest.raises(ConfigError, match=f"^resume=auto: can't be combined with {argument}"):
        find_resume_target([*TYPED, "resume=auto", argument])


def test_a_wrong_folder_gives_the_run_that_is_meant(begun, tmp_path, monkeypatch):
    monkeypatch.setattr(run_hints, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    begun("10-00", *TYPED)
    newest = begun("11-00", *TYPED)
    resume_folder.check_resume_folder(str(newest.path))
    with pytest.raises(ConfigError, match=r"the most similar run folder is outputs/mnist-linear/11-00$"):
        resume_folder.check_resume_folder("outputs/mnist-linear/11-0")
    with pytest.raises(ConfigError, match=r"its newest run is outputs/mnist-linear/11-00$"):
        resume_folder.check_resume_folder("outputs/mnist-linear")
