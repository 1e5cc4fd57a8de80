"""``digitlab doctor`` describes the installation without names of people, and as JSON."""

import json
import platform
from pathlib import Path

import pytest
import torch

from digitlab.cli import doctor


@pytest.fixture
def report(digitlab, monkeypatch, tmp_path) -> dict:
    """The report of a user whose home folder is ``tmp_path/anna``, and whose data is in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    monkeypatch.setenv("DIGITLAB_DATA", str(tmp_path / "anna" / "data"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    code, out, err = digitlab("doctor", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_report_states_what_python_and_torch_say_themselves(report):
    assert report["versions"]["python"] == platform.python_version()
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert report["system"]["torch uses"] == torch.backends.cpu.get_cpu_capability()
    assert report["gpu"]["CUDA usable"] == torch.cuda.is_available()


def test_data_sets_that_are_missing_are_named_and_not_downloaded(report, tmp_path):
    assert report["data sets"]["mnist"] == "60,000 + 10,000 images"
    others = ("cifar10", "cifar100", "emnist", "fashion_mnist", "kmnist", "qmnist", "svhn")
    # Debian has a package with Fashion-MNIST.
    assert {report["data sets"][name] for name in others} <= {"not on this machine", "60,000 + 10,000 images"}
    assert not (tmp_path / "anna").exists()


def test_the_home_folder_is_not_named(report):
    assert "anna" not in json.dumps(report)
    assert report["folders"]["data"].startswith("~/data (does not exist yet, ")
    for cache in ("compiled code", "pictures"):
        assert report["folders"][cache].startswith("~/.cache/digitlab/")


def test_the_table_shows_every_fact(monkeypatch, digitlab):
    facts = {"a": None, "bb": True, "c": [], "d": ["x", "y"], "e": 3}
    monkeypatch.setattr(doctor, "collect", lambda: {"versions": facts})
    _, out, _ = digitlab("doctor")
    assert out.split() == ["versions", "a", "unknown", "bb", "yes", "c", "none", "d", "x", "y", "e", "3"]


def test_a_folder_on_a_missing_disk_is_described():
    # Whether a folder of the system counts as writable depends on the user.
    assert doctor._described(Path("/proc/nothing/here")).startswith("/proc/nothing/here (does not exist yet, ")
