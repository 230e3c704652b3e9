"""`balancer runs`: list, show, open, remove, index."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from balancer.core.command import HELP, CommandResult, plain_command
from balancer.core.errors import BalancerError
from balancer.core.run_names import RUNS


class RunsGroup(click.Group):
    """Lists the runs where no other of its commands is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before anything that names no command."""
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=RunsGroup, context_settings={**HELP, "auto_envvar_prefix": "BALANCER_RUNS"})
def runs() -> None:
    """List runs with what they came from and their main figure; show, open or remove one.

    \b
      balancer runs                  every run in runs/, below what it came from
      balancer runs show RUN         all about one run; RUN is a folder or a part of its name
      balancer runs open RUN         its report in the browser
      balancer runs remove RUN...    asks first
      balancer runs index            runs/index.html, with thumbnails
    """


def can_ask() -> bool:
    """Return whether somebody sits at the terminal."""
    return sys.stdin.isatty()


FOLDER = click.argument("folder", required=False, default=RUNS, type=click.Path(path_type=Path), metavar="[FOLDER]")
RUN = click.argument("name", metavar="RUN")


@plain_command(runs, "list", FOLDER, example="balancer runs list runs")
def list_runs(folder: Path) -> CommandResult:
    """List the runs in FOLDER, finished and unfinished, below what they came from. FOLDER is runs by default."""
    from balancer.catalog.listing import RunList
    from balancer.catalog.records import find_runs

    if not folder.exists() and folder == RUNS:
        return CommandResult.of(RunList(folder, []))
    return CommandResult.of(RunList(folder, find_runs(folder)))


@plain_command(runs, "show", RUN, example="balancer runs show 20261128")
def show(name: str) -> CommandResult:
    """Show all about a run: state, main figure, data, settings, what it came from and led to, its pages."""
    from balancer.catalog.listing import details
    from balancer.catalog.records import named_run

    return CommandResult.of(details(named_run(name)))


@plain_command(runs, "open", RUN, example="balancer runs open ablate/latest")
def open_page(name: str) -> CommandResult:
    """Open the report of a run in the browser."""
    from balancer.catalog.records import named_run

    record = named_run(name)
    if record.page is None:
        raise BalancerError(f"{record.path} has no report to open yet; see `balancer runs show {name}`")
    page = record.page.resolve()
    click.launch(page.as_uri())
    return CommandResult({"run": str(record.path), "page": str(page)}, str(page))


@plain_command(
    runs,
    "remove",
    click.argument("names", nargs=-1, required=True, metavar="RUN..."),
    click.option("--force", is_flag=True, help="Also a run that others came from."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    example="balancer runs remove ablate/first",
)
def remove_runs(names: tuple[str, ...], force: bool, yes: bool) -> CommandResult:
    """Remove runs, after asking. Nothing is removed unless all of them are runs that no other run came from."""
    from balancer.catalog.listing import check_removal, remove, size_of
    from balancer.catalog.records import named_run
    from balancer.reporting.numbers import plural

    records = list({record.place: record for record in map(named_run, names)}.values())
    check_removal(records, force)
    if not yes:
        for record in records:
            facts = f"{record.state}, {size_of(record.path).describe()}. {record.reason or record.figure}"
            click.echo(f"{record.path}: {facts}", err=True)
        if not can_ask():
            raise BalancerError("nobody can be asked here; nothing was removed, add --yes")
        if not click.confirm(f"Remove {plural(len(records), 'run')}?", err=True):
            return CommandResult({"removed": []}, "nothing was removed")
    removed = [str(path) for path in remove(records)]
    return CommandResult({"removed": removed}, f"removed {plural(len(removed), 'run')}")


@plain_command(runs, "index", FOLDER, example="balancer runs index", closing="next: balancer runs open RUN")
def index(folder: Path) -> CommandResult:
    """Write an index of the runs in FOLDER with thumbnails: FOLDER/index.html. FOLDER is runs by default."""
    from balancer.catalog.page import write_index

    return CommandResult.of(write_index(folder))
