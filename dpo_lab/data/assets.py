"""Where the files that come with the lab lie: in a checkout, or in the installed package."""

from __future__ import annotations

import os
from pathlib import Path


def asset_path(name: str) -> Path:
    """Path of a file or folder of `assets/`, such as `data/places`.

    Raises:
        FileNotFoundError: If it is in neither place.
    """
    package = Path(__file__).parents[1]
    for root in (package / "assets", package.parent / "assets"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"{name!r}: not among the lab's assets. The installation is incomplete; install it again."
    )


def cache_path(name: str) -> Path:
    """Path in the lab's cache folder: `$DPO_LAB_CACHE`, or `dpo-lab` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dpo-lab"
    return Path(os.environ.get("DPO_LAB_CACHE", default)) / name
