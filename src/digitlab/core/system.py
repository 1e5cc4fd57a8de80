"""Facts and settings of the operating system: processor, memory, limits, caches.

All code that depends on the operating system is in ``core/``. If a system does not provide a fact, the function returns
None, unless its docstring names another value. Most other packages use this module.
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
# Linux lists its file systems in this file. Other systems do not have it.
MOUNTS = Path("/proc/mounts")
# The columns of /proc/stat that count busy time: user, nice, system, irq, softirq and steal.
_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)
# Two options of ``mallopt``, the function of glibc that configures memory allocation, and the largest value that both
# accept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1
# torch and oneDNN have special kernels for these instruction sets. The names are those of Linux.
_INSTRUCTION_SETS = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512dq",
    "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "sve", "bf16",
)  # fmt: skip
# Added to the niceness of a process: beside busy processes of normal priority, it gets about a tenth of a core.
_LOWER_PRIORITY = 10


def mount_of(path: Path, *, mounts: Path = MOUNTS) -> tuple[str, frozenset[str]] | None:
    """Return the type and the options of the file system that contains ``path``; None if ``mounts`` does not exist."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    absolute = os.path.realpath(path)
    # A space in a path is written as \040. If several file systems are mounted at one place, only the last one is
    # visible; the dictionary keeps that one.
    systems = {point.replace("\\040", " "): (kind, options) for _, point, kind, options, *_ in lines}
    containing = [point for point in systems if f"{absolute}/".startswith(point.rstrip("/") + "/")]
    if not containing:
        return None
    kind, options = systems[max(containing, key=len)]
    return kind, frozenset(options.split(","))


def processor_name() -> str:
    """Return the processor's model. If the system does not report it, return the architecture, such as ``x86_64``."""
    names = [*_cpuinfo("model name"), _sysctl("machdep.cpu.brand_string"), platform.processor(), platform.machine()]
    return next((name for name in names if name), "unknown")


def instruction_sets() -> list[str]:
    """Return the instruction sets of the processor that matter for speed; an empty list if the system does not say."""
    # x86 processors have a line "flags", ARM processors a line "Features".
    supported = {flag for line in (*_cpuinfo("flags"), *_cpuinfo("Features")) for flag in line.split()}
    return [name for name in _INSTRUCTION_SETS if name in supported]


def _cpuinfo(key: str) -> list[str]:
    """Return the value of the first line of ``/proc/cpuinfo`` with this key, as a list; empty outside Linux."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key][:1]


def _sysctl(name: str) -> str | None:
    if sys.platform != "darwin":
        return None
    try:
        result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


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
    """``MEMORYSTATUSEX`` of the Windows API. Only its length and the total memory are used here."""

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
    """Return the largest amount of memory that this process has used so far; None if the system does not say."""
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
    """How many files this process may have open. ``soft`` is the limit now; the process may raise it up to ``hard``.

    ``sys.maxsize`` means that there is no limit, or that the system does not report one.
    """

    soft: int
    hard: int


def open_file_limits() -> OpenFileLimits:
    """Return the limits of this process. A process that has reached its soft limit can't open another file."""
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
        # Keep the system's own hard limit. ``hard`` is sys.maxsize if there is none, and lowering it can't be undone.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def busy_processor_seconds() -> float | None:
    """Return the processor seconds that all processes have used since the machine started; None outside Linux."""
    ticks = _processor_ticks()
    if sys.platform == "win32" or ticks is None:
        return None
    return sum(ticks[number] for number in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")


def processor_ticks() -> tuple[int, int] | None:
    """Return the clock ticks of all cores since the machine started, and how many of them were idle.

    Both are sums over the cores; an idle core counts in both. Returns None outside Linux.
    """
    ticks = _processor_ticks()
    # A core that waits for a disk (iowait) has nothing else to do, so this time is idle, too.
    return None if ticks is None else (sum(ticks), ticks[3] + ticks[4])


def _processor_ticks() -> list[int] | None:
    """Return eight numbers from ``/proc/stat``: user, nice, system, idle, iowait, irq, softirq, steal.

    The two numbers after these, the times of virtual machines, are left out: user and nice already contain them.
    """
    try:
        return [int(number) for number in _STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return None


def keep_freed_memory() -> bool:
    """Make the process keep large blocks of memory that it frees, so that it can use them again without a system call.

    Return whether this worked: only glibc has this setting. ``engine.cpu_tuning`` explains when it is used.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, _LARGEST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def let_others_go_first() -> None:
    """Lower the priority of this process, so that it uses a processor core only while busy processes leave it one.

    Windows has other priorities; there, nothing changes.
    """
    if sys.platform != "win32":
        os.nice(_LOWER_PRIORITY)


def user_cache_folder() -> Path:
    """Return the folder of the user's caches, which ``XDG_CACHE_HOME`` may move.

    Raises ``RuntimeError`` if the user has no home folder, as in some containers.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    if sys.platform == "win32" and (folder := os.environ.get("LOCALAPPDATA")):
        return Path(folder)
    return Path.home() / ".cache"
