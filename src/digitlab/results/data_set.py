"""Names the data set of a run. Metrics on different data sets can't be ranked together or drawn on one axis.

The lists of runs, the tables of sweeps, reports and comparisons use it. Nothing here imports torch.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from digitlab.results.folder import RunFolder

# Keys of a data node that choose among data sets of one name: the folder of pictures, the split of EMNIST.
_KEYS = ("path", "split")
# The files of images that a Python user passed as arrays are in a folder named after their content.
_OWN_ARRAYS = re.compile(r"/own/(\w{8})\w*/train-images")
_NODE = re.compile(r"^data:\n((?:[ #].*\n)+)", re.MULTILINE)
_LINE = re.compile(rf"^  ({'|'.join(_KEYS)}): (.+)$", re.MULTILINE)


def data_set_name(choice: str, data: Mapping[str, Any]) -> str:
    """Return ``choice`` of ``data=CHOICE``, and what its node ``data`` adds to it: ``folder pets``, ``emnist letters``.

    Two runs have equal names if they have the same images.
    """
    own = _OWN_ARRAYS.findall(str(data.get("source")))
    return " ".join([choice, *(str(data[key]) for key in _KEYS if data.get(key) is not None), *own])


def read_data_set_name(run: RunFolder) -> str | None:
    """The name of the data set of ``run``; None if its choices do not say it.

    Raises ``OSError`` or ``ValueError`` if its files can't be read.
    """
    choice = run.read_choices().get("data")
    if choice is None:
        return None
    # Not parsed as YAML as a whole, which would take most of the time of a list of a thousand runs.
    text = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    node = _NODE.search(text)
    found = {} if node is None else {key: _scalar(value) for key, value in _LINE.findall(node[1])}
    return data_set_name(choice, found | {"source": node and node[1]})


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # a long value continues on the next line; its beginning is enough
