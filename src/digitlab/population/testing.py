"""Evaluates the members of a population on the test set when their runs end; ``trainer`` calls it.

On a GPU they are tested together, because most of the time of a test is spent on launching kernels, and one launch
serves all members.
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
    # Only a CPU has immediate reads. It gains nothing from testing members together, and if it tests them one by one,
    # the results are those of solo runs, to the bit.
    one_by_one = abilities(device).immediate_reads
    for group in [[member] for member in members] if one_by_one else [members]:
        # A member is not tested with ``test=none``, or if its checkpoint can't be loaded; then ``begin_test`` fails it.
        tested = [member for member in group if member.begin_test()]
        measured: dict[Member, tuple[dict[str, float], Tensor]] = {}
        try:
            if tested:
                results = measure_members([member.classifier for member in tested], data)
                measured = dict(zip(tested, results, strict=True))
        except Exception as error:
            # If members are tested together, it is not known which of them caused the error. It ends the population.
            if len(tested) > 1:
                raise
            tested[0].fail(error)
        for member in group:
            member.finish(measured.get(member))


def measure_members(classifiers: Sequence[Classifier], data: ImageData) -> list[tuple[dict[str, float], Tensor]]:
    """Return for each of ``classifiers`` its test metrics, keyed ``test/…``, and confusion matrix, int64 (K, K).

    Set ``test_scores`` and ``test_labels`` of each, as ``training.evaluation.measure_test`` does. A single classifier
    is tested exactly as in a solo run. Several must have networks that differ only in numbers.
    """
    if len(classifiers) == 1:
        return [measure_alone(classifiers[0], data)]
    # The classifiers share normalisation and classes. ``logits`` gets an entry (M, n, K) for each mini-batch.
    first, logits = classifiers[0], list[Tensor]()
    stack = stack_networks([each.evaluated_network for each in classifiers])
    scale = first.normalise.scale
    loss = StackedLoss.from_members([each.loss for each in classifiers], device=scale.device, dtype=scale.dtype)
    batches = list(data.test_dataloader())
    counts = evaluate_stack(
        stack, stack.parameters, batches, normalise=first.normalise, loss=loss,
        classes=len(first.facts.class_names), logits_of_batches=logits,
    )  # fmt: skip
    # (M, N, K) and (N,)
    all_logits, all_labels = torch.cat(logits, 1), torch.cat([batch.labels for batch in batches])
    measured = []
    for classifier, member_counts, member_logits in zip(classifiers, counts, all_logits, strict=True):
        scores = classifier.loss.scores(member_logits)
        classifier.test_scores, classifier.test_labels = [scores], [all_labels]
        measured.append(test_metrics(member_counts, scores, all_labels, class_names=classifier.facts.class_names))
    return measured
