"""``train.py`` as a user starts it: its output, its folders and its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from digitlab.config.compose import ROOT


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("arguments", "words", "without"),
    [
        # With pydantic or filelock, --help would take more than 2.2 times as long as importing Hydra.
        (["--help"], "python train.py model=lenet data=fashion_mnist", ["pydantic", "filelock"]),
        (["--cfg", "job"], "max_epochs:", []),
        (["-sc", "query=bash"], "model=lenet", []),
    ],
)
def test_help_config_and_completion_do_not_import_torch(arguments, words, without, train_py_process):
    # With this variable Python prints every imported module to stderr.
    profile = {"PYTHONPROFILEIMPORTTIME": "1", "COMP_LINE": "train.py model=le", "COMP_POINT": "17"}
    ended = train_py_process(*arguments, environment=profile)
    assert words in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "digitlab.config.compose" in imported
    assert not imported & {"torch", "lightning", "numpy", "torchvision", *without}
    assert ended.returncode == 0


@pytest.mark.sample(4)
@pytest.mark.parametrize("override", ["lr=1", "optimizer.lr=-1", "data.val_size=abc", "monitor.metric=val/acc"])
def test_a_mistake_in_a_setting_is_reported_without_importing_torch(override, train_py_process):
    ended = train_py_process(override, environment={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ended.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "digitlab.config.compose" in imported
    assert not imported & {"torch", "lightning", "torchvision"}
    messages = [line for line in ended.stderr.splitlines() if not line.startswith("import time:")]
    assert len(messages) == 1
    assert messages[0].startswith(f"{override}: ")


def test_cfg_is_rejected_for_a_sweep(train_py, one_line):
    ended = train_py("-m", "--cfg", "job", "seed=0,1")
    assert ended.returncode == 2
    assert one_line(ended.stderr)
    assert ended.stderr.startswith("--multirun --cfg: can't be given together")


def test_help_lists_every_group_with_its_options(train_py):
    text = train_py("--help").stdout
    for line in (
        "data: cifar10, cifar100, emnist, fashion_mnist, folder, kmnist, mnist",
        "model: cnn, fast_cnn, lenet, linear, mlp, mlp_dropout, torchvision",
    ):
        assert line in text


def test_run_folders_are_next_to_train_py_and_unique_even_in_the_same_instant(train_py_started, tmp_path):
    cfg = ["--cfg", "hydra", "--package", "hydra.run.dir", "--resolve"]
    both = [train_py_started(*cfg, cwd=tmp_path) for _ in range(2)]
    folders = [child.wait().stdout.strip() for child in both]
    assert folders[0] != folders[1]
    for folder in folders:
        assert folder.startswith(str(ROOT / "outputs" / "mnist-mlp"))


# A new process takes ten seconds, a forked one has imported everything.
@pytest.mark.parametrize("process", ["train_py", pytest.param("train_py_process", marks=pytest.mark.extra)])
def test_a_run_prints_its_result_and_its_folder_and_nothing_else(process, request, tmp_path):
    folder = tmp_path / "run"
    ended = request.getfixturevalue(process)("debug=fast", f"hydra.run.dir={folder}")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "accuracy" in ended.stdout
    assert ended.stdout.splitlines()[-1] == str(folder)
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "nothing is written to the working directory"


@pytest.mark.extra
def test_a_relative_resume_folder_is_relative_to_the_working_directory(train_py, tmp_path):
    arguments = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.progress_bar=false", "test=none"]
    train_py(*arguments, f"hydra.run.dir={tmp_path}/run")
    ended = train_py("resume=run", "trainer.max_epochs=2", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 2


def test_resume_auto_prints_a_finished_result_and_rejects_another_configuration(train_py, tmp_path):
    command = ("debug=fast", "resume=auto", f"hydra.run.dir={tmp_path / 'run'}")
    first = train_py(*command)
    assert (first.returncode, first.stderr) == (0, "")
    written = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    again = train_py(*command)
    assert (again.returncode, again.stderr) == (0, "")
    assert first.stdout.endswith(again.stdout)
    assert "accuracy" in again.stdout
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == written
    other = train_py(*command, "seed=1")
    assert other.returncode == 2
    assert other.stderr.endswith("holds a run of another configuration (seed: 0 -> 1)\n")


# The short form, in forked children, is in faults/test_signals.py.
@pytest.mark.extra
def test_ctrl_c_ends_a_whole_sweep(tmp_path):
    folder = tmp_path / "sweep"
    arguments = ["-m", "seed=0,1", "trainer.max_epochs=100000", "early_stopping=null", "trainer.progress_bar=false"]
    arguments += ["data.train_size=2000", f"hydra.sweep.dir={folder}"]
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ)) as process:
        deadline = time.monotonic() + 600
        while not list(folder.glob("*/metrics.csv")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert [result["status"] for result in results] == ["stopped"] * 2
