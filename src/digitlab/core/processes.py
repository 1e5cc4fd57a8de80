"""Starts, stops and watches the other processes of a sweep, on every operating system.

``sweeps.workers`` and ``sweeps.search`` use it. An *orphan* is a process whose parent, which started it, has died.

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
    """Block SIGINT inside the with block. Processes that are started there inherit this, and never receive SIGINT.

    On Ctrl-C the terminal sends SIGINT to all processes, and the command then sends SIGTERM to each process that it
    started. A second signal ends a run at once, so these processes could not save their runs if they received both. On
    Windows a process does not inherit this; there, the started process calls ``ignore_sigint``.
    """
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def ignore_sigint() -> None:
    """Let this process ignore Ctrl-C from now on. The command that started it receives Ctrl-C and asks it to stop."""
    if sys.platform == "win32" or not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def ask_to_stop(process_id: int) -> None:
    """Send SIGTERM to a process, which then saves its run and ends. Raises ``OSError`` if there is no such process."""
    os.kill(process_id, signal.SIGTERM)


def end_when_orphaned(parent: int, *, grace_seconds: float) -> None:
    """Let this process save its runs and end if the process ``parent``, which started it, dies.

    This process is killed if it has not ended after ``grace_seconds``. On Windows a process does not notice that its
    parent has died, so it finishes its work.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_POLL_SECONDS)
        # A process whose parent dies gets a new parent. So the command was killed, and this process stops as on Ctrl-C.
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
    """Return a name of this machine or container: processes with the same name see each other's process ids."""
    try:
        # The id of the boot changes with each restart. The namespace tells containers on one machine apart.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        return f"{socket.gethostname()}-{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        # Outside Linux: the address of a network card.
        return f"{socket.gethostname()}-{uuid.getnode()}"


def process_is_gone(process_id: int) -> bool:
    """Return whether there is no process with this id on this machine; False if the system does not say."""
    if sys.platform == "win32":
        return False  # on Windows, os.kill would end the process
    try:
        # Signal 0 does nothing, but the system checks whether the process exists.
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # the process exists, but belongs to another user
    return False
