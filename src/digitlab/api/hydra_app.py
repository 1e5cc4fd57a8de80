"""Runs Hydra inside this Python process as ``train.py`` does, and restores all globals. ``api.commands`` uses it."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig

from digitlab.api import resolvers
from digitlab.config.command_line import read_arguments
from digitlab.config.compose import COMPOSITION_ERRORS, CONF, composition_error, register_resolvers, restored_hydra
from digitlab.core.exit import errors_raised


@contextmanager
def hydra_app(overrides: Sequence[str], *, multirun: bool = False) -> Iterator[tuple[Hydra, list[str]]]:
    """Yield a Hydra application for ``conf/``, and the overrides in the form that its methods need.

    Inside this context, invalid overrides raise ``ConfigError``. Hydra keeps its state, its configuration and the
    handlers of the root logger in globals. They are restored at the end, so that one process can train several times,
    and so that a program that uses Hydra itself can call digitlab.
    """
    register_resolvers()
    resolvers.register_resolvers()
    base = version.VersionBase.instance().getbase()
    version.setbase("1.3")  # as in train.py: without it Hydra changes the working directory
    outer_config = HydraConfig.instance().cfg
    full_errors = os.environ.get("HYDRA_FULL_ERROR")
    # With this setting Hydra raises exceptions instead of printing a report and ending the process.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with restored_hydra(), _logging_restored(), errors_raised():
        try:
            arguments = read_arguments([*(["-m"] if multirun else []), *overrides])
            hydra = Hydra.create_main_hydra2(
                task_name="train", config_search_path=create_config_search_path(f"file://{CONF}")
            )
            # The application takes overrides only, so leave out -m. Hydra's own command line would add the mode, by
            # which digitlab distinguishes a job of a sweep from a single run.
            job_overrides = arguments[1:] if multirun else arguments
            yield hydra, [*job_overrides, f"hydra.mode={'MULTIRUN' if multirun else 'RUN'}"]
        except COMPOSITION_ERRORS as error:
            raise composition_error(error, overrides) from error
        finally:
            HydraConfig.instance().cfg = outer_config
            version.VersionBase.instance().version_base = base
            if full_errors is None:
                os.environ.pop("HYDRA_FULL_ERROR", None)
            else:
                os.environ["HYDRA_FULL_ERROR"] = full_errors


@contextmanager
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
