"""Chooses how many mini-batches a chunk has, by the time that the last one took. ``ChunkLoader`` asks it."""

import time


class ChunkPace:
    """Chooses the length of the next chunk: ``fixed``, or if it is None as many mini-batches as take about 0.2 s.

    Then the half millisecond that Lightning spends on each chunk hardly matters, and a progress bar still moves.
    """

    _SECONDS = 0.2
    _LONGEST = 512
    # The mini-batches that a compiled run of a small network computes in one call.
    _SHORTEST = 8

    def __init__(self, *, fixed: int | None) -> None:
        self._fixed = fixed
        self._length = 32
        self._asked_at: float | None = None

    def begin_epoch(self) -> None:
        """Forget the time of the last chunk: validation between two epochs does not count."""
        self._asked_at = None

    def chunk_length(self) -> int:
        """Return the number of mini-batches of the next chunk, adapted to the time that the last one took."""
        if self._fixed is not None:
            return self._fixed
        now = time.perf_counter()
        if self._asked_at is not None:
            seconds = now - self._asked_at
            if seconds < self._SECONDS / 2:
                self._length = min(2 * self._length, self._LONGEST)
            elif seconds > 2 * self._SECONDS:
                self._length = max(self._length // 2, self._SHORTEST)
        self._asked_at = now
        return self._length
