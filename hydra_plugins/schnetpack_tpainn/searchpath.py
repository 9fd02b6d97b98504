"""Put the T-PaiNN configs on the search path of SchNetPack's Hydra applications.

Hydra imports this module in every Hydra application of the environment, so it imports Hydra only.
"""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["TPaiNNSearchPathPlugin", "config_dir"]


def config_dir() -> Path:
    """Folder of the T-PaiNN configs: inside the package (wheel) or beside it (editable)."""
    spec = find_spec("schnetpack_tpainn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("schnetpack_tpainn is not installed beside its Hydra plugin")
    package = Path(spec.origin).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


class TPaiNNSearchPathPlugin(SearchPathPlugin):
    """Adds ``configs/`` behind the configs of SchNetPack; other applications are left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the config folder if the application is SchNetPack's.

        Args:
            search_path: Hydra's search path.
        """
        main = [e.path for e in search_path.get_path() if e.provider == "main"]
        if any(path and path.startswith("pkg://schnetpack") for path in main):
            search_path.append(provider="schnetpack-tpainn", path=config_dir().as_uri())
