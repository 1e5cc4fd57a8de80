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

from digitlab.schema import DigitlabError

log = logging.getLogger(__name__)

# Of flat lists of tensors: what it returns is new, and of what it is given it may change any in place.
FlatFunction = Callable[..., Sequence[Tensor]]
Compiled = Callable[[list[Tensor]], list[Tensor]]


class CompilerError(DigitlabError):
    """What can't be compiled here."""


def step_aside(error: CompilerError, *, asked: bool) -> None:
    """Say that a run trains without, loudly where it was ``asked`` to be compiled."""
    log.log(logging.WARNING if asked else logging.INFO, "compile: %s; training without", error)


def cache_folder() -> Path:
    """Where the libraries lie: ``digitlab/compiled`` in the user's cache, which ``XDG_CACHE_HOME`` may move."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "digitlab" / "compiled"


def compiled(
    function: Callable[[int], FlatFunction], examples: Callable[[int], list[Tensor]], *, steps: int, make: bool = True
) -> Compiled:
    """``function(steps)`` as compiled for arguments like ``examples(steps)``, by this process or one before it.

    ``function(1)`` says what it does: its operations, traced, are the library's name. Raises ``CompilerError`` for what
    can't be compiled, and without ``make`` where it has not been compiled before.
    """
    name = _fingerprint(function(1), examples(1), steps)
    folder = cache_folder()
    # What is loaded from there is executed.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.pt2"
    # Runs of a sweep that start together compile once.
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            if not make:
                raise CompilerError("it would take longer to compile than it saves")
            started_at = time.perf_counter()
            _compile(function(steps), examples(steps), path)
            log.info("compiled %d updates in %.0f s, for later runs too", steps, time.perf_counter() - started_at)
        return _load(path)


def _load(path: Path) -> Compiled:
    from torch._inductor import aoti_load_package

    with _quietly():
        # One call at a time, as there is one run: it needs no pool of workers.
        library = aoti_load_package(str(path), run_single_threaded=True)
    run: Compiled = library.loader.boxed_run
    return run


def _compile(function: FlatFunction, arguments: list[Tensor], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    try:
        with _quietly(), torch.no_grad():
            exported = torch.export.export(_traced(function, arguments), tuple(arguments), strict=False)
            aoti_compile_and_package(exported, package_path=str(unfinished))
        unfinished.replace(path)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise CompilerError(f"{type(error).__name__}: {lines[0]}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _traced(function: FlatFunction, arguments: list[Tensor]) -> torch.fx.GraphModule:
    """The operations of ``function``, gradients included, which an export alone would not follow."""
    from torch.fx.experimental.proxy_tensor import make_fx

    graph: torch.fx.GraphModule = make_fx(function, tracing_mode="fake")(*arguments)
    return graph


def _fingerprint(function: FlatFunction, arguments: list[Tensor], steps: int) -> str:
    """Differs wherever the compiled library may: by operations, shapes, versions, processor and threads."""
    graph = _traced(function, arguments)
    shapes = [(tuple(each.shape), each.stride(), str(each.dtype), str(each.device)) for each in arguments]
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
