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
        if value is not None
        and not isinstance(value, dict | list)
        and all(part.isidentifier() for part in key.split("."))
    }
    found = scan_config(text, parsed)
    assert len(found) > 40
    assert {key: yaml.safe_load(value) for key, value in found.items()} == parsed


def test_only_the_asked_keys_are_returned_and_nesting_counts():
    text = "seed: 1\nmodel:\n  seed: 2\n\n  inner:\n    seed: '3'\nlist:\n- seed: 4\n  inner: 5\n"
    assert scan_config(text, ("seed", "model.inner.seed", "missing")) == {"seed": "1", "model.inner.seed": "3"}


def test_a_key_does_not_get_the_value_of_another_node():
    text = "data:\n  seed: 1\nmodel:\n  inner:\n    lr: 2\n  layers:\n  - lr: 3\n    rate: 4\noptimizer:\n  lr: 5\n"
    assert scan_config(text, ("model.lr", "data.lr", "model.layers.rate", "inner.lr", "lr")) == {}
    assert scan_config(text, ("optimizer.lr", "model.inner.lr")) == {"optimizer.lr": "5", "model.inner.lr": "2"}


def test_null_is_left_out_and_quotes_are_those_of_yaml():
    values = {
        "nothing": None,
        "word": "null",
        "quote": "it's: 1",
        "number": "2026",
        "letter": "größe",
        "long": " ".join(["word"] * 40),
    }
    found = scan_config(yaml.dump({"data": values}, allow_unicode=True), [f"data.{key}" for key in values])
    assert values["long"].startswith(found.pop("data.long"))
    assert found == {f"data.{key}": values[key] for key in ("word", "quote", "number", "letter")}
