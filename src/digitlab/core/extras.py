"""Checks that the packages of an optional extra are installed. Explanations, exports and sweeps do so first."""

from importlib.util import find_spec

from digitlab.core.errors import ConfigError


def how_to_install(extra: str) -> str:
    """Return the end of a message about a package of ``extra``, an optional dependency of the project."""
    return f"run pip install -e '.[{extra}]' in the project's folder"


def require_packages(extra: str, *packages: str, value: object, key: str = "") -> None:
    """Raise ``ConfigError`` for ``key`` and ``value``, which need ``packages``, if one of them can't be imported.

    ``packages`` are names for ``import``. The message says how to install ``extra``, to which they belong.
    """
    if missing := [name.replace("sklearn", "scikit-learn") for name in packages if find_spec(name) is None]:
        raise ConfigError(key, value, f"needs {' and '.join(missing)}: {how_to_install(extra)}")
