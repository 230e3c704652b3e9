"""Every row of the table of faults: the exit code, one line that says why, no traceback, nothing half-written."""

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner
from fault import Fault, Place
from table import FAULTS


def test_names_are_those_of_one_row() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault(fault: Fault, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, request.getfixturevalue)
    program, *words = fault.command.format_map(place).split()
    main = importlib.import_module(f"{program}.cli").main
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)  # the checkout may hold runs, of `make demo`
        fault.arrange(place, patch)
        result = CliRunner().invoke(main, words)
    assert result.exit_code == fault.exit_code, result.output + repr(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (fault.exit_code != 0), result.stderr
    assert "Traceback" not in result.stderr
    for word in fault.words:
        assert word in (errors[0] if errors else result.stderr)
    assert sorted(p.name for p in place["here"].iterdir()) == sorted(fault.leaves)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".lock"))]
