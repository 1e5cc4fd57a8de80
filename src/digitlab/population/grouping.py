"""Which jobs of a sweep may train as one population: those whose configurations differ only in numbers."""

import json
import logging
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import build
from digitlab.core.errors import RunError
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_loss import STACKABLE
from digitlab.models import CNN, MLP, LeNet, Linear
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import RULE_OF, Optimizer
from digitlab.population.halving import refuse_alone, setting_of
from digitlab.population.member import Job
from digitlab.results.checkpoint import read_checkpoint
from digitlab.training.accelerator import choose_accelerator
from digitlab.training.experiment import Experiment, without_memory

log = logging.getLogger(__name__)

# What may differ between members besides the seed, the schedule and the choice of the best moment.
_NUMBERS = {
    "model": ("dropout",),
    "loss": ("label_smoothing",),
    "optimizer": (
        "lr", "weight_decay", "decay_layers", "momentum", "betas", "alpha", "eps",
        "sgd_lr", "bias_lr", "sgd_momentum", "sgd_weight_decay",
    ),
    "trainer": ("max_epochs", "gradient_clip_norm", "progress_bar"),
}  # fmt: skip
_OTHER_NODES = ("data", "augment", "checkpoint")
# Networks whose forward pass is known to map over members; one's own trains one by one.
_NETWORKS = (Linear, MLP, LeNet, CNN)

# On a processor: bytes of the members' weights, up to which sharing the images saves more than the cache loses. There
# a convolution gains nothing by being mapped.
_DENSE_BYTES = 10 << 20
_MOST_MEMBERS = 128
# A GPU trains so many small networks in little more than the time of one. If its memory does not suffice, the
# population is halved.
_MOST_MEMBERS_ON_GPU = 256
# What each member keeps open: three event files and its folder's lock. Beside them the process has some of its own.
_FILES_OF_MEMBER = 4
_OTHER_FILES = 100


def kinship(config: DictConfig, experiment: Experiment) -> str | None:
    """What all members of a population have in common, as text; None where the run has to train alone."""
    trainer, device = experiment.trainer, device_of(experiment)
    loss = build(experiment.loss, "loss", Loss)
    optimizer = build(experiment.optimizer, "optimizer", Optimizer)
    alone = (
        trainer.devices > 1
        or trainer.strategy != "auto"
        or trainer.profiler is not None
        or trainer.dtype == torch.bfloat16
        or device.type == "mps"
        or (trainer.deterministic and device.type != "cpu")
        or bool(experiment.callbacks)
        or config.figures.log_batches
        or experiment.options.tta is not None
        or type(without_memory(experiment.model, experiment.data)) not in _NETWORKS
        or type(loss) not in STACKABLE
        or type(optimizer) not in RULE_OF
    )
    return None if alone else json.dumps(_common(config, experiment), sort_keys=True, default=str)


def _common(config: DictConfig, experiment: Experiment) -> dict[str, Any]:
    nodes = OmegaConf.to_container(config, resolve=True)
    assert isinstance(nodes, dict)
    common = {name: nodes[name] for name in _OTHER_NODES}
    for name, numbers in _NUMBERS.items():
        common[name] = {key: value for key, value in nodes[name].items() if key not in numbers}
    common["compile"] = experiment.options.compile
    common["ema"] = experiment.ema_decay is None
    common["clip"] = experiment.trainer.gradient_clip_norm is None
    return common


def device_of(experiment: Experiment) -> torch.device:
    """Where the run trains: ``auto`` is CUDA, else Apple's GPU, else the CPU."""
    return torch.device(choose_accelerator(experiment.trainer.accelerator))


def populations(jobs: Iterable[Job], *, max_members: int | None = None) -> list[list[Job]]:
    """The jobs in groups that train together, of ``max_members`` (None: by cache) and ``most_open`` at most.

    Jobs that go on do so with those of their population, where these stand. A group of one trains alone, unless it is
    what is left of a population (``Job.cohort_members``): as one it goes on to the bit. Raises ``ConfigError`` where
    a sweep that begins is to be halved, and can't be.
    """
    jobs = level(list(jobs))
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        key = kinship(job.config, job.experiment)
        name = f"alone {job.number}" if key is None else f"{key} from {job.start} with {job.cohort_members}"
        groups.setdefault(name, []).append(job)
    parts = []
    for group in groups.values():
        parts += split(group, min(max_members or most_members(group[0].experiment), most_open()))
    # Of a sweep that goes on, one run may be left.
    if any(job.number == 0 and job.halving for job in jobs) and all(job.checkpoint is None for job in jobs):
        refuse_alone([len(part) for part in parts], log.warning)
    return parts


def level(jobs: Sequence[Job]) -> list[Job]:
    """``jobs``, of which those that were saved when their population was killed go back to where the others stand."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.cohort_members, []).append(job)
    # One that failed stayed behind while the others went on, unless it is all of them that something met.
    starts = {
        together: {job.start.total_steps for job in [job for job in own if not job.failed] or own}
        for together, own in groups.items()
    }
    unsaved = {job.folder.path.name for job in jobs if job.checkpoint is None}
    return [_back(job, starts[job.cohort_members], unsaved) if job.cohort_members else job for job in jobs]


def _back(job: Job, starts: set[int], unsaved: set[str]) -> Job:
    try:
        previous = read_checkpoint(job.folder.previous) if job.folder.previous.exists() else None
    except RunError:
        return job
    if previous is None and unsaved & set(job.cohort_members):
        return replace(job, checkpoint=None, rewound=True)
    if previous is not None and previous["global_step"] == min(starts) < job.start.total_steps:
        return replace(job, checkpoint=previous, rewound=True)
    return job


def split(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """``jobs`` in parts of nearly equal size, ``most`` at most.

    Those with one seed stay together as far as can be; where halving compares settings, the replicates of one do.
    """
    settings = list(dict.fromkeys(setting_of(job.overrides) for job in jobs))

    def order(job: Job) -> tuple[int, int]:
        return settings.index(setting_of(job.overrides)) if job.halving else job.seed, job.number

    jobs = sorted(jobs, key=order)
    parts = -(-len(jobs) // most)
    cuts = [len(jobs) * part // parts for part in range(parts + 1)]
    return [jobs[begin:end] for begin, end in pairwise(cuts)]


def most_open() -> int:
    """How many members may have their files open at once in this process, whatever ``max_members`` asks for."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return sys.maxsize
    return max((allowed - _OTHER_FILES) // _FILES_OF_MEMBER, 1)


def most_members(experiment: Experiment) -> int:
    """How many such members train fastest together, by what their weights take of the cache."""
    network = without_memory(experiment.model, experiment.data)
    if device_of(experiment).type != "cpu":
        return _MOST_MEMBERS_ON_GPU
    room = _DENSE_BYTES if DenseStack.fits(network) else 0
    member_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    return min(max(room // member_bytes, 1), _MOST_MEMBERS)
