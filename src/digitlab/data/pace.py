"""Chooses how many mini-batches a chunk has, by the time that the last chunk took. ``ChunkLoader`` uses it.

A chunk is several consecutive mini-batches that Lightning passes to one ``training_step``.
"""

import time


class ChunkPace:
    """Chooses the length of the next chunk: ``fixed``, or if that is None, a length that takes about 0.2 s.

    A chunk of 0.2 s is long compared with the half millisecond that Lightning spends on each chunk, and short enough
    for a progress bar to move.
    """

    # The length of a chunk before any time is known.
    FIRST_LENGTH = 32
    _TARGET_SECONDS = 0.2
    # All lengths are powers of two: a length is doubled or halved when a chunk takes less than half or more than twice
    # the target. So small differences between chunks do not change it.
    _MAX_LENGTH = 512
    # A compiled run of a small network trains on 8 mini-batches in one call, so it cannot use shorter chunks.
    _MIN_LENGTH = 8

    def __init__(self, *, fixed: int | None) -> None:
        self._fixed = fixed
        self._length = self.FIRST_LENGTH
        self._last_call_at: float | None = None

    def chunk_length(self, *, after_validation: bool) -> int:
        """Return the number of mini-batches of the next chunk; call this once for each chunk.

        ``after_validation`` says whether a validation came since the last call.
        """
        if self._fixed is not None:
            return self._fixed
        now = time.perf_counter()
        # One chunk is trained on between two calls, so the time since the last call is that of a chunk, unless a
        # validation belongs to it.
        if self._last_call_at is not None and not after_validation:
            seconds = now - self._last_call_at
            if seconds < self._TARGET_SECONDS / 2:
                self._length = min(2 * self._length, self._MAX_LENGTH)
            elif seconds > 2 * self._TARGET_SECONDS:
                self._length = max(self._length // 2, self._MIN_LENGTH)
        self._last_call_at = now
        return self._length
