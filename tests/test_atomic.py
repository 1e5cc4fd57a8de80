"""Atomic writing: a file is complete at every moment, even if a process is killed or the disk fails."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from digitlab.core.errors import RunError
from digitlab.core.files import disk_faults, remove_parts, write_atomically

_WRITE_FOREVER = """
import sys, itertools
from pathlib import Path
from digitlab.core.files import write_atomically
for letter in itertools.cycle((b"a", b"b")):
    write_atomically(Path(sys.argv[1]), letter * 300_000)
"""


@pytest.mark.faults
def test_a_reader_finds_the_old_file_or_the_new_one_even_when_the_writer_is_killed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * 300_000)
    seen = set()
    deadline = time.monotonic() + 600
    with subprocess.Popen([sys.executable, "-c", _WRITE_FOREVER, str(path)]) as writer:
        try:
            while len(seen) < 2 and time.monotonic() < deadline:
                seen.add(path.read_bytes())
            seen.update(path.read_bytes() for _ in range(200))
        finally:
            writer.kill()
    seen.add(path.read_bytes())
    assert seen == {b"a" * 300_000, b"b" * 300_000}
    remove_parts(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_missing_parent_folders_are_created(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_a_file_in_the_place_of_a_folder_is_named_and_the_reverse(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "new", tmp_path / "file" / "deeper" / "new"):
        with pytest.raises(RunError, match=f"{tmp_path / 'file'} is a file where a folder is needed: move it away$"):
            write_atomically(path, b"")
    with pytest.raises(RunError, match=f"{tmp_path / 'folder'} is a folder where a file is needed: move it away$"):
        write_atomically(tmp_path / "folder", b"")
    for wrong in (tmp_path / "file" / "new", tmp_path / "folder"):
        with pytest.raises(RunError, match=r"where a f[a-z]+ is needed"), disk_faults(tmp_path):
            wrong.open("wb")


@contextmanager
def file_size_limit(limit):
    """Limit all files to ``limit`` bytes, which has the same effect as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_names_the_file_and_keeps_the_old_one(tmp_path, one_line):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    # Not for the whole test, because pytest may write its own output to a file.
    with file_size_limit(1000), pytest.raises(RunError, match="file: can't be written: ") as caught:
        write_atomically(path, b"n" * 2000, keep=tmp_path / "kept")
    assert one_line(str(caught.value))
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_keep_preserves_the_previous_file(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "kept"
    for content in (b"1", b"2", b"3"):
        write_atomically(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"3", b"2")


def test_the_file_is_written_if_hard_links_are_not_supported(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for content in (b"1", b"2"):
        write_atomically(tmp_path / "file", content, keep=tmp_path / "kept")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"2")]
