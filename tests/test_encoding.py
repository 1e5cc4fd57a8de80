"""Printing to a stdout that knows only ASCII, as under ``LC_ALL=C PYTHONIOENCODING=ascii``."""

import io
import sys

import pytest

from digitlab.core.files import flush_stdout
from digitlab.results.table import print_runs, print_table


@pytest.fixture
def ascii_stdout(monkeypatch):
    """``sys.stdout`` as such a process has it; ``getvalue`` of it is what was printed."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)

    def printed():
        stream.flush()
        return stream.buffer.getvalue().decode("ascii")

    return printed


def test_tables_print_a_plain_form_of_their_own_characters(ascii_stdout):
    with flush_stdout():
        print_table(["setting", "sd"], [["28 × 28", "±0.0012"]])
    assert "+-0.0012" in ascii_stdout()
    assert "28 x 28" in ascii_stdout()


def test_an_umlaut_in_a_path_is_escaped(ascii_stdout):
    with flush_stdout():
        print_runs([{"status": "finished", "folder": "läufe/1"}])
    assert "l\\xe4ufe/1" in ascii_stdout()


def test_a_stream_that_knows_all_characters_prints_them(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with flush_stdout():
        print("±", "läufe")
    assert stream.buffer.getvalue().decode() == "± läufe\n"
    # A path whose bytes are no UTF-8 arrives as a surrogate, which UTF-8 can't encode either.
    with flush_stdout():
        print("a\udcff")
    assert stream.buffer.getvalue().decode().endswith("a\\udcff\n")
