"""The space of a search: the keys and values from which it chooses. ``search.settings`` and ``search.study`` use it.

It makes the space from the overrides of a command. From the values that the search has chosen, it makes the overrides
of the runs. A trial is one choice of values; it is one run, or one run for each replicate, such as each seed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.core.errors import ConfigError
from digitlab.sweeps.jobs import distinct_values, parse_overrides

# A value from a list is the text of its override. A value from a range or an interval is a number.
Value = str | int | float

# A number from an interval is rounded to this many significant digits. So it is short in the names of folders and in
# tables, and precise enough for a search.
_INTERVAL_DIGITS = 4
# A number from a range is rounded to so many digits, which removes only the rounding errors of adding steps.
_RANGE_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers from ``low`` to ``high`` inclusive: those ``step`` apart, or all if ``step`` is None.

    They are whole numbers if the bounds and the step are. With ``log``, the search chooses on a logarithmic scale.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        # 0 stands for a missing step, which does not count.
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))


@dataclass(frozen=True, slots=True)
class Parameter:
    """A searched ``key``: its ``choices`` or its ``numbers``; ``typed`` is the text on the command line."""

    key: str
    typed: str
    choices: tuple[str, ...] = ()
    numbers: Numbers | None = None

    @property
    def grid(self) -> list[Value] | None:
        """All values; None for an interval of real numbers, which has infinitely many."""
        if self.numbers is None:
            return list(self.choices)
        low, high, step = self.numbers.low, self.numbers.high, self.numbers.step
        return None if step is None else [low + step * k for k in range(round((high - low) / step) + 1)]

    @property
    def example(self) -> Value:
        return self.choices[0] if self.numbers is None else self.numbers.low

    def override(self, value: Value) -> str:
        if isinstance(value, float):
            assert self.numbers is not None
            digits = _INTERVAL_DIGITS if self.numbers.step is None else _RANGE_DIGITS
            rounded = float(f"{value:.{digits}g}")
            # A rounded number can lie outside of the bounds that the user gave, so it is moved back.
            value = min(max(rounded, self.numbers.low), self.numbers.high)
        return f"{self.key}={value}"


class Space:
    """The searched ``parameters`` of a command with ``overrides``.

    ``replicate_overrides`` are the swept seeds, folds and split seeds, by key. Every trial runs with all of them,
    because the best of them would be best by chance. Raises ``ConfigError`` for a key that can't be searched.
    """

    def __init__(self, loader: ConfigLoader, overrides: Sequence[str]) -> None:
        self.parameters: list[Parameter] = []
        self.replicate_overrides: dict[str, list[str]] = {}
        # All keys in typed order, each with its fixed override, or with an empty text if the key is swept.
        self._fixed_overrides: dict[str, str] = {}
        for key, override in parse_overrides(loader, overrides).items():
            if not override.is_sweep_override():
                self._fixed_overrides[key] = f"{key}={override.get_value_element_as_str()}"
                continue
            self._fixed_overrides[key] = ""
            if key in REPLICATE_KEYS:
                self.replicate_overrides[key] = _replicates(override)
            else:
                self.parameters.append(_parameter(key, override))

    @property
    def replicates(self) -> int:
        """The number of runs of one trial."""
        return math.prod(len(values) for values in self.replicate_overrides.values())

    @property
    def grid_size(self) -> int | None:
        """The number of points in the space, or None if it is infinite."""
        grids = [parameter.grid for parameter in self.parameters]
        return None if None in grids else math.prod(len(grid or ()) for grid in grids)

    def fixed(self) -> list[str]:
        """Return the overrides that all trials share."""
        return [text for text in self._fixed_overrides.values() if text]

    def jobs(self, chosen: Mapping[str, Value]) -> list[list[str]]:
        """Return the overrides of the runs of one trial, one run for each replicate."""
        chosen_overrides = {parameter.key: [parameter.override(chosen[parameter.key])] for parameter in self.parameters}
        # Keys stay in typed order, as in Hydra, because later overrides win. A key is fixed, searched, or a replicate
        # key such as the seed.
        choices = [
            [text] if text else chosen_overrides.get(key) or self.replicate_overrides[key]
            for key, text in self._fixed_overrides.items()
        ]
        return [list(job) for job in product(*choices)]

    def example(self) -> list[str]:
        """Return the overrides of one run that the search might choose, for checks and estimates."""
        return self.jobs({parameter.key: parameter.example for parameter in self.parameters})[0]


def _replicates(override: Override) -> list[str]:
    """Return one override for each value of a swept seed, fold or split seed."""
    key = override.get_key_element()
    if not override.is_discrete_sweep():
        allowed = "must be a list such as 0,1,2: each trial runs with all of them and is judged by their mean"
        raise ConfigError(key, _typed(override), allowed)
    return [f"{key}={value}" for value in distinct_values(override)]


def _parameter(key: str, override: Override) -> Parameter:
    """Return the parameter of a swept key. Raises ``ConfigError`` if a search can't choose its value."""
    typed, value = _typed(override), override.value()
    # With another metric in each trial, the study would compare a loss with an accuracy.
    if key.startswith("monitor."):
        raise ConfigError(key, typed, "can't be searched: trials are compared by one metric")
    assert isinstance(value, Sweep)
    if unknown := sorted(value.tags - {"log"}):
        raise ConfigError(key, typed, f"tag {unknown[0]} is unknown: the only tag is log")
    log = "log" in value.tags
    if isinstance(value, IntervalSweep):
        return Parameter(key, typed, numbers=_interval(key, typed, value, log=log))
    choices = distinct_values(override)
    if isinstance(value, RangeSweep):
        return Parameter(key, typed, numbers=_range(key, typed, [float(choice) for choice in choices], value, log=log))
    if log:
        raise ConfigError(key, typed, "tag log is for an interval or a range: choices have no order")
    return Parameter(key, typed, choices=tuple(choices))


def _interval(key: str, typed: str, value: IntervalSweep, *, log: bool) -> Numbers:
    low, high = value.start, value.end
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(key, typed, "must be interval(LOW,HIGH), two finite numbers with LOW below HIGH")
    # Whole bounds mean whole numbers: interval(16,256) for the width of a layer never gives 17.5.
    whole = isinstance(low, int) and isinstance(high, int)
    return _check_log_scale(key, typed, Numbers(low, high, step=1 if whole else None, log=log))


def _range(key: str, typed: str, numbers: Iterable[float], value: RangeSweep, *, log: bool) -> Numbers:
    # A range may have been typed in descending order, but a distribution needs ascending bounds.
    ordered = sorted(numbers)
    step = abs(value.step)
    if all(isinstance(number, int) for number in (value.start, value.stop, value.step)):
        return _check_log_scale(key, typed, Numbers(int(ordered[0]), int(ordered[-1]), step=int(step), log=log))
    return _check_log_scale(key, typed, Numbers(ordered[0], ordered[-1], step=float(step), log=log))


def _check_log_scale(key: str, typed: str, numbers: Numbers) -> Numbers:
    """Return ``numbers``. Raises ``ConfigError`` if they are to be on a logarithmic scale and can't be."""
    if numbers.log and numbers.low <= 0:
        raise ConfigError(key, typed, "must be above 0 for tag log")
    if numbers.log and numbers.step not in (None, 1):
        raise ConfigError(key, typed, "tag log is for an interval, or a range of whole numbers of step 1")
    return numbers


def _typed(override: Override) -> str:
    """Return the text of the values on the command line."""
    return str(override.input_line).partition("=")[2]
