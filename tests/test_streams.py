"""Commands that start without standard streams, without a current folder, or with names that are no file names."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from digitlab.config.compose import ROOT
from digitlab.core.errors import ConfigError, RunError
from digitlab.core.files import disk_faults, expand_home, path_text, require_text
from digitlab.core.streams import is_terminal, open_missing_streams
from fixtures.children import Child

DIGITLAB = "import sys; from digitlab.cli import main; sys.argv[0] = 'digitlab'; main()"


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell, in which $TRAIN and $DIGITLAB are the two commands; neither imports torch here."""
    names = {"TRAIN": f"{sys.executable} {ROOT / 'train.py'}", "PYTHON": sys.executable, "CODE": DIGITLAB}
    # An empty path would be the current folder, which can be missing.
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ) | names | {"PYTHONPATH": paths}
    command = command.replace("$DIGITLAB", '$PYTHON -c "$CODE"')
    return subprocess.run(
        ["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("$DIGITLAB runs . >&-", 0, "", "no runs under FOLDER\n"),
        ("$DIGITLAB runs . <&- 2>&-", 0, "", ""),
        ("$DIGITLAB runs nowhere >&-", 2, "", "FOLDER=nowhere: there is no such folder\n"),
        # Without stderr, Python would print the error to stdout.
        ("$TRAIN lr=1 2>&-", 2, "", ""),
        ("$TRAIN --cfg job <&- >&- 2>&-", 0, "", ""),
    ],
)
def test_a_command_needs_no_standard_streams(command, code, out, err, tmp_path):
    ended = shell(command, tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, out, err.replace("FOLDER\n", f"{tmp_path}\n"))


def test_a_file_never_gets_the_number_of_a_missing_stream(tmp_path):
    def act():
        for number in range(3):
            os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None
        open_missing_streams()
        with open(tmp_path / "file", "w") as file:
            file.write(f"{file.fileno() > 2} {is_terminal(sys.stdout)}")
        print("lost", file=sys.stdout)
        print("lost", file=sys.stderr)
        # A process that this one starts has all three streams.
        done = subprocess.run([sys.executable, "-c", "import sys; sys.exit(None in (sys.stdout, sys.stderr))"])
        assert done.returncode == 0

    Child(act).wait()
    assert (tmp_path / "file").read_text() == "True False"


@pytest.mark.sample(3)
@pytest.mark.parametrize("command", ["$DIGITLAB runs", "$TRAIN -m seed=0,1", "$DIGITLAB train lr=1"])
def test_a_removed_current_folder_is_reported_in_one_line(command, tmp_path):
    (tmp_path / "gone").mkdir()
    ended = shell(f'cd gone; rmdir "$PWD"; {command}', tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    line = "the current folder has been removed: change to another one, for example with cd ~\n"
    assert ended.stderr.endswith(line)  # some shells print a warning of their own before it
    assert "Traceback" not in ended.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "command", ["$DIGITLAB runs NAME", "$DIGITLAB sweep NAME", "$DIGITLAB init NAME", "$TRAIN resume=NAME"]
)
def test_a_name_that_is_too_long_is_reported_in_one_line(command, tmp_path, one_line):
    ended = shell(command.replace("NAME", "x" * 300), tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert one_line(ended.stderr)
    # Some commands look for a file in the folder first.
    assert re.search(r"xxx(/[.\w/]+)?: this name is too long for a file\n$", ended.stderr)


def test_too_many_open_files_are_reported_in_one_line(tmp_path):
    def act():
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            with disk_faults("place"):
                os.open(tmp_path, os.O_RDONLY)
        except RunError as error:
            print(error)

    assert Child(act).wait().stdout == f"{tmp_path}: Too many open files\n"


def test_without_any_temporary_folder_the_message_names_the_variable():
    with pytest.raises(RunError, match=r"No usable .*: set TMPDIR to a folder that can be written$"), disk_faults("x"):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")


def test_a_missing_file_is_no_disk_fault():
    with pytest.raises(FileNotFoundError), disk_faults("place"):
        Path("nowhere").read_bytes()


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path):
    require_text(tmp_path / "läufe", key="hydra.run.dir")
    with pytest.raises(ConfigError, match=r"has bytes that are no text in utf-8: choose another folder$"):
        require_text(tmp_path / os.fsdecode(b"l\xff"), key="hydra.run.dir")


def test_the_home_of_an_unknown_user_stays_as_typed():
    assert expand_home("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
    assert expand_home("~/x") == Path.home() / "x"


def test_a_path_with_characters_that_do_not_print_stays_one_line():
    assert path_text("a\nb\x1b[31m\udcff ü") == r"a\nb\x1b[31m\udcff ü"
