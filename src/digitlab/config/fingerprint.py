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

# These keys do not change the numbers of a run: settings of Hydra and of the sweep, resuming, when to save.
_WITHOUT_EFFECT = ("hydra", "sweep", "resume", "checkpoint")
_WITHOUT_EFFECT_IN = {"data": ("root",), "trainer": ("progress_bar", "chunk_length")}


def fingerprint(config: DictConfig) -> str:
    """Return 16 hexadecimal digits. Configurations whose settings have the same effect get the same digits."""
    # Sorted keys: the order in which settings were typed has no effect on the run.
    text = json.dumps(_canonical(_effective(config)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(made: DictConfig, now: DictConfig) -> list[str]:
    """Return the settings that affect the run and that differ, each as ``key: old -> new``."""
    before, after = (dict(walk(_effective(config))) for config in (made, now))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if not (isinstance(before.get(key), dict) or isinstance(after.get(key), dict))
        and _canonical(before.get(key)) != _canonical(after.get(key))
    ]


def _shown(settings: dict[str, object], key: str) -> str:
    return show(settings[key]) if key in settings else "nothing"


def with_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a plain configuration that change the numbers of a run."""
    settings = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    for node, keys in _WITHOUT_EFFECT_IN.items():
        if isinstance(settings.get(node), dict):
            settings[node] = {key: value for key, value in settings[node].items() if key not in keys}
    return settings


def _effective(config: DictConfig) -> dict[str, Any]:
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key not in _WITHOUT_EFFECT])
    try:
        container = OmegaConf.to_container(own, resolve=True)
    except OmegaConfBaseException:
        # The check before the run reports this error, so it is ignored here.
        container = OmegaConf.to_container(own, resolve=False)
    assert isinstance(container, dict)
    effective = with_effect({str(key): value for key, value in container.items()})
    data = effective.get("data")
    if isinstance(data, dict) and isinstance(path := data.get("path"), str) and os.path.isdir(path):
        # Relative to the current folder, as the run that is compared with another one would read it.
        data["path"] = os.path.realpath(path)
    return effective


def _canonical(value: Any) -> Any:
    # 0 and 0.0 are the same setting, but they differ in JSON.
    if isinstance(value, dict):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_canonical(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
