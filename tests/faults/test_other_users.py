"""Run folders that this user may not read or write: one line, before any slow work, and other runs are still listed."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import digitlab as package
from digitlab.cli import main
from digitlab.compare import groups
from digitlab.training.resuming import resume
from fixtures.children import Child

NOBODY = 65534


@pytest.fixture(scope="module")
def shared(ready, source):
    """A folder that all users can read, with a finished run ``run`` that only its owner can write."""
    # pytest's own temporary folders are closed to other users, so the data set is copied, too.
    folder = Path(tempfile.mkdtemp(prefix="digitlab-shared-"))
    folder.chmod(0o755)
    run = ready(folder / "run", "trainer.max_epochs=1")
    config = OmegaConf.load(run.config)
    for name, path in source.items():
        if Path(str(path)).is_absolute():
            config.data.source[name] = shutil.copy(str(path), folder)
    OmegaConf.save(config, run.config)
    resume(str(run.path), [])
    run.config.with_name("hydra.yaml").write_text("choices:\n  data: mnist\n  model: mlp\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def without_rights(act):
    """Return ``act`` for a user without any rights. Only root ignores the modes of files, so root becomes nobody."""

    def run():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        act()

    return run


@pytest.fixture
def as_other_user(digitlab):
    """``as_other_user("runs", ...)`` runs the command in a forked child, as a user without rights."""

    def command(*words):
        words = list(map(str, words))
        # This process imports the modules: they may be in the home folder of its user.
        digitlab(words[0], "--help")

        def act():
            sys.argv = ["digitlab", *words]
            main()

        return Child(without_rights(act)).wait()

    return command


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["figures", "--only", "history_epochs"], "figures/history_epochs.png"),
        (["report"], "report.html"),
        (["explain"], "figures/explain_predictions.png"),
        (["export", "--to", "torch"], "network.pt2"),
    ],
)
def test_a_run_of_another_user_is_refused_before_the_slow_work(words, file, shared, as_other_user, tmp_path):
    if words[0] == "explain":
        pytest.importorskip("captum")
        pytest.importorskip("sklearn")
    ended = as_other_user(words[0], shared / "run", *words[1:])
    line = f"{shared / 'run' / file}: can't be written: Permission denied; --out chooses another place\n"
    assert (ended.code, ended.stdout, ended.stderr) == (1, "", line)


@pytest.fixture
def secret(shared):
    """A folder next to the run that nobody may read."""
    shared.chmod(0o755)
    folder = shared / "secret"
    folder.mkdir()
    folder.chmod(0)
    yield folder
    folder.rmdir()


def test_python_users_see_folders_that_cannot_be_read(shared, secret):
    def act():
        table = package.runs(shared)
        rows = table.to_dict("records") if hasattr(table, "to_dict") else table
        print([(row["status"], row["folder"]) for row in rows if row["status"] == "unreadable"])
        print([(run.reason, run.detail) for run in groups._read(shared, "shared", []).left_out])

    package.runs(shared)  # imports pandas, which may be in the home folder of this process's user
    ended = Child(without_rights(act)).wait()
    assert ended.stdout == f"[('unreadable', '{secret}')]\n[('unreadable', 'secret: Permission denied')]\n", (
        ended.stderr
    )


def test_a_folder_that_cannot_be_read_is_named_and_the_other_runs_are_listed(shared, secret, as_other_user):
    ended = as_other_user("runs", shared)
    assert ended.code == 0
    assert ended.stderr == f"{secret}: cannot be read: Permission denied\n"
    assert str(shared.name) + "/run" in ended.stdout


@pytest.mark.parametrize("place", ["hydra.run.dir={}/new", "resume={}/run"])
def test_train_py_in_a_folder_that_cannot_be_read_prints_one_line(place, train_py_here, tmp_path, one_line):
    folder = tmp_path / "secret"
    (folder / "run" / ".hydra").mkdir(parents=True)
    folder.chmod(0)
    try:
        ended = Child(without_rights(lambda: train_py_here("debug=fast", place.format(folder)))).wait()
    finally:
        folder.chmod(0o755)
    assert ended.code in (1, 2)
    assert one_line(ended.stderr), ended.stderr
    assert "Permission denied" in ended.stderr
