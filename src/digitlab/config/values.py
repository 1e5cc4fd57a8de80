"""Values of settings: their type, and the error for a value that cannot be resolved.

``compose``, ``api``, ``training``, ``sweeps``, ``figures`` and ``compare`` use them.
"""

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitlab.core.errors import ConfigError

# The value of one setting in Python's types. A list becomes its text, because lists can't be dictionary keys.
Value = str | int | float | bool | None


def unresolved(error: OmegaConfBaseException, key: str) -> ConfigError:
    """Return the error for a value at or below ``key`` that is ``???`` or whose interpolation fails."""
    parent, name, full_key = error.parent_node, error.key, error.full_key or key
    node = parent._get_node(name) if OmegaConf.is_config(parent) else None
    value = getattr(node, "_value", lambda: "?")()
    must_be_given = f"has no default and must be given: {full_key}=VALUE"
    return ConfigError(full_key, value, must_be_given if value == "???" else str(error.msg).splitlines()[0])
