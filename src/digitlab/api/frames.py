"""Tables for Python users: a data frame if pandas or polars is installed, otherwise a list of dicts."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return ``rows`` as a pandas or polars DataFrame, or as a list of dicts if neither library is installed.

    A library that the program has already imported is preferred, then pandas, then polars. Every row of the result has
    every column, in the order in which the columns first appear.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    complete = [{name: row.get(name) for name in columns} for row in rows]
    names = sorted(("pandas", "polars"), key=lambda name: name not in sys.modules)
    for name in names:
        if find_spec(name) is not None:
            # polars would read the types of the columns from the first rows, where a column may be empty.
            options = {"infer_schema_length": None} if name == "polars" else {}
            return import_module(name).DataFrame(complete, **options)
    return complete
