"""Checks that the libraries of the extra ``export`` are installed before anything is computed."""

from importlib.util import find_spec

from digitlab.core.errors import ConfigError


def require_packages(option: str, value: object, *names: str) -> None:
    """Raise ``ConfigError`` for the option unless all packages can be imported; the message names the extra."""
    if missing := [name for name in names if find_spec(name) is None]:
        install = "run pip install -e '.[export]' in the project's folder"
        raise ConfigError(option, value, f"needs {' and '.join(missing)}: {install}")
