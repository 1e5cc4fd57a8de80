"""Reports in Chromium: sorting, filtering, phone width, printing, and hostile names."""

import json

import pytest
from omegaconf import OmegaConf

from digitlab.report.gather import write_report

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
