"""The callback that sends pictures to TensorBoard while a run trains and when it ends, through the run's writer.

Every run gets sample images, the distribution of its weights, and from the test its confusion matrix and
precision-recall curves; the epoch's clock stands still meanwhile. Matplotlib is imported where a picture is drawn, so
that a configuration is checked without it.
"""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from digitlab.data.chunks import Chunk
from digitlab.data.module import ImageData
from digitlab.figures.iterations import IterationRecord
from digitlab.results.writer import RunWriter
from digitlab.schema import checked
from digitlab.training.classifier import Classifier
from digitlab.training.record import Record
from digitlab.training.recorder import Recorder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAMPLES_OF_A_CLASS = 5


class FigureCallback(Callback):
    """``each_epoch`` sends every picture of ``digitlab figures`` after each epoch; ``iterations`` keeps
    ``iterations.csv``, a row a mini-batch. Of several processes only the first, which has a writer, does anything.
    """

    @checked
    def __init__(self, *, each_epoch: bool, iterations: bool) -> None:
        self.each_epoch, self.iterations = each_epoch, iterations
        self._record: IterationRecord | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        if classifier.position.total_steps == 0:
            _send(writer, "samples", _samples(_data(trainer)), step=0)
        if self.iterations:
            self._record = IterationRecord(writer.folder, classifier)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Chunk, batch_idx: int) -> None:
        if self._record is not None:
            self._record.begin(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if self.each_epoch and writer is not None:
            record = _record(trainer)
            assert record is not None
            _send_all(writer, classifier, _data(trainer), record)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is not None and not self.each_epoch:
            writer.weights(classifier.network, step=classifier.position.total_steps)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._record is not None:
            self._record.save()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._record is not None:
            # What a failed run has done since its last checkpoint may tell why.
            self._record.save()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._record is not None and stage == TrainerFn.FITTING:
            self._record.stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from digitlab.figures.confusion import confusion_figure

        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        scores, labels = torch.cat(classifier.test_scores).cpu(), torch.cat(classifier.test_labels).cpu()
        names, step = classifier.facts.class_names, classifier.position.total_steps
        if self.iterations and self._record is None:
            # A resumed run that had come to its last mini-batch before was not fitted.
            self._record = IterationRecord(writer.folder, classifier)
            self._record.stop()
        if self._record is not None:
            self._record.add_test(scores, labels, batch_size=_data(trainer).batch_size)
            self._record.save()
        title = f"{classifier.facts.title}, {type(classifier.network).__name__}: test images"
        figure = confusion_figure(classifier.evaluation.confusion.cpu(), class_names=names, title=title)
        _send(writer, "confusion_matrix", figure, step=step)
        writer.precision_recall(scores.float(), labels, names, step=step)


def _samples(data: ImageData) -> "Figure":
    from digitlab.figures.samples import first_of_each_class, sample_grid

    source, labels = data.source, data.train_set.labels[data.train_indices]
    chosen = first_of_each_class(labels, classes=len(source.class_names), count=_SAMPLES_OF_A_CLASS)
    images = data.train_set.images[data.train_indices[chosen]].cpu()
    return sample_grid(
        images, labels[chosen].cpu(), class_names=source.class_names, title=f"{source.title}, training images"
    )


def _send_all(writer: RunWriter, classifier: Classifier, data: ImageData, record: Record) -> None:
    from digitlab.figures.gallery import PICTURES, LeftOutError
    from digitlab.figures.material import curves, material_of

    rows, best, step = record.rows, record.selection.best, classifier.position.total_steps
    run = material_of(
        classifier, data, split="val",
        epochs=curves(rows, against="epoch"), steps=curves(rows, against="step"),
        best=None if best is None else (best.epoch, best.step),
    )  # fmt: skip
    for name, draw in PICTURES.items():
        try:
            _send(writer, f"each_epoch/{name}", draw(run), step=step)
        except LeftOutError:
            continue
    writer.weights(classifier.network, step=step)
    if len(run.labels):
        writer.precision_recall(run.scores, run.labels, run.class_names, step=step)


def _send(writer: RunWriter, tag: str, figure: "Figure", *, step: int) -> None:
    from digitlab.figures.style import pixels

    writer.picture(tag, pixels(figure), step=step)


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module


def _data(trainer: Trainer) -> ImageData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageData)
    return data


def _record(trainer: Trainer) -> Record | None:
    # A trained network is tested by a Trainer of its own, without a run that something could be written of.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.record for callback in callbacks if isinstance(callback, Recorder)), None)


def _writer(trainer: Trainer) -> RunWriter | None:
    record = _record(trainer)
    return None if record is None else record.writer
