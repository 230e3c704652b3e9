"""How the tests type `balancer` commands, and what they expect of an outcome."""

from typing import Any

from click.testing import CliRunner, Result

from balancer.cli import main


def sets(**settings: object) -> list[str]:
    """``--set key=value`` for each."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


TINY_GAN = ["--batch-size", "4", "--image-size", "16", *sets(generator_width=2, discriminator_width=2, z_dim=5)]
QUICK_REPORT = ["--inception-weights", "off", *sets(kid_subsets=2, kid_subset_size=4, two_sample="false")]


class Unreported:
    """What stands for the report of an ablation, which takes longer than its trials."""

    def to_json(self) -> dict[str, object]:
        return {}

    def describe(self) -> str:
        return ""


def words(text: str) -> set[str]:
    """The names of files or options that a text holds."""
    return set(text.split())


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
