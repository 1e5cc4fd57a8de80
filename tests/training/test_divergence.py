"""If a number is not finite, the run stops before that update, and the weights before it remain."""

import math
from importlib import import_module
from pathlib import Path

import pytest
import torch

from digitlab.core.errors import RunError
from digitlab.engine.eager import TrainStep
from digitlab.engine.rollback import Rollback
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.early_stopping import Monitor

STEPS_PER_EPOCH = 16
SURVIVOR = "+callbacks.survivor={_target_:pitfalls.Survivor}"
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")


@pytest.fixture
def survivor(monkeypatch):
    """The network in memory after a failed run. The classes of ``pitfalls`` are allowed in configurations."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("DIGITLAB_ALLOW", "pitfalls")
    weights = import_module("pitfalls").Survivor.weights
    weights.clear()
    return weights


def pitfall(at_step, height="null"):
    network = ("model=linear", "model._target_=pitfalls.Cliff", "~model.init", "~model.init_scale")
    return (*network, f"+model.at_step={at_step}", f"+model.height={height}", SURVIVOR)


def same(one, other):
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.fixture(params=["cpu", "gpu"])
def as_on(request, monkeypatch):
    """Make a run on the CPU behave as on the given device: on a GPU no step waits for the loss."""
    if request.param == "gpu":
        make = TrainStep.__init__
        monkeypatch.setattr(
            TrainStep, "__init__", lambda self, spec, **given: make(self, spec, **given | {"read_losses": False})
        )


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("at_step", "length", "options"),
    [
        (1, 32, ("optimizer=adam", "ema.decay=0.9")),
        (20, 1, ("optimizer=sgd",)),
        (20, 3, ("optimizer=sgd", "optimizer.momentum=0.9", "ema.decay=0.9")),
        (20, 32, ("optimizer=adamw", "trainer.gradient_clip_norm=1", "augment=[shift]")),
        (32, 32, ("optimizer=rmsprop",)),
    ],
)
def test_a_gradient_that_is_not_finite_stops_before_its_update(
    run, tmp_path, survivor, as_on, at_step, length, options
):
    options = (*options, f"trainer.chunk_length={length}", *pitfall(at_step))
    epoch = (at_step - 1) // STEPS_PER_EPOCH + 1
    with pytest.raises(RunError, match=rf"^the gradient.* at epoch {epoch}, step {at_step} \(learning rate [\d.]+\): "):
        run(*options, name="failed")
    failed = RunFolder(tmp_path / "failed")
    assert failed.read_result()["status"] == "failed"
    assert all(tensor.isfinite().all() for tensor in survivor.values())
    if epoch == 2:
        before = run(*options, f"trainer.max_steps={at_step - 1}").checkpoint()["state_dict"]
        assert same(survivor, before)
        kept = run(*options, "trainer.max_epochs=1")
        for which in ("best", "last"):
            left = read_checkpoint(failed.best if which == "best" else failed.last)
            assert same(left["state_dict"], kept.checkpoint(which)["state_dict"])


def test_a_gradient_that_is_not_finite_in_a_compiled_call_stops_before_its_update(run, survivor, uncompiled):
    # Calls have 8 updates. The call before the faulty one, and the updates before the faulty one, are repeated.
    options = ("compile=true", "optimizer=adam", "ema.decay=0.9", "trainer.chunk_length=16", "data.train_size=1280")
    with pytest.raises(RunError, match=r"^the gradient.* at epoch 2, step 32 "):
        run(*options, *pitfall(32))
    assert uncompiled == [8] * 6
    assert same(survivor, run(*options, *pitfall(32), "trainer.max_steps=31").checkpoint()["state_dict"])


@pytest.mark.sample(3)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_too_large_to_be_squared_stops_where_it_is_clipped_or_squared(run, survivor, optimizer):
    options = (f"optimizer={optimizer}", "optimizer.lr=1e-30", *pitfall(7, height=1e25))
    with pytest.raises(RunError, match=r"the gradient.* epoch 1, step 7 "):
        run(*options, "trainer.gradient_clip_norm=1")
    if optimizer == "sgd":
        assert run(*options).result["status"] == "finished"
    else:
        # Otherwise its second moment would be infinite and the weight would never change again.
        with pytest.raises(RunError, match=r"the gradient.* epoch 1, step 7 "):
            run(*options)


def test_overflowing_weights_are_rolled_back(run, survivor):
    # The learning rate is a finite float64, but infinite as a float32.
    with pytest.raises(RunError, match="the update it leads to, is not finite at epoch 1, step 1 "):
        run("optimizer=sgd", "optimizer.lr=1e39", SURVIVOR)
    assert all(tensor.isfinite().all() for tensor in survivor.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_entry_that_is_not_finite_is_found_and_rolled_back(value, dtype):
    tensors = [torch.zeros(3, 2, 2, dtype=dtype), torch.ones(3, dtype=torch.int64), torch.full((3,), 3e38, dtype=dtype)]
    rollback = Rollback(lambda: tensors)
    rollback.save()
    tensors[1] += 1
    assert rollback.finite()
    tensors[0][1, 0, 1] = value
    tensors[2][2] = 1.0
    assert not rollback.finite()
    assert rollback.finite_members().tolist() == [True, False, True]
    rollback.rollback(1)
    assert rollback.finite()
    assert (tensors[0].tolist(), tensors[1].tolist()) == (torch.zeros(3, 2, 2).tolist(), [2, 1, 2])
    assert tensors[2][2] == 1
    rollback.rollback()
    assert tensors[1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_the_best(mode, value):
    monitor = Monitor(metric="val/loss", mode=mode)
    assert not monitor.better(value, monitor.worst)
    assert not monitor.better(value, 0.5)
