"""Runs the reference script of the CIFAR comparison: ``python -m gpu_checks.reference SCRIPT RUNS``.

The current folder has its images. The last line of the output is JSON: the script's own seconds (whitening, training
and test, by CUDA events) and accuracies of each run after a warm-up. The group ``cifar`` starts it.
"""

import importlib.util
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch


def main() -> int:
    path, runs = Path(sys.argv[1]), int(sys.argv[2])
    # The script reads its own text from sys.argv[0].
    sys.argv = [str(path)]
    spec = importlib.util.spec_from_file_location("reference_script", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    seconds: list[float] = []

    def keep_seconds(variables: dict[str, Any], is_final_entry: bool) -> None:
        if is_final_entry:
            seconds.append(float(variables["time_seconds"]))

    # It prints its clock by this function and returns only the accuracy.
    script.print_training_details = keep_seconds  # type: ignore[attr-defined]
    model = script.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")
    accuracies = [float(script.main(run, model)) for run in ("warmup", *range(runs))]
    measured = {
        "median_seconds": statistics.median(seconds[1:]), "seconds": seconds[1:], "accuracies": accuracies[1:],
        "n": runs,
    }  # fmt: skip
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
