"""Pages from folders: their contents, error messages, no overwriting, and no values of the environment."""

import csv
import itertools
import re
from html.parser import HTMLParser

import pytest
from omegaconf import OmegaConf

from digitlab.core.errors import ConfigError, RunError
from digitlab.report.gather import write_report
from digitlab.report.tables import Table
from digitlab.sweeps.manifest import Entry, Manifest


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.words, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    page = _Text()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def runs(make_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "a", "optimizer.lr=0.1", accuracy=0.8)
    make_run(root / "b", "optimizer.lr=0.2", accuracy=0.9)
    make_run(root / "failed", "optimizer.lr=9", epochs=1, error="RunError: epoch 2: the loss is not finite")
    return root


def test_the_page_of_a_run_has_all_sections(runs, tmp_path):
    skipped = write_report([runs / "b"], tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    text = " ".join(" ".join(page.words).split())
    for part in ("Curves", "Metrics", "Confusion matrix", "Figures", "Configuration", "Environment"):
        assert part in page.words
    assert "python train.py optimizer.lr=0.2" in text
    assert "MLP on MNIST, 90.00 % test accuracy" in text
    assert "test accuracy, best checkpoint, epoch 4" in text
    assert "true class ↓ predicted class →" in text
    for note in ("macro F1", "label smoothing", "while the weights change", "share of the time", "whole population"):
        assert note in text
    assert sum(tag == "svg" and attrs.get("class") == "chart" for tag, attrs in page.tags) == 3
    # The folder has no checkpoint: page and terminal say that the figures are missing.
    assert len(skipped) == 1
    assert skipped[0] in text


def test_the_page_of_a_trained_run_contains_figures(small_run, tmp_path):
    write_report([small_run], tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) >= 3
    assert all(attrs["src"].startswith("data:image/png;base64,") and attrs["alt"] for attrs in pictures)
    assert any("Weights" in attrs["alt"] for attrs in pictures)
    assert any("mistakes" in attrs["alt"] for attrs in pictures)


@pytest.mark.extra
def test_existing_figures_of_corrupted_images_are_shown(small_run, tmp_path):
    figures = small_run / "figures"
    figures.mkdir()
    (figures / "corrupt_noise_mnist.png").write_bytes(b"picture")
    write_report([small_run], tmp_path / "report.html")
    sources = [attrs["src"] for tag, attrs in read(tmp_path / "report.html").tags if tag == "img"]
    assert sources[-1] == "data:image/png;base64,cGljdHVyZQ=="


def test_the_page_of_many_runs_names_the_best_run(runs, tmp_path):
    assert write_report([runs], tmp_path / "report.html") == []
    text = " ".join(read(tmp_path / "report.html").words)
    assert "python train.py optimizer.lr=0.2" in text
    assert "epoch 2: the loss is not finite" in text
    assert re.search(r"which never uses the test set, is\s+b\s+\.", text)


def test_runs_on_different_data_sets_are_separated(make_run, tmp_path):
    for name in ("mnist", "fashion_mnist"):
        make_run(tmp_path / name, f"data={name}")
    write_report([tmp_path], tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert {"Runs on MNIST", "Runs on Fashion-MNIST"} <= set(page.words)
    assert sum("The best run" in word for word in page.words) == 2
    # Every chart has the curve of one run, and the indices of the runs differ.
    assert sum(tag == "polyline" for tag, _ in page.tags) == sum(
        tag == "svg" for tag, attrs in page.tags if attrs.get("class") == "chart"
    )
    assert [attrs["data-run"] for tag, attrs in page.tags if tag == "tr" and "data-run" in attrs] == ["0", "1"]


def test_pictures_of_two_folders_have_their_own_sections(make_run, tmp_path):
    for name in ("cats", "cars"):
        make_run(tmp_path / name, "data=folder", f"data.path={name}")
    write_report([tmp_path], tmp_path / "report.html")
    assert {"Runs on folder cats", "Runs on folder cars"} <= set(read(tmp_path / "report.html").words)


def test_the_legend_leaves_out_what_its_runs_share(make_run, tmp_path):
    for number in range(6):
        make_run(tmp_path / str(number), "model=mlp", f"seed={number}", accuracy=0.9)
    make_run(tmp_path / "worse", "model=linear", "seed=0", accuracy=0.5)
    write_report([tmp_path], tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    swatches = {attrs["title"] for tag, attrs in page.tags if tag == "span" and attrs.get("class") == "swatch"}
    assert swatches == {*(f"seed={number}" for number in range(6)), "other runs"}


def test_pages_load_nothing_from_the_network(runs, tmp_path):
    for number, folders in enumerate(([runs], [runs / "a"])):
        write_report(folders, tmp_path / f"{number}.html")
        page = read(tmp_path / f"{number}.html")
        addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
        assert not any(re.match(r"(\w+:)?//", address) for address in addresses)
        policy = next(attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
        assert policy.startswith("default-src 'none'")


def test_links_are_relative_to_the_page(runs, tmp_path):
    out = tmp_path / "elsewhere" / "report.html"
    out.parent.mkdir()
    write_report([runs], out)
    links = [attrs["href"] for tag, attrs in read(out).tags if tag == "a"]
    assert links
    assert all((out.parent / link).resolve().parent == runs for link in links)


def test_pages_contain_no_environment_variables(make_run, tmp_path, monkeypatch):
    monkeypatch.setenv("DIGITLAB_TEST_TOKEN", "hunter2-very-secret")
    run = make_run(tmp_path / "run")
    config = OmegaConf.load(run.config)
    config.data.root = "${oc.env:DIGITLAB_TEST_TOKEN}"
    OmegaConf.save(config, run.config)
    run.overrides_file.write_text("- data.root=${oc.env:DIGITLAB_TEST_TOKEN}\n- seed=${oc.env:DIGITLAB_TEST_TOKEN}\n")
    make_run(tmp_path / "other", "seed=3")
    for number, folder in enumerate((run.path, tmp_path)):
        write_report([folder], tmp_path / f"{number}.html")
        assert "hunter2" not in (tmp_path / f"{number}.html").read_text()


def test_the_page_of_a_sweep_names_the_best_run_of_the_best_setting(make_run, tmp_path):
    # The best single run belongs to the setting with the lower mean.
    values = {("0.1", 0): 0.7, ("0.1", 1): 0.95, ("0.2", 0): 0.9, ("0.2", 1): 0.91}
    entries = []
    for number, ((rate, seed), accuracy) in enumerate(values.items()):
        overrides = [f"optimizer.lr={rate}", f"seed={seed}"]
        make_run(tmp_path / str(number), *overrides, accuracy=accuracy)
        entries.append(Entry(number, str(number), str(number), overrides))
    Manifest(tmp_path, entries, ["optimizer.lr", "seed"]).write()
    write_report([tmp_path], tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    text = " ".join(" ".join(page.words).split())
    assert "best run of the setting with the best mean by val/accuracy , which never uses the test set, is 3 ." in text
    assert "python train.py optimizer.lr=0.2 seed=1" in text
    assert {"90.50", "82.50", "Effect of each value", "val/accuracy in %", "95 % interval in points"} <= set(page.words)


def test_a_column_of_differences_is_aligned_as_numbers_although_one_row_is_the_reference():
    table = Table("effects", ["value", "difference"], [["sgd", "-5.02"], ["adam", "reference"]])
    assert table.contains_words == [True, False]


def test_tables_of_several_sweeps_have_their_names_and_no_empty_columns(make_run, tmp_path):
    for name in ("rates", "more"):
        entries = []
        for number, rate in enumerate(("0.1", "0.2")):
            make_run(tmp_path / name / str(number), f"optimizer.lr={rate}", accuracy=0.8 + number / 10)
            entries.append(Entry(number, str(number), str(number), [f"optimizer.lr={rate}"]))
        Manifest(tmp_path / name, entries, ["optimizer.lr"]).write()
    write_report([tmp_path / "rates", tmp_path / "more"], tmp_path / "report.html")
    words = read(tmp_path / "report.html").words
    for title in ("Settings, the best first", "Effect of each value"):
        assert [word for word in words if word.startswith(title)] == [f"{title} (rates)", f"{title} (more)"]
    assert {"val/accuracy in %", "n", "difference in points"} <= set(words)
    assert not {"sd", "sd in %", "95 % interval", "failed"} & set(words)


@pytest.fixture
def sweep(make_run, tmp_path):
    """Three learning rates with two seeds each."""
    entries = []
    for number, (rate, seed) in enumerate(itertools.product(("0.1", "0.2", "0.3"), (0, 1))):
        overrides = [f"optimizer.lr={rate}", f"seed={seed}"]
        make_run(tmp_path / str(number), *overrides, accuracy=0.5 + float(rate) + 0.01 * seed * (1 + float(rate)))
        entries.append(Entry(number, str(number), str(number), overrides))
    Manifest(tmp_path, entries, ["optimizer.lr", "seed"]).write()
    return tmp_path


def test_the_page_of_a_sweep_compares_its_best_setting_with_the_others(sweep):
    assert write_report([sweep], sweep / "report.html") == []
    page = read(sweep / "report.html")
    assert "The best setting against the others" in page.words
    assert {"lr=0.3", "lr=0.2", "lr=0.1", "difference in points", "+10.05", "+20.10"} <= set(page.words)
    text = " ".join(" ".join(page.words).split())
    assert "lr=0.3 is 10.05 points better than lr=0.2 in val/accuracy (95 % CI" in text
    assert "after correction for 2 comparisons" in text
    (picture,) = (attrs["alt"] for tag, attrs in page.tags if tag == "img")
    assert picture.startswith("The best setting against the others: lr=0.3 is 10.05 points better than lr=0.2")


def test_a_note_about_a_setting_keeps_the_name_of_its_key(make_run, tmp_path):
    entries = []
    for number, (rate, seed) in enumerate(itertools.product(("0.1", "0.2"), (0, 1, 2))):
        overrides = [f"optimizer.lr={rate}", f"seed={seed}"]
        failed = {"result": True, "error": "RunError: too hot"} if number == 2 else {"accuracy": 0.5 + seed / 100}
        make_run(tmp_path / str(number), *overrides, **failed)
        entries.append(Entry(number, str(number), str(number), overrides))
    Manifest(tmp_path, entries, ["optimizer.lr", "seed"]).write()
    write_report([tmp_path], tmp_path / "report.html")
    text = " ".join(" ".join(read(tmp_path / "report.html").words).split())
    assert "lr=0.1: 1 run failed" in text


def test_a_sweep_without_seeds_says_why_nothing_is_compared(make_run, tmp_path):
    entries = []
    for number, rate in enumerate((0.1, 0.2)):
        make_run(tmp_path / str(number), f"optimizer.lr={rate}", accuracy=0.5 + rate)
        entries.append(Entry(number, str(number), str(number), [f"optimizer.lr={rate}"]))
    Manifest(tmp_path, entries, ["optimizer.lr"]).write()
    (line,) = write_report([tmp_path], tmp_path / "report.html")
    assert line.startswith("comparison of the settings: each setting has one run")
    assert line in " ".join(" ".join(read(tmp_path / "report.html").words).split())


def test_tables_of_the_reports_are_on_the_page(make_run, tmp_path):
    make_run(tmp_path / "r4" / "seed0")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["row", "reported", "mean", "note"], ["r4", "0.9731", "0.97654321", ""]])
    write_report([tmp_path], tmp_path / "report.html")
    words = read(tmp_path / "report.html").words
    assert {"Comparison with the reports' results", "0.9731", "0.97654"} <= set(words)
    assert "note" not in words, "a column without any entry is left out"


def test_a_report_is_overwritten_only_with_force(runs, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"report.html: already exists: --force overwrites it"):
        write_report([runs], out)
    assert out.read_text() == "mine"
    write_report([runs], out, force=True)
    assert out.read_text() != "mine"


def test_a_folder_without_runs_is_refused(runs, tmp_path):
    for folder, words in ((tmp_path, "contains no run folder"), (tmp_path / "x", "there is no such folder")):
        with pytest.raises(ConfigError, match=words):
            write_report([runs, folder], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="must be a file in an existing folder"):
        write_report([runs], tmp_path / "x" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_runs_without_a_finished_epoch_are_refused_or_listed(make_run, runs, tmp_path):
    begun = make_run(tmp_path / "begun", epochs=0, result=False).path
    with pytest.raises(RunError, match=r"begun: no epoch is finished"):
        write_report([begun], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    write_report([begun, runs], tmp_path / "report.html")
    assert "unfinished" in read(tmp_path / "report.html").words


def test_runs_that_cannot_be_read_are_reported_and_the_others_shown(make_run, tmp_path):
    make_run(tmp_path / "whole")
    for name, file in (("broken", "result.json"), ("yaml", ".hydra/overrides.yaml")):
        (make_run(tmp_path / name).path / file).write_text("{ [")
    messages = write_report([tmp_path], tmp_path / "report.html")
    assert len(messages) == 2
    assert all(line.startswith(str(tmp_path)) and "cannot be read" in line and "\n" not in line for line in messages)
    with pytest.raises(RunError, match="cannot be read"):
        write_report([tmp_path / "broken"], tmp_path / "broken.html")
