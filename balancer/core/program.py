"""The program around the commands: options that are given once, and every error as one line with its exit code."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click

from balancer.core import torchrun
from balancer.core.errors import BalancerError, Interrupted, UsageError
from balancer.core.signals import unwind_on_signals
from balancer.core.system_errors import explain, naming

log = logging.getLogger("balancer")
OUTPUT = "Output"  # heading of the options that every command has


@dataclass(frozen=True)
class Help:
    """What ``--help`` says of a command beside its docstring and its options."""

    headings: Mapping[str, str] = field(default_factory=dict)  # the group of each option, by the option's name
    example: str = ""  # a command line


class Command(click.Command):
    """A command with its options in groups, which refuses an option that is given twice, or with an empty value.

    click takes the last of several values in silence. An empty value is mostly a variable of the shell that is not set,
    and as a path it would name the current folder.
    """

    def __init__(self, *args: Any, help_texts: Help | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.help_texts = help_texts or Help()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in groups, each with its default."""
        for heading, rows in self.option_groups(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def option_groups(self, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Return each option as typed and its help with the default, by the heading of its group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                heading = self.help_texts.headings.get(str(parameter.name), OUTPUT)
                groups.setdefault(heading, []).append((record[0], _with_default(parameter, record[1])))
        return groups

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        if self.help_texts.example:
            with formatter.section("Example"):
                formatter.write_text(self.help_texts.example)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, if several ranks of torchrun may."""
        torchrun.check_command(self.name)
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line."""
        words = list(args)  # the parser empties its list
        rest = super().parse_args(ctx, args)
        values, _, order = self.make_parser(ctx).parse_args(args=words)
        for parameter, times in Counter(order).items():
            name = max(parameter.opts, key=len) if isinstance(parameter, click.Option) else str(parameter.metavar)
            value = values[str(parameter.name)]
            if "" in (value if isinstance(value, list | tuple) else [value]):
                raise UsageError(f"{name} is empty; give a value, or leave it out")
            if times > 1 and isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag):
                raise UsageError(f"{name} is given {times} times; give it once")
        return rest


class CommandGroup(click.Group):
    """A command line that ends with one line and an exit code, whatever goes wrong, its own help included."""

    command_class = Command
    beside: tuple[click.Group, ...] = ()  # other programs whose environment variables this one reads too

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the command line; a caller who says ``standalone_mode=False`` gets click's own errors."""
        standalone, more["standalone_mode"] = more.get("standalone_mode", True), False
        try:
            with printing():
                outcome = super().main(*args, **more)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            raise SystemExit(error.exit_code) from error
        except click.ClickException as error:
            if not standalone:
                raise
            end(_usage_line(error), error.exit_code, error)
        except UsageError as error:
            end(str(error), error.exit_code, error)
        except click.Abort:
            end("interrupted", 130, KeyboardInterrupt())
        except OSError as error:
            end(str(explain(error)), 1, error)
        if standalone:
            raise SystemExit(outcome if isinstance(outcome, int) else 0)
        return outcome


def _with_default(parameter: click.Parameter, text: str) -> str:
    """Return the help of an option; where it names no default, the option is off, or nothing is set."""
    if "[default" in text or parameter.is_eager:  # --help, --version
        return text
    return f"{text} [default: {'off' if isinstance(parameter, click.Option) and parameter.is_flag else 'none'}]"


def _usage_line(error: click.ClickException) -> str:
    """Return what click has to say as one line, with the help that says more."""
    text = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    see = f"{context.command_path} --help" if context is not None else "--help"
    return f"{text[:1].lower()}{text[1:]}{' See' if text.endswith('?') else '; see'} {see}"


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Let whatever stdout refuses name stdout, and let nothing more be written there.

    Python writes what is left in its buffer at its end, and would complain about the same error once more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are not UTF-8, terminals that are not
    try:
        with naming("standard output"):
            yield
    except OSError:
        with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


@contextlib.contextmanager
def reporting(as_json: bool, quiet: bool, verbose: bool) -> Iterator[None]:
    """Set logging up for one command and turn known errors into one line and their exit code."""
    from balancer.core.progress import BarHandler

    handler = BarHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    if torchrun.is_silent():
        level = logging.CRITICAL
    early = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    log.handlers = [handler, early]  # a run's log.txt begins with what was said before it was made
    log.propagate = False
    log.setLevel(level)
    previous: dict[int, Any] = {}
    try:
        unwind_on_signals(previous)
        yield
    except (BalancerError, Interrupted) as error:
        end(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        end("interrupted", 130, error)
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        log.debug("where it failed:", exc_info=True)
        end(line, 1, error)
    finally:
        log.handlers = []
        for signum, before in previous.items():
            signal.signal(signum, before)


def end(line: str, code: int, error: BaseException) -> NoReturn:
    """Say in one line why the command ends, and end it."""
    speaks = torchrun.may_speak()
    if not speaks and not isinstance(error, (Interrupted, KeyboardInterrupt)):
        speaks = torchrun.others_go_on(code)
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, signal.SIG_IGN)  # the command ends already
    who = torchrun.other_rank()
    text = line if isinstance(error, KeyboardInterrupt) else f"error: {who}{' '.join(line.splitlines())}"
    with contextlib.suppress(OSError):  # a broken stderr leaves the exit code
        if speaks:
            click.echo(text, err=True)
    torchrun.end_rank(code)
    for number, handler in before.items():  # a program that calls a command lives on
        signal.signal(number, handler)
    raise SystemExit(code) from error
