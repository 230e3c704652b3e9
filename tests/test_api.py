"""The public Python API: cheap to import, typed, and as documented."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import balancer
import classifier
from balancer.core.run import FinishedRun
from balancer.data.phantom import PhantomSpec, write_phantom

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTED = ("balancer.core.defaults", "balancer.core.config", "balancer.core.seeding")


def test_importing_costs_little() -> None:
    """Below .3 s on a quiet machine; what is checked is that nothing heavy comes along."""
    code = "import balancer, classifier, sys; print(sorted({'torch', 'numpy', 'pydantic', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("package", [balancer, classifier])
def test_every_public_name_is_there(package) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'train_gann'"):
        _ = package.train_gann


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings(name: str) -> None:
    failures, examples = doctest.testmod(importlib.import_module(name))
    assert examples
    assert not failures


def test_the_documented_example(runs_cwd: Path, threads: None, monkeypatch, capsys) -> None:
    """On fewer drawings than the phantom set has, which saves twenty seconds."""
    spec = PhantomSpec(size=32, train=(60, 120), val=(8, 8), test=(20, 30))
    monkeypatch.setattr("balancer.data.dataset.phantom_folder", lambda: write_phantom(runs_cwd / "phantom", spec))
    text = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    made: dict = {}
    exec(compile(code, "docs/api.md", "exec"), made)
    printed = capsys.readouterr().out
    assert printed.startswith("{'NORMAL': ")
    assert made["ablation"].result.analysis.verdict in printed
    assert isinstance(made["gan"], FinishedRun)
    for step in ("gan", "synthesis", "ablation"):
        assert (runs_cwd / "runs/example" / step / "done").exists()
    analysis = classifier.analyse(made["ablation"].path)
    assert analysis.verdict == made["ablation"].result.analysis.verdict


def test_paths_may_be_relative_and_runs_are_not_overwritten(runs_cwd: Path, threads: None) -> None:
    config = balancer.SynthesizeConfig(gan_run="nowhere")
    with pytest.raises(balancer.BalancerError, match=str(runs_cwd / "nowhere")):
        balancer.synthesize(config)
