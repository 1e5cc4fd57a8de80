"""The lock of a run folder on file systems that have no locks."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from digitlab.results.folder import RunFolder
from digitlab.results.lock import BusyError, locked_folder
from digitlab.sweeps.manifest import locked

_HOLD = """
import errno, fcntl, sys
from pathlib import Path
def refuse(*_): raise OSError(int(sys.argv[2]), "no locks")
fcntl.flock = refuse
from digitlab.results.folder import RunFolder
from digitlab.results.lock import locked_folder
with locked_folder(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def without_locks(request, monkeypatch):
    """The kernel's answer on a file system without locks."""

    def refuse(*_):
        raise OSError(request.param, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_a_run_starts_on_a_file_system_without_locks(without_locks, run_folder, caplog, one_line):
    run_folder.mkdir()
    for _ in range(2):  # nothing is left that could refuse the next process
        caplog.clear()
        with locked_folder(RunFolder(run_folder)):
            assert (run_folder / ".lock").exists()
        assert not (run_folder / ".lock").exists()
        assert caplog.messages == [
            f"{run_folder}: this file system has no locks; the file .lock marks the run as busy instead"
        ]


@pytest.mark.faults
def test_two_processes_exclude_each_other_without_locks(without_locks, run_folder):
    run_folder.mkdir()
    command = [sys.executable, "-c", _HOLD, str(run_folder), str(without_locks)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BusyError), locked_folder(RunFolder(run_folder)):
            pass
        other.kill()
        other.wait()
    # The file of a dead process does not keep the folder busy.
    with locked_folder(RunFolder(run_folder)):
        pass


def test_a_sweep_runs_on_a_file_system_without_locks(without_locks, batch, tmp_path):
    with locked(tmp_path):
        assert (tmp_path / ".manifest.lock").exists()
    returns = batch("here", number=3)()
    assert returns[0]["pid"] == os.getpid()
    assert not (tmp_path / ".locks" / "3.lock").exists(), "the file is the lock, so it must go"
