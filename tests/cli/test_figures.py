"""``digitlab figures``: it draws every figure that applies, reports the others, and overwrites nothing."""

import io
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from PIL import Image

from digitlab import cli
from digitlab.figures.gallery import weights_units
from digitlab.figures.gifs import GifOptions, make_gifs
from digitlab.figures.run_data import read_run_data
from digitlab.results.folder import RunFolder

GIFS = {"learning_weights.gif", *(f"learning_weights_{digit}_{digit}.gif" for digit in range(10))}
EVERY_RUN = {
    "history_epochs.png",
    "history_iterations.png",
    "images_first.png",
    "images_random.png",
    "images_classes.png",
    "images_predictions.png",
    "images_right_wrong.png",
    "images_mistakes.png",
    "network_layers.png",
    "confusion_matrix.png",
    "confused_pairs.png",
    "precision_recall.png",
    "reliability.png",
    "class_accuracy.png",
}
WITH_BATCH_LOG = {"nll_by_iteration.png", "nll_by_changed_weights.png", "batch_accuracy.png"}


@pytest.fixture(scope="module")
def trained(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("figures") / "run", "model=linear", "figures.log_batches=true")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def skipped(out):
    return {line.split(": ")[1] for line in out.splitlines() if line.startswith("skipped: ")}


