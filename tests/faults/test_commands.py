"""``digitlab`` commands on a full or read-only disk: one line that names the file, and exit code 1."""

import io
import os
import shutil
import sys

import pytest

from digitlab.cli import main
from digitlab.config.compose import compose
from digitlab.results.folder import RunFolder
from digitlab.sweeps.manifest import add_jobs, create
from digitlab.training.resuming import resume
from fixtures.children import Child

CHOICES = "hydra:\n  runtime:\n    choices:\n      data: mnist\n      model: mlp\n"


@pytest.fixture(scope="module")
def whole_sweep(ready, tmp_path_factory):
    """The folder of a sweep with one finished run."""
    sweep = tmp_path_factory.mktemp("whole") / "sweep"
    sweep.mkdir()
    create(sweep, ["seed"])
    run = ready(sweep / add_jobs(sweep, [(compose(["seed=0"]), ["seed=0"])])[0], "trainer.max_epochs=1")
    resume(str(run.path), [])
    run.config.with_name("hydra.yaml").write_text(CHOICES)
    return sweep


@pytest.fixture
def swept(whole_sweep, disk, tmp_path):
    """A finished run in a sweep folder on a small disk."""
    disk("size=8m")
    sweep = shutil.copytree(whole_sweep, tmp_path / "disk" / "sweep")
    (path,) = (path for path in sweep.iterdir() if path.is_dir())
    return RunFolder(path)


@pytest.mark.sample(12)
@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize(
    "command",
    [
        "report RUN",
        "figures RUN --gif-images 0",
        "evaluate RUN --corrupt blur",
        "sweep SWEEP",
        "reproduce r2_softmax --table --root SWEEP/new",
        "show",
    ],
)
def test_a_file_that_cannot_be_written_is_named_in_one_line(
    digitlab, swept, disk, full, tmp_path, monkeypatch, command, fault
):
    place = tmp_path / "disk"
    monkeypatch.setattr("digitlab.config.compose.ROOT", swept.path.parent)  # where outputs/ is
    if fault == "full":
        full(place)
    else:
        disk("remount,ro")
    before = sorted(place.rglob("*.*"))
    words = {"RUN": swept.path, "SWEEP": swept.path.parent, "SWEEP/new": swept.path.parent / "new"}
    code, _, error = digitlab(*(words.get(word, word) for word in command.split()))
    assert code == 1
    error = error.splitlines()[-1]  # the lines before it show the progress of figures and report
    assert error.startswith(f"{swept.path.parent}/")
    assert ("No space left" if fault == "full" else "Read-only file system") in error
    assert sorted(place.rglob("*.*")) == before


@pytest.fixture
def listed(tmp_path):
    """``listed(file)`` runs ``digitlab runs --help`` with an open file as its standard output."""

    def run(file):
        def act():
            sys.argv = ["digitlab", "runs", "--help"]
            sys.stdout = os.fdopen(1, "w", buffering=1 << 20, closefd=False)
            main()

        return Child(act, cwd=tmp_path, stdout=file).wait()

    return run


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_list_on_a_full_disk_gives_one_line(listed):
    with open("/dev/full", "w") as disk:
        ended = listed(disk.fileno())
    assert (ended.code, ended.stderr) == (1, "standard output: No space left on device\n")


@pytest.fixture
def train_into(train_py_here, in_child, tmp_path):
    """``train_into(file, ...)`` runs train.py with an open file as its standard output.

    ``unbuffered`` writes each piece of text at once, as with PYTHONUNBUFFERED.
    """

    def run(file, *arguments, unbuffered=False):
        def act():
            os.dup2(file, 1)
            if unbuffered:
                sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", buffering=0, closefd=False), write_through=True)
            else:
                sys.stdout = os.fdopen(1, "w", buffering=1 << 20, closefd=False)
            place = f"hydra.sweep.dir={tmp_path}/sweep" if "-m" in arguments else f"hydra.run.dir={tmp_path}/run"
            train_py_here(*arguments, "debug=fast", place)

        ended = in_child(act)
        os.close(file)
        return ended

    return run


@pytest.mark.sample(2)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
@pytest.mark.parametrize("arguments", [[], ["-m", "seed=0,1", "trainer.max_steps=1"]], ids=["run", "sweep"])
def test_train_py_finishes_its_runs_if_standard_output_is_on_a_full_disk(train_into, tmp_path, arguments):
    ended = train_into(os.open("/dev/full", os.O_WRONLY), *arguments)
    assert (ended.code, ended.stderr) == (1, "standard output: No space left on device\n")
    assert len(list(tmp_path.rglob("result.json"))) == (2 if arguments else 1)


@pytest.fixture
def unread():
    """An open pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_a_closed_pipe_gives_no_message(listed, unread):
    ended = listed(unread)
    os.close(unread)
    assert ended.stderr == ""


@pytest.mark.sample(2)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_run_with_a_closed_pipe_finishes_without_a_message(train_into, tmp_path, unread, unbuffered):
    assert train_into(unread, unbuffered=unbuffered).stderr == ""
    assert RunFolder(tmp_path / "run").read_result()["status"] == "finished"


@pytest.mark.extra
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is always full")
def test_a_run_whose_output_is_not_buffered_finishes_on_a_full_disk(train_into, tmp_path):
    ended = train_into(os.open("/dev/full", os.O_WRONLY), unbuffered=True)
    assert (ended.code, ended.stderr) == (1, "standard output: No space left on device\n")
    assert RunFolder(tmp_path / "run").read_result()["status"] == "finished"
