"""CUDA graphs in training, tested without a GPU: a stand-in computes the captured updates again at each replay."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from digitlab.core.abilities import ABILITIES
from digitlab.core.errors import RunError
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.engine.cuda_graph import CudaGraph, CudaGraphError, GraphCapture, cuda_graph, graph_capture_for
from digitlab.engine.fused_calls import FusedCalls
from digitlab.training import classifier
from digitlab.training import run as run_module

FLOAT64 = ("trainer.precision=64", "data.train_size=420", "data.batch_size=20")
RUNS = (
    "model=linear optimizer=sgd optimizer.momentum=0.9 optimizer.weight_decay=1e-3 scheduler=one_cycle",
    "model=mlp_dropout model.hidden=[16] optimizer=adamw optimizer.weight_decay=0.01 ema.decay=0.99",
    "model=cnn model.width=2 optimizer=adagrad trainer.gradient_clip_norm=0.5 augment=mixup data.train_size=180",
    "model=lenet model.dropout=0 optimizer=sgd data.train_size=180",
    "optimizer=muon optimizer.normalize_filters=true optimizer.weight_decay=0.1 optimizer.bias_lr=0.3",
)


def _adding(state: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
    return lambda given: [state.add_(given[0]).clone()]


def test_a_capture_does_not_change_the_state_and_a_replay_does_what_the_call_does(graph_capture: GraphCapture) -> None:
    state = torch.ones(2, 2)
    replay = CudaGraph(_adding(state), state=[state], inputs=[torch.ones(2, 2)], graph_capture=graph_capture)
    assert torch.equal(state, torch.ones(2, 2))
    first = replay([torch.full((2, 2), 2.0)])
    (second,) = replay([torch.full((2, 2), 3.0)])
    assert torch.equal(second, state)
    assert torch.equal(state, torch.full((2, 2), 6.0))
    # Results are no place that the next replay writes to.
    assert torch.equal(first[0], torch.full((2, 2), 3.0))


def test_inputs_of_another_shape_are_computed_and_not_replayed(graph_capture: GraphCapture) -> None:
    state = torch.ones(2, 2)
    replay = CudaGraph(_adding(state), state=[state], inputs=[torch.ones(2, 2)], graph_capture=graph_capture)
    replay([torch.ones(1)])
    assert torch.equal(state, torch.full((2, 2), 2.0))


def _forgetful(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    return lambda: None, work()


def _failing(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    work()
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    ("graph_capture", "reason"),
    [
        (_forgetful, "does not compute what was captured"),
        (_failing, "RuntimeError: operation not permitted [a-z ]* capturing$"),
    ],
)
def test_a_failed_capture_or_wrong_replay_raises_and_the_state_is_unchanged(graph_capture: Any, reason: str) -> None:
    state = torch.ones(2, 2)
    with pytest.raises(CudaGraphError, match=reason):
        CudaGraph(_adding(state), state=[state], inputs=[torch.ones(2, 2)], graph_capture=graph_capture)
    assert torch.equal(state, torch.ones(2, 2))


def test_the_message_names_the_error_that_made_the_capture_fail() -> None:
    def fail_twice(work: Callable[[], list[Tensor]]) -> Any:
        try:
            raise ValueError("the host reads a number")
        finally:
            # As CUDA does when an invalid capture ends.
            raise RuntimeError("capture was invalidated")

    state = torch.ones(2, 2)
    with pytest.raises(CudaGraphError, match=r"ValueError: the host reads a number$") as raised:
        CudaGraph(_adding(state), state=[state], inputs=[torch.ones(2, 2)], graph_capture=fail_twice)
    assert str(raised.value.__cause__) == "capture was invalidated"


def test_only_cuda_has_graphs_and_they_can_be_switched_off() -> None:
    assert graph_capture_for(torch.device("cuda"), allowed=True) is cuda_graph
    assert graph_capture_for(torch.device("cuda"), allowed=False) is None
    assert graph_capture_for(torch.device("cpu"), allowed=True) is None


@pytest.mark.sample(8)
@pytest.mark.parametrize("overrides", [pytest.param(RUNS[0], marks=pytest.mark.numerics), *RUNS[1:]])
def test_captured_updates_equal_eager_ones(run: Callable[..., Any], captured: list[str], overrides: str) -> None:
    common = [*FLOAT64, *overrides.split()]
    one, other = (run(*common, f"trainer.cuda_graphs={each}").checkpoint() for each in (True, False))
    assert captured
    assert one.keys() == other.keys()
    for name, weight in other["state_dict"].items():
        assert (one["state_dict"][name] - weight).abs().max() <= 1e-8 * weight.abs().max()
    losses = [[row["train/loss"] for row in each["rows"]] for each in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)


def test_all_full_mini_batches_of_an_epoch_are_replayed(run: Callable[..., Any], captured: list[str]) -> None:
    # Each of two epochs has 21 mini-batches and a smaller one: two calls of eight updates, and five of one. Each of the
    # two graphs has a trial replay.
    run("data.train_size=430", "data.batch_size=20", "data.val_size=100")
    assert len(captured) == 2 * (2 + 5) + 2


def test_a_captured_run_resumes_to_the_same_bits(
    run: Callable[..., Any],
    captured: list[str],
    same_bits: Callable[..., None],
    interrupting: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overrides = ("data.train_size=430", "data.batch_size=20", "model.dropout=0.2", "trainer.chunk_length=16")
    whole = run(*overrides)
    # In the second of the calls, after the trial.
    monkeypatch.setattr(FusedCalls, "inputs", interrupting(FusedCalls.inputs, at=3))
    with pytest.raises(Interrupted):
        run(*overrides, name="stopped")
    same_bits(run(*overrides, name="stopped", resume=True), whole)
    assert captured


def test_compiled_updates_are_captured_too(
    run: Callable[..., Any], captured: list[str], uncompiled: list[int], same_bits: Callable[..., None]
) -> None:
    one = run(*FLOAT64, "compile=true")
    assert uncompiled
    assert captured
    captured.clear()
    other = run(*FLOAT64, "compile=true", "trainer.cuda_graphs=false")
    assert not captured
    same_bits(one, other)


def test_a_failed_capture_is_logged_once_and_the_run_trains_eagerly(
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    same_bits: Callable[..., None],
) -> None:
    without = run(*FLOAT64)
    monkeypatch.setattr(classifier, "graph_capture_for", lambda device, allowed: _failing)
    same_bits(run(*FLOAT64), without)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("CUDA graph: RuntimeError: operation not permitted")


def test_a_network_with_forward_hooks_is_not_captured(run: Callable[..., Any], captured: list[str]) -> None:
    run("figures.log_batches=true", "data.batch_size=20", "data.train_size=420")
    assert not captured


def test_a_run_that_diverges_within_a_replay_stops_at_the_faulty_step(
    run: Callable[..., Any], captured: list[str]
) -> None:
    def error(*overrides: str) -> str:
        with pytest.raises(RunError, match="training stopped") as raised:
            run("optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=20", *overrides)
        return str(raised.value)

    assert error() == error("trainer.cuda_graphs=false")


def test_a_population_is_freed_without_the_garbage_collector(
    stacked: Callable[..., Any], graph_capture: GraphCapture
) -> None:
    runner, chunks = stacked("model=mlp", "model.hidden=[8]", graph_capture=graph_capture)
    gc.disable()
    try:
        runner.prepare(chunks, first=0, steps_ahead=64)
        assert runner.fused_updates.ready
        runner.run_chunk(chunks, first=0, stop_signal=StopSignal())
        references = [weakref.ref(each) for each in (runner, runner.stack, runner.stack.parameters[0])]
        del runner
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


def test_the_trial_replay_of_a_population_moves_the_weights(
    stacked: Callable[..., Any],
) -> None:
    moved: list[bool] = []

    def capture(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
        results = work()
        moved.extend(not torch.equal(*pair) for pair in zip(before, runner.stack.parameters, strict=True))
        # A graph whose replay forgets to update the weights.
        return lambda: None, results

    runner, chunks = stacked("model=mlp", "model.hidden=[8]", "optimizer=sgd", graph_capture=capture)
    before = [parameter.clone() for parameter in runner.stack.parameters]
    runner.prepare(chunks, first=0, steps_ahead=64)
    assert all(moved)
    assert not runner.fused_updates.ready
    assert all(map(torch.equal, before, runner.stack.parameters))


def test_a_run_frees_its_graphs_before_the_test_without_the_garbage_collector(
    run: Callable[..., Any], captured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[weakref.ref[CudaGraph]] = []
    init, measure_test, alive = CudaGraph.__init__, run_module.measure_test, []

    def watched(graph: CudaGraph, *arguments: Any, **named: Any) -> None:
        graphs.append(weakref.ref(graph))
        init(graph, *arguments, **named)

    def measured(*arguments: Any) -> Any:
        alive.extend(graph for graph in graphs if graph() is not None)
        return measure_test(*arguments)

    monkeypatch.setattr(CudaGraph, "__init__", watched)
    monkeypatch.setattr(run_module, "measure_test", measured)
    gc.disable()
    try:
        run("data.batch_size=20", "data.train_size=180", "trainer.max_epochs=1", "test=last")
    finally:
        gc.enable()
    assert len(graphs) == 2
    assert not alive


class FakeStream:
    """There is no CUDA here, so the test below replaces everything of it that a capture needs."""

    device = torch.device("cpu")

    def wait_stream(self, other: "FakeStream") -> None:
        pass


class FakeGenerator:
    state, seed = "of the failed capture", 5

    def __init__(self, device: torch.device | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> "FakeGenerator":
        self.seed = seed
        return self

    def initial_seed(self) -> int:
        return self.seed

    def graphsafe_get_state(self) -> tuple[str, int]:
        return "new", self.seed

    def graphsafe_set_state(self, state: tuple[str, int]) -> None:
        self.state, self.seed = state


def test_after_a_failed_capture_the_stream_and_the_generator_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, private, streams, generator, calls = FakeStream(), FakeStream(), [], FakeGenerator(), []

    @contextmanager
    def capture(graph: object, *, capture_error_mode: str) -> Iterator[None]:
        streams.append(private)
        yield

    for name, value in {
        "Stream": FakeStream, "stream": lambda stream: nullcontext(), "current_stream": lambda: usual,
        "CUDAGraph": object, "graph": capture, "set_stream": streams.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    fakes: Any = {"default_generator": lambda device: generator, "new_generator": FakeGenerator}
    monkeypatch.setitem(ABILITIES, "cpu", replace(ABILITIES["cpu"], **fakes))

    def read() -> list[Tensor]:
        calls.append("warm-up" if len(calls) < 3 else "capture")
        if calls[-1] == "capture":
            raise ValueError("the host reads a number")
        return []

    with pytest.raises(ValueError, match="the host reads a number"):
        cuda_graph(read)
    assert streams == [private, usual]
    assert (generator.state, generator.seed) == ("new", 5)
