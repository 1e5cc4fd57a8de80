"""The only LightningModule of digitlab: it trains any network on chunks (several mini-batches each), and evaluates it.

Shapes: N images, C channels, H rows, W columns, K classes. One class is enough because networks are plain
``nn.Module``s from images to logits: loss, update rule, schedule and metrics work the same way for all of them.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from digitlab.config.compose import build
from digitlab.data.chunks import Chunk, Position
from digitlab.data.evaluation import EvaluationBatch
from digitlab.data.normalise import Normalise
from digitlab.engine.aot_cache import CompilerError, fall_back
from digitlab.engine.chunk_runner import ChunkRunner
from digitlab.engine.cpu_tuning import ForwardCost, forward_cost, keep_large_memory, threads, worthwhile_threads
from digitlab.engine.cuda_graph import graph_capture_for
from digitlab.engine.device import reads_at_once
from digitlab.engine.eager import TrainStep
from digitlab.engine.fused_execution import Acceleration, FusedUpdates
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.metrics import Counts, Evaluation, confusions, gather_counts, sum_counts
from digitlab.engine.training_plan import TrainingPlan
from digitlab.models.layers import statistics_of
from digitlab.models.user_networks import initialise_lazy_layers
from digitlab.training.settings import DataFacts, Execution, LearningParts
from digitlab.training.test_time_augmentation import TestTimeAugmentation, augmented_views


class Classifier(LightningModule):
    """A network with its normalisation, loss, update rule and schedule.

    All arguments are plain values of the composed configuration. A checkpoint stores them, so that
    ``Classifier.load_from_checkpoint(path)`` needs nothing else. ``data`` holds the facts of the data set
    (``DataFacts``). With ``ema_decay`` the weights are averaged over the updates (Polyak and Juditsky, 1992), and the
    averaged network is evaluated. With ``tta`` several views of each image are evaluated.

    ``execution`` says how a run makes its updates. It is not stored, and a network that is only evaluated needs none.
    Members of a population use this class without a Trainer: the population makes their updates.
    """

    runner: ChunkRunner  # set when training starts
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
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["execution"])
        # One training_step makes several updates. Lightning's automatic optimisation would make exactly one.
        self.automatic_optimization = False
        self.facts = DataFacts(**data)
        classes, shape = len(self.facts.class_names), self.facts.shape
        self.network: nn.Module = build(model, "model", nn.Module, image_shape=shape, classes=classes)
        initialise_lazy_layers(self.network, shape)
        self.average: nn.Module | None = None
        if ema_decay is not None:
            self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.execution = execution or Execution()
        parts = self.execution.parts or LearningParts.build(loss, optimizer, scheduler)
        self.loss = parts.loss.for_classes(self.facts.class_names, self.facts.train_counts)
        self.update, self.schedule = parts.optimizer, parts.schedule
        self.ema_decay, self.gradient_clip_norm, self.tta = ema_decay, gradient_clip_norm, tta
        self.normalise = Normalise(image_shape=shape, mean=self.facts.mean, std=self.facts.std)
        self.example_input_array = torch.zeros(1, *shape, dtype=torch.uint8)
        # With precision 64, the weights are float64, too. bfloat16 is only for products, and the weights stay float32.
        if self.execution.dtype == torch.float64:
            self.double()
        # The confusion matrix and the sum of the losses of the current epoch so far; checkpoints save them.
        self.train_counts = Counts.zeros(classes, torch.device("cpu"))
        self._optimizer_state: dict[str, Any] | None = None  # that of a checkpoint, until the optimizer is built
        # Losses of single mini-batches that are not written yet: (step from 1, loss).
        self._logged_losses: list[tuple[int, float]] = []
        self.step_threads: int | None = None  # the number of threads of the updates, None before the first one
        self._begin_evaluation()
        self.test_scores: list[Tensor] = []  # for each batch of the last test, (n, K); see ``Loss.scores``
        self.test_labels: list[Tensor] = []  # for each of these batches, int64 (n,)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Do the same as Lightning, but read only plain values and tensors: a pickle can run any code."""
        return super().load_from_checkpoint(checkpoint_path, *args, **(kwargs | {"weights_only": True}))

    @property
    def evaluated_network(self) -> nn.Module:
        """The network with the averaged weights if there are any."""
        return self.network if self.average is None else self.average

    @property
    def plan(self) -> TrainingPlan:
        """The plan of the run; only a network in training has one."""
        assert self.execution.plan is not None
        return self.execution.plan

    @property
    def position(self) -> Position:
        """How far the training of the run has come."""
        return self.plan.position

    def restore(
        self, weights: Mapping[str, Tensor], optimizer_state: dict[str, Any], train_counts: Counts | None
    ) -> None:
        """Set the state to that of a checkpoint. ``train_counts`` is None if another process of DDP has all counts."""
        self.load_state_dict(weights)
        self._optimizer_state = optimizer_state
        if train_counts is not None:
            self.train_counts = train_counts

    def take_optimizer_state(self) -> dict[str, Any] | None:
        """Return the ``state_dict`` of the optimizer in the checkpoint, once; None if there is none."""
        state, self._optimizer_state = self._optimizer_state, None
        return state

    def member_spec(self) -> MemberSpec:
        """Return what the engine needs to know to train this network, alone or in a population."""
        return MemberSpec(
            network=self.network, average=self.average, normalise=self.normalise, loss=self.loss, optimizer=self.update,
            schedule=self.schedule, image_shape=self.facts.shape, classes=len(self.facts.class_names),
            plan=self.plan, ema_decay=self.ema_decay, gradient_clip_norm=self.gradient_clip_norm,
            autocast_dtype=self.execution.autocast_dtype,
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K), in the precision of the weights, for ``pixels`` (N, C, H, W), uint8 or in [0, 1].

        It uses the averaged weights if there are any. With ``tta`` it averages the logits of all views of an image.
        """
        network = self.evaluated_network
        images = self.normalise(pixels)
        dtype = self.execution.autocast_dtype
        with nullcontext() if dtype is None else torch.autocast(self.device.type, dtype):
            logits = [weight * network(view).to(images.dtype) for view, weight in augmented_views(images, self.tta)]
        return torch.stack(logits).sum(0)

    # Training ---------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.update.build(self.network)
        if (state := self.take_optimizer_state()) is not None:
            optimizer.load_state_dict(state)
        return optimizer

    def setup(self, stage: str) -> None:
        # The cost is measured with one image. This must happen before callbacks add hooks that would see this image.
        if stage == "fit":
            self.forward_cost = forward_cost(self.network, self.facts.shape, self.normalise.scale)

    def on_train_start(self) -> None:
        self.execution.stop_signal.install()
        # Lightning's wrapper around the optimiser would cost a tenth of a small network's step.
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        spec = self.member_spec()
        step = TrainStep(
            spec, optimizer=optimizer, read_losses=reads_at_once(self.device),
            backward=self._ddp_backward if self.trainer.world_size > 1 else lambda loss, weight: loss.backward(),
        )  # fmt: skip
        self.runner = ChunkRunner(
            spec, step=step, fused=self._fused_updates(spec, optimizer), strategy=self.trainer.strategy,
            stop_signal=self.execution.stop_signal,
        )  # fmt: skip
        self.train_counts.confusion = self.train_counts.confusion.to(self.device)

    def release_updates(self) -> None:
        """Free the compiled updates and CUDA graphs of a training that has ended; before the first one, do nothing."""
        if hasattr(self, "runner"):
            self.runner.release()
            # A graph's memory goes back to the device only now. Without an initialised CUDA device it does nothing.
            torch.cuda.empty_cache()

    def _fused_updates(self, spec: MemberSpec, optimizer: torch.optim.Optimizer) -> FusedUpdates | None:
        """Return what makes several updates in one compiled or captured call; None if all updates are to be eager."""
        compiling = self.execution.compiling
        graph_capture = graph_capture_for(self.device, allowed=self.execution.cuda_graphs)
        if not compiling and graph_capture is None:
            return None
        try:
            if self.trainer.world_size > 1:
                raise CompilerError("not with several processes")
            return FusedUpdates.of_solo_run(spec, optimizer, Acceleration(compiling, graph_capture))
        except CompilerError as error:
            fall_back(error, asked=compiling is True)
            return None

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last update."""
        return self.runner.step.learning_rate(max(self.position.total_steps - 1, 0))

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Make one update for each mini-batch of the chunk.

        Raises ``RunError`` if a loss, gradient or weight is not finite; the weights are then those before the update.
        """
        images = chunk.plan.batch_size / self.trainer.world_size  # of each mini-batch in this process
        # On the CPU, steps with large tensors are faster if freed memory is kept; small steps need fewer threads.
        if self.device.type == "cpu":
            keep_large_memory(int(images * self.forward_cost.largest_output * self.normalise.scale.element_size()))
        self.step_threads = worthwhile_threads(images * self.forward_cost.flops)
        with threads(self.step_threads):
            logits, losses = self.runner.run_chunk(chunk)
        self._count_chunk(chunk, logits, losses)
        # Lightning counts updates in its wrapped optimiser, which is not used. Without this line global_step, which
        # callbacks and loggers read, would stay at 0.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += len(losses)

    def _ddp_backward(self, loss: Tensor, weight: float) -> None:
        # Lightning averages gradients here. The weight makes up for unequal shares of images (``Chunk.minibatches``).
        self.manual_backward(loss * weight)
        # Each process has computed the running statistics of batch norm from its own images.
        for buffer in statistics_of(self.network):
            torch.distributed.all_reduce(buffer)
            buffer /= self.trainer.world_size

    def _count_chunk(self, chunk: Chunk, logits: Tensor, losses: Sequence[float]) -> None:
        sizes = chunk.sizes[: len(losses)]  # after a signal, not all mini-batches of the chunk are done
        image_count = sum(sizes)
        labels = chunk.learnt_labels()[:image_count]  # a mixed image has the label with the larger weight
        self.count(confusions(logits[:image_count].unsqueeze(0), labels.unsqueeze(0))[0], losses, sizes)

    def count(self, confusion: Tensor, losses: Sequence[float], sizes: Sequence[int]) -> None:
        """Add the results of mini-batches just done: their confusion matrix, int64 (K, K), mean losses and sizes."""
        self.train_counts.confusion = self.train_counts.confusion + confusion
        self.train_counts.add_losses(losses, sizes)
        first_step, interval = self.position.total_steps - len(losses) + 1, self.execution.log_every_steps
        self._logged_losses += [(step, loss) for step, loss in enumerate(losses, first_step) if step % interval == 0]

    def take_logged_losses(self) -> list[tuple[int, float]]:
        """Return the losses of single mini-batches since the last call, as pairs (step from 1, loss)."""
        losses, self._logged_losses = self._logged_losses, []
        return losses

    def take_train_counts(self) -> Counts:
        """Return the training counts since the last call, summed over all processes, and set them back to zero."""
        counts = sum_counts(self.train_counts_of_processes())
        self.train_counts = Counts.zeros(len(self.facts.class_names), self.train_counts.confusion.device)
        return counts

    def train_counts_of_processes(self) -> list[Counts]:
        """Return the current counts of every process. All processes must call this together."""
        return gather_counts(self.train_counts, processes=self.plan.chunks.world_size)

    # Evaluation: every process evaluates all images, so all make the same decisions without communicating -------------

    def _evaluate(self, batch: EvaluationBatch) -> Tensor:
        logits: Tensor = self(batch.images)
        targets = self.loss.encode(batch.labels, logits.shape[1])
        loss, image_weights = self.loss(logits, targets), self.loss.image_weights(targets)
        weight = None if image_weights is None else image_weights.sum()
        self._evaluation.add(logits, batch.labels, loss, weight)
        return logits

    def _begin_evaluation(self) -> None:
        self._evaluation = Evaluation(len(self.facts.class_names), self.device)

    @property
    def evaluation(self) -> Counts:
        """The counts of the current or last validation or test. Reading them waits for the device."""
        return self._evaluation.counts()

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
