"""How the tests type `balancer` commands, and what they expect of an outcome."""

from typing import Any

from click.testing import CliRunner, Result

from balancer.cli import main


def balancer(*args: object, **more: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args], **more)


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def refused(result: Result, code: int, *phrases: str) -> None:
    """One line on stderr, the last, that holds the phrases; nothing on stdout; no traceback."""
    assert result.exit_code == code, result.output + repr(result.exception)
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert result.stderr.rstrip().endswith(errors[0])
    for phrase in phrases:
        assert phrase in errors[0]
    assert not result.stdout
