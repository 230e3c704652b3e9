"""The main job, as a user types it: three commands, then a prediction. And a study whose answer is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import words
from planted import fields

from balancer.cli import main as balancer
from balancer.core.jsonl import read_jsonl
from balancer.core.settings import AblateConfig, DataConfig
from balancer.data.chest import CLASSES, read_folder
from balancer.data.dataset import Dataset
from balancer.data.phantom import PhantomSpec, write_phantom
from balancer.data.records import Record
from classifier.analysis.analyse import Analysis, analyse
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.results import StudyResults
from classifier.cli import main as classifier

TINY_GAN = ["--steps", "6", "--batch-size", "8", "--image-size", "32"]
TINY_GAN += ["--set", "generator_width=4", "--set", "discriminator_width=4"]
TINY_TRAIN = ["--steps", "4", "--set", "evaluations=1"]
NO_TWO_SAMPLE = ("--set", "two_sample=false")  # half a minute on one core
FOUR = ["baseline", "augment", "gan", "combined"]


def run(command, *arguments: str):
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def three_commands(data: list[str], regimes: str, seeds: int, *report: str) -> tuple[dict, dict, dict]:
    gan = run(balancer, "gan-train", *data, *TINY_GAN)
    synthesis = run(balancer, "synthesize", *data, "--inception-weights", "off", "--set", "kid_subsets=5", *report)
    study = run(classifier, "ablate", "--regimes", regimes, "--seeds", str(seeds), *data, *TINY_TRAIN)
    return gan, synthesis, study


def check(gan: dict, synthesis: dict, study: dict, regimes: list[str], seeds: int) -> None:
    deficit = synthesis["data"]["counts"]["train"]["PNEUMONIA"] - gan["n_train"]
    assert gan["class"] == "NORMAL"
    assert Path(synthesis["gan_run"]) == Path(gan["run"]).resolve()
    assert synthesis["n"] == deficit == len(list((Path(synthesis["run"]) / "images/NORMAL").iterdir()))
    assert [e["regime"] for e in study["regimes"]] == regimes
    assert [e["trial_seeds"] for e in study["regimes"]] == [seeds] * len(regimes)
    run_dir = Path(study["run"])
    rows = read_jsonl(run_dir / "results.jsonl")
    assert len(rows) == seeds * len(regimes)
    for row in rows:
        counts = [row["n_train"][c] for c in CLASSES]
        balanced = row["regime"] in ("gan", "combined")
        assert counts[1] - counts[0] == (0 if balanced else deficit)
    for name in words(
        "analysis.json report.html table.md table.csv table.json table.tex figures/roc.png "
        "figures/confusion.svg figures/training.png audit/audit.html"
    ):
        assert (run_dir / name).stat().st_size > 0
    for made in (gan, synthesis, study):
        assert (Path(made["run"]) / "done").exists()
        assert (Path(made["run"]) / "env.json").exists()


SMALL_PHANTOM = PhantomSpec(size=32, train=(60, 120), val=(8, 8), test=(20, 30))


@pytest.mark.slow
@pytest.mark.nightly  # tests/test_api.py makes the three commands on the phantom set as functions
@pytest.mark.parametrize("spec", [SMALL_PHANTOM, pytest.param(None, id="default")])
def test_three_commands_on_the_phantom_set(spec, runs_cwd, monkeypatch):
    if spec is not None:
        monkeypatch.setattr("balancer.data.dataset.phantom_folder", lambda: write_phantom(runs_cwd / "phantom", spec))
    gan, synthesis, study = three_commands([], "baseline,combined", 1, *NO_TWO_SAMPLE)
    check(gan, synthesis, study, ["baseline", "combined"], seeds=1)
    assert any("drawings" in note for note in study["notes"])
    assert "drawings" in (Path(synthesis["run"]) / "report.md").read_text()
    assert "drawings" in (Path(study["run"]) / "table.md").read_text()


@pytest.fixture
def real_subset(real_data, tmp_path) -> Path:
    """Every sixteenth real image, linked into a folder of its own, so that the whole job takes seconds."""
    root = tmp_path / "subset"
    for number, record in enumerate(read_folder(Path(real_data))):
        if number % 16 == 0 or record.split == "val":
            link = root / record.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(real_data).resolve() / record.name)
    return root


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("report", [NO_TWO_SAMPLE, pytest.param((), id="default", marks=pytest.mark.nightly)])
def test_three_commands_and_a_prediction_on_real_images(real_subset, runs_cwd, report):
    gan, synthesis, study = three_commands(["--data", str(real_subset)], "all", 2, *report)
    check(gan, synthesis, study, FOUR, seeds=2)
    image = next((real_subset / "test/NORMAL").iterdir())
    model = Path(study["run"]) / "trials/combined-0/model.pt"
    answer = run(classifier, "predict", str(model), str(image))
    assert answer["predictions"][0]["label"] in CLASSES
    assert 0 <= answer["predictions"][0]["probability_pneumonia"] <= 1


@pytest.mark.slow
def test_console_scripts_start_and_fail_in_one_line(tmp_path):
    """A fresh process, as installed: help is quick to print, an error is one line and its exit code."""
    bin_dir = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BALANCER_", "CLASSIFIER_"))}
    environment["BALANCER_CACHE"] = str(tmp_path / "cache")
    for name in ("balancer", "classifier"):
        done = subprocess.run([bin_dir / name, "--help"], capture_output=True, text=True, env=environment, check=True)
        assert "Usage" in done.stdout
    missing = subprocess.run(
        [bin_dir / "balancer", "gan-train", "--data", tmp_path / "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert missing.returncode == 1
    assert missing.stdout == ""
    assert missing.stderr.count("\n") == 1
    assert "does not exist" in missing.stderr
    assert not (tmp_path / "runs").exists()


def smooth_and_rough() -> Dataset:
    """As many images of either class, which differ in nothing but how rough they are; each is a patient."""
    images, labels, folds = [], [], []
    for number, (fold, n) in enumerate({"train": 80, "val": 30, "test": 80}.items()):
        for label, smooth in enumerate((1.5, 2.2)):
            images.append(fields(n, seed=10 * number + label, size=16, smooth=smooth))
            labels += [label] * n
            folds += [fold] * n
    records = [Record(f"{i}.png", labels[i], folds[i], str(i), "") for i in range(len(labels))]
    names = [r.patient for r in records]
    whole = np.concatenate(images), np.array(labels), np.array(folds)
    return Dataset("memory", *whole, records, names, names, "0" * 16, "f" * 16)


@pytest.fixture(
    params=[
        pytest.param({"bn_statistics": "running", "ema_decay": 0.0}, id="plain recipe"),
        pytest.param({}, id="default recipe", marks=pytest.mark.nightly),
    ],
)
def checks(request: pytest.FixtureRequest) -> Analysis:
    """The analysis of the baseline beside the regimes that a sound study must see through."""
    from classifier.experiments.jobs import Workers, run_trials
    from classifier.experiments.plan import regimes_of
    from classifier.experiments.study import Study

    small = {"steps": 60, "batch_size": 16, "evaluations": 1, "precision": "float32", "seeds": 5, **request.param}
    config = AblateConfig(data=DataConfig(image_size=16), regimes=("baseline", "checks"), **small)
    study, trials = Study(config, smooth_and_rough(), [], regimes_of(config)), []
    run_trials(study, study.trials, Workers("cpu"), lambda trained: trials.append(trained.result), "")
    return analyse(StudyResults.of(trials, study.data.groups))


def contrast(analysis: Analysis, name: str) -> ContrastResult:
    (one,) = [c for c in analysis.contrasts if c.name == name]
    return one


@pytest.mark.slow
def test_a_sound_study_sees_through_its_checks(checks: Analysis) -> None:
    """One test, because two processes of pytest-xdist would each make the study, which takes ten seconds."""
    permuted, baseline = (checks.metric(regime, "auroc") for regime in ("permuted", "baseline"))
    assert permuted.low < 0.5 < permuted.high, "permuted labels teach nothing"
    assert baseline.low > 0.7
    again = contrast(checks, "baseline_again - baseline")
    assert again.verdict in ("not settled", "no benefit"), "the same regime under two names"
    assert again.estimate.low < 0 < again.estimate.high
    flipped = contrast(checks, "flipped - baseline")
    assert flipped.verdict == "hurts", "a crippled regime"
    assert flipped.estimate.high < -0.02
