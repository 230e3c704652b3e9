"""Commands with a pretraining: what they record, several processes, a run that goes on, and usage errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from commands import done, sets

from balancer.core.jsonl import read_jsonl
from balancer.core.sealed import read_json
from classifier.report.model_card import CARD
from classifier.training import self_supervision
from classifier.training.checkpoint import load_classifier

Run = Callable[..., Result]
Args = tuple[str, ...]
SMALL = [*sets(**{"pretrain.steps": 3, "pretrain.batch_size": 16})]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl without what passes, and without the code, which someone may change meanwhile."""
    facts = {key: value for key, value in row["pretraining"].items() if key != "seconds"}
    return {k: v for k, v in row.items() if k not in ("seconds", "git_commit", "code_hash")} | {"pretraining": facts}


@pytest.mark.nightly
def test_a_training_records_its_pretraining(
    classifier: Run, small_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_supervision, "WIDTH", 32)
    done(classifier("train", *small_args, "--pretrain", "vicreg", *SMALL, "--out", tmp_path / "run"))
    facts = read_json(tmp_path / "run" / "result.json")["pretraining"]
    assert (facts["method"], facts["steps"], facts["batch_size"]) == ("vicreg", 3, 16)
    card = (tmp_path / "run" / CARD).read_text(encoding="utf-8")
    assert "VICReg" in card
    assert facts["weights"] in card
    saved = load_classifier(tmp_path / "run", torch.device("cpu"))
    assert saved.config.pretrain.method == "vicreg"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pretrain", "simclr"], "pretrain.method"),
        (["--pretrain", "simsiam", "--model", "resnet18", "--weights", "imagenet"], "pretrain.method is simsiam"),
        (["--set", "pretrain.lr=0.1"], "pretrain.lr is 0.1"),
        (["--pretrain", "simsiam", "--set", "pretrain.batch_size=8"], "pretrain.batch_size"),
        (["--pretrain", "simsiam", "--set", "pretrain.batch_size=4096"], "the training fold has"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    options: list[str], words: str, classifier: Run, small_args: Args, tmp_path: Path
) -> None:
    result = classifier("train", *small_args, *options, "--out", tmp_path / "run")
    assert result.exit_code == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert words in error
    assert result.stderr.strip().endswith(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_several_processes_and_a_run_that_goes_on_give_the_same_rows(
    classifier: Run, small_args: Args, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time with an empty cache; the run that goes on lost a trial of a seed whose weights are kept."""
    rows = []
    options = ["--regimes", "baseline,augment", "--seeds", "2", "--pretrain", "simsiam", *SMALL]
    for jobs in (1, 2):
        monkeypatch.setenv("BALANCER_CACHE", str(tmp_path / f"cache-{jobs}"))
        out = tmp_path / f"run-{jobs}"
        done(classifier("ablate", *small_args, *options, "--jobs", jobs, "--out", out))
        of_run = sorted(read_jsonl(out / "results.jsonl"), key=lambda row: (row["regime"], row["trial_seed"]))
        rows.append([without_times(row) for row in of_run])
        assert len(list((tmp_path / f"cache-{jobs}" / "pretrained").glob("*.pt"))) == 2
    assert rows[0] == rows[1]
    weights = {row["trial_seed"]: row["pretraining"]["weights"] for row in rows[0]}
    assert all(row["pretraining"]["weights"] == weights[row["trial_seed"]] for row in rows[0])
    assert weights[0] != weights[1]
    notes = read_json(out / "analysis.json")["notes"]
    assert any("SimSiam" in note for note in notes)
    assert not any("paired" in note for note in notes)
    log = out / "results.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:-1]), encoding="utf-8")
    done(classifier("ablate", "--resume", out, "--device", "cpu", "-q"))
    again = sorted(read_jsonl(log), key=lambda row: (row["regime"], row["trial_seed"]))
    assert [without_times(row) for row in again] == rows[1]


@pytest.mark.nightly
def test_a_dry_run_counts_the_pretraining(classifier: Run, small_args: Args, tmp_path: Path) -> None:
    estimates = []
    for steps in (1, 1_000_000):
        more = ["--pretrain", "simsiam", *sets(**{"pretrain.steps": steps, "pretrain.batch_size": 16})]
        for command in (
            ["train"],
            ["ablate", "--regimes", "baseline", "--seeds", "1"],
            ["crossvalidate", "--folds", "2"],
        ):
            shown = done(classifier(*command, *small_args, *more, "--dry-run", "--json"))
            estimates.append(json.loads(shown.stdout)["estimated_seconds"])
    assert all(few < 100 < 1000 < many for few, many in zip(estimates[:3], estimates[3:], strict=True)), estimates
