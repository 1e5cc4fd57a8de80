"""Writes a run folder: TensorBoard events, metrics.csv, checkpoints, predictions, result.json.

It does not depend on Lightning's Trainer. In a solo run a Lightning callback calls the writer; in a population, each
member has its own writer.
"""

import csv
import io
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

# These modules create their classes when they are imported, so mypy does not see them.
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from digitlab.config.given import GIVEN
from digitlab.config.overrides import split_override
from digitlab.core.files import write_atomically
from digitlab.results.checkpoint import write_checkpoint
from digitlab.results.events import EVENT_FILES, LOSS_TAG, SUBFOLDERS, cut_events, event_bytes
from digitlab.results.folder import RunFolder

log = logging.getLogger(__name__)

# In TensorBoard, keys of these sections have their last part as the name: batch_size, hidden, lr.
_BARE_SECTIONS = ("data", "model", "optimizer", "trainer")

# TensorBoard's histograms have no bins beyond 1e20.
_LARGEST_BIN = 1e19

Row = dict[str, float | int]


class RunWriter:
    """Writes one run.

    If ``checkpoint`` is given, the run resumes from it: rows and events in ``folder`` that are newer are removed.
    ``config`` is the configuration that TensorBoard shows. Curves of validation have the same tags as those of
    training, but are in ``val/``, so that TensorBoard draws both in one chart. All other events are in ``folder``.
    """

    def __init__(
        self, folder: RunFolder, *, config: Mapping[str, Any], checkpoint: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self._resumed = checkpoint is not None
        self.rows: list[Row] = [] if checkpoint is None else list(checkpoint["rows"])
        cut_events(folder.path, {} if checkpoint is None else checkpoint["events"])
        if self.rows:
            self._write_rows()
        else:
            folder.metrics.unlink(missing_ok=True)
        # A TensorBoard that is running has already read the events that were removed. purge_step makes it forget them.
        purge_step = None if checkpoint is None else checkpoint["global_step"] + 1
        self._events: dict[str, SummaryWriter] = {}
        # Each writer starts a thread and opens a file. If one of them fails (full disk), the others must be closed.
        with ExitStack() as opened_files:
            for name in SUBFOLDERS:
                events = _open_events(folder.path / name, purge_step)
                opened_files.callback(events.close)
                self._events[name] = events
            if checkpoint is None:
                text = json.dumps(config, indent=2, default=str)
                self._events[""].add_text("config", f"```json\n{text}\n```", global_step=0)
            # Nothing failed, so the files stay open.
            opened_files.pop_all()

    def validation(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write events of one validation: ``metrics`` are keyed ``val/loss`` and so on, ``step`` counts updates."""
        self._scalars(metrics, step)

    def losses(self, values: Iterable[tuple[int, float]]) -> None:
        """Write events with the training losses of single mini-batches: pairs of (step, loss)."""
        for step, value in values:
            self._events[""].add_scalar(LOSS_TAG, value, step)

    def epoch(self, row: Row) -> None:
        """Add a row to ``metrics.csv``, and its values to the events, except those that ``validation`` wrote."""
        self.rows.append(row)
        self._write_rows()
        step = int(row["step"])
        self._scalars({name: value for name, value in row.items() if name.startswith("train/")}, step)
        for name in ("lr", "images_per_second"):
            self._events[""].add_scalar(name, row[name], step)
        self._events[""].add_scalar("epoch", row["epoch"], step)
        self._flush()
        log.info(" ".join(f"{name}={value:.6g}" for name, value in row.items()))

    def _write_rows(self) -> None:
        columns = list(dict.fromkeys(name for each in self.rows for name in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.folder.metrics, text.getvalue().encode())

    def _flush(self) -> None:
        for events in self._events.values():
            events.flush()

    def picture(self, tag: str, pixels: npt.NDArray[np.uint8], *, step: int) -> None:
        """Write the event of a picture, uint8 (rows, columns, 3 or 4): red, green, blue and optionally alpha."""
        # add_image would turn the pixels into floats and back, which takes almost half of its time.
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        rows, columns, channels = pixels.shape
        image = Summary.Image(height=rows, width=columns, colorspace=channels, encoded_image_string=png.getvalue())
        self._events[""]._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def weights(self, network: nn.Module, *, step: int) -> None:
        """Write events with the distribution of every parameter of ``network``."""
        for name, parameter in network.named_parameters():
            weights = parameter.detach().cpu().clamp(-_LARGEST_BIN, _LARGEST_BIN)
            self._events[""].add_histogram(f"weights/{name}", weights, step)

    def precision_recall(
        self, scores: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str], *, step: int
    ) -> None:
        """Write events with a precision-recall curve per class: scores (N, K) in [0, 1], labels int64 (N,)."""
        for label, name in enumerate(class_names):
            self._events[""].add_pr_curve(f"precision_recall/{name}", labels == label, scores[:, label], step)

    def _scalars(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            split, _, tag = name.partition("/")
            self._events["val" if split == "val" else ""].add_scalar(tag, value, step)

    def checkpoint(self, checkpoint: dict[str, Any], *, best: bool) -> None:
        """Write ``checkpoint`` as ``best.ckpt`` or ``last.ckpt``, with the sizes of the event files at this moment."""
        self._flush()
        checkpoint = checkpoint | {"events": event_bytes(self.folder.path)}
        if best:
            write_checkpoint(self.folder.best, checkpoint)
        else:
            write_checkpoint(self.folder.last, checkpoint, keep=self.folder.previous)

    def graph(self, graph: Any) -> None:
        """Write the event of a ``GraphDef`` of the network, unless the run resumes and has one already."""
        if not self._resumed:
            self._events[""]._get_file_writer().add_event(Event(graph_def=graph.SerializeToString()))

    def summary(self, text: str) -> None:
        write_atomically(self.folder.summary, text.encode())

    def confusion(self, confusion: torch.Tensor, class_names: Sequence[str]) -> None:
        """Write ``confusion_matrix.csv``: int64 (K, K), rows are true classes, columns predicted ones."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true \\ predicted", *class_names])
        for name, counts in zip(class_names, confusion.tolist(), strict=True):
            writer.writerow([name, *counts])
        write_atomically(self.folder.confusion, text.getvalue().encode())

    def predictions(self, probabilities: torch.Tensor) -> None:
        """Write ``test_predictions.npz``: ``probabilities`` (N, K) in [0, 1], in the order of the test set."""
        content = io.BytesIO()
        np.savez(content, probabilities=probabilities.to("cpu", torch.float16).numpy())
        write_atomically(self.folder.test_predictions, content.getvalue())

    def result(self, result: Mapping[str, Any], *, step: int = 0) -> None:
        """Write ``result.json``, and for a finished run the event with hyper-parameters and metrics.

        The metrics in that event, ``result/val/accuracy`` and so on, are those of ``result``: of the tested checkpoint.
        """
        text = json.dumps(_finite(result), indent=2, allow_nan=False)
        write_atomically(self.folder.result, text.encode() + b"\n")
        if result["status"] == "finished":
            self._hyper_parameters(result, step)

    def _hyper_parameters(self, result: Mapping[str, Any], step: int) -> None:
        values = dict(result["metrics"]) | {
            name: result[name] for name in ("train_seconds", "parameters", "images_per_second", "best_epoch")
        }
        # TensorBoard's page shows the first five metrics at the beginning, so the monitored one comes first.
        monitored = self.config["monitor"]["metric"]
        values = {name: values[name] for name in sorted(values, key=lambda name: name != monitored)}
        values = {f"result/{name}": value for name, value in values.items() if "class_accuracy" not in name}
        values = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        overridden_keys = [split_override(override)[0] for override in result["overrides"]]
        # Three summaries: the names of settings and metrics, the values of the settings, and the end of the run.
        experiment, start, end = hparams(_settings_by_name(self.config, overridden_keys), values)
        overridden_names = {_short_name(key) for key in overridden_keys}
        for summary in (experiment, start):
            plugin_data = summary.value[0].metadata.plugin_data
            content = HParamsPluginData.FromString(plugin_data.content)
            # TensorBoard's page shows the settings with ``differs`` at the beginning. The keys that a sweep varies are
            # among the overridden ones.
            for info in content.experiment.hparam_infos if content.HasField("experiment") else ():
                info.differs = info.name in overridden_names
            # By default each process serialises a protobuf map in another order, and the files of equal runs differ.
            plugin_data.content = content.SerializeToString(deterministic=True)
        events = self._events[""]
        for summary in (experiment, start, end):
            events._get_file_writer().add_summary(summary)
        for name, value in values.items():
            events.add_scalar(name, value, step)

    def close(self) -> None:
        for events in self._events.values():
            events.close()


