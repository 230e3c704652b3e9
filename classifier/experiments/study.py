"""A study: the data, the synthetic sets and the regimes of one command, its trials, and how one trial is run."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from balancer.core.command import CommandArgs
from balancer.core.config import config_hash, merge
from balancer.core.errors import BalancerError, UsageError
from balancer.core.run import atomic_file, git_commit, latest_run, saved_config
from balancer.core.settings import AblateConfig, ClassifierConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from classifier.analysis.results import TrialPredictions, TrialResult
from classifier.evaluation.metrics import evaluate
from classifier.models.weights import weights_hash
from classifier.training import trainer
from classifier.training.checkpoint import save_classifier
from classifier.training.regimes import GROUPS, Regime, select_regimes
from classifier.training.synthetic import SyntheticSet, join, load_sets
from classifier.training.training_set import TrainingSet, training_set

log = logging.getLogger("balancer")


@dataclass(frozen=True)
class Trial:
    """One training: a regime, a trial seed and, where the regime uses synthetic images, which set and how many."""

    regime: Regime
    seed: int
    synthetic_set: int | None = None  # position in the study's list; None where the regime uses none
    dose: float | None = None  # in deficits; None where the regime uses none, or the count was given as a number

    @property
    def key(self) -> tuple[str, int, str | None, float | None]:
        """What names the trial in ``results.jsonl``."""
        return self.regime.name, self.seed, None if self.synthetic_set is None else str(self.synthetic_set), self.dose

    @property
    def name(self) -> str:
        """``combined-0``; of further sets and doses ``combined@0.5-set1-0``."""
        dose = "" if self.dose in (None, 1.0) else f"@{self.dose:g}"
        which = f"-set{self.synthetic_set}" if self.synthetic_set else ""
        return f"{self.regime.name}{dose}{which}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """All that the trials of one command share."""

    config: ClassifierConfig
    data: Dataset
    synthetic: list[SyntheticSet]  # one per GAN seed; of more than two classes a single one, joined
    regimes: list[Regime]

    @property
    def copies(self) -> int | tuple[int, ...]:
        """How many duplicates the controls add: as many as there are, or would be, synthetic images, of the minority class or,
        of more than two classes, of each that lacks some."""
        if len(self.data.classes) == 2:
            return self.count(self.synthetic[0]) if self.synthetic else self.count(None)
        if self.synthetic:
            return tuple(np.bincount(self.synthetic[0].labels, minlength=len(self.data.classes)).tolist())
        asked = self.config.synthetic_count
        return tuple(asked if lacking and isinstance(asked, int) else lacking for lacking in self.data.deficits)

    def count(self, images: SyntheticSet | None, dose: float | None = None) -> int:
        """How many images of a set are used: a dose, in deficits, or where none is named what the settings ask for."""
        if images is not None and len(self.data.classes) > 2:
            return len(
                images.images
            )  # each class has the number asked for since it was read; ablations alone have doses
        if dose is not None:
            return round(dose * self.data.deficit)
        asked = self.config.synthetic_count
        if isinstance(asked, int):
            return asked
        return len(images.images) if images is not None and asked == "all" else self.data.deficit

    def training_set(self, trial: Trial) -> TrainingSet:
        """What the trial trains on."""
        chosen = None
        if trial.synthetic_set is not None:
            whole = self.synthetic[trial.synthetic_set]
            chosen = whole.first(self.count(whole, trial.dose))
        return training_set(self.data, trial.regime, chosen, trial.seed + trial.regime.seed_offset, self.copies)


@dataclass(frozen=True)
class TrainedTrial:
    """A trial's result, with its predictions by fold, and the files of its folder by name."""

    result: TrialResult
    files: dict[str, bytes]


def recipe_hash(config: ClassifierConfig) -> str:
    """Eight hex digits that name how a classifier is trained and selected: the settings less data, seeds and what is compared."""
    compared = {"data", "seed", "synthetic", "synthetic_count", "regimes", "regime", "seeds", "doses", "folds"}
    return config_hash(config, exclude=compared)


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Sixteen hex digits that name the source code of both packages, changed or committed."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(p for package in ("balancer", "classifier") for p in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_notes(hashes: Iterable[str]) -> list[str]:
    """What a table must say where the code changed between its trials."""
    several = len(set(hashes)) > 1
    return ["The trials were made by more than one version of the code (code_hash)."] if several else []


def provenance(study: Study) -> dict[str, str]:
    """What all trials of one table must share: the split, every image of the data (test too), the settings, the synthetic sets."""
    sets = "".join(s.digest for s in study.synthetic)
    return {
        "split_hash": study.data.split_hash,
        "data_fingerprint": study.data.fingerprint,
        "config_hash": config_hash(study.config),
        "weights_hash": weights_hash(study.config.weights),
        "synthetic_sets_hash": hashlib.sha256(sets.encode()).hexdigest()[:16],
    }


