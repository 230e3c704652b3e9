"""The config files that come with this package: in a checkout, and in an installed copy."""

from __future__ import annotations

from pathlib import Path

import balancer

_PACKAGE = Path(balancer.__file__).resolve().parent
# A wheel holds the files in the package, a checkout beside it.
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if (p / "default.yaml").is_file()), None)


def find_config(path: Path) -> Path:
    """Return a config file by its path, else one of this package by its name, as ``gpu`` or ``configs/gpu.yaml``."""
    if path.exists() or path.is_absolute() or CONFIGS is None:
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == (CONFIGS.name,) else path
    packaged = CONFIGS / inside.with_suffix(".yaml")
    return packaged if packaged.is_file() else path
