"""The how-to pages, to the letter: their files are written and their commands run, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).parents[1]


def files_of(page: str) -> dict[str, str]:
    """The files that a page of docs/ names, each on the line before its code block, and their content."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands_of(page: str) -> list[str]:
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).splitlines()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with the files of both pages in place and a miniature of the data set."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "conf", root / "conf")
    shutil.copytree(PROJECT / "src", root / "src", ignore=shutil.ignore_patterns("mnist", "__pycache__", "*.egg-info"))
    (root / "src/digitlab/data/mnist").symlink_to(PROJECT / "src/digitlab/data/mnist")
    shutil.copy(PROJECT / "train.py", root)
    for page in ("add-a-model.md", "add-a-data-set.md"):
        for name, content in files_of(page).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
    write_letters(root)
    return root


def write_letters(root: Path) -> None:
    """Noise in the four files that the page names, written by the function that it gives."""
    scope: dict[str, object] = {"__name__": "write_idx"}
    exec((root / "write_idx.py").read_text(encoding="utf-8"), scope)
    write_idx = scope["write_idx"]
    random = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 30)):
        write_idx(root / f"data/letters/{split}-images", random.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(root / f"data/letters/{split}-labels", (np.arange(count) % 3).astype(np.uint8))


def run(command: str, project: Path, *more: str) -> str:
    paths = os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A command that sets PYTHONPATH itself still has to find the copy.
    command = command.replace("PYTHONPATH=", "PYTHONPATH=$PYTHONPATH:")
    environment = {name: value for name, value in os.environ.items() if name != "DIGITLAB_DATA"} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        ["sh", "-c", " ".join([command, *more])],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_model_and_a_data_set_added_to_the_project_train_together(project: Path) -> None:
    run(commands_of("add-a-model.md")[0], project, "data=letters", "trainer=cpu")
    assert len(list(project.glob("outputs/letters-residual/*/result.json"))) == 1


def test_a_data_set_added_to_the_project_is_shown(project: Path) -> None:
    output = run(commands_of("add-a-data-set.md")[0], project)
    assert re.search(r"all\D+270\D+30\D+30\b", output)
    assert (project / "outputs/show/letters.png").is_file()


def test_a_model_outside_the_project_trains_once_its_package_is_allowed(project: Path) -> None:
    page = (PROJECT / "docs/add-a-model.md").read_text(encoding="utf-8")
    [module, config] = files_of("add-a-model.md").values()
    [target] = re.findall(r"^_target_: mylab\S+$", page, re.MULTILINE)
    lab = project / "lab"
    (lab / "mylab").mkdir(parents=True)
    (lab / "conf/model").mkdir(parents=True)
    (lab / "mylab/residual.py").write_text(module, encoding="utf-8")
    (lab / "conf/model/residual.yaml").write_text(re.sub("^_target_.*$", target, config, flags=re.MULTILINE))
    (project / "conf/model/residual.yaml").rename(project / "residual.yaml")
    try:
        run(commands_of("add-a-model.md")[1], project, "data=letters", "trainer=cpu", "hydra.run.dir=outputs/own")
    finally:
        (project / "residual.yaml").rename(project / "conf/model/residual.yaml")
    assert "mylab.residual" in (project / "outputs/own/.hydra/config.yaml").read_text()
