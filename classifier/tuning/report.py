"""The outputs of a search, from the trials in its storage: trials.csv, best.yaml, tune.json, figures, report.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from balancer.core.config import overruled, without_nulls
from balancer.core.files import JsonObject, write_text
from balancer.core.run import RunDir
from balancer.core.sealed import write_json, write_yaml
from balancer.core.settings import ClassifierConfig, TuneConfig
from balancer.core.tracking import TrackedTrial
from balancer.data.dataset import Dataset
from balancer.reporting.document import Document, Figure, Section, Table, csv_text, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import plural, short
from balancer.reporting.pages import write_document
from balancer.reporting.plots import png
from classifier.experiments.study import computing_notes
from classifier.report.axes import annotate
from classifier.tuning import storage
from classifier.tuning.figures import draw_all
from classifier.tuning.search import Search, number_of_trials
from classifier.tuning.storage import MIN_TRIALS, SearchTrial, complete_trials

TABLE_ROWS = 10
DIGITS = 4  # of the NLL
OPTIMISM = (
    "These values are the best of many on one validation fold, so they are better than what other images will give. "
    "The test fold was not read. To learn what the choice is worth, run `classifier train` or `classifier ablate` with "
    "`--config best.yaml`, once."
)
FAIRNESS = (
    "Settings tuned under one regime give that regime a head start in a comparison: tune every regime at the same "
    "number of trials, or say which one was tuned."
)
FIGURES = {
    "history": Figure(
        "history",
        "Every complete trial in order; the line is the best so far. Trials above five times the median are not shown.",
        "validation NLL of every trial in order",
    ),
    "slices": Figure(
        "slices",
        "The value against each parameter in turn, whatever the others were. Dark points are late trials. Few points "
        "on one side may only mean that the sampler left it early.",
        "validation NLL against each parameter",
    ),
    "parallel": Figure(
        "parallel", "Every complete trial as a line over its parameters; the darkest is the best.", "trials as lines"
    ),
    "importance": Figure(
        "importance",
        "Functional ANOVA (Hutter et al. 2014): the share of the variance of log NLL over all of the space. A "
        "parameter that only matters near the best point is small here.",
        "importance of each parameter",
    ),
}


@dataclass(frozen=True)
class SearchSummary:
    """The result of a search, as in tune.json."""

    space: str
    sampler: str
    pruner: str
    regime: str
    trials: dict[str, int]  # number by state
    wanted: int  # number of trials of the finished search
    best: SearchTrial
    importances: dict[str, float] | None
    notes: list[str]
    verdict: str
    run: Path

    def to_json(self) -> JsonObject:
        """Return the content of tune.json: the best trial without its validations."""
        values = asdict(self)
        del values["best"]["validations"], values["verdict"], values["run"]
        return values

    @property
    def is_complete(self) -> bool:
        """Whether the search has run all its trials."""
        return sum(self.trials.values()) >= self.wanted

    def describe(self) -> str:
        """Return the best point, then the notes, for a terminal."""
        params = [f"  {name} {value}" for name, value in self.best.params.items()]
        return "\n".join([self.verdict, *params, OPTIMISM, "", *self.notes])


def write_search(trials: list[SearchTrial], search: Search, data: Dataset, run: RunDir) -> SearchSummary:
    """Write all outputs."""
    config, space, study = search.config, search.space, search.storage()
    best, n_val = complete_trials(trials)[0], len(data.indices("val"))
    summary = SearchSummary(
        space=space.name,
        sampler=search.sampler,
        pruner=search.pruner,
        regime=config.regime,
        trials={state: sum(t.state == state for t in trials) for state in ("complete", "pruned")},
        wanted=number_of_trials(config),
        best=best,
        importances=storage.importances(study, config.seed),
        notes=[*data.notes, *notes(trials, search, n_val)],
        verdict=_verdict(best, trials),
        run=run.path,
    )
    write_yaml(run / "best.yaml", best_file(space.config(config, best.params), best, len(trials)))
    write_text(run / "trials.csv", trials_csv(trials, [p.name for p in space.parameters]))
    write_json(run / "tune.json", summary.to_json())
    run.tracker.figures({"best_nll": best.value or 0.0})
    run.tracker.text("verdict", summary.verdict)
    figures = draw_all(study, space, config.seed, summary.importances is not None)
    source = "phantom: drawings, not X-rays" if data.is_phantom else data.source
    for figure in figures.values():
        annotate(figure, f"{source}; validation n = {n_val}")
    pictures = {name: png(figure) for name, figure in figures.items()}
    write_document(document(summary, trials, search, list(figures)), run.path, "report", pictures, "figures")
    return summary


def tracked(trial: SearchTrial) -> TrackedTrial:
    """Return a trial as trackers keep it; its curve is over validations."""
    settings = {"state": trial.state, **{name: str(value) for name, value in trial.params.items()}}
    rows = [{"step": number, "validation_nll": value} for number, value in trial.validations.items()]
    figures = {"nll": trial.value} if trial.complete and trial.value is not None else {}
    return TrackedTrial(f"trial-{trial.trial:03d}", settings, rows, figures)


def best_file(point: TuneConfig, best: SearchTrial, n_trials: int) -> str:
    """Return a config file with the settings of a point, without seeds, for `train`, `crossvalidate` and `ablate`."""
    names = set(ClassifierConfig.model_fields) - {"data", "seed"} - overruled(point)
    settings = without_nulls(point.model_dump(mode="json", include=names))
    sections = {
        "data": without_nulls(point.data.model_dump(mode="json")),
        "train": {**settings, "regime": point.regime},
        "crossvalidate": {**settings, "regime": point.regime},
        "ablate": settings,
    }
    head = (
        f"# The best of {n_trials} trials of `classifier tune` (trial {best.trial}, validation NLL {best.value:.4f}, "
        f"regime {point.regime}).\n"
        "# That value is optimistic: it was chosen on validation. The test fold was not read.\n"
    )
    # One by one: sections that share their settings would be written with YAML anchors.
    return head + "".join(yaml.safe_dump({name: body}, sort_keys=False) for name, body in sections.items())


def trials_csv(trials: Sequence[SearchTrial], parameters: Sequence[str]) -> str:
    """Return a line per trial, with every digit; ``nll`` is the value, empty where there is none."""
    header = ["trial", "state", "nll", "validations", *parameters, "nll_by_seed", "temperature_by_seed", "seconds"]
    rows = []
    for t in trials:
        by_seed = [" ".join(f"{v:.6f}" for v in values or ()) for values in (t.nll, t.temperature)]
        point = [t.params.get(name) for name in parameters]
        how = [t.seconds, t.same_as, t.why, t.threads]
        rows.append([t.trial, t.state, t.value, len(t.validations), *point, *by_seed, *how])
    text = [[None if value is None else str(value) for value in row] for row in rows]
    return csv_text([*header, "same_as", "why", "threads"], text)


def document(summary: SearchSummary, trials: Sequence[SearchTrial], search: Search, figures: Sequence[str]) -> Document:
    """Return the report: the best point and its limits, the table of the first ten trials, the figures, the notes."""
    names = [p.name for p in search.space.parameters]
    rows = [
        [str(t.trial), short(t.value or 0.0, DIGITS), *(_cell(t.params[name]) for name in names), f"{t.seconds:.0f}"]
        for t in complete_trials(trials)[:TABLE_ROWS]
    ]
    warnings, others = part_notes(summary.notes)
    few = [f"Importances need {MIN_TRIALS} complete trials that differ."] if summary.importances is None else []
    return Document(
        f"Search: {summary.space}",
        warnings,
        _verdict(summary.best, trials),
        introduction=[
            f"Space `{summary.space}`: {search.space.about}. Sampler {summary.sampler}, pruner {summary.pruner}, "
            f"regime {summary.regime}."
        ],
        sections=[
            Section("The best trials", table=Table(["trial", "validation NLL", *names, "seconds"], rows, numeric=0)),
            *(Section(name.capitalize(), figure=FIGURES[name]) for name in figures),
            Section("Notes", few, bullets=[*others, FAIRNESS]),
        ],
        links=documentation("tuning"),
        caveats=[OPTIMISM],
    )


def _verdict(best: SearchTrial, trials: Sequence[SearchTrial]) -> str:
    pruned = len(trials) - len(complete_trials(trials))
    value = f"trial {best.trial}, validation NLL {short(best.value or 0.0, DIGITS)} after temperature scaling"
    return f"Best of {len(trials)} trials ({pruned} pruned): {value}."


def notes(trials: Sequence[SearchTrial], search: Search, n_val: int) -> list[str]:
    """Return what a reader of these trials must know."""
    complete = complete_trials(trials)
    sentences = [
        f"Validation holds {n_val} images; each value is the mean over {plural(search.config.seeds, 'trial seed')}."
    ]
    sds = [float(np.std(t.nll, ddof=1)) for t in complete if t.nll is not None and len(t.nll) > 1]
    if sds:
        median = short(float(np.median(sds)), DIGITS)
        sentences.append(f"Between trial seeds of one point the value has an SD of {median} (median over points).")
    else:
        sentences.append("With one trial seed, points as close as two seeds of one point cannot be told apart.")
    values = [t.value for t in complete if t.same_as is None and t.value is not None]
    if len(values) > 1:
        sentences.append(f"The second-best point is worse by {short(values[1] - values[0], DIGITS)}.")
    if repeated := sum(t.same_as is not None for t in trials):
        sentences.append(
            f"{repeated} points are the same network as an earlier one and took over its value: dropout rates without "
            "a dense layer do nothing."
        )
    if len(trials) < (total := number_of_trials(search.config)):
        sentences.append(f"Only {len(trials)} of {total} trials were made; continue with --resume.")
    if failed := [t for t in trials if t.why]:
        sentences.append(
            f"{len(failed)} points could not be trained, such as trial {failed[0].trial}: {failed[0].why}."
        )
    return [*sentences, *computing_notes(trials)]


def _cell(value: float | str | bool) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
