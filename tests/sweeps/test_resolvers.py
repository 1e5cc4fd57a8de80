"""``hydra.sweep.dir`` resolves to the folder of the sweep."""

import pytest
from omegaconf import OmegaConf

from digitlab.api import resolvers


@pytest.fixture
def folder(tmp_path):
    """``folder(name, fresh=...)`` is the name of the folder; each call stands for another command."""
    resolvers.register_resolvers()

    def ask(name, *, fresh):
        config = OmegaConf.create({"dir": f"${{sweep_folder:{tmp_path},{name},{str(fresh).lower()}}}"})
        assert config.dir == config.dir, "one command has one folder"
        (tmp_path / config.dir).mkdir(exist_ok=True)
        assert config.dir == config.dir, "also when it is there"
        return config.dir.rpartition("/")[2]

    return ask


def test_a_named_sweep_is_found_again(folder):
    assert [folder("mine", fresh=False) for _ in range(2)] == ["mine", "mine"]


def test_a_fresh_sweep_gets_the_next_free_name(folder):
    assert [folder("mine", fresh=True) for _ in range(3)] == ["mine", "mine_2", "mine_3"]
    assert folder("mine", fresh=False) == "mine"
