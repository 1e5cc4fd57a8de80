"""The locks of run folders and sweeps on file systems whose locks fail, or are not seen by other machines."""

import errno
import fcntl
import os
import re
import socket
import time

import pytest

from digitlab.core.locks import acquire_lock
from digitlab.core.system import mount_of
from digitlab.results.folder import RunFolder
from digitlab.results.lock import BusyError, locked_folder
from digitlab.sweeps.manifest import Manifest, create, locked
from fixtures.children import Child, killed_at_end
from fixtures.waiting import wait_until

LEASE_SECONDS = 0.5
IN_TWO_WAYS = pytest.mark.parametrize("without_locks", ["ENOLCK", "nolock"], indirect=True)


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "localflock", "nolock", "local_lock=all"])
def without_locks(request, monkeypatch, tmp_path):
    """A file system where ``flock`` fails, or one where it always succeeds, as for a lock on another machine."""

    def flock(*_):
        if hasattr(errno, request.param):
            raise OSError(getattr(errno, request.param), "no locks")

    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} nfs rw,{request.param},hard 0 0\n")
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("digitlab.core.locks.MOUNTS", mounts)
    monkeypatch.setattr("digitlab.core.locks._LEASE_SECONDS", LEASE_SECONDS)


@pytest.fixture
def holder(run_folder):
    """``holder("host")`` is a process that holds the run; ``"host"`` is the name of its machine."""
    run_folder.mkdir()

    def act(machine):
        socket.gethostname = lambda: machine
        with locked_folder(RunFolder(run_folder)):
            (run_folder / "held").touch()
            time.sleep(600)

    with killed_at_end() as started:

        def start(machine):
            started.append(Child(lambda: act(machine)))
            wait_until((run_folder / "held").exists)
            return started[-1]

        yield start


def test_a_run_starts_on_a_file_system_without_locks(without_locks, run_folder, caplog, one_line):
    run_folder.mkdir()
    for _ in range(2):  # nothing is left that could refuse the next process
        caplog.clear()
        with locked_folder(RunFolder(run_folder)):
            assert (run_folder / ".lock").exists()
        assert not (run_folder / ".lock").exists()
        assert caplog.messages == [
            f"{run_folder}: no locks here that all machines see; the file .lock marks the run as busy instead"
        ]


@pytest.mark.faults
@IN_TWO_WAYS
@pytest.mark.parametrize("machine", [socket.gethostname(), "elsewhere"], ids=["this machine", "another machine"])
def test_a_process_has_the_lock_until_it_dies(without_locks, run_folder, holder, machine):
    """A process on another machine is busy as long as it renews its lock, whatever the clocks say."""
    other = holder(machine)
    with pytest.raises(BusyError), locked_folder(RunFolder(run_folder)):
        pass
    other.kill()
    other.wait()
    # The file of a dead process does not keep the folder busy.
    with locked_folder(RunFolder(run_folder)):
        pass


@pytest.mark.faults
@pytest.mark.parametrize("without_locks", ["nolock"], indirect=True)
def test_the_lock_of_a_container_that_was_started_again_under_its_name_expires(without_locks, run_folder, holder):
    """The new container has other process ids, so nobody can see that the former process is dead."""
    former = holder(socket.gethostname())
    former.kill()
    former.wait()
    lock = run_folder / ".lock"
    # What filelock would have written in another namespace of process ids.
    lock.write_text(re.sub(r"host=.*", f"host={socket.gethostname()}?pidns-1", lock.read_text()))
    with locked_folder(RunFolder(run_folder)):
        pass


@pytest.mark.faults
@IN_TWO_WAYS
def test_two_processes_that_change_a_manifest_without_locks_lose_nothing(without_locks, tmp_path):
    create(tmp_path, ["seed"])

    def add(worker):
        for number in range(5):
            with locked(tmp_path):
                Manifest.read(tmp_path).with_run(f"{worker}-{number}", [f"seed={worker}{number}"]).write()

    ended = [child.wait() for child in [Child(lambda worker=worker: add(worker)) for worker in range(2)]]
    assert [each.code for each in ended] == [0, 0], ended
    assert len({entry.folder for entry in Manifest.read(tmp_path).runs}) == 10


def test_a_process_that_has_yet_to_write_its_name_has_the_lock(without_locks, tmp_path):
    """An empty file counts as such a process, but not for ever."""
    path = tmp_path / "lock"
    path.touch()
    with pytest.raises(TimeoutError):
        acquire_lock(path, timeout=0)
    os.utime(path, (0, 0))
    lock, _ = acquire_lock(path, timeout=0)
    lock.release()


@pytest.mark.parametrize(
    ("path", "kind", "option"),
    [
        ("/tmp/x", "ext4", "rw"),
        ("/home/a/x", "nfs4", "hard"),
        ("/homes/x", "ext4", "rw"),
        ("/big data/x", "lustre", "localflock"),
        ("/home/local", "xfs", "rw"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_innermost_mount(path, kind, option, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.realpath", str)
    (tmp_path / "mounts").write_text(
        "/dev/sda / ext4 rw 0 0\n"
        "server:/home /home nfs4 rw,hard 0 0\n"
        "server:/big /big\\040data lustre rw,localflock 0 0\n"
        "/dev/sdb /home/local xfs rw 0 0\n"
    )
    found, options = mount_of(path, mounts=tmp_path / "mounts")
    assert found == kind
    assert option in options
    assert mount_of(path, mounts=tmp_path / "missing") is None


def test_a_lock_that_all_machines_see_is_the_kernels(monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/x {tmp_path} nfs4 rw,local_lock=none 0 0\n")
    monkeypatch.setattr("digitlab.core.locks.MOUNTS", mounts)
    lock, everywhere = acquire_lock(tmp_path / "lock")
    lock.release()
    assert everywhere


def test_a_sweep_runs_on_a_file_system_without_locks(without_locks, batch, tmp_path):
    with locked(tmp_path):
        assert (tmp_path / ".manifest.lock").exists()
    returns = batch("here", number=3)()
    assert returns[0]["pid"] == os.getpid()
    assert not (tmp_path / ".locks" / "3.lock").exists(), "the file is the lock, so it must go"
