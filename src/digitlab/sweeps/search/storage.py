"""Opens the database in which ``study`` stores a search, and waits while a database server restarts.

It also refuses databases that several processes can't share. As in Optuna, a study is the stored state of a search.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import InterfaceError, OperationalError

from digitlab.core.errors import ConfigError, RunError
from digitlab.core.system import mount_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_KEY = "hydra.sweeper.storage"
_SERVERS = ("postgresql", "mysql", "mariadb")
# SQLite can't be shared on these file systems: they have no locks, or other machines do not see a lock. The names are
# those that ``mount_of`` returns.
_NETWORK_FILE_SYSTEMS = (
    "nfs", "cifs", "smb", "lustre", "beegfs", "gpfs", "ceph", "glusterfs", "afs", "orangefs", "pvfs2", "panfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "wekafs",
)  # fmt: skip
# Words in the errors of processes that create the same tables at the same time, and how often and after which pause
# such a process tries again.
_RACE_WORDS = ("already exists", "duplicate", "unique", "locked", "deadlock")
_RACE_TRIES, _RACE_PAUSE_SECONDS = 20, 0.25
# How long a process waits for the lock of a file. SQLite's own limit of 5 s is too short if several processes write.
_SQLITE_LOCK_SECONDS = 60
# The time that a database server has to restart, and the pause between two attempts to reach it.
_OUTAGE_SECONDS = 600.0
_RETRY_SECONDS = 2.0
# Limits after which a connection counts as broken. Without them, a process would wait for hours for the answer of a
# machine that was switched off. The limit for an answer is above the 50 s for which MariaDB waits for a lock.
_CONNECT_SECONDS, _ANSWER_SECONDS, _KEEPALIVE_SECONDS = 10, 120, 30

# What calls of Optuna raise if the database fails. Optuna translates the errors of SQLAlchemy to its own, except if it
# can't undo the change either.
DATABASE_ERRORS = (StorageInternalError, OperationalError, InterfaceError)


def open_study(url: str, name: str, *, direction: Literal["minimize", "maximize"]) -> tuple[optuna.Study, RDBStorage]:
    """Open the study ``name`` in the database at ``url``, or create it; also return the database itself.

    Raises ``ConfigError`` if it can't be opened.
    """
    for attempt in range(_RACE_TRIES):
        try:
            storage = RDBStorage(url, engine_kwargs=_engine_settings(url))
            return optuna.create_study(
                storage=storage, study_name=name, load_if_exists=True, direction=direction
            ), storage
        except Exception as error:
            # These are errors of SQLAlchemy, or of the database's driver, which may be missing.
            causes = f"{error} {error.__cause__ or ''}"
            # Processes that start together may create the same tables, and all but one fail. The next try succeeds.
            # If a server breaks off, rather than refusing the connection, it restarts. A file would only be damaged.
            restarts = isinstance(error, StorageInternalError) and not url.startswith("sqlite")
            if attempt + 1 < _RACE_TRIES and (restarts or any(word in causes.lower() for word in _RACE_WORDS)):
                time.sleep(_RACE_PAUSE_SECONDS)
                continue
            raise ConfigError(_KEY, _without_password(url), f"can't be opened: {_one_line(error)}") from error
    raise AssertionError  # never reached: the last attempt returns or raises


def _one_line(error: BaseException) -> str:
    """Return the message of ``error`` in one line, without what SQLAlchemy appends: its query and a link."""
    return " ".join(str(error).split()).partition(" (Background on")[0].partition(" [SQL: ")[0]


def _engine_settings(url: str) -> dict[str, object]:
    """Return the arguments of SQLAlchemy's ``create_engine`` for the database at ``url``."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": _SQLITE_LOCK_SECONDS}}
    limits: dict[str, int] = {}
    if url.startswith("postgresql+psycopg"):
        limits = {
            "connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 1000 * _ANSWER_SECONDS,
            "keepalives_idle": _KEEPALIVE_SECONDS, "keepalives_interval": _KEEPALIVE_SECONDS, "keepalives_count": 3,
        }  # fmt: skip
    elif "+pymysql:" in url:
        limits = {
            "connect_timeout": _CONNECT_SECONDS, "read_timeout": _ANSWER_SECONDS, "write_timeout": _ANSWER_SECONDS
        }  # fmt: skip
    options = url.partition("?")[2]
    limits = {name: limit for name, limit in limits.items() if f"{name}=" not in options}
    # Connections break when the server restarts; each one is tested before it is used.
    return {"pool_pre_ping": True, "connect_args": limits}


def _without_password(url: str) -> str:
    # The URL is shown in messages and logs. A password may contain an @, so the last one separates it from the server.
    scheme, separator, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{place}"


def check_shared_storage(url: str) -> None:
    """Raise ``ConfigError`` if several processes can't share a search through the database at ``url``."""
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in _SERVERS:
        return
    if scheme != "sqlite":
        allowed = (
            "can't be opened: must be the URL of PostgreSQL (postgresql+psycopg://USER@HOST/NAME), of MariaDB "
            "(mysql+pymysql://USER@HOST/NAME) or, for processes of one machine, of SQLite (sqlite:////FOLDER/search.db)"
        )
        raise ConfigError(_KEY, _without_password(url), allowed)
    # The URL is sqlite:///relative/path or sqlite:////absolute/path: the third slash is no part of the path.
    path = url.partition("://")[2].partition("?")[0].removeprefix("/")
    if path in ("", ":memory:"):
        raise ConfigError(_KEY, url, "is a database in the memory of one process: give a file or a database server")
    mount = mount_of(Path(path))
    if mount is not None and (kind := mount[0]).startswith(_NETWORK_FILE_SYSTEMS):
        allowed = (
            f"is on a network file system ({kind}), where SQLite's locks don't work: use a local disk for processes of "
            "one machine, or a server (PostgreSQL, MariaDB) for several machines"
        )
        raise ConfigError(_KEY, url, allowed)


def retry_until_answered(call: Callable[[], T], *, seconds: float = _OUTAGE_SECONDS) -> T:
    """Make ``call``, which uses the database, until the database answers; return the result of ``call``.

    Raises ``RunError`` if the database does not answer for ``seconds``.
    """
    deadline = time.monotonic() + seconds
    warned = False
    while True:
        try:
            return call()
        except DATABASE_ERRORS as error:
            # Waiting helps only while the server restarts.
            reason = _one_line(error.__cause__ or error)
            if time.monotonic() > deadline:
                message = f"the database of the search does not answer ({reason}): give the same command"
                raise RunError(message) from None
            if not warned:
                warned = True
                log.warning("the database of the search does not answer; digitlab keeps asking: %s", reason)
            time.sleep(_RETRY_SECONDS)
