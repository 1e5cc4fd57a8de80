"""A terminal for digitlab's turns of the benchmark, so that its progress bar is drawn and paid for wherever it runs."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

_LINES, _COLUMNS = 40, 120


@contextmanager
def terminal() -> Iterator[None]:
    """Make standard output and error a terminal, and throw away what is written to it.

    A child process reads it, as someone's terminal would: read in this process, it would cost more than it should.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (_LINES, _COLUMNS))
    os.environ["TERM"] = "xterm-256color"  # a dumb one would get no bar
    # It ends when the last descriptor of its terminal is closed, and the with statement waits for that.
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        os.close(ours)
        kept = os.dup(sys.stdout.fileno()), os.dup(sys.stderr.fileno())
        _point_to(theirs, theirs)
        os.close(theirs)
        try:
            yield
        finally:
            _point_to(*kept)
            for descriptor in kept:
                os.close(descriptor)


def _point_to(output: int, error: int) -> None:
    for stream, descriptor in ((sys.stdout, output), (sys.stderr, error)):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
