"""``digitlab demo`` writes one small page, refuses what it can't show, and contains the verified runtime."""

import gzip
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import digitlab as package
from digitlab.config.compose import ROOT

pytest.importorskip("onnxruntime", reason="needs the extra export")

WEB = ROOT / "src/digitlab/export/web"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(train_tiny: Callable[..., package.Run], tmp_path_factory: pytest.TempPathFactory) -> list[package.Run]:
    folder = tmp_path_factory.mktemp("demo")
    return [
        train_tiny(folder / "first", "model=mlp", "model.hidden=[16]"),
        train_tiny(folder / "second", "model=linear", "data=mnist_none"),
    ]


def test_the_runtime_is_the_one_of_the_checksums() -> None:
    sums = json.loads((WEB / "versions.json").read_text(encoding="utf-8"))["sha256"]
    packed = {name: WEB / f"{name}.gz" for name in sums if (WEB / f"{name}.gz").exists()}
    contents = {name: gzip.decompress(path.read_bytes()) for name, path in packed.items()}
    contents["LICENSE"] = (WEB / "LICENSE").read_bytes()
    assert {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()} == sums
    assert {path.name for path in WEB.iterdir()} == {"LICENSE", "versions.json"} | {
        path.name for path in packed.values()
    }


@pytest.mark.extra
def test_a_page_of_two_networks_needs_nothing_else(runs: list[package.Run], digitlab: Command, tmp_path: Path) -> None:
    code, out, err = digitlab("demo", *(run.path for run in runs), "--out", tmp_path / "demo.html")
    assert (code, out) == (0, f"{tmp_path / 'demo.html'}\n")
    assert re.findall(r"^(\w+): checked on 1,000 test images: .*all classes are the same$", err, re.MULTILINE) == [
        "mlp", "linear",
    ]  # fmt: skip
    content = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert len(content) < 6e6
    assert re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=(?![\"']?data:)", content) == []
    assert "Permission is hereby granted, free of charge" in content
    facts = json.loads(re.findall(r'id="facts">(.*?)</script>', content, re.DOTALL)[0])
    assert [each["class_names"][-1] for each in facts["networks"]] == ["9", "none"]
    assert [each["units"] for each in facts["networks"]] == [16, None]
    assert len(facts["test_labels"]) == 60
    code, _, err = digitlab("demo", *(run.path for run in runs), "--out", tmp_path / "demo.html")
    assert (code, err) == (2, f"--out={tmp_path / 'demo.html'}: already exists: --force overwrites it\n")


@pytest.mark.extra
def test_several_runs_need_a_file_name(runs: list[package.Run], digitlab: Command) -> None:
    code, out, err = digitlab("demo", *(run.path for run in runs))
    assert (code, out, err) == (2, "", "--out: must name the output file if several runs are given\n")


def test_a_run_is_shown_once(runs: list[package.Run], digitlab: Command, tmp_path: Path) -> None:
    first = runs[0].path
    code, out, err = digitlab("demo", *(run.path for run in runs), f"{first}/.", "--out", tmp_path / "demo.html")
    assert (code, out, err) == (2, "", f"RUN_FOLDER={first}: is given twice: give each run once\n")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_its_packages_the_extra_is_named(
    runs: list[package.Run], digitlab: Command, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr("digitlab.core.extras.find_spec", lambda name: None if name == missing else object())
    code, out, err = digitlab("demo", runs[0].path)
    install = "run pip install -e '.[export]' in the project's folder"
    assert (code, out, err) == (2, "", f"digitlab demo: needs {missing}: {install}\n")
    assert not (runs[0].path / "demo.html").exists()


def test_networks_for_other_images_are_refused(
    runs: list[package.Run], train_tiny: Callable[..., package.Run], pictures: Path, digitlab: Command, tmp_path: Path
) -> None:
    other = train_tiny(
        tmp_path / "run", "model=linear", "data=folder", f"data.path={pictures}", "data.train_size=100",
    )  # fmt: skip
    code, out, err = digitlab("demo", runs[0].path, other.path, "--out", tmp_path / "demo.html")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        f"RUN_FOLDER={other.path}: has images (3, 32, 32) that are prepared in another way"
    )
    assert not (tmp_path / "demo.html").exists()


@pytest.mark.extra
def test_a_page_that_is_too_large_to_mail_is_refused(
    train_tiny: Callable[..., package.Run], digitlab: Command, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "run", "model=mlp", "model.hidden=[1500,600]", "optimizer.lr=0.0001")
    code, out, err = digitlab("demo", run.path)
    assert (code, out) == (2, ""), err
    assert re.search(r"the page would have \d+\.\d MB, and at most 10 MB are allowed: .*\(mlp 8\.\d MB\)$", err)
    assert not (run.path / "demo.html").exists()
