"""Compiles functions of tensors ahead of time, each to a library on disk that later runs load in milliseconds.

AOTInductor, torch's ahead-of-time compiler, makes the libraries. ``FusedCalls`` calls ``compile_or_load`` with
functions that make several updates of a network. A run whose library exists needs no compiler. It only traces one
update, which means that it records the operations, and computes the name of the library from them.
"""

import hashlib
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.core.errors import DigitlabError
from digitlab.core.system import user_cache_folder

log = logging.getLogger(__name__)

# Below this many operations in the forward pass of a mini-batch, a network spends most of its time between operations.
# Several updates in one call save that time; larger networks would only take longer to compile.
_SMALL_NETWORK_FLOPS = 3e7
# A GPU computes so fast that launching the operations takes most of the time for larger networks, too.
_SMALL_NETWORK_FLOPS_ON_GPU = 3e10
# The number of updates in one call. Compiling takes longer with each of them.
_STEPS_OF_SMALL_NETWORKS = 8
# For compile=auto: how long it takes to load a library that an earlier run has compiled, and to compile one.
_LOAD_SECONDS = 1.0
_COMPILE_SECONDS = 30.0

# Where this process keeps its libraries if the user's cache is not usable; deleted when the process ends.
_temporary_folder: tempfile.TemporaryDirectory[str] | None = None

# A function of tensors that returns new tensors; it may change its arguments in place.
FlatFunction = Callable[..., Sequence[Tensor]]
# The same, compiled or captured: it takes its arguments as a list.
CompiledCall = Callable[[list[Tensor]], list[Tensor]]


class CompilerError(DigitlabError):
    """A function cannot be compiled on this machine, or should not be."""

    topic = "compile"


class NoGainError(CompilerError):
    """Compiling would save too little time."""


def fall_back(error: CompilerError, *, asked: bool) -> None:
    """Log that the run trains without compiled updates: as a warning if the user ``asked`` for them, otherwise as info.

    A ``NoGainError`` is never a warning, because the run is as fast as it can be.
    """
    warn = asked and not isinstance(error, NoGainError)
    log.log(logging.WARNING if warn else logging.INFO, "%s: %s; training without", error.topic, error)


def steps_per_execution(flops: float, device: torch.device) -> int:
    """Return how many updates one call makes on ``device``; ``flops`` counts the forward pass of a mini-batch."""
    limit = _SMALL_NETWORK_FLOPS_ON_GPU if abilities(device).cuda_graphs else _SMALL_NETWORK_FLOPS
    return _STEPS_OF_SMALL_NETWORKS if flops < limit else 1


def compiling_pays(saved_seconds: float, *, always: bool) -> bool:
    """Return whether to compile a library that does not exist yet, for a run in which it saves ``saved_seconds``.

    True if ``always``. Raises ``NoGainError`` if it would save too little time even if it existed.
    """
    # It must save twice the time that it costs, because both times are rough estimates.
    if not always and saved_seconds < 2 * _LOAD_SECONDS:
        raise NoGainError("it would save too little time in this run")
    return always or saved_seconds > 2 * _COMPILE_SECONDS


def cache_folder() -> Path:
    """Return the folder of the libraries: ``digitlab/compiled`` in the user's cache, which ``XDG_CACHE_HOME`` sets."""
    return user_cache_folder() / "digitlab" / "compiled"


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide messages of torch about itself while it traces, compiles or loads.

    Where Python turns warnings into errors, a warning that torch uses something deprecated would make compiling fail.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@_quietly()
def compile_or_load(
    function: Callable[[int], FlatFunction],
    examples: Callable[[int], list[Tensor]],
    *,
    steps: int,
    may_compile: bool = True,
    dynamic: Sequence[bool] | None = None,
) -> CompiledCall:
    """Load the library of ``function(steps)``, which makes ``steps`` updates, or compile it.

    ``examples(steps)`` are arguments for this function. The library takes arguments with the same shapes and dtypes,
    but ``dynamic`` says for each argument whether its first dimension may have another size in a call, which is then
    the same in all these arguments. None means that no argument may. Raises ``CompilerError`` if the function cannot be
    compiled, or if no library exists and ``may_compile`` is false.
    """
    # The trace of one update is enough to distinguish functions. Tracing all ``steps`` would take seconds in every run.
    arguments = examples(1)
    dynamic = [False] * len(arguments) if dynamic is None else dynamic
    try:
        name = _fingerprint(function(1), arguments, dynamic, steps)
    except Exception as error:
        raise _as_compiler_error(error) from error
    try:
        path = _writable_cache_folder() / f"{name}.pt2"
        # Runs of a sweep that start at the same time compile once; the others wait for the lock.
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                if not may_compile:
                    raise NoGainError("it would take longer to compile than it saves")
                started_at = time.perf_counter()
                _compile(function(steps), examples(steps), dynamic, path)
                log.info("compiled %d updates in %.0f s, for later runs too", steps, time.perf_counter() - started_at)
            return _load(path)
    except OSError as error:
        raise _as_compiler_error(error) from error


