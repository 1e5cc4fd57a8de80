"""``digitlab predict`` on folders and as CSV; ``digitlab train``."""

import csv
import io
import os
import shutil

import pytest
from omegaconf import OmegaConf
from PIL import Image

from digitlab.cli.predict import picture_files
from digitlab.core.errors import ConfigError
from digitlab.data.sources import MnistSource
from digitlab.results.folder import RunFolder


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("predict") / "run", "model=linear")


@pytest.fixture
def folder(tmp_path):
    """A folder with five test images, a text file and a subfolder."""
    pictures = tmp_path / "pictures"
    (pictures / "subfolder").mkdir(parents=True)
    (pictures / "notes.txt").write_text("not a picture")
    for number, image in enumerate(MnistSource().read(tmp_path)[1].images[:5]):
        Image.fromarray(image[0].numpy()).resize((84, 84)).save(pictures / f"{number}.png")
    return pictures


@pytest.mark.extra
def test_a_folder_stands_for_its_pictures(digitlab, run, folder):
    code, out, err = digitlab("predict", run, folder)
    assert (code, err) == (0, "")
    assert [f"{number}.png" in out for number in range(5)] == [True] * 5
    assert "notes.txt" not in out


def test_csv_has_one_column_per_class_and_the_confidence_is_their_maximum(digitlab, run, folder):
    code, out, err = digitlab("predict", run, folder, "--csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [os.path.basename(row["file"]) for row in rows] == [f"{number}.png" for number in range(5)]
    for row in rows:
        scores = {digit: float(row[digit]) for digit in "0123456789"}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == max(scores, key=scores.get)
        assert float(row["confidence"]) == max(scores.values())


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(digitlab, run, folder):
    broken = {
        "empty.png": (b"", "is empty"), "text.png": (b"text", "no picture in a known format"),
        "line\nbreak.png": (b"text", "no picture in a known format"),
    }  # fmt: skip
    for name, (content, _) in broken.items():
        (folder / name).write_bytes(content)
    (folder / "0.png").rename(folder / "zero\n.png")
    code, out, err = digitlab("predict", run, folder, folder / "nowhere.png")
    assert code == 1
    assert sorted(err.splitlines()) == sorted(
        [
            *(f"{folder}/{name}: {reason}".replace("\n", "\\n") for name, (_, reason) in broken.items()),
            f"{folder}/nowhere.png: no such file",
        ]
    )
    # One row for each of the five pictures, also for the one with a line break in its name.
    assert len([line for line in out.splitlines() if "│" in line]) == 5
    assert "zero\\n.png" in out


def test_a_configuration_without_a_key_is_called_damaged(digitlab, run, folder, tmp_path, one_line):
    copy = RunFolder(shutil.copytree(run, tmp_path / "run"))
    config = OmegaConf.load(copy.config)
    del config.trainer.precision
    OmegaConf.save(config, copy.config)
    code, out, err = digitlab("predict", copy.path, folder)
    assert (code, out) == (1, "")
    assert one_line(err)
    assert err.startswith("the configuration of the run is damaged or of another version: Missing key precision")


def test_a_folder_without_pictures_is_an_error(digitlab, run, tmp_path):
    code, out, err = digitlab("predict", run, tmp_path)
    assert (code, out, err) == (2, "", f"IMAGE={tmp_path}: this folder contains no picture\n")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.png").touch()
    with pytest.raises(ConfigError, match=f"but folders such as {tmp_path / 'cats'} do: give these$"):
        picture_files([tmp_path])
