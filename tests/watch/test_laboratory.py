"""What a page is told: everything at first, then only what has changed."""

import json
import os
import random
import shutil
import sys
import time

import pytest

from digitlab.results.lock import locked_folder
from digitlab.watch.laboratory import Laboratory
from fixtures.run_files import write_epochs, write_result


class Page:
    """Collects the answers as the page does."""

    def __init__(self, laboratory, look):
        self.laboratory, self.look = laboratory, look
        self.version, self.runs, self.sweeps, self.changed = 0, {}, {}, 0

    def ask(self, **asked):
        answer = self.look(self.laboratory, since=self.version, **asked)
        json.dumps(answer, allow_nan=False)
        self.version, self.changed = answer["version"], len(answer["runs"])
        for name in answer["removed"]:
            self.runs.pop(name, None)
            self.sweeps.pop(name, None)
        self.runs |= {run["id"]: run for run in answer["runs"]}
        self.sweeps |= {sweep["id"]: sweep for sweep in answer["sweeps"]}
        return answer


@pytest.fixture
def page(tmp_path, look):
    return Page(Laboratory(tmp_path), look)


def change(order, runs):
    run = order.choice(runs)
    kind = order.choice(["epoch", "epoch", "result", "again", "remove"])
    if not run.path.exists():
        return
    if kind == "epoch":
        lines = run.metrics.read_text().count("\n") if run.metrics.exists() else 1
        write_epochs(run, [order.random() for _ in range(lines)])
    elif kind == "result":
        write_result(run, order.choice(["finished", "failed", "stopped"]), order.random())
    elif kind == "again":
        run.result.unlink(missing_ok=True)
    elif order.random() < 0.3:
        shutil.rmtree(run.path)


def test_a_page_that_asks_for_changes_knows_what_a_new_page_knows(tmp_path, begin_run, begin_sweep, page, look):
    runs = [begin_run(tmp_path / "mnist-mlp" / str(number)) for number in range(4)]
    runs += begin_sweep(tmp_path / "sweeps" / "s", [(f"seed={number}",) for number in range(5)], begun=4)
    order = random.Random(1)
    for number in range(40):
        change(order, runs)
        if order.random() < 0.5:
            page.ask()
        if number % 10 == 9:
            page.ask()
            new = Page(Laboratory(tmp_path), look)
            new.ask()
            assert page.runs == new.runs
            assert page.sweeps == new.sweeps
    assert {"finished", "failed", "unfinished"} <= {run["status"] for run in page.runs.values()}


def test_nothing_is_told_twice(tmp_path, begin_run, page):
    runs = [begin_run(tmp_path / str(number)) for number in range(5)]
    page.ask()
    assert page.changed == 5
    page.ask()
    assert page.changed == 0
    write_epochs(runs[2], [0.5])
    answer = page.ask()
    assert [run["id"] for run in answer["runs"]] == ["2"]


def test_the_curves_of_a_run_are_sent_row_by_row_and_anew_after_a_resume(tmp_path, begin_run, page):
    run = begin_run(tmp_path / "a")
    with locked_folder(run):
        write_epochs(run, [0.5, 0.6])
        told = page.ask(run="a", rows=0, generation=-1)["run"]
        assert (told["first"], [row["val/accuracy"] for row in told["rows"]]) == (0, [0.5, 0.6])
        write_epochs(run, [0.5, 0.6, 0.7])
        again = page.ask(run="a", rows=2, generation=told["generation"])["run"]
        assert (again["first"], [row["epoch"] for row in again["rows"]]) == (2, [3])
        write_epochs(run, [0.5, 0.9])
        anew = page.ask(run="a", rows=3, generation=told["generation"])["run"]
        assert (anew["first"], [row["val/accuracy"] for row in anew["rows"]]) == (0, [0.5, 0.9])
    assert page.ask(run="missing")["run"] is None


def test_the_curves_of_a_finished_run_are_read_when_the_page_asks(tmp_path, begin_run, page):
    run = begin_run(tmp_path / "a")
    write_epochs(run, [0.5, float("nan"), 0.7])
    write_result(run, "finished", 0.7)
    told = page.ask(run="a", generation=-1)["run"]
    assert [row["val/accuracy"] for row in told["rows"]] == [0.5, None, 0.7]


