"""Makes the standard streams usable if a process was started without them, as a shell does with ``>&-`` or ``2>&-``.

The commands call ``open_missing_streams`` first. Python then has None in place of such a stream.
"""

import os
import sys
from typing import TextIO


def open_missing_streams() -> None:
    """Replace each standard stream that this process lacks by one that discards all output and is empty as input.

    Otherwise the next file that the process opens would get the number of the stream, and what a library writes to
    its output would end up in that file, for example in a checkpoint.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
        # Processes that this one starts need the streams, too.
        os.set_inheritable(descriptor, True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # open until the end


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether ``stream`` is a terminal; False if it is None or closed, as in a program without a window."""
    return stream is not None and not stream.closed and stream.isatty()
