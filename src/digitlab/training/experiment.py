"""Checks a composed configuration and builds the parts of a run, without reading images.

The constructors are the schema: building each part checks its settings. Solo runs, populations and the checks before a
sweep use it. A node is a part of the configuration that has keys of its own, such as ``model``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from torch import nn

from digitlab.config.cli_errors import command_line_overrides
from digitlab.config.compose import build, plain
from digitlab.config.given import GIVEN
from digitlab.config.metrics import check_monitor
from digitlab.config.overrides import split_override
from digitlab.config.schema import NonNegativeInt, settings, settings_from
from digitlab.config.suggestions import unknown
from digitlab.config.values import unresolved
from digitlab.core.errors import ConfigError
from digitlab.core.system import memory_bytes
from digitlab.data.augment import Augmentation, Compose
from digitlab.data.module import ImageData
from digitlab.models.user_networks import require_logits
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import Optimizer
from digitlab.results.outcome import measured_metric
from digitlab.training.accelerator import cuda_problem
from digitlab.training.early_stopping import EarlyStopping, Monitor
from digitlab.training.settings import CheckpointSettings, LearningParts, TrainerSettings
from digitlab.training.test_time_augmentation import TestTimeAugmentation

# The keys of the nodes. All other keys are the single values of ``RunOptions``.
_NODES = (
    "data", "model", "loss", "optimizer", "scheduler", "augment", "trainer", "early_stopping", "monitor", "ema",
    "checkpoint", "callbacks", "figures",
)  # fmt: skip


@settings
class RunOptions:
    """The keys of the configuration that are single values."""

    seed: NonNegativeInt
    test: Literal["best", "last", "none"]
    tta: TestTimeAugmentation | None
    resume: str | None
    compile: bool | Literal["auto"]


@settings
class Ema:
    """Averaging of the weights: each update keeps the share ``decay`` of the old average (null: no averaging)."""

    decay: Annotated[float, Field(gt=0, lt=1)] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The parts of a run.

    ``network`` tells the layers and their sizes, and is not trained. It is on torch's meta device, without memory for
    weights; only a network that a Python user passed is on the CPU. ``figures`` draws the figures of the run.

    ``hyper_parameters`` are the arguments of the classifier, without the facts about its data. They are plain values
    and are stored in checkpoints. A run resumes only from a checkpoint with the same hyper-parameters.
    """

    options: RunOptions
    data: ImageData
    network: nn.Module
    parts: LearningParts
    hyper_parameters: dict[str, Any]
    trainer: TrainerSettings
    monitor: Monitor
    early_stopping: EarlyStopping | None
    checkpoint: CheckpointSettings
    callbacks: list[Callback]
    figures: Callback

    @classmethod
    def from_config(cls, config: DictConfig, *, typed: Sequence[str] | None = None) -> "Experiment":
        """Check and build ``config``.

        ``typed`` are the overrides that the user typed on the command line, by default those of the Hydra job. Without
        validation images, settings that need them are refused if the user typed them, and ignored if they are defaults.
        Raises ``ConfigError``, which names the key, the value and what is allowed.
        """
        _refuse_unknown(config)
        typed = command_line_overrides() if typed is None else typed
        options = _options(config)
        # ``early_stopping`` is not always a node: null turns it off.
        nodes = {name: plain(_value(config, name), name) for name in _NODES if name != "early_stopping"}
        data = build(nodes["data"], "data", ImageData)
        _check_data(data)
        data.set_augmentation(
            Compose([build(node, f"augment.{name}", Augmentation) for name, node in nodes["augment"].items()])
        )
        learning = {name: nodes[name] for name in ("loss", "optimizer", "scheduler")}
        parts = LearningParts.build(**learning)
        _check_loss(parts.loss, data)
        trainer = build(nodes["trainer"], "trainer", TrainerSettings)
        network = _network(nodes["model"], data)
        # The key ``GIVEN`` marks a network that a Python user passed to ``digitlab.train``.
        if GIVEN in nodes["model"]:
            require_logits(network, data.source.image_shape, len(data.source.class_names))
        _check_network(network, parts.optimizer, data, processes=trainer.devices)
        stopping = _value(config, "early_stopping")
        _check_device(trainer, typed)
        if data.batch_size < trainer.devices:
            allowed = f"must be {trainer.devices} or more, because {trainer.devices} processes share each mini-batch"
            raise ConfigError("data.batch_size", data.batch_size, allowed)
        monitor, early_stopping = _monitor_and_early_stopping(
            settings_from(Monitor, nodes["monitor"], "monitor"),
            None if stopping is None else _early_stopping(stopping),
            without_validation=data.val_size == 0,
            typed=typed,
        )
        return cls(
            options=options,
            data=data,
            network=network,
            parts=parts,
            hyper_parameters={
                "model": nodes["model"],
                **learning,
                "ema_decay": settings_from(Ema, nodes["ema"], "ema").decay,
                "gradient_clip_norm": trainer.gradient_clip_norm,
                "tta": options.tta,
            },
            trainer=trainer,
            monitor=monitor,
            early_stopping=early_stopping,
            checkpoint=settings_from(CheckpointSettings, nodes["checkpoint"], "checkpoint"),
            callbacks=[build(node, f"callbacks.{name}", Callback) for name, node in nodes["callbacks"].items()],
            figures=build(nodes["figures"], "figures", Callback),
        )


