"""Checks that the packages of an extra, a group of optional dependencies, are installed.

``digitlab explain``, exports, searches and the launchers of sweeps call it before they import such packages.
"""

from importlib.util import find_spec

from digitlab.core.errors import ConfigError


def how_to_install(extra: str) -> str:
    """Return the end of a message about a missing package: how to install ``extra``, to which it belongs."""
    return f"run pip install -e '.[{extra}]' in the project's folder"


def require_packages(extra: str, *packages: str, value: object, key: str = "") -> None:
    """Raise ``ConfigError`` if one of ``packages``, which the setting ``key`` = ``value`` needs, can't be imported.

    ``packages`` are names for ``import``. The message says how to install ``extra``, to which they belong.
    """
    # scikit-learn is the only package whose name differs from the name for ``import``.
    if missing := [name.replace("sklearn", "scikit-learn") for name in packages if find_spec(name) is None]:
        raise ConfigError(key, value, f"needs {' and '.join(missing)}: {how_to_install(extra)}")
