"""The GPU check: its verdicts on targets, its options, and how it supervises the processes of its groups."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gpu_check
from gpu_checks.supervisor import GroupProcess, run_at_once
from gpu_checks.targets import TARGETS, judge

RATIO, ACCURACY = "(a) captured over bare loop", "mnist_99 mean test accuracy"


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        (RATIO, 0.33, "reached"), (RATIO, 0.34, "missed"), (ACCURACY, 0.99, "reached"), (ACCURACY, 0.9899, "missed"),
        (RATIO, None, "not measured"),
    ],
)  # fmt: skip
def test_a_target_is_reached_on_the_right_side_of_its_limit(name, value, verdict):
    judged = judge({name: value}, binding=True)[name]
    assert (judged["value"], judged["verdict"]) == (value, verdict)


def test_a_dry_run_judges_nothing_and_an_unknown_target_is_an_error():
    assert judge({RATIO: 9.0}, binding=False)[RATIO]["verdict"] == "not judged"
    with pytest.raises(KeyError):
        judge({"speed": 1.0}, binding=True)


def test_every_target_has_one_limit():
    assert all((target.at_most is None) != (target.at_least is None) for target in TARGETS.values())


REFUSED = {
    "--stage speed": "invalid choice: 'speed'",
    "--budget 0": "--budget 0.0: must be above 0",
    "--reference missing.py": "--reference missing.py: no such file",
    "--device cpu": "--device cpu needs --quick",
}


@pytest.mark.parametrize(("options", "message"), REFUSED.items())
def test_wrong_options_are_refused_with_a_reason(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *options.split()])
    with pytest.raises(SystemExit) as error:
        gpu_check.main()
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.runs
@pytest.mark.parametrize("stage", [*gpu_check.STAGES, "all"])
def test_a_stage_has_the_checks_of_its_groups(stage, tmp_path, monkeypatch):
    out = tmp_path / "new/folder"
    # No process starts in so short a time.
    options = ["--device", "cpu", "--quick", "--budget", "1e-9", "--stage", stage, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *options])
    assert gpu_check.main() == 0
    checks = json.loads((out / "gpu.json").read_text())["checks"]
    stages = gpu_check.STAGES if stage == "all" else [stage]
    assert {name.partition(": ")[0] for name in checks} == {
        group for each in stages for group in gpu_check.STAGES[each]
    }
    assert {(check["status"], check["reason"]) for check in checks.values()} == {("not run", "the time was over")}


# A group of four checks; what the second one does comes in its place.
GROUP = """
import json, os, subprocess, sys, time
out, first = sys.argv[1], int(sys.argv[sys.argv.index("--first") + 1])
def append(line):
    with open(out, "a") as file:
        file.write(json.dumps(line) + "\\n")
if first == 0:
    append({"checks": ["a", "b", "c", "d"]})
for number, name in enumerate("abcd"):
    if number < first:
        continue
    if name == "b":
        SECOND
    append({"name": name, "status": "passed", "seconds": 0.1})
