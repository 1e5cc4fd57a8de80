"""Printing to a stdout that knows only ASCII, as under ``LC_ALL=C PYTHONIOENCODING=ascii``."""

import io
import sys

import pytest

from digitlab.core.files import flush_stdout
from digitlab.results.table import print_runs, print_table


@pytest.fixture
def printed(monkeypatch):
    """``printed(act, encoding)`` is what ``act()`` prints to a stdout of that encoding, within ``flush_stdout``."""

    def run(act, encoding="ascii"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            with flush_stdout():
                act()
        return stream.buffer.getvalue().decode(encoding)

    return run


def test_tables_print_a_plain_form_of_their_own_characters(printed):
    text = printed(lambda: print_table(["setting", "sd"], [["28 × 28", "±0.0012"]]))
    assert "+-0.0012" in text
    assert "28 x 28" in text


def test_an_umlaut_in_a_path_is_escaped(printed):
    assert "l\\xe4ufe/1" in printed(lambda: print_runs([{"status": "finished", "folder": "läufe/1"}]))


def test_a_stdout_that_knows_all_characters_prints_them(printed):
    assert printed(lambda: print("±", "läufe"), "utf-8") == "± läufe\n"


def test_a_path_that_is_no_text_is_escaped_everywhere(printed):
    """Python stands for bytes that are no UTF-8 with surrogates, which UTF-8 can't encode either."""
    assert printed(lambda: print("a\udcff"), "utf-8") == "a\\udcff\n"
