"""Reads many picture files into one tensor, with several threads, and caches the tensor for later runs.

``folder_source`` uses it. Reading a small picture takes about a millisecond. Only data sets that take longer than two
seconds are written to the user's cache folder. Shapes: N pictures, C channels, H rows, W columns.
"""

import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from digitlab.core.errors import DataError
from digitlab.core.files import atomic_file
from digitlab.core.system import user_cache_folder
from digitlab.data.own_images import as_data_set_image, decode, picture_warnings, read_bytes
from digitlab.data.progress import progress_bar

# Increase this number when digitlab begins to convert the same files to other pixels. Then old caches are not used.
_CACHE_VERSION = 1
_MIN_SECONDS_TO_CACHE = 2.0
# The size of all cached data sets together.
_MAX_CACHE_BYTES = 4 << 30
_MAX_THREADS = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of N files: ``images`` uint8 (N, C, H, W), and the SHA-256 of the bytes of each file.

    ``broken`` maps the index of a file that could not be read to the reason; its image is black and its digest empty.
    """

    images: Tensor
    digests: list[str]
    broken: dict[int, str]


def read_pictures(root: Path, paths: Sequence[str], *, image_shape: tuple[int, int, int]) -> Pictures:
    """Return the pictures in the files ``paths``, relative to ``root``, as images of ``image_shape`` (C, H, W).

    They are read from the cache if it has them. Each picture is cropped around its centre to the aspect ratio of
    ``image_shape`` and then scaled, as ``digitlab predict`` does for a network that was trained on them.
    """
    cache = _cache_file(root, paths, image_shape)
    cached = None if cache is None else _load(cache, len(paths), image_shape)
    if cached is not None:
        return cached
    started_at = time.perf_counter()
    pictures = _read_all(root, paths, image_shape)
    if cache is not None and time.perf_counter() - started_at > _MIN_SECONDS_TO_CACHE:
        _store(cache, pictures)
    return pictures


def colours_and_common_size(root: Path, paths: Sequence[str]) -> tuple[bool, tuple[int, int] | None]:
    """Return whether any picture has colours, and the size (H, W) if all pictures have the same size, else None.

    It reads only the headers of the files and ignores files that it cannot read. If it can read none, the first value
    is True.
    """
    sizes: set[tuple[int, int]] = set()
    any_colours = False
    with picture_warnings():
        for path in paths:
            try:
                with Image.open(root / path) as picture:
                    # The EXIF tag 0x0112 is the orientation; 5 to 8 turn the picture by 90 degrees, which exchanges
                    # height and width. Pillow's sizes are (width, height).
                    is_turned = picture.getexif().get(0x0112, 1) >= 5
                    sizes.add(picture.size if is_turned else picture.size[::-1])
                    # These are Pillow's names of all pixel formats without colours.
                    is_grey = picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I")
                    any_colours |= not is_grey
            except Exception as error:  # damaged files raise different exceptions in each format
                _log.debug("%s: %s", path, error)
    return any_colours or not sizes, sizes.pop() if len(sizes) == 1 else None


def _read_all(root: Path, paths: Sequence[str], image_shape: tuple[int, int, int]) -> Pictures:
    """Read the files without the cache. A file that cannot be read is recorded in ``Pictures.broken``."""
    images = torch.zeros(len(paths), *image_shape, dtype=torch.uint8)
    digests = [""] * len(paths)
    broken: dict[int, str] = {}

    def read(index: int) -> None:
        try:
            content = read_bytes(root / paths[index])
            images[index] = as_data_set_image(decode(content), image_shape=image_shape, margin_pixels=None)
            digests[index] = hashlib.sha256(content).hexdigest()
        except DataError as error:
            broken[index] = str(error)
        except Exception as error:  # Pillow cannot convert some rare pixel formats
            broken[index] = f"can't be converted: {' '.join(str(error).split()) or type(error).__name__}"

    # Threads run in parallel, because Pillow releases Python's global lock while it decodes and scales.
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with picture_warnings(), progress_bar() as progress, ThreadPoolExecutor(threads) as pool:
        bar = progress.add_task("reading pictures", total=len(paths))
        for _ in pool.map(read, range(len(paths))):
            progress.advance(bar)
    return Pictures(images=images, digests=digests, broken=dict(sorted(broken.items())))


def cache_folder() -> Path:
    """Return the folder of the cached pictures: ``digitlab/pictures`` in the user's cache folder."""
    return user_cache_folder() / "digitlab" / "pictures"


def _cache_file(root: Path, paths: Sequence[str], image_shape: tuple[int, int, int]) -> Path | None:
    """Return the cache file for these pictures, which may not exist yet.

    Its name is a digest of all that decides its content: the paths, sizes and modification times of the files, the
    shape of the images, and the programs that convert them. Return None if a file is missing or the user has no home
    folder.
    """
    try:
        stats = [os.stat(root / path) for path in paths]
        files = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True)]
        identity = [_CACHE_VERSION, PIL.__version__, list(image_shape), str(root.resolve()), files]
        return cache_folder() / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.npz"
    except (OSError, RuntimeError):
        return None


def _load(cache: Path, count: int, image_shape: tuple[int, int, int]) -> Pictures | None:
    """Return the pictures in the file ``cache``; None if there is no such file or its content is wrong."""
    try:
        with cache.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images, facts = torch.from_numpy(file["images"]), json.loads(str(file["facts"]))
        os.utime(cache)  # ``_store`` takes the modification time as that of the last use
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if tuple(images.shape) != (count, *image_shape) or images.dtype != torch.uint8:
        return None
    broken = {int(index): reason for index, reason in facts["broken"].items()}
    return Pictures(images=images, digests=facts["digests"], broken=broken)


def _store(cache: Path, pictures: Pictures) -> None:
    """Write ``pictures`` to the file ``cache``; first remove the least recently used files until there is room for it.

    If the folder cannot be written to, log that and continue.
    """
    try:
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        oldest_first = sorted(cache.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
        room = _MAX_CACHE_BYTES - pictures.images.nbytes
        while oldest_first and sum(path.stat().st_size for path in oldest_first) > room:
            oldest_first.pop(0).unlink(missing_ok=True)
        if room < 0:
            return
        facts = json.dumps({"digests": pictures.digests, "broken": pictures.broken})
        with atomic_file(cache) as file:
            np.savez(file, images=pictures.images.numpy(), facts=np.array(facts))
    except OSError as error:
        _log.info("%s: the pictures are not kept for later runs (%s)", cache.parent, error)
