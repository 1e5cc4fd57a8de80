"""Makes several updates of stacked networks in one call: compiled, captured as a CUDA graph, or both.

Stacked networks are M networks, the members, whose tensors are stacked to (M, ...). ``ChunkRunner`` uses this for solo
runs, which are stacks of one, and ``StackedRunner`` for populations. They train on mini-batches one at a time
(*eagerly*) wherever no call fits. A *library* is a compiled function that is stored on disk; a *call* runs it, or
replays a graph. Members with the same seed share a stream of mini-batches. B mini-batches in a chunk, S updates in a
call.
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
from digitlab.engine.fusable import require_fusable
from digitlab.engine.fused_calls import BoundCall, FusedCalls
from digitlab.engine.fused_update import Outputs
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.stacked_networks import StackedNetworks
from digitlab.optim.optimizers import RULE_OF

# For compile=auto: the time that compiling saves in each update of a solo run with a small network, and in each update
# of a member of a population, measured on two cores.
_SAVED_SECONDS_ALONE = 250e-6
_SAVED_SECONDS_PER_MEMBER = 10e-6
# After members have left a population, its updates are captured again only if at least this many updates are still to
# come. A capture costs about six calls of eight updates (warm-up, capture, trial replay), most of them eager. In that
# time, a graph could replay roughly this number of updates (an estimate).
_MIN_STEPS_TO_RECAPTURE = 100


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How to execute updates: whether to compile them (``auto``: if that saves time), and how to capture CUDA graphs.

    ``graph_capture`` is the function that captures; None if updates are not captured.
    """

    compiling: bool | Literal["auto"] = False
    graph_capture: GraphCapture | None = None


class Part(NamedTuple):
    """Mini-batches ``begin`` to ``end`` (exclusive) of a chunk; ``steps`` of them in a call, 0 if they run eagerly."""

    begin: int
    end: int
    steps: int


