"""Recognises that the device or the machine ran out of memory, and says so in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from digitlab.core.errors import RunError

# What torch's allocator, the system, C++ and Python's threads, which need a stack each, say.
_SIGNS_OF_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "can't start new thread")


@contextmanager
def device_memory() -> Iterator[None]:
    """Turn memory that has run out, the device's or the machine's, into a ``RunError``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        what = str(error).partition("\n")[0].rpartition("] ")[2] or type(error).__name__
        raise RunError(f"out of memory: a smaller data.batch_size or model helps ({what})") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory has run out, or was raised from or while handling one that does."""
    # torch.save, out of memory half-way, raises from closing what it has begun: what came before stands in the context.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and out_of_memory(before):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a processor torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)
