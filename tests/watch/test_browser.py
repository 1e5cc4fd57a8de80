"""The live page in Chromium, while real runs train: curves grow, tables fill, and names are text."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import digitlab
from digitlab.core.signals import Interrupted, Stopper
from digitlab.watch.laboratory import Laboratory
from digitlab.watch.server import WatchApp, WatchServer
from fixtures.run_files import write_epochs, write_result

SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "model=linear", "data.train_size=256", "data.val_size=40",
    "data.batch_size=8", "trainer.limit_test_batches=1", "early_stopping=null",
)  # fmt: skip


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a page about the runs under ``tmp_path``."""
    server = WatchServer(WatchApp(Laboratory(tmp_path)), port=0)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server.address
    server.stop()
    thread.join()


def wait_for(browser: Any, script: str, *, seconds: float = 60) -> Any:
    """The value of the JavaScript expression once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := browser.run(script)):
        assert time.monotonic() < deadline, f"{script}: {browser.run('document.body.innerText')}"
        time.sleep(0.05)
    return value


def faults(browser: Any, address: str) -> list[str]:
    """What the browser complains about, apart from the requests to the page itself."""
    return [each for each in browser.complaints if not each.startswith(address)]


@pytest.fixture
def training() -> Iterator[Callable[[Callable[[Stopper], object]], None]]:
    """``training(act)`` calls ``act(stopper)`` in a thread, and stops it at the end of the test."""
    stopper = Stopper()
    threads: list[threading.Thread] = []

    def start(act: Callable[[Stopper], object]) -> None:
        def run() -> None:
            with suppress(Interrupted):
                act(stopper)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    stopper.stop()
    for thread in threads:
        thread.join()


POINTS = """(() => {
  const path = document.querySelector(".chartbox path");
  return path ? path.getAttribute("d").split("L").length : 0;
})()"""


def test_the_curve_of_a_live_run_grows(browser, address, tmp_path, training):
    folder = tmp_path / "mnist-linear" / "run"
    training(lambda stopper: digitlab.train(*SMALL, "trainer.max_epochs=400", folder=folder, stopper=stopper))
    browser.visit(f"{address}#run=mnist-linear%2Frun")
    points = wait_for(browser, f"{POINTS} > 2 && {POINTS}")
    assert wait_for(browser, "document.querySelector('.status.running') && document.title").endswith(" · run")
    assert "/400 · " in browser.run("document.title")
    more = wait_for(browser, f"{POINTS} > {points} && {POINTS}")
    assert more > points
    browser.visit(address)
    assert wait_for(browser, "document.querySelector('.card .spark path') && document.title").endswith("1 run training")
    assert wait_for(browser, "/at most .* left/.test(document.body.innerText)")
    assert browser.run("leftText(now() - 5, ' left')") == "ends soon"
    assert faults(browser, address) == []


def test_the_table_of_a_sweep_fills(browser, address, tmp_path, training):
    folder = tmp_path / "sweeps" / "seeds"
    words = ("hydra/launcher=basic", "seed=0,1,2,3", "trainer.max_epochs=20", f"hydra.sweep.dir={folder}")
    training(lambda stopper: digitlab.sweep(*SMALL, *words, stopper=stopper))
    browser.visit(f"{address}#sweep=sweeps%2Fseeds")
    rows = "document.querySelectorAll('table.runs tbody tr').length"
    first = wait_for(browser, rows)
    wait_for(browser, f"{rows} == 4 && document.querySelectorAll('.status.finished').length == 4")
    assert first <= 4
    assert browser.run("document.querySelectorAll('.chartbox path.run:not(.single)').length") == 4
    values = browser.run(
        "[...document.querySelectorAll('table.runs tbody tr')].map(row => parseFloat(row.cells[3].textContent))"
    )
    assert values == sorted(values, reverse=True), "the best run comes first"
    assert browser.run("document.title") == "4/4 · seeds"
    browser.run("document.querySelector('table.runs tbody a').click()")
    wait_for(browser, f"location.hash.startsWith('#run=') && {POINTS} == 20")
    assert faults(browser, address) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_hostile_names_are_text_and_the_page_fits_the_screen(browser, address, tmp_path, begin_sweep, begin_run, width):
    hostile = "<img src=x onerror='window.taken=1'>"
    single = begin_run(tmp_path / f"{hostile}_a_long_name_{'b' * 40}", f"model.hidden={hostile}")
    write_result(single, "failed", error=f"RunError: {hostile}")
    runs = begin_sweep(tmp_path / "sweeps" / "s", [(f"seed={seed}",) for seed in range(30)])
    for run in runs:
        write_epochs(run, [0.1, 0.5])
        write_result(run, "finished", 0.5)
    browser._call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
    )
    for fragment in ("", "#sweep=sweeps%2Fs", "#run=sweeps%2Fs%2F0_seed%3D0", "#run=missing", "#run=%E0%A4%A"):
        browser.visit(f"{address}{fragment}")
        wait_for(browser, "!!document.querySelector('h1')")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("window.taken") is None
        assert browser.run("document.querySelectorAll('img, script[src]').length") == 0
        assert faults(browser, address) == []


def test_single_values_have_the_colours_of_their_runs_and_a_failed_run_no_empty_charts(
    browser, address, tmp_path, begin_sweep
):
    runs = begin_sweep(tmp_path / "s", [(f"seed={seed}",) for seed in range(4)])
    for seed, run in enumerate(runs[:3]):
        write_epochs(run, [0.1 * (1 + seed)])
        write_result(run, "finished", 0.1 * (1 + seed))
    write_result(runs[3], "failed", error="RunError: too hot")
    browser.visit(f"{address}#sweep=s")
    dots = "[...document.querySelectorAll('.chartbox path.single')]"
    wait_for(browser, f"{dots}.length == 3")
    assert browser.run(f"new Set({dots}.map(dot => getComputedStyle(dot).stroke)).size") == 3
    charts = "[...document.querySelectorAll('.charts figure')].filter(each => each.offsetHeight > 0).length"
    browser.visit(f"{address}#run=s%2F3_seed%3D3")
    wait_for(browser, "document.body.innerText.includes('too hot')")
    assert browser.run(charts) == 0
    browser.visit(f"{address}#run=s%2F0_seed%3D0")
    wait_for(browser, f"{charts} > 0")
    assert faults(browser, address) == []


def test_a_table_is_filtered_sorted_and_left_with_the_keyboard(browser, address, tmp_path, begin_sweep):
    for seed, run in enumerate(begin_sweep(tmp_path / "s", [(f"seed={seed}",) for seed in range(12)])):
        if seed == 7:
            write_result(run, "failed", error="RunError: too hot")
        else:
            write_result(run, "finished", (seed * 5 % 12) / 12)
    browser.visit(f"{address}#sweep=s")
    numbers = "[...document.querySelectorAll('table.runs tbody tr')].map(row => +row.cells[0].textContent)"
    ranked = sorted((seed for seed in range(12) if seed != 7), key=lambda seed: -(seed * 5 % 12))
    assert wait_for(browser, f"{numbers}.length == 12 && {numbers}") == [*ranked, 7]
    browser.run("document.querySelector('table.runs thead button').click()")
    assert browser.run(numbers) == list(range(12))
    browser.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: '/'}))")
    assert browser.run("document.activeElement.type") == "search"
    browser.run("(box => { box.value = 'hot'; box.dispatchEvent(new Event('input')); })(document.activeElement)")
    assert browser.run(numbers) == [7]
    assert browser.run("document.querySelector('.tools output').textContent") == "1 of 12"
