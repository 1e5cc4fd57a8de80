"""Checks that the tests find bugs: makes random small changes to the sources, one at a time, and runs the tests.

    python tests/mutations.py record                     # once: which test calls which function
    python tests/mutations.py run --count 60 --seed 1    # prints each mutation and whether a test failed

Nothing in the checkout changes: each mutation is made in a copy of the project. A mutation is caught if a test that
calls the changed function fails, or runs longer than the limit. Survivors are listed at the end.
"""

import argparse
import ast
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "digitlab"
# The same number of mutations is drawn in each area: its name, and the files and folders that belong to it.
AREAS = {
    "engine": ("engine",),
    "optim": ("optim",),
    "data": ("data",),
    "metrics": ("engine/metrics.py", "config/metrics.py", "training/early_stopping.py", "training/evaluation.py"),
    "resume": (
        "training/resuming.py", "training/checkpointing.py", "training/checkpoint_io.py", "training/run_state.py",
        "results/checkpoint.py", "results/history.py", "api/auto_resume.py", "config/fingerprint.py",
    ),
    "sweeps": ("sweeps",),
}  # fmt: skip
# The fastest tests come first, so that one usually fails within seconds. All tests of a mutation take no longer.
TEST_SECONDS = 60.0
Calls = dict[str, dict[str, float]]  # of each function, the tests that call it and their seconds

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """The text from ``start`` to ``end``, byte offsets in the file at ``path``, becomes ``new``."""

    area: str
    path: Path
    function: str
    line: int
    kind: str
    start: int
    end: int
    new: str

    def mutated(self) -> bytes:
        text = self.path.read_bytes()
        return text[: self.start] + self.new.encode() + text[self.end :]

    def __str__(self) -> str:
        old = self.path.read_bytes()[self.start : self.end].decode()
        place = f"{self.path.relative_to(PROJECT)}:{self.line} in {self.function}"
        return f"{self.area}: {place}: {self.kind}: `{' '.join(old.split())}` -> `{' '.join(self.new.split())}`"


class Finder(ast.NodeVisitor):
    """Collects all mutations of a file that lie in functions."""

    def __init__(self, area: str, path: Path) -> None:
        self.area, self.path = area, path
        self.found: list[Mutation] = []
        self._scopes: list[str] = []
        self._in_function = 0
        self._lines = [0]
        for line in path.read_bytes().splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self.visit(ast.parse(path.read_bytes()))

    def _add(self, node: ast.expr | ast.stmt, kind: str, new: str) -> None:
        if not self._in_function:
            return
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        end = self._lines[node.end_lineno - 1] + node.end_col_offset
        function = ".".join(self._scopes[:-1])
        found = Mutation(self.area, self.path, function, node.lineno, kind, start, end, new)
        self.found.append(found)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        # As in ``co_qualname``: methods follow their class, inner functions follow "<locals>".
        self._scopes.append(node.name)
        self._in_function += 1
        self._scopes.append("<locals>")
        # Neither annotations nor the docstring do anything.
        for default in filter(None, [*node.args.defaults, *node.args.kw_defaults]):
            self.visit(default)
        for statement in node.body[ast.get_docstring(node) is not None :]:
            self.visit(statement)
        del self._scopes[-2:]
        self._in_function -= 1

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scopes.append(node.name)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.visit(statement)
        self._scopes.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Parts of messages have no place of their own in the file."""

    def visit_Compare(self, node: ast.Compare) -> None:
        swapped = COMPARISONS.get(type(node.ops[0]))
        if swapped is not None and len(node.ops) == 1:
            changed = ast.Compare(node.left, [swapped()], node.comparators)
            self._add(node, "comparison", f"({ast.unparse(changed)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        swapped = OPERATORS.get(type(node.op))
        if swapped is not None and not isinstance(node.left, ast.Constant | ast.JoinedStr):
            self._add(node, "operator", f"({ast.unparse(ast.BinOp(node.left, swapped(), node.right))})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add(node, "operator", f"({ast.unparse(ast.BoolOp(swapped, node.values))})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(node, "constant", str(not node.value))
        elif isinstance(node.value, int | float):
            self._add(node, "constant", repr(node.value + 1))

    def _negate(self, node: ast.If | ast.While | ast.IfExp) -> None:
        self._add(node.test, "negated condition", f"(not ({ast.unparse(node.test)}))")
        self.generic_visit(node)

    visit_If = visit_IfExp = visit_While = _negate

    def _drop(self, node: ast.stmt) -> None:
        self._add(node, "dropped statement", "pass")
        self.generic_visit(node)

    visit_AugAssign = visit_Expr = visit_Raise = visit_Delete = _drop

    def visit_Call(self, node: ast.Call) -> None:
        plain = len(node.args) >= 2 and not any(isinstance(each, ast.Starred) for each in node.args[:2])
        if plain and ast.dump(node.args[0]) != ast.dump(node.args[1]):
            first, second, *others = node.args
            changed = ast.Call(node.func, [second, first, *others], node.keywords)
            self._add(node, "swapped arguments", ast.unparse(changed))
        self.generic_visit(node)


def draw_mutations(count: int, seed: int) -> list[Mutation]:
    """Draw ``count`` mutations: as many in each area, and within an area each kind equally often."""
    draw, chosen = random.Random(seed), []
    for number in range(count):
        area = list(AREAS)[number % len(AREAS)]
        places = [PACKAGE / name for name in AREAS[area]]
        files = sorted(f for place in places for f in ([place] if place.is_file() else place.rglob("*.py")))
        by_kind = defaultdict(list)
        for mutation in (each for path in files for each in Finder(area, path).found):
            by_kind[mutation.kind].append(mutation)
        chosen.append(draw.choice(by_kind[draw.choice(sorted(by_kind))]))
    return chosen


def read_calls(folder: Path) -> Calls:
    """Read what ``fixtures.calls`` wrote."""
    calls: Calls = defaultdict(dict)
    for path in sorted(folder.glob("calls-*.jsonl")):
        names: dict[int, str] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            match json.loads(line):
                case ["function", number, name]:
                    names[number] = name
                case ["test", test, seconds, numbers]:
                    for number in numbers:
                        calls[names[number]][test] = seconds
    return calls


def tests_of(mutation: Mutation, calls: Calls) -> list[str]:
    """The tests that call the function of ``mutation``, the fastest first."""
    seconds = calls.get(f"{mutation.path.relative_to(PACKAGE)}:{mutation.function}", {})
    tests = sorted(seconds, key=seconds.__getitem__)
    ends = itertools.accumulate(seconds[test] for test in tests)
    return [test for test, end in zip(tests, ends, strict=True) if end <= TEST_SECONDS]


def run_tests(mutation: Mutation, tests: list[str], *, limit_seconds: float) -> str | None:
    """Run ``tests`` with ``mutation`` until the first failure; returns its name, or None if all pass."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "project"
        shutil.copytree(PROJECT, copy, ignore=_not_copied)
        for link in (".venv", "data"):
            if (PROJECT / link).exists():
                (copy / link).symlink_to((PROJECT / link).resolve())
        (copy / mutation.path.relative_to(PROJECT)).write_bytes(mutation.mutated())
        environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no", "-rfE", *tests]
        # In a session of its own, so that its children end with it.
        with subprocess.Popen(
            command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=limit_seconds)
            except subprocess.TimeoutExpired:
                return f"longer than {limit_seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return None
    if process.returncode in (4, 5) and "Error" not in output:
        raise SystemExit(f"the tests have changed, record them again: {output}")
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else "the tests can't be collected"


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """The large and private entries of the project folder; ``data`` is one there, but not in ``src/digitlab``."""
    if Path(folder) == PROJECT:
        copied = {"src", "tests", "conf", "docs", "benchmarks"}
        return {name for name in names if Path(folder, name).is_dir() and name not in copied}
    return {"__pycache__"} & set(names)


