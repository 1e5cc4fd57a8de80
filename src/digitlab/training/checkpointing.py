"""Turns the state of a run into a checkpoint and back. A resumed run repeats the uninterrupted one to the bit."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning

from digitlab.core.errors import RunError
from digitlab.data.chunks import Position
from digitlab.engine.metrics import Counts, total
from digitlab.results.checkpoint import of_older_version
from digitlab.results.environment import cpu_capability
from digitlab.training.classifier import Classifier
from digitlab.training.early_stopping import MonitorValue
from digitlab.training.run_state import RunState

log = logging.getLogger(__name__)


def snapshot(
    classifier: Classifier,
    optimizer_state: dict[str, Any],
    record: RunState,
    *,
    position: Position,
    train_counts: Sequence[Counts],
) -> dict[str, Any]:
    """Return the content of a checkpoint: everything that the rest of the run depends on.

    It contains no state of a random generator, because all random draws are functions of the position.
    ``optimizer_state`` is the ``state_dict`` of the torch optimiser, ``position`` the place to resume from.
    ``train_counts`` holds the counts of each process separately, because rounding depends on the order in which losses
    are summed. ``state_dict``, ``hyper_parameters`` and the version have the keys that
    ``Classifier.load_from_checkpoint`` expects.
    """
    return {
        # Lightning refuses a checkpoint without its version.
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": dict(classifier.hparams),
        # Copies, because the next update changes the weights in place.
        "state_dict": {name: tensor.detach().clone() for name, tensor in classifier.state_dict().items()},
        # Lightning's names for the place. digitlab resumes from "position", which also holds the step of the epoch.
        "epoch": position.epoch,
        "global_step": position.total_steps,
        "optimizer_states": [optimizer_state],
        "position": dataclasses.asdict(position),
        "train_counts": [dataclasses.asdict(counts) for counts in train_counts],
        # Early stopping and the choice of the best epoch depend on all earlier values of the monitored metric.
        "history": [dataclasses.asdict(point) for point in record.best_tracker.history],
        # A run that is stopped inside an epoch has no other copy of what its tables and curves show so far.
        "metrics": dict(record.metrics),
        "rows": [dict(row) for row in record.rows],
        "epoch_seconds": record.epoch_seconds,
        "cpu_capability": cpu_capability(),
    }


def warn_of_other_cpu(checkpoint: Mapping[str, Any] | None) -> None:
    """Log a warning if ``checkpoint`` was written under another instruction set; None and old ones never are."""
    saved, current = (checkpoint or {}).get("cpu_capability"), cpu_capability()
    if saved is not None and saved != current:
        log.warning("this run was trained with %s instructions, now with %s: last bits can differ", saved, current)


def saved_position(checkpoint: Mapping[str, Any] | None) -> Position:
    """Return the position in ``checkpoint``, or the beginning without one."""
    return Position() if checkpoint is None else Position(**checkpoint["position"])


def restore(checkpoint: dict[str, Any], classifier: Classifier, *, path: Path) -> list[MonitorValue]:
    """Set ``classifier`` to the state in ``checkpoint``, which was read from ``path``; return the monitored history.

    With as many processes as wrote the checkpoint, each process gets its own counts; otherwise the first process gets
    their sum. Raises ``RunError`` if an older version divided the parameters into other groups: the optimiser would
    assign its state to the wrong parameters. Raises it, too, if the files of the data set are not those that the run
    was trained on.
    """
    # Changed images would train without an error, but the end would belong to neither data set.
    facts = checkpoint.get("hyper_parameters", {}).get("data", {})
    if facts.get("fingerprint") != classifier.facts.fingerprint and "fingerprint" in facts:
        raise RunError(
            f"{path}: the files of the data set {classifier.facts.title} have changed since this run was trained on "
            "them; restore them to resume it, or start a new run"
        )
    if not _has_groups(checkpoint["optimizer_states"][0]["param_groups"], classifier):
        raise of_older_version(path, "with other parameters to learn, or other groups of them")
    counts = [Counts(**own) for own in checkpoint["train_counts"]]
    chunks = classifier.plan.chunks
    # Metrics of the epoch continue from the counts of the mini-batches before the stop.
    own_counts = counts[chunks.rank] if len(counts) == chunks.world_size else None
    # With another number of processes the sum stays right, but its last bits may differ.
    if own_counts is None and chunks.rank == 0:
        own_counts = total(counts)
    classifier.restore(checkpoint["state_dict"], checkpoint["optimizer_states"][0], own_counts)
    return [MonitorValue(**point) for point in checkpoint["history"]]


def _has_groups(saved: Sequence[dict[str, Any]], classifier: Classifier) -> bool:
    """Return whether ``saved``, the groups of an optimiser's ``state_dict``, match the groups of ``classifier``.

    A saved group may contain additional settings, because newer versions of torch add some.
    """
    own = classifier.update.build(classifier.network).state_dict()["param_groups"]
    names = {name for group in classifier.update.groups(classifier.network) for name in group}
    same_sizes = [len(group["params"]) for group in saved] == [len(group["params"]) for group in own]
    return same_sizes and all(names <= group.keys() for group in saved)