def content(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    """A copy of the run with all its figures, and what the command printed; tests only read it."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("drawn") / "run")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["digitlab", "figures", str(folder), "--gif-images", "4"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    return folder, int(exit_.value.code or 0), out.getvalue(), err.getvalue()


@pytest.mark.xdist_group("drawn")
@pytest.mark.extra
def test_a_linear_run_gets_every_figure_that_applies(drawn):
    run, code, out, err = drawn
    total = len(EVERY_RUN | WITH_BATCH_LOG | GIFS) + 3
    progress = err.splitlines()
    assert code == 0
    assert len(progress) == total
    assert progress[0] == f"figure 1 of {total}: history_epochs.png"
    made = {path.name for path in (run / "figures").iterdir()}
    assert made == EVERY_RUN | WITH_BATCH_LOG | GIFS | {"weights_outputs.png"}
    assert skipped(out) == {"weights_units.png", "weights_filters.png"}
    assert {line for line in out.splitlines() if not line.startswith("skipped")} == {
        str(run / "figures" / name) for name in made
    }
    for name in made:
        with Image.open(run / "figures" / name) as picture:
            picture.verify()
    with Image.open(run / "figures" / "learning_weights_7_7.gif") as gif:
        assert gif.n_frames == 5


@pytest.mark.xdist_group("drawn")
@pytest.mark.extra
def test_nothing_is_overwritten_without_force(digitlab, drawn):
    run, *_ = drawn
    before = content(run / "figures")
    code, out, err = digitlab("figures", run, "--gif-images", 0)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--force" in err
    assert content(run / "figures") == before


@pytest.mark.extra
def test_force_overwrites(digitlab, run):
    (run / "figures").mkdir()
    (run / "figures" / "confusion_matrix.png").write_text("old")
    assert digitlab("figures", run, "--only", "confusion_matrix", "--force")[0] == 0
    assert (run / "figures" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.extra
def test_chosen_figures_are_drawn_in_the_order_of_the_command_and_no_others(digitlab, run, tmp_path):
    names = ["confusion_matrix", "history_epochs"]
    code, out, err = digitlab(
        "figures", run, "--only", names[0], "--only", f"{names[1]}.png", "--out", tmp_path / "two"
    )
    assert (code, out.splitlines()) == (0, [str(tmp_path / "two" / f"{name}.png") for name in names])
    assert {path.stem for path in (tmp_path / "two").iterdir()} == set(names)
    assert len(err.splitlines()) == 2


def test_an_unknown_figure_is_refused_and_the_nearest_is_named(digitlab, run):
    code, out, err = digitlab("figures", run, "--only", "confusion")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--only=confusion: must be one of history_epochs" in err
    assert "did you mean `confusion_matrix`?" in err
    assert not (run / "figures").exists()


WEIGHTS = ("weights_outputs", "weights_units", "weights_filters")


@pytest.mark.extra
@pytest.mark.parametrize(("model", "made"), [("lenet", "weights_filters"), ("mlp_dropout", "weights_units")])
def test_figures_of_weights_that_do_not_apply_are_skipped(digitlab, make_run, tmp_path, model, made):
    folder = make_run(tmp_path / "run", f"model={model}", "trainer.max_epochs=1")
    code, out, _ = digitlab("figures", folder, *(text for name in WEIGHTS for text in ("--only", name)))
    assert (code, skipped(out)) == (0, {f"{name}.png" for name in WEIGHTS if name != made})
    assert [path.name for path in (folder / "figures").iterdir()] == [f"{made}.png"]


@pytest.mark.extra
@pytest.mark.parametrize(
    ("model", "made", "named"),
    [
        ("model=lenet", {"weights_filters.png"}, {"weights_outputs.png", "weights_units.png"}),
        ("model=mlp_dropout", {"weights_units.png"}, {"weights_outputs.png", "weights_filters.png"}),
    ],
)
def test_figures_that_do_not_apply_are_skipped(digitlab, make_run, tmp_path, model, made, named):
    folder = make_run(tmp_path / "run", model, "trainer.max_epochs=1")
    code, out, _ = digitlab("figures", folder, "--gif-images", 0)
    assert code == 0
    assert skipped(out) == named | WITH_BATCH_LOG | GIFS
    assert {path.name for path in (folder / "figures").iterdir()} == EVERY_RUN | made


@pytest.mark.extra
def test_an_untested_run_is_drawn_on_validation_images_if_it_has_some(digitlab, make_run, tmp_path):
    untested = make_run(tmp_path / "untested", "model=linear", "test=none")
    code, out, _ = digitlab("figures", untested, "--only", "confusion_matrix", "--only", "history_epochs")
    assert (code, skipped(out)) == (0, set())
    assert read_run_data(RunFolder(untested)).best_epoch in (1, 2)
    alone = make_run(tmp_path / "alone", "model=linear", "test=none", "data.val_size=0")
    code, out, _ = digitlab("figures", alone, "--gif-images", 0)
    assert code == 0
    assert EVERY_RUN - skipped(out) == {
        "history_epochs.png",
        "history_iterations.png",
        "images_random.png",
        "images_classes.png",
        "network_layers.png",
    }
    # Without validation no epoch is the best.
    assert read_run_data(RunFolder(alone)).best_epoch is None


@pytest.mark.extra
def test_hidden_units_of_a_chosen_class_only(digitlab, make_run, tmp_path):
    folder = make_run(tmp_path / "run", "model=mlp", "model.hidden=[8]", "trainer.max_epochs=1")
    assert digitlab("figures", folder, "--only", "weights_units", "--class", "2", "--class", "3")[0] == 0
    assert (folder / "figures" / "weights_units.png").exists()
    axes = weights_units(read_run_data(RunFolder(folder)), [2, 3]).axes[0]
    assert len(axes.images) == 2 * 5
    assert [text.get_text().partition("\n")[0] for text in axes.texts] == ["→ 2"] * 5 + ["→ 3"] * 5


@pytest.mark.parametrize(
    "names",
    [
        ("history_epochs", "confusion_matrix", "images_first"),
        pytest.param(sorted(name.removesuffix(".png") for name in EVERY_RUN | WITH_BATCH_LOG), marks=pytest.mark.extra),
    ],
    ids=["three", "all"],
)
def test_figures_for_a_paper_are_vector_files_as_wide_as_a_column_and_the_run_does_not_change(
    digitlab, run, tmp_path, names
):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    chosen = [text for name in names for text in ("--only", name)]
    assert (
        digitlab("figures", run, *chosen, "--format", "svg", "--width", "column", "--out", tmp_path / "paper")[0] == 0
    )
    made = sorted((tmp_path / "paper").iterdir())
    assert {path.name for path in made} == {f"{name}.svg" for name in names}
    for path in made:
        width = re.search(r'<svg [^>]*width="([\d.]+)pt"', path.read_text(encoding="utf-8"))
        assert float(width[1]) == pytest.approx(3.5 * 72, abs=0.01)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_folder_without_a_finished_epoch_gives_one_line(digitlab, run, tmp_path):
    (run / "metrics.csv").unlink()
    for folder, expected, message in ((run, 1, "no epoch is finished"), (tmp_path, 2, "is no run folder")):
        code, out, err = digitlab("figures", folder)
        assert (code, out, err.count("\n")) == (expected, "", 1)
        assert message in err


def test_an_unknown_class_is_refused(digitlab, run):
    code, out, err = digitlab("figures", run, "--class", "seven")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--class=seven: must be one of 0, 1" in err
    assert not (run / "figures").exists()


@pytest.fixture(scope="module")
def fashion(make_run, tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("fashion") / "run"
    return make_run(folder, "model=linear", "data=fashion_mnist", f"data.root={data_root}")


@pytest.mark.extra
def test_a_checkpoint_of_another_data_set_is_refused(digitlab, run, fashion):
    shutil.copy(fashion / "checkpoints" / "best.ckpt", run / "checkpoints" / "best.ckpt")
    code, out, err = digitlab("figures", run)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "was trained on fashion_mnist, but the run's data set is mnist" in err


@pytest.mark.extra
def test_gif_names_contain_the_class_names(fashion, tmp_path):
    options = GifOptions(images=2, batch_size=1, steps_per_frame=1)
    assert all(reason is None for _, reason in make_gifs(read_run_data(RunFolder(fashion)), tmp_path, options))
    assert (tmp_path / "learning_weights_0_t_shirt_top.gif").exists()


def test_an_empty_table_of_epochs_says_how_to_write_it_again(digitlab, run):
    (run / "metrics.csv").write_text("")
    code, out, err = digitlab("figures", run, "--only", "history_epochs")
    assert (code, out) == (1, "")
    assert err == f"{run}/metrics.csv: has no epoch, so there is nothing to draw; resume={run} writes it again\n"
