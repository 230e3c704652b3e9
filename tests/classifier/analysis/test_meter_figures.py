"""The shortcut meter over a study: what is read, what is not, and trials of versions that had no meter."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_meter import with_meter
from fake_study import PATIENTS, fake_study, write_run

from balancer.core.sealed import DamagedFile, array_bytes
from balancer.metrics.traces import TRACES
from classifier.analysis.analyse import analyse
from classifier.analysis.reading import (
    predictions_file,
    read_patients,
    read_trials,
    recover_trials,
    with_predictions,
)
from classifier.analysis.results import StudyResults, TrialResult
from classifier.analysis.shortcut_answers import along_sizes, brief
from classifier.analysis.shortcuts import MeterResult, meter_results
from classifier.training.regimes import REGIMES


def metered(
    shifts: Mapping[str, float], seeds: int = 3, sets: int = 1, classes: tuple[str, ...] = ("NORMAL",)
) -> StudyResults:
    return with_meter(fake_study(list(shifts), seeds, sets), shifts, classes)


def results(study: StudyResults) -> dict[tuple[str, str], MeterResult]:
    return {(r.regime, r.class_name): r for r in meter_results(study, seed=0, resamples=40)}


@pytest.mark.parametrize("sets", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_a_shortcut_is_named_and_its_controls_are_not(sets: int) -> None:
    study = metered({"baseline": 0.0, "gan": 2.0, "duplicate": 0.0}, sets=sets)
    found = results(study)
    assert {regime: r.verdict for (regime, _), r in found.items()} == {
        "baseline": "control",
        "gan": "read",
        "duplicate": "control",
    }
    gan = found["gan", "NORMAL"]
    assert [trace.trace for trace in gan.traces] == list(TRACES)
    moved, still = gan.traces
    assert moved.traced.value == pytest.approx(0.92, abs=0.04), "Phi(2 / sqrt 2)"
    assert moved.traced.low < moved.traced.value < moved.traced.high
    assert moved.beyond_reference is not None
    assert moved.beyond_reference.low > 0.3
    assert (moved.exceeds, still.exceeds) == (True, False)
    assert moved.shift == pytest.approx(2.0, abs=0.2)
    assert {trace.reference for trace in gan.traces} <= {"baseline", "duplicate"}
    assert {trace.reference for trace in found["baseline", "NORMAL"].traces} == {None}
    assert (gan.trial_seeds, gan.gan_seeds) == (3, sets)
    text = brief(list(found.values()))
    assert "gan read being synthetic as NORMAL" in text
    assert "duplicate" not in text


def test_what_the_regime_without_synthetic_images_shows_too_is_no_shortcut() -> None:
    """A blurred image may look like a class to any classifier."""
    found = results(metered({"baseline": 2.0, "gan": 2.0}))
    gan = found["gan", "NORMAL"]
    assert gan.traces[0].beyond_control.low > 0
    assert gan.verdict == "not seen"
    assert brief(list(found.values())).startswith("No shortcut was seen")


def test_what_the_balance_of_the_classes_does_is_no_shortcut() -> None:
    """Copies of real images balance the classes too, and of all controls the nearest counts."""
    shifts = {"baseline": 0.0, "augment": 2.0, "gan": 1.0, "combined": 1.0, "duplicate": 1.0}
    found = results(metered(shifts))
    moved = found["gan", "NORMAL"].traces[0]
    assert (found["gan", "NORMAL"].verdict, moved.reference) == ("not seen", "duplicate")
    assert moved.beyond_reference is not None
    assert moved.beyond_reference.value == pytest.approx(0.0, abs=0.1)
    assert found["combined", "NORMAL"].traces[0].reference == "augment", "only the same augmentation compares"
    assert results(metered({**shifts, "gan": 2.0}))["gan", "NORMAL"].verdict == "read"


def test_without_such_a_regime_nothing_is_judged() -> None:
    """A trace moves classifiers that never saw a synthetic image further than its control does (docs/statistics.md)."""
    gan = results(metered({"gan": 2.0}))["gan", "NORMAL"]
    assert (gan.traces[0].reference, gan.traces[0].beyond_reference, gan.verdict) == (None, None, "no reference")
    assert gan.traces[0].beyond_control.low > 0
    assert "cannot be judged without baseline" in gan.sentence
    for text in (brief([gan]), along_sizes({50: [gan], 400: []})):
        assert "cannot be judged" in text
        assert "read being synthetic as" not in text


@pytest.mark.parametrize(("halvings", "verdict"), [(4, "not seen"), (0, "read")])
def test_what_chance_does_to_the_fit_of_a_trace_is_in_both_differences(halvings: int, verdict: str) -> None:
    """Few images give a trace a direction of its own; controls of other halvings move the same network as far."""
    study = metered({"baseline": 0.0, "gan": 0.4})
    sides = np.repeat([[0.5, -0.5, 0.2, -0.2, 0.6, -0.6, 0.3, -0.3][: 2 * halvings] or [0.0]], 2, axis=0)[:, :, None]
    trials = [
        replace(t, meter_scores=tuple(replace(s, control=s.plain + sides * REGIMES[t.regime].synthetic) for s in of))
        for t in study.trials
        for of in [t.meter_scores]
    ]
    gan = results(StudyResults.of(trials, study.patients))["gan", "NORMAL"]
    assert (gan.verdict, gan.halvings) == (verdict, halvings)
    assert gan.traces[0].traced.value > 0.55


def test_a_small_effect_is_called_small() -> None:
    found = results(metered({"baseline": 0.0, "gan": 0.1}))
    assert found["gan", "NORMAL"].verdict == "slightly"
    assert "gan (slightly)" in brief(list(found.values()))


def test_each_class_has_a_line_of_its_own() -> None:
    found = results(metered({"baseline": 0.0, "gan_both": 2.0, "gan": 2.0}, classes=("NORMAL", "PNEUMONIA")))
    verdicts = {key: r.verdict for key, r in found.items() if r.is_synthetic}
    assert verdicts["gan", "NORMAL"] == verdicts["gan_both", "NORMAL"] == "read"
    assert verdicts["gan", "PNEUMONIA"] == verdicts["gan_both", "PNEUMONIA"] == "not seen"
    assert "gan and gan_both read being synthetic as NORMAL." in brief(list(found.values()))


def test_few_trial_seeds_carry_no_claim() -> None:
    one = results(metered({"baseline": 0.0, "gan": 2.0}, seeds=1))
    assert "One trial seed" in one["gan", "NORMAL"].sentence
    assert "one trial seed" in brief(list(one.values()))


def test_trials_without_the_meter_are_left_out() -> None:
    """Of an earlier version, a trial seed is not complete; a study of such trials has no meter."""
    study = metered({"baseline": 0.0, "gan": 2.0})
    old = [replace(t, meter=(), meter_scores=()) if t.key == ("gan", 1, "0", 1.0) else t for t in study.trials]
    found = results(StudyResults.of(old, study.patients))
    assert {regime: r.trial_seeds for (regime, _), r in found.items()} == {"baseline": 3, "gan": 2}
    bare = fake_study(["baseline", "gan"])
    assert meter_results(bare, 0) == []
    analysis = analyse(bare, resamples=20)
    assert (analysis.meter, analysis.to_json()["meter"]) == ([], [])
    assert "synthetic as" not in analysis.verdict


def test_the_answer_has_the_sentence() -> None:
    analysis = analyse(metered({"baseline": 0.0, "gan": 2.0}), resamples=20)
    assert analysis.verdict.endswith(brief(analysis.meter))
    (gan,) = [row for row in analysis.to_json()["meter"] if row["regime"] == "gan"]
    assert (gan["verdict"], gan["class_name"]) == ("read", "NORMAL")


# ---------------------------------------------------------------- files


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, TrialResult]:
    """A run, and its trial of gan."""
    study = metered({"baseline": 0.0, "gan": 2.0}, seeds=1)
    path = write_run(tmp_path / "run", study.trials, study.patients)
    for trial in study.trials:
        (path / trial.folder / "predictions.npz").write_bytes(predictions_file(trial.predictions, trial.meter_scores))
    return path, study.arms["gan"][0]


def test_the_meter_comes_back_from_a_run(run: tuple[Path, TrialResult]) -> None:
    path, trial = run
    trials = [with_predictions(each, path) for each in read_trials(path / "results.jsonl")]
    again = next(each for each in trials if each.regime == "gan")
    assert again.meter == trial.meter
    pairs = zip(vars(again.meter_scores[0]).values(), vars(trial.meter_scores[0]).values(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert read_patients(path, trials) == PATIENTS


def test_a_line_without_the_meter_says_nothing_of_it(run: tuple[Path, TrialResult]) -> None:
    _, trial = run
    assert "meter" not in replace(trial, meter=(), meter_scores=()).to_json()
    assert "meter_scores" not in trial.to_json()


def test_damaged_scores_let_the_trial_run_again(run: tuple[Path, TrialResult]) -> None:
    path, trial = run
    file = path / trial.folder / "predictions.npz"
    with np.load(file) as saved:
        arrays = {key: saved[key] for key in saved.files if key not in ("meter0_plain", "sha256")}
    file.write_bytes(array_bytes(arrays))
    with pytest.raises(DamagedFile, match="meter0_plain"):
        with_predictions(trial, path)
    assert [each.regime for each in recover_trials(path / "results.jsonl", lambda _: None)] == ["baseline"]


def test_an_image_that_the_split_does_not_list(run: tuple[Path, TrialResult]) -> None:
    path, trial = run
    measured = trial.meter_scores[0]
    beyond = replace(trial, meter_scores=(replace(measured, index=measured.index + len(PATIENTS)),))
    with pytest.raises(DamagedFile, match="lists"):
        read_patients(path, [beyond])


def test_a_line_with_a_damaged_share(run: tuple[Path, TrialResult]) -> None:
    path, _ = run
    lines = (path / "results.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    row["meter"][0]["traces"][0]["traced"]["low"] = "half"
    (path / "results.jsonl").write_text("\n".join([lines[0], json.dumps(row)]) + "\n")
    with pytest.raises(DamagedFile, match="meter"):
        read_trials(path / "results.jsonl")
