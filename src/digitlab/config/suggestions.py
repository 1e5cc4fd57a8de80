"""Finds what a user may have meant by a name that does not exist. Messages about keys and values use it."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from digitlab.core.errors import ConfigError
from digitlab.core.files import read_yaml, short_path

# Keys that have a new name. Error messages about the old name give the new one.
RENAMED_KEYS = {"test_views": "tta", "figures.iterations": "figures.log_batches"}

# Names of settings in other programs, and the keys that they have here.
_COMMON_NAMES = {
    "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs", "n_epochs": "trainer.max_epochs",
    "max_epoch": "trainer.max_epochs", "steps": "trainer.max_steps", "learning_rate": "optimizer.lr",
    "batch": "data.batch_size", "batchsize": "data.batch_size", "bs": "data.batch_size", "wd": "optimizer.weight_decay",
    "l2": "optimizer.weight_decay", "opt": "optimizer", "dataset": "data", "net": "model", "network": "model",
    "arch": "model", "hidden_size": "model.hidden", "layers": "model.hidden", "device": "trainer",
    "gpus": "trainer.devices", "random_seed": "seed", "data_dir": "data.root", "lr_scheduler": "scheduler",
    "criterion": "loss", "output": "hydra.run.dir", "output_dir": "hydra.run.dir", "out": "hydra.run.dir",
    "epoch": "trainer.max_epochs", "cuda": "trainer", "gpu": "trainer", "exp": "experiment", "units": "model.hidden",
    "neurons": "model.hidden", "decay": "optimizer.weight_decay", "validation": "data.val_size",
    "validation_split": "data.val_size", "val_split": "data.val_size", "early_stop": "early_stopping.patience",
    "trainer.device": "trainer.accelerator", "max_lr": "optimizer.lr", "sweeper": "hydra/sweeper",
    "launcher": "hydra/launcher", "n_trials": "hydra.sweeper.n_trials", "trials": "hydra.sweeper.n_trials",
    "sampler": "hydra.sweeper.sampler", "n_jobs": "hydra.launcher.n_jobs", "jobs": "hydra.launcher.n_jobs",
    "workers": "hydra.launcher.n_jobs", "max_members": "hydra.launcher.max_members",
}  # fmt: skip

# Settings that other programs have and digitlab does not need.
_NOT_NEEDED = {
    "num_workers": "digitlab keeps all images in memory and has no worker processes",
    "pin_memory": "digitlab keeps all images on the training device",
    "logger": "every run writes TensorBoard events and metrics.csv into its folder",
    "wandb": "every run writes TensorBoard events and metrics.csv into its folder",
    "tensorboard": "every run writes TensorBoard events into its folder",
    "download": "a data set that is missing is downloaded when a run needs it",
    "fast_dev_run": "debug=fast tries a run with three mini-batches",
    "max_time": "a run that Ctrl-C stops is saved, and resume=RUN_FOLDER continues it",
    "save_top_k": "a run keeps the best and the last checkpoint",
    "T_max": "every schedule ends with the last epoch",
    "drop_last": "the last mini-batch of an epoch may be smaller, and all images are used",
    "direction": "a search improves monitor.metric, whose direction digitlab knows",
    "shuffle": "training images are always shuffled, and the seed decides how",
}

# Values that other programs give to settings, and the values that mean the same here.
_COMMON_VALUES = {
    "gpu": "cuda", "xavier": "glorot", "kaiming": "he", "bfloat16": "bf16", "half": "bf16", "float32": "32",
    "fp32": "32", "16": "bf16", "fp16": "bf16", "float16": "bf16", "16-mixed": "bf16", "bf16-mixed": "bf16",
    "float64": "64", "fp64": "64", "double": "64", "minmax": "unit", "standardize": "standard",
}  # fmt: skip

# Names that other programs give to options of groups, and what to write here.
_COMMON_OPTIONS = {
    "model": {
        "resnet": "torchvision model.name=resnet18", "resnet18": "torchvision model.name=resnet18",
        "resnet34": "torchvision model.name=resnet34", "mobilenet": "torchvision model.name=mobilenet_v3_small",
        "resnet50": "torchvision model.name=resnet34", "logistic": "linear", "softmax": "linear", "perceptron": "mlp",
        "dense": "mlp", "conv": "cnn",
    },
    "data": {"fmnist": "fashion_mnist"},
    "loss": {
        "nll": "cross_entropy", "ce": "cross_entropy", "softmax": "cross_entropy", "l2": "mse", "bce": "cross_entropy",
        "nll_loss": "cross_entropy", "crossentropyloss": "cross_entropy", "categorical_crossentropy": "cross_entropy",
        "mse_loss": "mse", "mseloss": "mse",
    },
    "trainer": {"cuda": "gpu", "mps": "auto"},
    "augment": {
        "rotate": "affine", "rotation": "affine", "crop": "shift", "hflip": "flip",
        "random_crop": "shift", "erasing": "cutout",
    },
    "scheduler": {
        "step": "steps", "none": "constant", "null": "constant", "cosine_annealing": "cosine",
        "cosineannealinglr": "cosine",
    },
    "hydra/launcher": {
        "slurm": "submitit_slurm", "submitit": "submitit_local", "local": "submitit_local", "parallel": "joblib",
        "multiprocessing": "joblib", "population": "vectorized", "vmap": "vectorized",
    },
    "hydra/sweeper": {
        "random": "optuna hydra.sweeper.sampler=random", "tpe": "optuna hydra.sweeper.sampler=tpe",
        "bayes": "optuna hydra.sweeper.sampler=tpe", "grid": "basic", "ax": "optuna", "nevergrad": "optuna",
    },
}  # fmt: skip

# Groups whose options can all be tried in one sweep.
_SWEPT_AS_A_WHOLE = ("loss", "model", "optimizer", "scheduler")


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `` (did you mean `lenet`?)`` for ``lenett`` or ``LeNet``, or an empty string if no name is similar.

    A name with the same words in another order counts as most similar.
    """
    names = list(names)
    similar = [each for each in names if _words(each) == _words(name)] or _most_similar(name, names)
    if not similar:
        by_lower_case = {each.casefold(): each for each in names}
        similar = [by_lower_case[each] for each in _most_similar(name.casefold(), by_lower_case)]
    return f" (did you mean `{similar[0]}`?)" if similar else ""


