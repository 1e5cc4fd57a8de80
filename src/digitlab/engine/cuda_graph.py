"""Captures work as a CUDA graph once and replays it: one launch replaces the hundreds of launches of small updates.

A graph reads its inputs from fixed buffers, changes the state in place, and writes its results to fixed places. Work
that needs the host cannot be captured, so augmented images, dropout masks and learning rates are inputs of a call.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.engine.aot_cache import CompiledCall, CompilerError

# Captures work without doing it; returns a function that replays the work, and the tensors that then hold its results.
GraphCapture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], None], list[Tensor]]]

_WARM_UPS = 3
# How far a replay may be off, relative to the change that the work makes. Kernels that add in another order each time
# differ by less; a graph that reads memory which something else has overwritten differs by more.
_TOLERANCE = 0.05


class CudaGraphError(CompilerError):
    """Work cannot be captured, or its replay computes something else."""

    topic = "CUDA graph"


def graph_capture_for(device: torch.device, *, allowed: bool) -> GraphCapture | None:
    """How work is captured on ``device``; None if the device has no graphs or they are not ``allowed``."""
    return cuda_graph if allowed and abilities(device).cuda_graphs else None


def cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Capture ``work`` as a CUDA graph.

    It runs a few times before that, because libraries allocate their workspaces and choose kernels at the first calls.
    """
    # Torch requires the warm-up to run on a stream of its own: work on the default stream could end up in the graph.
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    try:
        # Threads that write events and checkpoints may use CUDA meanwhile; only this thread's work is captured.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = work()
    except BaseException:
        # If the end of the capture fails as well, torch does not return to the stream from before it. Eager updates
        # would run on the private stream, unordered with everything else.
        torch.cuda.set_stream(stream)
        _renew_generator(stream.device)
        raise
    return graph.replay, results


def _renew_generator(device: torch.device) -> None:
    """Give the default generator of ``device`` a new state with the same seed.

    A capture that fails never ends for the generator. With its old state every draw outside of a graph, for example for
    dropout, would raise an error.
    """
    generator = abilities(device).default_generator(device)
    renewed = abilities(device).new_generator(device).manual_seed(generator.initial_seed())
    generator.graphsafe_set_state(renewed.graphsafe_get_state())


class CudaGraph:
    """``call``, which changes ``state`` in place, captured for tensors shaped like ``inputs`` and replayed.

    Raises ``CudaGraphError`` if it cannot be captured, or if a trial replay does not do what the call itself does. The
    state is unchanged afterwards in both cases.
    """

    def __init__(
        self, call: CompiledCall, *, state: Sequence[Tensor], inputs: Sequence[Tensor], graph_capture: GraphCapture
    ) -> None:
        self._call = call
        self._static_inputs = [tensor.clone() for tensor in inputs]
        state_before = _clone(state)
        try:
            expected = [*_clone(call(self._static_inputs)), *_clone(state)]
            _copy_into(state, state_before)
            self._replay, self._results = graph_capture(partial(call, self._static_inputs))
            # The warm-up has changed the state, so it is restored before the trial replay.
            _copy_into(state, state_before)
            self._replay()
            zeros = [torch.zeros_like(result) for result in self._results]
            replay_is_correct = _agrees([*self._results, *state], expected, [*zeros, *state_before])
        except Exception as error:
            first = _first_error(error)
            raise CudaGraphError(f"{type(first).__name__}: {str(first).strip().partition(chr(10))[0]}") from error
        finally:
            _copy_into(state, state_before)
        if not replay_is_correct:
            raise CudaGraphError("a replay does not compute what was captured")

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        """Replay the graph for ``inputs``; inputs of another shape or dtype are computed without the graph."""
        pairs = list(zip(self._static_inputs, inputs, strict=True))
        if any(static.shape != new.shape or static.dtype != new.dtype for static, new in pairs):
            return self._call(inputs)
        for static, new in pairs:
            static.copy_(new)
        self._replay()
        # The next replay overwrites the results in place, so the caller gets copies.
        return _clone(self._results)


def _first_error(error: BaseException) -> BaseException:
    """The error that came first. What fails within a capture also fails its end, and that error hides the reason."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _clone(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _agrees(found: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether each tensor of ``found`` is close to ``expected``, relative to how far that is from ``before``."""

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one.double() - other.double()).norm())

    return all(
        distance(new, right) <= _TOLERANCE * distance(right, old)
        for new, right, old in zip(found, expected, before, strict=True)
        # Biases below a batch norm are left out: their gradients are rounding errors and agree with nothing.
        if new.ndim > 1
    )
