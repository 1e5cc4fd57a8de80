"""Error messages for data sets that are downloaded: what went wrong, where digitlab looked, what the user can do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from digitlab.core.errors import DataError, MissingDataError
from digitlab.data.source import Source

# A remedy for ``with_remedy``. "It" is the damaged file that the first part of the message names.
FETCH_AGAIN = "delete it, and it is fetched again"


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Append ``remedy``, which says what the user can do, to the message of a ``DataError`` from the with block.

    A ``MissingDataError`` stays as it is: there is no file to delete.
    """
    try:
        yield
    except MissingDataError:
        raise
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def not_obtainable(
    source: Source, root: Path, searched: Sequence[Path], download_error: DataError, files: str
) -> DataError:
    """Return the error for a data set that is not on this machine and cannot be downloaded.

    ``searched`` are the paths where digitlab looked; the first must be inside ``root``. ``files`` completes the
    sentence "put …": it names the files and the folder where they belong.
    """
    return DataError(
        f"{source.title} is not on this machine and could not be fetched\n"
        f"looked for {', '.join(map(str, searched))}\n"
        f"tried\n{download_error}\n"
        f"what you can do: put {files}\n"
        f"  or set DIGITLAB_DATA (or data.root) to a folder that holds {searched[0].relative_to(root)}\n"
        "  or use data=mnist, which comes with digitlab and needs no network"
    )
