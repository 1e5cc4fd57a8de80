"""Where ``data/``, ``outputs/`` and ``conf/`` are: in a checkout, a project of a user, and an empty folder."""

import sys
import types

import pytest

from digitlab.config import place


@pytest.fixture
def main_script(monkeypatch):
    """``main_script(path)`` pretends that this script is running."""

    def pretend(path):
        module = types.ModuleType("__main__")
        if path is not None:
            module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "__main__", module)

    return pretend


@pytest.fixture
def project(tmp_path):
    (tmp_path / "lab" / "conf").mkdir(parents=True)
    (tmp_path / "lab" / "train.py").write_text("from digitlab.cli.train import run")
    return tmp_path / "lab"


def test_the_running_train_py_decides(main_script, monkeypatch, tmp_path, project):
    monkeypatch.chdir(tmp_path)
    main_script(project / "train.py")
    assert place.project_root() == project.resolve()


def test_in_a_project_the_current_folder_decides(main_script, monkeypatch, project):
    monkeypatch.chdir(project)
    main_script(None)
    assert place.project_root() == project
    assert place.train_command() == ["python", "train.py"]
    assert place.own_conf(project) == project / "conf"


def test_elsewhere_a_checkout_counts_before_the_current_folder(main_script, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # The train.py of another project says nothing about where digitlab's runs go.
    (tmp_path / "train.py").write_text("import torch")
    (tmp_path / "conf").mkdir()
    main_script("/usr/bin/pytest")
    assert place.project_root() == place._CHECKOUT
    monkeypatch.setattr(place, "_CHECKOUT", tmp_path / "nowhere")
    assert place.project_root() == tmp_path
    assert place.train_command() == ["digitlab", "train"]
    assert place.own_conf(tmp_path) is None


def test_the_configuration_of_digitlab_is_no_configuration_of_the_user(project, monkeypatch):
    monkeypatch.setattr(place, "_PACKAGE", project / "src" / "digitlab")
    monkeypatch.setattr(place, "_CHECKOUT", project)
    assert place.packaged_conf() == project / "conf"
    assert place.own_conf(project) is None
