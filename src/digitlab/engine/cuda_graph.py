"""Calls recorded once on a CUDA device, as a graph, and replayed: what hundreds of launches took, one does.

A recording reads from buffers of its own, into which each call copies what it is given, changes the state it was made
with where that lies, and leaves its results in its own place. What needs the host is not part of it: augmentation,
dropout masks and learning rates come with the call.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.engine.aot_cache import Compiled, CompilerError

# Takes down what is done without doing it: how to do it again, and the tensors that then hold its results.
GraphCapture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], None], list[Tensor]]]

_WARM_UPS = 3
# What a replay may be off, of the change or the result: kernels that add in any order differ, a graph that reads
# another's memory does by more than this.
_TOLERANCE = 0.05


class CudaGraphError(CompilerError):
    """What can't be recorded, or is something else when it is replayed."""

    topic = "CUDA graph"


def graph_capture_for(device: torch.device, *, allowed: bool) -> GraphCapture | None:
    """What records calls on ``device``: CUDA graphs, where they are ``allowed``; there is nothing elsewhere."""
    return cuda_graph if allowed and abilities(device).cuda_graphs else None


def cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Record ``work`` as a CUDA graph, after warming up what libraries make at their first calls."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads, which write events and checkpoints, have no part in it.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = work()
    return graph.replay, results


class CudaGraph:
    """``call``, made for tensors like ``given``, on ``state``, which it changes in place: recorded, and replayed.

    Raises ``CudaGraphError`` where it can't be recorded, or where a replay does not do what the call itself does. The
    state is as before then, and after the recording.
    """

    def __init__(
        self, call: Compiled, *, state: Sequence[Tensor], given: Sequence[Tensor], graph_capture: GraphCapture
    ) -> None:
        self._call = call
        self._given = [tensor.clone() for tensor in given]
        before = _copies(state)
        try:
            expected = [*_copies(call(self._given)), *_copies(state)]
            _restore(state, before)
            self._replay, self._results = graph_capture(partial(call, self._given))
            _restore(state, before)
            self._replay()
            nothing = [torch.zeros_like(result) for result in self._results]
            sound = _agree([*self._results, *state], expected, [*nothing, *before])
        except Exception as error:
            raise CudaGraphError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error
        finally:
            _restore(state, before)
        if not sound:
            raise CudaGraphError("a replay is not what was recorded")

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        """The results for what is ``given``; tensors of another shape or dtype are not replayed but computed."""
        if any(own.shape != new.shape or own.dtype != new.dtype for own, new in zip(self._given, given, strict=True)):
            return self._call(given)
        for own, new in zip(self._given, given, strict=True):
            own.copy_(new)
        self._replay()
        return _copies(self._results)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _restore(tensors: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for tensor, own in zip(tensors, kept, strict=True):
        tensor.copy_(own)


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    """Whether nothing is ``found`` further from what was ``expected`` than a small part of how far that had moved."""

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one.double() - other.double()).norm())

    return all(
        distance(new, right) <= _TOLERANCE * distance(right, old)
        for new, right, old in zip(found, expected, before, strict=True)
        # The gradient of a bias below a batch norm is rounding and nothing else.
        if new.ndim > 1
    )
