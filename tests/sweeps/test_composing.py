"""Composing a configuration and resolving all its values never writes a file.

The commands run in a copy of the project, which contains every place where they could write by default.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from digitlab.api import resolvers
from digitlab.config import compose
from digitlab.config.compose import CONF, ROOT
from digitlab.sweeps.manifest import create, manifest_file

GROUPS = {
    group.name: sorted(file.stem for file in group.glob("*.yaml"))
    for group in CONF.iterdir()
    if group.is_dir() and group.name != "hydra"
}
# These groups choose names of other groups, so each of their names is composed on its own.
WHOLE = ("experiment", "sweep", "debug")


def overrides():
    """Lists of overrides that contain every name of every group; of ``WHOLE``, every fourth name."""
    parts = [[f"{group}={name}" for name in names] for group, names in GROUPS.items() if group not in WHOLE]
    yield from ([part[number % len(part)] for part in parts] for number in range(max(map(len, parts))))
    yield from ([f"{group}={name}"] for group in WHOLE for name in GROUPS[group][::4])


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    """Every file under ``folder`` with its content, and every subfolder with None."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Hydra's loader, for a project in an empty folder."""
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    compose.register_resolvers()
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    HydraConfig.instance().cfg = None


def resolve(loader, overrides, *, number=None):
    """Compose and resolve everything, also the node ``hydra``, as a run or as job ``number`` of a sweep."""
    mode = RunMode.RUN if number is None else RunMode.MULTIRUN
    composed = loader.load_configuration("train", overrides, run_mode=mode)
    with open_dict(composed):
        composed.hydra.runtime.output_dir = "run"
        if number is not None:
            composed.hydra.job.num = composed.hydra.job.id = number
    HydraConfig.instance().set_config(composed)
    return OmegaConf.to_container(composed, resolve=True)


@pytest.mark.extra
def test_resolving_every_group_writes_no_file(loader, tmp_path):
    for chosen in overrides():
        assert resolve(loader, chosen, number=3)["hydra"]["sweep"]["subdir"] == "0"
    assert resolve(loader, []) != resolve(loader, ["seed=3"])
    assert snapshot(tmp_path) == {}


def test_resolving_a_job_of_an_existing_sweep_changes_no_file(loader, tmp_path):
    create(tmp_path, ["seed"])
    before = snapshot(tmp_path)
    assert manifest_file(tmp_path) in before
    for seed in (5, 6, 5):
        job = resolve(loader, [f"seed={seed}", f"hydra.sweep.dir={tmp_path}"], number=0)
        assert job["hydra"]["sweep"]["subdir"] == f"0_seed={seed}"
    assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, without data."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "train.py", folder)
    shutil.copytree(CONF, folder / "conf")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.gz", "*.egg-info"))
    return folder


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--cfg", "job", "--resolve"],
        ["--cfg", "all", "model=lenet", "hydra.sweep.dir=sweep"],
        ["--info", "defaults"],
        ["-m", "--cfg", "job", "seed=0,1"],
        ["-sc", "query=bash"],
    ],
)
def test_a_command_that_only_shows_writes_nothing(arguments, project):
    before = snapshot(project)
    variables = {"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(project)}
    variables |= {"COMP_LINE": "train.py -m sweep=five", "COMP_POINT": "22"}
    ended = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=project, env=dict(os.environ) | variables,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.stdout or ended.returncode == 2, ended.stderr
    assert snapshot(project) == before
