"""Splits an override of the command line, such as ``optimizer.lr=0.1``. All checks of overrides use it."""


def split_override(override: str) -> tuple[str, str]:
    """Return the key of an override, without a leading ``+``, ``++`` or ``~``, and its value.

    The value of an override without ``=``, such as ``~early_stopping``, is empty.
    """
    key, _, value = override.lstrip("+~").partition("=")
    return key, value
