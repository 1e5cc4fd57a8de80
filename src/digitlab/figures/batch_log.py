"""The log of single mini-batches, ``iterations.csv``, which some figures of the course report R2 need.

``figures.log_batches=true`` switches it on, and ``figures.callback`` writes it. It is off by default because counting
the non-zero gradient entries of every mini-batch slows small networks down considerably. Hooks on the network and its
parameters collect the values, so runs without the log execute no extra code. nll is the negative log-likelihood.
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
_SMALLEST_SCORE = 1e-38  # about the smallest normal float32; its logarithm is about -87


@dataclass(frozen=True, slots=True)
class BatchLog:
    """``iterations.csv`` as tensors with one entry per mini-batch.

    ``train_nll`` (float64): mean negative log-likelihood in nats. ``changed_weights`` (int64): number of weights whose
    gradient is not 0, so that gradient descent changes them. ``train_correct`` and ``test_correct`` (int64): number of
    correct predictions, out of ``train_images`` and ``test_images``.
    """

    train_nll: Tensor
    changed_weights: Tensor
    train_correct: Tensor
    train_images: Tensor
    test_correct: Tensor
    test_images: Tensor


def read_batch_log(run: RunFolder) -> BatchLog | None:
    """Read the log of a run; return None if the run wrote none."""
    rows = _read(run)
    if not rows:
        return None
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))

    def column(rows: list[dict[str, str]], name: str) -> Tensor:
        dtype = torch.float64 if name == "nll" else torch.int64
        return torch.tensor([float(row[name]) for row in rows], dtype=torch.float64).to(dtype)

    return BatchLog(
        train_nll=column(train, "nll"), changed_weights=column(train, "changed_weights"),
        train_correct=column(train, "correct"), train_images=column(train, "images"),
        test_correct=column(test, "correct"), test_images=column(test, "images"),
    )  # fmt: skip


def _read(run: RunFolder) -> list[dict[str, str]]:
    """Return the rows of ``iterations.csv``; an empty list if there is no such file."""
    if not run.iterations.exists():
        return []
    with run.iterations.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def nll_and_correct(scores: Tensor, labels: Tensor) -> tuple[float, int]:
    """Return the mean negative log-likelihood in nats and the number of correct predictions of one mini-batch.

    ``scores`` is float (B, K) in [0, 1], ``labels`` int64 (B,), for B images and K classes.
    """
    true_class_scores = scores.gather(1, labels[:, None]).clamp_min(_SMALLEST_SCORE)
    return float(-true_class_scores.log().mean()), int((scores.argmax(1) == labels).sum())


class BatchLogger:
    """Writes ``iterations.csv`` during training. Under DDP it covers rank 0's part of each mini-batch.

    A resumed run keeps the rows up to its checkpoint and appends new ones.
    """

    def __init__(self, run: RunFolder, classifier: Classifier) -> None:
        self._run, self._classifier = run, classifier
        finished_steps = classifier.position.total_steps
        self._train: list[dict[str, Any]] = [
            row for row in _read(run) if row["split"] == "train" and int(row["step"]) <= finished_steps
        ]
        self._test: list[dict[str, Any]] = []
        self._chunk: Chunk | None = None
        network = classifier.network
        self._hooks = [network.register_forward_hook(self._after_forward)]
        # Gradients are counted by hooks on the parameters, because a training step does not call the optimizer's hooks.
        self._hooks += [each.register_post_accumulate_grad_hook(self._after_gradient) for each in network.parameters()]

    def begin(self, chunk: Chunk) -> None:
        """Set the chunk, which is a few consecutive mini-batches, that the network is trained on next."""
        self._chunk = chunk

    def _after_forward(self, network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        """Add the row of a training mini-batch; validation, in evaluation mode, adds none."""
        if not network.training:
            return
        assert self._chunk is not None
        position, chunk = self._classifier.position, self._chunk
        # The position counts the mini-batches before this one, in the epoch (``step``) and in the whole run.
        labels = chunk.learnt_labels().split(chunk.sizes)[position.step - chunk.step]
        step = position.total_steps + 1
        # After a non-finite value the run rolls back and repeats updates: drop the rows of the first attempt.
        while self._train and int(self._train[-1]["step"]) >= step:
            self._train.pop()
        nll, correct = nll_and_correct(self._classifier.loss.scores(logits.detach().float()), labels)
        row = {"split": "train", "step": step, "nll": nll, "changed_weights": 0, "correct": correct}
        self._train.append(row | {"images": len(labels)})

    def _after_gradient(self, parameter: Tensor) -> None:
        """Count the non-zero gradients of one parameter tensor in the row that the forward pass has added."""
        assert parameter.grad is not None
        self._train[-1]["changed_weights"] += int(parameter.grad.count_nonzero())

    def add_test(self, scores: Tensor, labels: Tensor, *, batch_size: int) -> None:
        """Add one row for every ``batch_size`` test images: scores (N, K), labels int64 (N,)."""
        pairs = zip(scores.float().split(batch_size), labels.split(batch_size), strict=True)
        for step, (batch_scores, batch_labels) in enumerate(pairs, start=1):
            nll, correct = nll_and_correct(batch_scores, batch_labels)
            self._test.append(
                {"split": "test", "step": step, "nll": nll, "correct": correct, "images": len(batch_labels)}
            )

    def save(self) -> None:
        """Write the rows of all finished updates; an update that an error interrupted gets no row."""
        finished_rows = [row for row in self._train if int(row["step"]) <= self._classifier.position.total_steps]
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(finished_rows + self._test)
        write_atomically(self._run.iterations, text.getvalue().encode())

    def stop(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
