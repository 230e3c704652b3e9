"""Tables of the reproduced systems: what was published, what the system's own outputs showed, and what we measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from balancer.core.device import peak_memory_mb, resolve_device
from balancer.reporting.document import csv_text
from balancer.reporting.numbers import bounds, mean_sd
from classifier.experiments.study import code_notes
from classifier.experiments.substudies import Substudy
from classifier.systems import smoke
from classifier.systems.registry import SHORT, Figures, System

Entry = dict[str, Any]
OURS = {  # keys of the analysis, with their titles
    "accuracy": "acc @.5",
    "accuracy_val_threshold": "acc @val",
    "balanced_accuracy": "bal.acc @.5",
    "balanced_accuracy_val_threshold": "bal.acc @val",
    "auroc": "AUROC",
}
PRINTED = ("accuracy", "accuracy_val_threshold", "balanced_accuracy_val_threshold", "auroc")
READING = (
    "Ours: mean ± SD over trial seeds and 95 % interval over test patients (and seeds, where there are several), on a split by "
    "patient, everything chosen on validation; @val: at the threshold chosen there, @.5: at .5. Published figures are those of one "
    "run each, without an interval, on the images named beside them; what the test set had chosen is too good."
)


def entries(system: System, part: Substudy, changed: list[str]) -> list[Entry]:
    """One entry per regime of a finished study.

    Args:
        changed: where the run departs from the system's file, in words.
    """
    analysis = part.analysis()
    found = []
    for regime in analysis.regimes:
        trials = part.results.arms[regime.regime]
        claim = system.claim(regime.regime)
        found.append(
            {
                **_head(system, part, regime.regime),
                "published": _figures(claim.published if claim else None),
                "outputs": _figures(claim.outputs if claim else None),
                "ours": {key: asdict(regime.metrics[key]) for key in OURS},
                "trial_seeds": regime.trial_seeds,
                "gan_seeds": regime.gan_seeds,
                "n_test": analysis.n_test,
                "n_patients": analysis.n_patients,
                "steps": sorted({t.steps for t in trials}),
                "passes_over_real": float(np.mean([t.passes_over_real for t in trials])),
                "threshold": float(np.mean([t.binary("test").threshold for t in trials])),
                "seconds": round(sum(t.seconds for t in trials), 1),
                "changed": changed,
            }
        )
    return found


def smoke_entries(system: System, part: Substudy) -> list[Entry]:
    """One entry per regime: that it ran, how long it took, and the most memory so far. No figure of its predictions."""
    peak = round(peak_memory_mb(resolve_device("auto")))
    return [
        {**_head(system, part, t.regime), "steps": [t.steps], "seconds": t.seconds, "peak_mb": peak}
        for t in part.results.trials
    ]


def _head(system: System, part: Substudy, regime: str | None) -> Entry:
    data = part.env["data"]
    return {
        "system": system.name,
        "title": system.title,
        "regime": regime,
        "error": None,
        "model": part.config.model,
        "image_size": part.config.data.image_size,
        "data": data["source"],
        "split_hash": data["split_hash"],
        "data_notes": data["notes"],
        "device": part.env["device"],
        "code_hashes": sorted({str(t.code_hash) for t in part.results.trials}),
        "folder": str(part.folder),
        "note": system.note,
    }


def failure(system: System, reason: str) -> Entry:
    """The entry of a system that could not be run."""
    return {"system": system.name, "title": system.title, "regime": None, "error": reason}


def _figures(figures: Figures | None) -> dict[str, Any] | None:
    return None if figures is None else {"on": figures.on, **figures.values, "text": figures.text()}


def markdown(found: list[Entry]) -> str:
    """``table.md``: the table, what departs from the systems' files, and what failed."""
    titles = [f"{OURS[key]} [95 %]" for key in PRINTED]
    header = [
        "system",
        "regime",
        "published",
        "its own outputs",
        *(f"ours: {t}" for t in titles),
        "seeds",
        "px",
        "steps",
    ]
    done = [e for e in found if not e["error"]]
    lines = [_row(header), _row(["---"] * len(header)), *(_row(_cells(e)) for e in done)] if done else []
    rests = sorted({f"{e['data']}, test n = {e['n_test']} of {e['n_patients']} patients, {e['device']}" for e in done})
    lines += ["", f"{READING} Measured on: {'; '.join(rests)}."] if done else []
    notes = [f"- {e['system']}: {'; '.join(_notes(e))}." for e in done if _notes(e)]
    notes += [f"- {note}" for e in done for note in e["data_notes"]]
    notes += [f"- {note}" for note in code_notes(code for e in done for code in e["code_hashes"])]
    notes += [f"- {e['system']} was not run: {e['error']}" for e in found if e["error"]]
    return "\n".join(["# Published systems under one protocol", "", *lines, "", *dict.fromkeys(notes), ""])


def _notes(entry: Entry) -> list[str]:
    return [*([entry["note"]] if entry["note"] else []), *(f"changed: {text}" for text in entry["changed"])]


def _cells(entry: Entry) -> list[str]:
    theirs = [entry[key]["text"] if entry[key] else "–" for key in ("published", "outputs")]
    ours = [
        f"{mean_sd(f['mean'], f['sd'])} {bounds(f['low'], f['high'])}" for f in (entry["ours"][key] for key in PRINTED)
    ]
    steps = "–".join(str(s) for s in sorted({min(entry["steps"]), max(entry["steps"])}))
    size = f"{entry['image_size']}{'*' if entry['changed'] else ''}"
    return [entry["system"], entry["regime"], *theirs, *ours, str(entry["trial_seeds"]), size, steps]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def smoke_markdown(found: list[Entry]) -> str:
    """``table.md`` of a smoke run: what ran."""
    lines = [_row(["SMOKE", "regime", "network", "steps", "seconds", "peak MB so far"]), _row(["---"] * 6)]
    for e in found:
        ran = [str(e.get(key, "–")) for key in ("model", "seconds", "peak_mb")]
        steps = str(e["steps"][0]) if "steps" in e else "failed"
        lines.append(_row([e["system"], e["regime"] or "–", ran[0], steps, *ran[1:]]))
    failed = [f"- {e['system']} failed: {e['error']}" for e in found if e["error"]]
    return "\n".join(["# SMOKE", "", smoke.NOTICE, "", *lines, "", *failed, ""])


def csv_table(found: list[Entry], is_smoke: bool) -> str:
    """Everything, one row per system and regime; a cell is empty where there is no such figure."""
    plain = [
        "system",
        "regime",
        "model",
        "image_size",
        "data",
        "split_hash",
        "device",
        "n_test",
        "n_patients",
        "trial_seeds",
    ]
    plain += ["passes_over_real", "threshold", "seconds", "error"]
    theirs = [(who, key) for who in ("published", "outputs") for key in (*SHORT, "on")]
    ours = [(key, part) for key in OURS for part in ("mean", "sd", "low", "high")]
    rows = []
    for e in found:
        listed = ["/".join(str(s) for s in e.get("steps", ())), "; ".join(e.get("changed", ()))]
        reported = [(e.get(who) or {}).get(key) for who, key in theirs]
        measured = [e.get("ours", {}).get(key, {}).get(part) for key, part in ours]
        rows.append(["yes" if is_smoke else "no", *(e.get(key) for key in plain), *listed, *reported, *measured])
    header = ["smoke", *plain, "steps", "changed", *("_".join(k) for k in theirs), *("_".join(k) for k in ours)]
    return csv_text(header, rows)
