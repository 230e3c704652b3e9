"""The options of a command line by which a run is tracked."""

from __future__ import annotations

import click

from balancer.core.options import Options
from balancer.core.tracking import BACKENDS, OFF


def _names(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    """``a,b`` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


TRACKING = Options(
    "Tracking",
    (
        click.option(
            "--track",
            metavar="LIST",
            default="",
            callback=_names,
            help=f"Also log into {' and '.join(BACKENDS)}, such as --track mlflow; {OFF}: no more."
            " [default: not at all; a resumed run as before]",
        ),
        click.option(
            "--tracking-uri",
            metavar="URI",
            help="MLflow's server or store. [default: MLFLOW_TRACKING_URI, or a file in runs/mlflow]",
        ),
    ),
)
