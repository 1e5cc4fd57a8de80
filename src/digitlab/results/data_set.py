"""Names the data set of a run. Metrics on different data sets can't be ranked together or drawn on one axis.

The lists of runs, the tables of sweeps, reports and comparisons use it. This module does not import torch.
"""

import re
from collections.abc import Mapping
from typing import Any

from digitlab.results.config_scan import scan_config
from digitlab.results.folder import RunFolder

# Data sets with the same name can differ in these keys: "path" is a folder of pictures, "split" a split of EMNIST.
_KEYS = ("path", "split")
# If a Python user passes arrays of images, digitlab stores them in a folder that is named after their digest. This key
# has the path of one of the files.
_FILE_OF_ARRAYS = "data.source.train_images"
_DIGEST_OF_ARRAYS = re.compile(r"/own/(\w{8})\w*/train-images")


def data_set_name(choice: str, data: Mapping[str, Any]) -> str:
    """Return the name of a data set: ``mnist``, ``folder pets`` or ``emnist letters``.

    ``choice`` is the option of ``data=CHOICE``, and ``data`` is the node ``data`` of the configuration. Two runs with
    the same images have the same name.
    """
    digests = _DIGEST_OF_ARRAYS.findall(str(data.get("source")))
    return " ".join([choice, *(str(data[key]) for key in _KEYS if data.get(key) is not None), *digests])


def read_data_set_name(run: RunFolder) -> str | None:
    """Return the name of the data set of ``run``; None if Hydra stored no choice for the group ``data``.

    Raises ``OSError`` or ``ValueError`` if its files can't be read.
    """
    choice = run.read_choices().get("data")
    if choice is None:
        return None
    text = run.config.read_text(encoding="utf-8") if run.config.exists() else ""
    values = scan_config(text, [*(f"data.{key}" for key in _KEYS), _FILE_OF_ARRAYS])
    node = {key.removeprefix("data."): value for key, value in values.items()}
    return data_set_name(choice, node | {"source": values.get(_FILE_OF_ARRAYS)})
