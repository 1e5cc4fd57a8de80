"""The commands of the page "Your own images" work in its order; a run on a folder resumes until a picture changes."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import digitlab as package
from digitlab.core.errors import RunError

PAGE = Path(__file__).parents[2] / "docs/guide/own-images.md"
SHORT = ("trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=1", "model.width=4", "data.batch_size=8")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and the project, with pictures of three classes in ``pets`` and one picture beside it."""
    random = np.random.default_rng(0)
    for name, count in (("cat", 14), ("dog", 12), ("rabbit", 10)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(256, size=(20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number}.png")
    Image.new("RGB", (50, 40), "grey").save(tmp_path / "photo.jpg")
    monkeypatch.setattr("digitlab.config.compose.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in re.sub(r"\\\n\s*", " ", "".join(blocks)).splitlines()]


@pytest.mark.extra
def test_the_commands_of_the_page_work(
    home: Path, digitlab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    printed = {}
    for words in commands():
        if words[:2] == ["python", "train.py"]:
            folders.append(home / f"run{len(folders)}")
            package.train(*words[2:], *SHORT, folder=folders[-1])
            continue
        words = [str(folders[0]) if word == "RUN_FOLDER" else word for word in words]
        more = ["--gif-images", "0"] if words[1] == "figures" else []
        code, printed[words[1]], _ = digitlab(*words[1:], *more)
        assert code == 0, words
    assert len(folders) == 3
    assert re.search(r"all\D+26\D+3\D+7\b", printed["show"])
    assert (home / "outputs/show/folder.png").is_file()
    assert "balanced_accuracy" in printed["evaluate"]
    assert re.search("photo.jpg.*(cat|dog|rabbit)", printed["predict"])
    assert (folders[0] / "figures/confusion_matrix.png").is_file()
    weights = [json.dumps(package.open(folder).model().loss.__dict__.get("weights")) for folder in folders]
    assert weights[0] == "null"
    assert weights[2] == "[0.5, 2.0, 1.0]"

    # The path was relative to the folder of the command.
    monkeypatch.chdir("/")
    assert package.resume(folders[0], max_epochs=2).result["epochs"] == 2
    (home / "pets/cat/0.png").rename(home / "pets/cat/00.png")
    with pytest.raises(RunError, match="the files of the data set pets have changed since this run was trained"):
        package.resume(folders[0], max_epochs=3)
