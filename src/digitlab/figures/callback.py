"""The callback that sends pictures to TensorBoard while a solo run trains and when it ends.

Every run gets sample images, the distribution of its weights, and from the test its confusion matrix and
precision-recall curves (``events``); the epoch's clock stands still meanwhile. A member of a population asks for the
same by itself.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from digitlab.config.schema import checked
from digitlab.data.chunks import Chunk
from digitlab.data.module import ImageData
from digitlab.figures.batch_log import IterationRecord
from digitlab.figures.events import samples, send_epoch, send_samples, send_test, send_weights
from digitlab.results.writer import RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.run_callback import RunCallback
from digitlab.training.run_state import RunState


class FigureCallback(Callback):
    """``each_epoch`` sends every picture of ``digitlab figures`` after each epoch; ``log_batches`` keeps
    ``iterations.csv``, a row a mini-batch. Of several processes only the first, which has a writer, does anything.
    """

    @checked
    def __init__(self, *, each_epoch: bool, log_batches: bool) -> None:
        self.each_epoch, self.log_batches = each_epoch, log_batches
        self._record: IterationRecord | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        if classifier.position.total_steps == 0:
            send_samples(writer, samples(_data(trainer)))
        if self.log_batches:
            self._record = IterationRecord(writer.folder, classifier)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Chunk, batch_idx: int) -> None:
        if self._record is not None:
            self._record.begin(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if self.each_epoch and writer is not None:
            record = _record(trainer)
            assert record is not None
            send_epoch(writer, classifier, _data(trainer), record)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is not None and not self.each_epoch:
            send_weights(writer, classifier)

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
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        if self.log_batches and self._record is None:
            # A resumed run that had come to its last mini-batch before was not fitted.
            self._record = IterationRecord(writer.folder, classifier)
            self._record.stop()
        if self._record is not None:
            scores, labels = torch.cat(classifier.test_scores).cpu(), torch.cat(classifier.test_labels).cpu()
            self._record.add_test(scores, labels, batch_size=_data(trainer).batch_size)
            self._record.save()
        send_test(writer, classifier)


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module


def _data(trainer: Trainer) -> ImageData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageData)
    return data


def _record(trainer: Trainer) -> RunState | None:
    # A trained network is tested by a Trainer of its own, without a run that something could be written of.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.record for callback in callbacks if isinstance(callback, RunCallback)), None)


def _writer(trainer: Trainer) -> RunWriter | None:
    record = _record(trainer)
    return None if record is None else record.writer
