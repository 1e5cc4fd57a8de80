"""The networks of a population stacked, with all that their steps go by: they learn from chunks and are evaluated."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk, EvaluationBatch
from digitlab.engine.aot_cache import CompilerError, NoGainError, fall_back, steps_per_execution, worth_making
from digitlab.engine.captured_update import CapturedSteps
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.compiled_update import CompiledStreams
from digitlab.engine.cpu_tuning import forward_cost
from digitlab.engine.cuda_graph import CudaGraphError, GraphCapture
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.device import on_device
from digitlab.engine.dropout_masks import member_masks, with_dropout
from digitlab.engine.fused_update import Numbers, Program, Rows, Shared
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.metrics import Counts, confusions
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_steps import Batch, Steps
from digitlab.engine.stacked_update import Rates, Rule, Update, ema_weights
from digitlab.engine.vmap_stack import MappedStack

# Told of an update that is done: its losses and learning rates, (M,), and its number over the whole run from 0.
Watch = Callable[[Tensor, Tensor, int], None]

# For compile=auto: what a compiled update of one member saves.
_SAVED_SECONDS = 10e-6


class StackedRunner:
    """Trains and evaluates the networks of ``members`` as one. Members of one seed must be adjacent."""

    def __init__(self, members: Sequence[MemberSpec], *, device: torch.device) -> None:
        self._device, self._members = device, len(members)
        first = members[0]
        networks = [member.network for member in members]
        self._template = with_dropout(networks)
        self._sizes = [len(list(group)) for _, group in groupby(members, key=lambda member: member.seed)]
        parameters = _stack([list(network.parameters()) for network in networks])
        self.buffers = _stack([list(network.buffers()) for network in networks])
        averages = [member.average for member in members if member.average is not None]
        self.averages = _stack([list(average.parameters()) for average in averages])
        kind: type[DenseStack | MappedStack] = DenseStack if DenseStack.fits(self._template) else MappedStack
        self.stack = kind(self._template, parameters, buffers=self.buffers, stream_sizes=self._sizes)
        self._normalise, self._dtype = first.normalise, first.normalise.scale.dtype
        self._image_shape, self._classes = first.image_shape, first.classes
        losses = [member.loss for member in members]
        self.loss = StackedLoss.of(losses, device=device, dtype=self._dtype)
        self._masks = member_masks(
            networks, seeds=[member.seed for member in members], image_shape=self._image_shape,
            device=device, dtype=self._dtype,
        )  # fmt: skip
        self._stream_of = torch.tensor([s for s, size in enumerate(self._sizes) for _ in range(size)], device=device)
        updates = [member.optimizer for member in members]
        self.update = Update(Rule.of(updates, networks, device=device), updates, self.stack.parameters)
        self._given_rule = Rule.of(updates, networks, device=device, given=True)
        self._rates = Rates(
            updates, [member.schedule for member in members], steps_per_epoch=first.steps_per_epoch,
            total_steps=[member.total_steps for member in members],
        )  # fmt: skip
        self._ema_decay = _given([member.ema_decay for member in members])
        clip_norm = _given([member.gradient_clip_norm for member in members])
        self._clip_norm = None if clip_norm is None else clip_norm.to(device)
        self._steps = Steps(
            stack=self.stack, loss=self.loss, rule=self.update.rule, update=self.update, averages=self.averages,
            clip_norm=self._clip_norm,
        )  # fmt: skip
        self.compiling: bool | Literal["auto"] = False
        self.graph_capture: GraphCapture | None = None
        self.calls: CompiledStreams | CapturedSteps | None = None

    @cached_property
    def flops(self) -> int:
        """Multiplications and additions of one member's forward pass of an image."""
        return forward_cost(self._template, self._image_shape, self._normalise.scale).flops

    def row(self, member: int) -> Iterator[list[Tensor]]:
        """The parameters, the buffers and the averaged parameters of a member."""
        for tensors in (self.stack.parameters, self.buffers, self.averages):
            yield [tensor[member] for tensor in tensors]

    def changed(self) -> list[Tensor]:
        """All that updates change."""
        state = self.update.state
        moments = [tensor for tensors in state.entries.values() for tensor in tensors]
        return [*self.stack.parameters, *self.buffers, *self.averages, state.step, *moments]

    def take_over(self, former: "StackedRunner", members: Tensor) -> None:
        """Go on for those ``members``, int64, of ``former`` that are left here."""
        self.update.keep(members, former.update)
        self.compiling, self.graph_capture, before = former.compiling, former.graph_capture, former.calls
        # Where no one is left who drops out, or none with momentum, a call is given no masks or no buffers any more. A
        # recording is of all who were there.
        alike = (self._masks is None) == (former._masks is None)
        alike = alike and self.update.state.entries.keys() == former.update.state.entries.keys()
        if isinstance(before, CompiledStreams) and alike:
            self.calls = self._compiled(before.program, before.steps, before.numbers_of(members))
            self.calls.call = before.call

    # Learning ---------------------------------------------------------------------------------------------------------

    def run_chunk(
        self, chunks: Sequence[Chunk], *, first: int, stop_signal: StopSignal, watch: Watch | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One update for each mini-batch of the ``chunks``, one a stream; ``first`` is its number over the whole run.

        Returns logits (M, n of all, K), and losses and learning rates (B, M), these on the host: of fewer mini-batches
        after a signal.
        """
        count, sizes = len(chunks[0].sizes), chunks[0].sizes
        table = self._rates.table(first, count)
        ema_weight = (
            torch.zeros_like(table)
            if self._ema_decay is None
            else ema_weights(self._ema_decay, first=first, steps=count)
        )
        chunk_io = ChunkIO(
            chunks=chunks, first=first, rates=on_device(table, self._device),
            ema_weight=on_device(ema_weight, self._device),
            losses=torch.empty(table.shape, dtype=self._dtype, device=self._device),
            # In one tensor, as small ones that stay alive would break up the memory the steps go through.
            logits=torch.empty(self._members, sum(sizes), self._classes, dtype=self._dtype, device=self._device),
        )  # fmt: skip
        begin = end = count
        # Whoever watches sees each update before the next one.
        calls = self.calls if watch is None else None
        if calls is not None:
            begin, end = chunks[0].full_executions(calls.steps)
        done = self._learn_eagerly(chunk_io.part(0, begin), stop_signal, watch)
        if calls is not None and done == begin < end:
            done += calls.run_chunk(chunk_io.part(begin, end), stop_signal)
            self.update.state.step.fill_(first + done)
        if done == end < count:
            done += self._learn_eagerly(chunk_io.part(end, count), stop_signal, watch)
        self.update.state.step.fill_(first + done)
        return chunk_io.logits[:, : sum(sizes[:done])], chunk_io.losses[:done], table[:done]

    def _learn_eagerly(self, chunk_io: ChunkIO, stop_signal: StopSignal, watch: Watch | None) -> int:
        """Mini-batch by mini-batch; says how many it has learnt from: fewer after a signal."""
        sizes = chunk_io.chunks[0].sizes
        if not sizes:
            return 0
        done = 0
        met: list[Sequence[Tensor]] = []
        for batch, rows in zip(self._batches(chunk_io, met), chunk_io.logits.split(sizes, 1), strict=True):
            outputs = self._steps(batch, chunk_io.rates[done], chunk_io.ema_weight[done])
            rows.copy_(outputs)
            if watch is not None:
                watch(self.loss(outputs, batch.targets).mean(1), chunk_io.rates[done], chunk_io.first + done)
            done += 1
            if stop_signal.received is not None:
                break
        targets = self.by_member([torch.cat(stream) for stream in zip(*met[:done], strict=True)])
        losses = self.loss(chunk_io.logits[:, : sum(sizes[:done])], targets)
        torch.stack([own.mean(1) for own in losses.split(sizes[:done], 1)], out=chunk_io.losses[:done])
        return done

    def _batches(self, chunk_io: ChunkIO, met: list[Sequence[Tensor]]) -> Iterator[Batch]:
        """The mini-batches of ``chunk_io``; their targets, (n, …) a stream, are added to ``met``."""
        streams = [chunk.minibatches(self._normalise, self.loss.encode) for chunk in chunk_io.chunks]
        for number, streams_of_one in enumerate(zip(*streams, strict=True)):
            images, targets, _ = zip(*streams_of_one, strict=True)
            met.append(targets)
            size = chunk_io.chunks[0].sizes[number]
            masks = self._masks.draw(chunk_io.first + number, size) if self._masks is not None else ()
            yield Batch(images, self.by_member(targets), masks)

    def by_member(self, streams: Sequence[Tensor]) -> Tensor:
        """Of tensors, one a stream, the tensor (M, …) of what each member has."""
        return torch.stack(list(streams)).index_select(0, self._stream_of)

    # Several updates in one call --------------------------------------------------------------------------------------

    def prepare(self, chunks: Sequence[Chunk], *, steps_ahead: int) -> None:
        """Capture or compile updates for ``chunks`` like these, if asked for and not done before.

        ``compiling="auto"`` decides by ``steps_ahead``. A failure is logged, and training continues without.
        """
        if self.calls is not None or not (self.graph_capture or self.compiling):
            return
        asked = self.compiling is True
        try:
            if self._device.type != "cpu" and asked:
                raise CompilerError("populations are compiled on a processor only")
            if self.graph_capture is not None:
                self.calls = self._record(chunks, self.graph_capture)
            else:
                self.calls = self._find(chunks[0], steps_ahead=steps_ahead)
        except CompilerError as error:
            if isinstance(error, CudaGraphError):
                self.graph_capture = None
            self.compiling = False
            fall_back(error, asked=asked or isinstance(error, CudaGraphError))

    def _find(self, chunk: Chunk, *, steps_ahead: int) -> CompiledStreams | None:
        """Calls of a library for mini-batches as in ``chunk``; None where it has too few of them."""
        make = worth_making(steps_ahead * self._members * _SAVED_SECONDS, always=self.compiling is True)
        if not isinstance(self.stack, DenseStack):
            raise NoGainError("convolutions gain nothing together")
        steps = steps_per_execution(chunk.plan.batch_size * self.flops)
        if steps == 1:
            raise NoGainError("networks this large gain little together")
        begin, end = chunk.full_executions(steps)
        if begin == end:
            return None
        program = Program(stack=self.stack, normalise=self._normalise, loss=self.loss)
        compiled = self._compiled(program, steps, Numbers(self._given_rule, self.loss.smoothing, self._clip_norm))
        compiled.find(chunk.part(begin, begin + steps), make=make)
        return compiled

    def _record(self, chunks: Sequence[Chunk], graph_capture: GraphCapture) -> CapturedSteps | None:
        """Recorded calls for mini-batches as in ``chunks``; None where they have too few."""
        batch_size = chunks[0].plan.batch_size
        steps = steps_per_execution(batch_size * self.flops)
        begin, end = chunks[0].full_executions(steps)
        if begin == end:
            return None
        recorded = CapturedSteps(
            updates=self._steps, state=self.changed(), normalise=self._normalise, loss=self.loss, masks=self._masks,
            by_member=self.by_member, steps=steps,
        )  # fmt: skip
        recorded.record([chunk.part(begin, end) for chunk in chunks], graph_capture)
        return recorded

    def _compiled(self, program: Program, steps: int, numbers: Numbers) -> CompiledStreams:
        rows = Rows(self.stack.parameters, self.buffers, self.averages, self.update.state.entries, numbers)
        shared = Shared(self.update.state.step.clone(), self._normalise.scale, self._normalise.shift)
        return CompiledStreams(
            program, rows, shared, steps=steps, stream_sizes=self._sizes, masks=self._masks, encode=self.loss.encode
        )

    # Evaluation -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, batches: Iterable[EvaluationBatch]) -> list[Counts]:
        """The counts of each member over the images of ``batches``."""
        confusion = torch.zeros(self._members, self._classes, self._classes, dtype=torch.int64, device=self._device)
        sums = torch.zeros(self._members, dtype=torch.float64, device=self._device)
        weights = self.averages or self.stack.parameters
        for batch in batches:
            logits = self.stack.evaluate(self._normalise(batch.images), weights)
            targets = self.loss.encode(batch.labels, self._classes)
            losses = self.loss(logits, targets.expand(self._members, *targets.shape))
            sums += losses.double().sum(1)
            confusion += confusions(logits, batch.labels.expand(self._members, -1))
        return [Counts(own, loss_sum) for own, loss_sum in zip(confusion, sums.tolist(), strict=True)]


def _given(values: Sequence[float | None]) -> Tensor | None:
    """float64 (M,), on the host; None where no member has any: all have, or none."""
    given = [value for value in values if value is not None]
    return torch.tensor(given, dtype=torch.float64) if given else None


def _stack(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of lists of tensors, one a member, the list of them stacked; each keeps its own layout, channels last or not."""
    stacked = []
    for own in zip(*tensors, strict=True):
        first = own[0]
        whole = first.new_empty_strided((len(own), *first.shape), (first.numel(), *first.stride()))
        stacked.append(torch.stack([tensor.detach() for tensor in own], out=whole))
    return stacked
