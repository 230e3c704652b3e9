"""Files of a study: read back as they were written, and refused in one line where they are damaged."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import LABELS, PATIENTS, fake_study, fake_trial, write_run

from balancer.core.errors import BalancerError
from balancer.core.jsonl import append_jsonl
from balancer.core.marker import check_stated, write_marker
from balancer.core.sealed import DamagedFile, load_arrays, save_arrays, write_json
from balancer.data.split import write_split
from classifier.analysis.analyse import analyse
from classifier.analysis.reading import (
    read_environment,
    read_patients,
    read_result,
    read_trials,
    recover_trials,
    with_predictions,
)
from classifier.analysis.results import TrialPredictions, TrialResult
from classifier.analysis.runs import read_runs

ROW = Path("results.jsonl")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of three trials, sealed as an ablation seals it."""
    trials = [fake_trial(seed=seed) for seed in range(3)]
    write_run(tmp_path / "run", trials)
    (tmp_path / "run" / ROW).unlink()
    for trial in trials:
        append_jsonl(tmp_path / "run" / ROW, trial.to_json())
    return tmp_path / "run"


def damage_line(run: Path, number: int) -> None:
    """Change a digit of a line, which stays JSON of the right shape."""
    lines = (run / ROW).read_text().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1].replace('"steps": 40', '"steps": 41')
    (run / ROW).write_text("".join(lines))


def test_a_run_is_read_back(tmp_path: Path) -> None:
    results = fake_study({"baseline": 1, "gan": 1.2}, sets=2)
    read = read_runs([write_run(tmp_path, results.trials, PATIENTS)])
    assert read.arms == results.arms
    assert (read.patients, read.source, read.notes) == (PATIENTS, "nowhere", ["DRAWN SCORES"])
    for one, other in zip(read.trials, results.trials, strict=True):
        for fold, predictions in other.predictions.items():
            assert plain(one.predictions[fold]) == plain(predictions)
    assert analyse(read, seed=0).to_json() == analyse(replace(results, source="nowhere"), seed=0).to_json()


def plain(predictions: TrialPredictions) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(predictions).items()}


def test_files_that_are_one_image_are_of_one_patient(tmp_path: Path) -> None:
    write_run(tmp_path, [fake_trial()], PATIENTS)
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(text.replace(f"{100:064x}", f"{3:064x}"))
    patients = read_patients(tmp_path)
    assert patients[3] == patients[100]
    assert len(set(patients)) == len(set(PATIENTS)) - 1


@pytest.mark.parametrize("changes", [{}, {"val": "three", "test": "three"}])
def test_a_row_is_read_back(changes: dict[str, Any]) -> None:
    from classifier.evaluation.metrics import evaluate

    three = evaluate(np.array([0, 1, 2]), np.full((3, 3), 1 / 3), 0.5, 1.0)
    trial = fake_trial(**dict.fromkeys(changes, three))
    assert TrialResult.from_json(json.loads(json.dumps(trial.to_json())), ROW) == trial
    assert asdict(trial)["fold"] is None
    assert "fold" not in trial.to_json(), "only a cross-validation has folds"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda row: row["val"].pop("at_half"), "val.binary.at_half"),
        (lambda row: row.update(val=None), "val"),
        (lambda row: row.update(val=[]), "val"),
        (lambda row: row["test"].update(auroc="high"), "test.binary.auroc"),
        (lambda row: row["test"]["at_threshold"].update(confusion=[1, 2, 3]), "confusion"),
        (lambda row: row["history"][0].pop("val_nll"), "history.0.val_nll"),
        (lambda row: row.update(history={}), "history"),
        (lambda row: row.update(steps=1.5), "steps"),
        (lambda row: row.pop("regime"), "regime"),
        (lambda row: row.update(auroc=1.0), "auroc"),
        (lambda row: row.update(n_train=[1, 2]), "n_train"),
    ],
)
def test_a_row_of_the_wrong_shape_names_file_line_and_key(
    change: Callable[[dict[str, Any]], object], key: str, run: Path
) -> None:
    row = json.loads(json.dumps(fake_trial(seed=7).to_json()))
    change(row)
    with (run / ROW).open("a") as handle:
        handle.write(json.dumps(row) + "\n")
    with pytest.raises(DamagedFile, match=rf"results\.jsonl is damaged: line 4: .*{key}.*--resume") as error:
        read_trials(run / ROW)
    assert "\n" not in str(error.value)


def test_a_row_with_a_number_that_is_none(run: Path) -> None:
    row = json.loads(json.dumps(fake_trial(seed=7).to_json()))
    row["test"]["auroc"] = float("nan")
    with pytest.raises(DamagedFile, match=r"test\.binary\.auroc"):
        TrialResult.from_json(row, ROW)
    with (run / ROW).open("a") as handle:
        handle.write(json.dumps(row) + "\n")
    with pytest.raises(DamagedFile, match=r"results\.jsonl is damaged: line 4.*NaN.*--resume"):
        read_trials(run / ROW)


