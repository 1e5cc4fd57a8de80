"""Examines a data set: broken images, copies within and between its two sets, sizes of the classes, doubtful labels.

``digitlab show --check`` uses it. Images are numbered through both sets: first the N training images, then the n test
images. Doubtful labels are found with held-out scores: predictions of networks that did not train on the images.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from digitlab.data.source import ImageSet
from digitlab.explain.duplicates import exact_duplicates, join_groups, near_duplicates
from digitlab.explain.label_errors import HeldOutScores, confident_learning

# Pixels have values from 0 to 255. If those of an image differ by less than this, it shows hardly anything.
_LEAST_CONTRAST = 16
# Decoding a truncated file leaves a flat lower part. A picture is reported if at least this share of its rows is flat.
_CUT_SHARE = 0.25
# In each set, the list has at most this share of the images as doubtful labels, but up to so many in a small set. A
# weak network doubts many correct labels. These have small margins, and nobody looks through thousands of images.
_LISTED_SHARE, _LISTED_IN_SMALL_SETS = 0.01, 100

CONSTANT, FAINT, CUT = "constant images", "faint images", "images with a flat lower part"
EXACT, NEAR, LABEL = "exact copies", "near copies", "doubtful labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding about the image with this ``number``.

    ``kind`` is one of the constants above. ``other`` is the image of which it is a copy, ``suggested`` the label that
    is more likely. ``value`` is the correlation of a near copy, or the margin by which the suggested label is more
    probable, in [0, 1].
    """

    kind: str
    number: int
    other: int | None = None
    suggested: int | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """The findings about a data set.

    ``overlap[EXACT]`` counts the test images with an exact copy in the training set, ``overlap[NEAR]`` those with any
    copy there, and ``contradictions`` the groups of copies with different labels. ``labels`` is int64 (N + n,).
    ``doubted`` are the numbers of labels in each set that confident learning doubts; ``findings`` has only the most
    doubtful of them, the number that ``most_listed`` returns.
    ``held_out`` is None if labels were not checked. ``pictures`` says whether a flat lower part was looked for.
    """

    findings: Sequence[Finding]
    overlap: Mapping[str, int]
    contradictions: int
    labels: Tensor
    doubted: tuple[int, int]
    train_count: int
    held_out: HeldOutScores | None
    pictures: bool

    def count(self, kind: str) -> tuple[int, int]:
        """Return the numbers of different images with this finding in the training set and in the test set."""
        numbers = {finding.number for finding in self.findings if finding.kind == kind}
        in_train = sum(number < self.train_count for number in numbers)
        return in_train, len(numbers) - in_train

    def place(self, number: int) -> tuple[str, int]:
        """Return the set of an image and its position there: ``("test", 17)``."""
        return ("train", number) if number < self.train_count else ("test", number - self.train_count)


def check_images(
    train: ImageSet, test: ImageSet, *, pictures: bool, held_out: HeldOutScores | None, progress: Callable[[str], None]
) -> DataCheck:
    """Run all checks; without ``held_out`` scores, labels are not checked.

    ``pictures`` says that the images are photographs or other whole pictures. Only these are checked for a flat lower
    part, because an image of one figure on black, such as a digit, always has one.
    """
    images = torch.cat([train.images.cpu(), test.images.cpu()])
    labels = torch.cat([train.labels.cpu(), test.labels.cpu()])
    findings = _broken_images(images, pictures=pictures)
    progress("comparing all images with each other")
    exact = exact_duplicates(images)
    copies = {number for group in exact for number in group[1:]}
    findings += [Finding(kind=EXACT, number=each, other=group[0]) for group in exact for each in group[1:]]
    # Only the first image of each group of equal images takes part in the search for near copies.
    distinct = torch.tensor([number for number in range(len(images)) if number not in copies])
    # The positions in ``distinct`` become numbers of images.
    pairs = [
        (int(distinct[pair.first]), int(distinct[pair.second]), pair.correlation)
        for pair in near_duplicates(images[distinct])
    ]
    findings += [Finding(kind=NEAR, number=second, other=first, value=value) for first, second, value in pairs]
    groups = join_groups([*exact, *((first, second) for first, second, _ in pairs)])
    train_count = len(train.labels)
    doubted = 0, 0
    if held_out is not None:
        label_findings, doubted = _label_findings(held_out, train.labels.cpu(), test.labels.cpu())
        findings += label_findings
    return DataCheck(
        findings=findings, overlap={EXACT: _overlap(exact, train_count), NEAR: _overlap(groups, train_count)},
        contradictions=sum(len({int(labels[number]) for number in group}) > 1 for group in groups),
        labels=labels, doubted=doubted, train_count=train_count, held_out=held_out, pictures=pictures,
    )  # fmt: skip