def _writable_cache_folder() -> Path:
    """Return ``cache_folder``, or a temporary folder for this process if that one cannot be made or written to."""
    global _temporary_folder
    if _temporary_folder is not None:
        return Path(_temporary_folder.name)
    try:
        folder = cache_folder()
        # Libraries in this folder are executed, so nobody else may write to it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Opening a file is the only sure test: a folder may be on a read-only file system.
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:
        # Path.home() raises RuntimeError without HOME if the user id has no name, as in some containers.
        log.warning("compile: no folder for compiled libraries (%s); later runs compile again", error)
    _temporary_folder = tempfile.TemporaryDirectory(prefix="digitlab-compiled-")
    return Path(_temporary_folder.name)


def _load(path: Path) -> CompiledCall:
    """Load the library; raises ``CompilerError`` if torch can't."""
    from torch._inductor import aoti_load_package

    try:
        # A run makes one call at a time, so the library needs no pool of threads.
        library = aoti_load_package(str(path), run_single_threaded=True)
    except RuntimeError as error:
        raise _as_compiler_error(error) from error
    run: CompiledCall = library.loader.boxed_run
    return run


def _compile(function: FlatFunction, arguments: list[Tensor], dynamic: Sequence[bool], path: Path) -> None:
    """Compile ``function`` for arguments like ``arguments`` to the library ``path``; raises ``CompilerError``."""
    from torch._inductor import aoti_compile_and_package

    # The library gets its name when it is complete, so a process that is killed leaves no half-written library.
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    # Size 1 is allowed: a population that shrank to one member can still use the library.
    size = torch.export.Dim("size", min=1)
    sizes = tuple({0: size} if is_dynamic else None for is_dynamic in dynamic)
    try:
        with torch.no_grad():
            graph = _traced(function, arguments, dynamic)
            exported = torch.export.export(graph, tuple(arguments), dynamic_shapes=sizes, strict=False)
            aoti_compile_and_package(exported, package_path=str(unfinished))
        unfinished.replace(path)
    except Exception as error:
        raise _as_compiler_error(error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _as_compiler_error(error: Exception) -> CompilerError:
    lines = str(error).strip().splitlines() or [""]
    return CompilerError(f"{type(error).__name__}: {lines[0]}")


def _traced(function: FlatFunction, arguments: list[Tensor], dynamic: Sequence[bool]) -> torch.fx.GraphModule:
    """Return the operations of ``function`` as a graph, with those of backward, which ``torch.export`` cannot trace."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())
    fake_tensors = []
    for number, (argument, is_dynamic) in enumerate(zip(arguments, dynamic, strict=True)):
        # Duck sizing (torch's word): dimensions of equal size share one symbol. That is right here, because all dynamic
        # dimensions have the same size. All other dimensions keep their sizes.
        sizes = [DimDynamic.DUCK if is_dynamic and axis == 0 else DimDynamic.STATIC for axis in range(argument.ndim)]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        source = ConstantSource(f"argument_{number}")
        fake_tensors.append(mode.from_tensor(argument, source=source, symbolic_context=context))
    # Without this, backward on a GPU runs in another thread, where the modes that record operations are not active.
    with torch.autograd.set_multithreading_enabled(False), mode, enable_python_dispatcher():
        graph: torch.fx.GraphModule = make_fx(function)(*fake_tensors)
    return graph


def _fingerprint(function: FlatFunction, arguments: list[Tensor], dynamic: Sequence[bool], steps: int) -> str:
    """Return the name of a library: a hash of operations, shapes, versions, processor and number of threads.

    Anything that may change the compiled code must change the hash, because a run trusts the library it finds.
    """
    graph = _traced(function, arguments, dynamic)
    # A library serves every size of the first dimension of a dynamic argument, so that size is not part of the name.
    shapes = [
        (tuple(argument.shape)[is_dynamic:], argument.stride(), str(argument.dtype), str(argument.device))
        for argument, is_dynamic in zip(arguments, dynamic, strict=True)
    ]
    machine = _machine_facts({argument.device for argument in arguments})
    digest = hashlib.sha256(repr((graph.code, shapes, steps, *machine)).encode())
    # Tensors that are no arguments of the function become part of the library with their values.
    for name, constant in sorted(graph.named_buffers()):
        digest.update(name.encode() + constant.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _machine_facts(devices: set[torch.device]) -> tuple[Any, ...]:
    """Return what compiled code depends on besides the function: versions, processor, precision, types of the GPUs."""
    machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    # The compiler chooses kernels by the precision of matrix products, and GPU code runs on its own architecture only.
    precision = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    gpus = sorted(torch.cuda.get_device_capability(device) for device in devices if device.type == "cuda")
    return (torch.__version__, torch.version.git_version, torch.version.cuda), machine, precision, gpus