"""


@pytest.fixture
def group(tmp_path: Path) -> Callable[..., GroupProcess]:
    """``group(code)`` is a group whose second check runs ``code``; ``whole=True``: the whole process does."""

    def make(code: str, *, name: str = "some", seconds: float = 60.0, whole: bool = False) -> GroupProcess:
        script = tmp_path / f"{name}.py"
        script.write_text(code if whole else GROUP.replace("SECOND", code))
        return GroupProcess(
            name=name, command=[sys.executable, str(script), str(tmp_path / f"{name}.jsonl")],
            environment=os.environ, out=tmp_path, ends_at=time.monotonic() + seconds,
        )  # fmt: skip

    return make


def statuses(made: GroupProcess) -> dict[str, str]:
    reports: list[int] = []
    run_at_once([made], lambda: reports.append(len(made.results)))
    assert reports
    return {name: result["status"] for name, result in made.results.items()}


@pytest.mark.runs
def test_all_checks_of_a_group_are_collected(group):
    assert statuses(group("pass")) == dict.fromkeys("abcd", "passed")


@pytest.mark.runs
def test_after_a_crash_the_group_goes_on_with_the_next_check_and_names_the_reason(group):
    made = group('print("out of luck", flush=True); os._exit(9)')
    assert statuses(made) == {"a": "passed", "b": "failed", "c": "passed", "d": "passed"}
    assert "ended with 9" in made.results["b"]["error"]
    assert "out of luck" in made.results["b"]["error"]


@pytest.mark.runs
def test_a_group_that_crashes_does_not_stop_the_others(group):
    groups = group("os._exit(9)", name="one"), group("time.sleep(0.5)", name="other")
    run_at_once(groups, lambda: None)
    found = [{name: result["status"] for name, result in made.results.items()} for made in groups]
    assert found == [{"a": "passed", "b": "failed", "c": "passed", "d": "passed"}, dict.fromkeys("abcd", "passed")]


@pytest.mark.runs
def test_the_file_is_rewritten_after_every_check(group, tmp_path):
    report = gpu_check.Report(argparse.Namespace(out=tmp_path, device="cpu", quick=True, stage="rows"))
    # The second check passes as soon as the file says that the first one has passed.
    file = repr(str(tmp_path / "gpu.json"))
    report.groups = [group(f"""
        while not (os.path.exists({file}) and "passed" in open({file}).read()):
            time.sleep(0.05)""", seconds=20.0)]  # fmt: skip
    run_at_once(report.groups, report.write)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: check["status"] for name, check in written["checks"].items()} == dict.fromkeys(
        [f"some: {letter}" for letter in "abcd"], "passed"
    )


@pytest.mark.runs
def test_a_process_that_lost_its_device_is_replaced_after_its_failed_check(group):
    made = group('append({"name": "b", "status": "failed", "seconds": 0.1, "error": "illegal access"}); sys.exit(3)')
    assert statuses(made) == {"a": "passed", "b": "failed", "c": "passed", "d": "passed"}
    assert made.results["b"]["error"] == "illegal access"


@pytest.mark.runs
def test_a_process_that_cannot_start_is_one_failed_check(group):
    made = group("raise SystemExit('no such module')", whole=True)
    assert statuses(made) == {"the process": "failed"}
    assert "no such module" in made.results["the process"]["error"]


@pytest.mark.runs
def test_the_time_limit_ends_a_group_with_its_children_and_the_rest_is_not_run(group, tmp_path):
    path = tmp_path / "child"
    script = tmp_path / "child.py"
    script.write_text(f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    made = group(f"subprocess.Popen([sys.executable, {str(script)!r}]); time.sleep(60)")

    def end_with_the_child() -> None:
        # The time is over as soon as the child has started, however long that takes on a busy machine.
        if path.exists() and path.read_text():
            made.ends_at = 0.0

    run_at_once([made], end_with_the_child)
    found = {name: result["status"] for name, result in made.results.items()}
    assert found == {"a": "passed", "b": "not run", "c": "not run", "d": "not run"}
    assert made.results["c"]["reason"] == "the time was over"
    child_id = int(path.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(child_id):
        time.sleep(0.05)
    assert not _runs(child_id)


def _runs(process: int) -> bool:
    status = Path(f"/proc/{process}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def test_lines_that_are_being_written_are_read_later(group, tmp_path):
    made = group("pass")
    made._read_bytes = 0
    whole = json.dumps({"checks": ["a"]}) + "\n" + json.dumps({"name": "a", "status": "passed", "seconds": 1})
    (tmp_path / "some.jsonl").write_text(whole[:-5])
    made._collect()
    assert made.results == {"a": {"status": "not run"}}
    (tmp_path / "some.jsonl").write_text(whole + "\n")
    made._collect()
    assert made.results["a"]["status"] == "passed"
