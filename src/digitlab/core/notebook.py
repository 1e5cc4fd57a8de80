"""Tells whether the program runs in a Jupyter or Colab notebook, and shows a line there that can be replaced.

The progress of runs and sweeps uses it.
"""

import sys
from typing import Any


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is not imported for the answer."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # A terminal's IPython has no kernel.
    return getattr(shell, "kernel", None) is not None


class NotebookLine:
    """One line of text below the cell that runs; ``show`` replaces it. Only for notebooks."""

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
