"""Decides whether two configurations describe the same run. Sweeps and ``resume=auto`` use this to find a run again.

This module does not import torch.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from digitlab.config.compose import walk
from digitlab.core.errors import show

# These settings do not change the numbers that a run computes. ``checkpoint`` says when a run saves itself, and
# ``chunk_length`` how many mini-batches one training step of Lightning receives together.
_WITHOUT_EFFECT = ("hydra", "sweep", "resume", "checkpoint")
_WITHOUT_EFFECT_IN = {"data": ("root",), "trainer": ("progress_bar", "chunk_length")}


def fingerprint(config: DictConfig) -> str:
    """Return 16 hexadecimal digits. Configurations whose settings have the same effect get the same digits."""
    # The keys are sorted, because the order in which settings were typed has no effect on the run.
    text = json.dumps(_canonical(_effective(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """Return the settings that affect the run and that differ, each as ``key: old -> new``."""
    before, after = (dict(walk(_effective(config))) for config in (old, new))
    # ``walk`` lists each node and also the settings in it. Only the settings are compared, so that each difference is
    # reported once.
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if not (isinstance(before.get(key), dict) or isinstance(after.get(key), dict))
        and _canonical(before.get(key)) != _canonical(after.get(key))
    ]


def _shown(settings: dict[str, object], key: str) -> str:
    return show(settings[key]) if key in settings else "nothing"


def with_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``config``, a configuration as plain dicts, that change the numbers of a run."""
    settings = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    for node, keys in _WITHOUT_EFFECT_IN.items():
        if isinstance(settings.get(node), dict):
            settings[node] = {key: value for key, value in settings[node].items() if key not in keys}
    return settings


def _effective(config: DictConfig) -> dict[str, Any]:
    """Return ``with_effect(config)``, with interpolations replaced by their values and ``data.path`` made absolute."""
    # Nodes without effect are removed first, because that of Hydra has interpolations that only Hydra can resolve.
    relevant = OmegaConf.masked_copy(config, [str(key) for key in config if key not in _WITHOUT_EFFECT])
    try:
        container = OmegaConf.to_container(relevant, resolve=True)
    except OmegaConfBaseException:
        # The check before the run reports this error, so it is ignored here.
        container = OmegaConf.to_container(relevant, resolve=False)
    assert isinstance(container, dict)
    effective = with_effect({str(key): value for key, value in container.items()})
    data = effective.get("data")
    if isinstance(data, dict) and isinstance(path := data.get("path"), str) and os.path.isdir(path):
        # ``RunFolder.read_config`` returns the absolute path of an existing run. A path that the user types now may be
        # relative to the current folder. Both must be equal if they mean the same folder.
        data["path"] = os.path.realpath(path)
    return effective


def _canonical(value: Any) -> Any:
    # 0 and 0.0 are the same setting, but they differ in JSON.
    if isinstance(value, dict):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_canonical(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
