"""The shortcut meter beside trials: it changes none of them, is kept with them, and finds what was planted."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from memory_data import in_memory
from tiny import CPU, PLAIN

from balancer.core.config import config_hash
from balancer.core.jsonl import append_jsonl
from balancer.core.run import RunDir
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import AblateConfig, DataConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.metrics.two_sample import TwoSample
from classifier.analysis.reading import recover_trials
from classifier.analysis.results import StudyResults
from classifier.analysis.shortcuts import meter_results
from classifier.experiments import ablation, jobs
from classifier.experiments.jobs import Workers
from classifier.experiments.study import Study, recipe_hash
from classifier.experiments.trial import TrainedTrial, run_trial, save_trial
from classifier.training import metering
from classifier.training.filtering import FilteredClass, Selection
from classifier.training.regimes import REGIMES, select_regimes
from classifier.training.synthetic import SyntheticSet

Array = np.ndarray
CONFIG = AblateConfig(data=DataConfig(image_size=16), steps=4, batch_size=8, seeds=1, **PLAIN)


def of_noise(data: Dataset, n: int, seed: int) -> SyntheticSet:
    images = np.random.default_rng(seed).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    hashes = tuple(f"{seed}{i:063x}" for i in range(n))
    return SyntheticSet(Path("memory"), images, np.full(n, data.minority_class), hashes, f"generator {seed}")


def study_of(config: AblateConfig, regimes: Sequence[str] = ("baseline", "gan"), sets: int = 1) -> Study:
    data = in_memory((24, 40), (14, 16))
    synthetic = [of_noise(data, data.deficit, seed) for seed in range(sets)]
    return Study(config, data, synthetic, select_regimes(regimes))


def trained(study: Study) -> dict[str, TrainedTrial]:
    return {trial.name: run_trial(study, trial, CPU) for trial in study.trials}


@pytest.fixture(scope="module")
def with_it() -> dict[str, TrainedTrial]:
    made: list[int] = []
    original = metering.probes

    def counted(*args: Any) -> list[metering.Probe]:
        made.append(1)
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metering, "probes", counted)
        trials = trained(study_of(CONFIG))
    assert made == [1], "traces are made once for all trials"
    return trials


def test_no_trial_changes_by_the_meter(with_it: dict[str, TrainedTrial]) -> None:
    without = trained(study_of(CONFIG.model_copy(update={"meter": False})))
    assert without.keys() == with_it.keys()
    for name, trial in without.items():
        assert trial.model == with_it[name].model, "every bit of the checkpoint"
        assert trial.result.meter == trial.result.meter_scores == ()
        assert with_it[name].result.meter
        same = replace(with_it[name].result, meter=(), meter_scores=(), seconds=trial.result.seconds)
        assert same == trial.result
        for fold, predictions in trial.result.predictions.items():
            assert np.array_equal(predictions.y_score, with_it[name].result.predictions[fold].y_score)


def test_hashes_do_not_know_the_meter() -> None:
    off = CONFIG.model_copy(update={"meter": False})
    assert recipe_hash(off) == recipe_hash(CONFIG)
    assert config_hash(CONFIG, exclude={"meter"}) == config_hash(CONFIG), "as of versions without the setting"


def test_the_meter_is_kept_with_its_trial(with_it: dict[str, TrainedTrial], tmp_path: Path) -> None:
    """Also across processes, by which trials of --jobs come back."""
    rows = [save_trial(pickle.loads(pickle.dumps(t)), tmp_path, tmp_path / name) for name, t in with_it.items()]
    for row in rows:
        append_jsonl(tmp_path / "results.jsonl", row.to_json())
    again = recover_trials(tmp_path / "results.jsonl", lambda _: None)
    assert [trial.meter for trial in again] == [row.meter for row in rows]
    groups = in_memory((24, 40), (14, 16)).groups
    before, after = (meter_results(StudyResults.of(trials, groups), 0, 20) for trials in (rows, again))
    assert before == after
    assert [result.regime for result in before] == ["baseline", "gan"]


def test_a_finished_trial_with_fewer_controls_is_measured_again(
    with_it: dict[str, TrainedTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of before has one halving: resumed, it gets the scores that it would have today, and trains nothing."""
    monkeypatch.setattr(jobs, "run_trial", lambda *_: pytest.fail("a trial is run again"))
    for name, trial in with_it.items():
        scores = tuple(replace(s, control=s.control[:, :2]) for s in trial.result.meter_scores)
        old = replace(trial, result=replace(trial.result, meter_scores=scores))
        row = save_trial(old, tmp_path, tmp_path / "trials" / name)
        append_jsonl(tmp_path / "results.jsonl", row.to_json())
    (tmp_path / "done").write_text("")
    with RunDir(tmp_path, resumed=False) as run:
        again = ablation.ablate(study_of(CONFIG), run, Workers("cpu", threads=1))
        lines = (tmp_path / "results.jsonl").read_text().splitlines()
        assert len(lines) == len(with_it)
        assert not (tmp_path / "done").exists(), "it states what the files were"
        kept = recover_trials(tmp_path / "results.jsonl", lambda _: None)
        for found in (again.trials, kept):
            for result, trial in zip(found, with_it.values(), strict=True):
                assert result.meter == trial.result.meter
                for new, first in zip(result.meter_scores, trial.result.meter_scores, strict=True):
                    assert all(
                        np.array_equal(a, b) for a, b in zip(vars(new).values(), vars(first).values(), strict=True)
                    )
        monkeypatch.setattr(ablation, "measure_again", lambda *_: pytest.fail("nothing is left to measure"))
        ablation.ablate(study_of(CONFIG), run, Workers("cpu", threads=1))
        assert (tmp_path / "results.jsonl").read_text().splitlines() == lines


