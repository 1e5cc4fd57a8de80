"""Facts and settings of the operating system: processor, memory, limits, caches. Each has a fallback.

Only ``core/`` knows operating systems. If a system does not provide a fact, the function returns None, unless its
docstring names another value. ``results``, ``engine``, ``population``, ``sweeps``, ``reproduce`` and ``cli`` use it.
"""

import ctypes
import os
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
# The file in which Linux lists the file systems; other systems lack it.
MOUNTS = Path("/proc/mounts")
# user, nice, system, irq, softirq and steal: the columns of /proc/stat in which a processor worked.
_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)
# Parameters of glibc's mallopt, and the largest value it accepts.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1
# The instruction sets for which torch and oneDNN have kernels of their own, as Linux names them.
_INSTRUCTION_SETS = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "sve", "bf16",
)  # fmt: skip


def processor_name() -> str:
    """Return the name of the processor's model, or that of its architecture if the system tells no other."""
    names = [*_cpuinfo("model name"), _sysctl("machdep.cpu.brand_string"), platform.processor(), platform.machine()]
    return next((name for name in names if name), "unknown")


def instruction_sets() -> list[str]:
    """Return the instruction sets of the processor that matter for speed; an empty list if the system does not say."""
    told = {flag for line in (*_cpuinfo("flags"), *_cpuinfo("Features")) for flag in line.split()}
    return [name for name in _INSTRUCTION_SETS if name in told]


def _cpuinfo(key: str) -> list[str]:
    """The value of the first line of ``/proc/cpuinfo`` with this key, as a list; empty outside Linux."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key][:1]


def _sysctl(name: str) -> str | None:
    if sys.platform != "darwin":
        return None
    try:
        ended = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, or that the machine has if there is no such limit."""
    if sys.platform == "linux" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the size of this machine's memory, used and free together; None if the system does not say."""
    if sys.platform == "win32":
        return _windows_memory_bytes()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


class _MemoryStatus(ctypes.Structure):
    """``MEMORYSTATUSEX`` of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32), ("load", ctypes.c_uint32), ("total_physical", ctypes.c_uint64),
        *((f"unused_{number}", ctypes.c_uint64) for number in range(6)),
    )  # fmt: skip


def _windows_memory_bytes() -> int | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    try:
        succeeded = ctypes.CDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))
    except (AttributeError, OSError):
        return None
    return int(status.total_physical) if succeeded else None


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has used so far; None if the system does not say."""
    if sys.platform == "win32":
        return None
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB.
    return peak if sys.platform == "darwin" else peak * 1024


class OpenFileLimits(NamedTuple):
    """How many files this process may have open: now (``soft``), and after ``allow_open_files`` at most (``hard``).

    ``sys.maxsize`` stands for no limit, or for one that the system does not tell.
    """

    soft: int
    hard: int


def open_file_limits() -> OpenFileLimits:
    """Return the limits of this process. One that reaches the soft limit fails in the middle of its work."""
    unlimited = OpenFileLimits(sys.maxsize, sys.maxsize)
    if sys.platform == "win32":
        return unlimited
    try:
        import resource
    except ImportError:
        return unlimited
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFileLimits(*(sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in limits))


def allow_open_files(count: int) -> None:
    """Raise the soft limit to ``count`` files, as far as the hard limit and the system allow it; never lower it."""
    soft, hard = open_file_limits()
    if sys.platform == "win32" or soft >= count:
        return
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def busy_processor_seconds() -> float | None:
    """Return the processor seconds of all processes since the machine started; None outside Linux."""
    ticks = _processor_ticks()
    if sys.platform == "win32" or ticks is None:
        return None
    return sum(ticks[number] for number in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")


def processor_ticks() -> tuple[int, int] | None:
    """Return how long all cores have run, and how long they were idle, in units of the system; None outside Linux."""
    ticks = _processor_ticks()
    return None if ticks is None else (sum(ticks), ticks[3] + ticks[4])


def _processor_ticks() -> list[int] | None:
    """The first line of ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal.

    The times of guests, which follow, are parts of user and nice.
    """
    try:
        return [int(number) for number in _STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return None


def keep_freed_memory() -> bool:
    """Let the process keep large blocks of memory that it frees, and return whether it does. Only glibc can do this."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, _LARGEST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def user_cache_folder() -> Path:
    """Return the folder of the user's caches, which ``XDG_CACHE_HOME`` may move.

    Raises ``RuntimeError`` if the user has no home folder, as in some containers.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    return Path.home() / ".cache"
