"""`classifier explain RUN`: where the classifiers of an ablation look, and whether regimes look at different places.

Two trainings of one regime do not look at quite the same places. So the maps of two regimes are compared with those of
two seeds of one regime: rank correlation of maps of the same image for its true class, between trials of different
seeds. The statistic is the mean agreement within the two regimes less the agreement between them. With the correlation
as the kernel this is a maximum mean discrepancy (Gretton et al. 2012, JMLR 13), 0 if the regime makes no difference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import torch

from balancer.core.config import validate
from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject
from balancer.core.saved_runs import inner_runs, read_environment, saved_config
from balancer.core.settings import AblateConfig, ClassifierConfig, TrainConfig
from balancer.data.dataset import Dataset, load_dataset
from balancer.reporting.numbers import plural, short
from classifier.analysis.reading import read_patients, read_run, with_predictions
from classifier.analysis.results import TrialResult
from classifier.analysis.statistics import FEWEST_TRIAL_SEEDS
from classifier.explain.faithfulness import FEWEST_IMAGES, Interval
from classifier.explain.similarity import rank_correlation, unit_ranks
from classifier.training.checkpoint import CHECKPOINT, SavedClassifier, load_classifier
from classifier.training.regimes import REGIMES, select_regimes

Array = np.ndarray
COMMANDS: Mapping[str, type[ClassifierConfig]] = {"ablate": AblateConfig, "train": TrainConfig}
GIVE = "give the folder of a finished `classifier ablate` or `classifier train`"


@dataclass(frozen=True)
class SavedStudy:
    """A finished run with its models, its data and what its trials predicted for the test images."""

    run: Path
    data: Dataset
    trials: dict[str, list[TrialResult]]  # by regime, seed by seed, of the first synthetic set
    patients: list[str]  # of every image of the data
    notes: list[str]

    @property
    def test(self) -> Array:
        """Return the positions (n,) of the test images in the data."""
        return next(iter(self.trials.values()))[0].predictions["test"].index

    def model(self, trial: TrialResult, device: torch.device) -> SavedClassifier:
        """Return the classifier of a trial.

        Raises:
            BalancerError: the file is damaged, or its training had other data.
        """
        path = self.run / trial.folder / CHECKPOINT
        saved = load_classifier(path, device)
        if (saved.fingerprint, saved.split_hash) != (self.data.fingerprint, self.data.split_hash):
            raise BalancerError(
                f"the data at {self.data.source} are no longer those that {path} was trained on; bring them back"
            )
        return saved


@dataclass(frozen=True)
class Comparison:
    """How alike the maps of two regimes are, beside the maps of two seeds of one regime."""

    regime: str
    reference: str
    seeds: int
    n: int  # images
    within: Interval  # rank correlation of maps of one regime, mean of both regimes
    between: Interval  # of maps of different regimes
    difference: Interval  # within - between

    @property
    def verdict(self) -> str:
        """Return ``too few``, ``elsewhere`` or ``not shown``, by the 95 % interval of the difference.

        Two seeds do not show how trainings scatter, so they give figures, but no verdict.
        """
        if self.n < FEWEST_IMAGES or self.seeds < FEWEST_TRIAL_SEEDS:
            return "too few"
        return "elsewhere" if self.difference.low > 0 else "not shown"

    def sentence(self) -> str:
        """Return the verdict with its figures."""
        figures = (
            f"maps of one image agree by {short(self.between.mean)} between these regimes and by"
            f" {short(self.within.mean)} between seeds of one regime, difference {self.difference.signed_text}"
        )
        if self.verdict == "too few":
            return (
                f"Whether {self.regime} looks at other places than {self.reference} takes {FEWEST_TRIAL_SEEDS} seeds"
                f" and {FEWEST_IMAGES} images or more, here {self.seeds} and {self.n}: {figures}."
            )
        if self.verdict == "elsewhere":
            return f"{self.regime} looks at other places than {self.reference}: {figures}."
        return f"That {self.regime} looks at other places than {self.reference} is not shown: {figures}."

    def to_json(self) -> JsonObject:
        """Return the figures and the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def read_study(run: Path, regimes: Sequence[str], decode: bool = True) -> SavedStudy:
    """Read a finished ablation or training, its data and what its models predicted; load no model yet.

    Args:
        run: the folder.
        regimes: names or groups; if empty, those of the 2 x 2 design, or all if there is none.
        decode: False for a dry run, as for :func:`~balancer.data.dataset.load_dataset`.

    Raises:
        UsageError: an unknown regime.
        BalancerError: no finished run, no trial of a regime, no saved models, or no data.
    """
    try:
        command = read_environment(run).command
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BalancerError(f"{run} is neither a model nor a run; {GIVE}, or a model.pt and images") from error
    if command not in COMMANDS:
        inner = inner_runs(run, *COMMANDS)
        raise BalancerError(f"{run} holds a {command} run, which has no classifiers to compare; {GIVE}{inner}")
    config = validate(COMMANDS[command], saved_config(command, run))
    trials = _chosen(_main_trials(run), run, regimes)
    every = [trial for of_regime in trials.values() for trial in of_regime]
    missing = [path for trial in every if not (path := run / trial.folder / CHECKPOINT).exists()]
    if missing:
        raise BalancerError(
            f"{run} has no saved model for {len(missing)} of {plural(len(every), 'trial')} (first {missing[0]});"
            " bring the model.pt files back, choose other --regimes, or run the ablation again"
        )
    predicted = {name: [with_predictions(t, run) for t in of_regime] for name, of_regime in trials.items()}
    data = load_dataset(config.data, require=("test",), decode=decode, expected_split=every[0].split_hash)
    notes = [*data.notes]
    if len({trial.synthetic_set for trial in _main_trials(run)} - {None}) > 1:
        notes.append("Of several synthetic sets, the classifiers of the first are shown.")
    first = [trial for of_regime in predicted.values() for trial in of_regime]
    return SavedStudy(run, data, predicted, read_patients(run, first), notes)


