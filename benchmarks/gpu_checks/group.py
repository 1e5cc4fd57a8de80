"""Runs the checks of one group in this process, and appends a line of JSON for each to a file.

``gpu_check.py --group NAME`` calls ``run_group``; ``supervisor`` reads the file.
"""

import json
import traceback
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from gpu_checks.images import use_images
from gpu_checks.registry import Context, Group, NotRun, describe
from gpu_checks.supervisor import CUDA_IS_LOST
from gpu_checks.targets import judge


def group_of(name: str) -> Group:
    """The checks of the group ``name``, which is a module of this folder."""
    group: Group = import_module(f"gpu_checks.{name}").GROUP
    return group


def run_group(name: str, context: Context, *, results: Path, first: int) -> int:
    """Run the checks of the group from number ``first``; return the exit code.

    The first line of ``results`` has the names of all checks.
    """
    checks = group_of(name).checks
    if first == 0:
        _append(results, {"checks": list(checks)})
    use_images(quick=context.quick)
    for check_name, check in list(checks.items())[first:]:
        started_at = perf_counter()
        result: dict[str, Any] = {"name": check_name, "status": "passed"}
        error: Exception | None = None
        try:
            result |= _judged(check(context) or {}, binding=context.binding)
        except NotRun as reason:
            result |= {"status": "not run", "reason": str(reason)}
        except Exception as caught:
            traceback.print_exc()
            error = caught
            result |= {"status": "failed", "error": f"{type(caught).__name__}: {caught}"}
        _append(results, result | {"seconds": perf_counter() - started_at})
        if error is not None and context.cuda and not _cuda_works():
            return CUDA_IS_LOST
    return 0


def _judged(measured: dict[str, Any], *, binding: bool) -> dict[str, Any]:
    """The result of a check that measured this: failed if a target is missed, with all values in either case."""
    targets = judge(measured.pop("targets", {}), binding=binding)
    result: dict[str, Any] = {"measured": measured, "summary": describe(measured), "targets": targets}
    missed = [name for name, target in targets.items() if target["verdict"] == "missed"]
    if missed:
        result |= {"status": "failed", "error": "; ".join(f"{name}: {targets[name]['value']:.4g}" for name in missed)}
    return result


def _cuda_works() -> bool:
    """Whether kernels still run: after an illegal access every later call of the process fails."""
    try:
        torch.zeros(1, device="cuda").add_(1).item()
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
