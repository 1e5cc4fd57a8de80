"""Writes long lists of numbers in a short form; tables and messages of sweeps use it."""

from collections.abc import Sequence

# A list with more parts than this says only how many numbers there are.
_MOST_PARTS = 6


def number_list(numbers: Sequence[int], *, separator: str = ", ") -> str:
    """Return whole numbers in a short form: ``1, 2``, ``0 to 99``, ``3, 7 to 9``, or ``100 from 0 to 198``.

    Three or more numbers in a row become a range. The numbers are sorted first.
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [text for part in parts for text in _texts(part)]
    if len(texts) > _MOST_PARTS:
        return f"{len(set(numbers))} from {min(numbers)} to {max(numbers)}"
    return separator.join(texts)


def _texts(part: Sequence[int]) -> list[str]:
    return [f"{part[0]} to {part[-1]}"] if len(part) > 2 else [str(number) for number in part]
