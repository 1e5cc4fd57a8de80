"""Runs are paired by what they share, and comparisons that make no sense are refused in one line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from digitlab.compare.comparison import compare_groups, monitored_metric
from digitlab.compare.groups import read_groups
from digitlab.compare.wording import comparison_table, p_text, sentence
from digitlab.core.errors import ConfigError

SEEDS = range(6)
# The accuracy depends on the seed much more than on the optimizer, so only pairs show the difference.
OF_SEED = [0.90, 0.95, 0.85, 0.93, 0.88, 0.97]
GAIN = [0.004, 0.005, 0.003, 0.006, 0.004, 0.005]


@pytest.fixture
def sweep(tmp_path, write_run):
    """Two optimizers with two learning rates and six seeds; adam is better by ``GAIN``."""
    for lr in (0.1, 0.01):
        for seed in SEEDS:
            for name, gain in (("adam", GAIN[seed]), ("sgd", 0.0)):
                folder = tmp_path / "sweep" / f"{name}_{lr}_{seed}"
                accuracy = OF_SEED[seed] + gain + (0.01 if lr == 0.1 else 0)
                write_run(
                    folder, f"optimizer={name}", f"optimizer.lr={lr}", f"seed={seed}", accuracy=accuracy,
                    test=accuracy - 0.02,
                )  # fmt: skip
    return tmp_path / "sweep"


def compared(*folders, metric="val/accuracy", **options):
    return compare_groups(read_groups(folders, **options), metric)


def test_values_of_a_key_are_paired_by_seed_and_averaged_over_the_learning_rate(sweep):
    (comparison,) = compared(sweep, key="optimizer")
    assert (comparison.first, comparison.second) == ("optimizer=adam", "optimizer=sgd")
    # Two learning rates share the luck of a seed, so they are no independent pairs.
    assert comparison.difference.count == len(SEEDS)
    assert comparison.difference.mean == pytest.approx(np.mean(GAIN))
    assert [one - other for one, other in comparison.pairs] == pytest.approx(GAIN)
    assert comparison.significant
    assert any("the mean over optimizer.lr of the runs with one seed" in note for note in comparison.notes)
    text = sentence(comparison)
    assert text.startswith("optimizer=adam is 0.45 points better than optimizer=sgd in val/accuracy (95 % CI 0.34 to")
    assert "6 pairs" in text


def test_pairs_of_one_seed_say_that_they_differ_in_other_settings(tmp_path, write_run):
    for lr, gain in ((0.1, 0.01), (0.2, 0.03), (0.3, 0.02)):
        for name, own in (("adam", gain), ("sgd", 0.0)):
            write_run(tmp_path / f"{name}{lr}", f"optimizer={name}", f"optimizer.lr={lr}", accuracy=0.5 + lr + own)
    (comparison,) = compared(tmp_path, key="optimizer")
    assert comparison.difference.count == 3
    assert any("nothing about other seeds" in note for note in comparison.notes)


def test_the_better_group_is_the_one_that_wins_in_the_pairs(tmp_path, write_run):
    for seed in SEEDS:
        write_run(tmp_path / "a" / str(seed), f"seed={seed}", accuracy=OF_SEED[seed])
        write_run(tmp_path / "b" / str(seed), f"seed={seed}", accuracy=OF_SEED[seed] + GAIN[seed])
    # Easy seeds without partners lift the mean of all runs of a above that of b.
    for seed in range(100, 110):
        write_run(tmp_path / "a" / str(seed), f"seed={seed}", accuracy=0.99)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    assert (comparison.first, comparison.second) == ("b", "a")
    assert comparison.difference.mean == pytest.approx(np.mean(GAIN))
    assert comparison.difference.interval[0] > 0


def test_folds_are_paired_and_a_note_says_that_they_overlap(tmp_path, write_run):
    for name, gain in (("a", GAIN), ("b", [0.0] * 6)):
        for fold in range(5):
            write_run(
                tmp_path / name / str(fold), "data.folds=5", f"data.fold={fold}", accuracy=OF_SEED[fold] + gain[fold]
            )
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    assert comparison.difference.count == 5
    assert any("folds share training images" in note for note in comparison.notes)


def test_several_comparisons_can_show_less_than_one(tmp_path, write_run):
    for value, noise in ((0.1, (0.0, 0.01, -0.01)), (0.2, (0.0, 0.0, 0.0)), (0.3, (0.01, 0.0, 0.0))):
        for seed in range(3):
            write_run(tmp_path / f"{value}{seed}", f"optimizer.lr={value}", f"seed={seed}", accuracy=0.9 + noise[seed])
    one = compared(tmp_path, key="optimizer.lr")[0]
    alone = replace(one, tests=1)

    def shown(comparison):
        return float(sentence(comparison).partition("less than ")[2].split()[0])

    assert shown(one) > 1.3 * shown(alone)


@pytest.mark.parametrize(
    ("p_value", "text"), [(3e-5, "< 0.0001"), (0.0011, "0.0011"), (0.0496, "0.050"), (0.5, "0.50"), (0.021, "0.021")]
)
def test_p_values_are_never_rounded_to_zero(p_value, text):
    assert p_text(p_value) == text


def test_the_table_is_in_points_for_percentages(sweep):
    columns, ((better, other, difference, interval, *_),) = comparison_table(compared(sweep, key="optimizer"))
    assert columns[2] == "difference in points"
    assert (better, other, difference) == ("optimizer=adam", "optimizer=sgd", "+0.45")
    assert interval.startswith("+0.34 to +0.5")


def test_a_condition_keeps_some_of_the_runs(sweep):
    (comparison,) = compared(sweep, key="optimizer", where=["optimizer.lr=1e-1"])
    assert comparison.difference.count == len(SEEDS)
    assert any("runs without optimizer.lr=1e-1" in note for note in comparison.notes)


def test_folders_are_groups(sweep, tmp_path):
    for name in ("adam", "sgd"):
        (tmp_path / name).mkdir()
        for run in sweep.glob(f"{name}_*"):
            run.rename(tmp_path / name / run.name)
    (comparison,) = compared(tmp_path / "sgd", tmp_path / "adam")
    assert (comparison.first, comparison.second, comparison.difference.count) == ("adam", "sgd", 6)


def test_other_seeds_are_compared_without_pairs(tmp_path, write_run):
    for seed in SEEDS:
        write_run(tmp_path / "a" / str(seed), f"seed={seed}", accuracy=OF_SEED[seed])
        write_run(tmp_path / "b" / str(seed), f"seed={seed + 100}", "optimizer.lr=0.5", accuracy=OF_SEED[seed] - 0.1)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    assert not comparison.difference.paired
    assert comparison.difference.mean == pytest.approx(0.1)
    assert any("seeds differ" in note for note in comparison.notes)


def test_several_comparisons_are_corrected(tmp_path, write_run):
    for value, gain in ((0.1, 0.0), (0.2, 0.003), (0.3, 0.0031)):
        for seed in SEEDS:
            jitter = GAIN[(seed * 2) % 6] * value
            write_run(
                tmp_path / f"{value}_{seed}", f"optimizer.lr={value}", f"seed={seed}",
                accuracy=OF_SEED[seed] + gain + jitter,
            )  # fmt: skip
    comparisons = compared(tmp_path, key="optimizer.lr")
    assert len(comparisons) == 3
    for each in comparisons:
        assert each.tests == 3
        assert each.corrected_p_value >= each.difference.p_value
        assert "after correction for 3 comparisons" in sentence(each)


def test_a_loss_is_better_when_it_is_small(tmp_path, write_run):
    for name, gain in (("low", 0.0), ("high", 0.5)):
        for seed in SEEDS:
            loss = OF_SEED[seed] + gain + 0.01 * seed * gain
            write_run(tmp_path / name / str(seed), f"seed={seed}", metrics={"val/loss": loss})
    (comparison,) = compared(tmp_path / "high", tmp_path / "low", metric="val/loss")
    assert (comparison.first, comparison.second) == ("low", "high")
    assert comparison.difference.mean < 0
    assert sentence(comparison).startswith("low is 0.51")


def test_too_few_seeds_say_what_they_could_show(tmp_path, write_run):
    for seed, noise in enumerate((0.0, 0.01, -0.01)):
        write_run(tmp_path / "a" / str(seed), f"seed={seed}", accuracy=0.9 + noise)
        write_run(tmp_path / "b" / str(seed), f"seed={seed}", accuracy=0.9)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    text = sentence(comparison)
    assert text.startswith("No difference shown between")
    assert "3 pairs usually can't show less than" in text
    assert "12 could show" in text
    for seed, accuracy in enumerate((0.6, 0.9)):
        write_run(tmp_path / "c" / str(seed), f"seed={seed}", accuracy=accuracy)
        write_run(tmp_path / "d" / str(seed), f"seed={seed}", accuracy=0.5)
    (comparison,) = compared(tmp_path / "c", tmp_path / "d")
    assert "2 pairs usually can't show any difference; 8 could show" in sentence(comparison)


def test_single_runs_have_no_p_value(tmp_path, write_run):
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        write_run(tmp_path / name, accuracy=accuracy)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    assert comparison.corrected_p_value is None
    assert "a is 10.00 points better than b" in sentence(comparison)
    assert "at least 5 seeds" in sentence(comparison)


def test_runs_that_do_not_count_are_reported(tmp_path, write_run):
    for seed in SEEDS:
        write_run(tmp_path / "a" / str(seed), f"seed={seed}", accuracy=OF_SEED[seed])
        write_run(tmp_path / "b" / str(seed), f"seed={seed}", accuracy=OF_SEED[seed] - 0.01 - 0.001 * seed)
    write_run(tmp_path / "a" / "failed", "seed=7", status="failed", accuracy=0.1)
    write_run(tmp_path / "a" / "limited", "seed=8", "trainer.limit_val_batches=3", accuracy=0.99)
    write_run(tmp_path / "b" / "diverged", "seed=9", accuracy=None)
    halved = write_run(tmp_path / "b" / "halved", "seed=11", accuracy=0.1) / "result.json"
    halved.write_text(json.dumps(json.loads(halved.read_text()) | {"halved_after_epoch": 2}))
    write_run(tmp_path / "b" / "alone", "seed=10", accuracy=0.2)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    assert comparison.difference.count == len(SEEDS)
    notes = "\n".join(comparison.notes)
    for expected in (
        "a: 1 run failed", "a: 1 run limited to some mini-batches", "b: 1 run without a finite val/accuracy",
        "1 run without a partner", "b: 1 run ended early by halving",
    ):  # fmt: skip
        assert expected in notes


@pytest.mark.parametrize(
    ("first", "second", "metric", "expected"),
    [
        (["data=mnist"], ["data=cifar10"], "val/accuracy", "different data sets: cifar10, mnist"),
        (
            ["data=emnist", "data.split=letters"],
            ["data=emnist", "data.split=digits"],
            "val/accuracy",
            "different data sets: emnist digits, emnist letters",
        ),
        (["data.val_size=5000"], ["data.val_size=4000"], "val/accuracy", "data.val_size=5000 and 4000"),
        (["data.split_seed=0"], ["data.split_seed=1"], "val/accuracy", "data.split_seed=0 and 1"),
        ([], ["optimizer.lr=0.1"], "val/acuracy", "--metric=val/acuracy: no run of"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(tmp_path, write_run, first, second, metric, expected):
    write_run(tmp_path / "a", *first, accuracy=0.9)
    write_run(tmp_path / "b", *second, accuracy=0.8)
    with pytest.raises(ConfigError) as caught:
        compared(tmp_path / "a", tmp_path / "b", metric=metric)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_validation_set_can_be_compared_on_the_test_set(tmp_path, write_run):
    write_run(tmp_path / "a", "data.val_size=5000", test=0.9)
    write_run(tmp_path / "b", "data.val_size=4000", test=0.8)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b", metric="test/accuracy")
    assert comparison.difference.mean == pytest.approx(0.1)


def test_settings_without_partners_are_refused_and_named(tmp_path, write_run):
    for name, rates in (("a", (0.1, 0.2)), ("b", (0.3, 0.4))):
        for lr in rates:
            write_run(tmp_path / name / str(lr), f"optimizer.lr={lr}", accuracy=0.9)
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.1,0\.2 against 0\.3,0\.4"):
        compared(tmp_path / "a", tmp_path / "b")


def test_groups_are_refused_in_one_line(sweep, tmp_path):
    for folders, options, expected in (
        ([sweep], {}, "give two"),
        ([sweep, sweep], {}, "given twice"),
        ([sweep], {"key": "optimizer.momentumm"}, "no run has this key"),
        ([sweep], {"key": "lr"}, "no run has this key; write optimizer.lr"),
        ([sweep], {"key": "optimizer", "where": ["sed=0"]}, "--where=sed: no run has this key (did you mean `seed`?)"),
        ([sweep], {"key": "model"}, "at least two values"),
        ([sweep], {"key": "optimizer", "where": ["optimizer.lr"]}, "must be KEY=VALUE"),
        ([sweep, tmp_path / "missing"], {}, "there is no such folder"),
        ([sweep], {"key": "optimizer", "where": ["optimizer.lr=7"]}, "finished runs"),
        ([sweep], {"key": "seed"}, "only repeats a setting"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_groups(folders, **options)
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        "model.hidden=[64,64]", "model.hidden=[64, 64]", "optimizer.lr=1e-3", "optimizer.lr=1e-3,7",
        "optimizer.betas=[9e-1,0.999]", "trainer.gradient_clip_norm=null", "trainer.gradient_clip_norm=None",
        "model.batch_norm=True", "model.batch_norm=true", "optimizer='adam'", "test=best",
    ],
)  # fmt: skip
def test_a_condition_is_typed_as_the_setting_is(tmp_path, write_run, condition):
    settings = ("model.hidden=[64,64]", "optimizer.lr=0.001", "model.batch_norm=true", "seed=1")
    others = ("model.hidden=[64]", "optimizer.lr=0.01", "seed=0", "optimizer=sgd")
    others += ("trainer.gradient_clip_norm=1", "model.batch_norm=false", "test=last")
    for name in "ab":
        write_run(tmp_path / name / "wanted", *settings, accuracy=0.9)
        write_run(tmp_path / name / "other", *others, accuracy=0.9)
    for group in read_groups([tmp_path / "a", tmp_path / "b"], where=[condition]):
        assert [run.folder.path.name for run in group.runs] == ["wanted"]
        assert group.reasons() == {f"without {condition}": 1}


def test_conditions_that_no_run_meets_name_the_settings_of_the_runs(sweep):
    with pytest.raises(ConfigError, match=r"without optimizer=Adam: optimizer=adam; optimizer=sgd\)"):
        read_groups([sweep], key="optimizer.lr", where=["optimizer=Adam"])
    for condition in ("optimizer==adam", "optimizer!=adam", "optimizer.lr>=0.1"):
        with pytest.raises(ConfigError, match="must be KEY=VALUE"):
            read_groups([sweep], key="optimizer.lr", where=[condition])


def test_an_unreadable_run_is_named_with_the_reason(tmp_path, write_run):
    runs = {name: write_run(tmp_path / "a" / name, accuracy=0.9) for name in ("damaged", "empty", "lost", "other")}
    write_run(tmp_path / "b" / "0", accuracy=0.8)
    (runs["damaged"] / "result.json").write_text("{")
    (runs["empty"] / "result.json").write_text("{}")
    (runs["lost"] / ".hydra" / "hydra.yaml").unlink()
    (runs["other"] / "result.json").write_text("[]")
    with pytest.raises(ConfigError) as caught:
        read_groups([tmp_path / "a", tmp_path / "b"])
    message = str(caught.value)
    assert message.startswith("FOLDER=a: contains no run to compare (4 unreadable: damaged: result.json is damaged (")
    assert "empty: result.json or .hydra/config.yaml has no 'status'" in message
    write_run(tmp_path / "a" / "good", accuracy=0.9)
    (comparison,) = compared(tmp_path / "a", tmp_path / "b")
    (note,) = [note for note in comparison.notes if "unreadable" in note]
    assert note.startswith("a: 4 runs unreadable: ")
    assert note.endswith("and 1 more, not counted")
    for name in ("damaged", "empty"):
        shutil.rmtree(runs[name])
    with pytest.raises(ConfigError, match=r"other: result\.json is not one of digitlab's") as caught:
        read_groups([tmp_path / "a"], key="optimizer.lr", where=["seed=7"])
    assert "lost: hydra.yaml: No such file or directory" in str(caught.value)


def test_a_limited_test_counts_only_for_validation_metrics(tmp_path, write_run):
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        write_run(tmp_path / name, "trainer.limit_test_batches=3", accuracy=accuracy)
    assert compared(tmp_path / "a", tmp_path / "b")[0].difference.mean == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="test/accuracy"):
        compared(tmp_path / "a", tmp_path / "b", metric="test/accuracy")


def test_the_monitored_metric_is_the_default(sweep):
    assert monitored_metric(read_groups([sweep], key="optimizer")) == "val/accuracy"
