"""Search spaces as typed on the command line, and choices from them as overrides."""

import itertools

import pytest

from digitlab.core.errors import ConfigError
from digitlab.sweeps.search.space import Numbers, Space


@pytest.fixture
def parameter(loader):
    """``parameter("key=...")`` is the only parameter of that override."""

    def read(override):
        (only,) = Space(loader, [override]).parameters
        return only

    return read


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("interval(0,0.5)", Numbers(0.0, 0.5)),
        ("tag(log, interval(1e-4,1))", Numbers(1e-4, 1.0, log=True)),
        ("int(interval(8,64))", Numbers(8, 64, step=1)),
        ("range(10,50,10)", Numbers(10, 40, step=10)),
        ("range(5,1,-2)", Numbers(3, 5, step=2)),
        ("range(0,1,0.25)", Numbers(0.0, 0.75, step=0.25)),
        ("tag(log,range(1,9))", Numbers(1, 8, step=1, log=True)),
    ],
)
def test_numbers_are_searched_between_their_bounds(typed, numbers, parameter):
    read = parameter(f"data.batch_size={typed}")
    assert (read.numbers, read.typed, read.choices) == (numbers, typed, ())
    assert read.numbers.whole == all(isinstance(number, int) for number in (numbers.low, numbers.high))


@pytest.mark.parametrize("typed", ["0.1,0.01", "choice(0.1,0.01)"])
def test_lists_are_choices(typed, parameter):
    assert parameter(f"optimizer.lr={typed}").choices == ("0.1", "0.01")


def test_lists_of_lists_are_choices_too(parameter):
    assert parameter("model.hidden=[64,64],[128]").choices == ("[64,64]", "[128]")


@pytest.mark.parametrize(
    ("typed", "count"), [("range(0,1,0.1)", 10), ("range(1,6,2)", 3), ("a,b", 2), ("interval(0,1)", None)]
)
def test_a_grid_has_every_value_once(typed, count, parameter):
    grid = parameter(f"key={typed}").grid
    assert grid is None if count is None else len(set(grid)) == count


def test_numbers_are_rounded_within_their_bounds(parameter):
    dropout = parameter("model.dropout=interval(0.123412,0.99999)")
    written = [dropout.override(value) for value in (0.123412, 0.2345678, 0.99999)]
    assert written == ["model.dropout=0.123412", "model.dropout=0.2346", "model.dropout=0.99999"]
    steps = parameter("key=range(0,1,0.1)")
    assert [steps.override(value) for value in steps.grid][:4] == ["key=0.0", "key=0.1", "key=0.2", "key=0.3"]


def test_a_trial_runs_with_every_seed(loader):
    space = Space(loader, ["model=mlp", "optimizer.lr=interval(0,1)", "seed=0,1,2"])
    assert [parameter.key for parameter in space.parameters] == ["optimizer.lr"]
    assert space.jobs({"optimizer.lr": 0.5}) == [["model=mlp", "optimizer.lr=0.5", f"seed={seed}"] for seed in range(3)]
    assert space.fixed() == ["model=mlp"]


def test_a_trial_runs_with_every_fold_and_split_seed(loader):
    space = Space(loader, ["data.folds=3", "optimizer.lr=interval(0,1)", "data.fold=0,1,2", "seed=0,1"])
    assert [parameter.key for parameter in space.parameters] == ["optimizer.lr"]
    assert space.replicates == 6
    jobs = space.jobs({"optimizer.lr": 0.5})
    assert {tuple(job[2:]) for job in jobs} == {(f"data.fold={f}", f"seed={s}") for f in range(3) for s in range(2)}


def test_the_last_of_two_overrides_of_a_key_counts(loader):
    space = Space(loader, ["optimizer.lr=0.1,0.01", "optimizer=sgd,adam", "optimizer.lr=0.5"])
    assert space.jobs({"optimizer": "sgd"}) == [["optimizer.lr=0.5", "optimizer=sgd"]]


def test_the_points_of_a_grid_give_one_job_each(loader):
    overrides = ["optimizer.lr=0.1,0.01", "data.batch_size=range(8,32,8)"]
    space = Space(loader, overrides)
    grids = [parameter.grid for parameter in space.parameters]
    keys = [parameter.key for parameter in space.parameters]
    jobs = [space.jobs(dict(zip(keys, chosen, strict=True)))[0] for chosen in itertools.product(*grids)]
    assert len(jobs) == space.grid_size == 6
    assert jobs[0] == ["optimizer.lr=0.1", "data.batch_size=8"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optimizer.lr=interval(1,0)", "LOW below HIGH"),
        ("optimizer.lr=interval(0,inf)", "two finite numbers"),
        ("optimizer.lr=interval(nan,1)", "two finite numbers"),
        ("optimizer.lr=tag(log,interval(0,1))", "above 0"),
        ("optimizer.lr=tag(log,choice(0.1,0.01))", "no order"),
        ("optimizer.lr=tag(lin,interval(0,1))", "tag lin is unknown"),
        ("data.batch_size=tag(log,range(8,64,8))", "step 1"),
        ("optimizer.lr=tag(log,range(0.5,4,0.5))", "step 1"),
        ("data.batch_size=range(8,8)", "no value"),
        ("monitor.metric=val/loss,val/accuracy", "one metric"),
        ("seed=interval(0,1)", "mean"),
        ("seed=0,0", "twice"),
    ],
)
def test_invalid_spaces_are_refused_with_their_key(override, reason, loader):
    with pytest.raises(ConfigError, match=reason) as caught:
        Space(loader, [override])
    assert caught.value.key == override.partition("=")[0]
