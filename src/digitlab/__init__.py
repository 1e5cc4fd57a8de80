"""digitlab: small image-classification experiments on MNIST, Fashion-MNIST and CIFAR-10.

In Python::

    import digitlab

    run = digitlab.train("model=mlp", "data=mnist", "trainer.max_epochs=2")
    run.metrics["test/accuracy"], run.figure("confusion_matrix")
    sweep = digitlab.sweep("optimizer.lr=0.1,0.01", "seed=range(3)", name="rates")
    sweep.table, sweep.best

This module imports its contents on first use, so that ``train.py --help`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digitlab.api.commands import resume, sweep, train
    from digitlab.api.opening import compare_runs, load, runs
    from digitlab.api.opening import open_folder as open
    from digitlab.api.run import Run
    from digitlab.api.sweep import Sweep
    from digitlab.config.compose import allow
    from digitlab.core.errors import ConfigError, DataError, DigitlabError, RunError
    from digitlab.core.signals import Interrupted, Stopper

# Where each public name is defined.
_SOURCES = {
    "ConfigError": ("digitlab.core.errors", "ConfigError"),
    "DataError": ("digitlab.core.errors", "DataError"),
    "DigitlabError": ("digitlab.core.errors", "DigitlabError"),
    "Interrupted": ("digitlab.core.signals", "Interrupted"),
    "Run": ("digitlab.api.run", "Run"),
    "RunError": ("digitlab.core.errors", "RunError"),
    "Stopper": ("digitlab.core.signals", "Stopper"),
    "Sweep": ("digitlab.api.sweep", "Sweep"),
    "allow": ("digitlab.config.compose", "allow"),
    # Not "compare": that is the name of a subpackage, and importing the subpackage would replace the function here.
    "compare_runs": ("digitlab.api.opening", "compare_runs"),
    "load": ("digitlab.api.opening", "load"),
    "open": ("digitlab.api.opening", "open_folder"),
    "resume": ("digitlab.api.commands", "resume"),
    "runs": ("digitlab.api.opening", "runs"),
    "sweep": ("digitlab.api.commands", "sweep"),
    "train": ("digitlab.api.commands", "train"),
}

__all__ = [
    "ConfigError", "DataError", "DigitlabError", "Interrupted", "Run", "RunError", "Stopper", "Sweep", "allow",
    "compare_runs", "load", "open", "resume", "runs", "sweep", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("digitlab")
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
