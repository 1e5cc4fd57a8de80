"""The steps that solo runs and members of populations share: data, classifier, run state, writer, ``result.json``."""

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
from omegaconf import DictConfig

from digitlab.config.compose import without_environment
from digitlab.config.given import GIVEN
from digitlab.data.chunks import ChunkPlan
from digitlab.data.module import ImageData
from digitlab.data.seeding import stream_seed
from digitlab.models import FittedToImages
from digitlab.models.user_networks import returns_probabilities
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.graph import network_graph
from digitlab.results.result import CheckpointMetrics, Status, run_result
from digitlab.results.writer import RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.early_stopping import BestTracker, MonitorValue
from digitlab.training.experiment import Experiment
from digitlab.training.run_state import RunState
from digitlab.training.settings import DataFacts

log = logging.getLogger(__name__)

# Networks with layers that are computed from training images need only some: 2,000 images have millions of patches.
_FITTED_IMAGES = 2000

# The graph of the latest network.
_graphs: dict[str, Any] = {}


def read_data(experiment: Experiment) -> ImageData:
    """Return the data set of ``experiment``, downloaded if necessary, read and split."""
    data, trainer = experiment.data, experiment.trainer
    data.overfit_batches = trainer.overfit_batches
    data.limit_val_batches, data.limit_test_batches = trainer.limit_val_batches, trainer.limit_test_batches
    data.prepare_data()
    data.setup()
    return data


def initial_classifier(experiment: Experiment, data: ImageData, *, resumed: bool = False) -> Classifier:
    """Return the classifier with the initial weights of its seed, fitted to training images if its network needs that.

    With ``resumed`` nothing is fitted, because the weights of a checkpoint will replace the initial ones.
    """
    source = data.source
    facts = DataFacts(
        name=source.name, title=source.title, image_shape=list(source.image_shape),
        class_names=list(source.class_names),
        mean=data.mean, std=data.std, margin_pixels=source.margin_pixels,
        unknown_class=source.unknown_class, train_counts=data.train_counts, fingerprint=data.fingerprint,
    )  # fmt: skip
    torch.manual_seed(stream_seed("init", experiment.options.seed))
    classifier = Classifier(data=facts.plain(), **experiment.hyper_parameters)
    classifier.seed = experiment.options.seed
    classifier.use_precision(experiment.trainer.dtype)
    classifier.log_every_steps = experiment.trainer.log_every_steps
    if GIVEN in experiment.model and not resumed and returns_probabilities(classifier.network, source.image_shape):
        log.warning(
            "%s returns probabilities, but the loss expects logits: leave out the softmax at its end",
            type(classifier.network).__name__,
        )
    if isinstance(classifier.network, FittedToImages) and not resumed:
        # The sample is spread over the split, because the images of a user's data set may be sorted by class.
        sample = data.train_indices[:: -(-len(data.train_indices) // _FITTED_IMAGES)]
        classifier.network.fit_to(classifier.normalise(data.train_set.images[sample].cpu()))
        if classifier.average is not None:
            classifier.average.load_state_dict(classifier.network.state_dict())
    return classifier


def chunk_plan(experiment: Experiment, *, rank: int = 0, world_size: int = 1) -> ChunkPlan:
    """Return how the loader of process ``rank`` of ``world_size`` divides an epoch into chunks."""
    settings = experiment.trainer
    return ChunkPlan(
        seed=experiment.options.seed, batch_size=experiment.data.batch_size, chunk_length=settings.chunk_length,
        limit_train_batches=settings.limit_train_batches, max_steps=settings.max_steps,
        val_every_steps=settings.val_every_steps, rank=rank, world_size=world_size,
    )  # fmt: skip


def set_length(classifier: Classifier, experiment: Experiment, steps_per_epoch: int) -> None:
    """Set the number of updates of an epoch and of the whole training, on which the schedule depends."""
    settings = experiment.trainer
    classifier.steps_per_epoch = steps_per_epoch
    all_epochs = settings.max_epochs * steps_per_epoch
    classifier.total_steps = min(all_epochs, settings.max_steps or all_epochs)


def run_writer(config: DictConfig, folder: RunFolder, *, checkpoint: Mapping[str, Any] | None) -> RunWriter:
    """Return the writer of a run. The configuration that it shows has no values of environment variables."""
    return RunWriter(folder, config=without_environment(config), checkpoint=checkpoint)


def new_record(
    experiment: Experiment, data: ImageData, *, history: Iterable[MonitorValue], checkpoint: Mapping[str, Any] | None
) -> RunState:
    """Return the state of a run at its beginning, or at ``checkpoint``; it has no writer yet."""
    validating = len(data.val_indices) > 0
    best_tracker = BestTracker(
        monitor=experiment.monitor, early_stopping=experiment.early_stopping, last_is_best=not validating,
        history=history,
    )  # fmt: skip
    return RunState(
        writer=None, best_tracker=best_tracker, validating=validating,
        rows=[] if checkpoint is None else list(checkpoint["rows"]),
        epoch_seconds=0.0 if checkpoint is None else checkpoint["epoch_seconds"],
    )  # fmt: skip


def summarise(classifier: Classifier, writer: RunWriter) -> str:
    """Write the graph of the network and the table of its layers, shapes and parameters; return the table."""
    # With an averaged copy the example image would pass through that, and the network's own shapes would be missing.
    average, classifier.average = classifier.average, None
    summary = str(ModelSummary(classifier, max_depth=-1))
    classifier.average = average
    writer.summary(summary + "\n")
    graph = _graph(classifier)
    if graph is not None:
        writer.graph(graph)
    log.info("model:\n%s", summary)
    return summary


def _graph(classifier: Classifier) -> Any:
    """Return the graph of the network, or None if the network can't run without reading values."""
    # Members of a population have equal networks.
    key = repr((classifier.hparams["model"], classifier.facts.image_shape))
    if key not in _graphs:
        _graphs.clear()
        try:
            _graphs[key] = network_graph(classifier.network, tuple(classifier.facts.image_shape))
        except Exception as error:  # a user's network can raise anything
            log.info("no graph for TensorBoard: %s", error)
            _graphs[key] = None
    return _graphs[key]


def result_fields(
    *,
    status: Status,
    error: BaseException | None,
    record: RunState,
    classifier: Classifier,
    folder: RunFolder,
    split_fingerprint: str,
    overrides: Sequence[str],
    measured: CheckpointMetrics | None,
    device: torch.device,
) -> dict[str, Any]:
    """Return the content of ``result.json``; ``measured`` is the tested checkpoint, None if there was no test.

    Without a test the metrics are those of the best checkpoint so far.
    """
    best, rows = record.best_tracker.best, record.rows
    if measured is None:
        measured = CheckpointMetrics()
        if folder.best.exists():
            measured = CheckpointMetrics.of(read_checkpoint(folder.best), "best")
    return run_result(
        status=status, error=error, measured=measured,
        best_epoch=None if best is None else best.epoch,
        epochs=len(rows),
        train_seconds=sum(row["train_seconds"] for row in rows),
        images_per_second=statistics.median([row["images_per_second"] for row in rows]) if rows else None,
        parameters=sum(parameter.numel() for parameter in classifier.network.parameters()),
        seed=classifier.seed, split_fingerprint=split_fingerprint, overrides=overrides, device=device,
        threads=classifier.step_threads,
    )  # fmt: skip
