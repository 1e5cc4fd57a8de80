"""Recognises errors that mean "out of memory" and reports them in one line. Used by ``training`` and ``population``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from digitlab.core.errors import RunError

# Parts of messages that mean "out of memory".
_SIGNS_OF_NO_MEMORY = (
    # From torch's CPU allocator, the operating system, C++, and Python's threading (each thread needs a stack).
    "can't allocate memory", "Cannot allocate memory", "bad_alloc", "can't start new thread",
    # From CUDA and from its libraries, which allocate workspaces of their own. These are plain RuntimeErrors too.
    "CUDA out of memory", "HIP out of memory", "CUDA error: out of memory", "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)  # fmt: skip


@contextmanager
def report_out_of_memory() -> Iterator[None]:
    """Turn an out-of-memory error in the with block, of the device or of the host, into a ``RunError``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        # Only the first line, without torch's prefix "[enforce fail at …] ", which names a place in torch's source.
        reason = str(error).partition("\n")[0].rpartition("] ")[2] or type(error).__name__
        raise RunError(f"out of memory: a smaller data.batch_size or model helps ({reason})") from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error``, or an error that caused it, means that memory has run out."""
    # Example: torch.save runs out of memory, and closing its unfinished file then raises a second error. This second
    # error has the first one as its __context__.
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and out_of_memory(earlier):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch on the CPU, for example, raises a plain RuntimeError, so only the message says that it is about memory.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)
