"""Functions of tensors compiled ahead of time, each to a library on disk that later runs load in milliseconds.

By AOTInductor: a run that finds its library needs neither compiler nor tracing. ``compiled`` says what is compiled.
"""

import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from digitlab.core.errors import DigitlabError

log = logging.getLogger(__name__)

# A network this small, counted over a mini-batch forward, spends its time between the operations, and several updates
# in one call save it; a larger one would only take longer to compile.
_SMALL_FLOPS = 3e7
_UPDATES_OF_SMALL = 8
# For compile=auto: what it takes to find a library that an earlier run has left, and to make one.
_FINDING_SECONDS = 1.0
_MAKING_SECONDS = 30.0

# Of flat lists of tensors: what it returns is new, and of what it is given it may change any in place.
FlatFunction = Callable[..., Sequence[Tensor]]
Compiled = Callable[[list[Tensor]], list[Tensor]]


class CompilerError(DigitlabError):
    """What can't be compiled here."""

    topic = "compile"


class NoGainError(CompilerError):
    """What would gain too little by being compiled."""


def fall_back(error: CompilerError, *, asked: bool) -> None:
    """Say that a run trains without, loudly where it was ``asked`` to be compiled and can't be."""
    loud = asked and not isinstance(error, NoGainError)
    log.log(logging.WARNING if loud else logging.INFO, "%s: %s; training without", error.topic, error)


def steps_per_execution(flops: float) -> int:
    """How many updates are compiled to one call, of a network whose forward pass over a mini-batch is ``flops``."""
    return _UPDATES_OF_SMALL if flops < _SMALL_FLOPS else 1


def worth_making(saved_seconds: float, *, always: bool) -> bool:
    """Whether a library may be made for what it saves; ``always`` it may.

    Raises ``NoGainError`` where one is not worth being looked for.
    """
    if not always and saved_seconds < 2 * _FINDING_SECONDS:
        raise NoGainError("it would save next to nothing")
    return always or saved_seconds > 2 * _MAKING_SECONDS


def cache_folder() -> Path:
    """Where the libraries lie: ``digitlab/compiled`` in the user's cache, which ``XDG_CACHE_HOME`` may move."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "digitlab" / "compiled"


def compiled(
    function: Callable[[int], FlatFunction],
    examples: Callable[[int], list[Tensor]],
    *,
    steps: int,
    make: bool = True,
    growing: Sequence[bool] | None = None,
) -> Compiled:
    """``function(steps)`` as compiled for arguments like ``examples(steps)``, by this process or one before it.

    ``function(1)`` says what it does: its operations, traced, are the library's name. ``growing`` says which arguments
    have a first dimension, the same for all of these, that may have any size in a call. Raises ``CompilerError`` for
    what can't be compiled, and without ``make`` where it has not been compiled before.
    """
    first = examples(1)
    growing = [False] * len(first) if growing is None else growing
    try:
        name = _fingerprint(function(1), first, growing, steps)
    except Exception as error:
        raise _as_compiler_error(error) from error
    folder = cache_folder()
    # What is loaded from there is executed.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.pt2"
    # Runs of a sweep that start together compile once.
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            if not make:
                raise NoGainError("it would take longer to compile than it saves")
            started_at = time.perf_counter()
            _compile(function(steps), examples(steps), growing, path)
            log.info("compiled %d updates in %.0f s, for later runs too", steps, time.perf_counter() - started_at)
        return _load(path)


def _load(path: Path) -> Compiled:
    from torch._inductor import aoti_load_package

    with _quietly():
        # One call at a time, as there is one run: it needs no pool of workers.
        library = aoti_load_package(str(path), run_single_threaded=True)
    run: Compiled = library.loader.boxed_run
    return run


def _compile(function: FlatFunction, arguments: list[Tensor], growing: Sequence[bool], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    # Of 1, too: what is left of several is no other case.
    size = torch.export.Dim("size", min=1)
    sizes = tuple({0: size} if grows else None for grows in growing)
    try:
        with _quietly(), torch.no_grad():
            graph = _traced(function, arguments, growing)
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


def _traced(function: FlatFunction, arguments: list[Tensor], growing: Sequence[bool]) -> torch.fx.GraphModule:
    """The operations of ``function``, gradients included, which an export alone would not follow."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv())
    fakes = []
    for place, (argument, grows) in enumerate(zip(arguments, growing, strict=True)):
        # Growing dimensions are of one size, which is not known; all others are what they are.
        sizes = [DimDynamic.DUCK if grows and axis == 0 else DimDynamic.STATIC for axis in range(argument.ndim)]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        source = ConstantSource(f"argument_{place}")
        fakes.append(mode.from_tensor(argument, source=source, symbolic_context=context))
    with mode, enable_python_dispatcher():
        graph: torch.fx.GraphModule = make_fx(function)(*fakes)
    return graph


def _fingerprint(function: FlatFunction, arguments: list[Tensor], growing: Sequence[bool], steps: int) -> str:
    """Differs wherever the compiled library may: by operations, shapes, versions, processor and threads."""
    graph = _traced(function, arguments, growing)
    shapes = [
        (tuple(each.shape)[grows:], each.stride(), str(each.dtype), str(each.device))
        for each, grows in zip(arguments, growing, strict=True)
    ]
    machine = (platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    facts: tuple[Any, ...] = (graph.code, shapes, steps, torch.__version__, torch.version.git_version, machine)
    digest = hashlib.sha256(repr(facts).encode())
    for name, constant in sorted(graph.named_buffers()):
        digest.update(name.encode() + constant.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warnings, which are about its own insides."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
