"""``Cohort``: the members with which a population began. ``trainer`` creates it, and halving uses it.

A population trains several runs together; each of them is a member. Halving compares the members at some epochs and
ends the worse half. If a population was killed, it resumes without the members that had finished, but halving must
still compare with these. So the checkpoint of each member contains the names of all members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from digitlab.population.halving import Setting, score_of_ended_run
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Cohort:
    """The folder names of all ``members`` at the beginning, and the settings of those that have failed since, by name.

    Failed settings are stored because a failed run's folder is cleared when the run is tried again.
    """

    members: list[str]
    failed_settings: dict[str, list[str]]

    @classmethod
    def of(cls, names: Sequence[str], checkpoints: Sequence[Mapping[str, Any]]) -> "Cohort":
        """Return the cohort of the members with these folder ``names``.

        ``checkpoints`` are those from which they resume; the mapping of a member that begins now is empty.
        """
        # All checkpoints contain the same members. A run that failed before its first checkpoint has none, so the first
        # one that exists is read.
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
        """Return the entries that the checkpoint of every member gets."""
        return asdict(self)

    def scores_by_setting(
        self, sweep_folder: Path, current_scores: Mapping[str, tuple[Setting, float]], *, epoch: int, worst: float
    ) -> dict[Setting, list[float]]:
        """Return the scores of the members of each setting after ``epoch``; a failed member has the score ``worst``.

        ``current_scores`` has the setting and the score of each member in this process, by folder name. Scores of the
        others are read from their folders in ``sweep_folder``.
        """
        scores: dict[Setting, list[float]] = {}
        # The order of the members at the beginning, because the order decides between equal scores, and a resumed
        # population has only some of the members.
        for name in self.members:
            if name in current_scores:
                setting_and_score: tuple[Setting, float] | None = current_scores[name]
            elif name in self.failed_settings:
                setting_and_score = tuple(self.failed_settings[name]), worst
            else:
                setting_and_score = score_of_ended_run(RunFolder(sweep_folder / name), epoch, worst)
            if setting_and_score is not None:
                setting, score = setting_and_score
                scores.setdefault(setting, []).append(score)
        return scores
