"""``Run``: a finished, stopped or failed run as a Python object. ``digitlab.train`` and ``digitlab.open`` return it."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from digitlab.api import html
from digitlab.api.arguments import brief, explain_unknown_arguments, given_path, options_as_arguments
from digitlab.api.frames import to_frame
from digitlab.api.running import stopper_of
from digitlab.config.suggestions import not_one_of
from digitlab.core.durations import duration
from digitlab.core.errors import ConfigError, RunError
from digitlab.results.checkpoint_name import CheckpointName
from digitlab.results.folder import RunFolder
from digitlab.results.history import read_history
from digitlab.results.run_hints import why_no_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from digitlab.data import ImageData
    from digitlab.export.formats import Format
    from digitlab.export.network import Pixels
    from digitlab.training import Classifier


class Run:
    """One run, read from its folder.

    Raises ``ConfigError`` if ``folder`` is not a run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = RunFolder(given_path(folder).resolve())
        try:
            self._folder.read_plain_config()
        except ConfigError as error:
            raise ConfigError("folder", folder, why_no_run(self.path, error.allowed)) from error

    @property
    def path(self) -> Path:
        """The run folder, absolute."""
        return self._folder.path

    @property
    def result(self) -> dict[str, Any]:
        """The content of ``result.json``. Raises ``RunError`` while the run has not ended."""
        try:
            return self._folder.read_result()
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path}: has no readable result.json; the run has not ended ({error})") from error

    @property
    def status(self) -> str:
        """``finished``, ``stopped``, ``failed``, or ``unfinished`` if the run still trains or was killed."""
        return str(self._result_so_far().get("status", "unfinished"))

    def _result_so_far(self) -> dict[str, Any]:
        """Return the content of ``result.json``, or an empty dict while there is none."""
        try:
            return self._folder.read_result()
        except (OSError, ValueError):
            return {}

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the tested checkpoint by name, such as ``test/accuracy``; ``result["tested"]`` names it."""
        metrics: dict[str, float] = self.result["metrics"]
        return metrics

    @property
    def history(self) -> Any:
        """One row per epoch: a data frame, or a list of dicts (see ``to_frame``). Raises ``RunError`` if damaged."""
        return to_frame([row.columns for row in read_history(self._folder)])

    @cached_property
    def config(self) -> DictConfig:
        """The composed configuration, for example ``run.config.optimizer.lr``."""
        return self._folder.read_config()

    @explain_unknown_arguments("Run.model")
    def model(self, checkpoint: CheckpointName = "best") -> "Classifier":
        """The trained classifier in evaluation mode, on the CPU. Raises ``RunError`` without a readable checkpoint.

        Called with pixels (N, C, H, W), uint8 or float in [0, 1], it returns logits (N, K).
        """
        from digitlab.results.run_hints import open_run
        from digitlab.training.loading import load_classifier

        return load_classifier(open_run(self.path), checkpoint)

    @explain_unknown_arguments("Run.data")
    def data(self) -> "ImageData":
        """The data set of the run, read from disk and split: ``train_set``, ``val_indices``, ``test_set`` and so on.

        Raises ``DataError`` if files are missing.
        """
        from digitlab.training.loading import load_data

        data = load_data(self._folder)
        data.setup()
        return data

    @explain_unknown_arguments("Run.predict")
    def predict(self, images: Any, checkpoint: CheckpointName = "best") -> "Tensor":
        """The probabilities of the classes, float (N, K), for one image or several.

        ``images`` is a path, a PIL image, an array or tensor, or a list of these. Paths and PIL images may have any
        size and show dark figures on light or light ones on dark; ``digitlab predict`` prepares them in the same way.
        Arrays and tensors must have the shape of the data set, (C, H, W) or (N, C, H, W), and hold uint8 or floats in
        [0, 1]; the axis of a single channel may be left out. Raises ``DataError`` for a picture that cannot be read
        and ``ConfigError`` for a wrong shape.
        """
        import torch

        from digitlab.api.inputs import as_pixels

        classifier = self.model(checkpoint)
        pixels = as_pixels(images, facts=classifier.facts, deskewed=self._folder.read_deskew())
        with torch.no_grad():
            return classifier.loss.scores(classifier(pixels))

    @explain_unknown_arguments("Run.evaluate")
    def evaluate(self, checkpoint: CheckpointName = "best") -> dict[str, float]:
        """Metrics of a checkpoint on the whole official test set, keyed ``test/accuracy`` and so on."""
        from digitlab.core.logging import quiet_libraries
        from digitlab.training.evaluation import evaluate
        from digitlab.training.loading import load_data

        with quiet_libraries():
            # ``self.data()`` would read the images, and the evaluation reads them again.
            return evaluate(self.model(checkpoint), load_data(self._folder))

    @explain_unknown_arguments("Run.figure")
    def figure(self, name: str) -> "Figure":
        """One of the figures of ``digitlab figures``, for example ``confusion_matrix``, as a Matplotlib figure.

        Raises ``ConfigError`` for an unknown name and ``RunError`` if the figure does not apply to the run.
        """
        from digitlab.api.display import shown_in_notebooks
        from digitlab.figures.gallery import FIGURES, NotApplicableError
        from digitlab.figures.run_data import read_run_data

        if not isinstance(name, str) or name not in FIGURES:
            raise not_one_of("figure", brief(name), FIGURES)
        try:
            figure = FIGURES[name](read_run_data(self._folder))
        except NotApplicableError as reason:
            raise RunError(f"{self.path}: no figure {name}: {reason}") from reason
        return shown_in_notebooks(figure, f"{name.replace('_', ' ')} of {self._title()}")

    @explain_unknown_arguments("Run.stop")
    def stop(self) -> None:
        """Stop the training of this run, which must run in another thread of this process.

        The training finishes its current update, saves the run, and raises ``Interrupted`` in its thread. This method
        does not wait for it. Raises ``RunError`` if this process does not train the run.
        """
        stopper = stopper_of(self.path)
        if stopper is None:
            raise RunError(f"{self.path}: this process does not train this run, so it can't stop it")
        stopper.stop()

    @explain_unknown_arguments("Run.explain")
    def explain(self, images: Any = None, *, count: int = 8) -> "Figure":
        """A figure of the pixels that decide a prediction, and of the nearest training images (``digitlab explain``).

        ``images`` are as in ``predict``; without them, the figure explains the ``count`` most confident mistakes on the
        test set (on validation images, if the run was not tested). Raises ``ConfigError`` if the extra ``explain`` is
        not installed, and ``RunError`` if there is nothing to explain.
        """
        from digitlab.core.extras import require_packages

        require_packages("explain", "captum", value="Run.explain")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ConfigError("count", brief(count), "must be a whole number from 1")
        from digitlab.api.display import shown_in_notebooks
        from digitlab.api.inputs import as_pixels
        from digitlab.explain.network import read_explained_run
        from digitlab.explain.predictions import Subjects, confident_mistakes, explain, figure

        run = read_explained_run(self._folder)
        if images is None:
            subjects = confident_mistakes(run, count=count)
        else:
            pixels = as_pixels(images, facts=run.classifier.facts, deskewed=self._folder.read_deskew())
            if not len(pixels):
                raise ConfigError("images", f"shape {tuple(pixels.shape)}", "must have at least one image")
            subjects = Subjects(pixels=pixels, names=[f"image {number}" for number in range(len(pixels))])
        return shown_in_notebooks(figure(run, explain(run, subjects)), f"explanations of {self._title()}")

    @explain_unknown_arguments("Run.report")
    def report(self, out: str | Path | None = None) -> Path:
        """Write the HTML report, by default ``report.html`` in the run folder, and return its path."""
        from digitlab.report.gather import write_report

        path = self.path / "report.html" if out is None else given_path(out, "out")
        with options_as_arguments():
            write_report([self.path], path, force=True)
        return path

    @explain_unknown_arguments("Run.export")
    def export(
        self,
        to: "Format" = "onnx",
        out: str | Path | None = None,
        *,
        checkpoint: CheckpointName = "best",
        pixels: "Pixels" = "float32",
    ) -> Path:
        """Write the network to a file, by default in the run folder, and return its path, as ``digitlab export`` does.

        ``to`` is ``onnx``, ``safetensors`` or ``torch``; ``pixels`` is the type of the images that the network takes.
        Raises ``ConfigError`` if the extra ``export`` is missing and ``RunError`` if the network can't be exported.
        """
        from digitlab.export.run import export_run
        from digitlab.results.run_hints import open_run

        path = None if out is None else given_path(out, "out")
        with options_as_arguments():
            return export_run(open_run(self.path), to, path, checkpoint=checkpoint, pixels=pixels, force=True).path

    def __repr__(self) -> str:
        result = self._result_so_far()
        metrics = result["metrics"] if result.get("status") == "finished" else {}
        metric = next((name for name in ("test/accuracy", "val/accuracy") if metrics.get(name) is not None), None)
        value = "" if metric is None else f", {metric} {metrics[metric]:.4f}"
        return f"<Run {self.path.name}: {result.get('status', 'unfinished')}{value}>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the title, the status, the folder, and the metrics of the tested checkpoint."""
        result = self._result_so_far()
        status = str(result.get("status", "unfinished"))
        if result.get("error"):
            status += f": {result['error']}"
        heading = html.heading(self._title(), status, self.path)
        if result.get("status") != "finished":
            return heading
        classes = {name: value for name, value in result["metrics"].items() if "class_accuracy" in name}
        others = {name: value for name, value in result["metrics"].items() if name not in classes}
        content = heading + _metrics_table(others) + html.line(_facts(result))
        return content + (html.details("accuracy of each class", html.facts(_as_text(classes))) if classes else "")

    def _title(self) -> str:
        """Return the chosen options, as ``mlp on mnist``; the name of the folder if Hydra did not write them."""
        try:
            choices = self._folder.read_choices()
            return f"{choices['model']} on {choices['data']}"
        except (OSError, KeyError):
            return self.path.name


