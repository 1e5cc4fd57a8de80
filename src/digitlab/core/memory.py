"""Recognises errors that mean "out of memory" and reports them in one line. Used by ``training`` and ``population``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from digitlab.core.errors import RunError

# Messages of torch's CPU allocator, the operating system, C++, and Python's threading (each thread needs a stack).
_SIGNS_OF_NO_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "bad_alloc", "can't start new thread",
    # Messages of CUDA and of its libraries, which allocate workspaces of their own; a plain RuntimeError as well.
    "CUDA out of memory", "HIP out of memory", "CUDA error: out of memory", "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)  # fmt: skip


@contextmanager
def device_memory() -> Iterator[None]:
    """Turn an out-of-memory error of the device or of the host into a ``RunError``."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        what = str(error).partition("\n")[0].rpartition("] ")[2] or type(error).__name__
        raise RunError(f"out of memory: a smaller data.batch_size or model helps ({what})") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, or an error that caused it, means that memory has run out."""
    # If torch.save runs out of memory, closing its unfinished file raises a second error. The context holds the first.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and out_of_memory(before):
        return True
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY)
