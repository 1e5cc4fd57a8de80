"""Learning-rate range tests: the suggestion for planted curves, and a real population in which rates diverge."""

import math

import pytest

from digitlab.sweeps.rate_test import rate_test, rate_tests, suggestion_lines
from digitlab.sweeps.state import read_runs
from digitlab.sweeps.summary_figures import summary_figures
from digitlab.sweeps.table import SweepTable

RATES = [10 ** (power / 4) for power in range(-20, 5)]


def planted(rate, *, start=2.3, low=0.2, best=0.1, cliff=0.4):
    """Falls on a logarithmic axis to its lowest value at ``best`` and diverges above ``cliff``."""
    if rate > cliff:
        return None
    return low + (start - low) * min(1.0, abs(math.log10(best / rate)) / 3)


def test_the_suggestion_is_the_middle_of_the_rates_with_nearly_the_lowest_loss():
    test = rate_test("", {rate: planted(rate) for rate in RATES})
    assert test.lowest == pytest.approx(0.1)
    # Within a tenth of the fall means within 0.3 decades of the best rate; the grid has steps of 0.25.
    assert test.useful == pytest.approx((10**-1.25, 10**-0.75))
    assert test.suggested == pytest.approx(0.1)
    assert test.diverged == sum(rate > 0.4 for rate in RATES)
    first, second = suggestion_lines(test)
    assert "lowest at 0.1, and nearly as low from 0.056 to 0.18" in first
    assert f"{test.diverged} of 25 rates diverged" in first
    assert "optimizer.lr=0.1" in second


def test_an_island_beyond_an_unstable_rate_is_not_useful():
    losses = {1e-4: 2.0, 1e-3: 1.0, 1e-2: 0.1, 1e-1: 50.0, 1.0: 0.15, 10.0: None}
    assert rate_test("", losses).useful == (1e-2, 1e-2)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (dict.fromkeys(RATES, 2.3), "does not fall at any rate"),
        (dict.fromkeys(RATES), "does not fall at any rate"),
        ({0.1: 2.0, 0.2: 1.0}, "too few rates"),
        ({}, "too few rates"),
    ],
)
def test_curves_without_a_fall_have_no_suggestion(losses, reason):
    test = rate_test("", losses)
    assert (test.lowest, test.useful, test.suggested) == (None, None, None)
    (line,) = suggestion_lines(test)
    assert reason in line


def test_a_run_without_a_readable_history_is_left_out_and_does_not_count_as_diverged(written_sweep, finished):
    runs = written_sweep(*(([f"optimizer.lr={rate}"], finished(0.5)) for rate in (0.1, 0.2)))
    (runs[0].folder.path / "metrics.csv").write_text("epoch,step,val/loss\n1,5,0.25\n")
    (runs[1].folder.path / "metrics.csv").write_text("damaged")
    for run in runs:
        text = "runtime:\n  choices:\n    sweep: lr_range\n"
        (run.folder.path / ".hydra" / "hydra.yaml").write_text(text)
    (test,) = rate_tests(SweepTable("s", runs))
    assert (test.rates, test.losses, test.diverged, test.unreadable) == ([0.1], [0.25], 0, 1)
    assert "; without 1 run whose metrics.csv can't be read" in suggestion_lines(test)[0]


@pytest.mark.extra
def test_a_population_with_diverged_rates_ends_well_and_suggests_a_rate(sweep_py, tmp_path):
    folder = tmp_path / "sweep"
    ended = sweep_py(
        "sweep=lr_range", "loss=mse", "loss.output=raw", "optimizer=sgd", "optimizer.lr=1e-9,2e-9,1e-3,1e-2,1e30",
        "trainer=cpu", "model=linear", "data.train_size=256", "data.val_size=200", "trainer.max_epochs=2",
        "trainer.max_steps=8", "data.batch_size=64", folder=folder, small=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "suggestion: optimizer.lr=" in ended.stdout
    runs = read_runs(folder)
    assert [run.status for run in runs] == ["finished"] * 4 + ["failed"]
    assert runs[-1].diverged
    table = SweepTable("s", runs)
    (test,) = rate_tests(table)
    assert test.losses[-1] is None
    assert all(math.isfinite(loss) for loss in test.losses[:-1])
    # All members start from the same weights and see the same mini-batches, so rates of almost 0 end alike.
    assert test.losses[0] == pytest.approx(test.losses[1], rel=1e-5)
    assert test.losses[2] < test.losses[0]
    assert "learning_rate_range" in {name for name, _ in summary_figures(table, None)}
    # Another sweep of the same rates fails when a run fails.
    again = sweep_py(
        "loss=mse", "loss.output=raw", "optimizer=sgd", "optimizer.lr=1e-4,1e30", folder=tmp_path / "other",
    )  # fmt: skip
    assert again.returncode == 1
