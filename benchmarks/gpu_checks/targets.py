"""The targets of ``gpu_check.py`` on one GPU, and how far measurements reach them. It imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["reached", "missed", "not judged", "not measured"]
_ROWS = ("a", "b", "c", "d", "e")


@dataclass(frozen=True, slots=True)
class Target:
    """A limit: measured values must be at most ``at_most``, or at least ``at_least``; ``aim`` would be better still."""

    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None

    def reached(self, value: float) -> bool:
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0.0)


TARGETS: dict[str, Target] = {
    **{f"({row}) captured over bare loop": Target(at_most=1 / 3) for row in ("a", "c", "d")},
    **{f"({row}) captured over hand-written graph": Target(at_most=1.10) for row in _ROWS},
    **{f"({row}) compiled over hand-written graph": Target(at_most=1.0) for row in _ROWS},
    "256 members of (a) over one": Target(at_most=4.0, aim=2.5),
    "mnist_99 mean test accuracy": Target(at_least=0.99),
    **{f"cifar10_94 {how}: mean test accuracy": Target(at_least=0.94) for how in ("captured", "compiled")},
    **{f"cifar10_94 {how} over the reference": Target(at_most=1.0, aim=0.9) for how in ("captured", "compiled")},
}


def judge(values: Mapping[str, float | None], *, binding: bool) -> dict[str, dict[str, Any]]:
    """The verdict on each of ``values``, by the name of its target; None was not measured.

    Unless ``binding``, as in a dry run, nothing is missed. Raises ``KeyError`` for a name that is no target.
    """
    verdicts = {}
    for name, value in values.items():
        target, verdict = TARGETS[name], _verdict(TARGETS[name], value, binding=binding)
        limits = {"at_most": target.at_most, "at_least": target.at_least, "aim": target.aim}
        verdicts[name] = {
            **{key: limit for key, limit in limits.items() if limit is not None}, "value": value, "verdict": verdict
        }  # fmt: skip
    return verdicts


def _verdict(target: Target, value: float | None, *, binding: bool) -> Verdict:
    if value is None:
        return "not measured"
    if not binding:
        return "not judged"
    return "reached" if target.reached(value) else "missed"
