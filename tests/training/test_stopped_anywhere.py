"""A run that is stopped anywhere and resumed leaves the same files as an uninterrupted one, to the bit."""

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, open_dict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.core.signals import Interrupted
from digitlab.data.chunks import Position
from digitlab.engine import aot_cache as compiling
from digitlab.engine.fused_calls import FusedCalls
from digitlab.engine.fused_update import Inputs
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.classifier import Classifier

STEPS_PER_EPOCH, EPOCHS = 5, 2
# Of 48 images for training the last mini-batch holds 8.
SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    f"trainer.max_epochs={EPOCHS}",
    "trainer.log_every_steps=2",
    "data.val_size=20",
    "data.batch_size=10",
    "early_stopping.patience=1",
    "figures.log_batches=true",
)
# Hooks on layers prevent compiling.
UNWATCHED = ("figures.log_batches=false",)
MODELS = {
    "linear": (),
    "mlp": ("model.hidden=[8]", "model.batch_norm=true"),
    "mlp_dropout": ("model.hidden=[8,8]",),
    "lenet": ("model.dropout=0.5",),
    "cnn": ("model.width=4",),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The node of a data set of 68 and 20 random images, for very short runs."""
    folder, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    files = {}
    for part, count in (("train", 68), ("test", 20)):
        contents = {
            "images": torch.randint(256, (count, 28, 28), generator=generator, dtype=torch.uint8),
            "labels": torch.arange(count, dtype=torch.uint8) % 3,
        }
        for kind, values in contents.items():
            header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
            path = folder / f"{part}-{kind}"
            path.write_bytes(header + values.numpy().tobytes())
            files[f"{part}_{kind}"] = str(path)
    return {"_target_": "digitlab.data.sources.IdxSource", "name": "noise", "class_names": ["a", "b", "c"], **files}


@pytest.fixture
def configured(source: dict[str, object]) -> Callable[..., DictConfig]:
    """``configured("model=mlp", ...)`` is a configuration on that data set."""

    def compose_small(*overrides: str) -> DictConfig:
        config = compose([*SMALL, *overrides])
        with open_dict(config):
            config.data.source = source
        return config

    return compose_small


def stopped_at(config: DictConfig, folder: Path, *, step: int) -> bool:
    """Resume the run and send a signal in update ``step`` of the whole run; return whether the run got there."""
    advance = Position.advance

    inputs, signals = FusedCalls.inputs, iter([signal.SIGTERM])

    def stop() -> None:
        # Once: a second signal would end the process.
        for number in signals:
            os.kill(os.getpid(), number)

    def advance_and_stop(position: Position, steps: int = 1) -> None:
        advance(position, steps)
        if position.total_steps == step:
            stop()

    def begin_call_and_stop(calls: FusedCalls, streams: Any, first: int, rates: Tensor, *arguments: Any) -> Inputs:
        if first < step <= first + rates.shape[1]:
            stop()
        return inputs(calls, streams, first, rates, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Position, "advance", advance_and_stop)
        patch.setattr(FusedCalls, "inputs", begin_call_and_stop)
        try:
            train(config, folder=folder, overrides=[], resume=True)
        except Interrupted:
            return True
    return False


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("model=mlp_dropout", "model.hidden=[8]", "ema.decay=0.9", "augment=[shift]"), id="epochs"),
        pytest.param(("model=mlp", "model.hidden=[8]", "trainer.val_every_steps=2"), id="validation inside epochs"),
        pytest.param(("model=linear", "data.val_size=0", "figures.each_epoch=true"), id="no validation"),
    ],
)
def test_a_run_stopped_at_any_step_equals_an_uninterrupted_one(configured, remains, torture, tmp_path, overrides):
    config = configured(*overrides, "scheduler=one_cycle", "early_stopping=null")
    train(config, folder=tmp_path / "alone", overrides=[])
    steps = range(1, EPOCHS * (STEPS_PER_EPOCH + 2 * ("data.val_size=0" in overrides)) + 1)
    stops = [stopped_at(config, tmp_path / "stopped", step=step) for step in (steps if torture else steps[1::3])]
    assert all(stops)
    train(config, folder=tmp_path / "stopped", overrides=[], resume=True)
    assert remains(tmp_path / "stopped") == remains(tmp_path / "alone")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("model=mlp_dropout", "model.hidden=[8]", "ema.decay=0.9", "augment=[shift]"), id="epochs"),
        pytest.param(("model=mlp", "model.hidden=[8]", "trainer.val_every_steps=3"), id="validation inside calls"),
    ],
)
def test_a_run_stopped_between_two_compiled_calls_equals_an_uninterrupted_one(
    configured, remains, tmp_path, monkeypatch, uncompiled, overrides
):
    monkeypatch.setattr(compiling, "_STEPS_OF_SMALL_NETWORKS", 2)
    config = configured(*overrides, "compile=true", "scheduler=one_cycle", "early_stopping=null", *UNWATCHED)
    train(config, folder=tmp_path / "alone", overrides=[])
    calls = len(uncompiled)
    stops, step = 0, 1
    while stopped_at(config, tmp_path / "stopped", step=step):
        # A call makes two updates: a signal in the first one takes effect after the second.
        stops, step = stops + 1, read_checkpoint(RunFolder(tmp_path / "stopped").last)["global_step"] + 1
    assert stops >= EPOCHS * 3
    assert len(uncompiled) == 2 * calls > 0
    assert remains(tmp_path / "stopped") == remains(tmp_path / "alone")


def test_tensorboard_shows_every_event_of_a_resumed_run_once(configured, tmp_path):
    config = configured("model=linear")
    assert stopped_at(config, tmp_path, step=3)
    train(config, folder=tmp_path, overrides=[], resume=True)
    reader = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in reader.Scalars("loss_step")] == [2, 4, 6, 8, 10]


def test_a_signal_in_a_validation_stops_the_run_after_it(configured, remains, tmp_path, monkeypatch):
    config = configured("model=linear", "trainer.val_every_steps=3")
    train(config, folder=tmp_path / "alone", overrides=[])
    step, stops = Classifier.validation_step, iter([True])

    def validate_and_stop(classifier, batch, batch_idx):
        if next(stops, False):
            os.kill(os.getpid(), signal.SIGTERM)
        step(classifier, batch, batch_idx)

    monkeypatch.setattr(Classifier, "validation_step", validate_and_stop)
    with pytest.raises(Interrupted):
        train(config, folder=tmp_path / "stopped", overrides=[])
    reader = EventAccumulator(str(tmp_path / "stopped" / "val")).Reload()
    assert [event.step for event in reader.Scalars("loss")] == [3]
    train(config, folder=tmp_path / "stopped", overrides=[], resume=True)
    assert remains(tmp_path / "stopped") == remains(tmp_path / "alone")


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_beginning(configured, remains, tmp_path, monkeypatch):
    config = configured("model=linear")
    train(config, folder=tmp_path / "alone", overrides=[])

    def kill(position):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Position, "next_epoch", kill)
        with pytest.raises(SystemExit):
            train(config, folder=tmp_path / "killed", overrides=[])
    assert (tmp_path / "killed" / "metrics.csv").exists()
    train(config, folder=tmp_path / "killed", overrides=[], resume=True)
    assert remains(tmp_path / "killed") == remains(tmp_path / "alone")


def test_a_long_epoch_is_saved_inside_and_resumed_there(configured, remains, tmp_path, monkeypatch):
    config = configured("model=linear", "checkpoint.every_minutes=1e-9", "trainer.chunk_length=1")
    train(config, folder=tmp_path / "alone", overrides=[])
    advance = Position.advance

    def advance_or_die(position):
        advance(position)
        if position.total_steps == 8:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Position, "advance", advance_or_die)
        with pytest.raises(SystemExit):
            train(config, folder=tmp_path / "killed", overrides=[])
    assert read_checkpoint(RunFolder(tmp_path / "killed").last)["position"] == {"epoch": 1, "step": 2, "total_steps": 7}
    train(config, folder=tmp_path / "killed", overrides=[], resume=True)
    assert remains(tmp_path / "killed") == remains(tmp_path / "alone")


@pytest.mark.extra
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(list(MODELS)),
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "rmsprop", "adagrad"]),
    scheduler=st.sampled_from(["constant", "steps", "cosine", "one_cycle"]),
    augment=st.sampled_from(["none", "[shift,flip]", "[affine,mixup]", "[elastic,blur,noise,cutout]"]),
    ema=st.sampled_from(["null", "0.9"]),
    whole=st.booleans(),
    stops=st.lists(st.integers(1, EPOCHS * STEPS_PER_EPOCH), min_size=1, max_size=2, unique=True).map(sorted),
)
def test_every_kind_of_run_can_be_stopped_and_resumed(
    configured, remains, tmp_path_factory, uncompiled, model, optimizer, scheduler, augment, ema, whole, stops
):
    folder = tmp_path_factory.mktemp("runs")
    config = configured(
        f"model={model}", *MODELS[model], f"optimizer={optimizer}", f"augment={augment}", f"ema.decay={ema}",
        f"scheduler={scheduler}", "scheduler.warmup_epochs=1", *(("compile=true", *UNWATCHED) if whole else ()),
    )  # fmt: skip
    train(config, folder=folder / "alone", overrides=[])
    for step in stops:
        stopped_at(config, folder / "stopped", step=step)
    train(config, folder=folder / "stopped", overrides=[], resume=True)
    assert remains(folder / "stopped") == remains(folder / "alone")
