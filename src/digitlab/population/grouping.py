"""Decides which jobs of a sweep train as one population: those whose configurations differ only in numbers.

A population trains the networks of several runs together; each of these runs is a member. The vectorized launcher and
the dry run call ``populations``. ``population.train`` calls ``split`` again if memory runs out.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from digitlab.config.given import GIVEN
from digitlab.core.errors import RunError
from digitlab.core.system import allow_open_files, open_file_limits
from digitlab.engine.dense_stack import DenseStack
from digitlab.engine.stacked_loss import STACKABLE
from digitlab.models import CNN, MLP, LeNet, Linear
from digitlab.optim.class_weights import is_weighted
from digitlab.optim.optimizers import RULE_OF
from digitlab.population.halving import refuse_alone, setting_of
from digitlab.population.job import Job
from digitlab.results.checkpoint import read_checkpoint
from digitlab.training.accelerator import choose_accelerator
from digitlab.training.experiment import Experiment

log = logging.getLogger(__name__)

# Numbers of the configuration that may differ between members. The seed, the schedule, early stopping and the monitor
# may differ as well.
_NUMBERS = {
    "model": ("dropout",),
    "loss": ("label_smoothing",),
    "optimizer": (
        "lr", "weight_decay", "decay_layers", "momentum", "betas", "alpha", "eps",
        "sgd_lr", "bias_lr", "sgd_momentum", "sgd_weight_decay",
    ),
    "trainer": ("max_epochs", "gradient_clip_norm", "progress_bar"),
}  # fmt: skip
# Nodes of the configuration in which members must not differ at all.
_EQUAL_NODES = ("data", "augment", "checkpoint")
# Networks whose forward pass is known to work when it is stacked. A network of a user's own class trains alone.
_NETWORKS = (Linear, MLP, LeNet, CNN)

# On a CPU, dense networks train together up to this many bytes of weights: then sharing the images saves more time than
# cache misses cost. Convolutional networks are not faster together there.
_DENSE_BYTES = 10 << 20
# The limit for tiny networks on a CPU. The files of so many members fit into the usual limit of 1,024 open files.
_MOST_MEMBERS = 128
# An estimate: a GPU should train this many small networks in little more than the time of one. If the memory is not
# enough, the population is split into two halves.
_MOST_MEMBERS_ON_GPU = 256
# Each member has this many open files: three event files and the lock of its folder. The process itself needs others.
_FILES_OF_MEMBER = 4
_OTHER_FILES = 100


def group_key(config: DictConfig, experiment: Experiment) -> str | None:
    """Return the configuration that all members of a population share, as text; None if the run must train alone."""
    trainer, device, parts = experiment.trainer, device_of(experiment), experiment.parts
    # Each of these needs something that stacked execution does not have.
    must_train_alone = (
        trainer.devices > 1
        or trainer.strategy != "auto"
        or trainer.profiler is not None
        or trainer.dtype == torch.bfloat16
        or device.type == "mps"
        or (trainer.deterministic and device.type != "cpu")
        or bool(experiment.callbacks)
        or config.figures.log_batches
        or experiment.options.tta is not None
        or type(experiment.network) not in _NETWORKS
        # An object of one of these classes that a Python user passed may have been changed: a frozen or replaced layer.
        or GIVEN in experiment.hyper_parameters["model"]
        or type(parts.loss) not in STACKABLE
        or type(parts.optimizer) not in RULE_OF
    )
    return None if must_train_alone else json.dumps(_common(config, experiment), sort_keys=True, default=str)


def _common(config: DictConfig, experiment: Experiment) -> dict[str, Any]:
    """Return the parts of the configuration in which members must not differ, without the numbers in which they may."""
    nodes = OmegaConf.to_container(config, resolve=True)
    assert isinstance(nodes, dict)
    common = {name: nodes[name] for name in _EQUAL_NODES}
    for name, numbers in _NUMBERS.items():
        if name == "loss" and is_weighted(nodes["loss"]):
            # Class weights and label smoothing become part of the targets, and members with one seed share these.
            numbers = ()
        common[name] = {key: value for key, value in nodes[name].items() if key not in numbers}
    common["compile"] = experiment.options.compile
    # The averaging of weights (EMA) and the clipping of gradients: their numbers may differ between members, but an
    # update does either for all members or for none.
    common["ema"] = experiment.hyper_parameters["ema_decay"] is None
    common["clip"] = experiment.trainer.gradient_clip_norm is None
    return common


def device_of(experiment: Experiment) -> torch.device:
    """Return the device on which the run trains."""
    return torch.device(choose_accelerator(experiment.trainer.accelerator))


def populations(jobs: Iterable[Job], *, max_members: int | None = None) -> list[list[Job]]:
    """Group the jobs that train together.

    A group has at most ``max_members`` jobs (None: as many as train fastest), and at most ``max_open_members()``. Jobs
    that resume stay with those members of their population that have reached the same step. The launcher trains a group
    of one as a solo run, unless the run has belonged to a population (``Job.cohort_members``): as a population of one,
    its result stays the same to the bit.

    Raises ``ConfigError`` if a new sweep asks for halving and no group has two jobs.
    """
    jobs = align_starts(list(jobs))
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        key = group_key(job.config, job.experiment)
        # Runs that resume together must have reached the same step, because a population has one position. They must
        # also have belonged to the same population, because halving compares them.
        group_name = f"alone {job.number}" if key is None else f"{key} from {job.start} with {job.cohort_members}"
        groups.setdefault(group_name, []).append(job)
    parts = []
    for group in groups.values():
        parts += split(group, min(max_members or preferred_members(group[0].experiment), max_open_members()))
    # Only a new sweep is checked, because a resumed one may have only one run left. In a new sweep no job has a
    # checkpoint, and job 0 is among the jobs; the later rounds of a search don't have it.
    if any(job.number == 0 and job.halving for job in jobs) and all(job.checkpoint is None for job in jobs):
        refuse_alone([len(part) for part in parts], log.warning)
    return parts


def align_starts(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs, changed so that those of each population start at the same step.

    If a population was killed while it saved its members, some members have a newer checkpoint than others. These go
    back to their previous checkpoint.
    """
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.cohort_members, []).append(job)
    # The steps at which the members of each population would start.
    starts: dict[tuple[str, ...], set[int]] = {}
    for cohort, members in groups.items():
        # A failed member has stopped while the others continued. If it counted, all would have to go back to its step.
        # Only if all members have failed, they failed together, and all count.
        counted = [job for job in members if not job.failed] or members
        starts[cohort] = {job.start.total_steps for job in counted}
    # The folder names of the jobs that have no checkpoint. If the checkpoint of another job names one of them, they
    # belong to one population, which was killed while it saved its members for the first time.
    unsaved = {job.folder.path.name for job in jobs if job.checkpoint is None}
    return [
        _rewind_to_common_start(job, starts[job.cohort_members], unsaved) if job.cohort_members else job for job in jobs
    ]


