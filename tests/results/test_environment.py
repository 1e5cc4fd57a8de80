"""The environment that a result describes."""

from digitlab.results import environment


def test_a_package_without_metadata_has_an_unknown_version():
    assert environment._version("digitlab-without-metadata") == "unknown"
    assert "unknown" not in environment.versions().values()
