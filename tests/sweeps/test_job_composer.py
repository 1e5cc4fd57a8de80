"""Fast composition of many jobs, against Hydra's composition of each."""

import itertools

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from digitlab.config.compose import CONF, register_resolvers
from digitlab.config.fingerprint import fingerprint
from digitlab.sweeps.job_composer import JobComposer


@pytest.fixture
def loader():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


class CountingLoader:
    """Hydra's loader, which also counts how often it composes."""

    def __init__(self, loader):
        self._loader, self.count = loader, 0

    def load_configuration(self, *arguments, **options):
        self.count += 1
        return self._loader.load_configuration(*arguments, **options)

    def __getattr__(self, name):
        return getattr(self._loader, name)


def by_hydra(loader, job):
    config = loader.load_configuration("train", job, run_mode=RunMode.RUN)
    with open_dict(config):
        del config["hydra"]
    return config


CHOICES = (
    ("model=mlp", "model=linear"),
    ("optimizer.lr=0.1", "optimizer.lr=1e-2"),
    ("seed=0", "seed=1"),
    ("augment=[shift,flip]", "augment=none"),
    ("data.root=null", "data.root=${oc.env:HOME}", "data.root='a b'"),
    ("+note={a:1}", "+note={b:2}"),
)


def test_every_job_is_composed_as_by_hydra(loader):
    jobs = [list(job) for job in itertools.product(*CHOICES)][::5]
    composer = JobComposer(loader, "train")
    for job in jobs:
        composed, expected = composer.compose(job), by_hydra(loader, job)
        assert OmegaConf.to_container(composed, resolve=False) == OmegaConf.to_container(expected, resolve=False)
        assert fingerprint(composed) == fingerprint(expected)


def test_hydra_composes_once_for_each_choice_of_groups(loader):
    counting = CountingLoader(loader)
    composer = JobComposer(counting, "train")
    jobs = [[f"model={model}", f"seed={seed}"] for model in ("mlp", "linear") for seed in range(10)]
    configs = [composer.compose(job) for job in jobs]
    assert counting.count == 2
    assert [config.seed for config in configs] == [*range(10), *range(10)]


def test_composed_jobs_share_no_node(loader):
    composer = JobComposer(loader, "train")
    first, second = (composer.compose(["model.hidden=[8]", f"seed={seed}"]) for seed in range(2))
    first.model.hidden.append(9)
    assert second.model.hidden == [8]
