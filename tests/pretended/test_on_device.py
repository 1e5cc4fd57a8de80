"""Runs the tests of the pretended device in processes of their own, as torch registers it for a whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

_HERE = Path(__file__).parent


@pytest.mark.parametrize("module", sorted(path.stem for path in _HERE.glob("on_device*.py")))
def test_on_the_pretended_device(module: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", str(_HERE / f"{module}.py")]
    ended = subprocess.run(command, cwd=_HERE.parents[1], capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert " passed" in ended.stdout
