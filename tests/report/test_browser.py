"""Reports in Chromium: sorting, filtering, test images, phone width, printing, and hostile names."""

import json
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf

from digitlab.data.sources import MnistSource
from digitlab.report.gather import write_report

# Its fixtures take seconds, so one process runs all of these tests.
pytestmark = pytest.mark.xdist_group("report page")

# Markup that would run a script if it were not escaped.
HOSTILE = "<script>window.taken=1</script><img src=x onerror='window.taken=1'>&\"quoted\""


@pytest.fixture
def sweep(hundred_runs, tmp_path):
    out = tmp_path / "sweep.html"
    assert write_report([hundred_runs], out) == []
    return out


COLUMN = """(name => {
  const table = document.getElementById("runs");
  const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent.replace("\\u200b", "") === name);
  return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place].textContent);
})"""


def column(browser, name):
    return browser.run(f"{COLUMN}({name!r})")


def header(browser, name):
    """Return the CSS selector of a column's sort button."""
    place = browser.run(
        "[...document.querySelectorAll('#runs thead th')]"
        f".findIndex(cell => cell.textContent.replace('\\u200b', '') === {name!r})"
    )
    return f"#runs thead th:nth-child({place + 1}) button"


def test_a_hundred_runs_load_in_a_second_and_sort_by_any_column(browser, sweep):
    milliseconds = []
    # Other processes can slow one attempt down, but not all 20.
    while min(milliseconds, default=1000) >= 1000 and len(milliseconds) < 20:
        browser.open(sweep)
        milliseconds.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert min(milliseconds) < 1000
    accuracies = [float(value.rstrip(" %")) for value in column(browser, "test/accuracy") if value]
    assert len(accuracies) == 99
    assert accuracies == sorted(accuracies, reverse=True), "sorted by the monitored metric at first"
    browser.click(header(browser, "optimizer.lr"))
    rates = [float(value) for value in column(browser, "optimizer.lr")]
    assert rates == sorted(rates)
    browser.click(header(browser, "optimizer.lr"))
    assert [float(value) for value in column(browser, "optimizer.lr")] == rates[::-1]
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1
    for _ in range(2):
        browser.click(header(browser, "test/accuracy"))
        assert column(browser, "test/accuracy")[-1] == "", "empty cells stay at the end"
    values = [float(value.rstrip(" %")) for value in column(browser, "test/accuracy")[:-1]]
    assert values == accuracies
    assert browser.complaints == []


def test_rows_highlight_their_curves_and_the_search_filters_rows(browser, sweep):
    browser.open(sweep)
    lit = "[...document.querySelectorAll('polyline.highlighted')].map(line => line.textContent)"
    assert browser.run(lit) == []
    name = browser.run("document.querySelector('#runs tbody a').textContent")
    browser.run("document.querySelector('#runs tbody a').focus()")
    label = browser.run("document.querySelector('#runs tbody tr').dataset.run")
    assert browser.run("document.querySelectorAll('polyline.highlighted').length") >= 2
    assert browser.run("[...document.querySelectorAll('polyline.highlighted')].every(l => l.dataset.run === '0')")
    assert (label, bool(name)) == ("0", True)
    browser.run("document.querySelector('.search input').focus()")
    assert browser.run(lit) == []
    browser.run(
        "(input => { input.value = 'unfin'; input.dispatchEvent(new Event('input', {bubbles: true})); })"
        "(document.querySelector('.search input'))"
    )
    assert column(browser, "run") == ["7"]
    assert browser.run("document.querySelector('.search output').textContent") == "1 of 100"
    assert browser.complaints == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_the_screen(browser, sweep, make_run, tmp_path, width):
    one = make_run(tmp_path / "one" / ("a_long_name," * 8)).path
    write_report([one], tmp_path / "one.html")
    for path in (sweep, tmp_path / "one.html"):
        browser.open(path, width=width, phone=width < 500)
        assert browser.run("document.documentElement.scrollWidth") <= width
        # Text in the scaled charts has at least 9 pixels, also on a phone.
        size = "Math.min(...[...document.querySelectorAll('svg text')].map(t => 11 * t.getScreenCTM().a || 99))"
        assert browser.run(size) >= 9


