"""What ``benchmarks/installation.py`` hides from the setups that it measures, and what it prints about rounds."""

from installation import medians, visible_environment


def test_each_part_has_its_own_median():
    rounds = [(30.0, 20.0, 10.0), (25.0, 11.0, 14.0), (90.0, 78.0, 12.0)]
    measured = [dict(zip(("in all", "install", "first run"), each, strict=True)) for each in rounds]
    assert medians(measured) == {"in all": 30.0, "install": 20.0, "first run": 12.0}


def test_the_measured_make_does_not_get_the_arguments_of_the_measuring_one(monkeypatch):
    """``make`` passes the variables of its command line on to every ``make`` that it starts."""
    for name, value in {"ARGS": "--rounds 1", "MAKEFLAGS": " -- ARGS=--rounds\\ 1", "MAKELEVEL": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror")
    seen = visible_environment()
    assert not seen.keys() & {"ARGS", "MAKEFLAGS", "MAKELEVEL", "PYTHONPATH"}
    assert seen["PIP_INDEX_URL"] == "https://mirror"
