"""Evaluates the stacked networks of a population, whose members are trained together, on the same images.

``StackedRunner`` uses it for validation, and ``population.testing`` for the test. M members, n images in a batch, K
classes.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from digitlab.data.evaluation import EvaluationBatch
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.dropout_masks import network_with_most_dropout
from digitlab.engine.metrics import Counts, confusions
from digitlab.engine.population_stack import population_stack
from digitlab.engine.stacked_loss import StackedLoss
from digitlab.engine.stacking import stack_tensors
from digitlab.engine.vmap_stack import VmapStack


def stack_networks(networks: Sequence[nn.Module]) -> DenseStack | VmapStack:
    """Stack copies of the tensors of ``networks`` for an evaluation, in which all get the same images."""
    parameters = stack_tensors([list(network.parameters()) for network in networks])
    buffers = stack_tensors([list(network.buffers()) for network in networks])
    template = network_with_most_dropout(networks)
    return population_stack(template, parameters, buffers=buffers, stream_sizes=[len(networks)])


@torch.no_grad()
def evaluate_stack(
    stack: DenseStack | VmapStack,
    weights: Sequence[Tensor],
    batches: Iterable[EvaluationBatch],
    *,
    normalise: nn.Module,
    loss: StackedLoss,
    classes: int,
    logits_of_batches: list[Tensor] | None = None,
) -> list[Counts]:
    """Return the counts of each member over the images of ``batches``.

    ``weights``, (M, ...), are the parameters of ``stack`` or their moving averages. The logits (M, n, K) of each batch
    are appended to ``logits_of_batches``, if given.
    """
    members, device = len(weights[0]), weights[0].device
    confusion = torch.zeros(members, classes, classes, dtype=torch.int64, device=device)
    # In float64, because each sum has thousands of terms.
    loss_sums = torch.zeros(members, dtype=torch.float64, device=device)
    images = 0
    weight_sum: Tensor | None = None
    for batch in batches:
        logits = stack.evaluate(normalise(batch.images), weights)
        if logits_of_batches is not None:
            logits_of_batches.append(logits)
        targets = loss.encode(batch.labels, classes)
        losses = loss(logits, targets.expand(members, *targets.shape))
        batch_sums, image_weights = losses.double().sum(1), loss.image_weights(targets)
        if image_weights is not None:
            # With class weights, ``loss`` divides by the sum of the image weights of this batch, but the mean over the
            # whole set must be divided by the weights of all its images. So undo the division here, and divide by all
            # weights at the end.
            batch_weight = image_weights.double().sum()
            batch_sums *= batch_weight / len(image_weights)
            weight_sum = batch_weight if weight_sum is None else weight_sum + batch_weight
        loss_sums += batch_sums
        images += len(batch.labels)
        confusion += confusions(logits, batch.labels.expand(members, -1))
    if weight_sum is not None:
        loss_sums *= images / weight_sum
    # The host waits for the device only here, once for all batches.
    return [Counts(matrix, loss_sum) for matrix, loss_sum in zip(confusion, loss_sums.tolist(), strict=True)]
