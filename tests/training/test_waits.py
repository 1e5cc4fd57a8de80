"""Within a chunk, and within an evaluation, the host must not wait for a GPU. These tests count such waits.

On CUDA the host waits for every number that it reads, for every result whose size it must know, and for every copy of
a tensor that it has made itself, for example from a list.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.data.evaluation import EvaluationBatch
from digitlab.engine import metrics
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.engine.cuda_graph import GraphCapture
from digitlab.engine.stacked_runner import StackedRunner as Population
from digitlab.training import classifier

Stacked = Callable[..., tuple[Population, list[Chunk]]]
aten = torch.ops.aten
_READS = {
    aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.bincount, aten.masked_select,
    aten._unique2,
}  # fmt: skip
_COPIES = {aten.lift_fresh, aten.lift_fresh_copy}


class Waits(TorchDispatchMode):
    """Counts the operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        packet = function.overloadpacket
        if packet in _READS | _COPIES:
            self.found["copies" if packet in _COPIES else str(packet)] += 1
        return function(*arguments, **(named or {}))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are read once per chunk, as on a GPU, and one_hot does not check the number of classes."""
    for module in (classifier, metrics):
        monkeypatch.setattr(module, "reads_at_once", lambda device: False)

    def one_hot(labels: Tensor, classes: int) -> Tensor:
        return labels.new_zeros(*labels.shape, classes).scatter_(-1, labels.unsqueeze(-1), 1)

    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], list[Counter[str]]]:
    """``waits(cls, name)`` counts the waits in each call of that method."""

    def watch(cls: type, name: str) -> list[Counter[str]]:
        method, found = getattr(cls, name), []

        def watched(*arguments: Any, **named: Any) -> Any:
            with Waits() as mode:
                result = method(*arguments, **named)
            found.append(mode.found)
            return result

        monkeypatch.setattr(cls, name, watched)
        return found

    return watch


RUNS = (
    "optimizer=sgd loss=mse",
    "model=mlp_dropout model.hidden=[16] scheduler=one_cycle ema.decay=0.99 trainer.gradient_clip_norm=1",
    "model=linear optimizer=rmsprop augment=[shift,affine,elastic,cutout,mixup,flip,noise,blur,pen]",
    "optimizer=muon optimizer.normalize_filters=true optimizer.weight_decay=0.1 scheduler=linear",
    "model=cnn model.width=2 optimizer=adagrad trainer.precision=bf16",
)


@pytest.mark.sample(16)
@pytest.mark.parametrize("overrides", RUNS)
@pytest.mark.parametrize("capturing", [True, False])
def test_a_chunk_of_a_run_does_not_wait_for_the_device(
    run: Callable[..., Any],
    waits: Callable[..., list[Counter[str]]],
    captured: list[str],
    overrides: str,
    capturing: bool,
) -> None:
    found = waits(ChunkRunner, "_run_chunk")
    run(
        *overrides.split(), f"trainer.cuda_graphs={capturing}", "data.train_size=160", "data.batch_size=20",
        "trainer.chunk_length=8", "trainer.max_epochs=2",
    )  # fmt: skip
    assert bool(captured) == capturing
    # The first chunk captures the graph and creates the optimizer state. Each chunk copies its learning rates.
    assert len(found) == 2
    assert all(each <= Counter(copies=2) for each in found[1:])


def test_an_evaluation_does_not_wait_for_the_device(
    run: Callable[..., Any], waits: Callable[..., list[Counter[str]]]
) -> None:
    found = waits(classifier.Classifier, "_evaluate")
    run("data.val_size=500", "test=last", "data.train_size=64", "trainer.max_epochs=1")
    assert len(found) >= 4
    assert not sum(found, Counter())


@pytest.mark.sample(8)
@pytest.mark.parametrize("overrides", RUNS[:4])
@pytest.mark.parametrize("capturing", [True, False])
def test_a_populations_waits_do_not_grow_with_the_number_of_mini_batches(
    stacked: Stacked, graph_capture: GraphCapture, overrides: str, capturing: bool
) -> None:
    runner, chunks = stacked(*overrides.split(), graph_capture=graph_capture if capturing else None)
    first, short, long = ([chunk.part(*span) for chunk in chunks] for span in ((0, 8), (8, 16), (16, 32)))
    runner.prepare(first, first=0, steps_ahead=64)
    assert runner.fused_updates.ready == capturing
    counts = []
    for own, done in ((first, 0), (short, 8), (long, 16)):
        with Waits() as mode:
            runner.run_chunk(own, first=done, stop_signal=StopSignal())
        counts.append(mode.found)
    assert counts[1] == counts[2]
    # Tables of rates, and on the host itself whether updates with them can be put off.
    assert counts[1] <= Counter({"copies": 3, "aten._local_scalar_dense": 1})


def test_evaluating_a_population_does_not_wait_for_each_batch(stacked: Stacked) -> None:
    runner, chunks = stacked("model=linear")
    images = chunks[0].images
    parts = [EvaluationBatch(images.images[at : at + 50], images.labels[at : at + 50]) for at in range(0, 200, 50)]
    with Waits() as mode:
        runner.evaluate(parts)
    assert not mode.found
