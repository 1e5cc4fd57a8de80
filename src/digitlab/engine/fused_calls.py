"""Makes the calls of ``FusedUpdates``: loads or compiles a library, or captures a CUDA graph, of ``UpdateFunction``.

M members, B mini-batches in a chunk, S updates in a call.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from digitlab.engine.aot_cache import CompiledCall, FlatFunction, compile_or_load
from digitlab.engine.chunk_io import ChunkIO
from digitlab.engine.cuda_graph import CudaGraph, GraphCapture
from digitlab.engine.fused_update import (
    Inputs,
    MemberSettings,
    MemberState,
    SharedState,
    UpdateFunction,
    flatten_arguments,
    map_tensors,
    tensors_in,
)
from digitlab.engine.stacked_networks import StackedNetworks

# The compiler sees so many members of a population. With fewer than two it would specialise the library to that number.
_EXAMPLE_MEMBERS = 16


class BoundCall(NamedTuple):
    """A call that changes the rows ``members`` of the stacked tensors; it takes the inputs of these ``streams``."""

    members: slice
    streams: slice
    call: CompiledCall


class FusedCalls:
    """Makes calls that update ``networks`` in place.

    ``settings`` are those of the members in the form that a library takes, by default in the form that fits other
    sweeps.
    """

    def __init__(self, networks: StackedNetworks, settings: MemberSettings | None = None) -> None:
        self._networks = networks
        # Where members agree, plain numbers are faster. As tensors they are no part of a library.
        own = MemberSettings(networks.compiled_rule, networks.loss.smoothing, networks.clip_norm)
        self._settings = {True: settings or own, False: own._replace(rule=networks.optimizer.rule)}
        self._shared = SharedState(networks.optimizer.state.step, networks.normalise.scale, networks.normalise.shift)

    def for_remaining(self, networks: StackedNetworks, members: Tensor) -> "FusedCalls | None":
        """The same for ``networks`` of ``members``, int64 indices into these; None if no library fits both.

        A library fits if its arguments have the same structure. If the last member with dropout or with momentum has
        left, there are no masks or no moments any more.
        """
        same_masks = (self._networks.masks is None) == (networks.masks is None)
        if not same_masks or self._networks.optimizer.state.entries.keys() != networks.optimizer.state.entries.keys():
            return None
        return FusedCalls(networks, map_tensors(self._settings[True], lambda rows: rows.index_select(0, members)))

    def inputs(self, streams: Sequence[tuple[Tensor, Tensor]], first: int, rates: Tensor, ema_weight: Tensor) -> Inputs:
        """The inputs of a call for all members: for each of ``streams`` pixels and targets, and numbers (M, S).

        ``first`` is the number of the first mini-batch, counted from 0 over the whole run.
        """
        # A single stream, as in every solo run, needs no copy.
        pixels, targets = (
            column[0].unsqueeze(0) if len(column) == 1 else torch.stack(column) for column in zip(*streams, strict=True)
        )
        # Drawn here, with the generator of an eager run: a library or graph would draw other numbers.
        masks = self._networks.masks
        drawn = [] if masks is None else masks.draw_steps(first, rates.shape[1], pixels.shape[2])
        return Inputs(pixels, targets, drawn, rates, ema_weight)

    def library(self, example: ChunkIO, *, may_compile: bool) -> CompiledCall:
        """Load the library for calls with mini-batches like those of ``example``, or compile it.

        One library serves all streams of a population, and the members that remain when others have left. Raises
        ``CompilerError`` if it cannot be compiled, or if it does not exist and ``may_compile`` is false.
        """
        steps, alone = len(example.losses), self._networks.alone
        state, inputs = self._state(compiled=True), self._example(example).part(slice(None), slice(0, 1))
        if not alone:
            # The size of the first dimension stays open, so the members of the example need not be different.
            state = map_tensors(state, _repeat_first_member)
            inputs = Inputs(*inputs[:2], *map_tensors(inputs[2:], _repeat_first_member))
        of_state = tensors_in(state)

        # The tensors themselves serve as examples. The tracer copies no data, and the library only gets to know shapes.
        def examples(number: int) -> list[Tensor]:
            return [*of_state, *self._shared, *(tensor[:, :number].contiguous() for tensor in inputs.tensors)]

        # Everything that has a row for each member of a population may have another number of rows in a later call.
        by_member = len(inputs.tensors) - 2
        dynamic = [*[True] * len(of_state), *[False] * (len(self._shared) + 2), *[True] * by_member]
        return compile_or_load(
            lambda number: self._function(number, compiled=True), examples, steps=steps, may_compile=may_compile,
            dynamic=None if alone else dynamic,
        )  # fmt: skip

    def bound(self, library: CompiledCall) -> list[BoundCall]:
        """Calls of ``library`` for each stream, whose members share pixels: the first layer is one matrix product."""
        if self._networks.alone:
            state = [*tensors_in(self._state(compiled=True)), *self._shared]
            return [BoundCall(slice(None), slice(None), _with_state(library, state))]
        sizes, calls = self._networks.stream_sizes, []
        for stream, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
            # A stream's members are adjacent, so their rows are views and a call changes the stacked tensors in place.
            members = slice(end - size, end)
            state = [*(rows[members] for rows in tensors_in(self._state(compiled=True))), *self._shared]
            calls.append(BoundCall(members, slice(stream, stream + 1), _with_state(library, state)))
        return calls

    def captured(self, example: ChunkIO, library: CompiledCall | None, graph_capture: GraphCapture) -> list[BoundCall]:
        """A graph of ``library``, which then serves the only stream, or of eager kernels for all streams at once.

        Its trial replay makes the updates of ``example`` and undoes them: with real data and learning rates it moves
        the weights, so that a wrong replay shows. Raises ``CudaGraphError`` if it does, or if the capture fails.
        """
        call = library
        if call is None:
            # One graph for all streams: a replay costs the same launch for any number of members.
            function = self._function(len(example.losses), self._networks.stream_sizes, compiled=False)
            call = _taking_list(function)
        # Memory addresses are part of a graph. The networks keep their tensors in place for as long as they live.
        state = [*tensors_in(self._state(compiled=library is not None)), *self._shared]
        graph = CudaGraph(
            _with_state(call, state), state=self._networks.state_tensors(), inputs=self._example(example).tensors,
            graph_capture=graph_capture,
        )  # fmt: skip
        return [BoundCall(slice(None), slice(None), graph)]

    def _function(self, steps: int, stream_sizes: Sequence[int] | None = None, *, compiled: bool) -> FlatFunction:
        networks = self._networks
        function = UpdateFunction(
            stack=networks.stack,
            normalise=networks.normalise,
            loss=networks.loss,
            stream_sizes=stream_sizes,
            single=networks.alone,
        )
        return flatten_arguments(function.build(steps), (self._state(compiled=compiled), self._shared))

    def _state(self, *, compiled: bool) -> MemberState:
        networks = self._networks
        state = MemberState(
            networks.stack.parameters, networks.buffers, networks.averages, networks.optimizer.state.entries,
            self._settings[compiled],
        )  # fmt: skip
        # The same memory without the dimension of members.
        return map_tensors(state, lambda rows: rows.squeeze(0)) if networks.alone else state

    def _example(self, example: ChunkIO) -> Inputs:
        """The inputs of one call with all mini-batches of ``example``."""
        streams = [next(chunk.blocks(len(example.losses), self._networks.loss.encode)) for chunk in example.chunks]
        rates, ema_weight = (table.T.contiguous() for table in (example.rates, example.ema_weight))
        return self.inputs(streams, example.first, rates, ema_weight)


# A graph holds these functions. They refer to nothing but their arguments (see ``UpdateFunction`` for the reason).


def _taking_list(function: FlatFunction) -> CompiledCall:
    return lambda tensors: list(function(*tensors))


def _with_state(call: CompiledCall, state: Sequence[Tensor]) -> CompiledCall:
    """``call`` for the inputs alone."""
    return lambda inputs: call([*state, *inputs])


def _repeat_first_member(rows: Tensor) -> Tensor:
    """The first row of (M, ...), repeated as often as the compiler needs members."""
    # Distinct memory for each: the tracer would take one tensor in two places for one argument.
    return rows[:1].expand(_EXAMPLE_MEMBERS, *rows.shape[1:]).contiguous()