def _refuse_unknown(config: DictConfig) -> None:
    """Raise ``ConfigError`` if ``config`` has a key at the top that does not exist, or lacks one."""
    known = [*_NODES, *RunOptions.__dataclass_fields__]
    for key in config:
        # The nodes hydra and sweep describe the command, not the run.
        if key not in ("hydra", "sweep", *known):
            value = OmegaConf.to_container(config, resolve=False)[key]  # type: ignore[index]
            raise unknown(str(key), value, known)
    for key in known:
        if key not in config:
            raise ConfigError(key, None, "must be given")


def _value(config: DictConfig, key: str) -> Any:
    """Return the value of ``key``; raise ``ConfigError`` if it refers to a key or variable that does not exist."""
    try:
        return config[key]
    except OmegaConfBaseException as error:
        raise unresolved(error, key) from error


def _early_stopping(node: Any) -> EarlyStopping:
    if not isinstance(node, DictConfig):
        allowed = "must be null, which turns it off, or be set key by key, as early_stopping.patience=5"
        raise ConfigError("early_stopping", node, allowed)
    return settings_from(EarlyStopping, plain(node, "early_stopping"), "early_stopping")


def _options(config: DictConfig) -> RunOptions:
    options = settings_from(RunOptions, {name: _value(config, name) for name in RunOptions.__dataclass_fields__}, "")
    if options.resume is not None:
        # train.py handles resume= before composing. Here it would start a new run that looks like a resumed one.
        raise ConfigError("resume", options.resume, "must be given on the command line of a single run, without +")
    return options


def _check_data(data: ImageData) -> None:
    try:
        data.check_sizes()
    except ConfigError as error:
        raise error.under("data") from error
    if data.root.exists() and not data.root.is_dir():
        raise ConfigError("data.root", str(data.root), "must be a folder, or not be there yet")


def _check_loss(loss: Loss, data: ImageData) -> None:
    try:
        # The numbers of training images, the second argument, are not known before the images are read.
        loss.for_classes(data.source.class_names, None)
    except ConfigError as error:
        raise error.under("loss") from error


def _check_network(network: nn.Module, optimizer: Optimizer, data: ImageData, *, processes: int) -> None:
    """Check the optimiser's parameter groups, and that each of the ``processes`` gets enough images for batch norm."""
    try:
        optimizer.groups(network)
    except ConfigError as error:
        raise error.under("optimizer") from error
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    smallest = 2 * processes
    if data.batch_size < smallest and any(isinstance(layer, norms) for layer in network.modules()):
        allowed = f"must be {smallest} or more: batch norm needs two images in each process"
        raise ConfigError("data.batch_size", data.batch_size, allowed)


