"""Who a population began with. Each member's checkpoint says so: it may be killed, and go on without some of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from digitlab.population.halving import Setting, ended_value
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Cohort:
    """The folders' names of the members that began as ``members``, and the settings of those of them that failed since.

    These are remembered, as the folder of one that failed says nothing while its run is tried again.
    """

    members: list[str]
    failed_settings: dict[str, list[str]]

    @classmethod
    def of(cls, names: Sequence[str], checkpoints: Sequence[Mapping[str, Any]]) -> "Cohort":
        """That of members in folders of these ``names``, which begin together or go on from their ``checkpoints``."""
        members = next((each["members"] for each in checkpoints if each.get("members")), names)
        failed_settings = {
            name: own
            for each in checkpoints
            for name, own in each.get("failed_settings", {}).items()
            if name not in names
        }
        return cls(list(members), failed_settings)

    def saved(self) -> dict[str, Any]:
        """What is added to a member's checkpoint."""
        return asdict(self)

    def scores_by_setting(
        self, path: Path, present: Mapping[str, tuple[Setting, float]], *, epoch: int, worst: float
    ) -> dict[Setting, list[float]]:
        """The values of the members of each setting after ``epoch``, ``worst`` of one that failed.

        ``present`` are those of members that are there, by name; the folders of the others lie in ``path``.
        """
        values: dict[Setting, list[float]] = {}
        # In the order of the population that began: in one that goes on, those that have ended are not members.
        for name in self.members:
            if name in present:
                score: tuple[Setting, float] | None = present[name]
            elif name in self.failed_settings:
                score = tuple(self.failed_settings[name]), worst
            else:
                score = ended_value(RunFolder(path / name), epoch, worst)
            if score is not None:
                values.setdefault(score[0], []).append(score[1])
        return values