class FusedUpdates:
    """Makes updates of ``networks``, in place, with calls that are compiled or captured as ``acceleration`` says.

    ``prepare`` makes the calls. Before that, and if it fails, all updates are left to the runner, which makes them
    eagerly. If only one of compiling and capturing fails, the other is still used.
    """

    def __init__(self, networks: StackedNetworks, acceleration: Acceleration) -> None:
        self._networks, self._acceleration = networks, acceleration
        # Whether to compile or capture the calls that are still missing. Each is switched off after it has failed.
        self._compiling, self._graph_capture = bool(acceleration.compiling), acceleration.graph_capture
        # Whether a library that does not exist yet is compiled; None until that is decided.
        self._may_compile: bool | None = None
        self._members_have_left = False
        self._fused_calls = FusedCalls(networks)
        # The keys are numbers of updates in a call. A list has one call for each stream, or a single one for all.
        self._calls: dict[int, list[BoundCall]] = {}
        self._libraries: dict[int, CompiledCall] = {}

    @property
    def ready(self) -> bool:
        """Whether ``prepare`` has made any call."""
        return bool(self._calls)

    def has_calls(self, chunk: Chunk) -> bool:
        """Return whether all calls that ``chunk`` needs exist or cannot be made."""
        return self._first_missing(chunk) is None

    def rates(self, first: int, steps: int) -> tuple[Tensor, Tensor]:
        """Return the learning rates and EMA weights, as ``StackedNetworks.rates``."""
        return self._networks.rates(first, steps)

    @property
    def active(self) -> bool:
        """Whether there are calls, or ``prepare`` may still make some."""
        return self.ready or self._compiling or self._graph_capture is not None

    def inherit_from(self, former: "FusedUpdates", members: Tensor) -> None:
        """Take over the calls of ``former`` for the remaining ``members``, int64 indices into its members."""
        self._compiling, self._graph_capture = former._compiling, former._graph_capture
        self._may_compile, self._members_have_left = former._may_compile, True
        # A CUDA graph contains all former members, so only libraries can be inherited.
        fused_calls = former._fused_calls.for_remaining(self._networks, members)
        if fused_calls is not None and former._libraries:
            self._fused_calls, self._libraries = fused_calls, former._libraries
            self._calls = {steps: fused_calls.bind(library) for steps, library in self._libraries.items()}

    @classmethod
    def of_solo_run(
        cls, spec: MemberSpec, optimizer: torch.optim.Optimizer, acceleration: Acceleration
    ) -> "FusedUpdates":
        """Return updates that change the tensors of the network of ``spec`` and of its ``optimizer`` in place.

        Raises ``CompilerError`` if the optimizer is a class of the user's own, which has no functional rule. A subclass
        of a known optimizer may have another update, so it is refused, too. Also raises what ``require_fusable`` raises
        for a network of the user's own.
        """
        if not abilities(spec.device).float64:
            # Learning rates are float64 inputs, so that they equal those of the eager step to the last bit.
            raise CompilerError("learning rates are float64, which this device does not have")
        if type(spec.optimizer) not in RULE_OF:
            raise CompilerError(f"{type(spec.optimizer).__name__} has no compiled form")
        require_fusable(spec.network, spec.image_shape)
        return cls(StackedNetworks([spec], device=spec.device, shared_with=optimizer), acceleration)

    def parts(self, chunk: Chunk) -> list[Part]:
        """Return the parts of ``chunk`` in order: those that calls train on, and those to train on eagerly."""
        return [part if part.steps in self._calls else part._replace(steps=0) for part in self._planned_parts(chunk)]

    def _planned_parts(self, chunk: Chunk) -> list[Part]:
        """Return the parts that ``chunk`` has once all calls are made.

        They are: mini-batches before the first call, those of the calls, full mini-batches that are left after them,
        and a smaller mini-batch at the end of the epoch. Empty parts are left out. The first step of a call, counted
        in the epoch, is a multiple of S, so that a resumed run makes the same calls. A chunk may start between two
        multiples, for example after a validation.
        """
        count, steps = len(chunk.indices), self._steps(chunk)
        # A call has one mini-batch size, so the smaller mini-batch runs eagerly.
        full = leading_full_batches(chunk)
        begin, end = (min(index, full) for index in chunk.full_executions(steps))
        # The full mini-batches before and after the calls are too few for another call. A graph of one update, which
        # takes little time to capture, can train on them. A library of one update would take half a minute to compile,
        # so they run eagerly instead.
        single = 1 if self._graph_capture is not None and not self._compiling else 0
        parts = Part(0, begin, single), Part(begin, end, steps), Part(end, full, single), Part(full, count, 0)
        return [part for part in parts if part.begin < part.end]

    def _steps(self, chunk: Chunk) -> int:
        """Return how many updates one call makes."""
        return steps_per_execution(chunk.plan.batch_size * self._networks.flops, self._networks.device)

    def run_part(self, chunk_io: ChunkIO, steps: int, stop_signal: StopSignal) -> int:
        """Train on the mini-batches of a part of a chunk, with ``steps`` in a call; return the number of updates made.

        After a signal it stops at the end of the current call, when all streams have made the same updates.
        """
        networks, done = self._networks, 0
        # ``blocks`` augments the images here, outside of the calls, because augmentation has its own random generator.
        blocks = zip(*(chunk.blocks(steps, networks.loss.encode) for chunk in chunk_io.chunks), strict=True)
        # Rearrange the rates once for the whole part: selecting columns for each call would take several operations.
        rates, ema_weight = (_by_call(table, steps) for table in (chunk_io.rates, chunk_io.ema_weight))
        for number, streams in enumerate(blocks):
            first, size = chunk_io.first + done, streams[0][0].shape[1]
            inputs = self._fused_calls.inputs(streams, first, rates[number], ema_weight[number])
            for members, call_streams, call in self._calls[steps]:
                # All streams share one step counter. Each call advances it, so set it back for the next stream.
                networks.optimizer.state.step.fill_(first)
                outputs = Outputs(*call(inputs.part(members, call_streams).tensors))
                # Copying the results on the device does not make the host wait, so the next call is queued at once.
                chunk_io.logits[members, done * size : (done + steps) * size] = outputs.logits.flatten(1, 2)
                chunk_io.losses[done : done + steps, members] = outputs.losses.T
            done += steps
            if stop_signal.received is not None:
                break
        return done

    # Compiling and capturing ------------------------------------------------------------------------------------------

    def prepare(self, chunk_io: ChunkIO, *, steps_ahead: int) -> None:
        """Compile or capture updates for mini-batches like those of ``chunk_io``, if required and not done yet.

        ``steps_ahead``, the number of updates that are left, decides whether that saves time. This is decided once, at
        the first missing call. A failure is logged, and training continues without what has failed.
        """
        if self._members_have_left and not self.ready and steps_ahead < _MIN_STEPS_TO_RECAPTURE:
            self._graph_capture = None
        try:
            # Plan the parts again after each new call: if compiling fails, calls of one update are needed, too.
            while (part := self._first_missing(chunk_io.chunks[0])) is not None:
                if self._compiling and self._may_compile is None:
                    self._decide_whether_to_compile(part.steps, steps_ahead)
                else:
                    self._calls[part.steps] = self._make_calls(chunk_io.part(part.begin, part.begin + part.steps))
        except CompilerError as error:
            # Nothing is tried again, because the next chunk would fail in the same way.
            self._compiling, self._graph_capture = False, None
            self._log(error)

    def _first_missing(self, chunk: Chunk) -> Part | None:
        """Return the first part of ``chunk`` whose call is still to be made; None if there is no such part."""
        if not (self._compiling or self._graph_capture is not None):
            return None
        return next((part for part in self._planned_parts(chunk) if part.steps and part.steps not in self._calls), None)

    def _log(self, error: CompilerError) -> None:
        """Log that updates are not compiled or not captured.

        This can be a warning only if the user asked for compiling with ``compile=true`` or if a capture has failed.
        """
        fall_back(error, asked=self._acceleration.compiling is True or isinstance(error, CudaGraphError))

    def _decide_whether_to_compile(self, steps: int, steps_ahead: int) -> None:
        """Decide whether to compile a library for calls of ``steps`` updates if none exists yet.

        Raises ``CompilerError`` if updates can be neither compiled nor captured.
        """
        always = self._acceleration.compiling is True
        try:
            saved_seconds = steps_ahead * self._saved_seconds(steps, always=always)
            self._may_compile = compiling_pays(saved_seconds, always=always)
        except CompilerError as error:
            # A CUDA graph is captured in a fraction of a second, so it saves time even if compiling does not.
            if self._graph_capture is None:
                raise
            self._compiling = False
            self._log(error)

    def _saved_seconds(self, steps: int, *, always: bool) -> float:
        """Return the time that compiling saves in each update.

        Raises ``CompilerError`` if the networks cannot be compiled, or if that would save too little time.
        """
        networks = self._networks
        if networks.is_solo:
            if steps == 1 and not always:
                raise NoGainError("it saves little time for a network of this size")
            return _SAVED_SECONDS_ALONE
        if networks.device.type != "cpu" or self._graph_capture is not None:
            raise CompilerError("populations are compiled only on a CPU")
        # Members with convolutions train one after another on a CPU, so one call saves nothing.
        if not isinstance(networks.stack, DenseStack):
            raise NoGainError("it saves no time for a population of convolutional networks")
        if steps == 1:
            raise NoGainError("it saves little time for a population of networks of this size")
        # All members of a stream share one call, so the saved time grows with the number of members.
        return networks.members * _SAVED_SECONDS_PER_MEMBER

    def _make_calls(self, example: ChunkIO) -> list[BoundCall]:
        """Return the calls for mini-batches like those of ``example``, which has as many as a call needs.

        They are calls of a library, or of a CUDA graph, which contains the library or the eager kernels.
        """
        self._networks.refuse_hooks()
        library = self._library(example) if self._compiling else None
        if self._graph_capture is not None:
            try:
                return self._fused_calls.capture(example, library, self._graph_capture)
            except CudaGraphError as error:
                if library is None:
                    raise
                self._graph_capture = None
                self._log(error)
        assert library is not None
        self._libraries[len(example.losses)] = library
        return self._fused_calls.bind(library)

    def _library(self, example: ChunkIO) -> CompiledCall | None:
        """Return the library; None if it cannot be made, but updates can be captured without it."""
        try:
            return self._fused_calls.library(example, may_compile=bool(self._may_compile))
        except CompilerError as error:
            # If compiling fails, a graph of the eager kernels still saves the time of their launches.
            if self._graph_capture is None:
                raise
            self._compiling = False
            self._log(error)
            return None


def _by_call(table: Tensor, steps: int) -> Tensor:
    """Reshape (B, M), B a multiple of ``steps``, to one row per call: (B / S, M, S)."""
    return table.view(-1, steps, table.shape[1]).mT.contiguous()