def results(mutations: list[Mutation], calls: Calls, limit: float, jobs: int) -> Iterator[str | None]:
    """Yield for each mutation the test that caught it, or None; ``jobs`` mutations are tested at the same time."""
    tests = [tests_of(mutation, calls) for mutation in mutations]
    with ThreadPoolExecutor(jobs) as pool:
        caught_by = pool.map(
            lambda mutation, names: run_tests(mutation, names, limit_seconds=limit) if names else None, mutations, tests
        )
        for number, (mutation, names, caught) in enumerate(zip(mutations, tests, caught_by, strict=True)):
            verdict = f"caught by {caught}" if caught else f"SURVIVED {len(names)} tests"
            print(f"{number}. {mutation}: {verdict}", flush=True)
            yield caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="run the tests and note which test calls which function")
    record.add_argument("arguments", nargs="*", help="arguments of pytest; by default all tests of `make test`")
    run = commands.add_parser("run", help="make mutations and run the tests that call the changed functions")
    run.add_argument("--count", type=int, default=60)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--first", type=int, default=0, help="skip the mutations before this number")
    run.add_argument("--jobs", type=int, default=1, help="the number of mutations that are tested at the same time")
    run.add_argument("--limit", type=float, default=300, help="a mutation whose tests take more seconds is caught")
    for command in (record, run):
        command.add_argument("--calls", type=Path, default=PROJECT / ".calls", help="the folder with the calls")
    options = parser.parse_args()
    if options.command == "record":
        paths = os.pathsep.join([str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"DIGITLAB_CALLS": str(options.calls), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        arguments = options.arguments or ["-n", "2", "-m", "unit or runs or equivalence or faults"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "fixtures.calls", *arguments]
        sys.exit(subprocess.run(command, cwd=PROJECT, env=environment).returncode)
    calls = read_calls(options.calls)
    mutations = draw_mutations(options.count, options.seed)[options.first :]
    caught = list(results(mutations, calls, options.limit, options.jobs))
    print(f"seed {options.seed}: {sum(map(bool, caught))} of {len(caught)} mutations caught")
    for mutation in (mutation for mutation, by in zip(mutations, caught, strict=True) if not by):
        print(f"survived: {mutation}")


if __name__ == "__main__":
    main()