def _metrics_table(metrics: dict[str, float | None]) -> str:
    """Return a table with one row for each metric and one column for each part of the data."""
    splits = list(dict.fromkeys(name.partition("/")[0] for name in metrics))
    names = dict.fromkeys(name.partition("/")[2] for name in metrics)
    texts = _as_text(metrics)
    rows = [[name, *(texts.get(f"{split}/{name}", "") for split in splits)] for name in names]
    return html.table(["", *splits], rows, words=1)


def _as_text(metrics: dict[str, float | None]) -> dict[str, str]:
    """Return the metrics that have a value, with four decimals."""
    return {name.replace("class_accuracy/", ""): f"{value:.4f}" for name, value in metrics.items() if value is not None}


def _facts(result: dict[str, Any]) -> dict[str, str]:
    """Return the facts below the metrics of a finished run: tested checkpoint, parameters, training time and seed."""
    tested = result.get("tested") or {}
    facts = {
        "checkpoint": f"{tested['checkpoint']}, epoch {tested['epoch']} of {result['epochs']}" if tested else None,
        "parameters": f"{result['parameters']:,}" if result.get("parameters") else None,
        # A run that was trained together with others (in a population) reports its share of the time. If that is less
        # than a second, it says little.
        "training": duration(result["train_seconds"]) if (result.get("train_seconds") or 0) >= 1 else None,
        "seed": str(result.get("seed")),
    }
    return {name: text for name, text in facts.items() if text is not None}
