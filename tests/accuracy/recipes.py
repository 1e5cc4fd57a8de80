"""Short trainings on real data whose accuracy and loss ``test_accuracy.py`` limits.

Run this file to measure the distribution over ten seeds again: ``OMP_NUM_THREADS=1 python tests/accuracy/recipes.py``.
"""

import os
import runpy
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from digitlab.config.compose import ROOT
from digitlab.results.folder import RunFolder

SEEDS = range(10)
# The last epoch is tested, so that no choice of a checkpoint hides a fault. 10,000 images keep a run near one second.
_COMMON = (
    "trainer=cpu", "trainer.progress_bar=false", "data.train_size=10000", "data.val_size=1000", "early_stopping=null",
    "test=last",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A command of ``train.py``, without the seed. A comma in ``rates`` makes it a sweep, that is a population."""

    name: str
    overrides: tuple[str, ...]
    rates: tuple[str, ...]

    @property
    def data_folder(self) -> str:
        """The folder in ``data/`` that holds the images."""
        return "cifar-10-batches-py" if "data=cifar10" in self.overrides else "MNIST"

    def command(self, *, seed: int, folder: Path) -> list[str]:
        """The arguments of ``train.py``; the runs are written below ``folder``."""
        place = ["-m", f"hydra.sweep.dir={folder}"] if len(self.rates) > 1 else [f"hydra.run.dir={folder / '0'}"]
        return [*place, *_COMMON, *self.overrides, f"optimizer.lr={','.join(self.rates)}", f"seed={seed}"]


# Plain SGD where possible: Adam divides by the size of the gradient and hides a wrong scale.
_MLP = ("model=mlp", "model.hidden=[64,64]", "optimizer=sgd", "data.batch_size=32")
RECIPES = (
    Recipe(name="mlp on MNIST", overrides=(*_MLP, "trainer.max_epochs=2"), rates=("0.1",)),
    Recipe(
        name="lenet on MNIST", overrides=("model=lenet", "data.batch_size=64", "trainer.max_epochs=1"), rates=("0.002",)
    ),
    # At this low learning rate the network is still learning at the end, so a weaker gradient shows.
    Recipe(name="mlp on CIFAR-10", overrides=(*_MLP, "data=cifar10", "trainer.max_epochs=2"), rates=("0.02",)),
    Recipe(
        name="population on MNIST", overrides=(*_MLP, "trainer.max_epochs=1"), rates=("0.2", "0.1", "0.05"),
    ),
)  # fmt: skip


def read_test_metrics(folder: Path) -> dict[str, tuple[float, float]]:
    """Test accuracy in [0, 1] and test loss of every run below ``folder``, by the learning rate."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        run = RunFolder(path.parent)
        metrics = run.read_result()["metrics"]
        found[f"{run.read_config().optimizer.lr:g}"] = metrics["test/accuracy"], metrics["test/loss"]
    return found


def main() -> None:
    """Print mean, standard deviation (n - 1) and extremes over ten seeds, one line for each run of each recipe."""
    # A forked child starts in milliseconds if its parent has imported torch and Lightning.
    import digitlab.training  # noqa: F401

    for recipe in (recipe for recipe in RECIPES if recipe.name in sys.argv[1:] or len(sys.argv) == 1):
        measured: dict[str, list[tuple[float, float]]] = {}
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as name:
                _run_in_child(recipe.command(seed=seed, folder=Path(name)))
                for rate, pair in read_test_metrics(Path(name)).items():
                    measured.setdefault(rate, []).append(pair)
        for rate, pairs in measured.items():
            for metric, values in zip(("accuracy", "loss"), zip(*pairs, strict=True), strict=True):
                print(
                    f"{recipe.name}, rate {rate}, {metric}: mean {statistics.fmean(values):.4f}, "
                    f"sd {statistics.stdev(values):.4f}, {min(values):.4f} to {max(values):.4f}, n = {len(values)}",
                    flush=True,
                )


def _run_in_child(command: list[str]) -> None:
    child = os.fork()
    if child == 0:
        sys.argv = ["train.py", *command]
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the child ends with it
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, command


if __name__ == "__main__":
    main()
