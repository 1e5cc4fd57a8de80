"""Bad settings of the launchers and missing libraries are refused."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.core import extras
from digitlab.core.errors import ConfigError
from digitlab.sweeps.workers.settings import JoblibSettings, LocalSettings, SlurmSettings, checked_settings
from hydra_plugins import digitlab_workers

KINDS = {"joblib": JoblibSettings, "submitit_local": LocalSettings, "submitit_slurm": SlurmSettings}


def defaults(launcher):
    node = OmegaConf.load(CONF / "hydra" / "launcher" / f"{launcher}.yaml")
    return {key: value for key, value in node.items() if key != "_target_"}


@pytest.mark.parametrize("launcher", KINDS)
def test_the_defaults_of_each_launcher_are_valid(launcher):
    kind = KINDS[launcher]
    assert checked_settings(kind, defaults(launcher), under="hydra.launcher") is not None
    assert set(defaults(launcher)) == set(kind.__dataclass_fields__)


@pytest.mark.parametrize(
    ("launcher", "key", "value", "allowed"),
    [
        ("joblib", "n_jobs", 0, "must be a whole number of 1 or more, or auto"),
        ("joblib", "n_jobs", -1, "must be a whole number of 1 or more, or auto"),
        ("joblib", "n_jobs", "all", "must be a whole number of 1 or more, or auto"),
        ("submitit_local", "timeout_min", 0, "must be a whole number of 1 or more"),
        ("submitit_local", "n_job", 2, "no such key (did you mean `n_jobs`?)"),
        ("submitit_slurm", "partition", 3, "must be text, or null"),
        ("submitit_slurm", "mem_gb", -1, "must be a number above 0, or null"),
        ("submitit_slurm", "setup", "module load cuda", "must be a list, each text"),
    ],
)
def test_a_bad_setting_is_refused_with_its_key(launcher, key, value, allowed):
    given = defaults(launcher) | {key: value}
    with pytest.raises(ConfigError) as refused:
        checked_settings(KINDS[launcher], given, under="hydra.launcher")
    assert str(refused.value).startswith(f"hydra.launcher.{key}={value}: {allowed}")


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs joblib: run pip install -e '\.\[launchers\]'"):
        digitlab_workers.JoblibLauncher(**defaults("joblib")).pool()


def test_the_slurm_launcher_needs_slurm(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^hydra/launcher=submitit_slurm: needs SLURM's sbatch and srun"):
        digitlab_workers.SubmititSlurmLauncher(**defaults("submitit_slurm")).pool()


def test_populations_over_an_unknown_launcher_are_refused():
    from hydra_plugins.digitlab_vectorized import VectorizedLauncher

    assert not GlobalHydra.instance().is_initialized()
    launcher = VectorizedLauncher(over="slurm", joblib=digitlab_workers.JoblibLauncher(n_jobs=1))
    with pytest.raises(ConfigError, match=r"^hydra.launcher.over=slurm: must be null, or one of joblib$"):
        launcher.launch([["seed=0"]], 0)
