"""Lists the jobs of a sweep from its command line, as overrides, before any job is composed.

``api.preflight`` uses it to check a sweep before it starts. A search (``hydra/sweeper=optuna``) uses its parsers.
"""

import itertools
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from digitlab.config.cli_errors import command_line_overrides
from digitlab.core.errors import ConfigError


class Grid:
    """The values that the overrides of a sweep give to each key.

    ``keys`` are the swept keys, those with several values. ``searched`` are those with an interval, from which only a
    search can choose. Raises ``ConfigError`` for a key without a value, or with the same value twice.
    """

    def __init__(self, loader: ConfigLoader, overrides: Sequence[str]) -> None:
        self._loader = loader
        self.searched: list[str] = []
        self.keys: list[str] = []
        # For each key its overrides, ``key=value``: one for each of its values.
        self._choices: dict[str, list[str]] = {}
        for key, override in parse_overrides(loader, overrides).items():
            if not override.is_sweep_override():
                self._choices[key] = [f"{key}={override.get_value_element_as_str()}"]
                continue
            value = override.value()
            if isinstance(value, IntervalSweep):
                self.searched.append(key)
                # An interval has no list of values. The checks before the sweep use its lower end as an example.
                self._choices[key] = [f"{key}={value.start}"]
            else:
                self._choices[key] = [f"{key}={value}" for value in distinct_values(override)]
            # A key with one value, such as choice(0.1), is the same in all jobs. ``config.command_line`` makes such
            # choices.
            if isinstance(value, IntervalSweep) or len(self._choices[key]) > 1:
                self.keys.append(key)

    def jobs(self) -> list[list[str]]:
        """Return the overrides of each job in Hydra's order, in which the last key varies fastest."""
        # The numbers of the runs follow this order, so it must be that of Hydra's own sweeper.
        return [list(job) for job in itertools.product(*self._choices.values())]

    def group_combinations(self) -> list[list[str]]:
        """Return the overrides of one job for each combination of options of the swept config groups.

        Which keys exist depends only on these options, so one value of every other key is enough to check whether the
        keys of the overrides exist. The exception is ``trainer.strategy``: its values are all listed, so that the check
        finds ``ddp``, which can't be swept.
        """
        choices = [
            values
            if key == "trainer.strategy" or self._loader.get_group_options(key, ObjectType.CONFIG)
            else values[:1]
            for key, values in self._choices.items()
        ]
        return [list(job) for job in itertools.product(*choices)]


def parse_overrides(loader: ConfigLoader, overrides: Sequence[str]) -> dict[str, Override]:
    """Return the parsed overrides by key. A key that is typed twice keeps its first place but has its last value."""
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return {override.get_key_element(): override for override in parsed}


def distinct_values(override: Override) -> list[str]:
    """Return the values of a discrete sweep as text. Raises ``ConfigError`` if there is none, or one occurs twice."""
    key, values = override.get_key_element(), [str(value) for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigError(key, str(override.input_line).partition("=")[2], "has no value")
    parser = OverridesParser.create()
    # Compare parsed values rather than text: 0.1 and 1e-1 would be two jobs with the same run folder.
    parsed_values = [repr(parser.parse_override(f"{key}={value}").value()) for value in values]
    for number, value in enumerate(parsed_values):
        if value in parsed_values[:number]:
            raise ConfigError(key, ",".join(values), f"has {values[number]} twice: each value is a run")
    return values


def sweep_overrides(config: DictConfig) -> list[str]:
    """Return the overrides of the command: those from its option ``sweep=NAME``, then those that were typed."""
    # Typed overrides come last, because the last override of a key wins.
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    return [*(f"{key}={value}" for key, value in params.items()), *command_line_overrides(config.hydra)]