def test_a_sweep_says_what_waits_and_its_curves_are_sent_once(tmp_path, begin_sweep, page):
    jobs = [(f"seed={seed}", "optimizer.lr=0.1") for seed in range(4)]
    first, second = begin_sweep(tmp_path / "s", jobs, begun=2)
    write_epochs(first, [0.4, 0.6])
    write_result(first, "finished", 0.6)
    with locked_folder(second):
        write_epochs(second, [0.3])
        curves = page.ask(sweep="s", drawn=0)["curves"]["curves"]
        assert curves == {
            "s/0_seed=0,optimizer.lr=0.1": [[1, 0.4], [2, 0.6]],
            "s/1_seed=1,optimizer.lr=0.1": [[1, 0.3]],
        }
        sweep = page.sweeps["s"]
        assert (sweep["running"], sweep["waiting"], sweep["keys"]) == (True, 2, ["optimizer.lr", "seed"])
        assert {run["sweep"] for run in page.runs.values()} == {"s"}
        assert [run["number"] for run in sorted(page.runs.values(), key=lambda run: run["id"])] == [0, 1]
        write_epochs(second, [0.3, 0.5])
        curves = page.ask(sweep="s", drawn=page.version)["curves"]["curves"]
        assert list(curves) == ["s/1_seed=1,optimizer.lr=0.1"]


def test_the_end_of_a_sweep_follows_the_pace_of_its_command(tmp_path, begin_sweep, page):
    runs = begin_sweep(tmp_path / "s", [(f"seed={seed}",) for seed in range(4)], begun=3)
    (tmp_path / "s" / "multirun.yaml").write_text("{}")
    now = time.time()
    os.utime(tmp_path / "s" / "multirun.yaml", (now - 30, now - 30))
    write_result(runs[0], "finished", 0.5)
    os.utime(runs[0].result, (now - 1000, now - 1000))  # of an earlier command, which says nothing about the pace
    write_result(runs[1], "finished", 0.5)
    with locked_folder(runs[2]):
        write_epochs(runs[2], [0.5] * 2)  # two of five epochs
        page.ask()
        # 1.4 runs in 30 s; 0.6 of this run and one more are to come.
        assert page.sweeps["s"]["ends_at"] - now == pytest.approx(30 / 1.4 * 1.6, abs=1)


def test_a_sweep_whose_runs_all_train_ends_with_the_last_of_them(tmp_path, begin_sweep, page):
    first, second = begin_sweep(tmp_path / "s", [("seed=0",), ("seed=1",)])
    with locked_folder(first), locked_folder(second):
        write_epochs(first, [0.5])
        page.ask()
        assert page.sweeps["s"]["ends_at"] is None
        write_epochs(second, [0.5, 0.6])
        page.ask()
        assert page.sweeps["s"]["ends_at"] == max(run["ends_at"] for run in page.runs.values())
        assert all(run["population"] for run in page.runs.values())


def test_many_new_runs_are_read_in_several_looks(tmp_path, begin_run, page, monkeypatch):
    for number in range(6):
        begin_run(tmp_path / str(number))
    monkeypatch.setattr("digitlab.watch.laboratory._FIRST_READ_SECONDS", 0.0)
    left = page.ask()["unread"]
    assert left == 6
    monkeypatch.setattr("digitlab.watch.laboratory._FIRST_READ_SECONDS", 5.0)
    assert page.ask()["unread"] == 0
    assert len(page.runs) == 6


def test_looks_are_rare_however_often_a_page_asks(tmp_path, begin_run):
    begin_run(tmp_path / "a")
    laboratory = Laboratory(tmp_path)
    versions = {laboratory.changes()["version"] for _ in range(20)}
    assert versions == {1}


def test_a_damaged_manifest_is_noted(tmp_path, begin_sweep, page):
    begin_sweep(tmp_path / "s", [("seed=0",)])
    (tmp_path / "s" / "sweep.json").write_text("{")
    page.ask()
    assert "sweep.json" in page.sweeps["s"]["note"]


def test_watching_writes_nothing_and_takes_no_lock(tmp_path, begin_run, begin_sweep, page):
    """Python reports each file that it opens with the mode, and each folder or link that it makes."""
    runs = [begin_run(tmp_path / "a"), *begin_sweep(tmp_path / "s", [("seed=0",), ("seed=1",)])]
    for run in runs:
        write_epochs(run, [0.5])
    write_result(runs[0], "finished", 0.5)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    seen, active = [], True

    def note(event, arguments):
        if active and (event == "open" or event.startswith(("os.", "fcntl.", "shutil."))):
            seen.append((event, *arguments))

    sys.addaudithook(note)
    with locked_folder(runs[1]):
        seen.clear()
        page.ask(run="a", generation=-1, sweep="s")
        page.ask(run="a", sweep="s")
        active = False
    opened = [arguments for event, *arguments in seen if event == "open"]
    assert len(opened) > 5
    assert all(
        arguments[1] in ("r", "rb", None) and not arguments[2] & (os.O_WRONLY | os.O_RDWR) for arguments in opened
    )
    assert {event for event, *_ in seen} <= {"open", "os.scandir", "os.listdir"}
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path: time for path, time in after.items() if path != runs[1].path} == {
        path: time for path, time in before.items() if path != runs[1].path
    }