def _overlap(groups: Sequence[Sequence[int]], train_count: int) -> int:
    """Return how many test images are in a group with a training image. Groups are ascending; test images come last."""
    return sum(number >= train_count for group in groups if group[0] < train_count for number in group)


def _broken_images(images: Tensor, *, pictures: bool) -> list[Finding]:
    flat = images.flatten(1)
    contrast = flat.amax(1).int() - flat.amin(1).int()
    masks = [(CONSTANT, contrast == 0), (FAINT, (contrast > 0) & (contrast < _LEAST_CONTRAST))]
    if pictures:
        lower = images[:, :, -max(1, int(images.shape[2] * _CUT_SHARE)) :].flatten(2)
        uniform = (lower.amax(2) == lower.amin(2)).all(1)
        masks.append((CUT, uniform & (contrast >= _LEAST_CONTRAST)))
    return [Finding(kind=kind, number=number) for kind, mask in masks for number in mask.nonzero().flatten().tolist()]


def most_listed(images: int) -> int:
    """Return how many doubtful labels of a set of so many images the list has at most."""
    return max(_LISTED_IN_SMALL_SETS, round(_LISTED_SHARE * images))


def _label_findings(
    held_out: HeldOutScores, train_labels: Tensor, test_labels: Tensor
) -> tuple[list[Finding], tuple[int, int]]:
    """Check the labels of each set on its own. Return the most doubtful ones, and the numbers of doubtful ones.

    The scores of test images are means over several networks, so they need other thresholds of confidence.
    """
    findings, doubted = list[Finding](), list[int]()
    for scores, labels, start in ((held_out.train, train_labels, 0), (held_out.test, test_labels, len(train_labels))):
        errors = confident_learning(scores, labels)
        doubted.append(len(errors.indices))
        listed = [values[: most_listed(len(labels))] for values in (errors.indices, errors.suggested, errors.margins)]
        findings += [
            Finding(kind=LABEL, number=number + start, suggested=suggested, value=margin)
            for number, suggested, margin in zip(*(values.tolist() for values in listed), strict=True)
        ]
    return sorted(findings, key=lambda finding: -(finding.value or 0)), (doubted[0], doubted[1])


def table(check: DataCheck) -> list[list[str]]:
    """Return the rows of the printed table: what was checked, and the numbers in the training and in the test set."""
    train_labels, test_labels = check.labels[: check.train_count], check.labels[check.train_count :]
    counts = [labels.bincount() for labels in (train_labels, test_labels)]
    rows = [
        ["images", f"{len(train_labels):,}", f"{len(test_labels):,}"],
        ["smallest class", *(f"{int(each[each > 0].min()):,}" for each in counts)],
        ["largest class", *(f"{int(each.max()):,}" for each in counts)],
    ]
    kinds = [CONSTANT, FAINT, *[CUT] * check.pictures, EXACT, NEAR, *[LABEL] * (check.held_out is not None)]
    rows += [[kind, *(f"{count:,}" for count in check.count(kind))] for kind in kinds]
    rows.append(["test images with an exact copy in the training set", "", f"{check.overlap[EXACT]:,}"])
    rows.append(["test images with any copy in the training set", "", f"{check.overlap[NEAR]:,}"])
    rows.append(["groups of copies with different labels, in both sets", f"{check.contradictions:,}", ""])
    return rows


def as_csv(check: DataCheck, class_names: Sequence[str]) -> str:
    """Return all findings as CSV, one row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["finding", "set", "number", "label", "other set", "other number", "other label", "suggested",
                     "value"])  # fmt: skip
    for finding in check.findings:
        other: tuple[object, ...] = ("", "", "")
        label = class_names[int(check.labels[finding.number])]
        if finding.other is not None:
            other = (*check.place(finding.other), class_names[int(check.labels[finding.other])])
        writer.writerow(
            [
                finding.kind, *check.place(finding.number), label, *other,
                "" if finding.suggested is None else class_names[finding.suggested],
                "" if finding.value is None else f"{finding.value:.4f}",
            ]
        )  # fmt: skip
    return text.getvalue()
