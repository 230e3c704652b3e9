"""Ablations end to end on a tiny folder: outputs recomputed, interruption, resumption, refusals."""

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from click.testing import Result
from commands import done, refused, sets
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from balancer.audit.report import to_json
from balancer.audit.results import Audit
from balancer.core.errors import BalancerError, Interrupted
from balancer.core.jsonl import read_jsonl
from balancer.core.run import RunDir
from balancer.core.sealed import read_json, write_json
from balancer.core.settings import AblateConfig, DataConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from classifier.evaluation.thresholds import balanced_accuracy
from classifier.experiments import ablation, jobs, study
from classifier.experiments.substudies import read_substudy
from classifier.training import inputs, prediction, trainer
from classifier.training.regimes import REGIMES

Run = Callable[..., Result]
Args = tuple[str, ...]
Make = Callable[..., Path]
FOUR = ["baseline", "augment", "gan", "combined"]
PLAN = [(regime, seed) for seed in (5, 6) for regime in FOUR]


pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a small ablation's time; only :func:`whole`, made before this, draws them."""

    def audit(folder: Path, _data: object, _config: object, findings: Audit) -> None:
        folder.mkdir(exist_ok=True)
        write_json(folder / "audit.json", to_json(findings))
        (folder / "audit.html").touch()

    monkeypatch.setattr(ablation, "write_audit", audit)
    monkeypatch.setattr(ablation.report, "write_outputs", lambda *args: None)