def _open_events(folder: Path, purge_step: int | None) -> SummaryWriter:
    """Return a writer of a new event file, which TensorBoard reads after the files that are in ``folder`` already."""
    before = set(folder.glob(EVENT_FILES))
    events = SummaryWriter(str(folder), purge_step=purge_step, max_queue=1000, flush_secs=30)
    new = set(folder.glob(EVENT_FILES)) - before
    # TensorBoard sorts the names as text, so among files of the same second it reads the counter 10 before 9.
    if any(old.name > path.name and _second(old) == _second(path) for path in new for old in before):
        events.close()
        for path in new:
            path.unlink()
        # In the next second, the name of a new file comes after all others.
        time.sleep(1 - time.time() % 1)
        events = SummaryWriter(str(folder), purge_step=purge_step, max_queue=1000, flush_secs=30)
    return events


def _second(event_file: Path) -> str:
    return event_file.name.split(".")[3]


def _finite(value: Any) -> Any:
    """Return ``value`` with None for each number that is not finite, because JSON has no nan and no infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _short_name(key: str) -> str:
    """Return the name of a dotted key in TensorBoard's table: ``lr`` for ``optimizer.lr``."""
    section, _, name = key.partition(".")
    return name if section in _BARE_SECTIONS and name else key


def _settings_by_name(config: Mapping[str, Any], overridden_keys: Sequence[str]) -> dict[str, str | float | bool]:
    """Return the settings by which users compare runs and those of ``overridden_keys``, under short names.

    TensorBoard shows these settings in a table. It shows the complete configuration as text. Settings that are None are
    left out, because a single None would make TensorBoard treat a column of numbers as text.
    """
    settings: dict[str, Any] = {"seed": config["seed"], "max_epochs": config["trainer"]["max_epochs"]}
    settings["augment"] = ",".join(config["augment"]) or "none"
    for section in ("data", "model", "loss", "optimizer", "scheduler"):
        node = config[section]
        component = node.get("source", node) if section == "data" else node
        # The name of the class, for a data set without these endings: Mnist, Emnist.
        settings[section] = component["_target_"].rpartition(".")[2].removesuffix("Source").removesuffix("Data")
        for name, value in node.items():
            # GIVEN is the key of an identifier that stands for a network of a Python user.
            if name not in ("_target_", GIVEN, "source", "root"):
                settings[_short_name(f"{section}.{name}")] = value
    for key in overridden_keys:
        value = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping):
            settings.setdefault(_short_name(key), value)
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
        if value is not None
    }
