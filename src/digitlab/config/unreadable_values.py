"""Says why Hydra's grammar can't read the value of an override, and how it is written. ``cli_errors`` uses it."""

import re

from digitlab.config.quoting import character_to_quote, shell_form
from digitlab.core.errors import ConfigError

_FUNCTIONS = "values are written choice(1,2), range(1,5), and in a search interval(1,2) or tag(log,interval(1e-4,1e-1))"


def unreadable_value(key: str, value: str) -> ConfigError:
    """Return the error for a value that Hydra's grammar rejects, with the first correction below that fits."""
    # Two settings stand in one argument, as in "seed=1, model=mlp".
    if match := re.search(r"^([^'\"\[{]*?)[\s,;]+([A-Za-z_.]+=\S.*)$", value):
        allowed = f"settings are separated by spaces outside quotes: {key}={match[1]} {match[2]}"
        return ConfigError(key, value, allowed)
    if re.search("[“”„‘’‚«»]", value):
        corrected = re.sub("[“”„‘’‚«»]", "", value)
        return ConfigError(key, value, f"has typographic quotes: write {key}={corrected}")
    # There is one = or one comma too many, as in seed==1 or model.hidden=[64,,64].
    corrected = re.sub(r",+(?=[],])", "", value.lstrip("=").strip(","))
    if corrected != value and corrected and character_to_quote(corrected) is None:
        kind = "= is written once" if value.startswith("=") else "a comma stands between two values"
        return ConfigError(key, value, f"can't be read: {kind}; write {key}={corrected}")
    # A list is written (64,64) or [64;64].
    if re.fullmatch(r"\(.*\)|\[[^,]*;.*\]", value):
        return ConfigError(key, value, f"can't be read: a list is written {as_list(value)}, a number without brackets")
    if match := re.fullmatch(r"([a-z_]+)\(.*\)", value):
        known = match[1] in ("choice", "range", "interval", "tag", "glob", "sort", "shuffle")
        reason = f"wrong arguments of {match[1]}" if known else f"there is no function {match[1]}"
        return ConfigError(key, value, f"can't be read: {reason}; {_FUNCTIONS}")
    character = character_to_quote(value)
    if character is None or value.startswith("="):
        return ConfigError(key, value, "can't be read: brackets and quotes must be closed, a list is written [64,64]")
    return ConfigError(key, value, f"{character} must be in quotes; in a shell, write {shell_form(key, value)}")


def as_list(text: str) -> str:
    """Return ``[64,64]`` for ``(64, 64)``, ``[64 64]`` or ``[64;64]``."""
    items = re.split(r"[\s,;]+", text.strip("[](){} ,;"))
    return f"[{','.join(items)}]"
