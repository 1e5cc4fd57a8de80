"""The content of a run's checkpoints, and the effect of precision on it."""

import tempfile
from pathlib import Path

import pytest
import torch

from digitlab.results.checkpoint import read_checkpoint
from digitlab.training import Classifier


def images(shape=(1, 28, 28)):
    return torch.randint(256, (20, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loaded(finished, which="last"):
    path = finished.folder.best if which == "best" else finished.folder.last
    return Classifier.load_from_checkpoint(path, weights_only=True, map_location="cpu").eval()


def plain(value):
    """Whether a value consists only of plain values and tensors."""
    if isinstance(value, dict):
        return type(value) is dict and all(plain(key) and plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


def test_a_users_callback_saves_checkpoints_atomically_too(run, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("DIGITLAB_ALLOW", "run_callbacks")
    # Lightning would first write the file here.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    path = tmp_path / "own" / "saved.ckpt"
    finished = run(f"+callbacks.save={{_target_: run_callbacks.SaveAtEnd, path: {path}}}", "trainer.max_steps=3")
    saved = read_checkpoint(path)
    assert saved["global_step"] == 3
    for name, tensor in finished.checkpoint()["state_dict"].items():
        assert torch.equal(saved["state_dict"][name], tensor)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.sample(4)
@pytest.mark.parametrize("overrides", [(), ("ema.decay=0.9", "model=cnn", "model.width=4", "augment=[shift,mixup]")])
def test_checkpoints_hold_plain_values_and_load_without_anything_else(run, overrides):
    finished = run(*overrides, "trainer.max_steps=3")
    for which in ("best", "last"):
        assert plain(finished.checkpoint(which))
        first, second = loaded(finished, which), loaded(finished, which)
        assert first.hparams == second.hparams
        assert torch.equal(first(images()), second(images()))
        assert first.state_dict().keys() == finished.checkpoint(which)["state_dict"].keys()


def test_every_tensor_of_a_double_precision_run_is_double(run):
    finished = run("trainer.precision=64", "loss=mse", "trainer.max_steps=2", "ema.decay=0.5", "augment=[shift]")
    state = finished.checkpoint()["state_dict"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float64}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "model", [("model=mlp", "model.hidden=[64]"), ("model=lenet", "model.dropout=0")], ids=["mlp", "lenet"]
)
def test_the_loss_falls_in_bf16_as_in_float32(run, model):
    # 60 mini-batches; the start is ln 10 = 2.3.
    sixty = ("data.train_size=1920", "data.batch_size=32", "trainer.max_epochs=1", "optimizer.lr=0.003")
    single, half = (
        float(run(*model, *sixty, f"trainer.precision={precision}").rows()[-1]["train/loss"])
        for precision in ("32", "bf16")
    )
    assert half == pytest.approx(single, rel=0.03)
    assert half < 1.3


def test_bf16_keeps_its_weights_in_float32(run):
    state = run("trainer.precision=bf16", "trainer.max_steps=2").checkpoint()["state_dict"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float32}
