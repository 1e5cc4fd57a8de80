"""GIFs of a linear network's weights while it learns from zero weights, image by image, as in the course report R1.

``digitlab figures`` writes them. They do not show the run's own network: this module trains a new one, with the same
training step as a run, on images of the run's data set. GIFs have no half-transparent pixels, so the background is
white. K is the number of classes, T the number of frames.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from digitlab.core.files import write_atomically
from digitlab.data.chunks import ChunkPlan
from digitlab.data.normalise import Normalise
from digitlab.engine.eager import TrainStep
from digitlab.engine.member_spec import MemberSpec
from digitlab.engine.training_plan import TrainingPlan
from digitlab.figures.run_data import RunData
from digitlab.figures.style import SIGNED_MAP, cut
from digitlab.figures.weights import signed_images
from digitlab.models import Linear
from digitlab.optim.losses import MeanSquaredError
from digitlab.optim.optimizers import SGD
from digitlab.optim.schedules import Constant

# With more classes than this, there is no GIF for each class, and figures show only the hidden units of the classes
# with the lowest accuracy.
MANY_CLASSES = 20
_COLUMNS = 5
# An image, the gap between two images, a line of text, the colour scale, and the smallest width of a frame.
_TILE_PIXELS, _GAP_PIXELS, _LINE_PIXELS, _SCALE_PIXELS, _NARROWEST_PIXELS = 112, 10, 18, 90, 290
# The distances from one image to the next, to the right and downwards.
_PITCH_PIXELS = _TILE_PIXELS + _GAP_PIXELS, _TILE_PIXELS + _LINE_PIXELS + 4
_HEAD_PIXELS = 2 * _LINE_PIXELS + 8
_FRAME_MS, _LAST_FRAME_MS = 90, 2500  # how long a frame is shown, in milliseconds
_TEXT_RGB, _FRAME_RGB, _BACKGROUND_RGB = (64, 64, 64), (200, 200, 200), (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class GifOptions:
    """Options of the GIFs: number of training ``images``, images per step, and steps per frame. 0 images: no GIFs."""

    images: int
    batch_size: int
    steps_per_frame: int


def gif_names(class_names: Sequence[str]) -> list[str]:
    """Return the file names of the GIFs: first the one of all classes, then one per class unless there are many."""
    if len(class_names) > MANY_CLASSES:
        return ["learning_weights.gif"]
    safe_names = [re.sub(r"\W+", "_", name).strip("_").lower() for name in class_names]
    return [
        "learning_weights.gif",
        *(f"learning_weights_{number}_{name}.gif" for number, name in enumerate(safe_names)),
    ]


def learning_weights(
    images: Tensor, labels: Tensor, *, classes: int, batch_size: int = 1, steps_per_frame: int = 1
) -> Tensor:
    """Train a linear network on the images once and return its weights after every few steps: (T, K, C, H, W).

    ``images`` is uint8 (N, C, H, W), ``labels`` int64 (N,). The network sees them in their order, ``batch_size`` at a
    time, with pixels in [0, 1]; its loss is the mean squared error against one-hot targets. The first of the T frames
    has the initial weights, all zero; then one follows after every ``steps_per_frame`` steps and after the last step.
    """
    shape, loss = (images.shape[1], images.shape[2], images.shape[3]), MeanSquaredError(output="raw")
    normalise = Normalise(image_shape=shape, mean=[0.0] * shape[0], std=[1.0] * shape[0])
    inputs = normalise(images)
    batches = list(zip(inputs.split(batch_size), loss.encode(labels, classes).split(batch_size), strict=True))
    lr = _learning_rate(inputs, classes)
    # ``TrainStep`` needs the description of a whole run, ``MemberSpec``: here, of one epoch of plain SGD.
    # Building the network uses torch's global random generator and a step seeds it: restore its state afterwards.
    with torch.random.fork_rng(devices=[]):
        network = Linear(image_shape=shape, classes=classes, init="zeros")
        plan = ChunkPlan(seed=0, batch_size=batch_size, chunk_length=None)
        spec = MemberSpec(
            network=network, normalise=normalise, loss=loss, optimizer=SGD(lr=lr), schedule=Constant(),
            image_shape=shape, classes=classes, plan=TrainingPlan.for_images(plan, len(inputs), max_epochs=1),
        )  # fmt: skip
        step = TrainStep(
            spec, optimizer=spec.optimizer.build(network), backward=lambda value, weight: value.backward(),
            read_losses=True,
        )  # fmt: skip
        frames = [network.output.weight.detach().clone()]
        for number, (batch, targets) in enumerate(batches):
            # 1.0 is the weight of the loss; only several processes that train together need another one.
            step(batch, targets, 1.0, number)
            if (number + 1) % steps_per_frame == 0 or number + 1 == len(batches):
                frames.append(network.output.weight.detach().clone())
    return torch.stack(frames).view(len(frames), classes, *shape)


def _learning_rate(inputs: Tensor, classes: int) -> float:
    """Return the learning rate at which one step halves the errors of an image whose squared length is the mean.

    The squared length of an image is the sum of its squared pixels. A step on one image multiplies its errors, the
    differences between outputs and targets, by 1 - 2 · rate · (squared length) / K. At twice the returned rate, the
    errors of an image with more than twice the mean squared length would grow.
    """
    squared_length = float(inputs.double().square().flatten(1).sum(1).mean())
    return classes / (4 * squared_length)


def weight_frames(
    weights: Tensor, *, names: Sequence[str], notes: Sequence[str], limit: float, title: str
) -> list[Image.Image]:
    """Draw ``weights``, (T, K, C, H, W), as T frames with K named images each. The scale is -``limit`` to ``limit``.

    ``notes`` holds one line of text per frame, shown below ``title``.
    """
    renderer = _FrameRenderer(names, limit=limit, coloured=weights.shape[2] == 3)
    frames = []
    for frame, note in zip(weights, notes, strict=True):
        tiles = (255 * signed_images(frame, limit=limit)).round().byte().permute(0, 2, 3, 1).numpy()
        frames.append(renderer.draw(tiles, [title, note]))
    return frames


class _FrameRenderer:
    """Draws frames: the positions of K images, their names and the colour scale are the same in all of them."""

    def __init__(self, names: Sequence[str], *, limit: float, coloured: bool) -> None:
        self._names, self._columns = names, min(_COLUMNS, len(names))
        self._font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 11)
        rows = -(-len(names) // self._columns)
        width = max(self._columns * _PITCH_PIXELS[0] + _GAP_PIXELS, _NARROWEST_PIXELS)
        self._empty = Image.new(
            "RGB", (width, _HEAD_PIXELS + rows * _PITCH_PIXELS[1] + 2 * _LINE_PIXELS), _BACKGROUND_RGB
        )
        pen = ImageDraw.Draw(self._empty)
        for number, name in enumerate(names):
            left, top = self._place(number)
            pen.rectangle((left - 1, top - 1, left + _TILE_PIXELS, top + _TILE_PIXELS), outline=_FRAME_RGB)
            middle, below = left + _TILE_PIXELS / 2, top + _TILE_PIXELS + 2
            pen.text((middle, below), cut(name, 15), fill=_TEXT_RGB, font=self._font, anchor="ma")
        self._draw_scale(pen, limit, coloured=coloured)

    def _place(self, number: int) -> tuple[int, int]:
        """Return the left and the upper edge of an image, in pixels."""
        row, column = divmod(number, self._columns)
        return _GAP_PIXELS + column * _PITCH_PIXELS[0], _HEAD_PIXELS + row * _PITCH_PIXELS[1]

    def _draw_scale(self, pen: ImageDraw.ImageDraw, limit: float, *, coloured: bool) -> None:
        """Draw the colour scale from -``limit`` to ``limit`` at the bottom."""
        colours = colormaps["gray" if coloured else SIGNED_MAP](np.linspace(0, 1, _SCALE_PIXELS))[None, :, :3]
        strip = Image.fromarray((255 * colours).round().astype(np.uint8)).resize((_SCALE_PIXELS, 10))
        low, high = f"weight  −{limit:.3f}", f"+{limit:.3f}"
        left = _GAP_PIXELS + round(pen.textlength(low, font=self._font)) + 5
        middle = self._empty.height - _LINE_PIXELS
        pen.text((_GAP_PIXELS, middle), low, fill=_TEXT_RGB, font=self._font, anchor="lm")
        self._empty.paste(strip, (left, middle - 5))
        pen.text((left + _SCALE_PIXELS + 5, middle), high, fill=_TEXT_RGB, font=self._font, anchor="lm")

    def draw(self, tiles: npt.NDArray[np.uint8], heading: Sequence[str]) -> Image.Image:
        """Draw one frame: ``tiles``, uint8 (K, H, W, 3), below the lines of ``heading``."""
        picture = self._empty.copy()
        pen = ImageDraw.Draw(picture)
        for number, line in enumerate(heading):
            pen.text((_GAP_PIXELS, 5 + number * _LINE_PIXELS), line, fill=_TEXT_RGB, font=self._font)
        for number, tile in enumerate(tiles):
            enlarged = Image.fromarray(tile).resize((_TILE_PIXELS, _TILE_PIXELS), Image.Resampling.NEAREST)
            picture.paste(enlarged, self._place(number))
        return picture


def gif(frames: Sequence[Image.Image]) -> bytes:
    """Return the bytes of a GIF that repeats forever and pauses on the last frame."""
    # All frames use the palette of the last frame, which has the most colours. With separate palettes, colours would
    # flicker.
    palette = frames[-1].quantize(256)
    pages = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    file = io.BytesIO()
    durations = [_FRAME_MS] * (len(pages) - 1) + [_LAST_FRAME_MS]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0)
    return file.getvalue()


def make_gifs(run: RunData, folder: Path, options: GifOptions) -> Iterator[tuple[str, str | None]]:
    """Write the GIFs of a run's data set into ``folder``; yield each file name, and None or why there is no GIF."""
    indices = run.train_indices[: options.images].cpu()
    names, image_count = gif_names(run.class_names), len(indices)
    if not options.images:
        yield from ((name, "--gif-images is 0") for name in names)
        return
    weights = learning_weights(
        run.train_set.images[indices].cpu(), run.train_set.labels[indices].cpu(), classes=len(run.class_names),
        batch_size=options.batch_size, steps_per_frame=options.steps_per_frame,
    )  # fmt: skip
    images_per_frame = options.batch_size * options.steps_per_frame
    notes = [f"images shown: {min(frame * images_per_frame, image_count)}" for frame in range(len(weights))]
    limit = float(weights.abs().max())
    title = f"a linear network learns {run.title.partition(',')[0]}"
    all_labels = range(len(run.class_names))
    # The first GIF shows all classes, each of the others one class. If there are many classes, there is only one name.
    for name, labels in zip(names, [all_labels, *([label] for label in all_labels)], strict=False):
        class_names = [run.class_names[label] for label in labels]
        frames = weight_frames(weights[:, list(labels)], names=class_names, notes=notes, limit=limit, title=title)
        write_atomically(folder / name, gif(frames))
        yield name, None
