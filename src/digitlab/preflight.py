"""The check of a composed configuration before Hydra makes a folder for it: a bad one leaves nothing behind.

Hydra imports and calls it at the start of a run or a sweep (``hydra.callbacks.preflight`` in ``conf/train.yaml``). The
values of a sweep are checked job by job, at the head of ``train()``: a bad one fails alone.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from digitlab.config import COMPOSITION_ERRORS, refused
from digitlab.failures import leave
from digitlab.schema import ConfigError, DigitlabError


class Preflight(Callback):
    """Ends the process with one line on stderr where the configuration is refused.

    By ``leave``, as of any exception but ``SystemExit`` Hydra makes a warning and goes on.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Imported here, as Hydra makes this object for --help too, which must answer without torch.
        from digitlab.training.experiment import Experiment

        # Hydra's next step too; the name of the folder asks it for the names of the data set and the model.
        HydraConfig.instance().set_config(config)
        try:
            Experiment.from_config(config)
            _make_folder("hydra.run.dir", config.hydra.run.dir)
        except DigitlabError as error:
            leave(error)

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
        loader = GlobalHydra.instance().config_loader()
        params = OmegaConf.select(config, "hydra.sweeper.params") or {}
        overrides = [*(f"{key}={value}" for key, value in params.items()), *config.hydra.overrides.task]
        job: list[str] = overrides
        try:
            for job in _shapes(loader, overrides):
                composed = loader.load_configuration(config_name, job, run_mode=RunMode.RUN)
                if OmegaConf.select(composed, "trainer.strategy") == "ddp":
                    allowed = "can't be swept with -m: each of its processes would launch the whole sweep"
                    raise ConfigError("trainer.strategy", "ddp", allowed)
            _make_folder("hydra.sweep.dir", config.hydra.sweep.dir)
        except COMPOSITION_ERRORS as error:
            leave(refused(error, job))
        except ConfigError as error:
            leave(error)


def _shapes(loader: ConfigLoader, overrides: list[str]) -> Iterator[list[str]]:
    """The overrides of one job for each combination of the groups that a sweep goes over.

    Which keys exist depends on the groups alone, so of the values of any other key one is enough; of the strategy all,
    as one of them can't be swept.
    """
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            every = key == "trainer.strategy" or loader.get_group_options(key, ObjectType.CONFIG)
            choices[key] = values if every else values[:1]
    return (list(job) for job in itertools.product(*choices.values()))


def _make_folder(key: str, folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(key, folder, f"can't be made: {error.strerror}") from error
