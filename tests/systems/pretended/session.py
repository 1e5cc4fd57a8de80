"""A run, its continuation, two sweeps and what the machine tells, in one process. ``test_systems`` starts it."""

import json
import sys
from pathlib import Path

import digitlab
from digitlab.core import system

SMALL = (
    "trainer=cpu", "model=linear", "trainer.progress_bar=false", "data.train_size=300", "data.val_size=100",
    "trainer.limit_test_batches=2", "trainer.max_epochs=1",
)  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    run = digitlab.train(*SMALL, folder=folder / "run")
    continued = digitlab.resume(run.path, max_epochs=2)
    sweeps = {}
    for launcher, jobs in (("vectorized", ()), ("joblib", ("hydra.launcher.n_jobs=2",))):
        swept = (f"hydra/launcher={launcher}", *jobs, "seed=0,1", f"hydra.sweep.dir={folder / launcher}")
        first = digitlab.sweep(*SMALL, *swept)
        times = [each.path.joinpath("result.json").stat().st_mtime_ns for each in first.runs]
        again = digitlab.sweep(*SMALL, *swept)
        assert [each.path.joinpath("result.json").stat().st_mtime_ns for each in again.runs] == times, "trained again"
        sweeps[launcher] = [each.metrics["test/accuracy"] for each in again.runs]
    facts = {
        "processor": system.processor_name(), "memory": system.memory_bytes(), "peak": system.peak_memory_bytes(),
        "cores": system.available_cores(), "files": system.open_file_limits().soft,
        "busy": system.busy_processor_seconds(), "keeps memory": system.keep_freed_memory(),
        "instruction sets": system.instruction_sets(),
    }  # fmt: skip
    seen = {"epochs": len(continued.history), "first": run.metrics["test/accuracy"], "sweeps": sweeps, "facts": facts}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
