"""Error messages of the sources that download: what went wrong, where digitlab looked, and what the user can do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from digitlab.core.errors import DataError
from digitlab.data.source import Source

FETCH_AGAIN = "delete it, and it is fetched again"


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Append ``remedy``, which says what the user can do, to the message of a ``DataError``."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def not_obtainable(source: Source, root: Path, places: Sequence[Path], tried: DataError, files: str) -> DataError:
    """Return the error for a data set that is not on this machine and cannot be downloaded.

    ``places`` are the paths where digitlab looked (the first is under ``root``), ``tried`` is the error of the
    download, and ``files`` says which files the user could put where.
    """
    return DataError(
        f"{source.title} is not on this machine and could not be fetched\n"
        f"looked for {', '.join(map(str, places))}\n"
        f"tried\n{tried}\n"
        f"ways out: put {files}\n"
        f"  or set DIGITLAB_DATA (or data.root) to a folder that holds {places[0].relative_to(root)}\n"
        "  or use data=mnist, which comes with digitlab and needs no network"
    )
