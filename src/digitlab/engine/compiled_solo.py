"""Several updates of a solo run in one call: compiled, or recorded on a GPU, on the state of the eager step.

S updates in a call, n images in a mini-batch; C, H, W, K classes.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from digitlab.data.normalise import Normalise
from digitlab.engine.aot_cache import (
    Compiled,
    CompilerError,
    NoGainError,
    compiled,
    fall_back,
    steps_per_execution,
    worth_making,
)
from digitlab.engine.cuda_graph import CudaGraph, CudaGraphError, GraphCapture
from digitlab.engine.device import on_device
from digitlab.engine.dropout_masks import member_masks
from digitlab.engine.fused_arguments import Constants, Inputs, Outputs, Program, State, flat, tensors_in
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import RULE_OF, Optimizer, of_each
from digitlab.optim.state import counts_steps, init_state

# For compile=auto, on two cores: what a compiled update of a small network saves.
_SAVED_SECONDS = 250e-6


class CompiledSteps:
    """S updates of ``network`` at a time, which share their state with ``optimizer`` and ``average``.

    ``compiling`` says whether they are compiled; ``graph_capture``, if given, captures them as a CUDA graph. At least
    one must be on. ``learning_rate`` and ``ema_weight`` map a step, counted from 0, to the learning rate and to the
    weight of the new parameters in their moving average. ``flops`` counts the forward pass of one image. Raises
    ``CompilerError`` for an optimizer of the user's own, and if ``auto`` would not pay off in ``steps_ahead``.
    """

    def __init__(
        self,
        *,
        compiling: bool | Literal["auto"],
        graph_capture: GraphCapture | None,
        steps_ahead: int,
        network: nn.Module,
        average: nn.Module | None,
        normalise: Normalise,
        loss: Loss,
        update: Optimizer,
        optimizer: torch.optim.Optimizer,
        image_shape: Sequence[int],
        flops: int,
        seed: int,
        learning_rate: Callable[[int], float],
        ema_weight: Callable[[int], float],
        autocast_dtype: torch.dtype | None,
        gradient_clip_norm: float | None,
    ) -> None:
        self.always = compiling is True
        self._learning_rate, self._ema_weight_at = learning_rate, ema_weight
        self._device = normalise.scale.device
        self._masks = member_masks(
            [network], seeds=[seed], image_shape=image_shape, device=self._device, dtype=normalise.scale.dtype
        )
        self._graph_capture, self._compiling, self._make = graph_capture, bool(compiling), self.always
        if compiling == "auto":
            self._weigh(steps_ahead)
        if type(update) not in RULE_OF:
            raise CompilerError(f"{type(update).__name__} has no compiled form")
        groups = update.groups(network)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._program = Program(
            network=network, normalise=normalise, loss=loss, rule=RULE_OF[type(update)],
            names=[names[id(parameter)] for group in groups for parameter in group["params"]],
            group_of=[number for number, group in enumerate(groups) for _ in group["params"]],
            autocast_dtype=autocast_dtype, gradient_clip_norm=gradient_clip_norm,
        )  # fmt: skip
        self._optimizer, self._network, self._average = optimizer, network, average
        self._update = update
        self._kept = self._share()
        settings = [of_each(group) for group in groups]
        self._trees = (self._kept, Constants.of(update.shared, settings, normalise.scale, normalise.shift))
        self._state = tensors_in(self._trees)
        self._flops = flops
        self._call: Compiled | None = None
        # Spent on compiling and recording so far, successful or not. It does not count as training time.
        self.compile_seconds = 0.0

    def steps(self, batch_size: int) -> int:
        """S for mini-batches of ``batch_size``."""
        return steps_per_execution(batch_size * self._flops)

    def _weigh(self, steps_ahead: int) -> None:
        """Whether to compile for ``steps_ahead``."""
        try:
            self._make = worth_making(steps_ahead * _SAVED_SECONDS, always=False)
        except NoGainError:
            if self._graph_capture is None:
                raise
            self._compiling = False

    def begin(self, step: int, count: int) -> None:
        """Be told that ``step`` updates have been made so far, before calls for ``count`` more at most."""
        self._kept.step.fill_(step)
        steps = range(step, step + count)
        self._first = step
        self._rates, self._ema_weight = (
            on_device([number(each) for each in steps], self._device)
            for number in (self._learning_rate, self._ema_weight_at)
        )

    def __call__(self, pixels: Tensor, targets: Tensor, step: int) -> Outputs:
        """Learn from pixels (S, n, C, H, W) and encoded targets (S, n, …), the first of them for ``step``, from 0.

        The first call compiles, unless an earlier run has, and records; it raises ``CompilerError`` for what can't be.
        """
        given = self._arguments(pixels, targets, step)
        if self._call is None:
            started_at = time.perf_counter()
            try:
                self._call = self._made(pixels, targets, step, given)
            finally:
                self.compile_seconds += time.perf_counter() - started_at
        return Outputs(*self._call(given))

    def end(self, step: int) -> None:
        """Have the optimiser know that ``step`` updates have been made, after such calls."""
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].fill_(step)

    def _made(self, pixels: Tensor, targets: Tensor, step: int, given: list[Tensor]) -> Compiled:
        """The call for what is ``given``: of the library, of the program as it is, or of a recording of either."""
        modules = list(self._network.modules())
        if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
            raise CompilerError("something watches the layers at work")
        library = self._library(pixels, targets, step) if self._compiling else None
        if self._graph_capture is None and library is not None:
            return library
        assert self._graph_capture is not None
        as_it_is = flat(self._program.function(len(pixels)), self._trees)
        call = library or (lambda given: list(as_it_is(*self._state, *given)))
        try:
            return CudaGraph(call, state=self._state, given=given, graph_capture=self._graph_capture)
        except CudaGraphError as error:
            if library is None:
                raise
            fall_back(error, asked=True)
            return library

    def _library(self, pixels: Tensor, targets: Tensor, step: int) -> Compiled | None:
        """The compiled call; None where there can be none, but what is recorded does without."""
        try:
            call = self._compile(pixels, targets, step)
        except CompilerError as error:
            if self._graph_capture is None:
                raise
            fall_back(error, asked=self.always)
            return None
        return lambda given: call([*self._state, *given])

    def _compile(self, pixels: Tensor, targets: Tensor, step: int) -> Compiled:
        if not self.always and len(pixels) == 1:
            raise NoGainError("a network this large gains little")

        def examples(steps: int) -> list[Tensor]:
            return [*self._state, *self._arguments(pixels[:steps], targets[:steps], step)]

        return compiled(
            lambda steps: flat(self._program.function(steps), self._trees), examples,
            steps=len(pixels), make=self._make,
        )  # fmt: skip

    def _share(self) -> State:
        """The tensors of the run; what the optimiser would make at its first update is made here."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state = init_state(self._program.rule, parameters, momentum=getattr(self._update, "momentum", 0.0))
        for place, parameter in enumerate(parameters):
            own = self._optimizer.state[parameter]
            for name, tensors in state.entries.items():
                tensors[place] = own.setdefault(name, tensors[place])
            if counts_steps(self._program.rule):
                own.setdefault("step", torch.zeros((), dtype=torch.float32, device=self._device))
        averages: dict[str, Tensor] = {} if self._average is None else dict(self._average.named_parameters())
        return State(
            parameters=[parameter.detach() for parameter in parameters],
            buffers=list(self._network.buffers()),
            average_parameters=[averages[name] for name in self._program.names if averages],
            average_buffers=[] if self._average is None else list(self._average.buffers()),
            entries=state.entries,
            step=state.step,
        )

    def _arguments(self, pixels: Tensor, targets: Tensor, step: int) -> list[Tensor]:
        steps, images = pixels.shape[:2]
        masks = [] if self._masks is None else [layer[0] for layer in self._masks.of_steps(step, steps, images)]
        own = slice(step - self._first, step - self._first + steps)
        return Inputs(pixels, targets, masks, self._rates[own], self._ema_weight[own]).tensors
