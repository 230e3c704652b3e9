"""Environment variables by their names: a misspelt one is an error, as a misspelt setting is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

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
    prefixes = [str(program.context_settings["auto_envvar_prefix"]) for program in programs]
    documented, known = set(OWN), set[str]()
    for program, prefix in zip(programs, prefixes, strict=True):
        for option, inner in _options(program, prefix):
            documented |= set(names_of(option.envvar))
            known.add(flag_variable(inner, str(option.name)))  # click makes it of the parameter's name
    for name, value in sorted(os.environ.items()):
        ours = name.startswith(tuple(f"{prefix}_" for prefix in prefixes)) and not SERVICE.fullmatch(f"{name}={value}")
        if value and ours and name not in known | documented:
            raise UsageError(
                f"environment variable {name} is {value!r}, but no command reads it; {nearest(name, documented)}"
            )


def flag_variable(prefix: str, flag: str) -> str:
    """Return the variable of a flag, as ``BALANCER_GAN_TRAIN_SEED`` for ``--seed``; of a command, the prefix."""
    return f"{prefix}_{flag.lstrip('-').replace('-', '_').upper()}"


def names_of(variables: str | Sequence[str] | None) -> list[str]:
    """Return the variables of an option, which click keeps as a name, as names, or as None."""
    return [variables] if isinstance(variables, str) else list(variables or ())


def _options(program: click.Group, prefix: str) -> Iterator[tuple[click.Option, str]]:
    """Yield the options of every command, of groups of commands too, with the prefix of the command's variables."""
    for name, command in program.commands.items():
        inner = flag_variable(prefix, name)
        if isinstance(command, click.Group):
            yield from _options(command, inner)
        else:
            yield from ((option, inner) for option in command.params if isinstance(option, click.Option))
