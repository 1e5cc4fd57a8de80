"""Runs train.py of one checkout for each request: ``start_revision.py CHECKOUT``, started by ``revision.py``.

Each line on stdin is a request; the answer on stdout is the exit code. Every request runs in a forked child, so no
state is shared except imported packages, whose import takes most of the time of a small run.

The environment has digitlab installed from one checkout. ``hydra_plugins`` is a namespace package: Python would merge
the plugins of that checkout with those of the one to run. So all other sources are removed from ``sys.path``.
"""

import importlib.util
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

# A command that takes longer counts as hanging, and SIGALRM ends its process.
_LIMIT_SECONDS = 900


def main() -> None:
    checkout = Path(sys.argv[1])
    _import_from_only(checkout / "src")
    # None of these imports digitlab. OMP_NUM_THREADS=1 is set, so torch starts no threads before the fork.
    for package in ("torch", "torchvision", "torchmetrics", "lightning.pytorch", "hydra", "torch.utils.tensorboard"):
        importlib.import_module(package)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            # The child returns from main, so Python ends as it does after any script.
            _train(checkout / "train.py", json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import_from_only(sources: Path) -> None:
    """Remove all other sources of digitlab from ``sys.path``; end with a message if it is still imported from there."""
    # The folder of this script comes first. It moves to the end, so that its modules hide no others.
    entries = [*sys.path[1:], sys.path[0]]
    sys.path[:] = [entry for entry in entries if Path(entry) == sources or not (Path(entry) / "digitlab").is_dir()]
    spec = importlib.util.find_spec("digitlab")
    if spec is None or spec.origin is None or sources not in Path(spec.origin).parents:
        sys.exit(f"{sources}: digitlab would be imported from {spec and spec.origin}")


def _train(script: Path, request: dict[str, Any]) -> None:
    """Run ``script`` as ``request`` says, with its output in files.

    A request has ``arguments``, the ``folder`` in which the script runs, and additional environment ``variables``.
    """
    signal.alarm(_LIMIT_SECONDS)
    os.chdir(request["folder"])
    os.environ.update(request["variables"])
    # 0 is standard input, 1 standard output, 2 standard error. In the parent, 0 and 1 carry requests and answers.
    for number, name in ((0, os.devnull), (1, "stdout.txt"), (2, "stderr.txt")):
        descriptor = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    sys.argv = [str(script), *request["arguments"]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
