"""``compile=true``: several updates of a solo run in one call of a compiled program, on the state of the eager step.

S updates in a call, n images in a mini-batch; C, H, W, K classes.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from digitlab.data.normalise import Normalise
from digitlab.training.compiling import Compiled, CompilerError, NoGainError, compiled, updates_in_a_call, worth_making
from digitlab.training.dropout import member_masks
from digitlab.training.losses import Loss
from digitlab.training.optimizers import Optimizer
from digitlab.training.program import Fixed, Given, Kept, Program, Taken, flat
from digitlab.training.rules import RULE_OF, init_state

# What a sweep is likely to vary comes with each call: its runs share one library.
_NUMBERS = ("weight_decay", "momentum")
# For compile=auto, on two cores: what a compiled update of a small network saves.
_SAVED_SECONDS = 250e-6
_NOT_OF_THE_RULE = ("lr", "decay_layers")


class CompiledSteps:
    """S updates of ``network`` at a time, which share their state with ``optimizer`` and ``average``.

    ``learning_rate`` and ``pull`` give, for a step counted from 0, the rate and how far the averaged weights go
    towards the weights; ``flops`` are those of an image's forward pass, ``seed`` is the run's. Raises ``CompilerError``
    for an optimiser of one's own and, unless it is ``always`` to be done, where it would not pay in ``steps_ahead``.
    """

    def __init__(
        self,
        *,
        always: bool,
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
        pull: Callable[[int], float],
        autocast_dtype: torch.dtype | None,
        gradient_clip_norm: float | None,
    ) -> None:
        self.always = always
        self._learning_rate, self._pull = learning_rate, pull
        self._device = normalise.scale.device
        self._masks = member_masks(
            [network], seeds=[seed], image_shape=image_shape, device=self._device, dtype=normalise.scale.dtype
        )
        self._make = worth_making(steps_ahead * _SAVED_SECONDS, always=always)
        if type(update) not in RULE_OF:
            raise CompilerError(f"{type(update).__name__} has no compiled form")
        settings = {name: value for name, value in vars(update).items() if name not in _NOT_OF_THE_RULE}
        numbers = {name: self._tensor(settings.pop(name)) for name in _NUMBERS if settings.get(name)}
        settings.pop("weight_decay", None)
        groups = [(p, group["weight_decay"] > 0) for group in optimizer.param_groups for p in group["params"]]
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        self._program = Program(
            network=network, normalise=normalise, loss=loss, rule=RULE_OF[type(update)],
            names=[names[id(parameter)] for parameter, _ in groups], decayed=[decayed for _, decayed in groups],
            settings=settings, autocast_dtype=autocast_dtype, gradient_clip_norm=gradient_clip_norm,
        )  # fmt: skip
        self._optimizer, self._network, self._average = optimizer, network, average
        self._update = update
        self._kept = self._share()
        self._trees = (self._kept, Fixed(numbers, normalise.scale, normalise.shift))
        self._state = pytree.tree_leaves(self._trees)
        self._made: dict[tuple[float, ...], Tensor] = {}
        self._flops = flops
        self._call: Compiled | None = None

    def steps(self, batch_size: int) -> int:
        """S for mini-batches of ``batch_size``."""
        return updates_in_a_call(batch_size * self._flops)

    def begin(self, step: int) -> None:
        """Be told that ``step`` updates have been made so far, before calls that follow each other."""
        self._kept.step.fill_(step)

    def __call__(self, pixels: Tensor, targets: Tensor, step: int) -> Taken:
        """Learn from pixels (S, n, C, H, W) and encoded targets (S, n, …), the first of them for ``step``, from 0.

        The first call compiles, unless an earlier run has; it raises ``CompilerError`` for what can't be compiled.
        """
        if self._call is None:
            self._call = self._compile(pixels, targets, step)
        return Taken(*self._call([*self._state, *self._arguments(pixels, targets, step)]))

    def end(self, step: int) -> None:
        """Have the optimiser know that ``step`` updates have been made, after such calls."""
        for state in self._optimizer.state.values():
            if "step" in state:
                state["step"].fill_(step)

    def _compile(self, pixels: Tensor, targets: Tensor, step: int) -> Compiled:
        if not self.always and len(pixels) == 1:
            raise NoGainError("a network this large gains little")
        modules = list(self._network.modules())
        if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
            raise CompilerError("something watches the layers at work")

        def examples(steps: int) -> list[Tensor]:
            return [*self._state, *self._arguments(pixels[:steps], targets[:steps], step)]

        return compiled(
            lambda steps: flat(self._program.function(steps), self._trees), examples,
            steps=len(pixels), make=self._make,
        )  # fmt: skip

    def _share(self) -> Kept:
        """The tensors of the run; what the optimiser would make at its first update is made here."""
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        state = init_state(self._program.rule, parameters, momentum=getattr(self._update, "momentum", 0.0))
        for place, parameter in enumerate(parameters):
            own = self._optimizer.state[parameter]
            for name, tensors in state.entries.items():
                tensors[place] = own.setdefault(name, tensors[place])
            if self._program.rule != "sgd":  # torch's SGD counts no steps
                own.setdefault("step", torch.zeros((), dtype=torch.float32, device=self._device))
        averages: dict[str, Tensor] = {} if self._average is None else dict(self._average.named_parameters())
        return Kept(
            parameters=[parameter.detach() for parameter in parameters],
            buffers=list(self._network.buffers()),
            average_parameters=[averages[name] for name in self._program.names if averages],
            average_buffers=[] if self._average is None else list(self._average.buffers()),
            entries=state.entries,
            step=state.step,
        )

    def _arguments(self, pixels: Tensor, targets: Tensor, step: int) -> list[Tensor]:
        steps = range(step, step + len(pixels))
        masks: list[Tensor] = []
        if self._masks is not None:
            drawn = [self._masks.draw(each, pixels.shape[1]) for each in steps]
            masks = [torch.cat(layer) for layer in zip(*drawn, strict=True)]
        rates, pull = tuple(map(self._learning_rate, steps)), tuple(map(self._pull, steps))
        return Given(pixels, targets, masks, self._numbers(rates), self._numbers(pull)).tensors

    def _numbers(self, values: tuple[float, ...]) -> Tensor:
        """float64 (S,): the same tensor again as long as nothing changes, which is the rule."""
        if values not in self._made:
            self._made = {values: self._tensor(values)} | dict(itertools.islice(self._made.items(), 1))
        return self._made[values]

    def _tensor(self, value: float | Sequence[float]) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self._device)
