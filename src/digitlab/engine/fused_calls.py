"""Makes the functions that ``FusedUpdates`` calls to make several updates of stacked networks at once.

Such a function, a *call*, runs a library or replays a CUDA graph. Both are made from ``UpdateFunction``: a library is
its compiled form on disk, a graph contains its operations. Stacked networks are M networks, the members, whose tensors
are stacked to (M, ...). Members with the same seed share a stream of mini-batches. B mini-batches in a chunk, S updates
in a call.
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

# A population is compiled with this number of members as an example; the library then works for any number. The
# compiler would take an example of one member as the only number that is allowed.
_EXAMPLE_MEMBERS = 16


class BoundCall(NamedTuple):
    """A call that updates the rows ``members`` of the stacked tensors, from the inputs of these ``streams``."""

    members: slice
    streams: slice
    call: CompiledCall


class FusedCalls:
    """Makes calls that update ``networks`` in place.

    ``settings`` are the members' settings for the library; by default they are taken from ``networks``. There, those
    that sweeps usually vary are tensors, which are arguments of the library. So the library does not contain their
    values, and other sweeps can use it, too.
    """

    def __init__(self, networks: StackedNetworks, settings: MemberSettings | None = None) -> None:
        self._networks = networks
        # There are two forms of the update rule. In ``optimizer.rule``, a setting that is equal in all members is a
        # plain number, because eager kernels are then faster. A library would contain that number, so it gets
        # ``compiled_rule``, which has a tensor instead.
        default = MemberSettings(networks.compiled_rule, networks.loss.smoothing, networks.clip_norm)
        self._compiled_settings = settings or default
        self._eager_settings = default._replace(rule=networks.optimizer.rule)
        self._shared = SharedState(networks.optimizer.state.step, networks.normalise.scale, networks.normalise.shift)

    def for_remaining(self, networks: StackedNetworks, members: Tensor) -> "FusedCalls | None":
        """Return the calls for ``networks``, the ``members`` that remain in a population after others have left.

        ``members``, int64, are indices into the members of this object. Returns None if the libraries of this object do
        not fit ``networks``, because their arguments would differ: there are no masks any more after the last member
        with dropout has left, and no momentum buffers after the last one with momentum.
        """
        same_masks = (self._networks.masks is None) == (networks.masks is None)
        if not same_masks or self._networks.optimizer.state.entries.keys() != networks.optimizer.state.entries.keys():
            return None
        # Select the settings of the remaining members; do not stack them again. A new stack could have a plain number
        # where the library takes a tensor, for example if weight decay is 0 in all remaining members.
        return FusedCalls(networks, map_tensors(self._compiled_settings, lambda rows: rows.index_select(0, members)))

    def inputs(self, streams: Sequence[tuple[Tensor, Tensor]], first: int, rates: Tensor, ema_weight: Tensor) -> Inputs:
        """Return the inputs of a call for all members.

        ``streams`` has pixels (S, n, C, H, W) and encoded targets (S, n, ...) for each stream; ``rates`` and
        ``ema_weight`` are (M, S). ``first`` is the number of the first mini-batch, counted from 0 over the whole run.
        """
        # A single stream, as in every solo run, needs no copy.
        pixels, targets = (
            tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)
            for tensors in zip(*streams, strict=True)
        )
        # Dropout masks are drawn here, with the generator of an eager run. A library or graph would draw other numbers.
        dropout_masks = self._networks.masks
        masks = [] if dropout_masks is None else dropout_masks.draw_steps(first, rates.shape[1], pixels.shape[2])
        return Inputs(pixels, targets, masks, rates, ema_weight)

    def library(self, example: ChunkIO, *, may_compile: bool) -> CompiledCall:
        """Load the library for calls with mini-batches like those of ``example``, or compile it.

        ``example`` has as many mini-batches as a call. A call of the library trains the members of one stream, whatever
        their number. So one library serves all streams of a population, also after members have left. Raises
        ``CompilerError`` if it cannot be compiled, or if it does not exist and ``may_compile`` is false.
        """
        steps, is_solo = len(example.losses), self._networks.is_solo
        state = self._state(compiled=True)
        all_members, first_stream = slice(None), slice(0, 1)
        inputs = self._example_inputs(example).part(all_members, first_stream)
        if not is_solo:
            # The number of members stays open, so copies of the first one can stand for all members.
            state = map_tensors(state, _repeat_first_member)
            pixels, targets, *inputs_of_members = inputs
            inputs = Inputs(pixels, targets, *map_tensors(inputs_of_members, _repeat_first_member))
        state_tensors = tensors_in(state)

        # ``compile_or_load`` needs examples of one update to compute the name of the library, and examples of all
        # updates to compile it. The second dimension of each input counts the updates. The tensors themselves serve as
        # examples: tracing copies no data and uses only their shapes and dtypes.
        def examples(updates: int) -> list[Tensor]:
            return [*state_tensors, *self._shared, *(tensor[:, :updates].contiguous() for tensor in inputs.tensors)]

        # ``dynamic`` says which arguments have a row for each member, and may have another number of rows in a later
        # call. The other ones are the shared tensors, and the first two inputs: pixels and targets have a row for the
        # stream.
        member_inputs = len(inputs.tensors) - 2
        dynamic = [*[True] * len(state_tensors), *[False] * (len(self._shared) + 2), *[True] * member_inputs]
        return compile_or_load(
            lambda updates: self._function(updates, compiled=True), examples, steps=steps, may_compile=may_compile,
            dynamic=None if is_solo else dynamic,
        )  # fmt: skip

    def bind(self, library: CompiledCall) -> list[BoundCall]:
        """Return a call of ``library`` for each stream.

        The members of a stream get their pixels only once, so that their first layers are one matrix product. A solo
        run has one stream.
        """
        if self._networks.is_solo:
            state = [*tensors_in(self._state(compiled=True)), *self._shared]
            return [BoundCall(slice(None), slice(None), _with_state(library, state))]
        sizes, calls = self._networks.stream_sizes, []
        for stream, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
            # A stream's members are adjacent, so their rows are views and a call changes the stacked tensors in place.
            members = slice(end - size, end)
            state = [*(rows[members] for rows in tensors_in(self._state(compiled=True))), *self._shared]
            calls.append(BoundCall(members, slice(stream, stream + 1), _with_state(library, state)))
        return calls

    def capture(self, example: ChunkIO, library: CompiledCall | None, graph_capture: GraphCapture) -> list[BoundCall]:
        """Return one call: a CUDA graph of ``library``, or of the eager kernels of all streams if that is None.

        A population has no library here, because it is compiled only on a CPU. A trial replay makes the updates of
        ``example``, which are then undone. It uses real data and learning rates, so that the weights change and a wrong
        replay is noticed. Raises ``CudaGraphError`` if the replay is wrong or the capture fails.
        """
        call = library
        if call is None:
            # One graph for all streams, because a replay is one launch for any number of members.
            function = self._function(len(example.losses), self._networks.stream_sizes, compiled=False)
            call = _taking_list(function)
        # A graph contains the addresses of its tensors. It stays valid, because the networks never move their tensors.
        state = [*tensors_in(self._state(compiled=library is not None)), *self._shared]
        graph = CudaGraph(
            _with_state(call, state), state=self._networks.state_tensors(),
            inputs=self._example_inputs(example).tensors, graph_capture=graph_capture,
        )  # fmt: skip
        return [BoundCall(slice(None), slice(None), graph)]

    def _function(self, steps: int, stream_sizes: Sequence[int] | None = None, *, compiled: bool) -> FlatFunction:
        networks = self._networks
        function = UpdateFunction(
            stack=networks.stack,
            normalise=networks.normalise,
            loss=networks.loss,
            stream_sizes=stream_sizes,
            single=networks.is_solo,
        )
        return flatten_arguments(function.build(steps), (self._state(compiled=compiled), self._shared))

    def _state(self, *, compiled: bool) -> MemberState:
        networks = self._networks
        state = MemberState(
            networks.stack.parameters, networks.buffers, networks.averages, networks.optimizer.state.entries,
            self._compiled_settings if compiled else self._eager_settings,
        )  # fmt: skip
        # A solo run takes views of the same memory without the dimension of members.
        return map_tensors(state, lambda rows: rows.squeeze(0)) if networks.is_solo else state

    def _example_inputs(self, example: ChunkIO) -> Inputs:
        """Return the inputs of one call with all mini-batches of ``example``."""
        streams = [next(chunk.blocks(len(example.losses), self._networks.loss.encode)) for chunk in example.chunks]
        rates, ema_weight = (table.T.contiguous() for table in (example.rates, example.ema_weight))
        return self.inputs(streams, example.first, rates, ema_weight)


# The next two functions stand outside of ``FusedCalls``, because a CUDA graph keeps the functions alive that they
# return. A reference to ``FusedCalls`` in these would keep the stacked weights on the device for too long (see
# ``UpdateFunction``).


def _taking_list(function: FlatFunction) -> CompiledCall:
    """Return ``function`` with the calling convention of a library, which takes and returns a list."""
    return lambda tensors: list(function(*tensors))


def _with_state(call: CompiledCall, state: Sequence[Tensor]) -> CompiledCall:
    """Return a function of the inputs that calls ``call`` with ``state`` and the inputs."""
    return lambda inputs: call([*state, *inputs])


def _repeat_first_member(rows: Tensor) -> Tensor:
    """Return the first row of (M, ...), repeated for each member of the example."""
    # ``contiguous`` copies the rows, because the tracer would treat arguments that share memory as one argument.
    return rows[:1].expand(_EXAMPLE_MEMBERS, *rows.shape[1:]).contiguous()
