"""Every row of the table of faults: the exit code, one line that says why, no traceback, nothing half-written."""

import importlib
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import TINY_GAN, balancer, done
from table import FAULTS, Fault, Place


@pytest.fixture(scope="module")
def finished_gan(chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("gan") / "run"
    done(balancer("gan-train", "--data", chest, "--steps", 2, *TINY_GAN, "--out", run))
    return run


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault(fault: Fault, chest: Path, finished_gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path / "chest", tmp_path / "gan", tmp_path / "here")
    shutil.copytree(chest, place.chest)
    shutil.copytree(finished_gan, place.gan)
    place.here.mkdir()
    program, *words = fault.command.format(**vars(place)).split()
    main = importlib.import_module(f"{program}.cli").main
    with monkeypatch.context() as patch:
        fault.arrange(place, patch)
        result = CliRunner().invoke(main, words)
    assert result.exit_code == fault.exit_code, result.output + repr(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (fault.exit_code != 0), result.stderr
    assert "Traceback" not in result.stderr
    for word in fault.words:
        assert word in errors[0]
    assert sorted(p.name for p in place.here.iterdir()) == sorted(fault.leaves)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".lock"))]
