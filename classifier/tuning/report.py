"""The outputs of a search: trials.csv, best.yaml, tune.json, figures and report.md, all from the rows of its journal."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import yaml

from balancer.core.command import CommandResult
from balancer.core.config import overruled, without_nulls
from balancer.core.run import RunDir, atomic_file, write_json, write_text
from balancer.core.settings import ClassifierConfig, TuneConfig
from balancer.data.dataset import Dataset
from balancer.reporting.numbers import plural
from balancer.reporting.plots import png
from classifier.experiments.study import code_notes
from classifier.report.axes import annotate
from classifier.tuning import figures as tune_figures
from classifier.tuning.figures import best, whole
from classifier.tuning.search import Search
from classifier.tuning.storage import ENOUGH, Row

SHOWN = 10  # trials in the table
OPTIMISM = (
    "These figures were chosen as the best of many on one validation fold, so they are better than what comes of them. The test "
    "fold was not read. What the choice is worth, `classifier train` or `classifier ablate` with `--config best.yaml` says, once."
)
FAIRNESS = (
    "Settings tuned under one regime give that regime a head start in a comparison: tune every regime at the same "
    "number of trials, or say which one was tuned."
)
CAPTIONS = {
    "history": "Every trial as it came; the line is the best so far. A cross is a pruned trial at its last look. What lies above five times "
    "the median stands at the upper edge.",
    "slices": "The figure against each parameter in turn, whatever the others were. A bar is the median of a listed value, the line "
    "the best trial. Few points on one side may mean only that the sampler left it early.",
    "parallel": "Every finished trial as a line over its parameters: blue the best tenth, vermilion the best.",
    "importance": "Functional ANOVA (Hutter et al. 2014): the share of the variance of log NLL over the whole space. A parameter that only "
    "matters near the best point is small here.",
}


def write_outputs(
    found: list[Row], importances: dict[str, float] | None, search: Search, data: Dataset, run: RunDir
) -> CommandResult:
    """Write them all; returns what the command prints."""
    config, space = search.config, search.space
    chosen = best(found)
    notes = [*data.notes, *_notes(found, search, len(data.indices("val")))]
    point = space.config(config, chosen["params"])
    write_text(run / "best.yaml", best_file(point, chosen, len(found)))
    write_text(run / "trials.csv", trials_csv(found, [p.name for p in space.parameters]))
    facts: dict[str, Any] = {
        "space": space.name,
        "sampler": search.sampler,
        "pruner": search.pruner,
        "regime": config.regime,
        "trials": {state: sum(row["state"] == state for row in found) for state in ("complete", "pruned")},
        "wanted": search.trials,
        "best": {key: value for key, value in chosen.items() if key != "looks"},
        "importances": importances,
        "notes": notes,
    }
    write_json(run / "tune.json", facts)
    figures = tune_figures.draw_all(found, space, importances)
    (run / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        annotate(
            figure,
            f"{'phantom: drawings, not X-rays' if data.is_phantom else data.source}; validation n = {len(data.indices('val'))}",
        )
        with atomic_file(run / "figures" / f"{name}.png") as handle:
            handle.write(png(figure))
    write_text(run / "report.md", report(facts, found, search, list(figures)))
    said = "\n".join(f"  {name} {value}" for name, value in chosen["params"].items())
    text = "\n".join(
        [*notes, "", _headline(chosen, found), said, OPTIMISM, str(run / "best.yaml"), str(run / "report.md")]
    )
    return CommandResult({"run": str(run.path), **facts}, text)


def best_file(point: TuneConfig, chosen: Row, count: int) -> str:
    """A config file with the settings of a point, for `classifier train`, `crossvalidate` and `ablate`; seeds are left to them."""
    names = set(ClassifierConfig.model_fields) - {"data", "seed"} - overruled(point)
    settings = without_nulls(point.model_dump(mode="json", include=names))
    sections = {
        "data": without_nulls(point.data.model_dump(mode="json")),
        "train": {**settings, "regime": point.regime},
        "crossvalidate": {**settings, "regime": point.regime},
        "ablate": settings,
    }
    head = (
        f"# The best of {count} trials of `classifier tune` (trial {chosen['trial']}, validation NLL {chosen['value']:.4f}, regime {point.regime}).\n"
        "# That figure is optimistic: it was chosen on validation. The test fold was not read.\n"
    )
    # One by one: sections that share their settings would be written with YAML anchors.
    return head + "".join(yaml.safe_dump({name: body}, sort_keys=False) for name, body in sections.items())


def trials_csv(found: list[Row], parameters: list[str]) -> str:
    """A line per trial; ``nll`` is the figure, empty where there is none."""
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(
        [
            "trial",
            "state",
            "nll",
            "looks",
            *parameters,
            "nll_by_seed",
            "temperature_by_seed",
            "seconds",
            "same_as",
            "why",
        ]
    )
    for row in found:
        by_seed = [" ".join(f"{v:.6f}" for v in row[key] or ()) for key in ("nll", "temperature")]
        point = [row["params"].get(name) for name in parameters]
        start = [row["trial"], row["state"], row["value"], len(row["looks"])]
        lines.writerow([*start, *point, *by_seed, row["seconds"], row["same_as"], row["why"]])
    return buffer.getvalue()


def report(facts: dict[str, Any], found: list[Row], search: Search, figures: list[str]) -> str:
    """report.md: the best point and what it is not, the table of the first ten, the figures, the notes."""
    space, chosen = search.space, best(found)
    names = [p.name for p in space.parameters]
    ranked = sorted(whole(found), key=lambda row: (row["value"], row["trial"]))
    lines = [
        f"# Search: {space.name}",
        "",
        f"> **{OPTIMISM}**",
        "",
        f"**{_headline(chosen, found)}**",
        "",
        f"Space `{space.name}`: {space.about}. Sampler {search.sampler}, pruner {search.pruner}, regime {search.config.regime}.",
        "",
        "## The best trials",
        "",
        f"| trial | validation NLL | {' | '.join(names)} | seconds |",
        f"| ---: | ---: |{' --- |' * len(names)} ---: |",
    ]
    for row in ranked[:SHOWN]:
        cells = [_cell(row["params"][name]) for name in names]
        lines.append(f"| {row['trial']} | {_short(row['value'])} | {' | '.join(cells)} | {row['seconds']:.0f} |")
    for name in figures:
        lines += ["", f"## {name.capitalize()}", "", f"![{name}](figures/{name}.png)", "", CAPTIONS[name]]
    if facts["importances"] is None:
        lines += ["", f"Importances need {ENOUGH} finished trials that differ."]
    return "\n".join([*lines, "", "## Notes", "", *(f"- {note}" for note in [*facts["notes"], FAIRNESS]), ""])


def _headline(chosen: Row, found: list[Row]) -> str:
    pruned = len(found) - len(whole(found))
    figure = f"trial {chosen['trial']}, validation NLL {_short(chosen['value'])} after temperature scaling"
    return f"Best of {len(found)} trials ({pruned} pruned): {figure}."


def _notes(found: list[Row], search: Search, n_val: int) -> list[str]:
    """What a reader of these rows must know."""
    ranked = sorted(row["value"] for row in whole(found) if row["same_as"] is None)
    notes = [
        f"Validation holds {n_val} images; each figure is the mean over {plural(search.config.seeds, 'trial seed')}."
    ]
    spread = [float(np.std(row["nll"], ddof=1)) for row in whole(found) if len(row["nll"]) > 1]
    if spread:
        notes.append(
            f"Between trial seeds of one point the figure has an SD of {_short(float(np.median(spread)))} (median over points)."
        )
    else:
        notes.append(
            "With one trial seed, points whose figures are as close as two seeds of one point cannot be told apart."
        )
    if len(ranked) > 1:
        notes.append(f"The second-best point is worse by {_short(ranked[1] - ranked[0])}.")
    if twins := sum(row["same_as"] is not None for row in found):
        notes.append(
            f"{twins} points are the same network as one before (dropout rates without a dense layer do nothing) and took its figure over."
        )
    if len(found) < search.trials:
        notes.append(f"Only {len(found)} of {search.trials} trials were made; go on with --resume.")
    if failed := [row for row in found if row["why"]]:
        notes.append(
            f"{len(failed)} points could not be trained, such as trial {failed[0]['trial']}: {failed[0]['why']}."
        )
    return notes + code_notes(row["code_hash"] for row in found)


def _short(value: float) -> str:
    """Four decimals, no leading zero."""
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def _cell(value: float | str | bool) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
