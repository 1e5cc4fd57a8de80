"""Shows the progress of a solo run: a bar on a terminal, a line in a notebook, a line per epoch in files and pipes.

``Run`` adds these callbacks to its Trainer. Populations, which train several runs together, do not use them.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from digitlab.core.durations import duration
from digitlab.core.notebook import NotebookLine
from digitlab.core.streams import is_terminal
from digitlab.data.chunks import Chunk
from digitlab.results.table import format_number
from digitlab.results.writer import Row
from digitlab.training.classifier import Classifier

# Lightning calls ``on_train_batch_end`` after each chunk, which is several mini-batches. Reading the metrics makes the
# host wait for the device, so the bar must not be redrawn after every chunk.
_REFRESH_SECONDS = 0.5
# The metrics in the line of an epoch.
_METRICS_IN_LINES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


class EpochBar(Callback):
    """Draws a progress bar if stderr is a terminal, and prints a line per epoch if stdout is not a terminal.

    ``rows`` is ``RunState.rows``, to which the end of each epoch adds its row of metrics.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._drawn_at = 0.0
        # The end of the line: the result of the last validation.
        self._validation_text = ""
        self._prints_lines = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prints_lines = trainer.is_global_zero and not is_terminal(sys.stdout)
        console = Console(file=sys.stderr)
        if not console.is_terminal or not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"), console=console, auto_refresh=False,
        )  # fmt: skip
        self._progress.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            assert isinstance(pl_module, Classifier)
            name = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._task = self._progress.add_task(
                name, total=pl_module.plan.steps_per_epoch, metrics=self._validation_text
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Chunk, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self._progress is None or (now - self._drawn_at < _REFRESH_SECONDS and not batch.last):
            return
        assert isinstance(pl_module, Classifier)
        self._drawn_at = now
        fields: dict[str, Any] = {}
        # After the last chunk of an epoch the counts are reset, and the row of the epoch contains their metrics.
        if not batch.last:
            metrics = pl_module.train_counts.metrics()
            loss = format_number(metrics["loss"])
            fields["metrics"] = f"loss {loss} · accuracy {metrics['accuracy']:.4f}{self._validation_text}"
        self._progress.update(self._task, completed=batch.step + len(batch.indices), **fields)
        self._progress.refresh()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            row = self._rows[-1]
            self._validation_text = f" · val/accuracy {row['val/accuracy']:.4f}" if "val/accuracy" in row else ""
            loss = format_number(row["train/loss"])
            metrics = f"loss {loss} · accuracy {row['train/accuracy']:.4f}{self._validation_text}"
            self._progress.update(self._task, metrics=metrics)
            # A finished line is printed above the bar and never redrawn: redrawing all lines of a long run with each
            # refresh would take longer than its epochs.
            self._progress.console.print(self._progress.make_tasks_table(self._progress.tasks))
            self._progress.remove_task(self._task)

        if self._prints_lines:
            self._print_line(self._rows[-1], trainer.max_epochs)

    def _print_line(self, row: Row, epochs: int | None) -> None:
        try:
            # Flushed, because users read a log file while the run still trains.
            print(
                f"epoch {row['epoch']}/{epochs}", f"{row['train_seconds']:.1f} s", *_metrics(row), sep=" · ", flush=True
            )
        except OSError:
            # A full disk or a closed pipe must not end the run. The table at its end reports the error.
            self._prints_lines = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # If the bar still existed, rich would draw it again below the error message.
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        """Remove the bar from the terminal."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class NotebookProgress(Callback):
    """Shows one line below the cell of a notebook, and changes it while the run trains. ``rows`` as in ``EpochBar``."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._line = NotebookLine()
        self._started_at = self._shown_at = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_at = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Chunk, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if batch.last or now - self._shown_at < _REFRESH_SECONDS:
            return
        assert isinstance(pl_module, Classifier)
        self._shown_at = now
        metrics, steps = pl_module.train_counts.metrics(), pl_module.plan.steps_per_epoch
        parts = [f"train/loss {format_number(metrics['loss'])}", f"train/accuracy {metrics['accuracy']:.4f}"]
        self._show(trainer, f"step {batch.step + len(batch.indices)}/{steps}", *parts)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Short epochs would send many messages to the browser. The end of training shows the last epoch.
        if time.monotonic() - self._shown_at >= _REFRESH_SECONDS:
            self._shown_at = time.monotonic()
            self._show_epoch(trainer, self._time_left(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._rows:
            self._show_epoch(trainer, f"{duration(time.monotonic() - self._started_at)} in all")

    def _show_epoch(self, trainer: Trainer, time_text: str) -> None:
        row = self._rows[-1]
        self._line.show(" · ".join([f"epoch {row['epoch']}/{trainer.max_epochs}", *_metrics(row), time_text]))

    def _show(self, trainer: Trainer, *parts: str) -> None:
        self._line.show(" · ".join([f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", *parts]))

    def _time_left(self, trainer: Trainer) -> str:
        # A resumed run starts with the rows of earlier epochs. Early stopping can end the run sooner.
        epochs_done = len(self._rows) - self._first_epoch
        epochs_left = (trainer.max_epochs or 0) - len(self._rows)
        seconds_per_epoch = (time.monotonic() - self._started_at) / max(epochs_done, 1)
        return f"{duration(seconds_per_epoch * epochs_left)} left at most"


def _metrics(row: Row) -> list[str]:
    """Return the texts of the metrics in the line of an epoch, without those that ``row`` lacks."""
    return [f"{name} {format_number(row[name])}" for name in _METRICS_IN_LINES if name in row]
