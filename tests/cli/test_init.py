"""``digitlab init``: the files of a new project, and names and folders that it refuses."""

import ast
import json
from pathlib import Path

import pytest


def test_every_file_is_sound_and_names_the_project(digitlab, tmp_path):
    code, out, err = digitlab("init", tmp_path / "mylab")
    assert (code, err) == (0, "")
    files = [path for path in (tmp_path / "mylab").rglob("*") if path.is_file()]
    assert [line for line in out.splitlines() if Path(line).is_file()] == sorted(map(str, files), key=out.find)
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "PROJECT" not in f"{path.relative_to(tmp_path)}{text}"
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text))
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            assert all(ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code")
    assert (tmp_path / "mylab" / ".gitignore").read_text(encoding="utf-8").startswith("/data/\n/outputs/\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("my-lab", "letters, digits"), ("3d", "letters, digits"), ("class", "letters, digits"),
     ("tests", "choose another"), ("json", "installed Python module"), ("torch", "installed Python module")],
)  # fmt: skip
def test_names_that_cannot_be_those_of_a_package_are_refused(digitlab, tmp_path, name, reason):
    code, out, err = digitlab("init", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith(f"NAME={name}: ")
    assert reason in err
    assert not (tmp_path / name).exists()


def test_nothing_is_overwritten(digitlab, tmp_path):
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "notes.txt").write_text("mine")
    code, _, err = digitlab("init", tmp_path / "mylab")
    assert code == 2
    assert "is not empty" in err
    assert [path.name for path in (tmp_path / "mylab").iterdir()] == ["notes.txt"]
