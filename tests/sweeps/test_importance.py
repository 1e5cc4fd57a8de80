"""The importance of keys: planted effects are found, intervals hold them, and a missing extra is named in one line."""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest

from digitlab.sweeps import importance
from digitlab.sweeps.importance import HINT, importances
from digitlab.sweeps.table import SweepTable

RATES, DROPOUTS, SEEDS = (0.001, 0.01, 0.1), (0.0, 0.2, 0.4), (0, 1)


@pytest.fixture
def table(written_sweep, finished):
    """The learning rate matters much, dropout little; the run at rate 0.1 with dropout 0.4 and seed 1 failed."""
    random = np.random.default_rng(0)

    def outcome(lr, dropout, seed):
        if (lr, dropout, seed) == (0.1, 0.4, 1):
            return {"status": "failed", "error": "diverged", "metrics": {}}
        return finished(0.7 + 0.1 * np.log10(lr * 1000) - 0.03 * dropout + random.normal(0, 0.002))

    runs = written_sweep(*(
        ([f"optimizer.lr={lr}", f"model.dropout={dropout}", f"seed={seed}"], outcome(lr, dropout, seed))
        for lr, dropout, seed in itertools.product(RATES, DROPOUTS, SEEDS)
    ))  # fmt: skip
    return SweepTable("s", runs)


def without(monkeypatch, package):
    monkeypatch.setattr(importance, "find_spec", lambda name: None if name == package else find_spec(name))


@pytest.mark.sample(2)
@pytest.mark.parametrize("evaluator", ["fANOVA", "PED-ANOVA"])
def test_the_key_with_the_larger_effect_is_more_important(table, evaluator, monkeypatch):
    if evaluator == "PED-ANOVA":
        without(monkeypatch, "sklearn")
    result = importances(table, resamples=10)
    assert result.method.startswith(evaluator)
    first, second = result.keys
    assert (first.key, second.key) == ("optimizer.lr", "model.dropout")
    assert first.share + second.share == pytest.approx(1)
    assert first.share > 0.55
    if evaluator == "fANOVA":
        # The variances of the planted effects are 67 to 1.
        assert first.share > 0.9
        assert first.interval[0] > second.interval[1]
    assert all(low <= each.share <= high for each in result.keys for low, high in [each.interval])
    assert (result.runs, result.left_out) == (17, 1)
    assert "left out: 1 failed" in result.note
    assert importances(table, resamples=10) == result


def test_sweeps_that_are_too_small_say_so(written_sweep, finished):
    runs = written_sweep(*(
        ([f"optimizer.lr={lr}", f"model.dropout={dropout}"], finished(0.5 + lr + dropout))
        for lr, dropout in itertools.product((0.1, 0.2), (0.0, 0.2))
    ))  # fmt: skip
    assert importances(SweepTable("s", runs)) == "the importance of keys needs at least 8 finished runs; there are 4"
    assert "at least two" in importances(SweepTable("s", runs[:1]))


@pytest.mark.extra
def test_the_command_prints_and_draws_it_on_request(table, digitlab, tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "_RESAMPLES", 5)
    code, out, err = digitlab("sweep", tmp_path / "sweep", "--importance")
    assert (code, err) == (0, "")
    assert "fANOVA" in out
    assert (tmp_path / "sweep" / "figures" / "importance.png").exists()
    assert (tmp_path / "sweep" / "figures" / "contours_optimizer.lr_and_model.dropout.png").exists()


def test_without_optuna_the_command_names_the_extra_and_the_rest_works(table, digitlab, tmp_path, monkeypatch):
    without(monkeypatch, "optuna")
    code, out, err = digitlab("sweep", tmp_path / "sweep", "--importance")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ".[search]" in err
    assert digitlab("sweep", tmp_path / "sweep", "--no-figures")[0] == 0
    assert importances(table) == HINT