def _main_trials(run: Path) -> list[TrialResult]:
    trials = [trial for trial in read_run(run) if trial.is_main]
    if not trials:
        raise BalancerError(f"{run} holds no finished trial; {GIVE}")
    return trials


def _chosen(trials: Sequence[TrialResult], run: Path, regimes: Sequence[str]) -> dict[str, list[TrialResult]]:
    """Return the trials of the first synthetic set by regime, in the order of their seeds."""
    there = list(dict.fromkeys(trial.regime for trial in trials))
    if regimes:
        names = [r.name for r in select_regimes(regimes)]
        if missing := [name for name in names if name not in there]:
            raise UsageError(f"{run} has no trial of regime {', '.join(missing)}; there are {', '.join(sorted(there))}")
    else:
        names = [name for name in there if REGIMES[name].group == "all"] or there
    chosen: dict[str, list[TrialResult]] = {}
    for name in (name for name in REGIMES if name in names):
        by_seed: dict[int, TrialResult] = {}
        for trial in sorted((t for t in trials if t.regime == name), key=lambda t: t.synthetic_set or ""):
            by_seed.setdefault(trial.trial_seed, trial)
        chosen[name] = [by_seed[seed] for seed in sorted(by_seed)]
    return chosen


def pairs_to_compare(regimes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each regime with its reference: the same augmentation and no balancing; of augment, baseline."""
    for name in regimes:
        reference = REGIMES[name].reference if REGIMES[name].reference != name else "baseline"
        if name != reference and reference in regimes:
            yield name, reference


def compare(
    regime: str,
    reference: str,
    maps: Mapping[str, Mapping[int, Array]],
    groups: Sequence[str],
) -> Comparison | None:
    """Compare two regimes by their maps (n, H, W) of the same images, by regime and by trial seed.

    The seeds' part of each interval is the jackknife's over seeds, which takes three seeds or more.

    Returns:
        The comparison, or None if the regimes share fewer than two seeds: then nothing says how alike seeds are.
    """
    seeds = sorted(set(maps[regime]) & set(maps[reference]))
    if len(seeds) < 2:
        return None
    ranks = {name: {seed: unit_ranks(maps[name][seed]) for seed in seeds} for name in (regime, reference)}
    own, other = ranks[regime], ranks[reference]
    inside = {
        (s, t): (rank_correlation(own[s], own[t]) + rank_correlation(other[s], other[t])) / 2
        for s, t in combinations(seeds, 2)
    }
    across = {(s, t): rank_correlation(own[s], other[t]) for s, t in permutations(seeds, 2)}
    within, between = _pseudo_values(inside, seeds), _pseudo_values(across, seeds)
    intervals = [Interval.of(v, list(groups), most) for v, most in ((within, 1), (between, 1), (within - between, 2))]
    return Comparison(regime, reference, len(seeds), len(groups), *intervals)


def _pseudo_values(pairs: Mapping[tuple[int, int], Array], seeds: Sequence[int]) -> Array:
    """Return the jackknife's pseudo-values (n, K) of a mean over pairs of K seeds; with two seeds the mean (n, 1).

    Their mean is the mean over all pairs, and their scatter over seeds is that of this mean (Arvesen 1969, Ann. Math.
    Stat. 40).
    """
    total: Array = np.mean(list(pairs.values()), axis=0)
    k = len(seeds)
    if k < 3:
        return total[:, None]
    without = [np.mean([v for pair, v in pairs.items() if seed not in pair], axis=0) for seed in seeds]
    return np.stack([k * total - (k - 1) * left for left in without], axis=1)