def _network(node: dict[str, Any], data: ImageData) -> nn.Module:
    """Return the network of the node ``model`` for the images of ``data``, on torch's meta device.

    A network that a Python user passed is built on the CPU, because its code may not work on the meta device. Raises
    ``ConfigError`` if it needs more memory than this machine has.
    """
    shape, classes = data.source.image_shape, len(data.source.class_names)
    try:
        # Building a user's network draws random weights, which must not change the random numbers of the program.
        with torch.random.fork_rng(devices=[]), torch.device("cpu" if GIVEN in node else "meta"):
            network = build(node, "model", nn.Module, image_shape=shape, classes=classes)
    except ConfigError as error:
        # If a layer is so large that its size overflows, torch raises an error of a general class.
        if "overflow" not in str(error.__cause__).lower():
            raise
        raise _too_large(node, "more bytes than 64 bits can count") from error
    # Training needs memory for the weights and for as many gradients.
    needed = 2 * sum(parameter.nbytes for parameter in network.parameters())
    available = memory_bytes()
    if available is not None and needed > available:
        raise _too_large(node, f"{needed / 1e9:,.1f} GB, and this machine has {available / 1e9:.1f} GB")
    return network


def _too_large(node: dict[str, Any], size: str) -> ConfigError:
    """Return the error for a network that is too large. It names the setting with the largest number."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in node.items()}
    largest = {name: max((each for each in items if type(each) is int), default=0) for name, items in lists.items()}
    name = max(largest, key=largest.__getitem__)
    return ConfigError(f"model.{name}", node[name], f"weights and gradients would take {size}")


def _check_device(trainer: TrainerSettings, typed: Sequence[str]) -> None:
    """Raise ``ConfigError`` if this machine does not have the devices on which the run should train."""

    def refused(key: str, allowed: str) -> ConfigError:
        # The error names what the user typed: trainer=gpu, not the trainer.accelerator=cuda that it implies.
        groups = [override for override in typed if override.startswith("trainer=")]
        if groups and not any(override.startswith(f"trainer.{key}=") for override in typed):
            return ConfigError("trainer", groups[-1].partition("=")[2], allowed)
        return ConfigError(f"trainer.{key}", getattr(trainer, key), allowed)

    cuda_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    problem = cuda_problem() if cuda_devices else None
    if problem is not None:
        if trainer.accelerator == "cuda":
            raise refused("accelerator", f"{problem}: use trainer=auto or trainer=cpu")
        cuda_devices = 0
    if trainer.accelerator == "cuda" and not cuda_devices:
        raise refused("accelerator", "no CUDA device is here: use trainer=auto or trainer=cpu")
    if trainer.accelerator == "mps" and not torch.backends.mps.is_available():
        raise refused("accelerator", "no Apple GPU is here: use trainer=auto or trainer=cpu")
    if trainer.accelerator != "cpu" and cuda_devices and trainer.devices > cuda_devices:
        raise refused("devices", f"must be at most {cuda_devices} here, the number of CUDA devices")
    if trainer.devices > 1 and trainer.strategy != "ddp":
        raise refused("devices", "more than one needs trainer=ddp")


def _monitor_and_early_stopping(
    monitor: Monitor, early_stopping: EarlyStopping | None, *, without_validation: bool, typed: Sequence[str]
) -> tuple[Monitor, EarlyStopping | None]:
    """Return what the run monitors, and how it stops early. Both differ from the settings if there is no validation."""
    check_monitor(monitor.metric, monitor.mode)
    if not without_validation:
        return monitor, early_stopping
    # The defaults in conf/ are for runs with validation, so they are ignored. Settings that the user typed are refused.
    for override in typed:
        key, value = split_override(override)
        sets_early_stopping = key.partition(".")[0] == "early_stopping" and early_stopping is not None
        if sets_early_stopping or (key == "monitor.metric" and monitor.metric.startswith("val/")):
            raise ConfigError(key, value, "needs a validation set, and data.val_size is 0")
    return Monitor(metric=measured_metric(monitor.metric, val_size=0), mode=monitor.mode), None
