"""Finds out whether the program runs in a Jupyter or Colab notebook, and shows a line there that can be replaced.

The progress displays of runs and sweeps use it.
"""

import sys
from typing import Any


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    # In a notebook IPython is already loaded, so it need not be imported to find out.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # IPython in a terminal has no kernel.
    return getattr(shell, "kernel", None) is not None


class NotebookLine:
    """One line of text below the running cell of a notebook. ``show`` replaces it."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        from IPython.display import DisplayHandle

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call,unused-ignore]  # it may not be installed
            self._handle.display(data, raw=True)
        else:
            self._handle.update(data, raw=True)
