"""Writes files for TensorBoard's projector, which shows the last hidden layer of many images as points in 3D.

TensorBoard finds ``projector_config.pbtxt`` in a folder with events, and the files that it names beside it. Shapes: N
images, D values of the last hidden layer.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig  # made at import

from digitlab.core.files import write_atomically
from digitlab.explain.embedding import Embedding
from digitlab.explain.network import ExplainedRun
from digitlab.figures.sprite import join_images
from digitlab.figures.tiles import rgba

_LARGEST_SPRITE_PIXELS = 8192  # on a side: the largest that TensorBoard's page can draw


def most_points(image_size: tuple[int, int]) -> int:
    """Return how many images of (H, W) pixels fit into a sprite that TensorBoard can draw."""
    height, width = image_size
    return (_LARGEST_SPRITE_PIXELS // height) * (_LARGEST_SPRITE_PIXELS // width)


def write_projector_files(run: ExplainedRun, embedding: Embedding) -> list[Path]:
    """Write vectors, labels and a sprite of the images into the run folder; return the paths, the settings last."""
    folder = run.folder.projector
    names, predicted = [class_cell(name) for name in run.class_names], embedding.scores.max(1)
    # When its page opens, TensorBoard names the points by the first column that contains text. The label comes first,
    # and ``class_cell`` makes it a text.
    rows = ["label\tpredicted\tconfidence\tcorrect\tnumber"]
    rows += [
        "\t".join([
            names[label], names[predicted_label], f"{confidence:.4f}",
            "yes" if predicted_label == label else "no", str(number),
        ])
        for number, label, predicted_label, confidence in zip(
            embedding.numbers.tolist(), embedding.labels.tolist(), predicted.indices.tolist(),
            predicted.values.tolist(), strict=True,
        )
    ]  # fmt: skip
    vectors = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in embedding.hidden.tolist())
    height, width = run.image_shape[1:]
    config = ProjectorConfig()
    entry = config.embeddings.add()
    entry.tensor_name = "last hidden layer"
    entry.tensor_path, entry.metadata_path = (f"{folder.name}/{name}" for name in ("tensors.tsv", "metadata.tsv"))
    entry.sprite.image_path = f"{folder.name}/sprite.png"
    entry.sprite.single_image_dim.extend([width, height])
    contents = {
        folder / "tensors.tsv": f"{vectors}\n".encode(),
        folder / "metadata.tsv": ("\n".join(rows) + "\n").encode(),
        folder / "sprite.png": _png(sprite(rgba(embedding.images)[..., :3])),
        run.folder.projector_config: str(config).encode(),
    }
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


def sprite(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Join images, uint8 (N, H, W, 3), row by row in a picture that is as square as possible; the rest stays black."""
    count, height, width, _ = tiles.shape
    # As many columns as the side of a square with the same number of pixels needs, rounded up.
    columns = min(_LARGEST_SPRITE_PIXELS // width, -(-round((count * height * width) ** 0.5) // width))
    return join_images(tiles, columns=columns)


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def class_cell(name: str) -> str:
    """Return the name of a class as a cell of the table: without tabs and line breaks, which would end the cell.

    A number becomes ``class 7``. Otherwise TensorBoard would name the points by the next column with text, "correct".
    """
    cell = " ".join(name.split())
    try:
        float(cell)
    except ValueError:
        return cell
    return f"class {cell}"
