"""Builds the source distribution and the wheel of a release in ``dist/``, and checks them. ``make release`` runs it.

The wheel is built from the source distribution, which shows that the latter contains everything. The wheel is then
installed into a new environment and used there, in an empty folder.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_DIST = _ROOT / "dist"
_SMALL = ("trainer=cpu", "trainer.max_epochs=1", "data.train_size=1000", "trainer.progress_bar=false")
# Files that are no Python modules. If one of them were missing, a user would notice it first.
_NEEDED = (
    "digitlab/conf/train.yaml", "digitlab/conf/hydra/digitlab.yaml", "digitlab/data/mnist/LICENSE.md",
    "digitlab/data/mnist/train-images-idx3-ubyte.gz", "digitlab/report/templates/base.html",
    "digitlab/cli/template/train.py.txt", "digitlab/py.typed", "hydra_plugins/digitlab_vectorized.py",
    "digitlab/export/page/demo.html", "digitlab/export/web/ort-wasm-simd-threaded.wasm.gz",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-install", action="store_true", help="do not install and use the wheel")
    options = parser.parse_args()
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    _check_sources(version)
    wheel = _build(version)
    _check_content(wheel)
    if not options.no_install:
        with tempfile.TemporaryDirectory() as folder:
            _use(wheel, Path(folder))
    print(f"{wheel} and its source distribution are ready; to mark the commit: git tag -a v{version} -m {version}")


def _check_sources(version: str) -> None:
    """End with a message if files are not committed, or if the changelog has no entry for ``version``."""
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=_ROOT, capture_output=True, text=True, check=True)
    if changed.stdout:
        sys.exit(f"commit these files first, because a release is made from a commit:\n{changed.stdout.rstrip()}")
    changelog = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[?{re.escape(version)}\]?", changelog, re.MULTILINE):
        sys.exit(f"CHANGELOG.md: has no section for {version}, the version in pyproject.toml")


def _build(version: str) -> Path:
    """Build both distributions in an empty ``dist/``; return the path of the wheel."""
    shutil.rmtree(_DIST, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    # The build backend is that of .venv, which the lock verified. Without --wheel and --sdist, uv makes both.
    _run([uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", _DIST], _ROOT)
    names = sorted(path.name for path in _DIST.iterdir() if path.name != ".gitignore")
    expected = [f"digitlab-{version}-py3-none-any.whl", f"digitlab-{version}.tar.gz"]
    if names != expected:
        sys.exit(f"dist/ holds {', '.join(names)}, not {' and '.join(expected)}")
    return _DIST / expected[0]


def _check_content(wheel: Path) -> None:
    """End with a message if the wheel lacks a file of ``src/`` or ``conf/``, or contains a test."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files", "src", "conf"], cwd=_ROOT, capture_output=True, text=True, check=True)
    paths = [re.sub("^conf/", "digitlab/conf/", path.removeprefix("src/")) for path in tracked.stdout.splitlines()]
    if missing := sorted({*paths, *_NEEDED} - names):
        sys.exit(f"{wheel}: lacks {', '.join(missing)}")
    allowed = re.compile(r"(digitlab|hydra_plugins|digitlab-[^/]+\.dist-info)/")
    if others := sorted(name for name in names if not allowed.match(name)):
        sys.exit(f"{wheel}: contains {', '.join(others)}")


def _use(wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment, then train, sweep, list and start a project in an empty folder."""
    # Python's own venv would bring an old setuptools, which cannot build the dependency that exists only as sources.
    uv_program = Path(sys.executable).with_name("uv")
    _run([uv_program, "venv", "--quiet", "--python", sys.executable, folder / "venv"], folder)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    uv = [uv_program, "pip", "install", "--quiet", "--python", scripts / "python"]
    _run([*uv, "setuptools"], folder)
    _run([*uv, "--require-hashes", "--no-build-isolation", "-r", _ROOT / "requirements-dev.lock"], folder)
    _run([*uv, "--no-deps", wheel], folder)
    empty = folder / "empty folder"
    empty.mkdir()
    digitlab, python = scripts / "digitlab", scripts / "python"
    _run([digitlab, "doctor"], empty)
    _run([digitlab, "train", "model=mlp", *_SMALL], empty)
    _run([digitlab, "train", "-m", "model=linear", "seed=0,1", *_SMALL], empty)
    _run([digitlab, "runs"], empty)
    _run([digitlab, "init", "mylab"], empty)
    _run([python, "-m", "pytest", "-q"], empty / "mylab")
    _run([python, "train.py", "model=small_cnn", "data=shapes", *_SMALL], empty / "mylab")


def _run(command: list[str | Path], folder: Path) -> None:
    print("$", *command, flush=True)
    ended = subprocess.run(list(map(str, command)), cwd=folder, env=_environment(), check=False)
    if ended.returncode:
        sys.exit(f"ended with {ended.returncode}")


def _environment() -> dict[str, str]:
    """Return the environment without variables that would make the checkout visible or slow down each start.

    With PYTHONDONTWRITEBYTECODE, each start of Python would compile all modules again.
    """
    hidden = ("PYTHONPATH", "DIGITLAB_DATA", "DIGITLAB_ALLOW", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


if __name__ == "__main__":
    main()
