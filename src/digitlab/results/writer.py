"""The writer of a run folder: TensorBoard events, metrics.csv, checkpoints, result.json, one a run.

It knows no Trainer: one callback drives it for a solo run, and a population can drive one for each of its members.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]  # made at import
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[attr-defined]  # as well
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from digitlab.core.files import write_atomically
from digitlab.results.checkpoint import write_checkpoint
from digitlab.results.events import SUBFOLDERS, cut_events, event_bytes
from digitlab.results.folder import RunFolder

log = logging.getLogger(__name__)

# Their keys say by themselves what they are about: batch_size, hidden, lr.
_BARE_SECTIONS = ("data", "model", "optimizer")

# Of TensorBoard's histograms.
_LARGEST_BIN = 1e19

Status = Literal["finished", "stopped", "failed"]
Row = dict[str, float | int]


class RunWriter:
    """Writes one run; what lies in ``folder`` is brought back to ``checkpoint``, from which a resumed run goes on.

    ``config`` is for TensorBoard to show.
    Curves of the training and the validation passes lie in two event files under ``train/`` and ``val/`` with the same
    tags, so TensorBoard draws them on shared charts; everything else is in the folder itself.
    """

    def __init__(
        self, folder: RunFolder, *, config: Mapping[str, Any], checkpoint: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.config = config
        self.rows: list[Row] = [] if checkpoint is None else list(checkpoint["rows"])
        cut_events(folder.path, {} if checkpoint is None else checkpoint["events"])
        if self.rows:
            self._write_rows()
        else:
            folder.metrics.unlink(missing_ok=True)
        # A TensorBoard that is open has read what was cut off: it is told to forget it.
        purge = None if checkpoint is None else checkpoint["global_step"] + 1
        self._events: dict[str, SummaryWriter] = {}
        # Each has a thread and an open file; where a disk is full, one of them may come to nothing.
        with ExitStack() as opened:
            for name in SUBFOLDERS:
                events = SummaryWriter(str(folder.path / name), purge_step=purge, max_queue=1000, flush_secs=30)
                opened.callback(events.close)
                self._events[name] = events
            if checkpoint is None:
                text = json.dumps(config, indent=2, default=str)
                self._events[""].add_text("config", f"```json\n{text}\n```", global_step=0)
            opened.pop_all()

    def validation(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Events of one validation: ``metrics`` are keyed ``val/loss`` and so on, ``step`` counts mini-batches."""
        self._scalars(metrics, step)

    def losses(self, values: Iterable[tuple[int, float]]) -> None:
        """Events of the training loss of single mini-batches: pairs of (step, loss)."""
        for step, value in values:
            self._events["train"].add_scalar("loss_step", value, step)

    def epoch(self, row: Row) -> None:
        """Add an epoch's row to ``metrics.csv`` and its values but for ``val/`` ones, written before, to the events."""
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
        """Event of a picture, uint8 (rows, columns, 3 or 4): red, green, blue and, where it has one, alpha."""
        # Not by add_image, which turns the pixels into floats and back: nearly half of its time.
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        rows, columns, channels = pixels.shape
        image = Summary.Image(height=rows, width=columns, colorspace=channels, encoded_image_string=png.getvalue())
        self._events[""]._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def weights(self, network: nn.Module, *, step: int) -> None:
        """Events of the distribution of every parameter of a network."""
        for name, parameter in network.named_parameters():
            # Beyond 1e20 there are no bins.
            weights = parameter.detach().cpu().clamp(-_LARGEST_BIN, _LARGEST_BIN)
            self._events[""].add_histogram(f"weights/{name}", weights, step)

    def precision_recall(
        self, scores: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str], *, step: int
    ) -> None:
        """Events of a precision-recall curve for each of K classes: scores (N, K) in [0, 1], labels int64 (N,)."""
        for label, name in enumerate(class_names):
            self._events[""].add_pr_curve(f"precision_recall/{name}", labels == label, scores[:, label], step)

    def _scalars(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            split, _, tag = name.partition("/")
            self._events[split].add_scalar(tag, value, step)

    def checkpoint(self, checkpoint: dict[str, Any], *, best: bool) -> None:
        """Write ``checkpoint``, to which belongs how far the event files reach; all before it is in them."""
        self._flush()
        checkpoint = checkpoint | {"events": event_bytes(self.folder.path)}
        if best:
            write_checkpoint(self.folder.best, checkpoint)
        else:
            write_checkpoint(self.folder.last, checkpoint, keep=self.folder.previous)

    def summary(self, text: str) -> None:
        write_atomically(self.folder.summary, text.encode())

    def confusion(self, confusion: torch.Tensor, class_names: Sequence[str]) -> None:
        """``confusion_matrix.csv``: int64 (K, K), a row a true class, a column a predicted one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true \\ predicted", *class_names])
        for name, counts in zip(class_names, confusion.tolist(), strict=True):
            writer.writerow([name, *counts])
        write_atomically(self.folder.confusion, text.getvalue().encode())

    def result(self, result: Mapping[str, Any], *, step: int = 0) -> None:
        """Write ``result.json``; of a finished run also the hyper-parameters with its best values, for TensorBoard."""
        text = json.dumps(_finite(result), indent=2, allow_nan=False)
        write_atomically(self.folder.result, text.encode() + b"\n")
        if result["status"] == "finished":
            self._hyper_parameters(result, step)

    def _hyper_parameters(self, result: Mapping[str, Any], step: int) -> None:
        values = dict(result["metrics"]) | {
            name: result[name] for name in ("train_seconds", "parameters", "images_per_second", "best_epoch")
        }
        values = {f"best/{name}": value for name, value in values.items() if "class_accuracy" not in name}
        values = {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
        experiment, start, end = hparams(_flat(self.config), values)
        # A map, whose entries each process would write in an order of its own.
        plugin_data = start.value[0].metadata.plugin_data
        plugin_data.content = HParamsPluginData.FromString(plugin_data.content).SerializeToString(deterministic=True)
        events = self._events[""]
        for summary in (experiment, start, end):
            events._get_file_writer().add_summary(summary)
        for name, value in values.items():
            events.add_scalar(name, value, step)

    def close(self) -> None:
        for events in self._events.values():
            events.close()


def _finite(value: Any) -> Any:
    # JSON knows no nan: a metric that could not be measured is null.
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _flat(config: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """What one compares runs by, under short names; the whole configuration is in the text tab.

    Never None, which would turn a column of numbers into words.
    """
    flat: dict[str, Any] = {"seed": config["seed"], "max_epochs": config["trainer"]["max_epochs"]}
    flat["augment"] = ",".join(config["augment"]) or "none"
    for section in ("data", "model", "loss", "optimizer", "scheduler"):
        node = config[section]
        component = node["source"] if section == "data" else node
        flat[section] = component["_target_"].rpartition(".")[2].removesuffix("Source")
        for name, value in node.items():
            if name not in ("_target_", "source", "root"):
                flat[name if section in _BARE_SECTIONS else f"{section}.{name}"] = value
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat.items()
        if value is not None
    }
