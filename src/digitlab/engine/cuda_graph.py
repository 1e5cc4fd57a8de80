"""Captures work as a CUDA graph once and replays it: one launch replaces the hundreds of launches of small updates.

``FusedCalls`` captures updates with it. A graph reads its inputs from fixed buffers, changes the state in place, and
writes its results to fixed places. Work that needs the host (the CPU) cannot be captured, so augmented images, dropout
masks and learning rates are inputs of a call.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.engine.aot_cache import CompiledCall, CompilerError

# A function that records work without doing it. It returns a function that replays the work, and the tensors that hold
# the results after a replay.
GraphCapture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], None], list[Tensor]]]

# As many as in ``torch.cuda.make_graphed_callables``.
_WARM_UPS = 3
# The largest error of a replay, relative to the change that the work makes. Kernels that add in another order each time
# have smaller errors. A graph that reads memory which something else has overwritten has larger ones.
_TOLERANCE = 0.05


class CudaGraphError(CompilerError):
    """Work cannot be captured, or its replay computes something else."""

    topic = "CUDA graph"


def graph_capture_for(device: torch.device, *, allowed: bool) -> GraphCapture | None:
    """Return the function that captures work on ``device``; None if it has no graphs or they are not ``allowed``."""
    return cuda_graph if allowed and abilities(device).cuda_graphs else None


def cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Capture ``work`` as a CUDA graph.

    It runs a few times before, because CUDA's libraries allocate workspaces and choose kernels at the first calls.
    """
    # Torch requires another stream for the warm-up, because work on the default stream could end up in the graph.
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
        # If the end of the capture fails, too, torch does not return to the previous stream. Eager updates would then
        # run on the stream of the capture, in no order with all other work.
        torch.cuda.set_stream(stream)
        _renew_generator(stream.device)
        raise
    return graph.replay, results


def _renew_generator(device: torch.device) -> None:
    """Give the default generator of ``device`` a new state with the same seed.

    After a failed capture, the old state still counts as being captured. Every draw outside of a graph, for example for
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
            # Results have no value from before, so their error is compared with their size.
            zeros = [torch.zeros_like(result) for result in self._results]
            replay_is_correct = _agrees([*self._results, *state], expected, [*zeros, *state_before])
        except Exception as error:
            cause = _first_error(error)
            raise CudaGraphError(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}") from error
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
    """Return the error that came first: after an error within a capture, ending it fails, too, and hides the reason."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _clone(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _agrees(actual: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Return whether each tensor of ``actual`` is close to ``expected``, relative to the change since ``before``."""

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one.double() - other.double()).norm())

    return all(
        distance(replayed, correct) <= _TOLERANCE * distance(correct, old)
        for replayed, correct, old in zip(actual, expected, before, strict=True)
        # Vectors are left out. Some are biases before a batch norm, whose gradients consist of rounding errors only.
        if replayed.ndim > 1
    )
