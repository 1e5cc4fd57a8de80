"""Finds the folder that holds ``data/`` and ``outputs/``, and the folders of digitlab's and the user's configuration.

``compose`` and the plugin that extends Hydra's search path use it. A project is a folder with a ``train.py`` that uses
digitlab; ``digitlab init`` makes one. The checkout of digitlab is a project, too.
"""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parents[1]


def project_root() -> Path:
    """Return the folder that holds ``data/`` and ``outputs/``.

    It is the first of these that applies: the folder of the running ``train.py``; the current folder if that is a
    project; the checkout from which digitlab is imported; the current folder.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None and Path(script).name == "train.py":
        return Path(script).resolve().parent
    try:
        current = Path.cwd()
    except FileNotFoundError:  # someone has removed the current folder
        return _CHECKOUT
    if not is_project(current) and (_CHECKOUT / "train.py").exists():
        return _CHECKOUT
    return current


def is_project(folder: Path) -> bool:
    """Return whether ``folder`` has a ``train.py`` that uses digitlab."""
    # Other projects often have a train.py too.
    try:
        return "digitlab" in (folder / "train.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def packaged_conf() -> Path:
    """Return digitlab's own folder ``conf/``: inside an installed package, or next to ``src/`` in a checkout."""
    installed = _PACKAGE / "conf"
    return installed if installed.is_dir() else _CHECKOUT / "conf"


def own_conf(root: Path) -> Path | None:
    """Return the folder ``conf/`` of the user's project in ``root``; None if it has none or if it is digitlab's."""
    own = root / "conf"
    return own if own.is_dir() and is_project(root) and own.resolve() != packaged_conf() else None


def train_command() -> list[str]:
    """Return the words of the command that trains a run: ``python train.py`` in a project, else ``digitlab train``."""
    return ["python", "train.py"] if is_project(project_root()) else ["digitlab", "train"]
