"""The settings ``hydra.sweeper.*`` of a search: what they mean, and which are refused."""

import pytest

from digitlab.config.compose import CONF
from digitlab.core.errors import ConfigError

pytest.importorskip("optuna")

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "model.dropout=interval(0,0.5)")


@pytest.mark.parametrize(
    ("typed", "trials"),
    [((), 50), (("n_trials=7",), 7), (("sampler=grid",), 6), (("sampler=grid", "n_trials=4"), 4)],
)
def test_the_number_of_trials_is_as_set_but_at_most_the_size_of_the_grid(typed, trials, plan):
    space = ("optimizer.lr=0.1,0.01", "data.batch_size=16,32,64", "seed=0,1")
    made = plan(*space, *(f"hydra.sweeper.{setting}" for setting in typed))
    assert (made.trials, made.runs) == (trials, 2 * trials)


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        (("n_trials=100",), 18),
        (("n_trials=20",), 4),
        (("n_trials=20", "n_jobs=30"), 10),
        (("n_trials=20", "sampler=random"), 18),
        (("n_jobs=1",), 1),
    ],
)
def test_round_sizes_use_the_launcher_but_leave_rounds_to_learn_from(typed, size, plan):
    made = plan(*SPACE, "seed=0,1,2", *(f"hydra.sweeper.{setting}" for setting in typed))
    assert made.round_size(54) == size


def test_without_a_search_there_is_no_plan(plan):
    assert plan("optimizer.lr=0.1,0.01", sweeper="basic") is None


@pytest.mark.parametrize("override", ["optimizer.lr=interval(0,1)", "data.batch_size=int(interval(8,16))"])
def test_an_interval_needs_a_search(override, plan):
    with pytest.raises(ConfigError, match="hydra/sweeper=optuna") as caught:
        plan(override, sweeper="basic")
    assert caught.value.key == override.partition("=")[0]


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("hydra.sweeper.sampler=tpee", "hydra.sweeper.sampler"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials"),
        ("hydra.sweeper.n_trials=many", "hydra.sweeper.n_trials"),
        ("hydra.sweeper.n_jobs=-1", "hydra.sweeper.n_jobs"),
        ("hydra.sweeper.seed=-1", "hydra.sweeper.seed"),
        ("hydra.sweeper.sampler=grid", "optimizer.lr"),
    ],
)
def test_a_bad_setting_is_refused_by_its_key(typed, key, plan):
    with pytest.raises(ConfigError) as caught:
        plan(*SPACE, typed)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", [("optimizer=sgd,adam", "seed=0,1"), ("optimizer.lr=interval(0,1)",)])
def test_cmaes_needs_two_numeric_keys(space, plan):
    with pytest.raises(ConfigError, match="two intervals") as caught:
        plan(*space, "hydra.sweeper.sampler=cmaes")
    assert caught.value.key == "hydra.sweeper.sampler"


# Each of these varies one key in a fixed way; the others are spaces of the same factors.
MEASUREMENTS = {"lr_range", "train_size"}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", sorted({path.stem for path in (CONF / "sweep").glob("*.yaml")} - MEASUREMENTS))
def test_every_ready_space_can_be_searched_and_widened(name, plan):
    made = plan(f"sweep={name}", "optimizer.lr=tag(log,interval(1e-4,1))")
    factors = {"optimizer", "optimizer.lr", "optimizer.weight_decay", "data.batch_size", "model.dropout"}
    searched = {parameter.key: parameter for parameter in made.space.parameters}
    without_dropout = name.endswith(("_linear", "_fast_cnn", "_torchvision"))
    assert set(searched) == factors - ({"model.dropout"} if without_dropout else set())
    assert searched["optimizer.lr"].numbers is not None
    assert len(made.space.example()) == len(searched) + 1


def test_a_search_needs_something_to_choose(plan):
    with pytest.raises(ConfigError, match="something to choose") as caught:
        plan("model=mlp", "seed=0,1")
    assert caught.value.key == "hydra/sweeper"


def test_a_missing_library_is_named_with_the_command_that_installs_it(plan, monkeypatch):
    monkeypatch.setattr("digitlab.core.extras.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs optuna and cmaes: run pip install -e '\.\[search\]'"):
        plan(*SPACE)
