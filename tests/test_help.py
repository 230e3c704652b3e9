"""What a user reads before a run: help with defaults, groups and an example, for every command."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from balancer.cli import main as balancer
from classifier.cli import main as classifier


def leaves(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command that does something, by its name as typed, such as ``runs list``."""
    commands: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inner = leaves(command, f"{before}{name} ") if isinstance(command, click.Group) else {before + name: command}
        commands |= inner
    return commands


COMMANDS = [(main, name) for main in (balancer, classifier) for name in leaves(main)]
PROGRAMS = {"balancer": balancer, "classifier": classifier}


def help_of(main: click.Group, name: str) -> str:
    result = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=400)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(("main", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_every_option_stands_in_a_group_with_its_default(main: click.Group, name: str) -> None:
    text = help_of(main, name)
    assert "\nOutput:\n" in text
    assert "\nOptions:\n" not in text
    assert not re.search(r"^  \[?[A-Z].* \[default: none\]$", text, re.M), "an argument among the options"
    lines = [" ".join(entry.split("\n\n")[0].split()) for entry in re.split(r"\n  (?=-)", text)[1:]]
    options = [p for p in leaves(main)[name].params if isinstance(p, click.Option)]
    assert len(lines) == len(options) + 1, "and --help"
    for line in lines:
        assert line.count("[default") == ("--help" not in line), line
        assert re.search(r"^-\S.* [A-Za-z].*\w.*\[default: [^\]]+\]|--help", line), f"no words on {line}"


@pytest.mark.parametrize(("main", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_every_option_is_read_from_the_variable_of_its_flag(main: click.Group, name: str) -> None:
    program = "balancer" if main is balancer else "classifier"
    for option in leaves(main)[name].params:
        if isinstance(option, click.Option):
            flag = max(option.opts, key=len).lstrip("-")
            variable = re.sub(r"[- ]", "_", f"{program} {name} {flag}").upper()
            context = click.Context(leaves(main)[name])
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(variable, "x")
                assert option.resolve_envvar_value(context) == "x", variable


@pytest.mark.parametrize(
    ("variable", "command"), [("BALANCER_SETTINGS_JSON", ["settings", "steps"]), ("BALANCER_RUNS_LIST_JSON", ["runs"])]
)
def test_a_variable_counts_for_its_command_and_disturbs_no_other(
    variable: str, command: list[str], runs_cwd: Path
) -> None:
    result = CliRunner().invoke(balancer, command, env={variable: "1"})
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    other = CliRunner().invoke(balancer, ["settings", "seed"], env={variable: "1"})
    assert (other.exit_code, other.stdout[:1] == "{") == (0, "SETTINGS" in variable)


@pytest.mark.parametrize(("main", "name"), COMMANDS, ids=[name for _, name in COMMANDS])
def test_every_command_has_an_example_that_it_takes(main: click.Group, name: str) -> None:
    (example,) = re.findall(rf"^ +((?:balancer|classifier) {name}\b.*)$", help_of(main, name), re.M)
    program, *words = shlex.split(example)
    assert PROGRAMS[program] is main
    leaves(main)[name].make_context(name, words[len(name.split()) :], parent=click.Context(main))


def test_an_example_fits_a_narrow_terminal() -> None:
    for main, name in COMMANDS:
        text = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=80).stdout
        assert re.search(rf"^ +(balancer|classifier) {name}\b", text, re.M)
        assert len(text.split("Example:")[1].strip().splitlines()) == 1, f"the example of {name} is broken"
