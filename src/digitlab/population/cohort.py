"""The members that a population began with. Each member's checkpoint contains them.

A population that was killed resumes without the members that had finished, but halving still counts these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from digitlab.population.halving import Setting, ended_value
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Cohort:
    """The folder names of all ``members`` at the beginning, and the settings of those that have failed since.

    Failed settings are stored because a failed run's folder is cleared when the run is tried again.
    """

    members: list[str]
    failed_settings: dict[str, list[str]]

    @classmethod
    def of(cls, names: Sequence[str], checkpoints: Sequence[Mapping[str, Any]]) -> "Cohort":
        """The cohort of members with these folder ``names``, which begin now or resume from their ``checkpoints``."""
        # All checkpoints agree. A run that failed before its first checkpoint has none, so the first one that has is
        # taken.
        members = next((checkpoint["members"] for checkpoint in checkpoints if checkpoint.get("members")), names)
        failed_settings = {
            name: setting
            for checkpoint in checkpoints
            for name, setting in checkpoint.get("failed_settings", {}).items()
            # A failed member that is tried again is a member once more, and no longer counts as failed.
            if name not in names
        }
        return cls(list(members), failed_settings)

    def checkpoint_fields(self) -> dict[str, Any]:
        """The fields that every member's checkpoint gets."""
        return asdict(self)

    def scores_by_setting(
        self, path: Path, present: Mapping[str, tuple[Setting, float]], *, epoch: int, worst: float
    ) -> dict[Setting, list[float]]:
        """The scores of the members of each setting after ``epoch``; a failed member has the score ``worst``.

        ``present`` has setting and score of the members in this process, by folder name. Scores of the others are read
        from their folders in ``path``.
        """
        values: dict[Setting, list[float]] = {}
        # In the order of the first population, because ties are decided by order and a resumed population is smaller.
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
