"""Builds the content of a checkpoint from the state of a run, and restores the state from a checkpoint.

Solo runs and members of populations use it. A run that was stopped and resumed ends with exactly the same numbers, bit
for bit, as a run without a stop.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning

from digitlab.core.errors import RunError
from digitlab.data.chunks import Position
from digitlab.engine.metrics import Counts, sum_counts
from digitlab.results.checkpoint import older_version_error
from digitlab.results.environment import cpu_capability
from digitlab.training.classifier import Classifier
from digitlab.training.early_stopping import MonitorValue
from digitlab.training.run_state import RunState

log = logging.getLogger(__name__)


def snapshot(
    classifier: Classifier,
    optimizer_state: dict[str, Any],
    run_state: RunState,
    *,
    position: Position,
    train_counts: Sequence[Counts],
) -> dict[str, Any]:
    """Return the content of a checkpoint: everything that the rest of the run depends on.

    It contains no state of a random generator, because all random draws are functions of the seed and the position.
    ``optimizer_state`` is the ``state_dict`` of the torch optimiser. The run resumes from ``position``.
    ``train_counts`` has what each process has counted in the current epoch: the confusion matrix and the sum of the
    losses. They are saved separately, because rounding depends on the order in which losses are summed.
    """
    return {
        # ``Classifier.load_from_checkpoint``, a method of Lightning, needs this key, and the next two.
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": dict(classifier.hparams),
        # The tensors are copied, because the next update changes the weights in place.
        "state_dict": {name: tensor.detach().clone() for name, tensor in classifier.state_dict().items()},
        # Lightning expects these two keys. digitlab resumes from "position", which also has the step within the epoch.
        "epoch": position.epoch,
        "global_step": position.total_steps,
        "optimizer_states": [optimizer_state],
        "position": dataclasses.asdict(position),
        "train_counts": [dataclasses.asdict(counts) for counts in train_counts],
        # Early stopping and the choice of the best epoch depend on all earlier values of the monitored metric.
        "history": [dataclasses.asdict(point) for point in run_state.best_tracker.history],
        # ``result.json`` takes the metrics of the tested checkpoint from here. A resumed run writes its table again
        # from these rows, and adds to the seconds of the epoch in which it was stopped.
        "metrics": dict(run_state.metrics),
        "rows": [dict(row) for row in run_state.rows],
        "epoch_seconds": run_state.epoch_seconds,
        # The CPU's instruction set, such as AVX2. Kernels for another one add numbers in another order: see
        # ``warn_of_other_cpu``.
        "cpu_capability": cpu_capability(),
    }


def warn_of_other_cpu(checkpoint: Mapping[str, Any] | None) -> None:
    """Log a warning if ``checkpoint`` was written on a CPU with another instruction set.

    There is no warning without a checkpoint, nor for one of an older version, which did not store the instruction set.
    """
    saved, current = (checkpoint or {}).get("cpu_capability"), cpu_capability()
    if saved is not None and saved != current:
        log.warning("this run was trained with %s instructions, now with %s: last bits can differ", saved, current)


def saved_position(checkpoint: Mapping[str, Any] | None) -> Position:
    """Return the position in ``checkpoint``; without a checkpoint, return the beginning of a run."""
    return Position() if checkpoint is None else Position(**checkpoint["position"])


def restore(checkpoint: dict[str, Any], classifier: Classifier, *, path: Path) -> list[MonitorValue]:
    """Set ``classifier`` to the state in ``checkpoint``, which was read from ``path``; return the monitored history.

    The history has all earlier values of the monitored metric. If the number of processes is the same as before, each
    process gets its own counts; otherwise the first process gets the sum of all counts.

    Raises ``RunError`` if an older version divided the parameters into other groups of the optimiser, which would then
    assign its state to the wrong parameters. Also raises it if the files of the data set have changed since.
    """
    # With changed images the run would continue without an error, but its result would belong to neither data set.
    # Checkpoints of older versions have no fingerprint.
    saved_facts = checkpoint.get("hyper_parameters", {}).get("data", {})
    if "fingerprint" in saved_facts and saved_facts["fingerprint"] != classifier.facts.fingerprint:
        raise RunError(
            f"{path}: the files of the data set {classifier.facts.title} have changed since this run was trained on "
            "them; restore them to resume it, or start a new run"
        )
    if not _has_groups(checkpoint["optimizer_states"][0]["param_groups"], classifier):
        raise older_version_error(path, "with other parameters to learn, or other groups of them")
    counts_of_processes = [Counts(**saved) for saved in checkpoint["train_counts"]]
    chunk_plan = classifier.plan.chunks  # has the rank of this process and the number of processes (world_size)
    # The metrics of the epoch continue from the counts of the mini-batches before the stop.
    counts = counts_of_processes[chunk_plan.rank] if len(counts_of_processes) == chunk_plan.world_size else None
    # The metrics of the epoch are sums over all processes, so one process can have all earlier counts. Only the last
    # bits may differ, because the losses are added in another order.
    if counts is None and chunk_plan.rank == 0:
        counts = sum_counts(counts_of_processes)
    classifier.restore(checkpoint["state_dict"], checkpoint["optimizer_states"][0], counts)
    return [MonitorValue(**point) for point in checkpoint["history"]]


def _has_groups(saved: Sequence[dict[str, Any]], classifier: Classifier) -> bool:
    """Return whether ``saved``, the groups of an optimiser's ``state_dict``, match the groups of ``classifier``.

    A group has parameters and their settings, such as the weight decay. A saved group may have settings that this
    version of torch does not know, because newer versions add some.
    """
    expected = classifier.update.build(classifier.network).state_dict()["param_groups"]
    setting_names = {name for group in classifier.update.groups(classifier.network) for name in group}
    # Saved parameters have numbers instead of names, so only the sizes of the groups can be compared.
    same_sizes = [len(group["params"]) for group in saved] == [len(group["params"]) for group in expected]
    return same_sizes and all(setting_names <= group.keys() for group in saved)
