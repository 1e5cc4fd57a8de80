"""Makes several updates of stacked networks in one call: compiled, captured as a CUDA graph, or both.

``ChunkRunner`` uses it for solo runs, which are stacks of one, and ``StackedRunner`` for populations. M members, B
mini-batches in a chunk, S updates in a call.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.engine.aot_cache import (
    CompiledCall,
    CompilerError,
    NoGainError,
    compiling_pays,
    fall_back,
    steps_per_execution,
)
from digitlab.engine.chunk_io import ChunkIO, leading_full_batches
from digitlab.engine.cuda_graph import CudaGraphError, GraphCapture
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.fused_calls import BoundCall, FusedCalls
from digitlab.engine.fused_update import Outputs
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.stacked_networks import StackedNetworks, has_hooks
from digitlab.optim.optimizers import RULE_OF

# For compile=auto: what compiling saves in each update of a small network that trains alone, measured on two cores, and
# in each update of a member of a population.
_SAVED_SECONDS_ALONE = 250e-6
_SAVED_SECONDS_PER_MEMBER = 10e-6
# A population that members have left captures its updates again only for at least so many. Warm-up, capture and trial
# replay run eight updates half a dozen times; the number is an estimate of the replayed updates that this costs.
_FEWEST_STEPS_TO_CAPTURE_AGAIN = 100


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What a run asks for: ``compiling`` (``auto``: if it pays off), and capturing by ``graph_capture``."""

    compiling: bool | Literal["auto"] = False
    graph_capture: GraphCapture | None = None


class Part(NamedTuple):
    """Mini-batches ``begin`` to ``end`` (exclusive) of a chunk; ``steps`` of them in a call, 0 if they run eagerly."""

    begin: int
    end: int
    steps: int


