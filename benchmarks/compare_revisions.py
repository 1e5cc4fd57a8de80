"""Checks that a refactoring changes no results: ``benchmarks/compare_revisions.py [OLD] [NEW] [--only NAME ...]``.

OLD and NEW are git revisions or folders with a checkout. Both run the cases of ``revision_cases.py``, short commands of
train.py, on the CPU with one thread, and what they write must be equal to the bit. The exit code is 1 if anything
differs or fails.
"""

import argparse
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
from queue import Queue

from differences import Comparison, compare_folders
from revision import CommandError, Revision
from revision_cases import CASES, RENAMED_KEYS, Case

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent


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
        # Each job has a pair of processes (old and new); each case uses one pair.
        pairs: Queue[list[Revision]] = Queue()
        for _ in range(min(options.jobs, len(cases))):
            pairs.put([Revision(path) for path in checkouts])
            stack.callback(_close, pairs)
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        differing = sum(pool.map(partial(_compare_case, pairs=pairs, work=work), cases))
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
    # Resolved, because start_revision.py compares paths.
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
    """Yield the checkout ``text``, or a git worktree of the revision ``text`` in ``folder``, and remove that again."""
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


def _close(pairs: Queue[list[Revision]]) -> None:
    for revision in pairs.get():
        revision.close()


def _compare_case(case: Case, *, pairs: Queue[list[Revision]], work: Path) -> bool:
    """Run ``case`` with both revisions and print the outcome; return whether they differ."""
    pair = pairs.get()
    started_at = time.monotonic()
    folders = [work / side / case.name for side in ("old", "new")]
    errors = []
    for side, revision, folder in zip(("old", "new"), pair, folders, strict=True):
        try:
            run_case(case, revision, folder)
        except CommandError as error:
            errors.append(f"the {side} revision fails: {error}")
    pairs.put(pair)
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


def run_case(case: Case, revision: Revision, folder: Path) -> None:
    """Run the commands of ``case`` with ``revision``; they write to ``folder``.

    Raises ``CommandError`` if one of them ends with another exit code than the case says.
    """
    folder.mkdir(parents=True)
    run = folder / "run"
    place = ["-m", f"hydra.sweep.dir={run}"] if case.sweep else [f"hydra.run.dir={run}"]
    overrides = renamed_overrides(case.overrides, revision, folder)
    revision.train([*place, *overrides], folder, exit_code=case.exit_code, stop_at=case.stop_at)
    if case.resume is not None:
        revision.train([f"resume={run}", *case.resume], folder, exit_code=0)


def renamed_overrides(overrides: Sequence[str], revision: Revision, folder: Path) -> list[str]:
    """Return ``overrides`` with the new names of those keys that ``revision`` does not know any more."""
    result = list(overrides)
    for old, new in RENAMED_KEYS.items():
        with_old_key = [override for override in result if _has_key(override, old)]
        if not with_old_key:
            continue
        # Ask the revision to print its configuration (--cfg) with the old key. It fails if it does not know the key.
        # The chosen options of groups, such as model=mlp, decide which keys there are, so they are given, too.
        choices = [override for override in overrides if "." not in override.partition("=")[0]]
        others = [choice for choice in choices if choice not in with_old_key and "," not in choice]
        command = ["--cfg", "job", *others, f"{with_old_key[0].partition('=')[0]}=null"]
        if revision.run_train(command, folder):
            result = [override.replace(old, new, 1) if override in with_old_key else override for override in result]
    return result


def _has_key(override: str, key: str) -> bool:
    """Check whether an override sets ``key`` or a key under it."""
    override_key = override.partition("=")[0].lstrip("+~")
    return override_key == key or override_key.startswith(f"{key}.")


if __name__ == "__main__":
    sys.exit(main())
