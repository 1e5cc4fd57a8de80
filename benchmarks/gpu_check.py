"""Does digitlab work on this GPU, how fast is it, and how does it compare? ``python benchmarks/gpu_check.py``.

``--stage correct`` (at most 4 minutes) checks correctness, ``rows`` (4 minutes) measures speed, and ``cifar`` (5
minutes) compares with airbench. ``--device cpu --quick`` is a dry run of everything that makes sense without a GPU.
``PYTHONPATH=src:benchmarks`` is enough; digitlab need not be installed. Each group of checks runs in a process of its
own. ``gpu.json`` in ``--out`` is rewritten after every check; what the budget cuts off is marked "not run". The exit
code is 1 if a check failed or a target was missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "benchmarks")]

# Groups of a stage run at the same time, except those that measure speed.
STAGES = {"correct": ("updates", "lifecycle", "populations"), "rows": ("speed",), "cifar": ("cifar",)}
BUDGET_SECONDS = {"correct": 240.0, "rows": 240.0, "cifar": 300.0}


def main() -> int:
    options = _options()
    if options.group:
        return run_group(options)
    options.out.mkdir(parents=True, exist_ok=True)
    stages = list(STAGES) if options.stage == "all" else [options.stage]
    report: dict[str, Any] = _environment(options.device) | {"quick": options.quick, "checks": {}}
    budget = options.budget or sum(BUDGET_SECONDS[stage] for stage in stages)
    ends_at = time.monotonic() + budget
    for stage in stages:
        limit = min(ends_at, time.monotonic() + BUDGET_SECONDS[stage])
        _run_stage(stage, options, report, limit)
    failed = [name for name, check in report["checks"].items() if check["status"] == "failed"]
    counts = {status: sum(each["status"] == status for each in report["checks"].values()) for status in _STATUSES}
    print(", ".join(f"{count} {status}" for status, count in counts.items()), f"-> {options.out / 'gpu.json'}")
    return 1 if failed else 0


_STATUSES = ("passed", "failed", "not run")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks digitlab on a GPU.")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all", help="what to run (default: all)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run of what makes sense")
    parser.add_argument("--quick", action="store_true", help="a smoke test of under a minute")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after so many seconds in all")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), metavar="FOLDER", help="for gpu.json")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="airbench94_muon.py, to compare with")
    parser.add_argument("--group", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.budget is not None and options.budget <= 0:
        parser.error(f"--budget {options.budget}: must be above 0")
    if options.reference is not None and not options.reference.is_file():
        parser.error(f"--reference {options.reference}: no such file")
    return options


def _environment(device_name: str) -> dict[str, Any]:
    """What all benchmark records contain, and the GPU's compute capability."""
    import torch

    from records import environment_facts

    device = torch.device(device_name if torch.cuda.is_available() else "cpu")
    facts = environment_facts(datetime.now().astimezone(), device, os.getloadavg()[0])
    if device.type == "cuda":
        facts["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return facts


def _run_stage(stage: str, options: argparse.Namespace, report: dict[str, Any], ends_at: float) -> None:
    processes = {group: _start(group, options) for group in STAGES[stage]}
    for group in processes:
        for name in import_module(f"gpu_checks.{group}").GROUP.checks:
            report["checks"][f"{group}: {name}"] = {"status": "not run", "reason": "the time was over"}
    shown: set[str] = set()
    while True:
        running = [process for process in processes.values() if process.poll() is None]
        for group in processes:
            _take_results(group, options, report, shown)
        _write(options.out / "gpu.json", report)
        if not running or time.monotonic() > ends_at:
            break
        time.sleep(0.5)
    for group, process in processes.items():
        if process.poll() is None:
            process.kill()
            process.wait()
        elif process.returncode != 0:
            _mark_crashed(group, process.returncode, options, report)
    _write(options.out / "gpu.json", report)


def _start(group: str, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    for path in (_results(group, options), _log(group, options)):
        path.unlink(missing_ok=True)
    command = [
        sys.executable, str(Path(__file__).resolve()), "--group", group, "--device", options.device,
        "--out", str(options.out),
        *(["--quick"] if options.quick else []),
        *(["--reference", str(options.reference.resolve())] if options.reference else []),
    ]  # fmt: skip
    paths = [str(PROJECT / "src"), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with _log(group, options).open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=PROJECT)


def _results(group: str, options: argparse.Namespace) -> Path:
    return Path(options.out) / f"{group}.jsonl"


def _log(group: str, options: argparse.Namespace) -> Path:
    return Path(options.out) / f"{group}.log"


def _take_results(group: str, options: argparse.Namespace, report: dict[str, Any], shown: set[str]) -> None:
    """Copy what the group has written so far into the report, and print each check once."""
    path = _results(group, options)
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        name = f"{group}: {result.pop('name')}"
        report["checks"][name] = result
        if name not in shown:
            shown.add(name)
            detail = result.get("error") or result.get("reason") or result.get("summary", "")
            print(f"{result['status']:8} {name} ({result['seconds']:.1f} s) {detail}", flush=True)


def _mark_crashed(group: str, code: int, options: argparse.Namespace, report: dict[str, Any]) -> None:
    tail = _log(group, options).read_text(encoding="utf-8", errors="replace")[-800:]
    report["checks"][f"{group}: the process"] = {
        "status": "failed",
        "error": f"exit code {code}: {tail}",
        "seconds": 0.0,
    }
    print(f"failed   {group}: the process ended with {code}; see {_log(group, options)}", flush=True)


def _write(path: Path, report: dict[str, Any]) -> None:
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(report, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    part.replace(path)


def run_group(options: argparse.Namespace) -> int:
    """Run one group's checks in this process, and append a line of JSON for each."""
    import torch

    from gpu_checks.registry import Context, NotRun, describe

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available; --device cpu --quick is a dry run")
    group = import_module(f"gpu_checks.{options.group}").GROUP
    with tempfile.TemporaryDirectory(prefix=f"gpu-check-{options.group}-") as folder:
        context = Context(
            device=torch.device(options.device), quick=options.quick, folder=Path(folder), reference=options.reference
        )
        for name, check in group.checks.items():
            started_at = time.perf_counter()
            result: dict[str, Any] = {"name": name, "status": "passed"}
            try:
                measured = check(context) or {}
                result |= {"measured": measured, "summary": describe(measured)}
            except NotRun as reason:
                result |= {"status": "not run", "reason": str(reason)}
            except Exception as error:
                traceback.print_exc()
                result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            result["seconds"] = time.perf_counter() - started_at
            with _results(options.group, options).open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
