"""The best setting of a sweep against the others: what is compared, what is cut, and when nothing is."""

import json

import pytest

from digitlab.compare.settings import compare_settings
from digitlab.results.folder import RunFolder
from digitlab.sweeps.manifest import Entry
from digitlab.sweeps.state import read_run
from digitlab.sweeps.table import SweepTable

LUCK = (0.01, -0.012, 0.004, 0.0, -0.006)
NOISE = (0.001, -0.001, 0.002, 0.0, -0.002)


@pytest.fixture
def sweep(tmp_path, write_run):
    """``sweep({0.1: 0.9, 0.2: 0.8}, seeds=5)`` is a sweep of learning rates with these mean accuracies."""

    def make(accuracies, *, seeds=5, halved=(), failed=()):
        runs = []
        for place, (lr, accuracy) in enumerate(accuracies.items()):
            for seed in range(seeds):
                words = [f"optimizer.lr={lr}", f"seed={seed}"]
                folder = tmp_path / f"{len(runs)}"
                # Each setting has noise of its own, so that no two differences are equal.
                value = accuracy + LUCK[seed] + NOISE[(seed * (place + 1)) % 5]
                status = "failed" if (lr, seed) in failed else "finished"
                write_run(folder, *words, accuracy=value, status=status)
                if lr in halved:
                    result = json.loads((folder / "result.json").read_text())
                    (folder / "result.json").write_text(json.dumps(result | {"halved_after_epoch": 1}))
                runs.append(read_run(RunFolder(folder), Entry(len(runs), folder.name, str(len(runs)), words)))
        return SweepTable("s", runs)

    return make


def test_the_best_setting_is_compared_with_each_other_one(sweep):
    result = compare_settings(sweep({0.1: 0.80, 0.2: 0.90, 0.3: 0.85}))
    assert [(each.first, each.second) for each in result.comparisons] == [("lr=0.2", "lr=0.3"), ("lr=0.2", "lr=0.1")]
    assert [each.difference.mean for each in result.comparisons] == pytest.approx([0.05, 0.1])
    assert {(each.difference.count, each.tests) for each in result.comparisons} == {(5, 2)}
    assert all(each.significant for each in result.comparisons)
    assert any("train the settings in question again with new seeds" in note for note in result.notes)


def test_a_long_sweep_shows_the_best_settings_and_is_corrected_for_all(sweep):
    result = compare_settings(sweep({round(0.01 * number, 2): 0.5 + 0.01 * number for number in range(1, 16)}, seeds=2))
    assert len(result.comparisons) == 11
    assert {each.tests for each in result.comparisons} == {14}
    assert any("the 3 worst settings are not shown; the p-values are corrected for all 14" in n for n in result.notes)


def test_settings_that_halving_ended_are_left_out(sweep):
    result = compare_settings(sweep({0.1: 0.9, 0.2: 0.88, 0.3: 0.7, 0.4: 0.6}, halved=(0.3, 0.4)))
    assert len(result.comparisons) == 1
    assert any("2 settings that halving ended early" in note for note in result.notes)


def test_a_failed_run_takes_its_pair_away(sweep):
    result = compare_settings(sweep({0.1: 0.9, 0.2: 0.8}, failed={(0.2, 3)}))
    assert result.comparisons[0].difference.count == 4
    assert any("lr=0.2: 1 run failed" in note for note in result.notes)


@pytest.mark.parametrize(
    ("accuracies", "options", "reason"),
    [
        ({0.1: 0.9}, {}, "only one setting has a finished run"),
        ({0.1: 0.9, 0.2: 0.8}, {"seeds": 1}, "each setting has one run"),
        ({0.1: 0.9, 0.2: 0.8}, {"halved": (0.2,)}, "only one setting has a finished run of all its epochs"),
    ],
)
def test_a_sweep_that_can_not_be_compared_says_why(sweep, accuracies, options, reason):
    assert reason in compare_settings(sweep(accuracies, **options))


def test_a_sweep_without_a_finished_run_says_so(sweep):
    assert compare_settings(sweep({0.1: 0.9}, failed={(0.1, seed) for seed in range(5)})) == "no run has finished"
