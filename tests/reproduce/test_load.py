"""Whether a run had the machine to itself: measured by the work of other processes, not by its own."""

import os
import subprocess
import sys
import time

import pytest

from digitlab.core import system
from digitlab.reproduce.findings import Quantity, findings
from digitlab.reproduce.load import LoadMeter, ran_alone
from digitlab.reproduce.outcomes import RunOutcome
from digitlab.reproduce.verdicts import Sample, decide
from digitlab.results.folder import RunFolder

pytestmark = pytest.mark.skipif(not system._STAT.exists(), reason="only Linux tells how busy the machine is")

BUSY = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"


def test_the_work_of_another_process_counts(run_folder):
    run_folder.mkdir()
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        with LoadMeter() as meter:
            assert other.stdout.readline() == "\n"
        other.communicate("\n")
    # The process has worked for one second, but is not waited for yet, so that it does not count as a child.
    assert meter.other_seconds > 0.7
    assert not meter.alone
    meter.write(RunFolder(run_folder))
    assert not ran_alone(RunFolder(run_folder))


def test_the_work_of_this_process_does_not_count(monkeypatch, tmp_path):
    # A machine on which nothing but this process works: its counters move with the clock of the process.
    ticks = os.sysconf("SC_CLK_TCK")

    class Stat:
        def exists(self):
            return True

        def read_text(self, encoding):
            return f"cpu {int(time.process_time() * ticks)} 0 0 12345 0 0 0 0 0 0"

    monkeypatch.setattr(system, "_STAT", Stat())
    with LoadMeter() as meter:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    assert meter.other_seconds < 0.05
    run = RunFolder(tmp_path)
    assert not ran_alone(run)
    meter.write(run)
    assert ran_alone(run) == meter.alone


def outcome(seconds, *, alone):
    return RunOutcome(
        metrics={}, curves={}, train_seconds=seconds, parameters=1, hardware="a machine", alone=alone
    )  # fmt: skip


@pytest.mark.parametrize("text", ["the framework is faster than NumPy", "batch 2048 is the cheapest"])
@pytest.mark.parametrize("alone", [True, False])
def test_times_under_load_leave_a_finding_undecided(text, alone):
    (finding,) = [each for each in findings() if each.text.startswith(text)]

    def sample(quantity: Quantity) -> Sample:
        base = 1.0 if quantity == finding.claims[0].smaller else 2.0
        runs = [outcome(base + 0.01 * number, alone=alone) for number in range(3)]
        values = [run.value(quantity.name) for run in runs]
        return Sample(tuple(value for value in values if value == value))

    assert decide(finding, sample) == ("holds" if alone else "undecided")
