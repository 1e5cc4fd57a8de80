"""The wheel is complete: unpacked elsewhere, it trains from an empty folder and starts a project whose tests pass."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = (
    "trainer=cpu", "trainer.max_epochs=1", "data.train_size=300", "data.val_size=100", "trainer.limit_test_batches=2",
    "trainer.progress_bar=false",
)  # fmt: skip
COMMAND = "from digitlab.cli import main; main()"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel that was built from the files of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("src", "conf"):
        shutil.copytree(
            PROJECT / name, folder / "project" / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg*")
        )
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder / "project")
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "project", capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def run(unpacked: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``words``; digitlab is the one of the wheel."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIGITLAB_")}
    environment |= {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_wheel_contains_every_file_of_the_package_and_of_conf(unpacked):
    listed = subprocess.run(
        ["git", "ls-files", "src", "conf"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs git and a clone")
    paths = [path.removeprefix("src/") for path in listed.stdout.splitlines() if (PROJECT / path).exists()]
    assert len(paths) > 200
    inside = [unpacked / ("digitlab" if path.startswith("conf/") else "") / path for path in paths]
    assert [str(path) for path in inside if not path.is_file()] == []


def test_the_command_trains_from_an_empty_folder(unpacked, tmp_path):
    done = run(unpacked, tmp_path, "-c", COMMAND, "train", "model=linear", *SMALL)
    assert done.returncode == 0, done.stderr
    [result] = tmp_path.glob("outputs/mnist-linear/*/result.json")
    assert json.loads(result.read_text(encoding="utf-8"))["command"].startswith("digitlab train model=linear ")
    refused = run(unpacked, tmp_path, "-c", COMMAND, "train", "model=linaer")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "did you mean `linear`" in refused.stderr


def test_a_new_project_passes_its_tests_and_trains(unpacked, tmp_path):
    started = run(unpacked, tmp_path, "-c", COMMAND, "init", "mylab")
    assert started.returncode == 0, started.stderr
    tested = run(unpacked, tmp_path / "mylab", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout
    trained = run(unpacked, tmp_path, "mylab/train.py", "model=small_cnn", "data=shapes", "trainer.max_steps=2")
    assert trained.returncode == 0, trained.stderr
    assert len(list(tmp_path.glob("mylab/outputs/shapes-small_cnn/*/result.json"))) == 1
    shown = run(unpacked, tmp_path, "mylab/train.py", "--help")
    [options] = [line.split(": ")[1].split(", ") for line in shown.stdout.splitlines() if line.startswith("  data: ")]
    assert options == sorted({*options, "cifar10", "folder", "mnist", "shapes"})
