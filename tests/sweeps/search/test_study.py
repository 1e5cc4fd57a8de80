"""The study of a search asks for trials, stores their results, and refuses a study of another search."""

import math

import pytest

from digitlab.core.errors import ConfigError, RunError

pytest.importorskip("optuna")

from digitlab.sweeps.search.study import Study

PLANE = ("optimizer.lr=tag(log,interval(1e-4,1))", "model.dropout=interval(0,0.5)")


def valley(chosen):
    """A loss with a known minimum: learning rate 0.01 without dropout."""
    return abs(math.log10(chosen["optimizer.lr"]) + 2) + chosen["model.dropout"]


@pytest.fixture
def study(plan, tmp_path):
    """``study(...)`` opens the study of the search over ``PLANE`` or another space, always in the same folder."""

    def opened(*settings, space=PLANE, fingerprint="0", metric="val/loss"):
        made = plan(*space, *(f"hydra.sweeper.{setting}" for setting in settings))
        return Study(tmp_path, made, fingerprint=fingerprint, metric=metric)

    return opened


def searched(study, size, value=valley):
    """All trials that the study asks for; each gets its result at once."""
    asked = {}
    while trials := study.round(size):
        asked |= trials
        for number, chosen in trials.items():
            study.tell(number, value(chosen))
    return asked


@pytest.mark.sample(3)
@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes"])
def test_a_search_asks_for_the_planned_number_of_trials_within_the_bounds(sampler, study):
    asked = searched(study(f"sampler={sampler}", "n_trials=9"), 4)
    assert sorted(asked) == list(range(9))
    assert all(1e-4 <= chosen["optimizer.lr"] <= 1 and 0 <= chosen["model.dropout"] <= 0.5 for chosen in asked.values())
    assert len({chosen["optimizer.lr"] for chosen in asked.values()}) == 9


def test_a_grid_visits_every_point_once(study):
    space = ("optimizer.lr=0.1,0.01", "data.batch_size=range(8,32,8)")
    asked = searched(study("sampler=grid", space=space), 4, value=lambda chosen: 0.5)
    points = {tuple(chosen.values()) for chosen in asked.values()}
    assert len(asked) == len(points) == 6
    assert not study("sampler=grid", space=space).round(4)


@pytest.mark.extra
def test_later_trials_have_lower_losses(study):
    asked = searched(study("n_trials=30"), 4)
    losses = [valley(asked[number]) for number in sorted(asked)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.sample(3)
@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "grid"])
def test_an_interrupted_search_makes_the_same_choices(sampler, study, tmp_path, plan):
    space = PLANE if sampler != "grid" else ("optimizer.lr=0.1,0.01,0.001", "model.dropout=0,0.25")
    settings = (f"sampler={sampler}", "n_trials=6")

    def value(chosen):
        return valley({key: float(number) for key, number in chosen.items()})

    first = study(*settings, space=space)
    trials = first.round(4)
    first.tell(0, value(trials[0]))  # the process is killed now
    again = study(*settings, space=space)
    assert set(again.round(4)) == {1, 2, 3}
    assert {number: trials[number] for number in (1, 2, 3)} == again.round(4)
    disturbed = trials | searched(again, 4, value)
    (tmp_path / "alone").mkdir()
    made = plan(*space, *(f"hydra.sweeper.{setting}" for setting in settings))
    alone = Study(tmp_path / "alone", made, fingerprint="0", metric="val/loss")
    assert searched(alone, 4, value) == disturbed


def test_a_larger_number_of_trials_continues_the_search(study):
    before = searched(study("n_trials=2"), 2)
    after = searched(study("n_trials=5"), 2)
    assert (sorted(before), sorted(after)) == ([0, 1], [2, 3, 4])


def test_a_failed_trial_counts_and_the_search_continues(study):
    asked = searched(study("n_trials=12"), 3, value=lambda chosen: None if chosen["optimizer.lr"] > 0.01 else 1.0)
    assert len(asked) == 12
    assert not study("n_trials=12").round(3)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("other", "key"),
    [
        ({"space": (PLANE[0], "model.dropout=interval(0,0.9)")}, "model.dropout"),
        ({"space": (*PLANE, "optimizer=sgd,adam")}, "optimizer"),
        ({"space": (*PLANE, "seed=0,1")}, "seed"),
        ({"space": (*PLANE, "trainer.max_epochs=3"), "fingerprint": "1"}, "trainer.max_epochs"),
        ({"fingerprint": "1"}, "sweep.name"),
        ({"metric": "val/accuracy"}, "monitor.metric"),
    ],
)
def test_a_different_search_is_refused_with_the_key_that_differs(other, key, study):
    study()
    with pytest.raises(ConfigError, match=r"sweep\.fresh=true") as caught:
        study(**other)
    assert caught.value.key == key


@pytest.mark.parametrize("storage", ["sqlite:////proc/nowhere/search.db", "nonsense", "'mysql://host/x'"])
def test_a_database_that_cannot_be_opened_is_refused_in_one_line(storage, study):
    with pytest.raises(ConfigError, match="can't be opened") as caught:
        study(f"storage={storage}")
    assert caught.value.key == "hydra.sweeper.storage"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no database", None], ids=["text", "a folder"])
def test_a_damaged_file_says_how_to_start_again(content, study, tmp_path, one_line):
    file = tmp_path / "search.db"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(RunError, match=f"^{file}: can't be opened: .*move this file away") as caught:
        study()
    assert one_line(str(caught.value))
    assert "SQL:" not in str(caught.value)