@pytest.fixture(scope="module")
def whole(
    small_args: Args, small_synthesis: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result, Args]:
    """One uninterrupted ablation of four regimes and two seeds, what it printed, and its options."""
    from click.testing import CliRunner

    from classifier.cli import main

    out = tmp_path_factory.mktemp("whole") / "run"
    options = ("ablate", *small_args, "--synthetic", str(small_synthesis), "--seeds", "2", "--seed", "5")
    result = CliRunner().invoke(main, [*options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result, options


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_jsonl(run / "results.jsonl")


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the time taken, and the code, which someone may change while the tests run."""
    return {k: v for k, v in row.items() if k not in ("seconds", "git_commit", "code_hash")}


def predictions(run: Path, regime: str, seed: int) -> dict[str, np.ndarray]:
    with np.load(run / "trials" / f"{regime}-{seed}" / "predictions.npz") as saved:
        return dict(saved)


def analysis(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = read_json(run / "analysis.json")
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
            expected = balanced_accuracy_score(truth, score >= row["val"]["uncalibrated_threshold"])
            assert row[fold]["at_threshold"]["balanced_accuracy"] == pytest.approx(expected)
            assert row[fold]["n"] == len(truth)
        assert row["test"]["uncalibrated_threshold"] == balanced_accuracy(saved["val_true"], saved["val_score"])


def test_the_classes_end_balanced_where_images_are_added(whole: tuple[Path, Result, Args], small_data: Dataset) -> None:
    normal, pneumonia = small_data.counts("train")
    for row in rows_of(whole[0]):
        added = small_data.deficit if REGIMES[row["regime"]].synthetic else 0
        assert row["n_train"] == {"NORMAL": normal + added, "PNEUMONIA": pneumonia}
        assert row["added"] == added
        assert (row["synthetic_hash"] is not None) == bool(added)
        assert row["split_hash"] == small_data.split_hash


def test_means_and_differences_recomputed(whole: tuple[Path, Result, Args]) -> None:
    rows, found = rows_of(whole[0]), analysis(whole[0])
    by_seed = {r: [x["test"]["auroc"] for x in rows if x["regime"] == r] for r in FOUR}
    assert [e["regime"] for e in found["regimes"]] == FOUR
    for entry in found["regimes"]:
        of_regime = by_seed[entry["regime"]]
        assert entry["metrics"]["auroc"]["mean"] == pytest.approx(np.mean(of_regime))
        assert entry["metrics"]["auroc"]["sd"] == pytest.approx(np.std(of_regime, ddof=1))
    for contrast in found["contrasts"]:
        gaps = sum(weight * np.array(by_seed[arm]) for arm, weight in contrast["coefficients"].items())
        assert contrast["estimate"] == pytest.approx(gaps.mean())
        assert contrast["low"] < contrast["estimate"] < contrast["high"]
    assert {c["name"] for c in found["contrasts"]} >= {"gan - baseline", "combined - augment"}
    assert (found["n_test"], found["gan_seeds"], found["trial_seeds"]) == (26, 1, [5, 6])


def test_what_is_printed_is_what_was_found(whole: tuple[Path, Result, Args]) -> None:
    run, result, _ = whole
    found = analysis(run)
    for entry in found["regimes"]:
        auroc = entry["metrics"]["auroc"]
        cell = f"{auroc['mean']:.3f} ± {auroc['sd']:.3f}".replace("0.", ".")
        (line,) = [x for x in result.stdout.splitlines() if x.startswith(entry["regime"] + "  ")]
        assert cell in line
    assert len(found["headline"]) == 2
    for text in (*found["headline"], *found["notes"], found["verdict"]):
        assert text in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == found["verdict"], "the answer comes before the caveats"
    assert lines[-1].startswith(str(run / "report.html"))
    assert f"classifier explain {run}" in lines[-1]


def test_the_run_directory_is_whole(whole: tuple[Path, Result, Args], small_data: Dataset) -> None:
    run = whole[0]
    kept = {"config.yaml", "env.json", "split.csv", "log.txt", "done", "results.jsonl"}
    made = {"analysis.json", "report.html", "report.md", "table.md", "table.csv", "table.json", "table.tex", "figures"}
    assert kept | made | {"audit", "trials"} <= {p.name for p in run.iterdir()}
    assert {"audit.json", "audit.md", "audit.html"} <= {p.name for p in (run / "audit").iterdir()}
    assert {p.suffix for p in (run / "figures").iterdir()} == {".png", ".svg"}
    assert not list(run.rglob("*.tmp"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["steps"], config["seeds"], config["seed"], config["regimes"]) == (6, 2, 5, ["all"])
    assert read_json(run / "env.json")["data"]["split_hash"] == small_data.split_hash
    assert {p.name for p in (run / "trials").iterdir()} == {f"{r}-{s}" for r, s in PLAN}
    with (run / "split.csv").open(newline="") as handle:
        assert [r["fold"] for r in csv.DictReader(handle)] == small_data.folds.tolist()


# ---------------------------------------------------------------- interruption and resumption


def interrupt_second_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGINT arrives in the third step of the second trial."""
    fit, train_step, fits, steps = trainer.train, trainer.train_step, [], []

    def counted(*args: Any) -> Any:
        fits.append(1)
        return fit(*args)

    def step(*args: Any) -> Any:
        steps.append(len(fits))
        if steps.count(2) == 3:
            signal.raise_signal(signal.SIGINT)
        return train_step(*args)

    monkeypatch.setattr(trainer, "train", counted)
    monkeypatch.setattr(trainer, "train_step", step)


@pytest.fixture
def stopped(whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path) -> Path:
    """The same ablation, stopped in its second trial."""
    out = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_second_trial(patch)
        result = classifier(*whole[2], "--out", out)
    assert result.exit_code == 130, result.output
    assert f"finished trials are kept in {out / 'results.jsonl'}; continue with --resume {out}" in result.stderr
    assert not (out / "done").exists()
    assert not (out / "analysis.json").exists()
    assert [(r["regime"], r["trial_seed"]) for r in rows_of(out)] == PLAN[:1]
    return out


def test_resumed_it_ends_as_if_never_stopped(
    whole: tuple[Path, Result, Args], stopped: Path, classifier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (stopped / "trials" / "baseline-5" / "model.pt").stat().st_mtime_ns
    original, made = trainer.train, []

    def fit(config: Any, regime: Any, seed: int, *args: Any) -> Any:
        made.append((regime.name, seed))
        return original(config, regime, seed, *args)

    monkeypatch.setattr(trainer, "train", fit)
    done(classifier("ablate", "--resume", stopped, "-q", "--device", "cpu"))
    assert made == PLAN[1:], "a finished trial was run again, or one left out"
    assert (stopped / "trials" / "baseline-5" / "model.pt").stat().st_mtime_ns == first
    assert list(map(lasting, rows_of(stopped))) == list(map(lasting, rows_of(whole[0])))
    for regime, seed in PLAN:
        mine, other = predictions(stopped, regime, seed), predictions(whole[0], regime, seed)
        assert all(np.array_equal(mine[k], other[k]) for k in other)
    assert analysis(stopped) == analysis(whole[0])
    assert (stopped / "done").exists()


def test_damaged_trials_of_a_finished_run_are_run_again_and_analysed_by_none(
    whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by its line, one by its predictions."""
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    lines = (run / "results.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"steps": 6', '"steps": 7')
    (run / "results.jsonl").write_text("".join(lines))
    file = run / "trials" / "baseline-6" / "predictions.npz"
    file.write_bytes(file.read_bytes().replace(b"val_true", b"val_trus"))
    for command in ("thresholds", "ensemble"):
        refused(classifier(command, run), 1, "results.jsonl is damaged: line 3", f"--resume {run}")
    original, made = trainer.train, []

    def fit(config: Any, regime: Any, seed: int, *args: Any) -> Any:
        made.append((regime.name, seed))
        assert not (run / "done").exists(), "seven trials pass for a finished run of eight"
        return original(config, regime, seed, *args)

    monkeypatch.setattr(trainer, "train", fit)
    result = done(classifier("ablate", "--resume", run, "-q", "--device", "cpu"))
    assert made == [PLAN[2], ("baseline", 6)]
    assert "line 3 is damaged" in result.stderr
    assert "baseline-6/predictions.npz is damaged" in result.stderr
    assert analysis(run) == analysis(whole[0])
    assert (run / "done").exists()
    done(classifier("ensemble", run))


def test_what_is_of_another_kind_or_gone_is_made_again(
    whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    first, second, third, fourth = (run / "trials" / f"{regime}-{seed}" for regime, seed in PLAN[:4])
    (first / "predictions.npz").unlink()
    (first / "predictions.npz" / "folder").mkdir(parents=True)
    shutil.rmtree(second)
    second.write_text("")
    (third / "model.pt").write_bytes((third / "model.pt").read_bytes()[:-5])
    (fourth / "model.pt").unlink()
    (fourth / "model.pt").mkdir()
    (run / "split.csv").unlink()
    result = done(classifier("ablate", "--resume", run, "-q", "--device", "cpu"))
    lost = [first / "predictions.npz", second / "predictions.npz", third / "model.pt", fourth / "model.pt"]
    for path in lost:
        assert f"{path} is damaged" in result.stderr
    assert result.stderr.count("run again") == 4
    assert f"{run / 'split.csv'} is damaged" in result.stderr
    assert analysis(run) == analysis(whole[0])
    assert (run / "split.csv").read_bytes() == (whole[0] / "split.csv").read_bytes()
    again = done(classifier("ablate", "--resume", run, "-q", "--device", "cpu"))
    assert "damaged" not in again.stderr


def test_a_finished_run_that_lost_a_row_is_refused_until_it_is_resumed(
    whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole[0], tmp_path / "run"))
    rows = (run / "results.jsonl").read_bytes().splitlines(keepends=True)
    (run / "results.jsonl").write_bytes(b"".join(rows[:-1]))
    for command in ("thresholds", "ensemble"):
        refused(classifier(command, run), 1, "results.jsonl", f"--resume {run}")
    result = done(classifier("ablate", "--resume", run, "-q", "--device", "cpu"))
    assert "results.jsonl" in result.stderr
    assert analysis(run) == analysis(whole[0])
    done(classifier("ensemble", run))


def test_a_torn_last_line_is_run_again(whole: tuple[Path, Result, Args], stopped: Path, classifier: Run) -> None:
    with (stopped / "results.jsonl").open("a") as handle:
        handle.write('{"regime": "augment", "trial_se')
    result = done(classifier("ablate", "--resume", stopped, "-q", "--device", "cpu"))
    assert "line 2 is torn" in result.stderr
    assert list(map(lasting, rows_of(stopped))) == list(map(lasting, rows_of(whole[0])))
    assert analysis(stopped) == analysis(whole[0])


def test_resuming_refuses_other_settings(stopped: Path, classifier: Run) -> None:
    result = classifier("ablate", "--resume", stopped, "--steps", "7", "-q")
    refused(result, 1, "steps (saved 6, asked 7)")


@pytest.mark.parametrize("name", ["split_hash", "data_fingerprint", "config_hash", "synthetic_sets_hash"])
def test_trials_of_another_study_are_refused(name: str, whole: tuple[Path, Result, Args], tmp_path: Path) -> None:
    """As when a results file is copied together, or data, settings or synthetic images change between two commands."""
    row = rows_of(whole[0])[0]
    results = json.dumps(row) + "\n" + json.dumps({**row, "trial_seed": 6, name: "e" * 16}) + "\n"
    (tmp_path / "results.jsonl").write_text(results)
    opened = study.open_study(AblateConfig.model_validate(yaml.safe_load((whole[0] / "config.yaml").read_text())))
    with pytest.raises(BalancerError, match=f"holds trials of {name} {'e' * 16}.* give {row[name]}; bring back"):
        ablation.finished_trials(opened, RunDir(tmp_path, resumed=True))
    assert (tmp_path / "results.jsonl").read_text() == results


def test_a_run_of_an_older_program_is_refused(stopped: Path, classifier: Run) -> None:
    """Its rows lack what is needed to tell whether they belong to this study."""
    old = {k: v for k, v in rows_of(stopped)[0].items() if k not in ("synthetic_set", "dose", "synthetic_sets_hash")}
    (stopped / "results.jsonl").write_text(json.dumps(old) + "\n")
    result = classifier("ablate", "--resume", stopped, "-q", "--device", "cpu")
    refused(result, 1, "holds trials of synthetic_sets_hash None")


def test_a_finished_run_resumed_trains_nothing(
    whole: tuple[Path, Result, Args], classifier: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = analysis(whole[0])
    monkeypatch.setattr(trainer, "train", None)
    result = done(classifier("ablate", "--resume", whole[0], "-q", "--device", "cpu"))
    assert analysis(whole[0]) == before
    assert before["verdict"] in result.stdout


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that has ended may stay listed where nobody asks for its exit code."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_two_processes_killed_at_work_lose_nothing_that_was_finished(
    signum: int, whole: tuple[Path, Result, Args], classifier: Run, tmp_path: Path
) -> None:
    """Ctrl-C reaches every process of the terminal, ``kill`` only the first; SIGKILL leaves no time to say anything."""
    out, results = tmp_path / "run", tmp_path / "run" / "results.jsonl"
    code = "import sys; from classifier.cli import main; main()"
    command = [sys.executable, "-c", code, *whole[2], "--jobs", "2", "--out", str(out)]
    with (tmp_path / "stderr").open("wb") as errors:
        # A shell that runs these tests in the background makes them ignore SIGINT, and whatever they start.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(lambda: process.poll() is not None or (results.exists() and results.read_bytes().endswith(b"\n")))
        family = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if signum == signal.SIGINT else os.kill)(process.pid, signum)
        printed, _ = process.communicate(timeout=120)
    told = (tmp_path / "stderr").read_text()
    assert printed == b""
    if signum != signal.SIGKILL:
        assert process.returncode == 128 + signum
        assert f"continue with --resume {out}" in told.splitlines()[-1]
        assert "Traceback" not in told
        assert "leaked" not in told
    wait_for(lambda: not alive(family))
    assert not alive(family), "a worker outlives the process that it works for"
    before = rows_of(out)
    assert 1 <= len(before) < 8
    assert not list(out.rglob("*.tmp"))
    done(classifier("ablate", "--resume", out, "-q", "--device", "cpu"))
    rows = rows_of(out)
    assert rows[: len(before)] == before
    by_trial = {(r["regime"], r["trial_seed"]): lasting(r) for r in rows}
    assert len(rows) == 8
    assert by_trial == {(r["regime"], r["trial_seed"]): lasting(r) for r in rows_of(whole[0])}
    assert analysis(out) == analysis(whole[0])


# ---------------------------------------------------------------- one trial


def test_the_test_fold_is_read_once_and_after_everything_else(
    small_data: Dataset, small_args: Args, monkeypatch: pytest.MonkeyPatch, classifier: Run, tmp_path: Path
) -> None:
    events: list[str] = []
    fit, chunks = trainer.train, prediction.input_chunks
    test = small_data.images[small_data.indices("test")]

    def fit_(*args: Any) -> Any:
        events.append("fit begins")
        fitted = fit(*args)
        events.append("fit ends")
        return fitted

    def chunks_(images: np.ndarray, *args: Any) -> Any:
        events.append("test" if images.shape == test.shape and np.array_equal(images, test) else "val")
        return chunks(images, *args)

    monkeypatch.setattr(trainer, "train", fit_)
    for module in (prediction, inputs):
        monkeypatch.setattr(module, "input_chunks", chunks_)
    done(classifier("train", *small_args, "--out", tmp_path / "run"))
    reference = ["val", "val"]  # of training and validation images, which tell an image unlike them
    assert events == ["fit begins", "val", "val", "val", "fit ends", *reference, "test"]


# ---------------------------------------------------------------- command line


def test_one_seed_has_no_sd(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    options = ("--regimes", "weighted,baseline", "--seeds", "1")
    result = done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    assert "One trial seed: intervals are over patients alone, and no claim can rest on them." in result.stdout
    assert "± n/a" in result.stdout
    found = analysis(tmp_path / "r")
    assert [e["regime"] for e in found["regimes"]] == ["baseline", "weighted"]
    assert all(e["metrics"]["auroc"]["sd"] is None for e in found["regimes"])
    assert [(c["name"], c["verdict"], c["p"]) for c in found["contrasts"]] == [
        ("weighted - baseline", "not settled", None)
    ]


def test_controls_match_the_synthetic_count(
    small_args: Args, small_synthesis: Path, small_data: Dataset, classifier: Run, tmp_path: Path
) -> None:
    more = ("--seeds", "1", "--synthetic-count", "4", "--regimes")
    done(
        classifier(
            "ablate", *small_args, *more, "gan,duplicate", "--synthetic", small_synthesis, "--out", tmp_path / "a"
        )
    )
    assert [(r["regime"], r["added"]) for r in rows_of(tmp_path / "a")] == [("gan", 4), ("duplicate", 4)]
    done(classifier("ablate", *small_args, *more, "duplicate", "--out", tmp_path / "b"))
    assert [r["added"] for r in rows_of(tmp_path / "b")] == [4], "without a synthesis the number asked for is lost"


def test_synthetic_images_that_no_regime_uses_are_told(
    small_args: Args, small_synthesis: Path, classifier: Run
) -> None:
    for regimes, told in (("baseline,augment", True), ("baseline,duplicate", False)):
        result = classifier("ablate", *small_args, "--regimes", regimes, "--synthetic", small_synthesis, "--dry-run")
        unread = f"no regime here uses synthetic images: {small_synthesis} is not read"
        assert (unread in " ".join(done(result).stderr.split())) is told


def test_json_alone_on_stdout(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    options = [a for a in small_args if a != "-q"]
    result = done(
        classifier("ablate", *options, "--regimes", "baseline", "--seeds", "1", "--json", "--out", tmp_path / "r")
    )
    answer = json.loads(result.stdout)
    assert answer == {"run": str(tmp_path / "r"), **analysis(tmp_path / "r")}
    assert "data: " in result.stderr


@pytest.mark.parametrize("command", ["ablate", "train"])
def test_a_dry_run_writes_nothing(
    command: str, small_args: Args, small_synthesis: Path, classifier: Run, runs_cwd: Path
) -> None:
    regimes = ("--regimes", "all", "--seeds", "2") if command == "ablate" else ("--regime", "gan")
    result = done(classifier(command, *small_args, *regimes, "--synthetic", small_synthesis, "--dry-run", "--json"))
    answer = json.loads(result.stdout)
    assert answer["config"]["steps"] == 6
    assert answer["estimated_seconds"] >= 0
    assert list(runs_cwd.iterdir()) == []


# ---------------------------------------------------------------- several synthetic sets, doses, exposure


def names(run: Path) -> list[str]:
    return [row["folder"].removeprefix("trials/") for row in rows_of(run)]


def test_synthetic_sets_are_crossed_with_seeds(
    small_args: Args, small_synthesis: Path, small_data: Dataset, make_manifest: Make, classifier: Run, tmp_path: Path
) -> None:
    other = make_manifest(tmp_path / "other", small_data.deficit, small_data.split_hash, first=500)
    options = ("--regimes", "baseline,gan", "--seeds", "2", "--synthetic", small_synthesis, "--synthetic", other)
    done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    rows = rows_of(tmp_path / "r")
    assert names(tmp_path / "r") == ["baseline-0", "gan-0", "gan-set1-0", "baseline-1", "gan-1", "gan-set1-1"]
    assert [r["synthetic_set"] for r in rows] == [None, "0", "1"] * 2
    assert len({r["synthetic_hash"] for r in rows}) == 3, "two sets, and none"
    assert rows[1]["test"]["auroc"] != rows[2]["test"]["auroc"]
    (contrast,) = analysis(tmp_path / "r")["contrasts"]
    assert (contrast["trial_seeds"], contrast["gan_seeds"]) == (2, 2)
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["synthetic"] == [
        str(small_synthesis),
        str(other),
    ]


def test_two_sets_of_one_generator_are_refused(
    small_args: Args, small_synthesis: Path, classifier: Run, runs_cwd: Path
) -> None:
    result = classifier("ablate", *small_args, "--synthetic", small_synthesis, "--synthetic", small_synthesis)
    refused(result, 1, "come from one generator")
    assert list(runs_cwd.iterdir()) == []


def test_doses_are_tried_beside_the_study(
    small_args: Args, small_synthesis: Path, small_data: Dataset, classifier: Run, tmp_path: Path
) -> None:
    """And the regimes that they are read against are added."""
    options = ("--regimes", "combined,gan", "--seeds", "1", "--dose", "0,1,.5", "--synthetic", small_synthesis)
    done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    expected = ["baseline-0", "augment-0", "gan-0", "gan@0.5-0", "combined-0", "combined@0.5-0"]
    assert names(tmp_path / "r") == expected
    for row in rows_of(tmp_path / "r"):
        assert row["added"] == round((row["dose"] or 0) * small_data.deficit)
    doses = [c["name"] for c in analysis(tmp_path / "r")["contrasts"] if c["family"] == "dose"]
    assert sorted(doses) == ["combined@0.5 - augment", "gan@0.5 - baseline"]


def test_equal_passes_over_real_images(
    small_args: Args, small_synthesis: Path, small_data: Dataset, classifier: Run, tmp_path: Path
) -> None:
    options = ("--regimes", "baseline,gan", "--seeds", "1", "--exposure", "real", "--synthetic", small_synthesis)
    done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    alone, beside = rows_of(tmp_path / "r")
    real = sum(small_data.counts("train"))
    assert (alone["steps"], beside["steps"]) == (6, round(6 * (real + small_data.deficit) / real))
    assert alone["passes_over_real"] == pytest.approx(6 * 8 / real, abs=0.01)
    assert beside["passes_over_real"] == pytest.approx(alone["passes_over_real"], rel=0.2)


def test_the_recipe_is_named_apart_from_the_data_and_the_study() -> None:
    one = AblateConfig(data=DataConfig(path="/a", split_seed=1), regimes=("gan",), seeds=3, doses=(0.5,), seed=4)
    other = TrainConfig(data=DataConfig(path="/b"), regime="combined", synthetic=("/s",))
    assert study.recipe_hash(one) == study.recipe_hash(other)
    assert study.recipe_hash(one) != study.recipe_hash(one.model_copy(update={"steps": 7}))


# ---------------------------------------------------------------- refusals


def test_no_synthesis(small_args: Args, classifier: Run, runs_cwd: Path) -> None:
    refused(classifier("ablate", *small_args), 1, "no finished synthesis", "`balancer synthesize`", "--synthetic DIR")
    refused(classifier("train", *small_args, "--regime", "gan"), 1, "no finished synthesis")
    assert list(runs_cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "code", "phrases"),
    [
        (("--regimes", "all,nothing"), 2, ("regime is 'nothing'",)),
        (("--set", "regimes=[]"), 2, ("no regime given",)),
        (("--regimes", ""), 2, ("--regimes is empty",)),
        (("--regimes", "gann"), 2, ("did you mean 'gan'?",)),
        (("--synthetic-count", "10000"), 1, ("needs 10000 synthetic images",)),
        (("--synthetic-count", "0"), 2, ("synthetic_count", "greater than or equal to 1")),
        (("--set", "threshold=best"), 2, ("threshold is 'best'",)),
        (("--exposure", "images"), 2, ("setting 'exposure' is 'images'",)),
        (("--dose", "-1"), 2, ("setting 'doses'", "greater than or equal to 0")),
        (("--dose", "0.5", "--regimes", "baseline"), 2, ("no regime here uses synthetic images",)),
        (("--dose", "1,2", "--synthetic-count", "3"), 2, ("dose 1 is the deficit", "leave one of the two out")),
        (("--dose", "9"), 1, ("run `balancer synthesize --n",)),
        (("--backend", "dask", "--scheduler", "nonsense://x"), 1, ("no dask scheduler answers at nonsense://x",)),
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
    shutil.rmtree(chest_folder / fold / cls if cls else chest_folder / fold)
    more = ("--regimes", "baseline", *sets(**{"data.path": chest_folder}))
    refused(classifier("ablate", *small_args, *more), 1, "test", "NORMAL")
    assert not (runs_cwd / "runs").exists()


def test_a_test_class_of_which_nothing_can_be_read(
    small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path
) -> None:
    for file in (chest_folder / "test" / "NORMAL").iterdir():
        file.write_bytes(b"")
    more = ("--regimes", "baseline", *sets(**{"data.path": chest_folder}), "--max-bad", "0.5")
    refused(classifier("ablate", *small_args, *more), 1, "test holds 0 NORMAL and 16 PNEUMONIA images; expected both")


def test_a_test_class_of_one_patient(
    small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the first trial, not after the last."""
    for file in sorted((chest_folder / "test" / "NORMAL").iterdir())[1:]:
        file.unlink()
    monkeypatch.setattr(jobs, "run_trial", None)
    more = ("--regimes", "baseline", *sets(**{"data.path": chest_folder}))
    refused(classifier("ablate", *small_args, *more), 1, "test set has 1 patient of NORMAL and")
    assert not (runs_cwd / "runs").exists()


def test_a_training_that_is_stopped_before_its_card_has_each_row_once(
    small_args: Args, classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Interrupted(2, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "write_model_card", stopped)
        assert classifier("train", *small_args, "--regime", "baseline", "--out", tmp_path / "r").exit_code == 130
    done(classifier("train", "--resume", tmp_path / "r"))
    steps = [row["step"] for row in read_jsonl(tmp_path / "r" / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    assert steps


@pytest.fixture
def leaking(chest_folder: Path, small_args: Args) -> Args:
    """Options of a quick ablation on data with a train image in test twice: the same file, and the same pixels."""
    first, second = sorted((chest_folder / "train" / "NORMAL").iterdir())[:2]
    shutil.copy(first, chest_folder / "test" / "NORMAL" / "IM-9998-0001.png")
    with Image.open(second) as image:
        image.save(chest_folder / "test" / "NORMAL" / "IM-9999-0001.png", compress_level=0)
    return (*small_args, "--regimes", "baseline", "--seeds", "1", *sets(**{"data.path": chest_folder}))


def test_each_leak_is_told_once_with_the_results(leaking: Args, classifier: Run, tmp_path: Path) -> None:
    """Of equal files by the data's own note, which names them; of near duplicates by the audit."""
    result = done(classifier("ablate", *leaking, "--out", tmp_path / "r"))
    for text in (result.stderr, result.stdout):
        assert "identical file" not in text
        assert text.count("IM-9998-0001.png") == text.count("equal content") == 1
        assert text.count("eak in the data: 1 near duplicate between") == 1
    of_a_larger_study = read_substudy(tmp_path / "r").results.notes  # whose page tells the leak too
    assert [note.partition(" between")[0] for note in of_a_larger_study if "near duplicate" in note] == [
        "Leak in the data: 1 near duplicate"
    ]


def test_a_resumed_run_reads_its_audit_or_makes_it_again(leaking: Args, classifier: Run, tmp_path: Path) -> None:
    done(classifier("ablate", *leaking, "--out", tmp_path / "r"))
    for content in (None, "{}"):
        if content is not None:
            (tmp_path / "r" / "audit" / "audit.json").write_text(content)
        result = done(classifier("ablate", "--resume", tmp_path / "r"))
        assert "Leak in the data: 1 near duplicate between" in result.stdout
    assert "audit.json is damaged" in result.stderr


def test_what_was_done_about_file_formats_is_told(
    small_args: Args, small_synthesis: Path, classifier: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = study.load_sets
    monkeypatch.setattr(study, "load_sets", lambda *args: [replace(s, coding="Coded as JPEG.") for s in read(*args)])
    options = ("--regimes", "gan", "--seeds", "1", "--synthetic", small_synthesis)
    result = done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    assert result.stdout.count("Coded as JPEG.") == 1


def test_the_report_of_a_synthesis_is_copied_into_the_run(
    small_args: Args, small_synthesis: Path, classifier: Run, tmp_path: Path
) -> None:
    """The run may be moved, and the synthesis removed."""
    set_ = tmp_path / "set"
    shutil.copytree(small_synthesis, set_)
    (set_ / "report.html").write_text('<p class="links"><a href="../g/">GAN run</a></p>\n<p>the report</p>')
    options = ("--regimes", "gan", "--seeds", "1", "--synthetic", set_)
    done(classifier("ablate", *small_args, *options, "--out", tmp_path / "r"))
    assert (tmp_path / "r" / "synthetic" / "set-0.html").read_text() == "<p>the report</p>"
    links = ablation.copy_synthesis_reports([[set_]], tmp_path / "r")
    assert [link.path for link in links] == ["synthetic/set-0.html", "../set/report.html"]
    shutil.rmtree(set_)
    assert [link.path for link in ablation.copy_synthesis_reports([[set_]], tmp_path / "r")] == ["synthetic/set-0.html"]


def test_without_validation_images(small_args: Args, chest_folder: Path, classifier: Run, runs_cwd: Path) -> None:
    shutil.rmtree(chest_folder / "val")
    more = ("--regimes", "baseline", *sets(**{"data.path": chest_folder}), "--val-fraction", "0")
    refused(classifier("ablate", *small_args, *more), 1, "has no val images; raise --val-fraction")


def test_few_validation_images_are_warned_of(small_args: Args, classifier: Run, tmp_path: Path) -> None:
    result = classifier("train", *small_args, "--out", tmp_path / "run")
    assert "validation holds 14 images" in result.stderr or "validation holds 13 images" in result.stderr


def test_the_newest_finished_synthesis_is_taken_with_its_split(
    small_args: Args, classifier: Run, make_manifest: Callable[..., Path], runs_cwd: Path, template: Path
) -> None:
    """A synthesis run hands its data settings on: here another split seed, which no flag repeats."""
    config = DataConfig(path=str(template), image_size=16, split_seed=7)
    data = load_dataset(config)
    run = make_manifest(runs_cwd / "runs" / "synthesize" / "one", data.deficit, data.split_hash)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": config.model_dump(mode="json")}))
    (run / "env.json").write_text(json.dumps({"command": "synthesize"}))
    (run / "done").write_text("")
    options = [a for a in small_args if a != "-q"]
    result = done(classifier("train", *options, "--regime", "gan", "--out", runs_cwd / "r"))
    assert "taking the newest finished synthesis: runs/synthesize/one" in result.stderr
    saved = yaml.safe_load((runs_cwd / "r" / "config.yaml").read_text())
    assert saved["data"]["split_seed"] == 7
    assert read_json(runs_cwd / "r" / "result.json")["split_hash"] == data.split_hash


def test_the_newest_of_syntheses_and_imports_is_taken(
    make_manifest: Callable[..., Path], runs_cwd: Path, small_data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    for i, (command, name) in enumerate((("import", "older"), ("synthesize", "one"), ("import", "two"))):
        run = make_manifest(runs_cwd / "runs" / command / name, 1, small_data.split_hash)
        (run / "config.yaml").write_text(yaml.safe_dump({"data": {"path": "phantom"}}))
        (run / "env.json").write_text(json.dumps({"command": command}))
        (run / "done").write_text("")
        os.utime(run / "done", (i, i))
    caplog.set_level(logging.INFO, "balancer")
    config = study.configure(TrainConfig, {"regime": "gan"})
    assert config.synthetic == (str(runs_cwd / "runs/import/two"),)
    assert "taking the newest finished import: runs/import/two" in caplog.text


def test_copies_follow_the_synthetic_set(small_data: Dataset) -> None:
    for count, copies in (("deficit", small_data.deficit), ("all", small_data.deficit), (9, 9)):
        assert study.Study(AblateConfig(synthetic_count=count), small_data, [], []).duplicate_counts == (copies, 0)
