"""What the commands hand to a tracker: curves, metrics and files of each trial, and those of the study."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from commands import TINY_GAN, balancer, done, refused
from fake_mlflow import FakeMlflow, install

from balancer.audit.report import to_json
from balancer.audit.results import Audit
from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json, write_json
from classifier.experiments import ablation

Run = Callable[..., Result]
Args = tuple[str, ...]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, runs_cwd: Path) -> FakeMlflow:
    def audit(folder: Path, _data: object, _config: object, findings: Audit) -> None:
        folder.mkdir(exist_ok=True)
        write_json(folder / "audit.json", to_json(findings))
        (folder / "audit.html").touch()

    monkeypatch.setattr(ablation, "write_audit", audit)  # figures take most of a small ablation's time
    monkeypatch.setattr(ablation.report, "write_outputs", lambda *args: None)
    return install(monkeypatch)


def test_an_ablation(classifier: Run, small_args: Args, store: FakeMlflow) -> None:
    """A finished one that was not tracked is taken over when it is; then nothing comes twice."""
    options = ("ablate", *small_args, "--regimes", "baseline,augment", "--seeds", "1", "--out", "run")
    done(classifier(*options))
    assert not store.runs
    for _ in range(2):
        done(classifier("ablate", "--resume", "run", "--track", "mlflow"))
    ((identity, study),) = store.top.items()
    assert study.status == "FINISHED"
    assert {"config.yaml", "env.json", "analysis.json", "MODEL_CARD.md", "audit/audit.html"} <= set(study.files)
    assert study.params["regimes"] == "['baseline', 'augment']"
    verdict = read_json(Path("run/analysis.json"))["verdict"]
    assert study.tags["mlflow.note.content"] == f"verdict: {verdict}"
    below = store.below(identity)
    assert len(store.runs) == 3
    for row in read_jsonl(Path("run/results.jsonl")):
        trial = below[Path(row["folder"]).name]
        assert trial.status == "FINISHED"
        assert trial.metrics["val_nll"] == [(v["step"], v["val_nll"]) for v in row["history"]]
        assert trial.metrics["test.auroc"] == [(row["history"][-1]["step"], row["test"]["auroc"])]
        assert trial.params["regime"] == row["regime"]
        assert sorted(trial.files) == ["model.pt", "predictions.npz"]
        assert study.metrics[f"{row['regime']}.auroc"][-1] == (0, row["test"]["auroc"])


def test_a_training_and_a_gan(classifier: Run, small_args: Args, template: Path, store: FakeMlflow) -> None:
    done(classifier("train", *small_args, "--out", "t", "--track", "mlflow"))
    done(balancer("gan-train", "--data", template, "--steps", 2, *TINY_GAN, "--out", "g", "--track", "mlflow"))
    training, gan = store.runs.values()
    result = read_json(Path("t/result.json"))
    assert training.metrics["test.nll"] == [(0, result["test"]["nll"])]
    assert training.metrics["val_nll"] == [(v["step"], v["val_nll"]) for v in result["history"]]
    assert {"model.pt", "MODEL_CARD.md"} <= set(training.files)
    rows = read_jsonl(Path("g/metrics.jsonl"))
    assert gan.metrics["loss_G"] == [(row["step"], row["loss_G"]) for row in rows if "loss_G" in row]
    assert {"best.pt", "summary.json", "grids/step_000002.png"} <= set(gan.files)


@pytest.mark.nightly
def test_a_search(classifier: Run, template: Path, store: FakeMlflow) -> None:
    sizes = ("--image-size", 32, "--steps", 4, "--device", "cpu", "-q")
    quick = ("--set", "evaluations=2", "--set", "bn_statistics=running")
    options = ("--trials", "2", "--sampler", "random", "--out", "s", "--track", "mlflow")
    done(classifier("tune", "--data", template, *sizes, *quick, *options))
    ((identity, search),) = store.top.items()
    best = read_json(Path("s/tune.json"))["best"]["value"]
    assert search.metrics["best_nll"] == [(0, best)]
    assert {"trials.csv", "best.yaml", "tune.json", "report.md"} <= set(search.files)
    below = store.below(identity)
    assert sorted(below) == ["trial-000", "trial-001"]
    assert min(run.metrics["nll"][0][1] for run in below.values()) == best


def test_a_store_that_fails_ends_no_command(classifier: Run, small_args: Args, store: FakeMlflow) -> None:
    store.failing.add("log_batch")
    result = done(classifier("train", *small_args, "--out", "t", "--track", "mlflow"))
    assert result.stderr.count("no answer to log_batch") == 1
    assert Path("t/done").exists()


def test_what_cannot_be_tracked_is_refused_before_the_data_are_read(classifier: Run, runs_cwd: Path) -> None:
    refused(classifier("train", "--data", "nowhere", "--track", "mlfow"), 2, "--track", "'mlflow'")
    refused(classifier("ablate", "--data", "nowhere", "--tracking-uri", "http://a.example"), 2, "--tracking-uri")
    assert not list(runs_cwd.iterdir())
