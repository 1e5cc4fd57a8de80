"""The run folder: unique names, what counts as a run, and which folders are removed."""

import numpy as np
import pytest

from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder, find_runs


def begun(path, config="model: {}\n"):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(config)
    return RunFolder(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is no run folder: it has no .hydra/config.yaml"),
        ("- a list", "is no run folder: its .hydra/config.yaml is not one of digitlab's"),
        ("seed: 0", "is no run folder"),
        ("a: [", r"is a damaged run folder: its .hydra/config.yaml can't be read \("),
        ("", "its .hydra/config.yaml is empty; copy it from where this folder came from"),
    ],
    ids=["none", "a list", "no model", "no YAML", "empty"],
)
def test_a_folder_without_a_run_is_refused(tmp_path, config, message):
    folder = RunFolder(tmp_path / "run") if config is None else begun(tmp_path / "run", config)
    for read in (folder.read_config, folder.read_plain_config):
        with pytest.raises(ConfigError, match=message):
            read()


@pytest.mark.parametrize("lines", [1, 2, 3, 4])
@pytest.mark.parametrize("first", ["model", "data"])
def test_a_configuration_that_was_cut_off_is_damaged(tmp_path, lines, first):
    others = ["data", "model", "loss", "optimizer", "trainer"]
    others.remove(first)
    sections = [first, *others]
    folder = begun(tmp_path, "".join(f"{name}: {{}}\n" for name in sections[:lines]))
    folder.last.parent.mkdir()
    folder.last.touch()
    with pytest.raises(ConfigError, match=f"config.yaml has no section {sections[lines]}; copy it"):
        folder.read_config()


def test_a_run_without_its_configuration_says_how_to_write_it_again(tmp_path):
    folder = begun(tmp_path)
    folder.config.unlink()
    folder.result.write_text("{}")
    with pytest.raises(ConfigError, match=f"is missing;.* with --cfg job > {folder.config}"):
        folder.read_config()


def test_the_overrides_are_read_back_as_typed(tmp_path):
    folder = begun(tmp_path / "run")
    assert folder.read_overrides() == []
    folder.overrides_file.write_text("- model=lenet\n- optimizer.lr=0.1\n")
    assert folder.read_overrides() == ["model=lenet", "optimizer.lr=0.1"]


def test_a_folder_in_which_no_run_started_is_removed_with_its_empty_parent(tmp_path):
    folder = begun(tmp_path / "mnist-mlp" / "run")
    folder.log.write_text("")
    folder.discard_if_fresh()
    assert list(tmp_path.iterdir()) == []


def test_other_runs_and_started_runs_are_not_removed(tmp_path):
    used, fresh = begun(tmp_path / "used"), begun(tmp_path / "fresh")
    used.last.parent.mkdir()
    used.discard_if_fresh()
    fresh.discard_if_fresh()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_runs_are_found_at_any_depth_but_not_inside_one_another(tmp_path):
    paths = [tmp_path / "b", tmp_path / "sweeps" / "name" / "0", tmp_path / "a"]
    for path in paths:
        begun(path)
    begun(tmp_path / "a" / "checkpoints")
    (tmp_path / "no run").mkdir()
    found = [run.path for run in find_runs(tmp_path)]
    assert sorted(found) == sorted(paths)


@pytest.mark.parametrize("size", [0, 10, 300, 700])
def test_cut_predictions_raise_one_kind_of_error(tmp_path, size):
    run = RunFolder(tmp_path)
    np.savez(run.test_predictions, probabilities=np.zeros((50, 10), np.float16))
    assert run.read_test_predictions().shape == (50, 10)
    run.test_predictions.write_bytes(run.test_predictions.read_bytes()[:size])
    with pytest.raises((OSError, ValueError)):
        run.read_test_predictions()


@pytest.mark.parametrize("name", ["Best", "first", None])
def test_there_are_two_checkpoints(tmp_path, name):
    with pytest.raises(ConfigError, match=r"checkpoint=.*: must be best or last"):
        RunFolder(tmp_path).checkpoint(name)


@pytest.mark.parametrize("content", ["[]", "3", '{"metrics": 3}'])
def test_a_result_of_another_program_is_refused(tmp_path, content):
    run = RunFolder(tmp_path)
    run.result.write_text(content)
    with pytest.raises(ValueError, match=r"^result\.json is not one of digitlab's$"):
        run.read_result()


@pytest.mark.parametrize("content", ["", "{", "nonsense"])
def test_a_damaged_result_says_how_to_write_it_again(tmp_path, content):
    run = RunFolder(tmp_path)
    run.result.write_text(content)
    with pytest.raises(ValueError, match=f"result.json is damaged .*: resume={tmp_path} writes it again"):
        run.read_result()
