"""Solo runs on the pretended device: every kind of update, evaluation, test, figures and resuming, without a GPU.

They equal runs on the CPU up to rounding, and the host does not wait for the device within a chunk.
``test_on_device.py`` runs this module in a process of its own.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from digitlab.config.compose import compose
from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.figures.gallery import FIGURES
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.classifier import Classifier
from digitlab.training.settings import TrainerSettings
from fixtures.pretended_device import DEVICE, NAME, watched

_SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2", "early_stopping=null", "data.train_size=160",
    "data.val_size=50", "data.batch_size=20", "trainer.chunk_length=4", "trainer.limit_test_batches=2", "test=none",
)  # fmt: skip


class PretendedAccelerator(Accelerator):
    """The methods that Lightning requires of an accelerator."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return NAME


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``run("model=lenet", ..., pretended=True)`` trains on the pretended device, else on the CPU; the last checkpoint.

    ``folder`` names where it writes, a new one by default.
    """
    names = map(str, itertools.count())
    lightning = TrainerSettings.lightning

    def on_device(settings: TrainerSettings) -> dict[str, Any]:
        return lightning(settings) | {
            "accelerator": PretendedAccelerator(), "strategy": SingleDeviceStrategy(device=DEVICE)
        }  # fmt: skip

    def trained(
        *overrides: str, pretended: bool, folder: str | None = None, resume: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        path = tmp_path / (folder or next(names))
        with monkeypatch.context() as patch:
            if pretended:
                patch.setattr(TrainerSettings, "lightning", on_device)
            outcome = train(compose([*_SMALL, *overrides]), folder=path, overrides=overrides, resume=resume)
        assert outcome.result["hardware"]["device"] == (NAME if pretended else "cpu")
        return read_checkpoint(RunFolder(path).last), outcome.result

    return trained


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], list[Counter[str]]]:
    """``waits(cls, name)`` counts where the host waits in each call of that method."""

    def watch(cls: type, name: str) -> list[Counter[str]]:
        method, found = getattr(cls, name), []

        def counted(*arguments: Any, **named: Any) -> Any:
            with watched() as counter:
                result = method(*arguments, **named)
            found.append(counter)
            return result

        monkeypatch.setattr(cls, name, counted)
        return found

    return watch


def _assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, tensor in one["state_dict"].items():
        # Clipping adds up in another order where torch does not know the device.
        torch.testing.assert_close(tensor, other["state_dict"][name], rtol=1e-8, atol=1e-10)
    for own, others in zip(one["train_counts"], other["train_counts"], strict=True):
        assert torch.equal(own["confusion"], others["confusion"])
    assert one["metrics"] == pytest.approx(other["metrics"])


def _reads(counters: list[Counter[str]]) -> list[str]:
    return [name for counter in counters for name in counter if name.startswith("read")]


RUNS = (
    "optimizer=sgd loss=mse",
    "model=mlp_dropout model.hidden=[16] scheduler=one_cycle ema.decay=0.99 trainer.gradient_clip_norm=1",
    "model=linear optimizer=adamw augment=[shift,affine,cutout,mixup,flip,noise]",
    "model=cnn model.width=2 optimizer=muon optimizer.normalize_filters=true optimizer.weight_decay=0.1",
)


@pytest.mark.parametrize("overrides", RUNS)
def test_an_eager_run_equals_that_on_the_cpu_and_a_chunk_does_not_wait_for_the_device(
    run: Callable[..., Any], waits: Callable[..., list[Counter[str]]], overrides: str
) -> None:
    options = (*overrides.split(), "compile=false", "trainer.cuda_graphs=false", "trainer.precision=64")
    expected, _ = run(*options, pretended=False)
    chunks, evaluations = waits(ChunkRunner, "_run_chunk"), waits(Classifier, "_evaluate")
    found, _ = run(*options, pretended=True)
    _assert_same(found, expected)
    assert len(chunks) == 4
    assert len(evaluations) == 2
    assert not _reads(chunks)
    assert not _reads(evaluations)


@pytest.mark.parametrize("overrides", RUNS)
def test_captured_updates_equal_eager_ones_and_a_chunk_does_not_wait_for_the_device(
    run: Callable[..., Any], captured: list[str], waits: Callable[..., list[Counter[str]]], overrides: str
) -> None:
    options = (*overrides.split(), "trainer.precision=64", "trainer.chunk_length=8")
    expected, _ = run(*options, "trainer.cuda_graphs=false", pretended=False)
    chunks = waits(ChunkRunner, "_run_chunk")
    found, _ = run(*options, pretended=True)
    assert captured
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=1e-8, atol=1e-10)
    # The first chunk captures the graph and compares its trial replay.
    assert len(chunks) == 2
    assert not _reads(chunks[1:])


def test_a_run_resumed_within_an_epoch_ends_like_an_uninterrupted_one(
    run: Callable[..., Any], interrupting: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("model=mlp", "model.hidden=[16]", "optimizer=adam")
    expected, _ = run(*options, pretended=True)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkRunner, "_run_chunk", interrupting(ChunkRunner._run_chunk, at=4))
        with pytest.raises(Interrupted):
            run(*options, pretended=True, folder="resumed")
    found, _ = run(*options, pretended=True, folder="resumed", resume=True)
    _assert_same(found, expected)


def test_a_diverging_run_fails_as_on_the_cpu(run: Callable[..., Any]) -> None:
    options = ("model=linear", "optimizer=sgd", "optimizer.lr=1e38", "loss=mse", "loss.output=raw")
    errors = []
    for pretended in (False, True):
        with pytest.raises(RunError) as error:
            run(*options, pretended=pretended)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw only one figure of images, layers, weights and scores each: all figures take a minute."""
    chosen = "images_random", "network_layers", "weights_filters", "confusion_matrix"
    for name in FIGURES.keys() - set(chosen):
        monkeypatch.delitem(FIGURES, name)


@pytest.mark.usefixtures("few_pictures")
def test_test_metrics_and_figures_equal_those_on_the_cpu(run: Callable[..., Any]) -> None:
    options = ("model=lenet", "test=best", "figures.each_epoch=true", "trainer.max_epochs=1")
    (_, expected), (_, found) = (run(*options, pretended=pretended) for pretended in (False, True))
    assert found["metrics"] == expected["metrics"]
    assert "test/calibration_error" in found["metrics"]
