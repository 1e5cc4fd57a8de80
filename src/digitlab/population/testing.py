"""Tests the members of a population whose runs end. On a GPU they are tested together.

The time of a test on a GPU is mostly that of launching kernels, and one launch serves all members.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.data.module import ImageData
from digitlab.engine.stacked_evaluation import evaluate_stack, stack_networks
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.population.member import Member
from digitlab.training.classifier import Classifier
from digitlab.training.evaluation import measure_alone, test_metrics


def finish_members(members: Sequence[Member], data: ImageData, *, device: torch.device) -> None:
    """Test ``members`` and write their results. Their weights are copied out of the stacked tensors."""
    # A CPU gains nothing from testing them together. One by one, the results are those of solo runs, to the bit.
    one_by_one = abilities(device).immediate_reads
    for group in [[member] for member in members] if one_by_one else [members]:
        tested = [member for member in group if member.begin_test()]
        measured: dict[Member, tuple[dict[str, float], Tensor]] = {}
        try:
            if tested:
                results = measure_members([member.classifier for member in tested], data)
                measured = dict(zip(tested, results, strict=True))
        except Exception as error:
            # If members are tested together, it is not known which of them caused the error.
            if len(tested) > 1:
                raise
            tested[0].fail(error)
        for member in group:
            member.finish(measured.get(member))


def measure_members(classifiers: Sequence[Classifier], data: ImageData) -> list[tuple[dict[str, float], Tensor]]:
    """Return for each of ``classifiers`` what ``measure_test`` returns, and set its ``test_scores``.

    A single one is tested as in a solo run, to the bit. Several must have networks that differ only in numbers.
    """
    if len(classifiers) == 1:
        return [measure_alone(classifiers[0], data)]
    first, logits = classifiers[0], list[Tensor]()
    stack = stack_networks([each.evaluated_network for each in classifiers])
    scale = first.normalise.scale
    loss = StackedLoss.from_members([each.loss for each in classifiers], device=scale.device, dtype=scale.dtype)
    batches = list(data.test_dataloader())
    counts = evaluate_stack(
        stack, stack.parameters, batches, normalise=first.normalise, loss=loss,
        classes=len(first.facts.class_names), logits_of_batches=logits,
    )  # fmt: skip
    all_logits, all_labels = torch.cat(logits, 1), torch.cat([batch.labels for batch in batches])
    measured = []
    for classifier, own_counts, own_logits in zip(classifiers, counts, all_logits, strict=True):
        scores = classifier.loss.scores(own_logits)
        classifier.test_scores, classifier.test_labels = [scores], [all_labels]
        measured.append(test_metrics(own_counts, scores, all_labels, class_names=classifier.facts.class_names))
    return measured