def not_one_of(key: str, value: str, names: Iterable[str]) -> ConfigError:
    """Return the error for a ``value`` of ``key`` that is not among ``names``; it may suggest one of them."""
    names = list(names)
    return ConfigError(key, value, f"must be one of {', '.join(names)}{nearest(value, names)}")


def _words(name: str) -> list[str]:
    return sorted(re.findall(r"[^\W_]+", name))


def _most_similar(name: str, names: Iterable[str]) -> list[str]:
    """Return the most similar name in a list, which is empty if none is similar. Upper and lower case differ."""
    return difflib.get_close_matches(name, names, n=1, cutoff=0.6)


def unknown(key: str, value: object, names: Iterable[str], *, under: str = "", where: str = "") -> ConfigError:
    """Return the error for a key that is not in ``names``, the keys of the node ``under``.

    ``where`` is a part of the message that names the option of the group, for example `` in optimizer=sgd``.
    """
    names = list(names)
    full_key = f"{under}.{key}" if under else key
    if full_key in RENAMED_KEYS:
        return ConfigError(full_key, value, f"is now {RENAMED_KEYS[full_key]}")
    # ``names`` are relative to the node, and the keys in ``_COMMON_NAMES`` are not.
    common = _COMMON_NAMES.get(full_key, _COMMON_NAMES.get(key, "")).removeprefix(f"{under}.")
    hint = f" (did you mean `{common}`?)" if common in names else nearest(key, names)
    return ConfigError(full_key, value, f"no such key{where}{hint}; there are {', '.join(names) or 'none'}")