def test_a_finished_run_with_a_damaged_line_is_refused_and_an_interrupted_one_read(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage_line(run, 2)
    with pytest.raises(DamagedFile, match=rf"results\.jsonl is damaged: line 2 .*--resume {run}"):
        read_runs([run])
    (run / "done").unlink()
    with caplog.at_level(logging.WARNING, "balancer"):
        assert [trial.trial_seed for trial in read_runs([run]).trials] == [0, 2]
    assert "line 2" in caplog.text


def last_row_gone(run: Path) -> None:
    (run / ROW).write_bytes(b"".join((run / ROW).read_bytes().splitlines(keepends=True)[:-1]))


def other_environment(run: Path) -> None:
    write_json(run / "env.json", {"command": "ablate", "data": {"source": "elsewhere", "notes": []}})


def other_split(run: Path) -> None:
    (run / "split.csv").write_text((run / "split.csv").read_text().replace("p3", "q3"))


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (last_row_gone, "results.jsonl"),
        (lambda run: (run / ROW).unlink(), "results.jsonl"),
        (other_environment, "env.json"),
        (other_split, "split.csv"),
        (lambda run: (run / "done").write_text((run / "done").read_text().replace("env.json", "env.jsom")), "done"),
    ],
)
def test_files_that_a_finished_run_did_not_end_with_are_refused(
    change: Callable[[Path], object], file: str, run: Path
) -> None:
    """Each of them is sound for itself."""
    write_marker(run)
    assert len(read_runs([run]).trials) == 3
    change(run)
    with pytest.raises(BalancerError, match=file) as error:
        read_runs([run])
    assert "\n" not in str(error.value)


def test_a_run_of_an_earlier_version_states_no_files(run: Path) -> None:
    (run / "done").write_text("2026-11-28T01:28:40+0000\n")
    last_row_gone(run)
    assert len(read_runs([run]).trials) == 2
    check_stated(run / "anything")


def test_the_result_of_another_training_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [fake_trial()], single=True)
    write_marker(run)
    assert len(read_runs([run]).trials) == 1
    row = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(row | {"steps": 41}))
    with pytest.raises(DamagedFile, match=r"result\.json"):
        read_runs([run])


@pytest.mark.parametrize(
    ("key", "value"),
    [("command", "gan-train"), ("split_hash", "0" * 16), ("fingerprint", "0" * 16)],
)
def test_what_env_json_says_of_another_run_is_refused(key: str, value: str, run: Path) -> None:
    """Here the run is not finished, so no marker helps."""
    (run / "done").unlink()
    data = {"source": "elsewhere", "notes": [], "split_hash": fake_trial().split_hash, "fingerprint": "f" * 16}
    content: dict[str, Any] = {"command": "ablate", "data": data}
    write_json(run / "env.json", content)
    assert read_runs([run]).source == "elsewhere"
    (content if key == "command" else data)[key] = value
    write_json(run / "env.json", content)
    with pytest.raises(DamagedFile, match=rf"env\.json.*{key}"):
        read_runs([run])


def test_the_split_of_another_run_is_refused(run: Path) -> None:
    (run / "done").unlink()
    (run / "split.csv").write_text((run / "split.csv").read_text().replace("0.png,test", "0.png,train"))
    with pytest.raises(DamagedFile, match=r"split\.csv"):
        read_runs([run])
    (run / "split.csv").write_text("name,fold,label,patient,sha256\na,test\n")
    with pytest.raises(DamagedFile, match=r"split\.csv.*cells"):
        read_runs([run])


def test_a_finished_run_that_lost_a_row_is_resumed(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_marker(run)
    last_row_gone(run)
    with caplog.at_level(logging.WARNING, "balancer"):
        assert len(recover_trials(run / ROW, lambda _: None)) == 2
    assert "results.jsonl" in caplog.text
    assert not (run / "done").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "a folder", "trial is a file"])
