"""`classifier study` from the command line: every step in its folder, and a study that was stopped goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from balancer.core.config import dump, resolve
from balancer.core.environment import environment
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.marker import MARKER
from balancer.core.run import PreparedRun
from balancer.core.sealed import DamagedFile, write_json, write_yaml
from balancer.core.settings import StudyConfig, SynthesizeConfig
from classifier.experiments.jobs import Workers
from classifier.learning_curve import steps
from classifier.learning_curve.plan import open_references

TINY = [
    *("--data", "phantom", "--image-size", "16", "--quick", "--sizes", "60,all", "--gans", "2", "--seeds", "2"),
    *("--gan", "steps=3", "--gan", "batch_size=4", "--gan", "generator_width=4", "--gan", "discriminator_width=4"),
    *("--gan", "min_diversity=0", "--synthesis", "two_sample=false", "--synthesis", "kid_subsets=2"),
    *("--classifier", "steps=2", "--classifier", "evaluations=1", "--classifier", "bn_statistics=running"),
]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_study_that_was_stopped_gives_what_it_would_have_given(
    classifier: Callable[..., Result], runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = classifier("study", *TINY, "--out", "whole", "--json")
    assert done.exit_code == 0, done.output
    whole = json.loads((runs_cwd / "whole/study.json").read_text())
    assert [size["size"] for size in whole["sizes"]] == ["60", "all"]
    assert abs(whole["sizes"][0]["minority"] - 60) <= 6
    for size in ("size-60", "size-all"):
        for name in ("gan-0", "gan-1", "synthesis-0", "synthesis-1", "ablation"):
            assert (runs_cwd / "whole" / size / name / MARKER).exists()
    report = (runs_cwd / "whole/report.html").read_text()
    assert "size-60/ablation/report.html" in report
    assert "drawings" in report

    performed, perform = [], steps.perform

    def third_is_stopped(prepared: PreparedRun[Any], request: Any) -> Any:
        performed.append(prepared.command)
        if len(performed) == 3:
            raise Interrupted(2, "the step's own note")
        return perform(prepared, request)

    monkeypatch.setattr(steps, "perform", third_is_stopped)
    stopped = classifier("study", *TINY, "--out", "parts")
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert "parts" in stopped.stderr
    assert not (runs_cwd / "parts" / MARKER).exists()
    resumed = classifier("study", "--resume", "parts")
    assert resumed.exit_code == 0, resumed.output
    assert performed == [
        "gan-train",
        "synthesize",
        "gan-train",
        "gan-train",
        *["synthesize"],
        *["gan-train", "synthesize"] * 2,
    ]
    again = json.loads((runs_cwd / "parts/study.json").read_text())
    assert again == whole


def test_a_step_of_other_images_is_refused_before_anything_is_trained(
    chest_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(StudyConfig, {"data": {"path": str(chest_folder), "image_size": 16}, "regimes": "gan,gan_both"})
    (reference,) = open_references(config, Workers("cpu", threads=1), dry=False)
    trained: list[str] = []

    def point(*_: Any) -> Any:
        trained.append("size")
        return SimpleNamespace(ablation=None)

    monkeypatch.setattr(steps, "_run_point", point)
    monkeypatch.setattr(steps, "check_same_data", lambda *_, **__: None)
    folder = reference.others[0].synthesis_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    data = reference.ablation.data.describe()
    run: Any = SimpleNamespace(path=tmp_path)
    write_json(folder / "env.json", environment("synthesize", "cpu", data=data))
    steps.run_points(config, [reference], run, Workers("cpu", threads=1))
    assert trained == ["size"]
    write_json(folder / "env.json", environment("synthesize", "cpu", data=data | {"fingerprint": "5" * 16}))
    with pytest.raises(BalancerError, match=r"synthesis-2 was made of other images .*fingerprint 5555555555555555"):
        steps.run_points(config, [reference], run, Workers("cpu", threads=1))
    assert trained == ["size"]


def test_a_study_that_was_moved_says_where_it_lay(chest_folder: Path, tmp_path: Path) -> None:
    """The settings of a step that was begun name the folders of others; a link in the old place serves."""
    config = resolve(StudyConfig, {"data": {"path": str(chest_folder), "image_size": 16}})
    references = open_references(config, Workers("cpu", threads=1), dry=True)
    before, now = tmp_path / "before", tmp_path / "now"
    point = references[0].point
    step = point.synthesis_folder(now, 0)
    step.mkdir(parents=True)
    point.gan_folder(now, 0).mkdir()
    write_yaml(step / "config.yaml", dump(SynthesizeConfig(gan_run=str(point.gan_folder(before, 0)))))
    write_json(step / "env.json", environment("synthesize", "cpu", data=references[0].ablation.data.describe()))
    with pytest.raises(BalancerError, match=rf"lay in {before}, .* lies in {now};.*ln -s {now} {before}"):
        steps._check_unchanged(config, references, now)
    before.symlink_to(now)
    steps._check_unchanged(config, references, now)


def test_a_damaged_file_of_a_step_names_the_step_and_the_study(chest_folder: Path, tmp_path: Path) -> None:
    config = resolve(StudyConfig, {"data": {"path": str(chest_folder), "image_size": 16}})
    references = open_references(config, Workers("cpu", threads=1), dry=True)
    step = references[0].point.gan_folder(tmp_path, 1)
    with (
        pytest.raises(BalancerError, match=rf"checkpoint\.pt is damaged.*remove.* {step}, .*--resume {tmp_path}:"),
        steps.damage_named(config, references, tmp_path),
    ):
        raise DamagedFile(step / "checkpoint.pt", "it is cut", "train again")


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_the_gans_of_the_other_class_serve_every_size(classifier: Callable[..., Result], runs_cwd: Path) -> None:
    run = runs_cwd / "both"
    done = classifier("study", *TINY, "--regimes", "confirmatory,gan_both", "--out", "both")
    assert done.exit_code == 0, done.output
    for k in (0, 1):
        assert (run / "others/PNEUMONIA" / f"gan-{k}" / MARKER).exists()
        assert (run / "others/PNEUMONIA" / f"synthesis-{k}" / MARKER).exists()
    for size in ("size-60", "size-all"):
        trials = [json.loads(line) for line in (run / size / "ablation/results.jsonl").read_text().splitlines()]
        both = [trial for trial in trials if trial["regime"] == "gan_both"]
        assert len(both) == 2 * 2  # trial seeds and GANs
        assert all(len(set(trial["n_train"].values())) == 1 for trial in both), "both classes are filled up alike"
        assert {trial["synthetic_set"] for trial in both} == {"0", "1"}
    report = (run / "report.html").read_text()
    assert "others/PNEUMONIA/synthesis-1/report.html" in report
    assert "gan_both - gan" in report


def test_a_finished_step_is_read_and_a_begun_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step: Any = steps._run_step  # settings and runs are stand-ins here
    asked: list[tuple[Any, Any]] = []
    monkeypatch.setattr(steps, "perform", lambda prepared, request: asked.append((prepared, request)))
    monkeypatch.setattr(steps, "resumed_config", lambda *_: "saved settings")

    def run() -> None:
        step("gan-train", Any, tmp_path / "gan-0", lambda: "new settings", lambda config: config, tmp_path)

    run()
    assert [(config, request.resume, request.out) for config, request in asked] == [
        ("new settings", None, tmp_path / "gan-0")
    ]
    (tmp_path / "gan-0").mkdir()
    (tmp_path / "gan-0/env.json").touch()
    run()
    assert (asked[1][0], asked[1][1].resume) == ("saved settings", str(tmp_path / "gan-0"))
    (tmp_path / "gan-0" / MARKER).touch()
    run()
    assert len(asked) == 2
    assert {request.part_of for _, request in asked} == {tmp_path}  # which errors say how to resume


def test_a_dry_run_names_the_time_and_writes_nothing(
    classifier: Callable[..., Result],
    small_args: tuple[str, ...],
    template: Path,
    runs_cwd: Path,
    no_estimate: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("classifier.learning_curve.plan.training_seconds", lambda *_: 20.0)
    monkeypatch.setattr("classifier.learning_curve.plan.report_seconds", lambda *_: 150.0)
    monkeypatch.setattr("balancer.gan.trainer.estimate_seconds", lambda *_: 60.0)
    done = classifier("study", "--data", template, "--image-size", "16", "--sizes", "16,all", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    trials = 5 * (4 + 2 * 3)
    assert answer["estimated_seconds"] == 2 * (3 * (60 + 150) + trials * 10)
    assert answer["config"]["sizes"] == [16, "all"]
    assert not (runs_cwd / "runs").exists()