def test_folded_sections_are_open_in_print(browser, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    write_report([run.path], tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    assert browser.print_pdf().startswith(b"%PDF")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0


def test_hostile_names_are_neither_markup_nor_script(browser, make_run, tmp_path):
    name = HOSTILE.replace("/", "_")
    paths = [make_run(tmp_path / name / each, f"optimizer.lr={rate}").path for each, rate in (("a", 0.1), (name, 0.2))]
    broken = make_run(tmp_path / name / "failed", error=f"RunError: {HOSTILE}").path
    for path in (*paths, broken):
        overrides = path / ".hydra" / "overrides.yaml"
        overrides.write_text(json.dumps([*OmegaConf.load(overrides), f"model={HOSTILE}"]))  # YAML, too
    write_report([tmp_path / name], tmp_path / "runs.html")
    write_report([paths[1]], tmp_path / "run.html")
    for page in ("runs.html", "run.html"):
        browser.open(tmp_path / page)
        assert browser.run("window.taken") is None
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
        assert "<script>window.taken=1" in browser.run("document.body.textContent")
        assert browser.complaints == []


def test_the_policy_blocks_other_scripts(browser, make_run, tmp_path):
    write_report([make_run(tmp_path / "run").path], tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'taken = 1'}))")
    assert browser.run("typeof taken") == "undefined"


@pytest.fixture(scope="module")
def tested_sweep(hundred_runs, tmp_path_factory):
    """The hundred runs with predictions of the whole test set of MNIST, with about 13 % mistakes."""
    root = tmp_path_factory.mktemp("tested") / "sweep"
    shutil.copytree(hundred_runs, root)
    labels = MnistSource().read(root)[1].labels.numpy()
    random = np.random.default_rng(0)
    for run in sorted(root.iterdir()):
        logits = random.normal(size=(len(labels), 10)).astype(np.float32) + 3 * np.eye(10, dtype=np.float32)[labels]
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.savez(run / "test_predictions.npz", probabilities=scores.astype(np.float16))
    out = root.parent / "report.html"
    assert write_report([root], out) == []
    return out


def test_a_hundred_runs_with_images_are_small_and_load_in_a_second(browser, tested_sweep):
    assert tested_sweep.stat().st_size < 4_000_000
    milliseconds = []
    while min(milliseconds, default=1000) >= 1000 and len(milliseconds) < 20:
        browser.open(tested_sweep)
        milliseconds.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert min(milliseconds) < 1000
    # 99 finished runs and the unfinished one share the images.
    assert browser.run("document.querySelectorAll('select.run option').length") == 100
    assert browser.complaints == []


TILES = "document.querySelectorAll('.gallery .tile')"
FOUND = "document.querySelector('.found').textContent"
CELL = ".heat tbody tr:nth-child(5) td:nth-child(11) button"  # true class 4, predicted 9


def test_a_cell_of_the_matrix_shows_its_images_and_their_probabilities(browser, tested_sweep):
    browser.open(tested_sweep)
    assert browser.run(f"{TILES}.length") == 0
    count = int(browser.run(f"document.querySelector('{CELL}').textContent"))
    browser.click(CELL)
    shown = browser.run(f"{TILES}.length")
    assert 1 <= shown <= count
    assert browser.run(FOUND) == f"True class 4, predicted 9: {count} images, {shown} of them on this page."
    labels = browser.run(f"[...{TILES}].map(tile => tile.getAttribute('aria-label'))")
    assert all("true class 4, predicted 9 " in label for label in labels)
    # With the keyboard, an image shows what the pointer would show.
    browser.run(f"{TILES}[0].focus()")
    answer = browser.run("document.querySelector('.answer').textContent")
    assert answer.startswith(labels[0].partition(", predicted")[0])
    assert browser.run("document.querySelectorAll('.answer .bar').length") == 3
    assert browser.complaints == []


def test_images_are_filtered_by_class_and_by_run(browser, tested_sweep):
    browser.open(tested_sweep)

    def choose(name, value):
        browser.run(
            f"(select => {{ select.value = {value!r}; select.dispatchEvent(new Event('change')); }})"
            f"(document.querySelector('select.{name}'))"
        )

    assert browser.run("getComputedStyle(document.querySelector('select.run')).opacity") == "1"
    choose("true", "7")
    first = browser.run(f"[...{TILES}].map(tile => tile.getAttribute('aria-label'))")
    assert all("true class 7, predicted " in label and "predicted 7" not in label for label in first)
    choose("predicted", "7")
    assert browser.run(f"[...{TILES}].every(tile => tile.getAttribute('aria-label').includes('predicted 7 '))")
    matrix = "document.querySelector('.heat tbody').textContent"
    before = browser.run(matrix)
    choose("predicted", "wrong")
    choose("run", "1")
    assert browser.run(matrix) != before
    assert browser.run(f"[...{TILES}].map(tile => tile.getAttribute('aria-label'))") != first
    assert browser.complaints == []


def test_every_cell_with_images_can_be_reached_and_pressed_with_the_keyboard(browser, tested_sweep):
    browser.open(tested_sweep, width=390, phone=True)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.run(f"document.querySelector('{CELL}').focus()")
    assert browser.run(f"document.activeElement === document.querySelector('{CELL}')")
    browser.press_enter()
    assert "True class 4, predicted 9" in browser.run(FOUND)
    assert browser.run("[...document.querySelectorAll('.tile')].every(tile => tile.tabIndex === 0)")
