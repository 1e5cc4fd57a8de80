"""The record of single mini-batches, ``iterations.csv``, that some pictures of report R2 need. Off by default.

``figures.log_batches=true`` switches it on: looking at the gradient of every mini-batch costs a small network a good
part of its speed. Hooks on the network and its optimiser do the looking, so nothing of a run without it changes.
"""

import csv
import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from digitlab.core.files import write_atomically
from digitlab.data.chunks import Chunk
from digitlab.results.folder import RunFolder
from digitlab.training.classifier import Classifier

_COLUMNS = ("split", "step", "nll", "changed_weights", "correct", "images")
_LEAST_SCORE = 1e-38  # its logarithm is that of float32's least number, about -87


@dataclass(frozen=True, slots=True)
class Iterations:
    """``iterations.csv`` as tensors, an entry a mini-batch, in their order.

    ``train_nll`` float and ``test_nll`` float are the mean of -log p(right answer) in nats, ``train_correct`` and
    ``test_correct`` int64 the right answers, ``changed_weights`` int64 the non-zero entries of the gradient.
    """

    train_nll: Tensor
    changed_weights: Tensor
    train_correct: Tensor
    test_nll: Tensor
    test_correct: Tensor


def read_iterations(run: RunFolder) -> Iterations | None:
    """The record of a run, or None where it kept none."""
    rows = _read(run)
    if not rows:
        return None
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))

    def column(rows: list[dict[str, str]], name: str) -> Tensor:
        kind = torch.float64 if name == "nll" else torch.int64
        return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64).to(kind)

    return Iterations(
        train_nll=column(train, "nll"), changed_weights=column(train, "changed_weights"),
        train_correct=column(train, "correct"), test_nll=column(test, "nll"), test_correct=column(test, "correct"),
    )  # fmt: skip


def _read(run: RunFolder) -> list[dict[str, str]]:
    if not run.iterations.exists():
        return []
    with run.iterations.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answers(scores: Tensor, labels: Tensor) -> tuple[float, int]:
    """The mean of -log p(right answer), in nats, and the number of right answers; scores (n, K), labels int64 (n,)."""
    right = scores.gather(1, labels[:, None]).clamp_min(_LEAST_SCORE)
    return float(-right.log().mean()), int((scores.argmax(1) == labels).sum())


class IterationRecord:
    """Keeps ``iterations.csv`` while a run trains; of several processes, what the first one's share shows.

    A resumed run goes on with the rows up to where it stands.
    """

    def __init__(self, run: RunFolder, classifier: Classifier) -> None:
        self._run, self._classifier = run, classifier
        done = classifier.position.total_steps
        self._train: list[dict[str, Any]] = [
            row for row in _read(run) if row["split"] == "train" and int(row["step"]) <= done
        ]
        self._test: list[dict[str, Any]] = []
        self._chunk: Chunk | None = None
        network = classifier.network
        self._hooks = [network.register_forward_hook(self._after_forward)]
        # Not on the optimiser, whose own hooks a step goes without.
        self._hooks += [each.register_post_accumulate_grad_hook(self._after_gradient) for each in network.parameters()]

    def begin(self, chunk: Chunk) -> None:
        """Get ready for the mini-batches of ``chunk``."""
        self._chunk = chunk

    def _after_forward(self, network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if not network.training:
            return
        assert self._chunk is not None
        position, chunk = self._classifier.position, self._chunk
        labels, step = chunk.learnt_labels().split(chunk.sizes)[position.step - chunk.step], position.total_steps + 1
        # A chunk in which a number goes wrong is undone and learnt again.
        while self._train and int(self._train[-1]["step"]) >= step:
            self._train.pop()
        nll, correct = answers(self._classifier.loss.scores(logits.detach().float()), labels)
        row = {"split": "train", "step": step, "nll": nll, "changed_weights": 0, "correct": correct}
        self._train.append(row | {"images": len(labels)})

    def _after_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._train[-1]["changed_weights"] += int(parameter.grad.count_nonzero())

    def add_test(self, scores: Tensor, labels: Tensor, *, batch_size: int) -> None:
        """Add the test set in its order, ``batch_size`` at a time: scores (N, K), labels int64 (N,)."""
        pairs = zip(scores.float().split(batch_size), labels.split(batch_size), strict=True)
        for step, (own_scores, own_labels) in enumerate(pairs, start=1):
            nll, correct = answers(own_scores, own_labels)
            self._test.append(
                {"split": "test", "step": step, "nll": nll, "correct": correct, "images": len(own_labels)}
            )

    def save(self) -> None:
        """Write what the run has done; of a mini-batch that an error has stopped, nothing."""
        done = [row for row in self._train if int(row["step"]) <= self._classifier.position.total_steps]
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(done + self._test)
        write_atomically(self._run.iterations, text.getvalue().encode())

    def stop(self) -> None:
        """Take the hooks off again."""
        for hook in self._hooks:
            hook.remove()
