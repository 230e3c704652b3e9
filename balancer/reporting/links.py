"""Links from a page to other runs and to the documentation.

A link to another run is relative, and is written only where both runs lie in one folder of runs, so that the folder can
be copied. A link to the documentation needs the address that the package's metadata give (``Documentation``): files of
a checkout are absent beside an installed package, and beside a copied folder of runs. Without an address the page of
the documentation is named and not linked.
"""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from balancer.core.errors import BalancerError
from balancer.core.marker import MARKER
from balancer.core.run_names import LATEST
from balancer.core.saved_runs import read_environment
from balancer.core.settings import COMMANDS
from balancer.reporting.document import Link

DISTRIBUTION = "xray-balancer"
HOME = "Documentation"  # the name of the address in the metadata


def runs_folder(run: Path) -> Path:
    """Return the folder of runs that a run lies in: ``runs`` of ``runs/<command>/<run>``, else the folder above."""
    above = run.resolve().parent
    return above.parent if above.name in COMMANDS else above


def link_to(text: str, target: Path, run: Path, below: str = ".") -> list[Link]:
    """Return a link from a page in the folder of a run to a file or folder of another run.

    Nothing if the target is absent, or lies in another folder of runs.

    Args:
        text: what stands there.
        target: the file or folder.
        run: the folder of the run with the page.
        below: the page's folder, relative to that of the run.
    """
    place = target.resolve()
    if not place.exists() or not place.is_relative_to(runs_folder(run)):
        return []
    path = quote(Path(os.path.relpath(place, run.resolve() / below)).as_posix())
    return [Link(text, f"{path}/" if place.is_dir() else path)]


def run_on_same_data(command: str, fingerprint: str, run: Path) -> Path | None:
    """Return the newest finished run of a command that lies in the folder of runs and read the same images."""
    markers = runs_folder(run).glob(f"{command}/*/{MARKER}")
    finished = [marker for marker in markers if marker.parent.name != LATEST]
    for marker in sorted(finished, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            if read_environment(marker.parent).data.get("fingerprint") == fingerprint:
                return marker.parent
        except (BalancerError, OSError):  # no page should fail for the damage of another run
            continue
    return None


def documentation(*pages: str) -> list[Link]:
    """Return the links to pages of the documentation, such as ``gan``; paths are empty where no address is known."""
    address = documentation_address()
    texts = [f"{'documentation ' * (i == 0)}`docs/{page}.md`" for i, page in enumerate(pages)]
    return [Link(text, f"{address}/{page}/" if address else "") for text, page in zip(texts, pages, strict=True)]


def documentation_address() -> str:
    """Return the address of the documentation as the package's metadata give it; empty if they give none."""
    try:
        entries = metadata.metadata(DISTRIBUTION).get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    named = (entry.partition(",") for entry in entries)
    return next((address.strip().rstrip("/") for name, _, address in named if name.strip() == HOME), "")
