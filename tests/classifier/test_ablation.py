"""Ablations end to end on a tiny folder: outputs recomputed, interruption, resumption, refusals."""

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import Result
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from balancer.data.dataset import Dataset
from classifier import ablation, trainer
from classifier.regimes import REGIMES
from classifier.thresholds import balanced_accuracy

Run = Callable[..., Result]
Args = tuple[str, ...]
FOUR = ["baseline", "augment", "gan", "combined"]
PLAN = [(regime, seed) for seed in (5, 6) for regime in FOUR]


@pytest.fixture(scope="module")
def whole(
    small_args: Args, small_synthesis: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result, Args]:
    """One uninterrupted ablation of four regimes and two seeds, what it printed, and its options."""
    from click.testing import CliRunner

    from classifier.cli import main

    torch.set_num_threads(1)  # as in the tests: another number of threads adds up in another order
    out = tmp_path_factory.mktemp("whole") / "run"
    options = ("ablate", *small_args, "--synthetic", str(small_synthesis), "--seeds", "2", "--seed", "5")
    result = CliRunner(env={"OMP_NUM_THREADS": "1"}).invoke(main, [*options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result, options


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the time taken, and the commit, which someone may change while the tests run."""
    return {k: v for k, v in row.items() if k not in ("seconds", "git_commit")}


def predictions(run: Path, regime: str, seed: int) -> dict[str, np.ndarray]:
    with np.load(run / "trials" / f"{regime}-{seed}" / "predictions.npz") as saved:
        return dict(saved)


def table(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "table.json").read_text())
    return loaded


# ---------------------------------------------------------------- outputs


def test_one_line_per_trial_in_pairs(whole: tuple[Path, Result, Args]) -> None:
    rows = rows_of(whole[0])
    assert [(r["regime"], r["trial_seed"]) for r in rows] == PLAN
    assert {r["steps"] for r in rows} == {6}
    assert {len(r["history"]) for r in rows} == {3}


def test_scores_are_those_of_the_saved_predictions(whole: tuple[Path, Result, Args], small_data: Dataset) -> None:
    """Every reported figure from the arrays on disk, and the arrays from the data."""
    for row in rows_of(whole[0]):
        saved = predictions(whole[0], row["regime"], row["trial_seed"])
        for fold in ("val", "test"):
            truth, score = saved[f"{fold}_true"], saved[f"{fold}_score"]
            assert np.array_equal(saved[f"{fold}_index"], small_data.indices(fold))
            assert np.array_equal(truth, small_data.labels[small_data.indices(fold)])
            assert row[fold]["auroc"] == pytest.approx(roc_auc_score(truth, score))
            expected = balanced_accuracy_score(truth, score >= row["val"]["threshold"])
            assert row[fold]["at_threshold"]["balanced_accuracy"] == pytest.approx(expected)
            assert row[fold]["n"] == len(truth)
        assert row["test"]["threshold"] == balanced_accuracy(saved["val_true"], saved["val_score"])


def test_the_classes_end_balanced_where_images_are_added(whole: tuple[Path, Result, Args], small_data: Dataset) -> None:
    normal, pneumonia = small_data.counts("train")
    for row in rows_of(whole[0]):
        added = small_data.deficit if REGIMES[row["regime"]].synthetic else 0
        assert row["n_train"] == {"NORMAL": normal + added, "PNEUMONIA": pneumonia}
        assert row["added"] == added
        assert (row["synthetic_hash"] is not None) == bool(added)
        assert row["split_hash"] == small_data.split_hash


def test_means_and_sds_recomputed(whole: tuple[Path, Result, Args]) -> None:
    rows, summary = rows_of(whole[0]), table(whole[0])
    with (whole[0] / "table.csv").open(newline="") as handle:
        flat = {r["regime"]: r for r in csv.DictReader(handle)}
    assert [e["regime"] for e in summary["regimes"]] == FOUR == list(flat)
    by_seed = {r: [x["test"]["auroc"] for x in rows if x["regime"] == r] for r in FOUR}
    for entry in summary["regimes"]:
        mine = [r for r in rows if r["regime"] == entry["regime"]]
        for key, take in (
            ("auroc", lambda r: r["test"]["auroc"]),
            ("nll", lambda r: r["test"]["nll"]),
            ("sensitivity_val_threshold", lambda r: r["test"]["at_threshold"]["sensitivity"]),
            ("val_auroc", lambda r: r["val"]["auroc"]),
        ):
            sample = [take(r) for r in mine]
            assert entry[key]["mean"] == pytest.approx(np.mean(sample))
            assert entry[key]["sd"] == pytest.approx(np.std(sample, ddof=1))
            assert float(flat[entry["regime"]][f"{key}_mean"]) == pytest.approx(np.mean(sample), abs=1e-6)
    for found in summary["paired_auroc_differences"]:
        gaps = np.subtract(by_seed[found["regime"]], by_seed[found["against"]])
        assert found["mean"] == pytest.approx(gaps.mean())
        assert found["sd"] == pytest.approx(gaps.std(ddof=1))
        assert found["pairs"] == 2


def test_the_reports_show_the_same_figures(whole: tuple[Path, Result, Args]) -> None:
    run, result, _ = whole
    markdown = (run / "table.md").read_text()
    for entry in table(run)["regimes"]:
        cell = f"{entry['auroc']['mean']:.3f} ± {entry['auroc']['sd']:.3f}".replace("0.", ".")
        (line,) = [x for x in result.stdout.splitlines() if x.startswith(entry["regime"] + "  ")]
        assert cell in line
        assert f"| {entry['regime']} |" in markdown
        assert cell in markdown
    for text in (markdown, result.stdout):
        assert "Test n = 26" in text
        assert "2 trial seed(s) per regime" in text
        assert "combined - augment" in text
    assert result.stdout.rstrip().endswith(str(run))


def test_figures_open(whole: tuple[Path, Result, Args]) -> None:
    for name in ("roc", "confusion", "training", "seeds"):
        with Image.open(whole[0] / "figures" / f"{name}.png") as image:
            image.load()
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 20, "blank"


def test_the_run_directory_is_whole(whole: tuple[Path, Result, Args], small_data: Dataset) -> None:
    run = whole[0]
    assert {"config.yaml", "env.json", "split.csv", "log.txt", "done", "results.jsonl"} <= {
        p.name for p in run.iterdir()
    }
    assert not list(run.rglob("*.tmp"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["steps"], config["seeds"], config["seed"], config["regimes"]) == (6, 2, 5, ["all"])
    assert json.loads((run / "env.json").read_text())["data"]["split_hash"] == small_data.split_hash
    assert {p.name for p in (run / "trials").iterdir()} == {f"{r}-{s}" for r, s in PLAN}
    with (run / "split.csv").open(newline="") as handle:
        assert [r["fold"] for r in csv.DictReader(handle)] == small_data.folds.tolist()


# ---------------------------------------------------------------- interruption and resumption


def interrupt_second_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT arrives while the second trial draws its third batch."""
    original, fits = trainer.fit, []

    def fit(*args: Any, **more: Any) -> Any:
        fits.append(1)
        return original(*args, **more)

    draw = trainer.batch_indices

    def batch_indices(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
        if len(fits) == 2 and step == 2:
            signal.raise_signal(signal.SIGINT)
        return draw(n, batch_size, step, seed)

    monkeypatch.setattr(trainer, "fit", fit)
    monkeypatch.setattr(trainer, "batch_indices", batch_indices)


@pytest.fixture
def stopped(whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path) -> Path:
    """The same ablation, stopped in its second trial."""
    out = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_second_trial(patch)
        result = classifier(*whole[2], "--out", out)
    assert result.exit_code == 130, result.output
    assert f"1 of 8 trials are kept; continue with --resume {out}" in result.stderr
    assert not (out / "done").exists()
    assert not (out / "table.md").exists()
    assert [(r["regime"], r["trial_seed"]) for r in rows_of(out)] == PLAN[:1]
    return out


def test_resumed_it_ends_as_if_never_stopped(
    whole: tuple[Path, Result, Args], stopped: Path, classifier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (stopped / "trials" / "baseline-5" / "model.pt").stat().st_mtime_ns
    original, made = trainer.fit, []

    def fit(config: Any, regime: Any, seed: int, *args: Any) -> Any:
        made.append((regime.name, seed))
        return original(config, regime, seed, *args)

    monkeypatch.setattr(trainer, "fit", fit)
    result = classifier("ablate", "--resume", stopped, "-q", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert made == PLAN[1:], "a finished trial was run again, or one left out"
    assert (stopped / "trials" / "baseline-5" / "model.pt").stat().st_mtime_ns == first
    assert list(map(lasting, rows_of(stopped))) == list(map(lasting, rows_of(whole[0])))
    for regime, seed in PLAN:
        mine, other = predictions(stopped, regime, seed), predictions(whole[0], regime, seed)
        assert all(np.array_equal(mine[k], other[k]) for k in other)
    assert table(stopped) == table(whole[0])
    assert (stopped / "done").exists()


def test_a_torn_last_line_is_run_again(whole: tuple[Path, Result, Args], stopped: Path, classifier: Run) -> None:
    with (stopped / "results.jsonl").open("a") as handle:
        handle.write('{"regime": "augment", "trial_se')
    result = classifier("ablate", "--resume", stopped, "-q", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "line 2 is torn" in result.stderr
    lines = (stopped / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for i, line in enumerate(lines) if i != 1]
    assert list(map(lasting, rows)) == list(map(lasting, rows_of(whole[0])))
    assert table(stopped) == table(whole[0])


def test_resuming_refuses_other_settings_and_another_split(stopped: Path, classifier: Run) -> None:
    result = classifier("ablate", "--resume", stopped, "--steps", "7", "-q")
    assert result.exit_code == 1
    assert "steps (saved 6, asked 7)" in result.stderr
    before = (stopped / "results.jsonl").read_text()
    (stopped / "results.jsonl").write_text(before.replace(rows_of(stopped)[0]["split_hash"], "e" * 16))
    result = classifier("ablate", "--resume", stopped, "-q", "--device", "cpu")
    assert result.exit_code == 1
    assert f"holds trials of split_hash {'e' * 16}" in result.stderr
    assert len(rows_of(stopped)) == 1


def test_a_finished_run_resumed_trains_nothing(
    whole: tuple[Path, Result, Args], classifier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = table(whole[0])
    monkeypatch.setattr(trainer, "fit", None)
    result = classifier("ablate", "--resume", whole[0], "-q", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert table(whole[0]) == before
    assert "paired differences" in result.stdout


# ---------------------------------------------------------------- one trial


def test_the_test_fold_is_read_once_and_after_everything_else(
    small_data: Dataset, small_args: Args, monkeypatch: pytest.MonkeyPatch, classifier: Run, tmp_path: Path
) -> None:
    events: list[str] = []
    fit, predict = trainer.fit, trainer.predict
    test = small_data.images[small_data.indices("test")]

    def fit_(*args: Any) -> Any:
        events.append("fit begins")
        fitted = fit(*args)
        events.append("fit ends")
        return fitted

    def predict_(model: Any, pixels: np.ndarray, *args: Any) -> Any:
        events.append("test" if pixels.shape == test.shape and np.array_equal(pixels, test) else "val")
        return predict(model, pixels, *args)

    monkeypatch.setattr(trainer, "fit", fit_)
    monkeypatch.setattr(trainer, "predict", predict_)
    result = classifier("train", *small_args, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert events == ["fit begins", "val", "val", "val", "fit ends", "test"]


# ---------------------------------------------------------------- command line


def test_one_seed_has_no_sd(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    result = classifier(
        "ablate", *small_args, "--regimes", "weighted,baseline", "--seeds", "1", "--out", tmp_path / "r"
    )
    assert result.exit_code == 0, result.output
    assert "one trial seed: no SD" in result.stdout
    assert "± n/a" in result.stdout
    assert "SD of the paired differences n/a, 1 pair(s)" in result.stdout
    entries = table(tmp_path / "r")["regimes"]
    assert [e["regime"] for e in entries] == ["baseline", "weighted"]
    assert all(e["auroc"]["sd"] is None for e in entries)
    assert "NaN" not in (tmp_path / "r" / "table.json").read_text()
    assert "None" not in (tmp_path / "r" / "table.md").read_text()


def test_controls_match_the_synthetic_count(
    small_args: Args, small_synthesis: Path, small_data: Dataset, classifier: Run, tmp_path: Path
) -> None:
    more = ("--seeds", "1", "--synthetic-count", "4", "--regimes")
    result = classifier(
        "ablate", *small_args, *more, "gan,duplicate", "--synthetic", small_synthesis, "--out", tmp_path / "a"
    )
    assert result.exit_code == 0, result.output
    assert [(r["regime"], r["added"]) for r in rows_of(tmp_path / "a")] == [("gan", 4), ("duplicate", 4)]
    result = classifier("ablate", *small_args, *more, "duplicate", "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert [r["added"] for r in rows_of(tmp_path / "b")] == [4], "without a synthesis the number asked for is lost"


def test_json_alone_on_stdout(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    options = [a for a in small_args if a != "-q"]
    result = classifier("ablate", *options, "--regimes", "baseline", "--seeds", "1", "--json", "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["run"] == str(tmp_path / "r")
    assert answer["regimes"] == table(tmp_path / "r")["regimes"]
    assert "data: " in result.stderr


@pytest.mark.parametrize("command", ["ablate", "train"])
def test_a_dry_run_writes_nothing(
    command: str, small_args: Args, small_synthesis: Path, classifier: Run, runs_cwd: Path
) -> None:
    regimes = ("--regimes", "all,controls", "--seeds", "2") if command == "ablate" else ("--regime", "gan")
    result = classifier(command, *small_args, *regimes, "--synthetic", small_synthesis, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["config"]["steps"] == 6
    assert answer["estimated_seconds"] >= 0
    assert list(runs_cwd.iterdir()) == []


def refused(result: Result, code: int, *phrases: str) -> None:
    """One line, and the exit code."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
    assert not [p for p in phrases if p not in line], line
    assert "Traceback" not in result.stderr


def test_no_synthesis(small_args: Args, classifier: Run, runs_cwd: Path) -> None:
    refused(classifier("ablate", *small_args), 1, "no finished synthesis", "`balancer synthesize`", "--synthetic DIR")
    refused(classifier("train", *small_args, "--regime", "gan"), 1, "no finished synthesis")
    assert list(runs_cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "phrases"),
    [
        (("--regimes", "all,nothing"), 2, ("regime is 'nothing'",)),
        (("--regimes", ""), 2, ("no regime given",)),
        (("--regimes", "gann"), 2, ("did you mean 'gan'?",)),
        (("--synthetic-count", "10000"), 1, ("needs 10000 synthetic images",)),
        (("--synthetic-count", "0"), 2, ("synthetic_count", "greater than or equal to 1")),
        (("--synthetic-count", "most"), 2, ("synthetic_count", "'most'")),
        (("--synthetic-count", "--5"), 2, ("synthetic_count",)),
        (("--seeds", "0"), 2, ("'seeds'",)),
        (("--model", "resnt18"), 2, ("did you mean 'resnet18'?",)),
        (("--augmentation", "heavy"), 2, ("augmentation is 'heavy'",)),
        (("--set", "threshold=best"), 2, ("threshold is 'best'",)),
        (("--set", "stepz=3"), 2, ("did you mean 'steps'?",)),
        (("--device", "tpu"), 2, ("--device is 'tpu'",)),
    ],
)
def test_refusals_before_anything_is_written(
    options: Args, code: int, phrases: Args, small_args: Args, small_synthesis: Path, classifier: Run, tmp_path: Path
) -> None:
    result = classifier("ablate", *small_args, "--synthetic", small_synthesis, *options, "--out", tmp_path / "run")
    refused(result, code, *phrases)
    assert not (tmp_path / "run").exists()


def test_a_synthesis_of_another_split(small_args: Args, small_synthesis: Path, classifier: Run, runs_cwd: Path) -> None:
    result = classifier("ablate", *small_args, "--synthetic", small_synthesis, "--split-seed", "1")
    refused(result, 1, "was made under split", "validation patients")
    assert not (runs_cwd / "runs").exists()


@pytest.mark.parametrize(("fold", "cls"), [("test", "NORMAL"), ("test", None)])
def test_a_test_set_without_both_classes(
    fold: str, cls: str | None, small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path
) -> None:
    import shutil

    shutil.rmtree(chest_folder / fold / cls if cls else chest_folder / fold)
    more = ("--regimes", "baseline", "--data", chest_folder)
    refused(classifier("ablate", *small_args, *more), 1, "test", "NORMAL")
    assert not (runs_cwd / "runs").exists()


def test_a_test_class_of_which_nothing_can_be_read(
    small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path
) -> None:
    for file in (chest_folder / "test" / "NORMAL").iterdir():
        file.write_bytes(b"")
    more = ("--regimes", "baseline", "--data", chest_folder, "--max-bad", "0.5")
    refused(classifier("ablate", *small_args, *more), 1, "test holds 0 NORMAL and 16 PNEUMONIA images; expected both")


def test_without_validation_images(small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path) -> None:
    import shutil

    shutil.rmtree(chest_folder / "val")
    more = ("--regimes", "baseline", "--data", chest_folder, "--val-fraction", "0")
    refused(classifier("ablate", *small_args, *more), 1, "has no val images; raise --val-fraction above 0")


def test_few_validation_images_are_warned_of(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    result = classifier("train", *small_args, "--out", tmp_path / "run")
    assert "validation holds 14 images" in result.stderr or "validation holds 13 images" in result.stderr


def test_the_newest_finished_synthesis_is_taken_with_its_split(
    small_args: Args, classifier: Run, make_manifest: Callable[..., Path], runs_cwd: Path, template: Path
) -> None:
    """A synthesis run hands its data settings on: here another split seed, which no flag repeats."""
    from balancer.config import DataConfig
    from balancer.data.dataset import load_dataset

    config = DataConfig(path=str(template), image_size=16, split_seed=7)
    data = load_dataset(config)
    run = make_manifest(runs_cwd / "runs" / "synthesize" / "one", data.deficit, data.split_hash)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": config.model_dump(mode="json")}))
    (run / "env.json").write_text(json.dumps({"command": "synthesize"}))
    (run / "done").write_text("")
    options = [a for a in small_args if a != "-q"]
    result = classifier("train", *options, "--regime", "gan", "--out", runs_cwd / "r")
    assert result.exit_code == 0, result.output
    assert "taking the newest finished synthesis: runs/synthesize/one" in result.stderr
    saved = yaml.safe_load((runs_cwd / "r" / "config.yaml").read_text())
    assert saved["data"]["split_seed"] == 7
    assert json.loads((runs_cwd / "r" / "result.json").read_text())["split_hash"] == data.split_hash


def test_copies_follow_the_synthetic_set(small_data: Dataset) -> None:
    from balancer.config import AblateConfig

    for count, copies in (("deficit", small_data.deficit), ("all", small_data.deficit), (9, 9)):
        study = ablation.Study(AblateConfig(synthetic_count=count), small_data, None, [])
        assert study.copies == copies
