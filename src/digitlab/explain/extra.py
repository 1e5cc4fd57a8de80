"""Refuses commands that need an optional package which is not installed."""

from importlib.util import find_spec

from digitlab.core.errors import ConfigError


def require_packages(command: str, *packages: str) -> None:
    """Raise ``ConfigError`` if one of ``packages``, names for ``import``, is missing; the message names the extra."""
    if missing := [name.replace("sklearn", "scikit-learn") for name in packages if find_spec(name) is None]:
        install = "run pip install -e '.[explain]' in the project's folder"
        raise ConfigError("", command, f"needs {' and '.join(missing)}: {install}")
