"""Checks the values of a configuration before torch is imported, so that a wrong value is reported at once.

The classes of the settings are in modules that import torch. ``check_node`` does not import them: it reads the types
and ranges in their source files. The check before a run (``preflight``) calls ``check_values`` first.
``Experiment.from_config`` repeats these checks and makes all other checks.
"""

from collections.abc import Mapping

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from digitlab.config.annotations import check_node
from digitlab.config.compose import plain
from digitlab.config.metrics import check_monitor
from digitlab.config.values import unresolved

# The key ``_target_`` of a node names the class of its settings. These nodes have no such key.
_CLASSES = {
    "monitor": "digitlab.training.early_stopping.Monitor",
    "early_stopping": "digitlab.training.early_stopping.EarlyStopping",
    "ema": "digitlab.training.experiment.Ema",
    "checkpoint": "digitlab.training.settings.CheckpointSettings",
}
# The class of the settings at the top level, such as ``seed``.
_TOP_LEVEL_CLASS = "digitlab.training.experiment.RunOptions"


def check_values(config: DictConfig) -> None:
    """Raise ``ConfigError`` for the first setting whose value has a wrong type or lies outside its range.

    Also raise it for a ``${…}`` that cannot be resolved, for a monitored metric that does not exist, and for a mode
    that is not the direction of that metric.
    """
    nodes, top_level = {}, {}
    for name in map(str, config):
        # The nodes hydra and sweep describe the command, not the run.
        if name in ("hydra", "sweep"):
            continue
        try:
            value = config[name]
        except OmegaConfBaseException as error:
            raise unresolved(error, name) from error
        if isinstance(value, DictConfig):
            nodes[name] = plain(value, name)
        else:
            # Among these are nodes that are switched off, such as early_stopping=null. ``check_node`` skips them,
            # because the class of the top level has no settings with their names.
            top_level[name] = value
    check_node(top_level, "", _TOP_LEVEL_CLASS)
    for name, node in nodes.items():
        check_node(node, name, _CLASSES.get(name))
    monitor = nodes.get("monitor")
    if isinstance(monitor, Mapping) and {"metric", "mode"} <= monitor.keys():
        check_monitor(monitor["metric"], monitor["mode"])