def _rewind_to_common_start(job: Job, starts: set[int], unsaved: set[str]) -> Job:
    """Return ``job`` with its start moved back to that of the member of its population that has got the least far.

    It starts from its previous checkpoint if that is at the earliest of the steps ``starts``. It begins again if it has
    no previous checkpoint and another member has none at all; ``unsaved`` are the folder names of jobs without one.
    Otherwise it is returned unchanged.
    """
    try:
        previous = read_checkpoint(job.folder.previous) if job.folder.previous.exists() else None
    except RunError:
        return job  # the previous checkpoint is damaged, so the job can only start from the last one
    # Some members were killed before their first checkpoint, so this one has to begin again with them.
    if previous is None and unsaved & set(job.cohort_members):
        return replace(job, checkpoint=None, rewound=True)
    if previous is not None and previous["global_step"] == min(starts) < job.start.total_steps:
        return replace(job, checkpoint=previous, rewound=True)
    return job


def split(jobs: Sequence[Job], max_size: int) -> list[list[Job]]:
    """Split ``jobs`` into as few parts of at most ``max_size`` jobs as possible; their sizes are nearly equal.

    Jobs with the same seed stay together as far as possible, because they share images. With halving, jobs with the
    same setting (see ``halving``) do instead, because halving compares settings within a population.
    """
    settings = list(dict.fromkeys(setting_of(job.overrides) for job in jobs))

    def order(job: Job) -> tuple[int, int]:
        shared = settings.index(setting_of(job.overrides)) if job.halving else job.seed
        return shared, job.number

    jobs = sorted(jobs, key=order)
    parts = -(-len(jobs) // max_size)  # rounded up
    # Parts of equal size train in about equal time.
    cuts = [len(jobs) * part // parts for part in range(parts + 1)]
    return [jobs[begin:end] for begin, end in pairwise(cuts)]


def max_open_members() -> int:
    """Return how many members' files a process can have open at once, by the hard limit of the operating system."""
    return max((open_file_limits().hard - _OTHER_FILES) // _FILES_OF_MEMBER, 1)


def allow_members_files(members: int) -> None:
    """Raise this process's limit of open files, if it is too low for the files of so many ``members``."""
    # On many systems the limit is 1,024, which is enough for 231 members. A larger population would fail when it opens
    # its files.
    allow_open_files(members * _FILES_OF_MEMBER + _OTHER_FILES)


def preferred_members(experiment: Experiment) -> int:
    """Return how many members like ``experiment`` train fastest together; 1 means that each trains fastest alone."""
    if device_of(experiment).type != "cpu":
        return _MOST_MEMBERS_ON_GPU
    # No bytes for other networks, such as convolutional ones, means one member.
    available_bytes = _DENSE_BYTES if DenseStack.fits(experiment.network) else 0
    member_bytes = 4 * sum(parameter.numel() for parameter in experiment.network.parameters())  # weights are float32
    return min(max(available_bytes // member_bytes, 1), _MOST_MEMBERS)
