"""Measures what ``digitlab watch`` costs: its own processor time, and how much longer a training takes beside it.

The first part writes 1,000 finished runs and 10 runs that gain an epoch every two seconds, opens the page in Chromium,
and counts the processor time of the command for a minute, from the opening on. The second part trains in turn with and
without the command and an open page; it needs a quiet machine. Usage:

    python benchmarks/watch.py                # both parts
    python benchmarks/watch.py --only cost    # the first part: 90 seconds
    python benchmarks/watch.py --only slowdown --pairs 5

With ``--client``, and always in the second part, a client that asks for changes as the page does replaces Chromium,
because a browser would compete with the training for the cores. The exit code is 1 if a target is missed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from digitlab.config.compose import ROOT, compose
from digitlab.core.files import write_atomically
from digitlab.core.locks import acquire_lock
from digitlab.results.folder import RunFolder

# Live runs are those that gain epochs during the measurement.
FINISHED, LIVE, SECONDS = 1000, 10, 60
# The targets: the largest share of a processor core, and the largest increase of the median training time.
LARGEST_SHARE, LARGEST_INCREASE = 0.05, 0.01
_EPOCH_SECONDS = 2.0
_COLUMNS = (
    "epoch", "step", "train/accuracy", "train/f1", "train/f1_weighted", "train/loss", "val/accuracy", "val/f1",
    "val/f1_weighted", "val/loss", "lr", "train_seconds", "images_per_second",
)  # fmt: skip


def write_run(folder: Path, config: str, *, epochs: int, finished: bool) -> RunFolder:
    """Write the files of a run that the command reads, with ``config`` as its configuration."""
    run = RunFolder(folder)
    run.config.parent.mkdir(parents=True)
    run.config.write_text(config)
    run.overrides_file.write_text("- model=mlp\n- optimizer.lr=0.1\n")
    choices = "".join(f"      {name}: {option}\n" for name, option in (("data", "mnist"), ("model", "mlp")))
    # These lines make the file about as long as the one that Hydra writes.
    padding = "".join(f"  setting_{number}: some value of it\n" for number in range(150))
    (run.config.parent / "hydra.yaml").write_text(f"hydra:\n{padding}  runtime:\n    choices:\n{choices}")
    (run.path / "checkpoints").mkdir()
    write_epochs(run, epochs)
    if finished:
        metrics = {f"{split}/{name}": 0.9 for split in ("train", "val", "test") for name in ("accuracy", "loss", "f1")}
        metrics |= {f"test/class_accuracy/{label}": 0.9 for label in range(10)}
        result = {"status": "finished", "metrics": metrics, "epochs": epochs, "best_epoch": 1, "train_seconds": 9.0}
        run.result.write_text(json.dumps(result))
    return run


def write_epochs(run: RunFolder, epochs: int) -> None:
    """Replace the metrics of the run by ``epochs`` rows. An epoch has 430 steps, as on MNIST."""
    rows = [",".join([str(epoch), str(430 * epoch), *["0.912345678901"] * 11]) for epoch in range(1, epochs + 1)]
    write_atomically(run.metrics, "\n".join([",".join(_COLUMNS), *rows, ""]).encode())


@contextmanager
def watch(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command; yield its process and the address of its page."""
    code = "from digitlab.cli import main; main()"
    command = [sys.executable, "-c", code, "watch", "--root", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process, process.stdout.readline().strip()
    finally:
        # A shell starts commands in the background without SIGINT, so only SIGTERM ends this process everywhere.
        process.terminate()
        process.wait(10)


@contextmanager
def chromium(address: str) -> Iterator[None]:
    """Open the page in Chromium, without a window, inside the with block."""
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        browser = subprocess.Popen(
            ["chromium", *options, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            browser.terminate()
            browser.wait(10)


@contextmanager
def client(address: str) -> Iterator[None]:
    """Ask for changes inside the with block as the page does: once a second, and sooner while runs are unread."""
    end = threading.Event()

    def ask() -> None:
        version, pause = 0, 0.0
        while not end.wait(pause):
            with urllib.request.urlopen(f"{address}state?since={version}", timeout=30) as answer:
                state = json.load(answer)
            version, pause = state["version"], 0.05 if state["unread"] else 1.0

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def processor_seconds(process_id: int) -> float:
    """Return the user and system time of a process so far; Linux only."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_cost(root: Path, *, seconds: float, page: Callable[[str], object]) -> float:
    """Return the share of a core that the command uses while ``page`` is open and live runs gain epochs."""
    config = OmegaConf.to_yaml(compose(["trainer.max_epochs=1000"]))
    for number in range(FINISHED):
        write_run(root / "mnist-mlp" / f"2026-01-01_00-00-00_{number:08x}", config, epochs=20, finished=True)
    with ExitStack() as stack:
        live = [
            write_run(root / "mnist-lenet" / str(number), config, epochs=20, finished=False) for number in range(LIVE)
        ]
        for run in live:
            # A run that nobody locks would count as killed.
            lock, _ = acquire_lock(run.lock)
            stack.callback(lock.release)
        process, address = stack.enter_context(watch(root))
        seconds_before, started_at = processor_seconds(process.pid), time.monotonic()
        stack.enter_context(page(address))  # type: ignore[arg-type]
        epochs = 20
        while time.monotonic() - started_at < seconds:
            time.sleep(_EPOCH_SECONDS)
            epochs += 1
            for run in live:
                write_epochs(run, epochs)
        used_seconds = processor_seconds(process.pid) - seconds_before
        passed_seconds = time.monotonic() - started_at
        with urllib.request.urlopen(f"{address}state?since=0", timeout=30) as answer:
            runs = json.load(answer)["runs"]
        statuses = [run["status"] for run in runs]
        assert (statuses.count("finished"), statuses.count("running")) == (FINISHED, LIVE), "the page did not read all"
        assert all(run["epochs"] >= epochs - 2 for run in runs if run["status"] == "running"), "the page is late"
    return used_seconds / passed_seconds


def measure_slowdown(root: Path, *, pairs: int) -> tuple[list[float], list[float]]:
    """Train in turn with and without the command and an open page; return both lists of training seconds."""
    times: tuple[list[float], list[float]] = [], []
    for number in range(pairs):
        # Every other pair begins with the other kind, so that a drift of the machine favours neither.
        for watched in (True, False) if number % 2 else (False, True):
            folder = root / f"{number}_{watched}"
            with ExitStack() as stack:
                if watched:
                    _, address = stack.enter_context(watch(root))
                    stack.enter_context(client(address))
                overrides = ["model=mlp", "trainer.max_epochs=10", "trainer.progress_bar=false", "trainer=cpu"]
                command = [sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[0 if watched else 1].append(RunFolder(folder).read_result()["train_seconds"])
            print(
                f"  pair {number + 1}, {'with' if watched else 'without'} watch: {times[0 if watched else 1][-1]:.3f} s"
            )
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["cost", "slowdown"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--client", action="store_true", help="no Chromium: a client that asks as the page does")
    arguments = parser.parse_args()
    missed = False
    if arguments.only != "slowdown":
        page = client if arguments.client or shutil.which("chromium") is None else chromium
        with tempfile.TemporaryDirectory() as name:
            share = measure_cost(Path(name), seconds=arguments.seconds, page=page)
        missed |= share > LARGEST_SHARE
        print(
            f"{100 * share:.2f} % of a core with {FINISHED} finished and {LIVE} live runs "
            f"over {arguments.seconds:.0f} s"
        )
        print(f"  (target: at most {100 * LARGEST_SHARE:.0f} %; page: {page.__name__})")
    if arguments.only != "cost":
        with tempfile.TemporaryDirectory() as name:
            with_watch, without = (
                statistics.median(each) for each in measure_slowdown(Path(name), pairs=arguments.pairs)
            )
        increase = with_watch / without - 1
        missed |= increase > LARGEST_INCREASE
        print(f"median training time with watch {with_watch:.3f} s, without {without:.3f} s: {100 * increase:+.2f} %")
        print(f"  (target: at most {100 * LARGEST_INCREASE:+.0f} %; {arguments.pairs} alternating pairs)")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
