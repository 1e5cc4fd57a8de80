"""Checks of data sets on planted copies, broken images and wrong labels."""

import csv

import numpy as np
import pytest
import torch

from digitlab.data.source import ImageSet
from digitlab.explain import data_check, duplicates
from digitlab.explain.data_check import CONSTANT, CUT, EXACT, FAINT, LABEL, NEAR, check_images, table
from digitlab.explain.duplicates import exact_duplicates, join_groups, near_duplicates
from digitlab.explain.label_errors import HeldOutScores, confident_learning


@pytest.fixture
def photographs():
    """200 smooth random pictures, uint8 (200, 3, 32, 32), which differ from each other as photographs do."""
    coarse = torch.rand(200, 3, 6, 6)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (255 * smooth).round().byte()


def test_groups_of_equal_images_are_complete(photographs):
    images = photographs.clone()
    images[[7, 90]], images[150] = photographs[3], photographs[149]
    assert exact_duplicates(images) == [[3, 7, 90], [149, 150]]
    assert exact_duplicates(photographs) == []


def test_copies_with_noise_and_another_brightness_are_found_and_nothing_else(photographs):
    images = photographs.clone()
    images[120] = (0.8 * images[5].float() + 20 + 4 * torch.randn(3, 32, 32)).clamp(0, 255).byte()
    (pair,) = near_duplicates(images)
    assert (pair.first, pair.second) == (5, 120)
    assert pair.correlation > 0.98
    assert near_duplicates(photographs) == []


def test_many_similar_images_are_no_copies():
    # Straight strokes: every image has neighbours that are as near as the nearest.
    base = torch.zeros(28, 28)
    base[4:24, 13:15] = 200
    images = (base + 20 * torch.rand(60, 1, 28, 28)).byte()
    assert near_duplicates(images) == []


def test_a_sample_rejects_candidates_without_changing_what_is_found(photographs, monkeypatch):
    similar = (photographs[:1].float() + 30 * torch.rand(60, 3, 32, 32)).clamp(0, 255).byte()
    copies = (photographs[20:23].float() + 4 * torch.randn(3, 3, 32, 32)).clamp(0, 255).byte()
    images = torch.cat([photographs, similar, copies])
    expected = near_duplicates(images)
    assert [(pair.first, pair.second) for pair in sorted(expected, key=lambda pair: pair.first)] == [
        (20, 260), (21, 261), (22, 262),
    ]  # fmt: skip
    monkeypatch.setattr(duplicates, "_SAMPLE", 50)
    assert near_duplicates(images) == expected


def test_groups_that_share_an_image_are_joined():
    assert join_groups([[4, 9], [1, 2], [9, 12], [2, 5]]) == [[1, 2, 5], [4, 9, 12]]


def brute_force(scores, labels):
    """Confident learning as the paper writes it, image by image."""
    classes = range(scores.shape[1])
    thresholds = [np.mean([s[c] for s, y in zip(scores, labels, strict=True) if y == c] or [np.inf]) for c in classes]
    found = {}
    for number, (own, label) in enumerate(zip(scores, labels, strict=True)):
        over = [c for c in classes if own[c] >= thresholds[c]]
        if over and (likely := max(over, key=lambda c: own[c])) != label:
            found[number] = likely
    return found