def check_provenance(rows: Sequence[dict[str, Any]], study: Study, where: str) -> None:
    """Refuse to continue a run with another study.

    Args:
        rows: finished trials, each with the :func:`provenance` of its own.
        where: what holds them, for the message.

    Raises:
        BalancerError: they were made on other data, another split, other settings, weights or synthetic sets.
    """
    for name, value in provenance(study).items():
        if others := {str(row.get(name)) for row in rows} - {value}:
            raise BalancerError(
                f"{where} holds trials of {name} {'/'.join(sorted(others))}, {study.data.source} and the settings now give {value}; "
                "bring back what was changed, or start a new run"
            )


def regimes_of(config: ClassifierConfig) -> list[Regime]:
    """The regimes that the settings name, and those that a dose-response is read against."""
    if isinstance(config, AblateConfig):
        chosen = select_regimes(config.regimes)
        if config.doses and not any(r.synthetic for r in chosen):
            raise UsageError(
                f"doses are {list(config.doses)}, but no regime here uses synthetic images; add gan or combined"
            )
        names = [r.name for r in chosen] + [r.reference for r in chosen if config.doses and r.synthetic]
        return select_regimes(names)
    name = cast(TrainConfig, config).regime
    if name in GROUPS:
        raise UsageError(f"regime is {name!r}; `classifier train` takes one regime, `classifier ablate` takes groups")
    return select_regimes((name,))


def refuse_multiclass(config: ClassifierConfig, command: str) -> None:
    """For a command whose figures are of two classes.

    Raises:
        UsageError: the task is another.
    """
    if config.data.task != "binary":
        raise UsageError(
            f"task is {config.data.task}; {command} compares two classes, so leave --task out, or train on all classes with "
            f"`classifier train --task {config.data.task}`"
        )


def configure(args: CommandArgs) -> ClassifierConfig:
    """The settings of a new training or ablation; where a regime needs synthetic images, the data settings are taken
    over from the synthesis that is named or newest, so that both work on the same split."""
    config = cast(ClassifierConfig, args.config())
    if not isinstance(config, TrainConfig):
        refuse_multiclass(config, f"classifier {args.command}")
    if not any(r.synthetic for r in regimes_of(config)):
        return config
    named = [Path(path) for path in config.synthetic or ()]
    if not named:
        newest = latest_run("synthesize")
        if newest is None:
            raise BalancerError(
                "no finished synthesis under runs/synthesize; run `balancer synthesize` first, or give --synthetic DIR"
            )
        log.info("taking the newest finished synthesis: %s", newest)
        named = [newest]
    inherited: dict[str, Any] = {"synthetic": [str(path.resolve()) for path in named]}
    made = {path: _data_settings(path) for path in named}
    inherited = merge({"data": made[named[0]]}, inherited)
    config = cast(ClassifierConfig, args.config(inherited))
    for path, settings in made.items():
        for key in sorted(
            {"image_size", "resize"} & settings.keys()
        ):  # resampled twice, they would give themselves away
            if settings[key] != (now := getattr(config.data, key)):
                raise BalancerError(
                    f"{path} was made with {key} {settings[key]}, this asks for {now}; synthesize with it, or leave it"
                )
    return config


def _data_settings(path: Path) -> dict[str, Any]:
    """The data settings of a synthesis of ours; images of another generator come with a manifest alone."""
    return saved_config("synthesize", path)["data"] if (path / "config.yaml").exists() else {}


def open_study(config: ClassifierConfig) -> Study:
    """Read the data and the synthetic images, refusing before anything is written what does not fit.

    Raises:
        UsageError: an ablation of more than two classes: its endpoint and its family of comparisons are of two.
        BalancerError: a fold is empty, or a synthetic set is of another split or too small.
    """
    if isinstance(config, AblateConfig):
        refuse_multiclass(config, "classifier ablate")
    regimes = regimes_of(config)
    trainer.check(config)
    data = load_dataset(config.data, require=("train", "val", "test"))
    sets: list[SyntheticSet] = []
    if config.synthetic and any(r.synthetic or r.duplicate for r in regimes):
        dose = max(config.doses, default=0.0) if isinstance(config, AblateConfig) else 0.0
        sets = load_sets(config.synthetic, data, config.data, config.synthetic_count, dose)
    if not sets and (lacking := [r.name for r in regimes if r.synthetic]):
        raise BalancerError(
            f"regime {lacking[0]} needs synthetic images; run `balancer synthesize`, or give --synthetic DIR"
        )
    if sets and len(data.classes) > 2:
        sets = [join(sets, data)]
    if len(sets) > 1 and isinstance(config, TrainConfig):
        raise UsageError(
            f"synthetic names {len(sets)} sets; `classifier train` takes one, `classifier ablate` takes several; "
            "of one class each they go together with --task multiclass alone"
        )
    n_val = len(data.indices("val"))
    if n_val < 100:
        log.warning("validation holds %d images: thresholds and selection on so few are nearly arbitrary", n_val)
    study = Study(config, data, sets, regimes)
    for trial in plan(study):
        if trial.seed == config.seed:
            # refuses a count below 1, and a batch larger than the fold
            trainer.stages(config, study.training_set(trial))
    return study


