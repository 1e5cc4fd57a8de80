"""Measures the cost of a sweep of many jobs in the process of its command, and what a list of many runs reads.

The command of a sweep on a Slurm cluster waits for its jobs, keeps the manifest (the list of its runs) and draws a
progress line. Nothing is trained here: a script that prints states stands for the cluster, and the run folders contain
small files. Usage:

    python benchmarks/sweep_scale.py --jobs 1000 10000 --runs 1000
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from digitlab.config.compose import compose
from digitlab.results.folder import find_runs
from digitlab.sweeps.manifest import Manifest, add_jobs, create
from digitlab.sweeps.progress import SweepProgress
from digitlab.sweeps.workers.slurm_pool import SlurmPool, _SlurmTask


@contextmanager
def timed(name: str, rows: dict[str, float], *, per: int = 1) -> Iterator[None]:
    """Measure the processor time in the with block, and store the seconds, divided by ``per``, in ``rows`` as ``name``.

    It is the time of this process and its children, which does not depend on what else runs.
    """
    before = _processor_seconds()
    yield
    rows[name] = (_processor_seconds() - before) / per


def _processor_seconds() -> float:
    # Not os.times, which counts in steps of 10 ms.
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure_queue(jobs: int, folder: Path, rows: dict[str, float]) -> None:
    """Measure the main loop of the command while all jobs wait or run.

    It makes the objects that a sweep has after it submitted its jobs, and sets their attributes from outside, because
    there is no cluster that could do it.
    """
    # A Slurm job array with number 7, of which 256 jobs run. This is what squeue prints.
    states = "".join(f"7_{number}|{'RUNNING' if number < 256 else 'PENDING'}\n" for number in range(jobs))
    (folder / "states").write_text(states)
    squeue = folder / "squeue"
    squeue.write_text(f"#!/bin/sh\ncat {folder}/states\n")
    squeue.chmod(0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
    pool = SlurmPool(None, {}, folder=folder, parallel=256, under="hydra.launcher")
    tasks = []
    for number in range(jobs):
        paths = SimpleNamespace(result_pickle=folder / ".submitit" / f"7_{number}" / "result.pkl", stderr=folder)
        tasks.append(_SlurmTask(None, SimpleNamespace(job_id=f"7_{number}", paths=paths), pool))  # type: ignore[arg-type]
    pool._running = {task.job_id: task for task in tasks}
    pool._queue.follow(pool._running)

    def ask() -> None:
        """Ask squeue at once, although the last answer is recent."""
        pool._queue._asked_at = pool._refreshed_at = float("-inf")
        assert not any(task.done() for task in tasks)

    ask()
    with timed("one answer of squeue, s", rows, per=10):
        for _ in range(10):
            ask()
    with timed("one turn of the loop without an answer, s", rows, per=100):
        for _ in range(100):
            assert not any(task.done() for task in tasks)


def measure_manifest(jobs: int, folder: Path, rows: dict[str, float]) -> None:
    """Measure how long it takes to add a job to the manifest, and to read and write a manifest of all jobs."""
    create(folder, ["seed"])
    config = compose(["seed=0"])
    added = min(jobs, 200)
    with timed("fingerprint and entry of one job, ms", rows, per=added):
        add_jobs(folder, ((config, [f"seed={number}"]) for number in range(added)))
    rows["fingerprint and entry of one job, ms"] *= 1000
    manifest = Manifest.read(folder)
    # Adding all jobs would take too long, so write the file that would result.
    entry = manifest.runs[0]
    runs = [
        {"number": n, "folder": f"{n}_seed={n}", "fingerprint": f"{entry.fingerprint}{n}", "overrides": [f"seed={n}"]}
        for n in range(jobs)
    ]
    content = {"format": 1, "keys": ["seed"], "halving": False, "runs": runs}
    (folder / "sweep.json").write_text(json.dumps(content, indent=1))
    with timed("read the manifest, s", rows, per=10):
        for _ in range(10):
            manifest = Manifest.read(folder)
    with timed("write the manifest, s", rows, per=5):
        for _ in range(5):
            manifest.write()
    rows["size of the manifest, MB"] = (folder / "sweep.json").stat().st_size / 1e6


def measure_progress(jobs: int, folder: Path, rows: dict[str, float]) -> None:
    """Measure one refresh of the progress line, which reads each unfinished run."""
    progress = SweepProgress(folder, [[f"seed={number}"] for number in range(jobs)])
    with timed("one refresh of the progress line, s", rows), counted(rows, jobs, "the progress line"):
        progress.update()


@contextmanager
def counted(rows: dict[str, float], runs: int, reader: str) -> Iterator[None]:
    """Count the files that Python opens in the with block, and store the number per run in ``rows``."""
    opened = 0
    active = True  # Python can't remove an audit hook

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if active and event == "open":
            opened += 1

    sys.addaudithook(hook)
    yield
    active = False
    rows[f"files that {reader} opens per run"] = opened / runs


def make_runs(count: int, folder: Path) -> None:
    """Write finished runs with the files that a list of runs reads."""
    config = compose(["seed=0"])
    from omegaconf import OmegaConf

    text = OmegaConf.to_yaml(config)
    result = {
        "status": "finished", "metrics": {"val/accuracy": 0.9, "test/accuracy": 0.9}, "best_epoch": 1, "epochs": 2,
        "tested": {"checkpoint": "best", "epoch": 1}, "train_seconds": 1.0, "parameters": 10, "overrides": [],
    }  # fmt: skip
    for number in range(count):
        run = folder / "outputs" / "mnist-mlp" / f"2026-01-01_00-00-00_{number:08x}"
        (run / ".hydra").mkdir(parents=True)
        (run / "checkpoints").mkdir()
        (run / ".hydra" / "config.yaml").write_text(text)
        (run / ".hydra" / "hydra.yaml").write_text("hydra:\n  runtime:\n    choices:\n      data: mnist\n")
        (run / ".hydra" / "overrides.yaml").write_text("[]\n")
        (run / "result.json").write_text(json.dumps(result))
        (run / "metrics.csv").write_text("epoch,val/accuracy\n1,0.9\n2,0.9\n")


def measure_runs(count: int, folder: Path, rows: dict[str, float]) -> None:
    """Measure ``digitlab runs`` in a process of its own; if strace is installed, count its system calls."""
    make_runs(count, folder)
    with timed(f"find {count} runs, s", rows):
        assert len(find_runs(folder / "outputs")) == count
    command = [sys.executable, "-c", "from digitlab.cli import main; main()", "runs", f"--root={folder / 'outputs'}"]
    with timed(f"digitlab runs with {count} runs, s", rows):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if shutil.which("strace") is None:
        return
    traced = ["strace", "-f", "-qq", "-e", "trace=%file,getdents64", "-o", str(folder / "trace"), *command]
    subprocess.run(traced, check=True, stdout=subprocess.DEVNULL)
    calls = [line for line in (folder / "trace").read_text().splitlines() if "outputs/mnist-mlp" in line]
    for name in ("openat", "stat", "getdents64", "readlink"):
        rows[f"{name} calls of digitlab runs per run"] = sum(name in line.partition("(")[0] for line in calls) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--runs", type=int, default=1000)
    arguments = parser.parse_args()
    for jobs in arguments.jobs:
        rows: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as name:
            measure_queue(jobs, Path(name), rows)
        with tempfile.TemporaryDirectory() as name:
            measure_manifest(jobs, Path(name), rows)
            measure_progress(jobs, Path(name), rows)
        rows["memory of the process, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{jobs} jobs")
        print("".join(f"  {value:10.4f}  {name}\n" for name, value in rows.items()))
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        measure_runs(arguments.runs, Path(name), rows)
    print("".join(f"  {value:10.4f}  {name}\n" for name, value in rows.items()))


if __name__ == "__main__":
    main()
