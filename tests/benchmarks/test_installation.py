"""What ``benchmarks/installation.py`` prints about several rounds."""

from installation import medians


def test_each_part_has_its_own_median():
    rounds = [(30.0, 20.0, 10.0), (25.0, 11.0, 14.0), (90.0, 78.0, 12.0)]
    measured = [dict(zip(("in all", "install", "first run"), each, strict=True)) for each in rounds]
    assert medians(measured) == {"in all": 30.0, "install": 20.0, "first run": 12.0}