def test_a_kill_between_line_and_scores_leaves_nothing_half_measured(
    with_it: dict[str, TrainedTrial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, trial in with_it.items():
        scores = tuple(replace(s, control=s.control[:, :2]) for s in trial.result.meter_scores)
        stale = tuple(replace(reading, n=1) for reading in trial.result.meter)
        old = replace(trial, result=replace(trial.result, meter=stale, meter_scores=scores))
        append_jsonl(tmp_path / "results.jsonl", save_trial(old, tmp_path, tmp_path / "trials" / name).to_json())
    with RunDir(tmp_path, resumed=False) as run:
        with monkeypatch.context() as patch:
            patch.setattr(ablation, "write_predictions", Mock(side_effect=SystemError))
            with pytest.raises(SystemError):
                ablation.ablate(study_of(CONFIG), run, Workers("cpu", threads=1))
        trials = ablation.ablate(study_of(CONFIG), run, Workers("cpu", threads=1)).trials
    for found in (trials, recover_trials(tmp_path / "results.jsonl", lambda _: None)):
        assert [trial.meter for trial in found] == [trial.result.meter for trial in with_it.values()]
        assert {s.control.shape[1] for trial in found for s in trial.meter_scores} == {2 * metering.HALVINGS}


def test_the_notes_on_a_filter_stay_with_a_run_that_is_resumed(tmp_path: Path) -> None:
    """The page of a study reads them there, also after an ablation of it was resumed by itself."""
    write_json(tmp_path / "env.json", {"command": "ablate", "data": {"source": "memory", "notes": ["first"]}})
    study = study_of(CONFIG)
    filtered = replace(study, data=replace(study.data, notes=["first", "The filter saw 80."]))
    with RunDir(tmp_path, resumed=True) as run:
        ablation.state_notes(filtered, run)
    data = {"source": "memory", "notes": ["first", "The filter saw 80."]}
    assert read_json(tmp_path / "env.json") == {"command": "ablate", "data": data}


def test_a_trial_is_measured_with_its_own_set_or_with_every_set() -> None:
    study = study_of(CONFIG, ("baseline", "gan", "duplicate", "flipped"), sets=2)
    shown = {trial.name: study.measured_sets(trial) for trial in study.trials}
    assert shown == {"baseline-0": [0, 1], "gan-0": [0], "gan-set1-0": [1], "duplicate-0": [0, 1], "flipped-0": []}


def test_a_filtered_trial_is_measured_on_what_was_kept_and_on_the_classes_that_were_not_filtered() -> None:
    """A study with `gan_both` has synthetic images of both classes, and the filter chooses of the minority alone."""
    study = study_of(CONFIG, ("gan_filtered",))
    data, minority = study.data, study.data.minority_class
    few, many = of_noise(data, 40, 0), of_noise(data, 40, 1)
    both = replace(
        few,
        images=np.concatenate([few.images, many.images]),
        labels=np.repeat([minority, 1 - minority], 40),
        hashes=(*few.hashes, *many.hashes),
    )
    kept = FilteredClass(
        "NORMAL", tuple(range(3, 19)), "pixels", TwoSample("logistic", 0.5, 0.4, 0.6, 24, 40, 2), 0.5, ""
    )
    chosen = Selection(both.digest, data.fingerprint, data.split_hash, 0, (kept,))
    study = replace(study, synthetic=[both], selections=(chosen,))
    (trial,) = study.trials
    readings = {reading.class_name: reading for reading in run_trial(study, trial, CPU).result.meter}
    assert readings["NORMAL"].trained_on
    assert not readings["PNEUMONIA"].trained_on
    assert all(reading.n_features for reading in readings.values())


def test_where_the_meter_is_left_out_the_report_says_so() -> None:
    study, data = study_of(CONFIG), in_memory((24, 40), (14, 9))
    few = replace(study, data=data)
    assert few.probes == []
    (note,) = few.meter_notes
    assert "10" in note
    assert study.meter_notes == replace(few, config=CONFIG.model_copy(update={"meter": False})).meter_notes == []
    single = replace(study, config=TrainConfig(data=DataConfig(image_size=16)))
    assert (single.probes, single.meter_notes) == ([], []), "a single training has no page"


# ---------------------------------------------------------------- real trainings

SIDE = 64
BOARD = 1.0 - 2 * (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 2)


def warped(data: Dataset, levels: float) -> SyntheticSet:
    """Training images of the minority class, turned and moved a little, with a checkerboard of so many grey levels."""
    from scipy.ndimage import affine_transform

    rng, real = np.random.default_rng(1), data.images[data.indices("train", data.minority_class)]
    images = np.empty((data.deficit, *real.shape[1:]), np.uint8)
    for i in range(len(images)):
        angle, centre = rng.uniform(-0.12, 0.12), (real.shape[1] - 1) / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre - turn @ [centre, centre] + rng.uniform(-2, 2, 2)
        moved = affine_transform(real[i % len(real)].astype(float), turn, offset, order=3, mode="nearest")
        images[i] = np.clip(np.rint(moved + levels * BOARD), 0, 255)
    hashes = tuple(f"{i:064x}" for i in range(len(images)))
    return SyntheticSet(Path("memory"), images, np.full(len(images), data.minority_class), hashes, "planted")


def planted(path: str | None, regimes: Sequence[str], steps: int) -> dict[str, float]:
    """The share of pairs of each regime, by the mean residual of the planted set."""
    config = AblateConfig(data=DataConfig(path=path, image_size=SIDE), steps=steps, seeds=1, evaluations=1)
    data = load_dataset(config.data)
    study = Study(config, data, [warped(data, 2.5)], [REGIMES[name] for name in regimes])
    trials = [run_trial(study, trial, CPU).result for trial in study.trials]
    found = meter_results(StudyResults.of(trials, data.groups), 0)
    for result in found:
        assert result.traces[1].trace == "residual"
        assert result.traces[1].control.value == pytest.approx(0.5, abs=0.05)
    return {result.regime: result.traces[1].traced.value for result in found}


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_faint_checkerboard_is_found_and_copies_are_not() -> None:
    """On drawings, whose classes are easy: 300 steps take little notice of two and a half grey levels."""
    share = planted(None, ("baseline", "gan", "duplicate"), 300)
    assert share["gan"] > 0.65
    assert share["gan"] - max(share["baseline"], share["duplicate"]) > 0.1
    assert abs(share["duplicate"] - share["baseline"]) < 0.1


@pytest.mark.realdata
@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_faint_checkerboard_is_found_on_chests(real_data: Path) -> None:
    share = planted(str(real_data), ("baseline", "gan"), 600)
    assert share["gan"] > 0.85
    assert share["gan"] - share["baseline"] > 0.3
