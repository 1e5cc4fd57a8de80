"""``digitlab compare`` prints the table, the sentence and the notes, and draws the figure."""

import numpy as np
import pytest
from PIL import Image

from digitlab.data.mnist_sources import MnistSource


def test_two_runs_are_compared_image_by_image(tmp_path, write_run, digitlab, data_root):
    _, test_set = MnistSource().read(data_root)
    labels = test_set.labels.numpy()
    scores = np.eye(10, dtype=np.float16)[labels]
    wrong = scores.copy()
    wrong[:30] = np.roll(wrong[:30], 1, axis=1)  # the second run is wrong on 30 images
    for name, own in (("good", scores), ("bad", wrong)):
        write_run(
            tmp_path / name, f"data.root={data_root}", accuracy=0.9, test=float((own.argmax(1) == labels).mean()),
            scores=own,
        )  # fmt: skip
    code, out, err = digitlab("compare", tmp_path / "good", tmp_path / "bad", "--metric", "test/accuracy")
    assert (code, err) == (0, "")
    assert "good is 0.30 points better than bad in test/accuracy: one run each" in out
    assert "only good is right on 30, only bad on 0" in out
    assert "do not choose settings by it" in out


def test_a_note_on_the_test_of_single_images_is_on_stdout_like_all_others(tmp_path, write_run, digitlab):
    for name in ("good", "bad"):
        write_run(tmp_path / name, accuracy=0.9)
    code, out, err = digitlab("compare", tmp_path / "good", tmp_path / "bad")
    assert (code, err) == (0, "")
    assert "note: no test of single images: good has no readable test_predictions.npz\n" in out


def test_the_figure_is_written_once(tmp_path, write_run, digitlab):
    for name, gain in (("a", 0.0), ("b", 0.01)):
        for seed in range(5):
            write_run(tmp_path / name / str(seed), f"seed={seed}", accuracy=0.9 + gain + 0.001 * seed * (1 + 50 * gain))
    figure = tmp_path / "difference.png"
    command = ("compare", tmp_path / "a", tmp_path / "b", "--figure", figure)
    code, out, _ = digitlab(*command)
    assert code == 0
    assert out.splitlines()[-1] == str(figure)
    with Image.open(figure) as image:
        assert image.width > 500
    code, _, err = digitlab(*command)
    assert code == 2
    assert "--force overwrites it" in err


@pytest.mark.parametrize("name", ["figure.jpg", "missing/figure.png"])
def test_figures_that_can_not_be_written_are_refused_before_anything_is_read(tmp_path, digitlab, name):
    code, out, err = digitlab("compare", tmp_path / "no", tmp_path / "runs", "--figure", tmp_path / name)
    assert (code, out) == (2, "")
    assert "--figure" in err
