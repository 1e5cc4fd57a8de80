"""Downloads of data files from a list of mirrors, with timeouts, retries and resumption; the sources use ``fetch``.

A file appears under its name only when it is complete and verified. Until then it is ``NAME.part`` in the same folder.
All mirrors hold the same bytes, so one mirror can complete what another one began: a request asks only for the bytes
that are missing. A lock makes sure that only one process downloads a file.
"""

import http.client
import logging
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from digitlab.core.errors import DataError
from digitlab.core.files import move_into_place, write_failure
from digitlab.data.progress import progress_bar

_BLOCK_BYTES = 1 << 16
_MAX_BYTES = 1 << 30  # the largest file has 562 MB; no mirror may send more than this limit
_TEMPORARY_HTTP_ERRORS = {408, 425, 429, 500, 502, 503, 504}
# The HTTP status for a request of bytes beyond the end of the file.
_RANGE_NOT_SATISFIABLE = 416

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How long to wait for a mirror, and how often to try it.

    ``timeout_seconds`` limits each connection and each read.
    """

    timeout_seconds: float = 15.0
    attempts: int = 3
    backoff_seconds: float = 1.0  # before the second attempt; doubles before each further one


class _TransferError(Exception):
    """One attempt at one mirror failed; ``retry`` says whether another attempt may succeed."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


def fetch(
    urls: Sequence[str], path: Path, *, verify: Callable[[Path], object], retry_policy: RetryPolicy | None = None
) -> None:
    """Download a file to ``path`` from the first of ``urls`` that works.

    ``verify`` is called with the path of the downloaded file and raises ``DataError`` if it is not the expected file.
    If ``path`` exists already, or another process has just downloaded it, nothing is downloaded.

    Raises:
        DataError: every mirror failed (the message has one line with the reason for each), or the folder cannot be
            written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path), _progress(path.name) as progress:
            if path.exists():
                return
            failures = []
            for url in urls:
                try:
                    _try_mirror(url, part, verify, retry_policy or RetryPolicy(), progress)
                except _TransferError as error:
                    failures.append(f"  {url}: {error}")
                    _log.info("%s: %s", url, error)
                    continue
                move_into_place(part, path)
                return
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({write_failure(error)})") from error
    raise DataError("\n".join(failures))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``; wait if another process is downloading it."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("another process is fetching %s, waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _progress(name: str) -> Progress:
    """Return a progress bar with one task, the download of the file ``name``."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    progress = progress_bar(*columns)
    progress.add_task(name, total=None)
    return progress


def _try_mirror(
    url: str, part: Path, verify: Callable[[Path], object], retry_policy: RetryPolicy, progress: Progress
) -> None:
    """Download from one mirror until ``part`` is complete and verified, or raise ``_TransferError``."""
    for attempt in range(retry_policy.attempts):
        if attempt:
            time.sleep(retry_policy.backoff_seconds * 2 ** (attempt - 1))
        try:
            return _attempt(url, part, verify, retry_policy.timeout_seconds, progress)
        except _TransferError as error:
            if not error.retry or attempt == retry_policy.attempts - 1:
                raise
    raise AssertionError("attempts is at least 1")


def _attempt(
    url: str, part: Path, verify: Callable[[Path], object], timeout_seconds: float, progress: Progress
) -> None:
    """Try once to complete ``part`` from ``url`` and verify it; raise ``_TransferError`` if that fails."""
    resumed = part.exists()
    try:
        _transfer(url, part, timeout_seconds, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise _TransferError(
                f"HTTP {error.code} {error.reason}", retry=error.code in _TEMPORARY_HTTP_ERRORS
            ) from error
        # The server has no further bytes: ``part`` is already complete, or it is another file. ``verify`` decides.
    except urllib.error.URLError as error:
        reason = error.reason
        raise _TransferError(
            _in_words(reason), retry=isinstance(reason, TimeoutError | ConnectionResetError)
        ) from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _TransferError(_in_words(error), retry=True) from error
    try:
        verify(part)
    except DataError as error:
        part.unlink()
        # If the first bytes came from an earlier attempt, they may be wrong: try once more from the start.
        raise _TransferError("what it sends is not the file expected (checksum)", retry=resumed) from error


def _transfer(url: str, part: Path, timeout_seconds: float, progress: Progress) -> None:
    """Make one request and write the answer to ``part``: append if the server resumes, otherwise replace it."""
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "digitlab"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_seconds) as response:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            offset = 0  # the server sends the file from its beginning
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length is not None and length.isdecimal() else None
        bar = progress.task_ids[0]  # the only task, which ``_progress`` added
        progress.update(bar, completed=offset, total=total)
        received = offset
        with part.open("ab" if offset else "wb") as file:
            while received <= _MAX_BYTES and (block := response.read1(_BLOCK_BYTES)):
                file.write(block)
                received += len(block)
                progress.update(bar, completed=received)
            os.fsync(file.fileno())
    if received > _MAX_BYTES:
        part.unlink()
        raise _TransferError(f"sends more than {_MAX_BYTES:,} bytes", retry=False)
    if total is not None and received < total:
        raise _TransferError(f"broke off after {received:,} of {total:,} bytes", retry=True)


def _in_words(error: object) -> str:
    """Describe a network error in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name is not known here (no network?)"
    return str(getattr(error, "strerror", None) or error or type(error).__name__).lower()
