"""`classifier predict` with an ensemble, by name, of the newest run, and as a table."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from commands import done, refused
from PIL import Image

from balancer.core.sealed import read_json
from classifier.predictor import is_model

Run = Callable[..., Result]
RUN = Path("runs/ablate/pilot")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with one ablation of two regimes and two seeds."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def study(
    place: Path, classifier: Run, small_args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, small_data: object
) -> Path:
    monkeypatch.chdir(place)
    if not RUN.exists():
        regimes = ("--regimes", "baseline,augment", "--seeds", "2")
        done(classifier("ablate", *small_args, *regimes, "--name", "pilot"))
        done(classifier("ensemble"))
    return RUN


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def test_an_ensemble_decides_as_the_command_ensemble_does(
    study: Path, classifier: Run, template: Path, place: Path
) -> None:
    """Every test image, through its file, beside the scores that `classifier ensemble` made from saved predictions."""
    folders = (template / "test" / "NORMAL", template / "test" / "PNEUMONIA")
    done(classifier("predict", "pilot", *folders, "--regime", "augment", "--out", "p.csv", "--device", "cpu", "-q"))
    ours = {Path(row["file"]).name: row for row in table(Path("p.csv"))}
    names = [Path(row["name"]).name for row in table(study / "split.csv")]
    theirs = {names[int(row["index"])]: float(row["augment"]) for row in table(study / "ensemble" / "scores.csv")}
    assert ours.keys() == theirs.keys()
    scores = [float(ours[name]["probability_pneumonia"]) for name in theirs]
    np.testing.assert_allclose(scores, list(theirs.values()), atol=1e-6)
    (chosen,) = [e for e in read_json(study / "ensemble" / "ensemble.json")["ensembles"] if e["ensemble"] == "augment"]
    (threshold,) = {float(row["threshold"]) for row in ours.values()}
    assert threshold == pytest.approx(chosen["threshold"], abs=1e-9)
    calls = [row["label"] == "PNEUMONIA" for row in ours.values()]
    assert calls == [float(row["probability_pneumonia"]) >= chosen["threshold"] for row in ours.values()]


def test_without_a_model_the_newest_run_is_taken_and_said(study: Path, classifier: Run, template: Path) -> None:
    result = done(classifier("predict", template / "test" / "NORMAL", "--device", "cpu"))
    assert f"taking the newest run, {study}" in result.stderr
    assert "lowest NLL on validation" in result.stderr
    assert "the mean of 2 trials" in result.stdout


def test_the_regime_is_chosen_on_validation(study: Path, classifier: Run, template: Path) -> None:
    result = done(classifier("predict", study, template / "test" / "NORMAL", "--device", "cpu"))
    from classifier.analysis.runs import read_runs

    arms = read_runs([study]).arms
    best = min(arms, key=lambda arm: np.mean([trial.val.nll for trial in arms[arm]]))
    assert f"trials of {best};" in result.stdout


def test_an_image_unlike_the_training_data_is_warned_of(
    study: Path, classifier: Run, template: Path, tmp_path: Path
) -> None:
    """Noise in training, a chessboard now. The distance is that of the reference, whose own tests are elsewhere."""
    board = np.kron([[0, 255] * 4, [255, 0] * 4] * 4, np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    model = study / "trials" / "baseline-0" / "model.pt"
    result = done(classifier("predict", model, tmp_path / "board.png", template / "test" / "NORMAL", "--json"))
    novelty = {Path(p["file"]).name: p["novelty"] for p in json.loads(result.stdout)["predictions"]}
    assert novelty.pop("board.png") > max(1, *novelty.values())
    assert "board.png" in result.stderr
    text = done(classifier("predict", "pilot", tmp_path / "board.png", "--regime", "baseline", "--out", "n.csv")).stdout
    assert "unlike the training data" in text.splitlines()[0]
    assert float(table(Path("n.csv"))[0]["novelty"]) > 1


def test_what_is_no_model_is_an_image(study: Path, classifier: Run, template: Path, tmp_path: Path) -> None:
    assert is_model(study)
    assert is_model(study / "trials" / "baseline-0")
    assert not is_model(template)
    refused(classifier("predict", "nothing.png"), 1, "nothing.png", "does not exist")
    refused(classifier("predict", study), 2, "IMAGE")
    refused(classifier("predict", study, template, "--regime", "gan"), 2, "--regime", "gan")
    refused(classifier("predict", study / "trials" / "baseline-0" / "model.pt", template, "--regime", "gan"), 2)


def test_runs_are_named_or_the_newest(study: Path, classifier: Run) -> None:
    """These drawings have too few test patients for the intervals of `thresholds`."""
    assert f"taking the newest run, {study}" in classifier("thresholds", "--rules", "half").stderr
    result = done(classifier("ensemble", "pilot", "--regimes", "augment"))
    assert "taking the newest" not in result.stderr
    assert result.stdout.splitlines()[-1].startswith(str(study / "ensemble" / "ensemble.md"))


@pytest.mark.parametrize(
    ("command", "reads", "writes"),
    [
        (("thresholds", "pilot"), "4 trials", "pilot/thresholds"),
        (("ensemble", "--regimes", "baseline"), "2 trials", "pilot/ensemble"),
        (("evaluate", RUN / "trials" / "baseline-0" / "model.pt"), "test", "nothing"),
        (("predict", "pilot", "FOLDER", "--out", "other.csv"), "10 images", "other.csv"),
    ],
)
def test_a_dry_run_reads_little_and_writes_nothing(
    study: Path, classifier: Run, template: Path, command: tuple[object, ...], reads: str, writes: str
) -> None:
    words = [template / "test" / "NORMAL" if word == "FOLDER" else word for word in command]
    before = sorted(Path().rglob("*"))
    said = json.loads(done(classifier(*words, "--dry-run", "--json")).stdout)
    assert reads in said["reads"]
    assert str(said["writes"]).endswith(writes)
    assert said["estimated_seconds"] > 0
    assert sorted(Path().rglob("*")) == before
    assert "would read" in done(classifier(*words, "--dry-run")).stdout
