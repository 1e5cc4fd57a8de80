"""The figures of a sweep: which ones are drawn, and that they show the numbers of the table."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from digitlab.figures.style import encode, figure_width, pixels
from digitlab.figures.sweeps import Effect, curve_figure, effect_figure, pair_figure, parallel_figure
from digitlab.sweeps.gallery import tried_values, write_figures
from digitlab.sweeps.table import SweepTable


@pytest.fixture
def runs(written_sweep, finished):
    cells = list(itertools.product((0.1, 0.01), ("adam", "sgd"), (0, 1)))
    return written_sweep(*(
        ([f"optimizer.lr={lr}", f"optimizer={name}", f"seed={seed}"], finished(0.8 + lr + seed / 100))
        for lr, name, seed in cells
    ))  # fmt: skip


@pytest.mark.extra
def test_each_key_each_pair_of_keys_and_the_whole_sweep_have_a_figure(runs, tmp_path):
    for run in runs:
        run.folder.metrics.write_text("epoch,val/accuracy\n1,0.5\n2,0.75\n")
    paths = write_figures(SweepTable("s", runs), tmp_path / "figures")
    assert {path.name for path in paths} == {
        "by_optimizer.lr.png", "by_optimizer.png", "by_optimizer.lr_and_optimizer.png", "settings.png", "curves.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_figures_for_a_paper_are_vector_files_as_wide_as_a_column(runs, tmp_path):
    paths = write_figures(SweepTable("s", runs), tmp_path, file_format="svg", width="column")
    assert len(paths) == 4
    for path in paths:
        width = re.search(r'<svg [^>]*width="([\d.]+)pt"', path.read_text(encoding="utf-8"))
        assert float(width[1]) == pytest.approx(3.5 * 72, abs=0.01)


def test_replicates_alone_have_only_curves(written_sweep, finished, tmp_path):
    runs = written_sweep((["seed=0"], finished(0.8)), (["seed=1"], finished(0.9)))
    assert write_figures(SweepTable("s", runs), tmp_path) == []


def test_a_sweep_of_training_sizes_has_a_learning_curve(written_sweep, finished, tmp_path):
    cells = itertools.product((100, 1000), (0, 1))
    runs = written_sweep(*(
        ([f"data.train_size={size}", f"seed={seed}"], finished(0.8 + size / 1e4 + seed / 100)) for size, seed in cells
    ))  # fmt: skip
    assert tmp_path / "learning_curve.png" in write_figures(SweepTable("s", runs), tmp_path)


@pytest.mark.extra
def test_a_setting_that_always_fails_is_in_the_figures(written_sweep, finished, tmp_path):
    runs = written_sweep(
        (["optimizer.lr=0.1", "optimizer=adam"], finished(0.9)),
        (["optimizer.lr=9", "optimizer=sgd"], {"status": "failed", "error": "diverged", "metrics": {}}),
    )
    table = SweepTable("s", runs)
    assert tried_values(table, "optimizer.lr") == [0.1, 9]
    assert len(write_figures(table, tmp_path)) == 4


def effects(*values):
    return [Effect(value, 0.9, (0.88, 0.92), [0.89, 0.91]) for value in values]


def test_error_bars_show_the_interval():
    (axes,) = effect_figure(effects(0.1, 0.2), key="optimizer.lr", metric="val/accuracy").axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.lr", "val/accuracy in %")
    (bars,) = axes.containers
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert ends == pytest.approx(np.array([[88, 92]] * 2))
    assert axes.get_title(loc="left").endswith("bar: 95 % interval of the difference to the best")


def test_the_title_says_of_what_the_bars_are_intervals():
    without = [Effect(value, 0.9, None, [0.9]) for value in (0.1, 0.2)]
    titles = [
        effect_figure(drawn, key="k", metric="val/accuracy", interval_of="mean").axes[0].get_title(loc="left")
        for drawn in (effects(0.1, 0.2), without)
    ]
    assert titles == ["all runs and their mean\nbar: 95 % interval of the mean", "all runs and their mean"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.1, 0.2), "linear"),
        ((1e-4, 1e-1), "log"),
        ((0, 1e-4, 1e-1), "symlog"),
        ((1e-6, 2.5e-4, 5e-4, 1e-3), "linear"),
        (("adam", "sgd"), "linear"),
    ],
)
def test_wide_ranges_get_a_logarithmic_axis_unless_labels_would_collide(values, scale):
    (axes,) = effect_figure(effects(*values), key="key", metric="val/accuracy").axes
    assert axes.get_xscale() == scale
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        f"{value if isinstance(value, str) else f'{value:g}'}\nn=2" for value in values
    ]
    assert axes.get_xlabel() == ("key" if scale == "linear" else "key (logarithmic axis)")


@pytest.mark.parametrize("count", [13, 25])
def test_labels_of_many_values_are_turned_so_that_they_do_not_overlap(count):
    rates = [float(f"{rate:.2g}") for rate in np.geomspace(1e-5, 10, count)]
    figure = effect_figure(effects(*rates), key="optimizer.lr", metric="val/loss")
    FigureCanvasAgg(figure).draw()  # which places the text
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [f"{rate:g}, n=2" for rate in rates]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_a_heat_map_prints_each_mean_in_its_cell_and_leaves_gaps():
    means = {(0, "a"): 0.5, (1, "a"): 0.75, (1, "b"): 0.25}
    counts = {(0, "a"): 1, (1, "a"): 2, (1, "b"): 3}
    figure = pair_figure(means, counts=counts, keys=("x", "y"), metric="val/accuracy", values=([0, 1], ["a", "b"]))
    shown = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    assert shown == {(0, 0): "50.00\nn=1", (1, 0): "75.00\nn=2", (1, 1): "25.00\nn=3"}


@pytest.mark.extra
@pytest.mark.parametrize("width", [None, "column"])
def test_nothing_is_cut_off_at_the_edges(width):
    keys, values = ("optimizer", "optimizer.weight_decay"), (["adam", "sgd"], [0.01])
    means = {("adam", 0.01): 0.5, ("sgd", 0.01): 0.75}
    long = [("optimizer=sgd, weight_decay=0.01, activation=sigmoid, batch_norm=true", [(1, 0.5), (2, 0.9)])]
    with figure_width(width):
        figures = [
            effect_figure(effects(0.1, 0.2), key=keys[1], metric="val/balanced_accuracy"),
            pair_figure(
                means, counts=dict.fromkeys(means, 3), keys=keys, metric="val/balanced_accuracy", values=values
            ),
            parallel_figure([*means.items()], keys=keys, metric="val/balanced_accuracy", values=values),
            curve_figure(long, metric="val/balanced_accuracy"),
        ]
        for figure in figures:
            encode(figure)  # which resizes the figure and its text
            picture = pixels(figure)
            edges = np.concatenate([picture[:, 0], picture[:, -1], picture[0], picture[-1]])
            assert (edges == 255).all(), figure.axes[0].get_title(loc="left")


def test_each_setting_is_a_line_that_ends_at_its_metric():
    settings = [((0, "a"), 0.5), ((1, "b"), 0.9), ((0, "b"), 0.7)]
    figure = parallel_figure(settings, keys=("x", "y"), metric="val/accuracy", values=([0, 1], ["a", "b"]))
    # From the worst to the best; equal values have equal heights.
    for line, heights in zip(figure.axes[0].lines[:3], ([0, 0, 0], [0, 1, 0.5], [1, 1, 1]), strict=True):
        assert line.get_ydata() == pytest.approx(heights)
    assert figure.axes[1].get_ylabel() == "val/accuracy in %"
    assert figure.axes[1].get_ylim() == pytest.approx((50, 90))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["x", "y", "val/accuracy"]


@pytest.mark.parametrize(("metric", "order"), [("val/accuracy", [0, 0.5, 1]), ("val/loss", [1, 0.5, 0])])
def test_the_best_setting_is_drawn_on_top(metric, order):
    settings = [(("b",), 0.7), (("a",), 0.5), (("c",), 0.9)]
    figure = parallel_figure(settings, keys=("x",), metric=metric, values=(["a", "b", "c"],))
    # Matplotlib draws lines in the order of this list.
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines[:3]] == pytest.approx(order)


def test_curves_name_the_best_settings_in_order():
    histories = [(f"setting {rank}", [(1, 0.5), (2, 0.9 - rank / 100)]) for rank in range(6)]
    figure = curve_figure(histories, metric="val/accuracy")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"setting {rank}" for rank in range(4)]
    assert len(figure.axes[0].lines) == 6
