"""Writes and reads the files in ``benchmarks/results/``: measurements with the facts that their figures depend on."""

import json
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from digitlab.results import environment

RESULTS = Path(__file__).parent / "results"


def environment_facts(date: datetime, device: torch.device, load_average: float) -> dict[str, Any]:
    """Return date, commit, hardware and versions.

    ``load_average`` is the mean number of busy processes in the minute before the measurement: other work disturbs it.
    """
    facts = {
        "date": date.isoformat(timespec="seconds"),
        "git_commit": environment.git_commit(),
        "hardware": environment.hardware(device),
        "load_average_before": load_average,
        "versions": environment.versions(),
    }
    return facts | {"gpu": gpu_facts()} if device.type == "cuda" else facts


def gpu_facts() -> dict[str, str]:
    """Return what the speed of a GPU depends on: versions of CUDA, cuDNN and the driver, and the power limit."""
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        output = ""
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())} | parse_driver(output)


def parse_driver(output: str) -> dict[str, str]:
    """Return driver version and power limit of the first GPU from what nvidia-smi prints; ``unknown`` without it."""
    fields = [field.strip() for field in (output.splitlines() or [""])[0].split(",")]
    driver, power = fields if len(fields) == 2 else ("unknown", "unknown")
    return {"driver": driver, "power_limit": power}


def write_record(record: dict[str, Any], kind: str) -> Path:
    """Write ``record``, which includes its environment facts, to ``<date>_<cpu>_<kind>.json``; return the path."""
    date = datetime.fromisoformat(record["date"])
    cpu = re.sub(r"[^a-z0-9]+", "-", str(record["hardware"]["cpu"]).lower()).strip("-")
    path = RESULTS / f"{date:%Y-%m-%d_%H-%M-%S}_{cpu}_{kind}.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def newest_record(key: str) -> dict[str, Any] | None:
    """Return the newest record that has ``key``, or None."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if key in record:
            return record
    return None