def test_confident_learning_equals_the_definition_and_finds_planted_errors():
    random = np.random.default_rng(0)
    truth = random.integers(4, size=400)
    logits = random.normal(size=(400, 4)) + 6 * np.eye(4)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = truth.copy()
    wrong = random.choice(400, 20, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 4
    found = confident_learning(torch.from_numpy(scores), torch.from_numpy(labels))
    assert dict(zip(found.indices.tolist(), found.suggested.tolist(), strict=True)) == brute_force(scores, labels)
    first = found.indices[:20].tolist()
    assert len(set(first) & set(wrong.tolist())) >= 17
    assert (found.margins.diff() <= 0).all()


def test_a_class_without_images_is_never_likely():
    scores = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    assert len(confident_learning(scores, torch.tensor([0, 0])).indices) == 0


@pytest.fixture
def planted(photographs):
    """A training set of 150 and a test set of 50 images with one finding of each kind."""
    images, labels = photographs.clone(), torch.arange(200) % 2
    images[10], images[11] = 77, (128 + 3 * torch.rand(3, 32, 32)).byte()
    images[12, :, 24:] = 128
    images[160] = images[20]  # test image 10, with the same label
    images[161] = (0.9 * images[31].float() + 10).byte()  # test image 11
    labels[161] = 1 - labels[31]
    scores = 0.2 + 0.6 * torch.nn.functional.one_hot(labels, 2)
    scores[40] = scores[40].flip(0)
    held_out = HeldOutScores(train=scores[:150], test=scores[150:], accuracy=0.99, model="LeNet", epochs=5)
    sets = ImageSet(images[:150], labels[:150]), ImageSet(images[150:], labels[150:])
    return check_images(*sets, pictures=True, held_out=held_out, progress=lambda text: None)


def test_every_planted_finding_is_counted_in_its_set(planted):
    found = {kind: planted.count(kind) for kind in (CONSTANT, FAINT, CUT, EXACT, NEAR, LABEL)}
    assert found == {CONSTANT: (1, 0), FAINT: (1, 0), CUT: (1, 0), EXACT: (0, 1), NEAR: (0, 1), LABEL: (1, 0)}
    assert planted.overlap == {EXACT: 1, NEAR: 2}
    assert planted.contradictions == 1
    assert planted.place(161) == ("test", 11)
    rows = {row[0]: row[1:] for row in table(planted)}
    assert rows["images"] == ["150", "50"]
    assert rows["smallest class"] == ["75", "24"]
    assert rows["test images with any copy in the training set"] == ["", "2"]


def test_only_the_most_doubtful_labels_of_each_set_are_listed(photographs, monkeypatch):
    monkeypatch.setattr(data_check, "_LISTED_IN_SMALL_SETS", 2)
    labels = torch.arange(200) % 2
    scores = 0.2 + 0.6 * torch.nn.functional.one_hot(labels, 2)
    for number, confidence in ((3, 0.8), (40, 0.95), (77, 0.85), (101, 0.9), (170, 0.99)):
        scores[number, labels[number]], scores[number, 1 - labels[number]] = 1 - confidence, confidence
    held_out = HeldOutScores(train=scores[:150], test=scores[150:], accuracy=0.97, model="LeNet", epochs=5)
    sets = ImageSet(photographs[:150], labels[:150]), ImageSet(photographs[150:], labels[150:])
    checked = check_images(*sets, pictures=True, held_out=held_out, progress=lambda text: None)
    assert checked.doubted == (4, 1)
    assert [finding.number for finding in checked.findings if finding.kind == LABEL] == [170, 40, 101]
    assert checked.count(LABEL) == (2, 1)


def test_the_list_grows_with_the_set():
    assert [data_check.most_listed(count) for count in (200, 10_000, 50_000)] == [100, 100, 500]


@pytest.mark.extra
def test_the_command_prints_a_table_and_writes_a_sheet_and_a_list(digitlab, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("digitlab.config.compose.ROOT", tmp_path)
    small = ["data=folder", f"data.path={pictures}", "data.size=16", "data.batch_size=32", "trainer.max_epochs=1"]
    code, out, err = digitlab("show", "--check", *small, "trainer=cpu")
    assert code == 0, err
    assert "doubtful labels" in out
    assert "3 networks (LeNet, 1 epoch)" in out
    assert err.count("training network") == 3
    sheet, listed = tmp_path / "outputs/show/folder_check.png", tmp_path / "outputs/show/folder_check.csv"
    assert sheet.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(listed.read_text().splitlines()))
    # Pictures of noise have no copies; their labels can't be learnt.
    assert {row["finding"] for row in rows} <= {LABEL}
    assert all(row["label"] != row["suggested"] for row in rows)