def test_a_trial_without_a_sound_network_is_run_again(damage: str, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run / fake_trial(seed=1).folder
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").unlink()
    if damage == "cut":
        (folder / "model.pt").write_bytes(content[:-1])
    elif damage == "a folder":
        (folder / "model.pt").mkdir()
    elif damage == "trial is a file":
        (folder / "predictions.npz").unlink()
        folder.rmdir()
        folder.write_text("")
    with caplog.at_level(logging.WARNING, "balancer"):
        assert [trial.trial_seed for trial in recover_trials(run / ROW, lambda _: None)] == [0, 2]
    (warning,) = [r.getMessage() for r in caplog.records if "run again" in r.getMessage()]
    assert ("predictions.npz" if damage == "trial is a file" else "model.pt") in warning


def test_what_is_damaged_is_left_to_be_run_again(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line by its seal, another by its predictions; the third stays, byte by byte."""
    damage_line(run, 1)
    (run / fake_trial(seed=2).folder / "predictions.npz").unlink()
    middle = (run / ROW).read_bytes().splitlines()[1]
    with caplog.at_level(logging.WARNING, "balancer"):
        assert [trial.trial_seed for trial in recover_trials(run / ROW, lambda _: None)] == [1]
    assert (run / ROW).read_bytes() == middle + b"\n"
    assert not (run / "done").exists(), "one trial must not pass for three"
    assert [record.getMessage().endswith("the trial is run again") for record in caplog.records] == [True, True]
    assert "line 1 is damaged" in caplog.text
    assert "predictions.npz is damaged: it is missing" in caplog.text


def test_an_undamaged_run_is_left_alone(run: Path) -> None:
    before = (run / ROW).stat().st_mtime_ns
    assert len(recover_trials(run / ROW, lambda _: None)) == 3
    assert ((run / ROW).stat().st_mtime_ns, (run / "done").exists()) == (before, True)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda a: a.pop("val_score"), "val_score is missing"),
        (lambda a: a.update(val_score=a["val_score"][:-1]), "val_score"),
        (lambda a: a.update(test_true=a["test_true"].astype(str)), "test_true"),
        (lambda a: a.update(test_true=a["test_true"] + 1), "test_true"),
        (lambda a: a.update(test_index=a["test_index"] - 9), "test_index"),
        (lambda a: a["test_score"].__setitem__(1, np.nan), "test_score"),
        (lambda a: a["test_score"].__setitem__(1, np.inf), "test_score"),
        (lambda a: a["val_score"].__setitem__(0, 1.5), "val_score"),
    ],
)
def test_predictions_of_the_wrong_shape_name_file_and_array(
    change: Callable[[dict[str, Any]], object], key: str, run: Path
) -> None:
    trial = fake_trial(seed=1)
    path = run / trial.folder / "predictions.npz"
    arrays = load_arrays(path)
    change(arrays)
    save_arrays(path, arrays)
    with pytest.raises(DamagedFile, match=rf"predictions\.npz is damaged: {key}.*--resume {run}"):
        with_predictions(trial, run)


def test_predictions_of_another_trial_are_refused(tmp_path: Path) -> None:
    one, other = fake_study({"baseline": 1}, seeds=2).trials
    run = write_run(tmp_path, [one, other])
    content = (run / other.folder / "predictions.npz").read_bytes()
    (run / one.folder / "predictions.npz").write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{one.folder}/predictions\.npz .*another trial.*--resume {run}"):
        with_predictions(one, run)
    assert with_predictions(other, run) == other


def remove(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [remove, cut_short, flip])
def test_files_that_are_damaged_are_named(damage: Callable[[Path], None], run: Path) -> None:
    write_split(run / "split.csv", *([name] * len(LABELS) for name in ("n", "test", "NORMAL", "p", "0" * 64, "virus")))
    write_json(run / "env.json", {"data": {"source": "nowhere", "notes": []}})
    assert read_runs([run]).source == "nowhere"
    damage(run / fake_trial(seed=2).folder / "predictions.npz")
    with pytest.raises(DamagedFile, match=rf"predictions\.npz is damaged: .*--resume {run}"):
        read_runs([run])
    damage(run / "split.csv")
    with pytest.raises(DamagedFile, match=r"split\.csv is damaged: .*--resume"):
        read_patients(run)
    damage(run / "env.json")
    with pytest.raises(DamagedFile, match=r"env\.json is damaged"):
        read_environment(run, [])


def test_a_split_of_the_wrong_shape(run: Path) -> None:
    (run / "split.csv").write_text("name,fold\na,test\n")
    with pytest.raises(DamagedFile, match=r"split\.csv is damaged: .*'patient'"):
        read_patients(run)
    header = "name,fold,label,patient,sha256"
    (run / "split.csv").write_text(f"\ufeff{header}\r\na,test,NORMAL,p,{'0' * 64}\r\n", encoding="utf-8", newline="")
    assert read_patients(run) == ["p"], "Excel's mark and line ends are read"
    with pytest.raises(DamagedFile, match=r"split\.csv is damaged: it lists 1 images, .* image 4"):
        read_runs([run])


def test_a_single_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "single", [fake_trial()], single=True)
    assert read_result(run).regime == "baseline"
    write_json(run / "result.json", {"regime": "baseline"})
    with pytest.raises(DamagedFile, match=r"result\.json is damaged: \w+: .*; train again"):
        read_result(run)
