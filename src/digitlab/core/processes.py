"""Starts, stops and watches other processes of a sweep, on every operating system. ``sweeps.workers`` uses it.

Windows has neither signal masks nor signals between processes: there, a process that is asked to stop ends at once.
Its run then resumes from its last checkpoint.
"""

import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ORPHAN_POLL_SECONDS = 0.5


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Start processes within, and they never receive SIGINT.

    A terminal sends Ctrl-C to all processes, and the command also sends SIGTERM to each. After two signals none could
    save its run. On Windows a process inherits no mask; ``ignore_sigint`` does the same from within.
    """
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_sigint() -> None:
    """Let this process ignore Ctrl-C from now on: the command that started it receives it and tells the others."""
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def ask_to_stop(process_id: int) -> None:
    """Send SIGTERM to a process, which then saves its run and ends. Raises ``OSError`` if there is no such process."""
    os.kill(process_id, signal.SIGTERM)


def end_when_orphaned(parent: int, *, grace_seconds: float) -> None:
    """Let this process save its runs and end if the process ``parent``, which started it, disappears.

    It is killed if it has not ended after ``grace_seconds``. On Windows, a process cannot see this: it finishes its
    work first.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SECONDS)
        # Being adopted by another parent means that the command was killed: save as after Ctrl-C.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_seconds)
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=watch, daemon=True).start()


def time_limit_signal() -> int | None:
    """Return the signal that submitit sends before the time limit of a job, SIGUSR2; None if the system lacks it."""
    if sys.platform == "win32" or not hasattr(signal, "SIGUSR2"):
        return None
    return signal.SIGUSR2


def machine_name() -> str:
    """Return a text for this machine or container: processes with the same text see each other's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        return f"{socket.gethostname()}-{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()}-{uuid.getnode()}"


def process_is_gone(process_id: int) -> bool:
    """Return whether there is no process with this id on this machine; False if the system does not say."""
    if sys.platform == "win32":
        return False  # there, os.kill ends the process
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # the process of another user
    return False
