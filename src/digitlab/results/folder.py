"""Defines the layout of a run folder and finds run folders. No other module knows the file names."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from digitlab.core.errors import ConfigError
from digitlab.core.files import read_yaml, write_atomically
from digitlab.results.checkpoint_name import CheckpointName, tested_checkpoint

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

T = TypeVar("T", dict[Any, Any], DictConfig)

# The sections of a configuration without which no network or data set can be built.
_SECTIONS = ("data", "model", "loss", "optimizer", "trainer")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before ``last``. A run resumes from it if ``last`` is damaged."""
        return self.path / "checkpoints" / "previous.ckpt"

    def checkpoint(self, name: CheckpointName) -> Path:
        """Return the path of a checkpoint. Raises ``ConfigError`` for a name that Python users may have mistyped."""
        if name not in get_args(CheckpointName):
            raise ConfigError("checkpoint", name, f"must be {' or '.join(get_args(CheckpointName))}")
        return self.last if name == "last" else self.best

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def summary(self) -> Path:
        return self.path / "model.txt"

    @property
    def confusion(self) -> Path:
        return self.path / "confusion_matrix.csv"

    @property
    def is_tested(self) -> bool:
        """Whether the run was tested: only the test writes the confusion matrix."""
        return self.confusion.exists()

    @property
    def test_predictions(self) -> Path:
        """The predictions of the tested checkpoint, so that comparisons need not evaluate it again.

        ``numpy.load(path)["probabilities"]`` is float16 (N, K): the scores of K classes for N test images, in the order
        of the test set. With ``trainer.limit_test_batches`` these are the first N images of it.
        """
        return self.path / "test_predictions.npz"

    @property
    def figures(self) -> Path:
        """The folder of the pictures that ``digitlab figures`` and ``digitlab evaluate`` draw."""
        return self.path / "figures"

    @property
    def projector(self) -> Path:
        """The folder of the files for TensorBoard's projector that ``digitlab explain`` writes."""
        return self.path / "projector"

    @property
    def projector_config(self) -> Path:
        """The file in which TensorBoard looks up the files of its projector.

        TensorBoard requires this name, and that the file is in the folder with the events.
        """
        return self.path / "projector_config.pbtxt"

    @property
    def iterations(self) -> Path:
        """A table with one row per mini-batch, written with ``figures.log_batches=true``."""
        return self.path / "iterations.csv"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def lock(self) -> Path:
        """The lock file, which exists while a process works on the run."""
        return self.path / ".lock"

    @property
    def config(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

    @property
    def overrides_file(self) -> Path:
        return self.path / ".hydra" / "overrides.yaml"

    def read_config(self) -> DictConfig:
        """Return the composed configuration of the run.

        A relative ``data.path`` becomes absolute, because it belongs to the folder in which the run was started. Raises
        ``ConfigError`` if the folder is not a run folder.
        """
        config = self._read_config(OmegaConf.load, DictConfig)
        # A file that was cut off between two lines is still YAML.
        if missing := [name for name in _SECTIONS if not OmegaConf.is_dict(config.get(name))]:
            raise self._damaged(f"has no section {missing[0]}")
        data = OmegaConf.to_container(config, resolve=False).get("data")  # type: ignore[union-attr]
        path = data.get("path") if isinstance(data, dict) else None
        if isinstance(path, str) and not os.path.isabs(path):
            absolute_path = self._started_in() / path
            if absolute_path.is_dir():
                config.data.path = str(absolute_path)
        return config

    def _started_in(self) -> Path:
        """Return the working directory of the command that started the run; the current one if that is not known."""
        try:
            return Path(read_yaml(self.config.parent / "hydra.yaml")["hydra"]["runtime"]["cwd"])
        except (OSError, YAMLError, KeyError, TypeError):
            return Path()

    def read_tested_checkpoint(self) -> CheckpointName:
        """Return the checkpoint to which the metrics of the run belong. Raises what ``read_config`` raises."""
        return tested_checkpoint(self.read_config().test)

    def read_deskew(self) -> bool:
        """Return whether the images of the run's data set are deskewed. Raises what ``read_config`` raises."""
        return bool(self.read_config().data.get("deskew", False))

    def read_plain_config(self) -> dict[str, Any]:
        """Return the configuration as plain values, with interpolations as they are written.

        This takes a twentieth of the time of ``read_config``, which matters for lists of runs. Raises ``ConfigError``
        if the folder is not a run folder.
        """
        config: dict[Any, Any] = self._read_config(read_yaml, dict)
        return {str(key): value for key, value in config.items()}

    def _read_config(self, read: Callable[[Path], Any], kind: type[T]) -> T:
        """Return what ``read`` makes of the configuration. Raises ``ConfigError`` unless that is a valid ``kind``."""
        if not self.config.exists() and not (self.config.parent.exists() or self.last.exists()):
            raise ConfigError("", str(self.path), "is no run folder: it has no .hydra/config.yaml")
        try:
            config = read(self.config)
        except Exception as error:  # the file system, YAML and OmegaConf raise exceptions of many classes
            missing = isinstance(error, FileNotFoundError)
            raise self._damaged("is missing" if missing else f"can't be read ({type(error).__name__})") from error
        if not config:
            raise self._damaged("is empty")
        if isinstance(config, kind) and "model" not in config and self.last.exists():
            raise self._damaged("has no section model")
        if not isinstance(config, kind) or "model" not in config:
            raise ConfigError("", str(self.path), "is no run folder: its .hydra/config.yaml is not one of digitlab's")
        return config

    def _damaged(self, reason: str) -> ConfigError:
        """Return the error for a run folder without a readable configuration; ``reason`` says what is wrong with it."""
        restore = "; copy it from where this folder came from"
        if self.result.exists():
            restore += f", or write it again: the command in {self.result.name} with --cfg job > {self.config}"
        return ConfigError("", str(self.path), f"is a damaged run folder: its .hydra/config.yaml {reason}{restore}")

    def read_overrides(self) -> list[str]:
        """Return the overrides of the command that started the run; none if it was not started from a command line."""
        if not self.overrides_file.exists():
            return []
        # Interpolations stay unresolved: they belong to the configuration, and may reveal environment variables.
        overrides = read_yaml(self.overrides_file)
        return [str(override) for override in overrides] if isinstance(overrides, list) else []

    def write_config(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Replace the files that ``read_config`` and ``read_overrides`` read; interpolations stay as they are."""
        write_atomically(self.config, OmegaConf.to_yaml(config).encode())
        write_atomically(self.overrides_file, OmegaConf.to_yaml(OmegaConf.create(list(overrides))).encode())

    def read_choices(self) -> dict[str, str]:
        """Return the chosen option of each config group, ``{"data": "mnist", "model": "mlp", …}``."""
        # Parsing Hydra's whole file as YAML takes 20 ms, too long for a list of a thousand runs.
        text = (self.config.parent / "hydra.yaml").read_text(encoding="utf-8")
        # The block consists of the lines after "choices:" that are indented more than this word.
        block = re.search(r"^( *)choices:\n((?:\1 +.*\n)*)", text, re.MULTILINE)
        lines = block[2].splitlines() if block else []
        return {group.strip(): name.strip() for group, _, name in (line.partition(": ") for line in lines)}

    def read_result(self) -> dict[str, Any]:
        """Return the content of ``result.json``. Raises ``OSError`` or ``ValueError`` if it can't be read."""
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except ValueError as error:
            reason = f"{self.result.name} is damaged ({error}): resume={self.path} writes it again"
            raise ValueError(reason) from error
        if not isinstance(result, dict) or not isinstance(result.get("metrics", {}), dict):
            raise ValueError(f"{self.result.name} is not one of digitlab's")
        return result

    def read_test_predictions(self) -> "npt.NDArray[np.float16]":
        """Return the probabilities of ``test_predictions``, float16 (N, K).

        Raises ``OSError``, ``KeyError`` or ``ValueError`` if they can't be read.
        """
        import zipfile  # lists of runs need neither of these
        import zlib

        import numpy as np

        try:
            # If the file is damaged, ``np.load`` does not close a file that it has opened itself.
            with self.test_predictions.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                scores: npt.NDArray[np.float16] = file["probabilities"]
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{self.test_predictions} is damaged") from error
        if scores.ndim != 2:
            raise ValueError("probabilities must be a table")
        return scores

    def discard_if_fresh(self) -> None:
        """Remove the folder if it contains only what Hydra writes before a run starts. Remove an empty parent too."""
        if not self.path.exists():
            return
        if any(file.name not in (".hydra", self.log.name, self.lock.name) for file in self.path.iterdir()):
            return
        shutil.rmtree(self.path)
        parent = self.path.parent
        if parent.exists() and not any(parent.iterdir()):
            parent.rmdir()


def find_runs(root: Path, *, unreadable: Callable[[OSError], object] | None = None) -> list[RunFolder]:
    """Return all run folders under ``root`` in the order in which they were started, finished or not.

    ``unreadable`` is called for each folder whose content this user may not read.
    """
    started = []
    for path, folders, _ in os.walk(root, onerror=unreadable):
        if ".hydra" in folders:
            started_at = os.stat(os.path.join(path, ".hydra")).st_mtime
            started.append((started_at, path))
            # There are no run folders inside a run folder. An empty list makes os.walk skip its subfolders.
            folders.clear()
    return [RunFolder(Path(path)) for _, path in sorted(started)]
