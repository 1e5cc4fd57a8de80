"""The progress bar of work before training: downloads, and reading many pictures."""

import sys

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from digitlab.core.streams import is_terminal


def progress_bar(*columns: str | ProgressColumn) -> Progress:
    """Return a progress bar on stderr that disappears at its end; it shows nothing if stderr is not a terminal.

    Without ``columns`` it has those of rich.
    """
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not is_terminal(sys.stderr))
