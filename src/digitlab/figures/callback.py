"""The Lightning callback that sends figures to TensorBoard during a solo run and at its end.

Every run gets sample images, histograms of its weights and, after the test, a confusion matrix and precision-recall
curves (see ``figures.events``). The time for drawing does not count as training time. Runs that are trained together as
members of a population do not use this callback: they call the functions of ``figures.events`` directly.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from digitlab.config.schema import checked
from digitlab.data.chunks import Chunk
from digitlab.data.module import ImageData
from digitlab.figures.batch_log import BatchLogger
from digitlab.figures.events import samples, send_epoch, send_samples, send_test, send_weights, tested
from digitlab.results.writer import RunWriter
from digitlab.training.classifier import Classifier
from digitlab.training.run_callback import RunCallback
from digitlab.training.run_state import RunState


class FigureCallback(Callback):
    """Sends figures to TensorBoard. Under DDP only rank 0, which has a writer, does anything.

    ``each_epoch``: send every figure of ``digitlab figures`` after each epoch. ``log_batches``: write
    ``iterations.csv``, one row per mini-batch.
    """

    @checked
    def __init__(self, *, each_epoch: bool, log_batches: bool) -> None:
        self.each_epoch, self.log_batches = each_epoch, log_batches
        self._batch_logger: BatchLogger | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        if classifier.position.total_steps == 0:  # a resumed run has them already
            send_samples(writer, samples(_data(trainer)))
        if self.log_batches:
            self._batch_logger = BatchLogger(writer.folder, classifier)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Chunk, batch_idx: int) -> None:
        if self._batch_logger is not None:
            self._batch_logger.begin(batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if self.each_epoch and writer is not None:
            run_state = _run_state(trainer)
            assert run_state is not None
            send_epoch(writer, classifier, _data(trainer), run_state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        # With ``each_epoch``, the end of the last epoch has sent the weights.
        if writer is not None and not self.each_epoch:
            send_weights(writer, classifier)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._batch_logger is not None:
            self._batch_logger.save()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._batch_logger is not None:
            # The mini-batches since the last checkpoint may show why the run failed.
            self._batch_logger.save()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._batch_logger is not None and stage == TrainerFn.FITTING:
            self._batch_logger.stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, writer = _classifier(pl_module), _writer(trainer)
        if writer is None:
            return
        if self.log_batches and self._batch_logger is None:
            # A run that is resumed after its last mini-batch skips training, so no logger exists yet. A new one reads
            # the rows of training from the file; there is no mini-batch left for its hooks to see.
            self._batch_logger = BatchLogger(writer.folder, classifier)
            self._batch_logger.stop()
        if self._batch_logger is not None:
            self._batch_logger.add_test(*tested(classifier), batch_size=_data(trainer).batch_size)
            self._batch_logger.save()
        send_test(writer, classifier)


def _classifier(module: LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module


def _data(trainer: Trainer) -> ImageData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageData)
    return data


def _run_state(trainer: Trainer) -> RunState | None:
    # ``digitlab evaluate`` tests with a Trainer that has no RunCallback, because it writes no run folder.
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.run_state for callback in callbacks if isinstance(callback, RunCallback)), None)


def _writer(trainer: Trainer) -> RunWriter | None:
    run_state = _run_state(trainer)
    return None if run_state is None else run_state.writer
