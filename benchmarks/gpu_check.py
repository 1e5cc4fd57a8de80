"""Checks that digitlab works on this GPU, and measures how fast it is: ``python benchmarks/gpu_check.py``.

``--stage correct`` (at most 4 minutes) checks correctness, ``rows`` (4 minutes) measures speed, and ``cifar`` (5
minutes) trains on CIFAR-10 and compares with the script airbench94 (Jordan, 2024). ``--device cpu --quick`` is a dry
run of everything that makes sense without a GPU. ``PYTHONPATH=src:benchmarks`` is enough; digitlab need not be
installed. Each group of checks runs in a process of its own. ``gpu.json`` in ``--out`` is rewritten after every check;
a check for which no time remains is marked "not run". The exit code is 1 if a check failed or a target was missed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "src"), str(PROJECT / "benchmarks")]

from gpu_checks.supervisor import GroupProcess, run_at_once  # noqa: E402
from gpu_checks.targets import TARGETS  # noqa: E402

# Groups of a stage run at the same time. Each group that measures speed has a stage of its own.
STAGES = {"correct": ("updates", "lifecycle", "populations"), "rows": ("speed",), "cifar": ("cifar",)}
BUDGET_SECONDS = {"correct": 240.0, "rows": 240.0, "cifar": 300.0}
_STATUSES = ("passed", "failed", "not run")


def main() -> int:
    """Run the stages, or one group if ``--group`` names it; return the exit code."""
    options = _options()
    if options.group:
        return _run_group(options)
    options.out.mkdir(parents=True, exist_ok=True)
    stages = list(STAGES) if options.stage == "all" else [options.stage]
    report = Report(options)
    ends_at = time.monotonic() + (options.budget or sum(BUDGET_SECONDS[stage] for stage in stages))
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        # A quick check measures no speed, so all its groups can run at once.
        for stages_at_once in [stages] if options.quick else [[stage] for stage in stages]:
            # A dry run may take longer beside other work; --budget limits it.
            stage_ends_at = ends_at if options.quick else time.monotonic() + BUDGET_SECONDS[stages_at_once[0]]
            groups = [
                GroupProcess(
                    name=group, command=_command(group, options, Path(folder)),
                    environment=_environment(stage, options.device), out=options.out,
                    ends_at=min(ends_at, stage_ends_at),
                )
                for stage in stages_at_once
                for group in STAGES[stage]
            ]  # fmt: skip
            report.groups += groups
            if time.monotonic() < ends_at:
                run_at_once(groups, report.write)
    report.add_unstarted()
    return report.conclude()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks digitlab on a GPU.")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all", help="what to run (default: all)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run of what makes sense")
    parser.add_argument("--quick", action="store_true", help="a smoke test of under a minute")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="stop after so many seconds in all")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu_check"), metavar="FOLDER", help="for gpu.json")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="airbench94_muon.py, to compare with")
    for name in ("--group", "--folder", "--first"):
        parser.add_argument(name, type=int if name == "--first" else str, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.budget is not None and options.budget <= 0:
        parser.error(f"--budget {options.budget}: must be above 0")
    if options.reference is not None and not options.reference.is_file():
        parser.error(f"--reference {options.reference}: no such file")
    if options.device == "cpu" and not options.quick:
        parser.error("--device cpu needs --quick: on a processor there is only a dry run")
    # The groups run in another folder.
    options.out = options.out.resolve()
    return options


def _command(group: str, options: argparse.Namespace, folder: Path) -> Sequence[str]:
    return [
        sys.executable, str(Path(__file__).resolve()), "--group", group, "--device", options.device,
        "--out", str(options.out), "--folder", str(folder / group),
        *(["--quick"] if options.quick else []),
        *(["--reference", str(options.reference.resolve())] if options.reference else []),
    ]  # fmt: skip


def _environment(stage: str, device: str) -> dict[str, str]:
    paths = [str(PROJECT / "src"), str(PROJECT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if device == "cpu":
        # The processes of a dry run share the cores.
        variables["OMP_NUM_THREADS"] = "1"
    if stage == "correct":
        # PyTorch reads this once, before the first matrix product; trainer.deterministic=true needs it.
        variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return os.environ | variables


class Report:
    """The content of ``gpu.json`` and what is printed; ``groups`` are those started so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path: Path = options.out / "gpu.json"
        self.groups: list[GroupProcess] = []
        self._stages = list(STAGES) if options.stage == "all" else [options.stage]
        self._facts = _facts(options.device) | {"quick": options.quick}
        self._printed: set[str] = set()

    def write(self) -> None:
        """Rewrite the file and print new results."""
        checks = self._checks()
        for name, check in checks.items():
            if "seconds" in check and name not in self._printed:
                self._printed.add(name)
                detail = check.get("error") or check.get("reason") or check.get("summary", "")
                print(f"{check['status']:8} {name} ({check['seconds']:.1f} s) {detail}", flush=True)
        content = self._facts | {"targets": self._targets(checks), "checks": checks}
        part = self.path.with_suffix(".tmp")
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        part.replace(self.path)

    def add_unstarted(self) -> None:
        """Name the checks of groups that ended before they could name them."""
        for group in self.groups:
            if not group.results:
                from gpu_checks.group import group_of

                group.results = {
                    name: {"status": "not run", "reason": "the time was over"} for name in group_of(group.name).checks
                }

    def conclude(self) -> int:
        """Write the file for the last time, print the targets, and return the exit code."""
        self.write()
        checks = self._checks()
        targets = self._targets(checks)
        for name, target in targets.items():
            if target["verdict"] in ("reached", "missed"):
                limit = f"at most {target['at_most']:.4g}" if "at_most" in target else f"at least {target['at_least']}"
                print(f"{target['verdict']:8} {name}: {target['value']:.4g}, {limit}")
        unmeasured = sum(target["verdict"] == "not measured" for target in targets.values())
        counts = {status: sum(check["status"] == status for check in checks.values()) for status in _STATUSES}
        shown = ", ".join(f"{count} {status}" for status, count in counts.items())
        print(f"{shown}; {unmeasured} of {len(targets)} targets not measured -> {self.path}")
        # A check that misses a target has failed, too.
        return 1 if counts["failed"] else 0

    def _checks(self) -> dict[str, dict[str, Any]]:
        return {f"{group.name}: {name}": check for group in self.groups for name, check in group.results.items()}

    def _targets(self, checks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        targets = {name: {"value": None, "verdict": "not measured"} for name in TARGETS}
        for check in checks.values():
            targets |= check.get("targets", {})
        return targets


def _facts(device_name: str) -> dict[str, Any]:
    """Return the facts that all benchmark records contain, and the GPU's compute capability."""
    import torch

    from records import environment_facts

    if device_name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available; --device cpu --quick is a dry run")
    device = torch.device(device_name)
    facts = environment_facts(datetime.now().astimezone(), device, os.getloadavg()[0])
    if device.type == "cuda":
        facts["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return facts


def _run_group(options: argparse.Namespace) -> int:
    from digitlab.core.fast_import import gc_paused

    # Most of a dry run's time is imports.
    with gc_paused():
        import torch

        from gpu_checks.group import group_of, run_group
        from gpu_checks.registry import Context

        group_of(options.group)
    os.chdir(PROJECT)
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(
        device=torch.device(options.device), quick=options.quick, folder=folder, reference=options.reference
    )
    return run_group(options.group, context, results=options.out / f"{options.group}.jsonl", first=options.first or 0)


if __name__ == "__main__":
    sys.exit(main())
