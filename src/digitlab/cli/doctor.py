"""``digitlab doctor``: what this installation and this machine are, for bug reports."""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app

# Packages that some features need. The output of the command lists their versions, or that they are not installed.
_OPTIONAL = ("optuna", "cmaes", "joblib", "submitit", "xgboost", "pandas", "polars", "onnx", "numpy", "scipy")
# Variables that change what digitlab computes or where it puts its files. Their values are no secrets.
_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG", "DIGITLAB_DATA", "DIGITLAB_ALLOW", "XDG_CACHE_HOME", "TMPDIR", "LC_ALL", "LANG",
    "PYTHONIOENCODING", "PYTHONUTF8", "VIRTUAL_ENV", "CONDA_PREFIX",
)  # fmt: skip

# The C++ compilers that torch looks for.
_COMPILERS = ("g++", "clang++", "cl")

Facts = dict[str, str | int | float | bool | list[str] | None]


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
) -> None:
    """Show versions, processor, GPUs, folders, caches, data sets and free disk: paste it into a bug report.

    The folder of the user is shown as ~. Nothing is downloaded.
    """
    import digitlab.training  # noqa: F401  (it imports torch and Lightning in half the time: see gc_paused)

    report = collect()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    for section, facts in report.items():
        print(section)
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print(f"  {name.ljust(width)}  {_text(value)}")


def collect() -> dict[str, Facts]:
    """Return the facts by section: versions, system, gpu, folders, data sets, environment."""
    return {
        "versions": _versions(),
        "system": _system(),
        "gpu": _gpus(),
        "folders": _folders(),
        "data sets": dict(_data_sets()),
        "environment": {name: _without_home(os.environ[name]) for name in _VARIABLES if name in os.environ},
    }


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _without_home(path: object) -> str:
    """Return ``path`` as text, with ~ for the home folder, which may contain the name of the user."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return str(path)
    text = str(path)
    return text if len(home) < 2 else text.replace(home, "~")


def _versions() -> Facts:
    from digitlab.results.environment import git_commit, versions

    optional: Facts = {}
    for package in _OPTIONAL:
        try:
            optional[package] = version(package)
        except PackageNotFoundError:
            optional[package] = "not installed"
    facts: Facts = {**versions(), "implementation": platform.python_implementation()}
    return facts | {"commit": git_commit()} | optional


def _system() -> Facts:
    import torch

    from digitlab.core.system import available_cores, instruction_sets, memory_bytes, open_file_limits, processor_name

    memory, files = memory_bytes(), open_file_limits().soft
    return {
        "system": platform.platform(),
        "architecture": platform.machine(),
        "processor": processor_name(),
        "instruction sets": instruction_sets(),
        "torch uses": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "memory GiB": None if memory is None else round(memory / 2**30, 1),
        "open files": "no limit" if files == sys.maxsize else files,
        "file names": sys.getfilesystemencoding(),
        "output": getattr(sys.stdout, "encoding", None),
        "compiler": next(filter(None, map(shutil.which, _COMPILERS)), "none, which compile=true needs"),
    }


def _gpus() -> Facts:
    import torch

    facts: Facts = {"CUDA of torch": torch.version.cuda or "none", "CUDA usable": torch.cuda.is_available()}
    built_for = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        architecture = f"sm_{properties.major}{properties.minor}"
        # Torch holds machine code for the architectures sm_… and PTX code (compute_…), which newer GPUs compile.
        supported = architecture in built_for or any(each.startswith("compute_") for each in built_for)
        memory = f"{properties.total_memory / 2**30:.1f} GiB"
        note = "" if supported else f", not among those of this torch ({' '.join(built_for)})"
        facts[f"cuda:{index}"] = f"{properties.name}, {architecture}, {memory}{note}"
    facts["Apple GPU usable"] = torch.backends.mps.is_available()
    return facts


def _folders() -> Facts:
    from digitlab.config.compose import CONF, OWN_CONF, ROOT, compose
    from digitlab.data import picture_files
    from digitlab.engine import aot_cache

    caches: dict[str, Path | None] = {"compiled code": None, "pictures": None}
    with suppress(RuntimeError):  # no home folder
        caches = {"compiled code": aot_cache.cache_folder(), "pictures": picture_files.cache_folder()}
    try:
        temporary: Path | None = Path(tempfile.gettempdir())
    except FileNotFoundError:  # none can be written
        temporary = None
    places: dict[str, Path | None] = {
        "project": ROOT, "configuration": CONF, "own configuration": OWN_CONF, "data": Path(compose().data.root),
        "runs": ROOT / "outputs", **caches, "temporary files": temporary,
    }  # fmt: skip
    return {name: "none" if path is None else _described(path) for name, path in places.items()}


def _described(path: Path) -> str:
    """Return the path with its state and the free space of its disk."""
    existing = next((each for each in (path, *path.parents) if each.exists()), None)
    if existing is None:
        return f"{_without_home(path)} (no such disk)"
    state = [] if existing == path else ["does not exist yet"]
    if not os.access(existing, os.W_OK):
        state.append("not writable")
    try:
        state.append(f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free")
    except OSError:
        state.append("free space unknown")
    return f"{_without_home(path)} ({', '.join(state)})"


def _data_sets() -> Iterator[tuple[str, str]]:
    """Yield each data set with a complete description in ``conf/data/``, and its number of images or its error."""
    from digitlab.config.compose import CONF, OWN_CONF, build, compose, plain
    from digitlab.core.errors import DigitlabError, MissingDataError
    from digitlab.data.module import ImageData

    for name in sorted(
        {path.stem for folder in filter(None, [CONF, OWN_CONF]) for path in (folder / "data").glob("*.yaml")}
    ):
        try:
            node = plain(compose([f"data={name}"]).data, "data")
            if node.get("path", "") is None:
                continue  # data=folder stands for any folder of the user
            data = build(node, "data", ImageData)
            if data.source.unknown_class is not None:
                continue  # it is made of other data sets and would download them
            train, test = data.source.read(data.root)
        except MissingDataError:
            yield name, "not on this machine"
        except DigitlabError as error:
            yield name, _without_home(str(error).partition("\n")[0])
        else:
            yield name, f"{len(train.labels):,} + {len(test.labels):,} images"
