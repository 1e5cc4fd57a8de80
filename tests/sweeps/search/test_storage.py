"""Which databases several processes may share, and how a search waits for a server that restarts."""

import math
import time

import pytest

from digitlab.core.errors import ConfigError, RunError

pytest.importorskip("optuna")

from optuna.exceptions import StorageInternalError

from digitlab.sweeps.search.storage import check_shared_storage, retry_until_answered
from digitlab.sweeps.search.workers import Observer, Worker
from fixtures.waiting import wait_until


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///:memory:", "memory of one process"),
        ("sqlite://", "memory of one process"),
        ("journal:///tmp/search.log", "must be the URL of PostgreSQL"),
        ("grpc://host:13000", "must be the URL of PostgreSQL"),
        ("redis://host", "must be the URL of PostgreSQL"),
    ],
)
def test_storage_that_processes_cannot_share_is_refused(url, words):
    with pytest.raises(ConfigError, match=words):
        check_shared_storage(url)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused(kind, monkeypatch):
    monkeypatch.setattr("digitlab.sweeps.search.storage.mount_of", lambda path: (kind, frozenset()))
    with pytest.raises(ConfigError, match="SQLite's locks don't work"):
        check_shared_storage("sqlite:////home/lab/search.db")
    check_shared_storage("postgresql+psycopg://lab@host/search")
    check_shared_storage("mysql+pymysql://lab@host/search")


def test_passwords_are_not_printed():
    with pytest.raises(ConfigError) as caught:
        check_shared_storage("oracle://lab:secret@host/search")
    assert "secret" not in str(caught.value)
    assert "lab@host" in str(caught.value)


def test_a_call_is_repeated_until_the_database_answers(monkeypatch, caplog):
    monkeypatch.setattr("digitlab.sweeps.search.storage._RETRY_SECONDS", 0.0)
    answers = [StorageInternalError("gone"), StorageInternalError("gone"), 3]

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry_until_answered(call) == 3
    assert len(caplog.messages) == 1
    answers[:] = [StorageInternalError("gone")] * 3
    with pytest.raises(RunError, match="does not answer"):
        retry_until_answered(call, seconds=-1)


def test_a_worker_is_dead_when_its_count_stays_the_same():
    clock = [0.0]
    observer = Observer(dead_after=10, answering_since=lambda: 0.0, clock=lambda: clock[0])
    dead = []
    for count in (1, 1, 2, 2, 2, -1):
        dead.append(observer.is_dead("elsewhere/1/a", {"worker:elsewhere/1/a": count}))
        clock[0] += 8
    assert dead == [False, False, False, False, True, True]


def test_a_worker_that_never_wrote_is_dead_after_a_while():
    clock = [0.0]
    observer = Observer(dead_after=10, answering_since=lambda: 0.0, clock=lambda: clock[0])
    assert not observer.is_dead("trial 3", {})
    clock[0] = 11
    assert observer.is_dead("trial 3", {})


def test_nobody_is_dead_because_the_database_was_away():
    clock, since = [0.0], [0.0]
    observer = Observer(dead_after=10, answering_since=lambda: since[0], clock=lambda: clock[0])
    attributes = {"worker:elsewhere/1/a": 1}
    assert not observer.is_dead("elsewhere/1/a", attributes)
    clock[0], since[0] = 100.0, math.inf
    assert not observer.is_dead("elsewhere/1/a", attributes), "the beat of this process has not arrived yet"
    since[0] = 99.0
    assert not observer.is_dead("elsewhere/1/a", attributes)
    clock[0] = 110.0
    assert observer.is_dead("elsewhere/1/a", attributes)


class AwayStorage:
    """A database that is away while ``away`` is true."""

    def __init__(self):
        self.away, self.counts = False, []

    def set_study_user_attr(self, study_id, key, count):
        if self.away:
            raise StorageInternalError("gone")
        self.counts.append(count)


def test_a_worker_knows_since_when_the_database_answers():
    storage = AwayStorage()
    worker = Worker(storage, 0, dead_after=0.06)
    assert worker.answering_since() == math.inf
    before = time.monotonic()
    worker.start()
    first = worker.answering_since()
    assert before <= first <= time.monotonic()
    storage.away = True
    wait_until(lambda: worker.answering_since() == math.inf and storage.counts)
    storage.away, back = False, time.monotonic()
    wait_until(lambda: math.inf > worker.answering_since() >= back)
    worker.stop()
    assert storage.counts[-1] == -1
