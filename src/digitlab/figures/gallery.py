"""The list of all figures of one run: each public function draws one figure from ``RunData``, and has its name.

``digitlab figures`` writes them to files, the report of runs and the Python API show them, and
``figures.each_epoch=true`` sends them to TensorBoard during training.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from digitlab.core.errors import ConfigError
from digitlab.core.files import write_atomically
from digitlab.figures import confusion, gifs, history, images, layers, samples, scores, weights
from digitlab.figures.batch_log import BatchLog
from digitlab.figures.run_data import RunData
from digitlab.figures.style import SPLIT_NAMES, Format, Width, encode, figure_width

# How many images, hidden units of each class and pairs of classes the figures show.
_FIRST_IMAGES, _RANDOM_IMAGES, _PREDICTION_IMAGES, _IMAGES_PER_CLASS = 7, 4, 50, 10
_CORRECT_IMAGES, _WRONG_IMAGES, _MISTAKES = 20, 10, 20
_UNITS_PER_CLASS, _CONFUSED_PAIRS, _EXAMPLES_PER_PAIR = 5, 6, 8


class NotApplicableError(Exception):
    """A figure does not apply to this run; the message says why."""


Draw = Callable[[RunData], Figure]


def history_epochs(run: RunData) -> Figure:
    return history.history_figure(run.epochs, x_label="epoch", best=run.best_epoch, title=run.title)


def history_iterations(run: RunData) -> Figure:
    return history.history_figure(run.steps, x_label="iteration (mini-batch)", best=run.best_step, title=run.title)


def nll_by_iteration(run: RunData) -> Figure:
    return history.nll_figure(_batch_log(run).train_nll, mean_over=50, title=run.title)


def nll_by_changed_weights(run: RunData) -> Figure:
    log = _batch_log(run)
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    return history.changed_weights_figure(log.train_nll, log.changed_weights, parameters=parameters, title=run.title)


def batch_accuracy(run: RunData) -> Figure:
    log = _batch_log(run)
    return history.batch_accuracy_figure(
        (log.train_correct, log.train_images), (log.test_correct, log.test_images), title=run.title
    )


def _batch_log(run: RunData) -> BatchLog:
    if run.batch_log is None:
        raise NotApplicableError("the run has no log of mini-batches: train it with figures.log_batches=true")
    return run.batch_log


def images_first(run: RunData) -> Figure:
    title = _title(run, "first {} images")
    return images.labelled_figure(
        run.images[:_FIRST_IMAGES], run.labels[:_FIRST_IMAGES], class_names=run.class_names, title=title
    )


def images_random(run: RunData) -> Figure:
    # A fixed seed gives the same images each time.
    order = torch.randperm(len(run.train_indices), generator=torch.Generator().manual_seed(0))
    indices = run.train_indices[order[:_RANDOM_IMAGES].to(run.train_indices.device)]
    return images.labelled_figure(
        run.train_set.images[indices].cpu(), run.train_set.labels[indices].cpu(),
        class_names=run.class_names, title="random training images",
    )  # fmt: skip


def images_classes(run: RunData) -> Figure:
    positions = samples.first_of_each_class(
        run.train_set.labels[run.train_indices], classes=len(run.class_names), count=_IMAGES_PER_CLASS
    )
    indices = run.train_indices[positions]
    train_images, labels = run.train_set.images[indices].cpu(), run.train_set.labels[indices].cpu()
    return samples.sample_grid(train_images, labels, class_names=run.class_names, title="training images")


def images_predictions(run: RunData) -> Figure:
    return _predicted_images(
        run, torch.arange(len(run.labels))[:_PREDICTION_IMAGES], "first {} images with their predictions"
    )


def images_right_wrong(run: RunData) -> Figure:
    indices = images.correct_then_wrong(run.labels, run.scores, correct=_CORRECT_IMAGES, wrong=_WRONG_IMAGES)
    return _predicted_images(run, indices, "{} images, correct and wrong predictions")


def images_mistakes(run: RunData) -> Figure:
    indices = images.most_confident_mistakes(run.labels, run.scores, count=_MISTAKES)
    _require_mistakes(len(indices))
    title = _title(run, "most confident mistakes and their confidence, {} images")
    return images.mistakes_figure(
        run.images[indices], run.labels[indices], run.scores[indices], class_names=run.class_names, title=title
    )


def _predicted_images(run: RunData, indices: Tensor, title: str) -> Figure:
    return images.predictions_figure(
        run.images[indices], run.labels[indices], run.scores[indices],
        class_names=run.class_names, title=_title(run, title),
    )  # fmt: skip


def _title(run: RunData, template: str) -> str:
    """Put the name of the split into ``template``, and add the title of the run.

    Raises ``NotApplicableError`` if the run has no evaluated images.
    """
    if not len(run.labels):
        raise NotApplicableError("the run has no validation images and was not tested")
    return f"{template.format(SPLIT_NAMES[run.split])}: {run.title}"


def _require_mistakes(count: int) -> None:
    if not count:
        raise NotApplicableError("the network classifies every image correctly")


def network_layers(run: RunData) -> Figure:
    shape = run.image_shape
    return layers.layers_figure(layers.layers_of(run.network, shape), image_shape=shape, title=run.title)


def weights_outputs(run: RunData) -> Figure:
    dense = _dense_layers(run)
    if len(dense) != 1:
        raise NotApplicableError("the network is not linear: no weight connects a pixel with an output")
    matrix, bias = dense[0].weight.detach().cpu(), dense[0].bias
    return weights.output_weights_figure(
        matrix.view(-1, *run.image_shape), None if bias is None else bias.detach().cpu(),
        class_names=run.class_names, title=f"weights of each output: {run.title}",
    )  # fmt: skip


def weights_units(run: RunData, classes: Sequence[int] | None = None) -> Figure:
    """Draw the hidden units of ``classes``; None means all classes, or a few of the least accurate ones of many."""
    dense = _dense_layers(run)
    if len(dense) < 2:
        raise NotApplicableError("the network has no hidden layer")
    matrices = [layer.weight.detach().cpu() for layer in dense]
    # With more than one hidden layer, ignore the activations: the product of all matrices after the first, from the
    # last to the second, connects a unit of the first layer with the outputs.
    outgoing = torch.linalg.multi_dot(matrices[:0:-1]) if len(matrices) > 2 else matrices[1]
    title = f"hidden units with the largest outgoing weight: {run.title}"
    if classes is None and len(run.class_names) > gifs.MANY_CLASSES:
        accuracy = run.confusion.diagonal() / run.confusion.sum(1).clamp(min=1)
        classes = sorted(accuracy.argsort(stable=True)[: gifs.MANY_CLASSES].tolist())
        title += f", the {len(classes)} classes with the lowest accuracy"
    return weights.hidden_units_figure(
        matrices[0].view(-1, *run.image_shape), outgoing, class_names=run.class_names, units=_UNITS_PER_CLASS,
        classes=range(len(run.class_names)) if classes is None else classes, title=title,
    )  # fmt: skip


def _dense_layers(run: RunData) -> list[nn.Linear]:
    """Return the dense layers of an MLP, from the pixels to the outputs; BatchNorm layers between them are allowed.

    Raises ``NotApplicableError`` for other networks.
    """
    weighted = [layer for layer in run.network.modules() if isinstance(getattr(layer, "weight", None), Tensor)]
    dense = [layer for layer in weighted if isinstance(layer, nn.Linear)]
    norms = [layer for layer in weighted if isinstance(layer, nn.BatchNorm1d)]
    pixels = run.image_shape[0] * run.image_shape[1] * run.image_shape[2]
    sizes = [pixels, *(layer.out_features for layer in dense[:-1])]
    is_chain = [layer.in_features for layer in dense] == sizes
    if len(dense) + len(norms) != len(weighted) or not is_chain:
        raise NotApplicableError("the network has layers with weights that are not dense layers")
    return dense


def weights_filters(run: RunData) -> Figure:
    first = next((layer for layer in run.network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise NotApplicableError("the network has no convolutional layer")
    return weights.filters_figure(first.weight.detach().cpu(), title=f"first-layer filters: {run.title}")


def confusion_matrix(run: RunData) -> Figure:
    return confusion.confusion_figure(run.confusion, class_names=run.class_names, title=_title(run, "{} images"))


def confused_pairs(run: RunData) -> Figure:
    title, predicted = _title(run, "most confused, {} images"), run.scores.argmax(1)
    _require_mistakes(int((predicted != run.labels).sum()))
    return confusion.confused_pairs_figure(
        run.images, run.labels, predicted,
        class_names=run.class_names, pairs=_CONFUSED_PAIRS, examples=_EXAMPLES_PER_PAIR, title=title,
    )  # fmt: skip


def precision_recall(run: RunData) -> Figure:
    return scores.precision_recall_figure(
        run.scores, run.labels, class_names=run.class_names, title=_title(run, "{} images")
    )


def reliability(run: RunData) -> Figure:
    return scores.reliability_figure(run.scores, run.labels, title=_title(run, "{} images"))


def class_accuracy(run: RunData) -> Figure:
    return scores.class_accuracy_figure(run.confusion, class_names=run.class_names, title=_title(run, "{} images"))


FIGURES: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        history_epochs, history_iterations, nll_by_iteration, nll_by_changed_weights, batch_accuracy,
        images_first, images_random, images_classes, images_predictions, images_right_wrong, images_mistakes,
        network_layers, weights_outputs, weights_units, weights_filters,
        confusion_matrix, confused_pairs, precision_recall, reliability, class_accuracy,
    )
}  # fmt: skip
"""Every figure of a run by its name. A function raises ``NotApplicableError`` if its figure does not apply."""


def figure_names(
    class_names: Sequence[str], file_format: Format = "png", *, only: Sequence[str] | None = None
) -> list[str]:
    """Return the file names of the figures and GIFs that ``make_figures`` yields, in its order."""
    if only is not None:
        return [f"{name}.{file_format}" for name in only]
    return [*(f"{name}.{file_format}" for name in FIGURES), *gifs.gif_names(class_names)]


def require_no_overwrite(folder: Path, names: Sequence[str]) -> None:
    """Raise ``ConfigError`` if ``folder`` already contains a file with one of the names."""
    existing = [name for name in names if (folder / name).exists()]
    if existing:
        raise ConfigError("--out", folder, f"already contains {existing[0]}: --force replaces the figures there")


def make_figures(
    run: RunData,
    folder: Path,
    *,
    classes: Sequence[int] | None,
    options: gifs.GifOptions,
    only: Sequence[str] | None = None,
    file_format: Format = "png",
    width: Width | None = None,
) -> Iterator[tuple[str, str | None]]:
    """Write every figure into ``folder``; yield its file name and None, or the reason why the figure does not apply.

    ``only`` are names from ``FIGURES``; None means all figures and the GIFs. ``classes`` are the classes whose hidden
    units are drawn; None means all. ``width`` is that of a paper's column or page; None draws figures in their natural
    size.
    """
    for name in FIGURES if only is None else only:
        draw = FIGURES[name]
        file_name = f"{name}.{file_format}"
        try:
            with figure_width(width):
                # Only this figure depends on ``classes``.
                figure = weights_units(run, classes) if draw is weights_units else draw(run)
                content = encode(figure, file_format)
        except NotApplicableError as reason:
            yield file_name, str(reason)
            continue
        write_atomically(folder / file_name, content)
        yield file_name, None
    if only is None:
        yield from gifs.make_gifs(run, folder, options)
