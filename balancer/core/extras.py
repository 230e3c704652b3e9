"""The packages that only some commands need: how to install them, as a command that works from here."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import balancer

PACKAGE = "xray-balancer"


def install(extra: str) -> str:
    """Return the command that installs an extra: from the checkout that runs, else the packages by name."""
    root = Path(balancer.__file__).resolve().parents[1]
    if (root / "pyproject.toml").exists():
        place = "." if root == Path.cwd().resolve() else str(root)
        return f"pip install -e '{place}[{extra}]'"
    marker = re.compile(rf"extra\s*==\s*['\"]{extra}['\"]")
    try:
        needed = [line.partition(";")[0].strip() for line in requires(PACKAGE) or () if marker.search(line)]
    except PackageNotFoundError:  # run from a folder that was never installed
        needed = []
    return f"pip install {' '.join(repr(name) for name in needed or [f'{PACKAGE}[{extra}]'])}"