def plan(study: Study) -> list[Trial]:
    """Every trial, seed by seed so that pairs are complete early; within a seed, set by set, then the other doses."""
    config = study.config
    seeds = config.seeds if isinstance(config, AblateConfig) else 1
    doses = [d for d in config.doses if d not in (0.0, 1.0)] if isinstance(config, AblateConfig) else []
    main = 1.0 if config.synthetic_count == "deficit" else None
    trials = []
    for seed in range(config.seed, config.seed + seeds):
        for regime in study.regimes:
            if not regime.synthetic:
                trials.append(Trial(regime, seed))
                continue
            of_sets = range(len(study.synthetic))
            trials += [Trial(regime, seed, s, main) for s in of_sets]
            trials += [Trial(regime, seed, s, d) for d in doses if not regime.replace for s in of_sets]
    return trials


def run_trial(
    study: Study, trial: Trial, device: torch.device, signalled: Callable[[], int | None] = lambda: None
) -> TrainedTrial:
    """Train, select on validation, then open the test set once."""
    data, config, begin = study.data, study.config, time.perf_counter()
    train = study.training_set(trial)
    val, test = data.indices("val"), data.indices("test")
    fitted = trainer.train(
        config, trial.regime, trial.seed, train, (data.images[val], data.labels[val]), device, signalled
    )
    score = trainer.predict(fitted.model, data.images[test], config, device)
    name, seed, synthetic_set, dose = trial.key
    predictions = {
        fold: TrialPredictions(
            data.labels[index], y_score.astype(np.float64), fitted.threshold, fitted.temperature, index
        )
        for fold, index, y_score in (("val", val, fitted.val_score), ("test", test, score))
    }
    result = TrialResult(
        regime=name,
        trial_seed=seed,
        synthetic_set=synthetic_set,
        dose=dose,
        n_train=dict(zip(data.classes, train.counts, strict=True)),
        added=train.added,
        steps=fitted.steps,
        passes_over_real=round(fitted.passes_over_real, 2),
        selected_step=fitted.selected_step,
        history=fitted.history,
        val=evaluate(data.labels[val], fitted.val_score, fitted.threshold, fitted.temperature),
        test=evaluate(data.labels[test], score, fitted.threshold, fitted.temperature),
        seconds=round(time.perf_counter() - begin, 1),
        **provenance(study),
        recipe_hash=recipe_hash(config),
        synthetic_hash=train.synthetic_digest,
        code_hash=code_hash(),
        git_commit=git_commit(),
        fold=None,
        predictions=predictions,
    )
    arrays, model = io.BytesIO(), io.BytesIO()
    np.savez(
        arrays,
        val_index=val,
        val_true=data.labels[val],
        val_score=fitted.val_score,
        test_index=test,
        test_true=data.labels[test],
        test_score=score,
    )
    save_classifier(model, config, trial.regime, trial.seed, data, fitted)
    return TrainedTrial(result, {"predictions.npz": arrays.getvalue(), "model.pt": model.getvalue()})


def keep(trained: TrainedTrial, run: Path, folder: Path) -> TrialResult:
    """Write the files of a trial. Return its result with the folder named, relative to the run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in trained.files.items():
        with atomic_file(folder / name) as handle:
            handle.write(content)
    return replace(trained.result, folder=folder.relative_to(run).as_posix())


def estimate_seconds(study: Study, device: torch.device, steps: int = 10) -> float:
    """Time of all trials on one worker, from a few steps of each regime and one look at validation, on throw-away networks."""
    config, data = study.config, study.data
    one, val = data.indices("val")[:1], data.indices("val")
    known: dict[str, tuple[float, float]] = {}
    total = 0.0
    for trial in plan(study):
        train = study.training_set(trial)
        if trial.regime.name not in known:
            brief = {"evaluations": 1, "threshold": "half", "exposure": "steps", "stages": ()}  # as if all of it learnt
            changes = ({**brief, "steps": n} for n in (2, 2 + steps))
            fitted = [
                trainer.train(
                    config.model_copy(update=c), trial.regime, 0, train, (data.images[one], data.labels[one]), device
                )
                for c in changes
            ]
            begin = time.perf_counter()
            trainer.predict(fitted[1].model, data.images[val], config, device)
            per_step = max(fitted[1].seconds - fitted[0].seconds, 0.0) / steps
            known[trial.regime.name] = per_step, time.perf_counter() - begin
        per_step, evaluation = known[trial.regime.name]
        looks = sum(stage.evaluations for stage in trainer.stages(config, train))
        total += per_step * trainer.total_steps(config, train) + evaluation * (looks + 1)
    return total
