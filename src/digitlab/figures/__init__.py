"""Matplotlib figures made from tensors or from run folders.

``digitlab figures``, ``digitlab show``, the HTML report, sweeps and TensorBoard use them.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def _use_writable_matplotlib_folder() -> None:
    """Give Matplotlib a temporary folder for its font cache if the home folder is missing or read-only.

    Otherwise Matplotlib makes such a folder in every process and warns each time. Child processes inherit the variable.
    """
    if "MPLCONFIGDIR" in os.environ:
        return
    try:
        roots = [Path(os.environ.get(name) or Path.home() / folder) for name, folder in _MATPLOTLIB_ROOTS.items()]
    except RuntimeError:  # no home folder
        roots = []
    if roots and all(_is_writable(root / "matplotlib") for root in roots):
        return
    folder = tempfile.mkdtemp(prefix="digitlab-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


_MATPLOTLIB_ROOTS = {"XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}


def _is_writable(folder: Path) -> bool:
    """Check whether Matplotlib can write into the folder; create it if it is missing, as Matplotlib does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


_use_writable_matplotlib_folder()
