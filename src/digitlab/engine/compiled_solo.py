"""Several updates of a solo run in one call, compiled or captured as a CUDA graph.

They change the same tensors as the eager ``TrainStep``, so ``ChunkRunner`` can mix both. S updates in a call, n images
in a mini-batch; C, H, W; K classes.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from digitlab.core.abilities import abilities
from digitlab.data.normalise import Normalise
from digitlab.engine.aot_cache import (
    CompiledCall,
    CompilerError,
    NoGainError,
    compile_or_load,
    compiling_pays,
    fall_back,
    steps_per_execution,
)
from digitlab.engine.cuda_graph import CudaGraph, CudaGraphError, GraphCapture
from digitlab.engine.device import on_device
from digitlab.engine.dropout_masks import make_dropout_masks
from digitlab.engine.fused_arguments import (
    Constants,
    Inputs,
    Outputs,
    State,
    UpdateFunction,
    flatten_arguments,
    tensors_in,
)
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import RULE_OF, Optimizer, of_each
from digitlab.optim.state import counts_steps, init_state

# For compile=auto: what compiling saves in each update of a small network, measured on two cores.
_SAVED_SECONDS = 250e-6


class CompiledSteps:
    """Makes S updates of ``network`` at a time; it shares all state with ``optimizer`` and ``average``.

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
        # Learning rates are float64 inputs, so that they equal those of the eager step to the last bit.
        if compiling and not abilities(normalise.scale.device).float64:
            raise CompilerError("learning rates are float64, which this device does not have")
        self.always = compiling is True
        self._learning_rate, self._ema_weight_at = learning_rate, ema_weight
        self._device = normalise.scale.device
        self._masks = make_dropout_masks(
            [network], seeds=[seed], image_shape=image_shape, device=self._device, dtype=normalise.scale.dtype
        )
        self._graph_capture, self._compiling, self._may_compile = graph_capture, bool(compiling), self.always
        if compiling == "auto":
            self._decide_whether_to_compile(steps_ahead)
        # Only the project's own optimizers have a functional rule. A subclass may do something else, so the type must
        # be exact.
        if type(update) not in RULE_OF:
            raise CompilerError(f"{type(update).__name__} has no compiled form")
        # Groups follow from the network and the settings, so they are the same after a resume.
        groups = update.groups(network)
        # The optimizer sorts parameters into groups, so its order is not that of the network.
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._update_function = UpdateFunction(
            network=network, normalise=normalise, loss=loss, rule=RULE_OF[type(update)],
            names=[names[id(parameter)] for group in groups for parameter in group["params"]],
            group_of=[number for number, group in enumerate(groups) for _ in group["params"]],
            autocast_dtype=autocast_dtype, gradient_clip_norm=gradient_clip_norm,
        )  # fmt: skip
        self._optimizer, self._network, self._average = optimizer, network, average
        self._update = update
        # From here on eager and compiled updates change the same tensors.
        self._run_state = self._share_state()
        settings = [of_each(group) for group in groups]
        constants = Constants.from_settings(update.shared, settings, normalise.scale, normalise.shift)
        self._state_and_constants = (self._run_state, constants)
        self._state_tensors = tensors_in(self._state_and_constants)
        self._flops = flops
        # By the number of updates in a call.
        self._calls: dict[int, CompiledCall] = {}
        # Time spent on compiling and capturing, successful or not. It does not count as training time.
        self.compile_seconds = 0.0

    @property
    def captures_single_steps(self) -> bool:
        """Whether a call may also make one update.

        A graph of one update is captured in no time, so that mini-batches which fill no whole call need not run
        eagerly. A library of one update would take half a minute to compile.
        """
        return self._graph_capture is not None and not self._compiling

    def steps(self, batch_size: int) -> int:
        """S for mini-batches of ``batch_size``."""
        return steps_per_execution(batch_size * self._flops, self._device)

    def _decide_whether_to_compile(self, steps_ahead: int) -> None:
        """For ``compile=auto``: load a library, or compile one, only if that pays off in ``steps_ahead``."""
        try:
            self._may_compile = compiling_pays(steps_ahead * _SAVED_SECONDS, always=False)
        except NoGainError:
            # A CUDA graph costs a fraction of a second, so it is worth it without a library as well.
            if self._graph_capture is None:
                raise
            self._compiling = False

    def start_steps(self, step: int, count: int) -> None:
        """Prepare for at most ``count`` updates, of which the first is number ``step``, counted from 0.

        The learning rates of all of them go to the device at once, as each copy costs a launch.
        """
        self._run_state.step.fill_(step)
        # Schedules are Python functions of the step. Compiled code cannot call them.
        steps = range(step, step + count)
        self._first = step
        self._rates, self._ema_weight = (
            on_device([value_at(each) for each in steps], self._device)
            for value_at in (self._learning_rate, self._ema_weight_at)
        )

    def __call__(self, pixels: Tensor, targets: Tensor, step: int) -> Outputs:
        """Train on pixels (S, n, C, H, W) and encoded targets (S, n, ...); the first mini-batch is number ``step``.

        The first call for each S loads or compiles the library and captures the graph; it raises ``CompilerError`` if
        that fails.
        """
        inputs = self._arguments(pixels, targets, step)
        if len(pixels) not in self._calls:
            started_at = time.perf_counter()
            try:
                self._calls[len(pixels)] = self._make_call(pixels, targets, step, inputs)
            finally:
                self.compile_seconds += time.perf_counter() - started_at
        return Outputs(*self._calls[len(pixels)](inputs))

    def finish_steps(self, step: int) -> None:
        """Write the number of updates made, ``step``, to the optimizer's own state; compiled calls do not."""
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].fill_(step)

    def _make_call(self, pixels: Tensor, targets: Tensor, step: int, inputs: list[Tensor]) -> CompiledCall:
        """The call for ``inputs``: of the library, of a graph of the library, or of a graph of the eager function."""
        modules = list(self._network.modules())
        # Neither a library nor a graph calls hooks, so whatever they watch would silently see nothing.
        if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
            raise CompilerError("forward hooks watch the layers")
        # If compiling fails, a graph of the eager kernels still saves the launches.
        library = self._library(pixels, targets, step) if self._compiling else None
        if self._graph_capture is None and library is not None:
            return library
        assert self._graph_capture is not None
        # Without a library the graph contains the eager kernels of the same function.
        uncompiled = flatten_arguments(self._update_function.build(len(pixels)), self._state_and_constants)
        call = library or (lambda inputs: list(uncompiled(*self._state_tensors, *inputs)))
        try:
            return CudaGraph(call, state=self._state_tensors, inputs=inputs, graph_capture=self._graph_capture)
        except CudaGraphError as error:
            if library is None:
                raise
            fall_back(error, asked=True)
            return library

    def _library(self, pixels: Tensor, targets: Tensor, step: int) -> CompiledCall | None:
        """The compiled call; None if there is none but the run can use a CUDA graph without it."""
        try:
            call = self._compile(pixels, targets, step)
        except CompilerError as error:
            if self._graph_capture is None:
                raise
            fall_back(error, asked=self.always)
            return None
        return lambda inputs: call([*self._state_tensors, *inputs])

    def _compile(self, pixels: Tensor, targets: Tensor, step: int) -> CompiledCall:
        if not self.always and len(pixels) == 1:
            raise NoGainError("a network this large gains little")

        # The state itself serves as the example. The tracer copies no data, and the library only gets to know shapes.
        def examples(steps: int) -> list[Tensor]:
            return [*self._state_tensors, *self._arguments(pixels[:steps], targets[:steps], step)]

        return compile_or_load(
            lambda steps: flatten_arguments(self._update_function.build(steps), self._state_and_constants), examples,
            steps=len(pixels), may_compile=self._may_compile,
        )  # fmt: skip

    def _share_state(self) -> State:
        """The tensors of the run, shared with the optimizer.

        A ``torch.optim`` optimizer creates its moments at its first step. They are created here, so that eager and
        compiled updates change the same tensors whichever comes first.
        """
        # The lists are in the optimizer's order: ``UpdateFunction`` finds the name of each parameter by its index.
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state = init_state(self._update_function.rule, parameters, momentum=getattr(self._update, "momentum", 0.0))
        for index, parameter in enumerate(parameters):
            entries = self._optimizer.state[parameter]
            for name, tensors in state.entries.items():
                # A resumed run has entries from its checkpoint. They replace the new zeros.
                tensors[index] = entries.setdefault(name, tensors[index])
            if counts_steps(self._update_function.rule):
                entries.setdefault("step", torch.zeros((), dtype=torch.float32, device=self._device))
        # The averages have the order of the network; names bring them into the optimizer's order.
        averages: dict[str, Tensor] = {} if self._average is None else dict(self._average.named_parameters())
        return State(
            parameters=[parameter.detach() for parameter in parameters],
            buffers=list(self._network.buffers()),
            average_parameters=[averages[name] for name in self._update_function.names if averages],
            average_buffers=[] if self._average is None else list(self._average.buffers()),
            entries=state.entries,
            step=state.step,
        )

    def _arguments(self, pixels: Tensor, targets: Tensor, step: int) -> list[Tensor]:
        steps, images = pixels.shape[:2]
        masks = [] if self._masks is None else [layer[0] for layer in self._masks.draw_steps(step, steps, images)]
        rows = slice(step - self._first, step - self._first + steps)
        return Inputs(pixels, targets, masks, self._rates[rows], self._ema_weight[rows]).tensors
