"""Regimes times trial seeds, paired; every finished trial is one line of ``results.jsonl``."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from balancer.config import AblateConfig, ClassifierConfig, TrainConfig, config_hash, merge
from balancer.console import Invocation, Outcome
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.folder import CLASSES
from balancer.errors import BalancerError, Interrupted, UsageError
from balancer.run import (
    RunDir,
    append_jsonl,
    atomic_file,
    deferred_signals,
    git_commit,
    latest_run,
    read_jsonl,
    saved_config,
    write_json,
    write_text,
)
from classifier import figures, inference, tables, trainer
from classifier.evaluation import evaluate
from classifier.regimes import GROUPS, Regime, select_regimes
from classifier.synthetic import SyntheticSet, load_synthetic

log = logging.getLogger("balancer")
RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Study:
    """All that the trials of one command share."""

    config: ClassifierConfig
    data: Dataset
    synthetic: SyntheticSet | None
    regimes: list[Regime]

    @property
    def copies(self) -> int:
        """How many duplicates the controls add: as many as there are, or would be, synthetic images."""
        if self.synthetic is not None:
            return len(self.synthetic.images)
        count = self.config.synthetic_count
        return count if isinstance(count, int) else self.data.deficit


def provenance(study: Study) -> dict[str, str]:
    """What all trials of one table must share: the split, every image of the data (test too), the settings."""
    shared = {
        "split_hash": study.data.split_hash,
        "data_fingerprint": study.data.fingerprint,
        "config_hash": config_hash(study.config),
    }
    return shared | ({"synthetic_hash": study.synthetic.digest} if study.synthetic else {})


def regimes_of(config: ClassifierConfig) -> list[Regime]:
    if isinstance(config, AblateConfig):
        return select_regimes(config.regimes)
    name = cast(TrainConfig, config).regime
    if name in GROUPS:
        raise UsageError(f"regime is {name!r}; `classifier train` takes one regime, `classifier ablate` takes groups")
    return select_regimes((name,))


def configure(asked: Invocation) -> ClassifierConfig:
    """The settings of a new training or ablation; where a regime needs synthetic images, the data settings are taken
    over from the synthesis that is named or newest, so that both work on the same split."""
    config = cast(ClassifierConfig, asked.config())
    if not any(r.synthetic for r in regimes_of(config)):
        return config
    path = Path(config.synthetic) if config.synthetic else latest_run("synthesize")
    if path is None:
        raise BalancerError(
            "no finished synthesis under runs/synthesize; run `balancer synthesize` first, or give --synthetic DIR"
        )
    if not config.synthetic:
        log.info("taking the newest finished synthesis: %s", path)
    inherited: dict[str, Any] = {"synthetic": str(path.resolve())}
    if (path / "config.yaml").exists():  # images of another generator come with a manifest alone
        inherited = merge({"data": saved_config("synthesize", path)["data"]}, inherited)
    config = cast(ClassifierConfig, asked.config(inherited))
    made = inherited.get("data", {})
    for key in sorted(
        {"image_size", "resize"} & made.keys()
    ):  # resampled twice, synthetic images would give themselves away
        if made[key] != (now := getattr(config.data, key)):
            raise BalancerError(
                f"{path} was made with {key} {made[key]}, this asks for {now}; synthesize with it, or leave it"
            )
    return config


def open_study(config: ClassifierConfig) -> Study:
    """Read the data and the synthetic images, refusing before anything is written what does not fit.

    Raises:
        BalancerError: a fold is empty, or the synthetic set is of another split or too small.
    """
    regimes = regimes_of(config)
    trainer.check(config)
    data = load_dataset(config.data, require=("train", "val", "test"))
    synthetic = None
    if config.synthetic and any(r.synthetic or r.duplicate for r in regimes):
        synthetic = load_synthetic(Path(config.synthetic), data, config.data, config.synthetic_count)
    n_val = len(data.indices("val"))
    if n_val < 100:
        log.warning("validation holds %d images: thresholds and selection on so few are nearly arbitrary", n_val)
    study = Study(config, data, synthetic, regimes)
    for regime in regimes:
        if regime.duplicate:
            trainer.training_set(data, regime, synthetic, config.seed, study.copies)  # refuses a count below 1
    return study


def run_trial(
    study: Study, regime: Regime, trial_seed: int, run: RunDir, folder: Path, device: torch.device, signalled: Any
) -> dict[str, Any]:
    """Train, select on validation, then open the test set once; leaves ``model.pt`` and ``predictions.npz``."""
    data, config = study.data, study.config
    train = trainer.training_set(data, regime, study.synthetic, trial_seed, study.copies)
    val, test = data.indices("val"), data.indices("test")
    fitted = trainer.fit(config, regime, trial_seed, train, (data.images[val], data.labels[val]), device, signalled)
    score = trainer.predict(fitted.model, data.images[test], config, device)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_classifier(folder / "model.pt", config, regime, trial_seed, data, fitted)
    with atomic_file(folder / "predictions.npz") as handle:
        np.savez(
            handle,
            val_index=val,
            val_true=data.labels[val],
            val_score=fitted.val_score,
            test_index=test,
            test_true=data.labels[test],
            test_score=score,
        )
    counts = np.bincount(train.labels, minlength=len(CLASSES)).tolist()
    return {
        "regime": regime.name,
        "trial_seed": trial_seed,
        "n_train": dict(zip(CLASSES, counts, strict=True)),
        "added": train.added,
        "steps": config.steps,
        "passes_over_real": round(fitted.passes_over_real, 2),
        "selected_step": fitted.selected_step,
        "history": fitted.history,
        "val": evaluate(data.labels[val], fitted.val_score, fitted.threshold),
        "test": evaluate(data.labels[test], score, fitted.threshold),
        "seconds": round(fitted.seconds, 1),
        **provenance(study),
        "synthetic_hash": train.synthetic_digest,  # None where the regime uses none
        "git_commit": git_commit(),
        "folder": folder.relative_to(run.path).as_posix(),
    }


def ablate(config: AblateConfig, study: Study, run: RunDir, device: torch.device) -> list[dict[str, Any]]:
    """Run the trials that ``results.jsonl`` does not hold yet, seed by seed so that pairs are complete early.

    Raises:
        Interrupted: a signal came; finished trials are kept.
        BalancerError: the finished trials of a resumed run were made on another split.
    """
    before, now = read_jsonl(run / RESULTS), provenance(study)
    for key, value in now.items():
        if others := {str(r[key]) for r in before if r.get(key)} - {value}:
            raise BalancerError(
                f"{run / RESULTS} holds trials of {key} {'/'.join(sorted(others))}, {study.data.source} now gives "
                f"{value}; bring the data back or start a new run"
            )
    done = {(r["regime"], r["trial_seed"]) for r in before}
    plan = [(seed, regime) for seed in range(config.seed, config.seed + config.seeds) for regime in study.regimes]
    with deferred_signals() as signalled:
        for number, (seed, regime) in enumerate(plan, 1):
            if (regime.name, seed) in done:
                log.info("[%d/%d] %s, seed %d: done before", number, len(plan), regime.name, seed)
                continue
            try:
                row = run_trial(study, regime, seed, run, run / "trials" / f"{regime.name}-{seed}", device, signalled)
            except Interrupted as stop:
                kept = len(read_jsonl(run / RESULTS))
                raise Interrupted(
                    stop.signum, f"{kept} of {len(plan)} trials are kept; continue with --resume {run.path}"
                ) from stop
            append_jsonl(run / RESULTS, row)
            log.info(
                "[%d/%d] %s, seed %d: validation NLL %.4f at step %d, %.0f s",
                number,
                len(plan),
                regime.name,
                seed,
                row["val"]["nll"],
                row["selected_step"],
                row["seconds"],
            )
    return read_jsonl(run / RESULTS)


def estimate_seconds(config: ClassifierConfig, study: Study, device: torch.device, steps: int = 10) -> float:
    """Time of all trials, from a few steps of each regime and one look at validation, on throw-away networks."""
    one = study.data.indices("val")[:1]
    images, labels = study.data.images[one], study.data.labels[one]
    total = 0.0
    for regime in study.regimes:
        train = trainer.training_set(study.data, regime, study.synthetic, config.seed, study.copies)
        short = [config.model_copy(update={"steps": n, "evaluations": 1, "threshold": "half"}) for n in (2, 2 + steps)]
        fitted = [trainer.fit(c, regime, config.seed, train, (images, labels), device) for c in short]
        begin = time.perf_counter()
        trainer.predict(fitted[1].model, study.data.images[study.data.indices("val")], config, device)
        evaluation = time.perf_counter() - begin
        per_step = max(fitted[1].seconds - fitted[0].seconds, 0.0) / steps
        total += per_step * config.steps + evaluation * (config.evaluations + 1)
    return total * (config.seeds if isinstance(config, AblateConfig) else 1)


def write_outputs(rows: list[dict[str, Any]], study: Study, run: RunDir) -> Outcome:
    """Tables and figures from the results alone; returns what the command prints."""
    entries = tables.summarise(rows)
    caption, differences, caveat = tables.caption(entries), tables.differences_text(rows), tables.caveat(entries)
    notes = "".join(f"> **{note}**\n\n" for note in study.data.notes)
    body = "\n\n".join(tables.markdown_table(entries, block) for block in tables.BLOCKS)
    used = f"`{study.config.synthetic}`" if study.synthetic else "none"
    sources = f"Data `{study.data.source}`, split `{study.data.split_hash}`; synthetic set {used}."
    changes = "\n".join(f"- {line}" for line in differences.splitlines())
    write_text(
        run / "table.md",
        f"# Ablation\n\n{notes}{body}\n\n{caption} {caveat}\n\n## Paired differences\n\n{changes}\n\n{sources}\n",
    )
    write_text(run / "table.csv", tables.csv_table(entries))
    summary = {
        "regimes": entries,
        "paired_auroc_differences": tables.paired_differences(rows),
        "notes": study.data.notes,
    }
    write_json(run / "table.json", summary)
    where = "phantom: drawings, not X-rays" if study.data.is_phantom else Path(study.data.source).name
    figures.draw_all(rows, run.path, f"{where}; {caption.split(';')[0]}")
    text = "\n".join(
        [*study.data.notes, tables.text_table(entries), "", caption, "", differences, caveat, "", str(run.path)]
    )
    return Outcome({"run": str(run.path), **summary}, text)


def train_one(config: ClassifierConfig, study: Study, run: RunDir, device: torch.device) -> Outcome:
    """`classifier train`: one trial, straight into the run directory."""
    if run.finished:
        return Outcome({"run": str(run.path), "finished": True}, f"{run.path} is finished already; nothing to do")
    with deferred_signals() as signalled:
        row = run_trial(study, study.regimes[0], config.seed, run, run.path, device, signalled)
    for entry in row["history"]:
        run.metrics(entry)
    write_json(run / "result.json", row)
    result = {**row["test"], "regime": row["regime"], "trial_seed": row["trial_seed"], "fold": "test"}
    text = f"{inference.describe(result)}\n{run / 'model.pt'}"
    return Outcome({"run": str(run.path), **row}, text)
