"""Checks the settings that all jobs of a sweep share, before the first job starts; ``preflight`` calls it.

A value that differs between the jobs is checked at the start of each job instead, so that a wrong one fails only its
own job.
"""

import re
from collections.abc import Callable, Collection, Sequence

from omegaconf import DictConfig, OmegaConf

from digitlab.api.early_checks import check_values
from digitlab.config.annotations import is_class_of_digitlab
from digitlab.config.compose import walk
from digitlab.config.overrides import split_override
from digitlab.core.errors import ConfigError, DigitlabError


def check_shared_settings(
    first_job: DictConfig,
    compose_last_job: Callable[[], DictConfig],
    overrides: Sequence[str],
    *,
    swept: Collection[str],
) -> None:
    """Raise an error that every job would have: a wrong value, or a ``_target_`` that can't be used.

    ``first_job`` is the configuration of the first job, and ``compose_last_job`` returns that of the last one. It is
    called only if the first job has an error. ``overrides`` are those of the command; ``swept`` are the keys whose
    values differ between its jobs.
    """
    error = _error(first_job, overrides)
    if error is None or error.key in swept:
        return
    # The last job has other values of all swept keys. If it has the same error, these values are not the reason.
    if str(_error(compose_last_job(), overrides)) == str(error):
        raise _with_form_of_values(error, overrides)


def _with_form_of_values(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """Return ``error``. If its value was probably meant as several values, the message says how these are written."""
    typed = dict(map(split_override, overrides))
    if error.key not in typed:
        return error
    value, form = typed[error.key], None
    if match := re.fullmatch(r"(\d+)(?:-|:|\.\.+)(\d+)", value):
        form = f"range({match[1]},{int(match[2]) + 1})"
    elif value.startswith("[") and "a list" not in error.allowed:
        form = value[1:-1]
    if form is None:
        return error
    return ConfigError(error.key, error.value, f"{error.allowed}; several values are written {error.key}={form}")


def _error(config: DictConfig, overrides: Sequence[str]) -> ConfigError | None:
    """Return the error of the configuration of a job, or None."""
    try:
        check_values(config)
    except ConfigError as error:
        return error
    if not _names_own_class(config, overrides):
        return None
    try:
        # Only building an object shows whether its class can be used. This imports torch, which takes seconds.
        from digitlab.training.experiment import Experiment

        Experiment.from_config(config, typed=overrides)
    except DigitlabError as error:
        # Other errors can depend on the machine, such as a missing GPU, and the jobs may run on another one.
        if isinstance(error, ConfigError) and (error.key.startswith("callbacks.") or error.key.endswith("_target_")):
            return error
    return None


def _names_own_class(config: DictConfig, overrides: Sequence[str]) -> bool:
    """Return whether a ``_target_`` was typed, or names a class that is not one of digitlab's."""
    if any(split_override(override)[0].endswith("._target_") for override in overrides):
        return True
    nodes = OmegaConf.to_container(config, resolve=False)
    targets = ((path, target) for path, target in walk(nodes) if path.endswith("._target_"))
    return any(not path.startswith("hydra.") and not is_class_of_digitlab(str(target)) for path, target in targets)
