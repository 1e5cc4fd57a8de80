"""What a result says about its surroundings."""

from digitlab.results import environment


def test_a_package_without_metadata_has_an_unknown_version():
    assert environment._version("digitlab-without-metadata") == "unknown"
    assert "unknown" not in environment.versions().values()
