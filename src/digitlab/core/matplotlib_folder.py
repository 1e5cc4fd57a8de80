"""Gives Matplotlib a writable folder for its font cache. This must happen before the first import of Matplotlib.

Lightning imports Matplotlib too, through torchmetrics. So ``digitlab.training`` already needs this, not only
``digitlab.figures``.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Matplotlib makes a folder in each of these two. A variable names the folder; the default is in the home folder.
_PARENTS = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


def use_writable_matplotlib_folder() -> None:
    """Choose a temporary folder if the home folder is missing or read-only; it is removed when the process ends.

    Otherwise Matplotlib would make such a folder in every process, and warn each time. Child processes inherit the
    environment variable ``MPLCONFIGDIR``, which names the folder.
    """
    if "MPLCONFIGDIR" in os.environ:
        return
    try:
        parents = [Path(os.environ.get(name) or Path.home() / folder) for name, folder in _PARENTS.items()]
    except RuntimeError:  # no home folder
        parents = []
    if parents and all(_is_writable(parent / "matplotlib") for parent in parents):
        return
    folder = tempfile.mkdtemp(prefix="digitlab-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


@contextmanager
def matplotlib_importable() -> Iterator[None]:
    """Choose Matplotlib's folder before the with block, which imports modules that import Matplotlib.

    It has nothing to do after the block. It is a context manager because imports in a with block may follow other code,
    and the linter leaves them in their place.
    """
    use_writable_matplotlib_folder()
    yield


def _is_writable(folder: Path) -> bool:
    """Check whether Matplotlib can write into the folder; create it if it is missing, as Matplotlib does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
