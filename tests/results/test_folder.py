"""The run folder: unique names, what counts as a run, and which folders are removed."""

import pytest

from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder, find_runs


def begun(path, config="model: {}\n"):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(config)
    return RunFolder(path)


@pytest.mark.parametrize(
    "config", [None, "a: [", "- a list", "seed: 0", ""], ids=["none", "no YAML", "a list", "no model", "empty"]
)
def test_a_folder_without_a_run_is_refused(tmp_path, config):
    folder = RunFolder(tmp_path / "run") if config is None else begun(tmp_path / "run", config)
    for read in (folder.read_config, folder.read_plain_config):
        with pytest.raises(ConfigError, match="is no run folder"):
            read()


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
