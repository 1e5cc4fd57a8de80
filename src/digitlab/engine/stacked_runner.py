"""Trains and evaluates the stacked networks of a population: eagerly, compiled, or as a CUDA graph.

``Population`` gives it one chunk of mini-batches per stream. It is the counterpart of ``ChunkRunner`` for M networks.
M members, B mini-batches in a chunk, n images in a mini-batch; C, H, W; K classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk
from digitlab.data.evaluation import EvaluationBatch
from digitlab.engine.aot_cache import CompilerError, NoGainError, compiling_pays, fall_back, steps_per_execution
from digitlab.engine.captured_update import CapturedSteps, CapturedWork
from digitlab.engine.chunk_io import ChunkIO, leading_full_batches
from digitlab.engine.compiled_update import CompiledStreams
from digitlab.engine.cuda_graph import CudaGraphError, GraphCapture
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.fused_update import MemberSettings, MemberState, SharedState, StackedUpdateFunction
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.metrics import Counts
from digitlab.engine.stacked_evaluation import evaluate_stack
from digitlab.engine.stacked_networks import StackedNetworks
from digitlab.engine.stacked_optimizer import ema_weights
from digitlab.engine.stacked_update import StackedBatch

# Called after each update with its losses and learning rates, (M,), and its number, counted from 0 over the whole run.
UpdateCallback = Callable[[Tensor, Tensor, int], None]

# For compile=auto: what compiling saves in each update of one member.
_SAVED_SECONDS = 10e-6
# A population that members have left captures its updates again only for at least so many. Warm-up, capture and trial
# replay run eight updates half a dozen times; the number is an estimate of the replayed updates that this costs.
_FEWEST_STEPS_TO_CAPTURE_AGAIN = 100


class StackedRunner(StackedNetworks):
    """Trains and evaluates the networks of ``members`` as one.

    ``compiling`` has updates compiled, and "auto" only if that pays off; ``graph_capture``, if given, captures them as
    CUDA graphs instead. Both happen in ``prepare``.
    """

    def __init__(
        self,
        members: Sequence[MemberSpec],
        *,
        device: torch.device,
        compiling: bool | Literal["auto"] = False,
        graph_capture: GraphCapture | None = None,
    ) -> None:
        super().__init__(members, device=device)
        self._compiling, self._graph_capture = compiling, graph_capture
        self.fused_updates: CompiledStreams | CapturedSteps | None = None
        # A graph of one update, for full mini-batches that fill no whole call.
        self._single_updates: CapturedSteps | None = None
        self._has_predecessor = False

    def inherit_from(self, former: "StackedRunner", members: Tensor) -> None:
        """Continue for ``members``, int64 indices into the ``former`` runner's, which are all members of this one."""
        self.optimizer.inherit(members, former.optimizer)
        self._has_predecessor = True
        self._compiling, self._graph_capture, before = former._compiling, former._graph_capture, former.fused_updates
        # The library fits if the arguments have the same structure. If the last member with dropout or with momentum
        # has left, there are no masks or no moments any more. A CUDA graph never fits: it contains all members.
        same_arguments = (self._masks is None) == (former._masks is None)
        same_arguments &= self.optimizer.state.entries.keys() == former.optimizer.state.entries.keys()
        if isinstance(before, CompiledStreams) and same_arguments:
            compiled = self._compiled(before.update_function, before.steps, before.select_settings(members))
            compiled.call = before.call
            self.fused_updates = compiled

    # Training ---------------------------------------------------------------------------------------------------------

    def run_chunk(
        self, chunks: Sequence[Chunk], *, first: int, stop_signal: StopSignal, callback: UpdateCallback | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one update for each mini-batch of the ``chunks``, one chunk per stream.

        ``first`` is the number of the first mini-batch, counted from 0 over the whole run. Returns logits (M, all
        images, K) on the device, losses (B, M) on the device, and learning rates (B, M) on the host; after a signal
        those of fewer mini-batches. With ``callback`` all updates are eager, and it is called after each of them.
        """
        count, sizes = len(chunks[0].sizes), chunks[0].sizes
        chunk_io, table = self._chunk_io(chunks, first=first)
        # Fused calls make a fixed number of updates; the mini-batches before and after them run one by one.
        begin = end = count
        fused = self.fused_updates if callback is None else None
        if fused is not None:
            begin, end = chunks[0].full_executions(fused.steps)
        done = self._run_one_by_one(chunk_io.part(0, begin), stop_signal, callback)
        if fused is not None and done == begin < end:
            done += fused.run_chunk(chunk_io.part(begin, end), stop_signal)
            self.optimizer.state.step.fill_(first + done)
        if done == end < count:
            done += self._run_one_by_one(chunk_io.part(end, count), stop_signal, callback)
        self.optimizer.state.step.fill_(first + done)
        return chunk_io.logits[:, : sum(sizes[:done])], chunk_io.losses[:done], table[:done]

    def _chunk_io(self, chunks: Sequence[Chunk], *, first: int) -> tuple[ChunkIO, Tensor]:
        """The inputs and empty outputs of ``chunks``, and the learning rates (B, M) on the host."""
        count = len(chunks[0].sizes)
        # Schedules are evaluated on the host for the whole chunk: one copy to the device instead of one per update.
        table = self._learning_rates.table(first, count)
        ema_weight = (
            torch.zeros_like(table)
            if self._ema_decay is None
            else ema_weights(self._ema_decay, first=first, steps=count)
        )
        chunk_io = ChunkIO.empty(chunks, first=first, rates=table, ema_weight=ema_weight, like=self._normalise.scale)
        return chunk_io, table

    def _run_one_by_one(self, chunk_io: ChunkIO, stop_signal: StopSignal, callback: UpdateCallback | None) -> int:
        """Make the updates around fused calls: by graphs of one update where there are any, otherwise eagerly."""
        if self._single_updates is None or callback is not None:
            return self._run_eagerly(chunk_io, stop_signal, callback)
        full = leading_full_batches(chunk_io.chunks[0])
        done = self._single_updates.run_chunk(chunk_io.part(0, full), stop_signal) if full else 0
        self.optimizer.state.step.fill_(chunk_io.first + done)
        if done < full:
            return done
        return done + self._run_eagerly(chunk_io.part(full, len(chunk_io.losses)), stop_signal, callback)

    def _run_eagerly(self, chunk_io: ChunkIO, stop_signal: StopSignal, callback: UpdateCallback | None) -> int:
        """Make one update after the other; return how many. After a signal these are not all."""
        sizes = chunk_io.chunks[0].sizes
        if not sizes:
            return 0
        done = 0
        seen_targets: list[Sequence[Tensor]] = []
        for batch, logits in zip(self._batches(chunk_io, seen_targets), chunk_io.logits.split(sizes, 1), strict=True):
            outputs = self._update(batch, chunk_io.rates[done], chunk_io.ema_weight[done])
            logits.copy_(outputs)
            if callback is not None:
                callback(self.loss(outputs, batch.targets).mean(1), chunk_io.rates[done], chunk_io.first + done)
            done += 1
            if stop_signal.received is not None:
                break
        # The losses of all mini-batches are computed at once, from the logits: training needs only their gradients.
        targets = self.expand_to_members([torch.cat(stream) for stream in zip(*seen_targets[:done], strict=True)])
        losses = self.loss(chunk_io.logits[:, : sum(sizes[:done])], targets)
        torch.stack([of_batch.mean(1) for of_batch in losses.split(sizes[:done], 1)], out=chunk_io.losses[:done])
        return done

    def _batches(self, chunk_io: ChunkIO, seen_targets: list[Sequence[Tensor]]) -> Iterator[StackedBatch]:
        """The mini-batches of ``chunk_io``; appends the targets of each, (n, ...) per stream, to ``seen_targets``."""
        streams = [chunk.minibatches(self._normalise, self.loss.encode) for chunk in chunk_io.chunks]
        for number, stream_batches in enumerate(zip(*streams, strict=True)):
            images, targets, _ = zip(*stream_batches, strict=True)
            seen_targets.append(targets)
            size = chunk_io.chunks[0].sizes[number]
            masks = self._masks.draw(chunk_io.first + number, size) if self._masks is not None else ()
            yield StackedBatch(images, self.expand_to_members(targets), masks)

    # Several updates in one call --------------------------------------------------------------------------------------

    def prepare(self, chunks: Sequence[Chunk], *, first: int, steps_ahead: int) -> None:
        """Capture or compile updates for ``chunks`` like these, if that is wanted and not done yet.

        ``first`` is the number of their first mini-batch, counted from 0 over the whole run.
        ``compiling="auto"`` decides by ``steps_ahead``. A failure is logged, and training continues eagerly.
        """
        if not (self._graph_capture or self._compiling):
            return
        if self.fused_updates is not None:
            self._prepare_single_updates(chunks, first=first)
            return
        # Each time members leave, the others would have to capture anew, which costs as much as dozens of updates.
        if self._graph_capture is not None and self._has_predecessor and steps_ahead < _FEWEST_STEPS_TO_CAPTURE_AGAIN:
            return
        asked = self._compiling is True
        try:
            if self._device.type != "cpu" and asked:
                raise CompilerError("populations are compiled on a processor only")
            if self._graph_capture is not None:
                self.fused_updates = self._capture(chunks, self._graph_capture, first=first)
                self._prepare_single_updates(chunks, first=first)
            else:
                self.fused_updates = self._load_compiled(chunks[0], steps_ahead=steps_ahead)
        except CompilerError as error:
            if isinstance(error, CudaGraphError):
                self._graph_capture = None
            # Compiling is not tried again, as the next chunk would fail in the same way. A graph may still be captured.
            self._compiling = False
            fall_back(error, asked=asked or isinstance(error, CudaGraphError))

    def _load_compiled(self, chunk: Chunk, *, steps_ahead: int) -> CompiledStreams | None:
        """Load or compile the library for mini-batches as in ``chunk``; None if the chunk has too few for one call."""
        # All members share one call per stream, so what is saved grows with their number.
        may_compile = compiling_pays(steps_ahead * self._members * _SAVED_SECONDS, always=self._compiling is True)
        # Members with convolutions train one after another on a CPU, so one call saves nothing.
        if not isinstance(self.stack, DenseStack):
            raise NoGainError("convolutions gain nothing together")
        steps = steps_per_execution(chunk.plan.batch_size * self.flops, self._device)
        if steps == 1:
            raise NoGainError("networks this large gain little together")
        begin, end = chunk.full_executions(steps)
        if begin == end:
            return None
        # The function takes all tensors as arguments, so it stays valid when members leave.
        update_function = StackedUpdateFunction(stack=self.stack, normalise=self._normalise, loss=self.loss)
        settings = MemberSettings(self._compiled_rule, self.loss.smoothing, self._clip_norm)
        compiled = self._compiled(update_function, steps, settings)
        compiled.load(chunk.part(begin, begin + steps), may_compile=may_compile)
        return compiled

    def _capture(self, chunks: Sequence[Chunk], graph_capture: GraphCapture, *, first: int) -> CapturedSteps | None:
        """Capture updates for mini-batches as in ``chunks``; None if a chunk has too few for one call."""
        steps = steps_per_execution(chunks[0].plan.batch_size * self.flops, self._device)
        begin, end = chunks[0].full_executions(steps)
        if begin == end:
            return None
        chunk_io, _ = self._chunk_io(chunks, first=first)
        return self._captured(chunk_io.part(begin, end), graph_capture, steps)

    def _prepare_single_updates(self, chunks: Sequence[Chunk], *, first: int) -> None:
        """Capture a graph of one update, if there is one of several and ``chunks`` do not fill its calls."""
        fused = self.fused_updates
        if self._graph_capture is None or self._single_updates is not None or not isinstance(fused, CapturedSteps):
            return
        begin, end = chunks[0].full_executions(fused.steps)
        full = leading_full_batches(chunks[0])
        if begin == 0 and end == full:
            return
        chunk_io, _ = self._chunk_io(chunks, first=first)
        try:
            self._single_updates = self._captured(chunk_io.part(0, full), self._graph_capture, 1) if full else None
        except CudaGraphError as error:
            self._graph_capture = None
            fall_back(error, asked=True)

    def _captured(self, chunk_io: ChunkIO, graph_capture: GraphCapture, steps: int) -> CapturedSteps:
        """Capture ``steps`` updates of ``chunk_io``, which has at least so many mini-batches of the full size.

        With the learning rates of these mini-batches the trial replay moves the weights, so that it tells whether the
        graph really makes updates.
        """
        # Memory addresses are part of a graph. The runner keeps its tensors in place for as long as it lives.
        work = CapturedWork(
            update=self._update, normalise=self._normalise, loss=self.loss, stream_of=self._stream_of, steps=steps
        )
        captured = CapturedSteps(work=work, state=self.state_tensors(), masks=self._masks)
        captured.capture(chunk_io, graph_capture)
        return captured

    def _compiled(
        self, update_function: StackedUpdateFunction, steps: int, settings: MemberSettings
    ) -> CompiledStreams:
        """Compiled updates that work on this runner's own tensors; the library is loaded later."""
        members = MemberState(
            self.stack.parameters, self.buffers, self.averages, self.optimizer.state.entries, settings
        )
        # Streams advance the step counter one after the other, so they get a counter of their own.
        shared = SharedState(self.optimizer.state.step.clone(), self._normalise.scale, self._normalise.shift)
        return CompiledStreams(
            update_function, members, shared, steps=steps, stream_sizes=self._sizes, masks=self._masks,
            encode=self.loss.encode,
        )  # fmt: skip

    # Evaluation -------------------------------------------------------------------------------------------------------

    def evaluate(self, batches: Iterable[EvaluationBatch]) -> list[Counts]:
        """The counts of each member over the images of ``batches``, by the averaged weights if members have them."""
        weights = self.averages or self.stack.parameters
        return evaluate_stack(
            self.stack, weights, batches, normalise=self._normalise, loss=self.loss, classes=self._classes
        )
