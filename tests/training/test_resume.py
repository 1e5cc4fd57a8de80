"""A stopped and resumed run equals an uninterrupted one to the bit, and equal commands give equal bits."""

import json
import signal
from pathlib import Path

import pytest

from digitlab.core.errors import ConfigError, RunError
from digitlab.core.signals import Interrupted
from digitlab.results.checkpoint import read_checkpoint, write_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume

# Settings with state between steps: momentum, batch statistics, averaged weights, schedule, random draws.
STATEFUL = (
    "model=mlp_dropout",
    "model.hidden=[16,16]",
    "model.batch_norm=true",
    "augment=[shift,noise]",
    "optimizer=sgd",
    "optimizer.momentum=0.9",
    "ema.decay=0.9",
    "trainer.max_epochs=3",
)


@pytest.fixture
def interrupted(run, monkeypatch):
    """``interrupted(step, number, *overrides)`` stops a run in ``stopped/`` by a signal and returns its exit code."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("DIGITLAB_ALLOW", "run_callbacks")

    def stop(step, number, *overrides):
        callback = f"+callbacks.stop={{_target_: run_callbacks.SignalAt, step: {step}, number: {int(number)}}}"
        with pytest.raises(Interrupted) as stopped:
            run(*overrides, callback, name="stopped")
        return stopped.value.exit_code

    return stop


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    "optimizer", [pytest.param("adam", marks=pytest.mark.numerics), "adamw", "rmsprop", "adagrad", "muon"]
)
def test_two_runs_of_one_command_end_with_the_same_bits(run, same_bits, optimizer):
    overrides = ("model=lenet", f"optimizer={optimizer}", "augment=[affine]", "trainer.limit_train_batches=3")
    same_bits(run(*overrides), run(*overrides))


def test_the_seed_changes_the_weights_and_not_the_split(run):
    one, other = run("trainer.max_steps=1"), run("trainer.max_steps=1", "seed=1")
    assert one.result["split_fingerprint"] == other.result["split_fingerprint"]
    weights = [finished.checkpoint()["state_dict"]["network.output.weight"] for finished in (one, other)]
    assert not weights[0].equal(weights[1])


def test_the_split_seed_changes_the_split(run):
    one, other = run("trainer.max_steps=1"), run("trainer.max_steps=1", "data.split_seed=1")
    assert one.result["split_fingerprint"] != other.result["split_fingerprint"]


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "optimizer", ["optimizer.nesterov=true", "optimizer=rmsprop", "optimizer=adam", "optimizer=muon"]
)
def test_a_run_that_is_made_longer_equals_a_long_run(run, same_bits, optimizer):
    overrides = tuple(each for each in STATEFUL if not (each.startswith("optimizer") and optimizer == "optimizer=adam"))
    overrides = (*overrides, optimizer)
    whole = run(*overrides)
    run(*overrides, "trainer.max_epochs=1", name="parts")
    same_bits(whole, run(*overrides, name="parts", resume=True))


@pytest.mark.sample(6)
@pytest.mark.parametrize("step", [0, 5, 15, 16, 20, 40])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(run, same_bits, interrupted, step):
    overrides = (*STATEFUL, "scheduler=one_cycle", "trainer.chunk_length=4", "trainer.val_every_steps=10")
    assert interrupted(step, signal.SIGINT, *overrides) == 130
    same_bits(run(*overrides), run(*overrides, name="stopped", resume=True))


@pytest.mark.extra
def test_a_run_can_be_stopped_again_and_again(run, same_bits, interrupted):
    whole = run(*STATEFUL)
    assert interrupted(3, signal.SIGTERM, *STATEFUL) == 143
    run(*STATEFUL, "trainer.max_epochs=1", name="stopped", resume=True)
    run(*STATEFUL, "trainer.max_epochs=2", name="stopped", resume=True)
    same_bits(whole, run(*STATEFUL, name="stopped", resume=True))


def test_a_stopped_run_has_that_status_and_a_checkpoint_of_its_last_step(run, tmp_path, interrupted):
    interrupted(5, signal.SIGINT)
    folder = RunFolder(tmp_path / "stopped")
    assert folder.read_result()["status"] == "stopped"
    assert read_checkpoint(folder.last)["global_step"] == 6


@pytest.mark.extra
def test_a_signal_in_the_last_step_stops_the_run_before_its_test(run, interrupted, same_bits):
    overrides = ("test=best", "trainer.limit_test_batches=1")
    assert interrupted(31, signal.SIGINT, *overrides) == 130
    resumed = run(*overrides, name="stopped", resume=True)
    same_bits(resumed, run(*overrides))
    assert resumed.result["status"] == "finished"
    assert "test/accuracy" in resumed.result["metrics"]


def test_the_folder_remembers_a_new_length(shrunk, run_folder):
    folder = RunFolder(run_folder)
    folder.write_config(shrunk("trainer.max_epochs=1"), ["trainer.max_epochs=1", "seed=0"])
    assert resume(str(run_folder), ["trainer.max_epochs=2"]).result["epochs"] == 2
    with pytest.raises(ConfigError, match=r"^trainer.max_epochs=0: "):
        resume(str(run_folder), ["trainer.max_epochs=0"])
    assert folder.read_config() == shrunk("trainer.max_epochs=2")
    again = resume(str(run_folder), [])
    assert again.result["command"] == "python train.py seed=0 trainer.max_epochs=2"


def _finish(folder, config):
    """Train ``config`` to its end in ``folder``, and return all files of the run by their path."""
    RunFolder(folder).write_config(config, [])
    resume(str(folder), [])
    return _files(folder)


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.extra
def test_a_run_can_not_become_shorter_than_it_is(shrunk, run_folder, one_line):
    before = _finish(run_folder, shrunk("trainer.max_epochs=3"))
    with pytest.raises(ConfigError, match=r"^trainer.max_epochs=1: must be at least 3, because .* epoch 3$") as caught:
        resume(str(run_folder), ["trainer.max_epochs=1"])
    assert one_line(str(caught.value))
    assert caught.value.exit_code == 2
    assert _files(run_folder) == before


@pytest.mark.sample(3)
@pytest.mark.parametrize("scheduler", ["one_cycle", "linear", "cosine"])
def test_a_schedule_that_depends_on_the_length_refuses_a_new_one(shrunk, run_folder, one_line, scheduler):
    before = _finish(run_folder, shrunk("trainer.max_epochs=2", f"scheduler={scheduler}"))
    with pytest.raises(ConfigError, match=r"^trainer.max_epochs=4: must stay 2: the schedule ") as caught:
        resume(str(run_folder), ["trainer.max_epochs=4"])
    assert one_line(str(caught.value))
    assert _files(run_folder) == before


@pytest.mark.extra
def test_a_schedule_that_does_not_depend_on_the_length_continues(shrunk, run_folder):
    steps = ["scheduler=steps", "scheduler.milestones_epochs=[1,3]", "scheduler.warmup_epochs=0.5"]
    _finish(run_folder, shrunk("trainer.max_epochs=2", *steps))
    assert resume(str(run_folder), ["trainer.max_epochs=4"]).result["epochs"] == 4


def _as_one(groups):
    return [groups[0], groups[1] | {"params": [*groups[1]["params"], *groups[2]["params"]]}]


def _without_factor(groups):
    return [{name: value for name, value in group.items() if name != "lr_factor"} for group in groups]


@pytest.mark.parametrize("older", [_as_one, _without_factor])
def test_optimiser_state_in_other_groups_is_refused(run, older, one_line):
    overrides = ("optimizer=muon", "trainer.max_epochs=1")
    path = run(*overrides, name="stopped").folder.last
    checkpoint = read_checkpoint(path)
    (state,) = checkpoint["optimizer_states"]
    state["param_groups"] = older(state["param_groups"])
    write_checkpoint(path, checkpoint)
    with pytest.raises(RunError, match=r"last\.ckpt: an older version wrote it, with other parameters") as caught:
        run(*overrides, "trainer.max_epochs=2", name="stopped", resume=True)
    assert one_line(str(caught.value))


def test_a_run_does_not_continue_on_changed_images(run, one_line):
    path = run("trainer.max_epochs=1", name="stopped").folder.last
    checkpoint = read_checkpoint(path)
    checkpoint["hyper_parameters"]["data"]["fingerprint"] = "of other files"
    write_checkpoint(path, checkpoint)
    with pytest.raises(RunError, match=r"last\.ckpt: the files of the data set MNIST have changed") as caught:
        run("trainer.max_epochs=2", name="stopped", resume=True)
    assert one_line(str(caught.value))


def test_a_users_callback_continues_with_its_state(run, interrupted, tmp_path):
    record = f"+callbacks.record={{_target_: run_callbacks.EpochRecord, path: {tmp_path}/losses.json}}"
    whole = run(*STATEFUL, record)
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert losses == [pytest.approx(float(row["val/loss"])) for row in whole.rows()]
    (tmp_path / "losses.json").unlink()
    # In the second of three epochs, each of 16 updates.
    interrupted(20, signal.SIGTERM, *STATEFUL, record)
    assert not (tmp_path / "losses.json").exists()
    run(*STATEFUL, record, name="stopped", resume=True)
    assert json.loads((tmp_path / "losses.json").read_text()) == losses


def test_a_callback_whose_state_cannot_be_read_back_is_named(run, interrupted, tmp_path):
    record = f"+callbacks.record={{_target_: run_callbacks.EpochRecord, path: {tmp_path}/losses.json, plain: false}}"
    with pytest.raises(RunError, match="callbacks: the state of EpochRecord can't be saved"):
        run(record, "trainer.max_epochs=1")
