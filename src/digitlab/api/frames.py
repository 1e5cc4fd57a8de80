"""Tables for Python users: a data frame if pandas or polars is installed, otherwise a list of dicts."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return ``rows`` as a pandas or polars DataFrame, or as a list of dicts if neither library is installed.

    A library that the program has already imported is preferred, then pandas, then polars. Every row of the result has
    every column; a value that ``rows`` lacks is missing. The columns have the order in which they first appear.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    complete_rows = [{name: row.get(name) for name in columns} for row in rows]
    libraries = sorted(("pandas", "polars"), key=lambda library: library not in sys.modules)
    for library in libraries:
        if find_spec(library) is not None:
            # By default polars infers the type of a column from the first rows only, and a column may be empty there.
            options = {"infer_schema_length": None} if library == "polars" else {}
            return import_module(library).DataFrame(complete_rows, **options)
    return complete_rows
