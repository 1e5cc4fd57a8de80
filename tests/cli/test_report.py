"""``digitlab report`` on the command line."""

import pytest


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "linear", "model=linear")


@pytest.mark.extra
def test_the_report_is_written_into_the_folder_and_overwritten_only_with_force(digitlab, run):
    path = run / "report.html"
    code, out, err = digitlab("report", run)
    assert (code, out) == (0, f"{path}\n")
    assert err.splitlines()[:2] == ["reading 1 run", "reading the checkpoint and the data"]
    assert path.read_text().startswith("<!doctype html>")
    assert digitlab("report", run) == (2, "", f"--out={path}: already exists: --force overwrites it\n")
    assert digitlab("report", run, "--force")[:2] == (0, f"{path}\n")


@pytest.mark.extra
def test_several_folders_need_an_output_file(digitlab, run, tmp_path):
    code, out, err = digitlab("report", run, run)
    assert (code, out, err) == (2, "", "--out: must name the output file if several folders are given\n")
    assert digitlab("report", run, run.parent, "--out", tmp_path / "both.html")[0] == 0


def test_a_wrong_folder_gives_one_line(digitlab, tmp_path):
    assert digitlab("report", tmp_path) == (2, "", f"FOLDER={tmp_path}: contains no run folder\n")
    code, out, err = digitlab("report", tmp_path / "x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"FOLDER={tmp_path}/x: there is no such folder")
