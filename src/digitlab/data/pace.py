"""Chooses how many mini-batches a chunk has, by the time that the last chunk took. ``ChunkLoader`` uses it."""

import time


class ChunkPace:
    """Chooses the length of the next chunk: ``fixed``, or if that is None, a length that takes about 0.2 s.

    Then the half millisecond that Lightning spends on each chunk hardly matters, and a progress bar still moves.
    """

    _TARGET_SECONDS = 0.2
    _FIRST_LENGTH = 32
    _MAX_LENGTH = 512
    # A compiled run of a small network trains on 8 mini-batches in one call, so it cannot use shorter chunks.
    _MIN_LENGTH = 8

    def __init__(self, *, fixed: int | None) -> None:
        self._fixed = fixed
        self._length = self._FIRST_LENGTH
        self._last_call_at: float | None = None

    def begin_epoch(self) -> None:
        """Forget the time of the last chunk: validation between two epochs does not count."""
        self._last_call_at = None

    def chunk_length(self) -> int:
        """Return the number of mini-batches of the next chunk, adapted to the time that the last one took."""
        if self._fixed is not None:
            return self._fixed
        now = time.perf_counter()
        if self._last_call_at is not None:
            seconds = now - self._last_call_at
            if seconds < self._TARGET_SECONDS / 2:
                self._length = min(2 * self._length, self._MAX_LENGTH)
            elif seconds > 2 * self._TARGET_SECONDS:
                self._length = max(self._length // 2, self._MIN_LENGTH)
        self._last_call_at = now
        return self._length
