"""A GPU for which torch has no kernels is not used: ``trainer=auto`` takes the CPU, ``trainer=gpu`` is refused."""

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.training.accelerator import choose_accelerator, has_kernels
from digitlab.training.experiment import Experiment


@pytest.mark.parametrize(
    ("capability", "built_for", "usable"),
    [
        ((8, 0), ["sm_70", "sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # kernels of the same major version
        ((8, 0), ["sm_86"], False),  # not those of a later minor version
        ((6, 1), ["sm_70", "sm_80"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "sm_90", "compute_90"], True),  # the driver compiles these for later GPUs
        ((7, 0), ["compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_100"], True),
        ((8, 0), [], False),
    ],
)
def test_kernels_run_on_their_architecture_and_later_minor_versions(capability, built_for, usable):
    assert has_kernels(capability, built_for) is usable


@pytest.fixture
def old_gpu(monkeypatch):
    """Make torch report a GPU of compute capability 5.2 and kernels for 7.5 and later."""
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "get_arch_list": ["sm_75", "sm_80"],
        "get_device_capability": (5, 2),
        "get_device_name": "Old GPU",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


def test_auto_takes_the_processor_and_says_why(old_gpu, caplog):
    assert choose_accelerator("auto") == "cpu"
    assert caplog.messages == ["Old GPU (sm_52): this torch has kernels for sm_75, sm_80 only: using the CPU"]


def test_a_gpu_that_is_asked_for_is_refused_in_one_line(old_gpu, one_line):
    with pytest.raises(ConfigError, match=r"^trainer=gpu: Old GPU \(sm_52\): this torch has kernels") as caught:
        Experiment.from_config(compose(["trainer=gpu"]), typed=["trainer=gpu"])
    assert one_line(str(caught.value))
    Experiment.from_config(compose([]), typed=[])


def test_a_gpu_that_torch_supports_is_taken(old_gpu, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert choose_accelerator("auto") == "cuda"
    assert choose_accelerator("cpu") == "cpu"
    assert not caplog.messages
