"""Checks that the packages of an extra, a group of optional dependencies, are installed.

``digitlab explain``, exports, searches and the launchers of sweeps call ``require_packages`` before they import such
packages.
"""

from importlib.util import find_spec

from digitlab.core.errors import ConfigError


def how_to_install(extra: str) -> str:
    """Return the last part of a message about a missing package of ``extra``: how to install this extra."""
    return f"run pip install -e '.[{extra}]' in the project's folder"


def require_packages(extra: str, *packages: str, value: object, key: str = "") -> None:
    """Raise ``ConfigError`` if one of ``packages`` can't be imported. The setting ``key`` = ``value`` needs them all.

    They are packages of ``extra``, given by their names for ``import``. The message says how to install this extra.
    """
    # scikit-learn is the only package whose name differs from the name for ``import``.
    if missing := [name.replace("sklearn", "scikit-learn") for name in packages if find_spec(name) is None]:
        raise ConfigError(key, value, f"needs {' and '.join(missing)}: {how_to_install(extra)}")
