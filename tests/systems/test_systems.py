"""On a pretended Windows or macOS, a run, its continuation and sweeps work as they do on Linux.

What a real one would show beyond that is not tested here: see "What was run" in docs/install.md.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "pretended"
SOURCES = Path(__file__).parents[2] / "src"
# Names that Windows does not allow, whatever their extension, and characters that it does not allow in names.
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[ .]$')


def session(folder: Path, pretended: str) -> dict:
    paths = [str(SOURCES), *([str(HERE)] if pretended else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(HERE / "session.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "DIGITLAB_TEST_SYSTEM": pretended},
        capture_output=True, text=True, timeout=600, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def on_linux(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return session(tmp_path_factory.mktemp("linux"), "")


@pytest.mark.parametrize("pretended", ["win32", "darwin"])
def test_a_run_a_resume_and_sweeps_work_on_a_pretended_system(tmp_path, pretended, on_linux):
    seen = session(tmp_path, pretended)
    assert seen["epochs"] == 2
    assert {name: seen[name] for name in ("first", "sweeps")} == {name: on_linux[name] for name in ("first", "sweeps")}
    facts = seen["facts"]
    assert facts["cores"] >= 1
    assert facts["processor"]
    # No system says less than this; what it does not say is unknown, not wrong.
    assert (facts["busy"], facts["instruction sets"]) == (None, [])
    if pretended == "win32":
        assert (facts["memory"], facts["peak"], facts["files"], facts["keeps memory"]) == (
            None, None, sys.maxsize, False,
        )  # fmt: skip
    names = [path.name for path in tmp_path.rglob("*")]
    assert len(names) > 50
    assert [name for name in names if FORBIDDEN.search(name) or RESERVED.match(name)] == []


def test_the_pretended_windows_lacks_what_a_real_one_lacks():
    """The test above would prove nothing if digitlab could still use these."""
    code = (
        "import os, signal, sys; from digitlab.core import files; assert files.sys.platform == 'win32';"
        "assert not any(hasattr(os, name) for name in ('fork', 'sched_getaffinity'));"
        "assert not hasattr(signal, 'SIGUSR2'); assert not hasattr(signal, 'pthread_sigmask');"
        "exec('try:\\n import resource\\nexcept ImportError:\\n print(1)', {'__name__': 'digitlab.x'});"
        "exec('try:\\n os.open(\".\", 0)\\nexcept PermissionError:\\n print(2)', {'__name__': 'digitlab.x', 'os': os});"
        "exec('try:\\n os.sysconf(1)\\nexcept AttributeError:\\n print(3)', {'__name__': 'digitlab.x', 'os': os})"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SOURCES), str(HERE)]),
        "DIGITLAB_TEST_SYSTEM": "win32",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["1", "2", "3"], done.stderr


def test_only_core_knows_operating_systems():
    """Elsewhere, a module or a function that some system lacks would end the program there."""
    modules = r"\bimport (fcntl|resource|pwd|grp|termios|msvcrt|ctypes)\b"
    functions = (
        r"\bos\.(fork|sysconf|link|getuid|geteuid|setsid|killpg|kill|uname|sched_getaffinity|nice|mkfifo|getloadavg)\b"
        r"|\bsignal\.(SIGUSR\d|SIGKILL|SIGHUP|SIGALRM|alarm|setitimer|pthread_\w+)\b|\bos\.O_DIRECTORY\b|[\"']/(proc|sys|dev)/"
        r"|\bsys\.platform\b|\bos\.name\b|\bplatform\.system\b"
    )
    found = {
        f"{path.relative_to(SOURCES)}: {match[0]}"
        for path in SOURCES.rglob("*.py")
        if not path.is_relative_to(SOURCES / "digitlab" / "core")
        for match in re.finditer(f"{modules}|{functions}", path.read_text(encoding="utf-8"))
    }
    assert found == set()
