"""The dry run of the GPU check: everything that makes sense without a GPU passes, from any folder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from digitlab.config.compose import ROOT
from gpu_checks.targets import TARGETS

# What a dry run may leave out.
REASONS = {"needs a CUDA device", "left out of a quick check"}
GROUPS = {"updates", "lifecycle", "populations", "speed", "cifar"}


def check(folder: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Run the check in ``folder``; the exit code, the output, and the content of ``gpu.json``."""
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--device", "cpu", "--quick", "--out", "made"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])}
    ended = subprocess.run(
        [*command, *options], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    return ended.returncode, ended.stdout + ended.stderr, json.loads((folder / "made/gpu.json").read_text())


def test_the_dry_run_passes(tmp_path: Path) -> None:
    code, output, report = check(tmp_path, "--budget", "500")
    failed = {name: result for name, result in report["checks"].items() if result["status"] == "failed"}
    assert (code, failed) == (0, {}), output
    not_run = {result["reason"] for result in report["checks"].values() if result["status"] == "not run"}
    assert not_run <= REASONS
    passed = {name.partition(":")[0] for name, result in report["checks"].items() if result["status"] == "passed"}
    assert passed == GROUPS
    assert report["targets"].keys() == TARGETS.keys()
    assert {target["verdict"] for target in report["targets"].values()} == {"not measured", "not judged"}
    cifar = report["checks"]["cifar: cifar10_94, captured: accuracy, and time beside the reference"]["measured"]
    assert cifar["mean_with_tta"] is None  # the images are random
    assert cifar["median_seconds"] > 0
