"""The one LightningModule: it trains any network on chunks of mini-batches and evaluates it.

Shapes: N images, C, H, W, K classes. One serves all networks because what differs between them, the way from images to
logits, is a plain ``nn.Module``; loss, update rule, schedule and metrics are the same sentence for each of them.
"""

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from digitlab.config import build
from digitlab.data.chunks import Chunk, EvaluationBatch, Position
from digitlab.data.seeding import stream_seed
from digitlab.schema import RunError
from digitlab.training.interrupt import StopSignal
from digitlab.training.losses import Loss
from digitlab.training.metrics import Counts
from digitlab.training.optimizers import Optimizer
from digitlab.training.schedules import Schedule
from digitlab.training.settings import DataFacts


class Classifier(LightningModule):
    """A network with its normalisation, loss, update rule and schedule.

    Every argument is made of plain values, as they stand in the composed configuration, so a checkpoint holds nothing
    else and ``Classifier.load_from_checkpoint(path, weights_only=True)`` needs nothing else. ``data`` are the facts of
    the data set (``DataFacts``); ``ema_decay`` averages the weights over the mini-batches (Polyak and Juditsky, 1992),
    and where it is given, the averaged network is the one evaluated.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        data: dict[str, Any],
        loss: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any],
        ema_decay: float | None = None,
        gradient_clip_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # Several updates happen in one training_step, so Lightning's own single update a step is out of the way.
        self.automatic_optimization = False
        self.facts = DataFacts(**data)
        classes, shape = len(self.facts.class_names), tuple(self.facts.image_shape)
        self.network: nn.Module = build(model, "model", nn.Module, image_shape=shape, classes=classes)
        self.average: nn.Module | None = None
        if ema_decay is not None:
            self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.loss: Loss = build(loss, "loss", Loss)
        self.update: Optimizer = build(optimizer, "optimizer", Optimizer)
        self.schedule: Schedule = build(scheduler, "scheduler", Schedule)
        self.ema_decay, self.gradient_clip_norm = ema_decay, gradient_clip_norm
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.facts.mean, self.facts.std))
        self.register_buffer("pixel_scale", 1 / (255 * std))
        self.register_buffer("pixel_shift", -mean / std)
        self.example_input_array = torch.zeros(1, *shape, dtype=torch.uint8)

        # The state of a run, which a checkpoint carries on.
        self.position = Position()
        self.train_counts = Counts.zeros(classes, torch.device("cpu"))
        self.optimizer_state: dict[str, Any] | None = None
        # What a run sets before it starts.
        self.seed = 0
        self.steps_per_epoch = 0
        self.total_steps = 0
        self.autocast_dtype: torch.dtype | None = None
        self.stop_signal = StopSignal()
        self.evaluation = Counts.zeros(classes, torch.device("cpu"))
        self.test_scores: list[Tensor] = []
        self.test_labels: list[Tensor] = []

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float in [0, 1], as the network's input in the dtype of its weights."""
        if pixels.dtype == torch.uint8:
            return (pixels.to(self.pixel_scale.dtype).mul_(self.pixel_scale)).add_(self.pixel_shift)
        return pixels.to(self.pixel_scale.dtype) * (255 * self.pixel_scale) + self.pixel_shift

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float in [0, 1], to logits (N, K) by the weights that are evaluated."""
        logits: Tensor = (self.network if self.average is None else self.average)(self.normalise(pixels))
        return logits

    # Training ---------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.update.build(self.network)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def on_train_start(self) -> None:
        self.forward_seed = stream_seed("forward", self.seed, self.global_rank)
        self.stop_signal.install()
        self.train_counts.confusion = self.train_counts.confusion.to(self.device)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the mini-batch to come."""
        factor = self.schedule.factor(
            self.position.total_steps, steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps
        )
        return self.update.lr * factor

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        """One update for each mini-batch of the chunk.

        Raises ``RunError`` where a loss is not finite, before the update it would have led to.
        """
        # The raw optimiser: Lightning's wrapper costs a tenth of a small network's step.
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        logits, labels, losses, sizes = [], [], [], []
        parameters = list(self.network.parameters())
        for images, targets, batch_labels, weight in chunk.minibatches(self.normalise):
            self._reseed()
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
            with self._autocast():
                batch_logits = self.network(images)
                loss = self.loss(batch_logits, targets)
            if loss.device.type == "cpu":
                self._require_finite(loss.item())
            self._backward(loss, weight)
            if self.gradient_clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.gradient_clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            self._update_average()
            self.position.advance()
            logits.append(batch_logits.detach())
            labels.append(batch_labels)
            losses.append(loss.detach())
            sizes.append(len(batch_labels))
            if self.stop_signal.received is not None and self.trainer.world_size == 1:
                break
        self._count(logits, labels, losses, sizes)
        # Lightning counts updates by its wrapped optimiser, which was not asked; global_step, that callbacks and
        # loggers read, would stand still.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(losses)

    def _reseed(self) -> None:
        # Dropout draws from the device's global generator. Seeded anew for each mini-batch, its draws are a pure function
        # of (seed, step, process): a resumed run needs no random state, and the length of a chunk changes nothing.
        generator = torch.default_generator
        if self.device.type == "cuda":
            generator = torch.cuda.default_generators[self.device.index or 0]
        generator.manual_seed(self.forward_seed ^ self.position.total_steps)

    def _autocast(self) -> AbstractContextManager[Any]:
        # Entered once a mini-batch: around a whole chunk its cache would keep the weights as cast for the first.
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def _backward(self, loss: Tensor, weight: float) -> None:
        if self.trainer.world_size == 1:
            loss.backward()
            return
        # Plain backward() would not average the gradients over the processes when several happen in one training_step.
        self.manual_backward(loss * weight)
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.trainer.world_size

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunError(
                f"the loss is {loss} at epoch {self.position.epoch + 1}, step {self.position.total_steps + 1} "
                f"(learning rate {self.learning_rate:g}): training stopped before the update"
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        assert self.ema_decay is not None
        # The early average would be mostly initial weights: its memory grows with the steps taken.
        step = self.position.total_steps
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for average, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            average.copy_(buffer)

    def _count(self, logits: list[Tensor], labels: list[Tensor], losses: list[Tensor], sizes: list[int]) -> None:
        values = torch.stack(losses).tolist()
        if self.device.type != "cpu":
            # Read once a chunk, as each reading makes the host wait for the device.
            for value in values:
                self._require_finite(value)
        self.train_counts.add(torch.cat(logits), torch.cat(labels))
        for value, size in zip(values, sizes, strict=True):
            self.train_counts.loss_sum += value * size

    def take_train_counts(self) -> Counts:
        """The counts of the training passes since they were last taken, over all processes."""
        counts, self.train_counts = self.train_counts, Counts.zeros(len(self.facts.class_names), self.device)
        if self.trainer.world_size > 1:
            loss_sum = torch.tensor(counts.loss_sum, device=self.device, dtype=torch.float64)
            for tensor in (counts.confusion, loss_sum):
                torch.distributed.all_reduce(tensor)
            counts.loss_sum = loss_sum.item()
        return counts

    # Evaluation: every process sees all images, so all come to the same decisions without asking each other --------

    def _evaluate(self, batch: EvaluationBatch) -> Tensor:
        with self._autocast():
            logits = self(batch.images)
        logits = logits.to(self.pixel_scale.dtype)
        self.evaluation.add(logits, batch.labels)
        self.evaluation.loss_sum += self.loss(logits, batch.labels).item() * len(batch.labels)
        return logits

    def on_validation_epoch_start(self) -> None:
        self.evaluation = Counts.zeros(len(self.facts.class_names), self.device)

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()
        self.test_scores, self.test_labels = [], []

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        self.test_scores.append(self.loss.scores(self._evaluate(batch)))
        self.test_labels.append(batch.labels)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self.evaluation.metrics().items()}
        self.log_dict(metrics, rank_zero_only=True, batch_size=1)
