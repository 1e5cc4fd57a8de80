"""Gives Matplotlib a folder for its font cache; the packages call it before they import what imports Matplotlib.

Lightning imports Matplotlib too, through torchmetrics, so importing ``digitlab.figures`` would be too late.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOTS = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


def use_writable_matplotlib_folder() -> None:
    """Choose a temporary folder if the home folder is missing or read-only; it is removed when the process ends.

    Otherwise Matplotlib makes such a folder in every process and warns each time. Child processes inherit the variable.
    """
    if "MPLCONFIGDIR" in os.environ:
        return
    try:
        roots = [Path(os.environ.get(name) or Path.home() / folder) for name, folder in _ROOTS.items()]
    except RuntimeError:  # no home folder
        roots = []
    if roots and all(_is_writable(root / "matplotlib") for root in roots):
        return
    folder = tempfile.mkdtemp(prefix="digitlab-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


@contextmanager
def matplotlib_importable() -> Iterator[None]:
    """Import modules that import Matplotlib inside the with block: its folder is chosen before."""
    use_writable_matplotlib_folder()
    yield


def _is_writable(folder: Path) -> bool:
    """Check whether Matplotlib can write into the folder; create it if it is missing, as Matplotlib does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
