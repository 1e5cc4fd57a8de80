"""Checks the values of a configuration before torch is imported, so that a wrong value is reported at once.

The check before a run (``preflight``) calls this first. ``check_node`` needs no torch, because it reads the annotations
in the source files of the classes and does not import them. ``Experiment.from_config`` repeats these checks and makes
all other checks.
"""

from collections.abc import Mapping

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from digitlab.config.annotations import check_node
from digitlab.config.compose import plain, unresolved
from digitlab.config.metrics import check_monitor

# The classes of the settings in nodes without a ``_target_``. A node with a ``_target_`` names its class there.
_CLASSES = {
    "monitor": "digitlab.training.early_stopping.Monitor",
    "early_stopping": "digitlab.training.early_stopping.EarlyStopping",
    "ema": "digitlab.training.experiment.Ema",
    "checkpoint": "digitlab.training.settings.CheckpointSettings",
}
# The class of the settings at the top level, such as ``seed``.
_TOP_LEVEL_CLASS = "digitlab.training.experiment.RunOptions"


def check_values(config: DictConfig) -> None:
    """Raise ``ConfigError`` for the first setting whose value has a wrong type or lies outside its range."""
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