def nearest_value(value: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean `cuda`?)`` for ``gpu``, as other programs call this value; else as ``nearest``."""
    allowed = list(allowed)
    common = _COMMON_VALUES.get(value.casefold())
    return f" (did you mean `{common}`?)" if common in allowed else nearest(value, allowed)


def not_needed(key: str) -> str | None:
    """Return why digitlab has no setting like ``data.num_workers``, which other programs have; else None."""
    return _NOT_NEEDED.get(key.rpartition(".")[2])


def nearest_option(group: str, name: str, names: Sequence[str]) -> str:
    """Return `` (did you mean `gpu`?)`` for ``trainer=cuda``, a name that other programs use; else as ``nearest``."""
    if name in ("all", "*") and group in _SWEPT_AS_A_WHOLE:
        return f" (a run for each of them: -m '{group}=glob(*)')"
    common = _COMMON_OPTIONS.get(group, {}).get(name.casefold())
    return f" (did you mean `{common}`?)" if common is not None else nearest(name, names)


def full_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys that ``name`` can stand for: those that end in ``.name``, else the one in ``_COMMON_NAMES``."""
    ending_keys = [key for key in keys if key.endswith(f".{name}")]
    return ending_keys or [key for common, key in _COMMON_NAMES.items() if common == name]


def options_with(key: str, groups: Path) -> list[str]:
    """Return the options whose files in ``conf/`` define ``key``: ``optimizer.momentum`` gives ``optimizer=sgd``, …

    ``hydra.sweeper.n_trials`` gives ``hydra/sweeper=optuna``.
    """
    of_hydra = key.startswith("hydra.")
    key = key.removeprefix("hydra.")
    group = f"{'hydra/' * of_hydra}{key.partition('.')[0]}"
    return [f"{group}={name}" for name, keys in _keys_of_options(groups / group).items() if key in keys]


def option_keys(groups: Path) -> list[str]:
    """Return every key that some option of some group defines, as ``optimizer.momentum``."""
    keys_of_options = (keys for group in sorted(groups.iterdir()) for keys in _keys_of_options(group).values())
    return list(dict.fromkeys(key for keys in keys_of_options for key in sorted(keys)))


def similar_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the ``count`` most similar names, best first. Names that contain ``name`` come before others."""

    def similarity(other: str) -> tuple[bool, float]:
        lower_name, lower_other = name.casefold(), other.casefold()
        return lower_name in lower_other, difflib.SequenceMatcher(None, lower_name, lower_other).ratio()

    return sorted(names, key=similarity, reverse=True)[:count]


def similar_folder(name: str, folders: Iterable[Path], *, kind: str) -> str:
    """Return ``; the most similar KIND is FOLDER``, the end of a message about a folder ``name`` that does not exist.

    FOLDER is one of ``folders``, as ``short_path`` shows it. Return an empty string if there are none.
    """
    paths = [short_path(folder) for folder in folders]
    return f"; the most similar {kind} is {similar_names(name, paths)[0]}" if paths else ""


@cache
def _keys_of_options(folder: Path) -> dict[str, set[str]]:
    """Return the dotted keys that each option of a group defines; ``folder`` is that of the group."""
    # Experiments, sweeps and debug settings set keys of other groups, so they define no keys of their own.
    if not folder.is_dir() or folder.name in ("experiment", "sweep", "debug", "hydra"):
        return {}
    keys_of_options = {}
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        if not isinstance(content, Mapping):
            continue
        # A file with "@package _global_" holds the node of its own group under the group's name.
        node = content.get(folder.name, content)
        keys_of_options[path.stem] = {f"{folder.name}.{name}" for name in _paths(node)}
    return keys_of_options


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every key in ``node`` and in the nodes in it."""
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        if name not in ("_target_", "defaults"):
            yield f"{prefix}{name}"
            yield from _paths(value, f"{prefix}{name}.")
