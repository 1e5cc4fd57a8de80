"""A configuration keeps its number and run folder in a sweep, however it is typed and however many ask at once."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitlab.config.compose import compose
from digitlab.config.fingerprint import fingerprint
from digitlab.core.errors import ConfigError, RunError
from digitlab.sweeps.manifest import (
    Manifest,
    add_jobs,
    add_missing,
    create,
    folder_name,
    manifest_file,
    planned_folder,
)


def new_sweep(path, *keys):
    create(path, keys)
    return path


def add(path, config, overrides):
    (folder,) = add_jobs(path, [(config, overrides)])
    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["optimizer.lr=0.1"], ["optimizer.lr=1e-1"]),
        (["model.dropout=0"], []),
        (["seed=0", "model=mlp"], ["model=mlp"]),
        (["trainer.progress_bar=false", "data.root=/elsewhere"], []),
        (["sweep.name=mine"], []),
    ],
)
def test_settings_without_effect_do_not_change_the_fingerprint(one, other):
    assert fingerprint(compose(one)) == fingerprint(compose(other))


@pytest.mark.parametrize("override", ["seed=1", "trainer.max_epochs=3", "test=last", "model=lenet", "data.val_size=10"])
def test_settings_with_an_effect_change_the_fingerprint(override):
    assert fingerprint(compose([override])) != fingerprint(compose([]))


def test_a_run_keeps_its_folder_when_the_grid_changes(tmp_path):
    grid = [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]
    path = new_sweep(tmp_path, "optimizer.lr")
    first = add_jobs(path, [(compose(job), job) for job in grid])
    create(path, ["optimizer.lr", "seed"])
    wider = [["optimizer.lr=0.3", "seed=0"], ["optimizer.lr=0.2", "seed=0"], ["optimizer.lr=0.2", "seed=1"]]
    second = add_jobs(path, [(compose(job), job) for job in wider])
    assert first == ["0_optimizer.lr=0.1", "1_optimizer.lr=0.2"]
    assert second == ["2_optimizer.lr=0.3,seed=0", first[1], "3_optimizer.lr=0.2,seed=1"]


def test_a_run_keeps_the_overrides_that_were_typed_last(tmp_path):
    path = new_sweep(tmp_path)
    for spelling in (["optimizer.lr=0.1"], ["optimizer.lr=1e-1"]):
        add(path, compose(spelling), spelling)
    assert [entry.overrides for entry in Manifest.read(path).runs] == [["optimizer.lr=1e-1"]]


def test_an_existing_folder_is_never_given_to_another_run(tmp_path):
    (tmp_path / "7_from_another_time").mkdir()
    assert add(new_sweep(tmp_path), compose([]), []) == "8"


def test_concurrent_requests_get_distinct_numbers(tmp_path):
    path = new_sweep(tmp_path, "seed")
    jobs = [[f"seed={seed}"] for seed in range(4)] * 4
    configs = [compose(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda pair: add(path, *pair), zip(configs, jobs, strict=True)))
    assert folders[:4] * 4 == folders
    assert len(set(folders)) == 4
    assert [entry.number for entry in Manifest.read(path).runs] == [0, 1, 2, 3]


def test_a_planned_folder_is_the_one_the_run_gets_and_planning_writes_nothing(tmp_path):
    job, other = ["seed=3"], ["seed=4"]
    path = tmp_path / "sweep"
    assert planned_folder(path, compose(job), job) == "0"
    assert not path.exists()
    path.mkdir()
    new_sweep(path, "seed")
    before = {file: file.read_bytes() for file in path.iterdir()}
    planned = [planned_folder(path, compose(job), job) for _ in range(2)]
    assert {file: file.read_bytes() for file in path.iterdir()} == before
    assert planned == ["0_seed=3"] * 2
    assert add(path, compose(job), job) == planned[0]
    assert planned_folder(path, compose(job), job) == planned[0]
    assert planned_folder(path, compose(other), other) == "1_seed=4"


def test_a_missing_run_is_added_once_under_its_folder_name(tmp_path):
    path, job = new_sweep(tmp_path, "seed"), ["seed=3"]
    folder = path / planned_folder(path, compose(job), job)
    folder.mkdir()
    for _ in range(2):
        add_missing(folder, compose(job), job)
    assert [(entry.number, entry.folder) for entry in Manifest.read(path).runs] == [(0, "0_seed=3")]
    assert add(path, compose(job), job) == folder.name


@given(st.text(max_size=300))
def test_folder_names_are_valid_and_short(text):
    name = folder_name(text)
    assert re.fullmatch(r"[\w.,=+-]+", name) or not text
    assert len(name.encode()) <= 100
    assert name not in (".", "..")


@given(st.text(max_size=150), st.text(max_size=150))
def test_different_texts_have_different_folder_names(one, other):
    assert (folder_name(one) == folder_name(other)) == (one == other)


def test_a_folder_without_a_manifest_is_no_sweep(tmp_path):
    with pytest.raises(ConfigError, match="is no sweep"):
        Manifest.read(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        Manifest.read(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 2, "runs": []}', b"\xff\xfe"])
def test_a_damaged_manifest_is_refused_in_one_line_and_left_alone(content, tmp_path):
    manifest_file(tmp_path).write_bytes(content)
    with pytest.raises(RunError) as caught:
        create(tmp_path, [])
    assert "\n" not in str(caught.value)
    assert str(manifest_file(tmp_path)) in str(caught.value)
    assert manifest_file(tmp_path).read_bytes() == content


def test_the_manifest_is_plain_json(tmp_path):
    add(new_sweep(tmp_path, "seed"), compose(["seed=3"]), ["seed=3"])
    content = json.loads(manifest_file(tmp_path).read_text())
    assert content["keys"] == ["seed"]
    assert [run["folder"] for run in content["runs"]] == ["0_seed=3"]
