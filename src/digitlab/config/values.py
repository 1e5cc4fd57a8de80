"""Defines the type of the values of settings. The tables and figures of sweeps use it, and the comparisons of runs."""

# The value of one setting in Python's types. A list becomes its text, because lists can't be dictionary keys.
Value = str | int | float | bool | None