class FusedUpdates:
    """Makes updates of ``networks``, in place, as far as ``wanted``.

    ``prepare`` compiles and captures. Before that, and if it fails, all updates are left to the eager runner.
    """

    def __init__(self, networks: StackedNetworks, wanted: Acceleration) -> None:
        self._networks, self._wanted = networks, wanted
        self._compiling, self._graph_capture = bool(wanted.compiling), wanted.graph_capture
        # Whether a library that does not exist yet is compiled; None until that is decided.
        self._may_compile: bool | None = None
        # Captured again only if that pays off: see _FEWEST_STEPS_TO_CAPTURE_AGAIN.
        self._members_have_left = False
        self._maker = FusedCalls(networks)
        # By the number of updates in a call.
        self._calls: dict[int, list[BoundCall]] = {}
        self._libraries: dict[int, CompiledCall] = {}

    @property
    def ready(self) -> bool:
        """Whether ``prepare`` has made any call."""
        return bool(self._calls)

    def has_calls(self, chunk: Chunk) -> bool:
        """Whether all calls that ``chunk`` needs are made, or given up."""
        return self._first_missing(chunk) is None

    def rates(self, first: int, steps: int) -> tuple[Tensor, Tensor]:
        """As ``StackedNetworks.rates``."""
        return self._networks.rates(first, steps)

    @property
    def active(self) -> bool:
        """Whether there are calls, or ``prepare`` may still make some."""
        return self.ready or self._compiling or self._graph_capture is not None

    def inherit_from(self, former: "FusedUpdates", members: Tensor) -> None:
        """Continue for ``members``, int64 indices into those of ``former``, after the others have left."""
        self._compiling, self._graph_capture = former._compiling, former._graph_capture
        self._may_compile, self._members_have_left = former._may_compile, True
        # A CUDA graph contains all members and never fits, so there are only libraries to inherit.
        maker = former._maker.for_remaining(self._networks, members)
        if maker is not None and former._libraries:
            self._maker, self._libraries = maker, former._libraries
            self._calls = {steps: maker.bound(library) for steps, library in self._libraries.items()}

    @classmethod
    def of_solo_run(cls, spec: MemberSpec, optimizer: torch.optim.Optimizer, wanted: Acceleration) -> "FusedUpdates":
        """Updates that change the tensors of the network of ``spec`` and of its ``optimizer`` in place.

        Raises ``CompilerError`` for an optimizer of the user's own, which has no functional rule. A subclass may do
        something else, so the type must be exact.
        """
        if not abilities(spec.device).float64:
            # Learning rates are float64 inputs, so that they equal those of the eager step to the last bit.
            raise CompilerError("learning rates are float64, which this device does not have")
        if type(spec.optimizer) not in RULE_OF:
            raise CompilerError(f"{type(spec.optimizer).__name__} has no compiled form")
        _refuse_hooks(has_hooks(spec.network))
        return cls(StackedNetworks([spec], device=spec.device, shared_with=optimizer), wanted)

    def parts(self, chunk: Chunk) -> list[Part]:
        """How to make the updates of ``chunk``: calls have a fixed number of full mini-batches, the rest is eager."""
        return [part if part.steps in self._calls else part._replace(steps=0) for part in self._planned(chunk)]

    def _planned(self, chunk: Chunk) -> list[Part]:
        """The parts of ``chunk`` when all calls are made."""
        count, steps = len(chunk.indices), self._steps(chunk)
        # A graph has one mini-batch size, so a smaller mini-batch at the end of the epoch runs eagerly.
        full = leading_full_batches(chunk)
        begin, end = (min(place, full) for place in chunk.full_executions(steps))
        # A graph of one update is captured in no time, so that mini-batches which fill no whole call need not run
        # eagerly. A library of one update would take half a minute to compile.
        single = 1 if self._graph_capture is not None and not self._compiling else 0
        parts = Part(0, begin, single), Part(begin, end, steps), Part(end, full, single), Part(full, count, 0)
        return [part for part in parts if part.begin < part.end]

    def _steps(self, chunk: Chunk) -> int:
        return steps_per_execution(chunk.plan.batch_size * self._networks.flops, self._networks.device)

    def run_part(self, chunk_io: ChunkIO, steps: int, stop_signal: StopSignal) -> int:
        """Train on the mini-batches of a part of a chunk, with ``steps`` in a call; return the number of updates made.

        After a signal it stops at the end of the current call, when all streams have made the same updates.
        """
        networks, done = self._networks, 0
        # Augmentation draws with a generator of its own and runs here, outside of the calls.
        blocks = zip(*(chunk.blocks(steps, networks.loss.encode) for chunk in chunk_io.chunks), strict=True)
        # One copy for the whole part: indexing its columns for each call would take several operations.
        rates, ema_weight = (_by_call(table, steps) for table in (chunk_io.rates, chunk_io.ema_weight))
        for number, streams in enumerate(blocks):
            first, size = chunk_io.first + done, streams[0][0].shape[1]
            inputs = self._maker.inputs(streams, first, rates[number], ema_weight[number])
            for members, of_streams, call in self._calls[steps]:
                # Each call advances the step counter, which all streams share.
                networks.optimizer.state.step.fill_(first)
                outputs = Outputs(*call(inputs.part(members, of_streams).tensors))
                # Copying the results on the device does not make the host wait, so the next call is queued at once.
                chunk_io.logits[members, done * size : (done + steps) * size] = outputs.logits.flatten(1, 2)
                chunk_io.losses[done : done + steps, members] = outputs.losses.T
            done += steps
            if stop_signal.received is not None:
                break
        return done

    # Compiling and capturing ------------------------------------------------------------------------------------------

    def prepare(self, chunk_io: ChunkIO, *, steps_ahead: int) -> None:
        """Compile or capture updates for mini-batches like those of ``chunk_io``, if that is wanted and not done yet.

        ``steps_ahead`` decides whether that pays off. A failure is logged, and training continues eagerly.
        """
        if self._members_have_left and not self.ready and steps_ahead < _FEWEST_STEPS_TO_CAPTURE_AGAIN:
            # Each time members leave, the others would have to capture anew, which costs as much as dozens of updates.
            self._graph_capture = None
        try:
            # Decided anew for each part: whether there are single updates depends on what compiling came to.
            while (part := self._first_missing(chunk_io.chunks[0])) is not None:
                if self._compiling and self._may_compile is None:
                    self._decide_whether_to_compile(part.steps, steps_ahead)
                else:
                    self._calls[part.steps] = self._make_calls(chunk_io.part(part.begin, part.begin + part.steps))
        except CompilerError as error:
            # Nothing is tried again, as the next chunk would fail in the same way.
            self._compiling, self._graph_capture = False, None
            self._log(error)

    def _first_missing(self, chunk: Chunk) -> Part | None:
        """The first part of ``chunk`` that needs a call which is wanted and not made yet."""
        if not (self._compiling or self._graph_capture is not None):
            return None
        return next((part for part in self._planned(chunk) if part.steps and part.steps not in self._calls), None)

    def _log(self, error: CompilerError) -> None:
        fall_back(error, asked=self._wanted.compiling is True or isinstance(error, CudaGraphError))

    def _decide_whether_to_compile(self, steps: int, steps_ahead: int) -> None:
        """Decide by the ``steps`` in a call. Raises ``CompilerError`` if neither library nor graph remains."""
        always = self._wanted.compiling is True
        try:
            saved_seconds = steps_ahead * self._saved_seconds(steps, always=always)
            self._may_compile = compiling_pays(saved_seconds, always=always)
        except CompilerError as error:
            # A CUDA graph costs a fraction of a second, so it is worth it without a library as well.
            if self._graph_capture is None:
                raise
            self._compiling = False
            self._log(error)

    def _saved_seconds(self, steps: int, *, always: bool) -> float:
        """What compiling saves in each update. Raises ``CompilerError`` if it cannot or should not be done."""
        networks = self._networks
        if networks.alone:
            if steps == 1 and not always:
                raise NoGainError("a network this large gains little")
            return _SAVED_SECONDS_ALONE
        if networks.device.type != "cpu" or self._graph_capture is not None:
            raise CompilerError("populations are compiled on a processor only")
        # Members with convolutions train one after another on a CPU, so one call saves nothing.
        if not isinstance(networks.stack, DenseStack):
            raise NoGainError("convolutions gain nothing together")
        if steps == 1:
            raise NoGainError("networks this large gain little together")
        # All members of a stream share one call, so the saved time grows with the number of members.
        return networks.members * _SAVED_SECONDS_PER_MEMBER

    def _make_calls(self, example: ChunkIO) -> list[BoundCall]:
        """The calls for mini-batches like those of ``example``, which fill one: of a library, a graph of it, or both.

        Without a library a graph contains the eager kernels of the same function.
        """
        _refuse_hooks(self._networks.has_hooks)
        library = self._library(example) if self._compiling else None
        if self._graph_capture is not None:
            try:
                return self._maker.captured(example, library, self._graph_capture)
            except CudaGraphError as error:
                if library is None:
                    raise
                self._graph_capture = None
                self._log(error)
        assert library is not None
        self._libraries[len(example.losses)] = library
        return self._maker.bound(library)

    def _library(self, example: ChunkIO) -> CompiledCall | None:
        """The compiled call; None if there is none but updates can be captured without it."""
        try:
            return self._maker.library(example, may_compile=bool(self._may_compile))
        except CompilerError as error:
            # If compiling fails, a graph of the eager kernels still saves the launches.
            if self._graph_capture is None:
                raise
            self._compiling = False
            self._log(error)
            return None


def _refuse_hooks(watched: bool) -> None:
    # Neither a library nor a graph calls hooks, so whatever they watch would silently see nothing.
    if watched:
        raise CompilerError("forward hooks watch the layers")


def _by_call(table: Tensor, steps: int) -> Tensor:
    """Reshape (B, M), B a multiple of ``steps``, to one row per call: (B / S, M, S)."""
    return table.view(-1, steps, table.shape[1]).mT.contiguous()
