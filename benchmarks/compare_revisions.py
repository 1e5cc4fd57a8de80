"""Did a refactoring change results? ``benchmarks/compare_revisions.py [OLD] [NEW] [--only NAME ...] [--jobs N]``.

OLD and NEW are git revisions or folders with a checkout. Both run the cases of ``revision_cases.py`` on the CPU with
one thread, and what they write must be equal to the bit. The exit code is 1 if anything differs or fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from differences import Comparison, compare_folders
from revision_cases import CASES, RENAMED_KEYS, Case

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
# No command takes that long, unless it hangs.
_LIMIT_SECONDS = 900


class CommandError(Exception):
    """A command that ended otherwise than its case says."""


def main() -> int:
    options = _options()
    cases = [case for case in CASES if not options.only or case.name in options.only]
    if options.list:
        for case in cases:
            print(f"{case.name:18} {' '.join(case.arguments)}")
        return 0
    started_at = time.monotonic()
    with ExitStack() as stack:
        work = stack.enter_context(_work_folder(keep=options.keep))
        checkouts = [
            stack.enter_context(checkout(text, work / f"{side}-checkout"))
            for side, text in (("old", options.old), ("new", options.new))
        ]
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        differing = sum(pool.map(partial(_judge, checkouts=checkouts, work=work), cases))
    print(f"{len(cases) - differing} of {len(cases)} cases are equal ({time.monotonic() - started_at:.0f} s)")
    return 1 if differing else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the results of two revisions, bit for bit.")
    parser.add_argument("old", nargs="?", default="HEAD", help="a git revision or a checkout (default: HEAD)")
    parser.add_argument("new", nargs="?", default=str(_ROOT), help="another one (default: this checkout as it is)")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="run these cases")
    parser.add_argument("--list", action="store_true", help="list the cases and exit")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="run so many cases at once (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep what the runs wrote, and print where it is")
    options = parser.parse_args()
    if unknown := set(options.only) - {case.name for case in CASES}:
        parser.error(f"--only: there is no case {', '.join(sorted(unknown))}; --list shows all")
    if options.jobs < 1:
        parser.error("--jobs: must be at least 1")
    for text in (options.old, options.new):
        if not _is_checkout(text) and _git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}").returncode:
            parser.error(f"{text}: is neither a git revision nor a folder with a train.py")
    return options


@contextmanager
def _work_folder(*, keep: bool) -> Iterator[Path]:
    # Resolved, as start_revision.py compares paths.
    folder = Path(tempfile.mkdtemp(prefix="compare-revisions-")).resolve()
    try:
        yield folder
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


def _is_checkout(text: str) -> bool:
    return (Path(text) / "train.py").is_file()


@contextmanager
def checkout(text: str, folder: Path) -> Iterator[Path]:
    """The checkout ``text``, or a git worktree of the revision ``text`` in ``folder`` that is removed afterwards."""
    if _is_checkout(text):
        yield Path(text).resolve()
        return
    _git("worktree", "add", "--detach", "--force", str(folder), text).check_returncode()
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)


def _judge(case: Case, *, checkouts: Sequence[Path], work: Path) -> bool:
    """Run ``case`` with both revisions and print the outcome; returns whether they differ."""
    started_at = time.monotonic()
    folders = [work / side / case.name for side in ("old", "new")]
    errors = []
    for side, revision, folder in zip(("old", "new"), checkouts, folders, strict=True):
        try:
            run_case(case, revision, folder)
        except CommandError as error:
            errors.append(f"the {side} revision fails: {error}")
    result = Comparison(errors) if errors else compare_folders(*folders, renamed=RENAMED_KEYS)
    print(_line(case, result, time.monotonic() - started_at), flush=True)
    return bool(result.differences)


def _line(case: Case, result: Comparison, seconds: float) -> str:
    if not result.differences:
        text = f"equal    {case.name} ({seconds:.0f} s)"
    else:
        more = f"; and {len(result.differences) - 1} more differences" if len(result.differences) > 1 else ""
        text = f"DIFFERS  {case.name} ({seconds:.0f} s): {result.differences[0]}{more}"
    if not result.notes:
        return text
    more = f"; and {len(result.notes) - 1} more notes" if len(result.notes) > 1 else ""
    return f"{text}; note: {result.notes[0]}{more}"


def run_case(case: Case, revision: Path, folder: Path) -> None:
    """Run the commands of ``case`` with the checkout ``revision``; they write to ``folder``.

    Raises ``CommandError`` if one of them ends with another exit code than the case says.
    """
    folder.mkdir(parents=True)
    run = folder / "run"
    place = ["-m", f"hydra.sweep.dir={run}"] if case.sweep else [f"hydra.run.dir={run}"]
    overrides = renamed_overrides(case.overrides, revision, folder)
    _train([*place, *overrides], revision, folder, exit_code=case.exit_code, stop_at=case.stop_at)
    if case.resume is not None:
        _train([f"resume={run}", *case.resume], revision, folder, exit_code=0)


def renamed_overrides(overrides: Sequence[str], revision: Path, folder: Path) -> list[str]:
    """``overrides`` with the new names of those keys that ``revision`` does not know any more."""
    result = list(overrides)
    for old, new in RENAMED_KEYS.items():
        concerned = [override for override in result if _has_key(override, old)]
        if not concerned:
            continue
        # The names of groups decide which keys there are.
        choices = [override for override in overrides if "." not in override.partition("=")[0]]
        others = [choice for choice in choices if choice not in concerned and "," not in choice]
        command = ["--cfg", "job", *others, f"{concerned[0].partition('=')[0]}=null"]
        if _start(command, revision, folder, {}).returncode:
            result = [_with_key(override, old, new) if override in concerned else override for override in result]
    return result


def _has_key(override: str, key: str) -> bool:
    found = override.partition("=")[0].lstrip("+~")
    return found == key or found.startswith(f"{key}.")


def _with_key(override: str, old: str, new: str) -> str:
    return override.replace(old, new, 1)


def _train(
    arguments: Sequence[str], revision: Path, folder: Path, *, exit_code: int, stop_at: int | None = None
) -> None:
    variables = {} if stop_at is None else {"STOP_AT": str(stop_at)}
    ended = _start(arguments, revision, folder, variables)
    if ended.returncode != exit_code:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        raise CommandError(f"exit code {ended.returncode} in place of {exit_code}: {lines[-1]}")


def _start(
    arguments: Sequence[str], revision: Path, folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run train.py of ``revision`` with its own sources, this interpreter, and one thread."""
    # Both may share compiled libraries: a library is found by the operations in it.
    environment = os.environ | {
        "PYTHONPATH": str(revision / "src"),
        "DIGITLAB_DATA": str(Path(os.environ.get("DIGITLAB_DATA", _ROOT / "data")).resolve()),
        "DIGITLAB_ALLOW": "stop_midway",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    command = [sys.executable, str(_HERE / "start_revision.py"), str(revision), *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, env=environment | variables, capture_output=True, text=True, check=False,
            timeout=_LIMIT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"did not end within {_LIMIT_SECONDS} s") from error


if __name__ == "__main__":
    sys.exit(main())
