"""Values that are read from ``config.yaml`` without a YAML parser, against those of a YAML parser."""

import pytest
import yaml
from omegaconf import OmegaConf

from digitlab.config.compose import compose, walk
from digitlab.results.config_scan import scan_config


@pytest.mark.parametrize("overrides", [(), ("model=lenet", "augment=[shift,flip]", "scheduler=cosine", "data=folder")])
def test_all_values_of_a_configuration_are_those_of_the_yaml_parser(overrides):
    text = OmegaConf.to_yaml(compose([each for each in overrides if each != "data=folder"]))
    parsed = {
        key: value
        for key, value in walk(yaml.safe_load(text))
        if not isinstance(value, dict | list) and all(part.isidentifier() for part in key.split("."))
    }
    found = scan_config(text, parsed)
    assert len(found) > 50
    assert {key: yaml.safe_load(value) for key, value in found.items()} == parsed


def test_only_the_asked_keys_are_returned_and_nesting_counts():
    text = "seed: 1\nmodel:\n  seed: 2\n  inner:\n    seed: '3'\nlist:\n- seed: 4\n"
    assert scan_config(text, ("seed", "model.inner.seed", "missing")) == {"seed": "1", "model.inner.seed": "3"}
