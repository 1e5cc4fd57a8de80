"""The steps of stacked networks through mini-batches: by the learner as they come, in a compiled call all at once."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from digitlab.engine.delayed_sgd import Batch, Descent
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacked_update import Rule, clipped, follow
from digitlab.engine.vmap_stack import MappedStack


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What makes an update of ``stack``: ``update(gradients, rates)`` follows ``rule``.

    ``averages`` of the weights, where there are any, follow these. ``clip_norm`` is float64 (M,), None for no clipping.
    """

    stack: DenseStack | MappedStack
    loss: StackedLoss
    rule: Rule
    update: Callable[[Sequence[Tensor], Tensor], None]
    averages: Sequence[Tensor]
    clip_norm: Tensor | None

    @property
    def descends(self) -> bool:
        """Whether gradients go into the weights without being written."""
        return isinstance(self.stack, DenseStack) and self.rule.plain_descent and self.clip_norm is None

    def through(self, batches: Iterable[Batch], rates: Tensor, pull: Tensor, *, block: int) -> Generator[Tensor]:
        """One update for each of the ``batches``, of which the logits (M, n, K) are yielded after it.

        ``rates`` and ``pull``, float64 (B, M), are the learning rates and how far averages go towards the weights.
        Where it descends weights may lag behind until a ``block`` of mini-batches is through, or it is closed.
        """
        descent: Descent | None = None
        if self.descends:
            assert isinstance(self.stack, DenseStack)
            descent = Descent(self.stack, rates, self.rule.kept(self.stack.parameters, rates), block=block)
            batches = descent.batches(batches)
        try:
            for number, batch in enumerate(batches):
                outputs = self.stack.forward(batch.images, batch.masks)
                self.stack.backward(self.loss.gradient(outputs, batch.targets))
                if descent is not None:
                    descent.step(number)
                else:
                    self._follow_rule(rates[number])
                if self.averages:
                    follow(self.averages, self.stack.parameters, pull[number])
                yield outputs
        finally:
            if descent is not None:
                descent.end()

    def _follow_rule(self, rates: Tensor) -> None:
        gradients = self.stack.gradients()
        if self.clip_norm is not None:
            gradients = clipped(gradients, self.clip_norm)
        self.update(gradients, rates)
