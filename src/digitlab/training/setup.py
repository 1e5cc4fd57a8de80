"""The steps at the start of a run: read the data, then make the plan, the classifier, the run state and the writer.

``training.run.Run`` calls them in this order for a run that trains alone. A population, which trains several runs (its
members) together, reads the data once for all and takes the other steps for each member. ``summarise`` then shows the
network.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.model_summary import ModelSummary
from omegaconf import DictConfig

from digitlab.config.compose import without_environment
from digitlab.config.given import GIVEN
from digitlab.core.ranks import process_rank
from digitlab.core.signals import StopSignal
from digitlab.data.chunks import ChunkPlan, Position
from digitlab.data.module import ImageData
from digitlab.data.sampling import every_nth
from digitlab.data.seeding import stream_seed
from digitlab.engine.training_plan import TrainingPlan
from digitlab.models import FittedToImages
from digitlab.models.user_networks import returns_probabilities
from digitlab.results.folder import RunFolder
from digitlab.results.graph import network_graph
from digitlab.results.writer import RunWriter
from digitlab.training.checkpointing import restore
from digitlab.training.classifier import Classifier
from digitlab.training.early_stopping import BestTracker
from digitlab.training.experiment import Experiment
from digitlab.training.run_state import RunState
from digitlab.training.settings import DataFacts, Execution

log = logging.getLogger(__name__)

# Some networks compute a layer from the patches (small squares) of training images before they train. This many images
# are enough, because they have millions of patches.
_FITTED_IMAGES = 2000

# The sizes of mini-batch and training split that a warning has named. Hundreds of runs of a sweep can have the same
# sizes, and one warning is enough.
_reported_sizes: set[tuple[int, int]] = set()

# The graph of the latest network, keyed by its settings: see ``_graph``.
_graphs: dict[str, Any] = {}


def read_data(experiment: Experiment) -> ImageData:
    """Return the data set of ``experiment``, downloaded if necessary, read and split."""
    data, trainer = experiment.data, experiment.trainer
    data.set_limits(
        overfit_batches=trainer.overfit_batches, limit_val_batches=trainer.limit_val_batches,
        limit_test_batches=trainer.limit_test_batches,
    )  # fmt: skip
    data.prepare_data()
    data.setup()
    batch_size, train_size = data.batch_size, len(data.train_indices)
    if batch_size > train_size and (batch_size, train_size) not in _reported_sizes:
        _reported_sizes.add((batch_size, train_size))
        log.warning(
            "data.batch_size=%d is more than the %d training images: each epoch makes one update, from all of them",
            batch_size, train_size,
        )  # fmt: skip
    return data


def initial_classifier(
    experiment: Experiment,
    data: ImageData,
    *,
    plan: TrainingPlan | None = None,
    stop_signal: StopSignal | None = None,
    resumed: bool = False,
) -> Classifier:
    """Return the classifier with the initial weights of its seed, fitted to training images if its network needs that.

    ``plan`` is by default one that starts at the beginning of the run. With ``resumed`` nothing is fitted, because the
    weights of a checkpoint will replace the initial ones. The parts of the run that ``experiment`` has built already,
    its loss, optimizer and schedule, are used and not built again.
    """
    source, settings = data.source, experiment.trainer
    facts = DataFacts(
        name=source.name, title=source.title, image_shape=list(source.image_shape),
        class_names=list(source.class_names),
        mean=data.mean, std=data.std, margin_pixels=source.margin_pixels,
        unknown_class=source.unknown_class, train_counts=data.train_counts, fingerprint=data.fingerprint,
    )  # fmt: skip
    # The seed alone decides the initial weights, whatever random numbers this process has drawn before.
    torch.manual_seed(stream_seed("init", experiment.options.seed))
    execution = Execution(
        plan=plan or training_plan(experiment, data), parts=experiment.parts,
        precision=settings.precision, compiling=experiment.options.compile, cuda_graphs=settings.cuda_graphs,
        log_every_steps=settings.log_every_steps, stop_signal=stop_signal or StopSignal(),
    )  # fmt: skip
    classifier = Classifier(data=facts.plain(), **experiment.hyper_parameters, execution=execution)
    # Networks of digitlab return logits. A network that a Python user passed to ``digitlab.train`` (its node has the
    # key ``GIVEN``) may have a softmax at its end by mistake.
    is_users_network = GIVEN in experiment.hyper_parameters["model"]
    if is_users_network and not resumed and returns_probabilities(classifier.network, source.image_shape):
        log.warning(
            "%s returns probabilities, but the loss expects logits: leave out the softmax at its end",
            type(classifier.network).__name__,
        )
    if isinstance(classifier.network, FittedToImages) and not resumed:
        # Not the first images, because those of a user's data set may be sorted by class.
        sample = every_nth(data.train_indices, _FITTED_IMAGES)
        classifier.network.fit_to(classifier.normalise(data.train_set.images[sample].cpu()))
        # The averaged network was copied from the network before the fit.
        if classifier.average is not None:
            classifier.average.load_state_dict(classifier.network.state_dict())
    return classifier


def training_plan(experiment: Experiment, data: ImageData, position: Position | None = None) -> TrainingPlan:
    """Return the plan of this process: the length of the training, and how to cut epochs into chunks of mini-batches.

    The run has reached ``position``; by default it is at its beginning. Under DDP each process trains on its own images
    of each mini-batch, so the plan has the rank of the process.
    """
    settings = experiment.trainer
    chunks = ChunkPlan(
        seed=experiment.options.seed, batch_size=experiment.data.batch_size, chunk_length=settings.chunk_length,
        limit_train_batches=settings.limit_train_batches, max_steps=settings.max_steps,
        val_every_steps=settings.val_every_steps, rank=process_rank() if settings.devices > 1 else 0,
        world_size=settings.devices,
    )  # fmt: skip
    return TrainingPlan.for_images(chunks, len(data.train_indices), max_epochs=settings.max_epochs, position=position)


def run_writer(config: DictConfig, folder: RunFolder, *, checkpoint: Mapping[str, Any] | None) -> RunWriter:
    """Return the writer of a run. The configuration that it shows has no values of environment variables.

    If the run resumes from ``checkpoint``, the writer removes metrics and events that are newer. So call this only when
    nothing before the training can fail any more.
    """
    return RunWriter(folder, config=without_environment(config), checkpoint=checkpoint)


def new_run_state(
    experiment: Experiment,
    data: ImageData,
    classifier: Classifier,
    folder: RunFolder,
    *,
    checkpoint: dict[str, Any] | None,
) -> RunState:
    """Return the state of a run at its beginning, or at ``checkpoint``, which is also loaded into ``classifier``.

    It has no writer yet. Raises ``RunError`` if the run can't continue from ``checkpoint`` (see ``restore``).
    """
    validating = len(data.val_indices) > 0
    # The tracker gets the history of the monitored metric, so that the best value and the patience are as before the
    # stop.
    best_tracker = BestTracker(
        monitor=experiment.monitor, early_stopping=experiment.early_stopping, last_is_best=not validating,
        history=[] if checkpoint is None else restore(checkpoint, classifier, path=folder.last),
    )  # fmt: skip
    return RunState(
        classifier=classifier, folder=folder, best_tracker=best_tracker, test=experiment.options.test,
        validating=validating, rows=[] if checkpoint is None else list(checkpoint["rows"]),
        epoch_seconds=0.0 if checkpoint is None else checkpoint["epoch_seconds"],
    )  # fmt: skip


def summarise(classifier: Classifier, writer: RunWriter) -> str:
    """Write the graph of the network and the table of its layers, shapes and parameters; return the table."""
    # The classifier passes the example image through the averaged network if there is one. The table would then lack
    # the shapes in the network itself.
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
    """Return the graph of the network for TensorBoard; None if the network can't run on tensors without values."""
    # Members of a population have networks with the same settings, so one graph serves all of them.
    key = repr((classifier.hparams["model"], classifier.facts.image_shape))
    if key not in _graphs:
        _graphs.clear()
        try:
            _graphs[key] = network_graph(classifier.network, classifier.facts.shape)
        except Exception as error:  # a user's network can raise anything
            log.info("no graph for TensorBoard: %s", error)
            _graphs[key] = None
    return _graphs[key]
