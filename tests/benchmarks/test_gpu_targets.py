"""The GPU check: its verdicts on targets, and how it supervises the processes of its groups."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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

    def make(code: str, *, seconds: float = 60.0, whole: bool = False) -> GroupProcess:
        script = tmp_path / "group.py"
        script.write_text(code if whole else GROUP.replace("SECOND", code))
        return GroupProcess(
            name="some", command=[sys.executable, str(script), str(tmp_path / "some.jsonl")], environment=os.environ,
            out=tmp_path, ends_at=time.monotonic() + seconds,
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
