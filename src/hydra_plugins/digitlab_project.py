"""Adds the folder ``conf/`` of the user's project to Hydra's search path, before digitlab's own ``conf/``.

Hydra imports this module at every start, so nothing here imports torch.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from digitlab.config.compose import OWN_CONF


class ProjectSearchPath(SearchPathPlugin):
    """Lets ``model=NAME`` find ``conf/model/NAME.yaml`` of the project; it replaces digitlab's file of that name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if OWN_CONF is not None:
            search_path.prepend("project", f"file://{OWN_CONF}")
