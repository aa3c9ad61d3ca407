"""What a Hydra application of one's own gets from this package by its installation alone: its groups and resolvers."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

import reflow_lightning.experiments  # registers the resolvers that the groups use  # noqa: F401


class ReflowSearchPath(SearchPathPlugin):
    """Adds the groups, such as ``callbacks=reflow``, behind those of the application, which come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append ours."""
        search_path.append("reflow_lightning", "pkg://reflow_lightning.conf")
