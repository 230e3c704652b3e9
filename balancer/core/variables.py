"""Environment variables by their names: a misspelt one is an error, as a misspelt setting is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import click

from balancer.core.errors import UsageError, nearest

OWN = ("BALANCER_CACHE",)  # the variables that are no option of a command
# What Kubernetes sets in every container for a service that is named like a program, and Docker for a link to one.
SERVICE = re.compile(
    r"\w+_(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=\d+|PORT(_\d+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://.*"
    r"|PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)=.*|NAME=/.*|ENV_\w+=.*)",
    re.S,
)


def check_variables(programs: Sequence[click.Group]) -> None:
    """Refuse a variable that begins as those of a program do, and that no command of these programs reads.

    Variables of a service (:data:`SERVICE`) are not looked at: nobody can choose their names.

    Raises:
        UsageError: naming the variable, and the nearest one that is read.
    """
    documented, known = set(OWN), set[str]()
    prefixes = []
    for program in programs:
        prefix = str(program.context_settings["auto_envvar_prefix"])
        prefixes.append(f"{prefix}_")
        for name, command in program.commands.items():
            for option in command.params:
                names = _names(option, f"{prefix}_{name.replace('-', '_').upper()}")
                documented |= names[0]
                known |= names[0] | names[1]
    for name, value in sorted(os.environ.items()):
        ours = name.startswith(tuple(prefixes)) and not SERVICE.fullmatch(f"{name}={value}")
        if value and ours and name not in known | documented:
            raise UsageError(
                f"environment variable {name} is {value!r}, but no command reads it; {nearest(name, documented)}"
            )


def flag_variable(prefix: str, flag: str) -> str:
    """Return the variable of a flag, as ``BALANCER_GAN_TRAIN_SEED`` for ``--seed``."""
    return f"{prefix}_{flag.lstrip('-').replace('-', '_').upper()}"


def _names(option: click.Parameter, prefix: str) -> tuple[set[str], set[str]]:
    """Return the variables of an option: those of its flags and its own, and the one that click makes of its name."""
    if not isinstance(option, click.Option):
        return set(), set()
    flags = {flag_variable(prefix, flag) for flag in option.opts if flag.startswith("--")}
    own = {option.envvar} if isinstance(option.envvar, str) else set(option.envvar or ())
    return flags | own, {f"{prefix}_{str(option.name).upper()}"}
