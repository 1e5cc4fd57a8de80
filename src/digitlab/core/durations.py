"""Durations as text, for the progress of runs and sweeps."""


def duration(seconds: float) -> str:
    """Return a duration as text: ``3 h 20 min``, ``4 min 10 s`` or ``12 s``."""
    rounded = round(seconds)
    if rounded >= 3600:
        return f"{rounded // 3600} h {rounded % 3600 // 60:02} min"
    return f"{rounded // 60} min {rounded % 60:02} s" if rounded >= 60 else f"{rounded} s"
