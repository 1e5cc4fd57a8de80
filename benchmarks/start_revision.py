"""Run the train.py of a checkout with the sources of that checkout alone: ``start_revision.py CHECKOUT ARGUMENTS``.

The environment has digitlab installed from one checkout. ``hydra_plugins`` is a namespace package: Python would merge
the plugins of that checkout with those of the one to run.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

checkout = Path(sys.argv[1])
sources = checkout / "src"
# This folder comes last, so that its modules hide no others.
sys.path[:] = [*sys.path[1:], sys.path[0]]
sys.path[:] = [entry for entry in sys.path if Path(entry) == sources or not (Path(entry) / "digitlab").is_dir()]
found = importlib.util.find_spec("digitlab")
if found is None or found.origin is None or sources not in Path(found.origin).parents:
    sys.exit(f"{sources}: digitlab would be imported from {found and found.origin}")
sys.argv = [str(checkout / "train.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
