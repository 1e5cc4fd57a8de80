"""Checks the settings ``hydra.sweeper.*`` of a search, and its space, before any run starts. It does not import Optuna.

``api.preflight`` and the sweeper in ``hydra_plugins.digitlab_optuna`` call it. As in Optuna, a trial is one setting
that the search chooses. A trial is one run, or one run for each seed.
"""

from dataclasses import dataclass
from typing import Literal

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from digitlab.config.compose import plain
from digitlab.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, settings, settings_from
from digitlab.core.errors import ConfigError
from digitlab.core.extras import require_packages
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.sweeps.search.space import Space

_KEY = "hydra.sweeper"
_TARGET = "hydra_plugins.digitlab_optuna.OptunaSweeper"
_DEFAULT_TRIALS = 50
# A sampler that learns from earlier trials chooses all trials of a round before it sees their results. So it needs
# several rounds: with a single one, it would be a random search.
_MIN_ROUNDS = 5


@settings
class SearchSettings:
    """``sampler`` chooses ``n_trials`` settings in rounds of ``n_jobs`` runs; ``seed`` makes its choices repeatable.

    The samplers are TPE (Bergstra et al., 2011), CMA-ES (Hansen and Ostermeier, 2001), random search (Bergstra and
    Bengio, 2012) and ``grid``, which tries all points of a grid in random order. ``storage`` is the URL of Optuna's
    database; null means a file in the sweep's folder. With a URL, several processes can work on the search; one that
    does not show for ``dead_after_s`` seconds that it is alive counts as dead.
    """

    sampler: Literal["tpe", "random", "cmaes", "grid"]
    n_trials: PositiveInt | Literal["auto"]
    n_jobs: PositiveInt | Literal["auto"]
    seed: NonNegativeInt
    storage: str | None
    dead_after_s: PositiveFloat


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search before it starts: the ``space`` from which it chooses, and its settings."""

    space: Space
    settings: SearchSettings

    @property
    def trials(self) -> int:
        """The number of trials in the whole search; a grid has no more trials than points."""
        grid_size, n_trials = self.space.grid_size, self.settings.n_trials
        if self.settings.sampler == "grid" and grid_size is not None:
            return grid_size if n_trials == "auto" else min(n_trials, grid_size)
        return _DEFAULT_TRIALS if n_trials == "auto" else n_trials

    @property
    def runs(self) -> int:
        """The number of runs in the whole search."""
        return self.trials * self.space.replicates

    def round_size(self, runs_at_once: int) -> int:
        """Return the number of trials in a round for a launcher that trains ``runs_at_once`` runs at the same time."""
        n_jobs = self.settings.n_jobs
        # Both numbers count runs, and each trial has several runs if there are replicates.
        size = max((runs_at_once if n_jobs == "auto" else n_jobs) // self.space.replicates, 1)
        learns = self.settings.sampler in ("tpe", "cmaes")
        # A number that the user gives is not changed.
        if not learns or n_jobs != "auto":
            return size
        # The limit is rounded up, so a round has at least one trial.
        return min(size, -(-self.trials // _MIN_ROUNDS))


def search_plan(config: DictConfig, loader: ConfigLoader, grid: Grid) -> SearchPlan | None:
    """Return the plan of the search that chooses the runs of the sweep, or None if the sweep is no search.

    Raises ``ConfigError`` for a bad setting, for a space that can't be searched, and if Optuna is not installed.
    """
    overrides = sweep_overrides(config)
    is_search = OmegaConf.select(config, f"{_KEY}._target_") == _TARGET
    if not is_search and not grid.searched:
        return None
    space = Space(loader, overrides)
    if not is_search:
        # An interval has no list of values, so only a search can choose from it.
        for parameter in space.parameters:
            if parameter.key in grid.searched:
                raise ConfigError(parameter.key, parameter.typed, "needs a search: hydra/sweeper=optuna")
        return None
    if not space.parameters:
        allowed = "needs something to choose, for instance optimizer.lr=tag(log,interval(1e-4,1e-1))"
        raise ConfigError("hydra/sweeper", "optuna", allowed)
    settings = _settings(config)
    _check_sampler(settings.sampler, space)
    require_packages("search", "optuna", "cmaes", key="hydra/sweeper", value="optuna")
    return SearchPlan(space, settings)


def _settings(config: DictConfig) -> SearchSettings:
    node = plain(config.hydra.sweeper, _KEY)
    # These two belong to Hydra: the class of the sweeper, and the overrides of the group ``sweep``.
    given = {name: value for name, value in node.items() if name not in ("_target_", "params")}
    return settings_from(SearchSettings, given, _KEY)


def _check_sampler(sampler: str, space: Space) -> None:
    """Raise ``ConfigError`` if the sampler can't choose from the space."""
    if sampler == "cmaes" and sum(parameter.numbers is not None for parameter in space.parameters) < 2:
        allowed = (
            "needs at least two intervals or ranges, because it moves along numbers: use hydra.sweeper.sampler=tpe"
        )
        raise ConfigError(f"{_KEY}.sampler", sampler, allowed)
    for parameter in space.parameters:
        if sampler == "grid" and parameter.grid is None:
            allowed = "has infinitely many values: for hydra.sweeper.sampler=grid give a list, or a range with a step"
            raise ConfigError(parameter.key, parameter.typed, allowed)
