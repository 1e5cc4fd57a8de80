"""Several processes on one search: in PostgreSQL, MariaDB and SQLite, with killed workers and restarted servers."""

import csv
import json
import os
import signal
import sys
import time

import pytest

from fixtures.databases import missing_mariadb, missing_postgresql, running_mariadb, running_postgresql
from fixtures.waiting import HUNG_SECONDS, wait_until

pytest.importorskip("optuna")

import optuna

from digitlab.sweeps.search.shared_study import SharedStudy

pytestmark = pytest.mark.xdist_group("databases")

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "model.dropout=interval(0,0.5)")
SERVERS = {
    "postgresql": (running_postgresql, missing_postgresql, "psycopg"),
    "mariadb": (running_mariadb, missing_mariadb, "pymysql"),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Import what Optuna imports late, so that the forked workers need not."""
    url = f"sqlite:///{tmp_path_factory.mktemp('first') / 'first.db'}"
    study = optuna.create_study(storage=url, sampler=optuna.samplers.TPESampler(n_startup_trials=1))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "sqlite"])
def server(request, imported):
    """A running server, or None for SQLite."""
    if request.param == "sqlite":
        yield None
        return
    running, missing, driver = SERVERS[request.param]
    if reason := missing():
        pytest.skip(f"no {request.param} server: {reason}")
    pytest.importorskip(driver)
    with running() as started:
        yield started


ON_SQLITE = pytest.mark.parametrize("server", ["sqlite"], indirect=True)


@pytest.fixture
def url(server, tmp_path):
    return server.url if server else f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture
def workers(plan, url, tmp_path, forked):
    """``workers(4, pause=...)`` starts processes that share a search; each writes what it does to a file of its own.

    With each trial they call ``pause`` with the files of all and their own number.
    """
    folder = tmp_path / f"search-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()

    def work(made, logs, number, pause):
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
        study = SharedStudy(folder, made, fingerprint="0", metric="val/loss")
        try:
            talk(study, logs, number, pause)
        finally:
            study.close()

    def talk(study, logs, worker, pause):
        with logs[worker].open("w", buffering=1) as file:
            while trials := study.round(1):
                for number, chosen in trials.items():
                    print(json.dumps(["asked", number, chosen]), file=file)
                    pause(logs, worker)
                    study.tell(number, chosen.get("model.dropout"))
                    print(json.dumps(["told", number, chosen]), file=file)

    def start(count, *settings, space=SPACE, pause=all_have_begun, dead_after=2):
        made = plan(
            *space, f"hydra.sweeper.storage={url}", f"hydra.sweeper.dead_after_s={dead_after}",
            *(f"hydra.sweeper.{setting}" for setting in settings),
        )  # fmt: skip
        logs = [folder / f"{number}.log" for number in range(count)]
        return [forked(lambda number=number: work(made, logs, number, pause)) for number in range(count)], logs

    return start


def lines(logs, kind):
    found = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
    return [(number, chosen) for what, number, chosen in found if what == kind]


def all_have_begun(logs, worker):
    """Keep a trial until every worker has had one, so that none comes too late on a slow machine."""
    wait_until(lambda: all(lines([log], "asked") for log in logs))
    time.sleep(0.2)


def completed(name, url):
    """The parameters of the completed trials in the database."""
    storage = optuna.storages.RDBStorage(url)
    study = optuna.load_study(study_name=name, storage=storage)
    done = [trial.params for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE])]
    storage.engine.dispose()
    return done


def test_four_processes_share_a_search_although_one_dies_and_the_server_restarts(workers, server, url):
    processes, logs = workers(4, "n_trials=16", "sampler=tpe")
    wait_until(lambda: all(lines([log], "told") for log in logs))
    processes[0].kill()
    processes[0].wait()
    if server is not None:
        server.restart()
    for process in processes[1:]:
        ended = process.wait()
        assert ended.code == 0, ended
    done = completed(logs[0].parent.name, url)
    asked = lines(logs, "asked")
    assert len({number for number, _ in asked}) == len(asked), "each trial is claimed by one worker"
    assert len(done) == len({json.dumps(chosen) for chosen in done}) == 16
    assert [chosen for _, chosen in asked if chosen not in done] == [], "the trial of the dead worker is run again"


@pytest.mark.long
@ON_SQLITE
def test_a_grid_gives_each_point_to_one_worker(workers):
    space = ("optimizer.lr=0.1,0.01,0.001", "model.dropout=range(0,0.35,0.1)")
    processes, logs = workers(4, "sampler=grid", space=space)
    assert [process.wait().code for process in processes] == [0] * 4
    points = [json.dumps(chosen) for _, chosen in lines(logs, "told")]
    assert len(points) == len(set(points)) == 12


@pytest.mark.long
@ON_SQLITE
def test_a_worker_does_not_wait_for_a_slow_one(workers):
    def pause(logs, worker):
        all_have_begun(logs, worker)
        if worker == 0:
            wait_until(lambda: len(lines(logs[1:], "told")) == 5)

    processes, logs = workers(2, "n_trials=6", pause=pause, dead_after=600)
    assert [process.wait().code for process in processes] == [0, 0]
    assert len(lines(logs[:1], "told")) == 1


@pytest.mark.long
@ON_SQLITE
def test_a_worker_that_ends_leaves_its_trials_to_the_others(workers):
    """SIGTERM ends a worker as Ctrl-C does; the others need not wait until it counts as dead."""

    def pause(logs, worker):
        all_have_begun(logs, worker)
        if worker == 0:
            time.sleep(HUNG_SECONDS)

    (first, second), logs = workers(2, "n_trials=4", pause=pause, dead_after=600)
    wait_until(lambda: lines(logs[:1], "asked"))
    first.send_signal(signal.SIGTERM)
    first.wait()
    assert second.wait().code == 0
    assert len(lines(logs[1:], "told")) == 4


@pytest.mark.long
def test_commands_on_one_machine_share_a_search(background, tmp_path):
    folder = tmp_path / "sweep"
    words = (
        "-m", "hydra/sweeper=optuna", "hydra/launcher=basic", "trainer=cpu", "model=linear", "data.train_size=256",
        "data.val_size=200", "trainer.max_epochs=1", "test=none", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler=random", f"hydra.sweep.dir={folder}",
        f"hydra.sweeper.storage=sqlite:///{tmp_path / 'shared.db'}",
    )  # fmt: skip
    commands = [background(*words) for _ in range(2)]
    ended = [command.wait() for command in commands]
    assert [(each.code, each.stderr) for each in ended] == [(0, "")] * 2
    with (folder / "sweep.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 6
    assert len(list(folder.glob("*/result.json"))) == 6
    assert all("best setting" in each.stdout for each in ended), "every command prints the whole table"
