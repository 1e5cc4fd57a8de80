"""The only LightningModule: it trains any network on chunks of mini-batches and evaluates it.

Shapes: N images, C channels, H rows, W columns, K classes. One module is enough because networks are plain
``nn.Module``s from images to logits: loss, update rule, schedule and metrics work the same way for all of them.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from digitlab.config.compose import build
from digitlab.core.signals import StopSignal
from digitlab.data.chunks import Chunk, Position
from digitlab.data.evaluation import EvaluationBatch
from digitlab.data.normalise import Normalise
from digitlab.data.seeding import stream_seed
from digitlab.engine.aot_cache import CompilerError, fall_back
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.engine.compiled_solo import CompiledSteps
from digitlab.engine.cpu_tuning import ForwardCost, forward_cost, keep_large_memory, threads, worthwhile_threads
from digitlab.engine.cuda_graph import graph_capture_for
from digitlab.engine.device import as_numbers, reads_at_once
from digitlab.engine.eager import TrainStep
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.metrics import Counts, total
from digitlab.models.user_networks import initialise_lazy_layers
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import Optimizer
from digitlab.optim.schedules import Schedule
from digitlab.training.settings import DataFacts
from digitlab.training.test_time_augmentation import TestTimeAugmentation, augmented_views


class Classifier(LightningModule):
    """A network with its normalisation, loss, update rule and schedule.

    All arguments are plain values of the composed configuration. A checkpoint stores them, so that
    ``Classifier.load_from_checkpoint(path)`` needs nothing else. ``data`` holds the facts of the data set
    (``DataFacts``). With ``ema_decay`` the weights are averaged over the updates (Polyak and Juditsky, 1992), and the
    averaged network is evaluated. With ``tta`` several views of each image are evaluated.
    """

    runner: ChunkRunner
    forward_cost: ForwardCost

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
        tta: TestTimeAugmentation | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # One training_step makes several updates. Lightning's automatic optimisation would make exactly one.
        self.automatic_optimization = False
        self.facts = DataFacts(**data)
        channels, height, width = self.facts.image_shape
        classes, shape = len(self.facts.class_names), (channels, height, width)
        self.network: nn.Module = build(model, "model", nn.Module, image_shape=shape, classes=classes)
        initialise_lazy_layers(self.network, shape)
        self.average: nn.Module | None = None
        if ema_decay is not None:
            self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.loss = build(loss, "loss", Loss).for_classes(self.facts.class_names, self.facts.train_counts)
        self.update: Optimizer = build(optimizer, "optimizer", Optimizer)
        self.schedule: Schedule = build(scheduler, "scheduler", Schedule)
        self.ema_decay, self.gradient_clip_norm, self.tta = ema_decay, gradient_clip_norm, tta
        self.normalise = Normalise(image_shape=shape, mean=self.facts.mean, std=self.facts.std)
        self.example_input_array = torch.zeros(1, *shape, dtype=torch.uint8)

        # The state of a run. Checkpoints save it.
        self.position = Position()
        self.train_counts = Counts.zeros(classes, torch.device("cpu"))
        self.optimizer_state: dict[str, Any] | None = None
        # Losses of single mini-batches that are not written yet: (step from 1, loss).
        self.logged_losses: list[tuple[int, float]] = []
        # A run sets these before it starts.
        self.seed = 0
        self.steps_per_epoch = 0
        self.log_every_steps = 50
        self.total_steps = 0
        self.autocast_dtype: torch.dtype | None = None
        self.compiling: bool | Literal["auto"] = False
        self.cuda_graphs = True
        self.stop_signal = StopSignal()
        # The number of threads of the updates, None before the first one.
        self.step_threads: int | None = None
        self._begin_evaluation()
        self.test_scores: list[Tensor] = []
        self.test_labels: list[Tensor] = []

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Do the same as Lightning, but read only plain values and tensors: a pickle can run any code."""
        return super().load_from_checkpoint(checkpoint_path, *args, **(kwargs | {"weights_only": True}))

    def use_precision(self, dtype: torch.dtype) -> None:
        """Set the precision: float64 for weights and products, or bfloat16 for products with float32 weights."""
        if dtype == torch.float64:
            self.double()
        elif dtype == torch.bfloat16:
            self.autocast_dtype = dtype

    def member_spec(self) -> MemberSpec:
        """Return the description of this network from which a population builds a member."""
        return MemberSpec(
            network=self.network, average=self.average, normalise=self.normalise, loss=self.loss, optimizer=self.update,
            schedule=self.schedule, seed=self.seed, image_shape=self.facts.image_shape,
            classes=len(self.facts.class_names), steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps,
            ema_decay=self.ema_decay, gradient_clip_norm=self.gradient_clip_norm,
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K), in the precision of the weights, for ``pixels`` (N, C, H, W), uint8 or in [0, 1].

        It uses the averaged weights if there are any. With ``tta`` it averages the logits of all views of an image.
        """
        network = self.network if self.average is None else self.average
        images = self.normalise(pixels)
        with nullcontext() if self.autocast_dtype is None else torch.autocast(self.device.type, self.autocast_dtype):
            logits = [weight * network(view).to(images.dtype) for view, weight in augmented_views(images, self.tta)]
        return torch.stack(logits).sum(0)

    # Training ---------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.update.build(self.network)
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def setup(self, stage: str) -> None:
        # The cost is measured with one image. This must happen before callbacks add hooks that would see this image.
        if stage == "fit":
            self.forward_cost = forward_cost(self.network, self.facts.image_shape, self.normalise.scale)

    def on_train_start(self) -> None:
        self.stop_signal.install()
        # Lightning's wrapper around the optimiser would cost a tenth of a small network's step.
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        step = TrainStep(
            network=self.network, loss=self.loss, optimizer=optimizer,
            backward=_plain_backward if self.trainer.world_size == 1 else self._shared_backward,
            lr=self.update.lr, schedule=self.schedule,
            steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps,
            seed=stream_seed("forward", self.seed, self.global_rank), device=self.device,
            read_losses=reads_at_once(self.device),
            autocast_dtype=self.autocast_dtype, gradient_clip_norm=self.gradient_clip_norm,
            average=self.average, ema_decay=self.ema_decay,
        )  # fmt: skip
        self.runner = ChunkRunner(
            step=step, compiled=self._compiled_steps(step, optimizer),
            position=self.position, normalise=self.normalise, loss=self.loss, strategy=self.trainer.strategy,
            stop_signal=self.stop_signal, alone=self.trainer.world_size == 1,
        )  # fmt: skip
        self.train_counts.confusion = self.train_counts.confusion.to(self.device)

    def _compiled_steps(self, step: TrainStep, optimizer: torch.optim.Optimizer) -> CompiledSteps | None:
        graph_capture = graph_capture_for(self.device, allowed=self.cuda_graphs)
        if not self.compiling and graph_capture is None:
            return None
        try:
            if self.trainer.world_size > 1:
                raise CompilerError("not with several processes")
            return CompiledSteps(
                compiling=self.compiling, graph_capture=graph_capture,
                steps_ahead=self.total_steps - self.position.total_steps,
                network=self.network, average=self.average, normalise=self.normalise, loss=self.loss,
                update=self.update, optimizer=optimizer, image_shape=self.facts.image_shape,
                flops=self.forward_cost.flops, seed=self.seed, learning_rate=step.learning_rate,
                ema_weight=step.ema_weight,
                autocast_dtype=self.autocast_dtype, gradient_clip_norm=self.gradient_clip_norm,
            )  # fmt: skip
        except CompilerError as error:
            fall_back(error, asked=self.compiling is True)
            return None

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return self.runner.step.learning_rate(max(self.position.total_steps - 1, 0))

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Make one update for each mini-batch of the chunk.

        Raises ``RunError`` if a loss, gradient or updated weight is not finite; the weights are then those before that
        update.
        """
        images = chunk.plan.batch_size / self.trainer.world_size
        if self.device.type == "cpu":
            keep_large_memory(int(images * self.forward_cost.largest_output * self.normalise.scale.element_size()))
        self.step_threads = worthwhile_threads(images * self.forward_cost.flops)
        with threads(self.step_threads):
            logits, losses = self.runner.run_chunk(chunk)
        self._count(chunk, logits, losses)
        # Lightning counts updates in its wrapped optimiser, which is not used. Without this line global_step, which
        # callbacks and loggers read, would stay at 0.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(losses)

    def _shared_backward(self, loss: Tensor, weight: float) -> None:
        # With several updates per training_step, Lightning averages gradients over the processes only in this method.
        self.manual_backward(loss * weight)
        for buffer in self.network.buffers():
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.trainer.world_size

    def _count(self, chunk: Chunk, logits: Tensor, losses: Sequence[float]) -> None:
        sizes = chunk.sizes[: len(losses)]
        first = self.position.total_steps - len(losses)
        for step, (value, size) in enumerate(zip(losses, sizes, strict=True), start=first + 1):
            self.train_counts.loss_sum += value * size
            if step % self.log_every_steps == 0:
                self.logged_losses.append((step, value))
        done = sum(sizes)
        self.train_counts.add(logits[:done], chunk.learnt_labels()[:done])

    def take_logged_losses(self) -> list[tuple[int, float]]:
        """Return the losses of single mini-batches since the last call, as pairs (step from 1, loss)."""
        losses, self.logged_losses = self.logged_losses, []
        return losses

    def take_train_counts(self) -> Counts:
        """Return the counts of the training passes since the last call, summed over all processes, and reset them."""
        counts = total(self.train_counts_of_processes())
        self.train_counts = Counts.zeros(len(self.facts.class_names), self.device)
        return counts

    def train_counts_of_processes(self) -> list[Counts]:
        """Return the current counts of every process. All processes must call this together."""
        own, processes = self.train_counts, self.trainer.world_size
        if processes == 1:
            return [own]
        loss_sum = torch.tensor(own.loss_sum, device=self.device, dtype=torch.float64)
        confusions = [torch.empty_like(own.confusion) for _ in range(processes)]
        loss_sums = [torch.empty_like(loss_sum) for _ in range(processes)]
        torch.distributed.all_gather(confusions, own.confusion)
        torch.distributed.all_gather(loss_sums, loss_sum)
        return [Counts(confusion, loss.item()) for confusion, loss in zip(confusions, loss_sums, strict=True)]

    # Evaluation: every process evaluates all images, so all make the same decisions without communicating -------------

    def _evaluate(self, batch: EvaluationBatch) -> Tensor:
        logits: Tensor = self(batch.images)
        targets = self.loss.encode(batch.labels, logits.shape[1])
        loss, image_weights = self.loss(logits, targets), self.loss.image_weights(targets)
        self._evaluation.add(logits, batch.labels)
        self._evaluation_losses.append(loss.item() if reads_at_once(self.device) else loss)
        self._evaluation_sizes.append(float(len(batch.labels)) if image_weights is None else image_weights.sum())
        return logits

    def _begin_evaluation(self) -> None:
        self._evaluation = Counts.zeros(len(self.facts.class_names), self.device)
        # The mean losses of the batches, and what their means divide by: the images, or the sum of their weights.
        self._evaluation_losses: list[Tensor | float] = []
        self._evaluation_sizes: list[Tensor | float] = []

    @property
    def evaluation(self) -> Counts:
        """The counts of the current or last validation or test. Reading them waits for the device."""
        losses, sizes = as_numbers(self._evaluation_losses), as_numbers(self._evaluation_sizes)
        self._evaluation_losses, self._evaluation_sizes = [*losses], [*sizes]
        self._evaluation.loss_sum = 0.0
        self._evaluation.add_losses(losses, sizes)
        images = float(self._evaluation.confusion.sum())
        if sum(sizes) != images:
            # Class weights: the mean divides by the weights of all images.
            self._evaluation.loss_sum *= images / sum(sizes)
        return self._evaluation

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation()

    def validation_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation()
        self.test_scores, self.test_labels = [], []

    def test_step(self, batch: EvaluationBatch, batch_idx: int) -> None:
        self.test_scores.append(self.loss.scores(self._evaluate(batch)))
        self.test_labels.append(batch.labels)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self.evaluation.metrics().items()}
        # Every process has the same values, so their mean changes nothing. Without sync_dist Lightning warns.
        self.log_dict(metrics, sync_dist=self.trainer.world_size > 1, batch_size=1)


def _plain_backward(loss: Tensor, weight: float) -> None:
    loss.backward()
