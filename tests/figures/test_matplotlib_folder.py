"""Matplotlib's cache folder if the home folder is missing or read-only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "import os; before = os.environ.get('MPLCONFIGDIR'); import {module}, matplotlib; "
CODE += "print(before, os.environ.get('MPLCONFIGDIR'), matplotlib.get_cachedir())"
FIGURES = "digitlab.figures.style"


def folders(module=FIGURES, **variables):
    """Import the module in a new process; return MPLCONFIGDIR before and after, Matplotlib's own answer, and stderr."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MPL", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(module=module)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return (*done.stdout.split(), done.stderr)


@pytest.mark.parametrize(
    ("home", "module"),
    [
        ("/dev/null", FIGURES),
        # Lightning imports Matplotlib. A run imports it with the first of these packages, a sweep with the second.
        pytest.param("/dev/null", "digitlab.training", marks=pytest.mark.extra),
        pytest.param("/dev/null", "digitlab.data", marks=pytest.mark.extra),
        pytest.param("/proc/nowhere", FIGURES, marks=pytest.mark.extra),
    ],
)
def test_without_a_writable_home_the_cache_is_temporary_with_at_most_one_warning(home, module):
    before, after, own, err = folders(module, HOME=home)
    assert before == "None"
    # On a slow machine Matplotlib says once that it builds its font cache.
    assert err.count("\n") <= 1
    assert "temporary cache directory" not in err
    assert "digitlab-matplotlib-" in after
    assert own == after
    assert not Path(after).exists(), "removed at exit"


@pytest.mark.extra
def test_with_a_writable_home_nothing_changes(tmp_path):
    assert folders(HOME=str(tmp_path))[:2] == ("None", "None")


@pytest.mark.extra
def test_a_folder_that_the_user_sets_is_kept(tmp_path):
    assert folders(HOME="/dev/null", MPLCONFIGDIR=str(tmp_path))[:2] == (str(tmp_path), str(tmp_path))
