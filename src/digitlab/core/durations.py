"""Durations as text, for the progress of runs and sweeps."""


def duration(seconds: float) -> str:
    """A duration as text: ``3 h 20 min``, ``4 min 10 s`` or ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
