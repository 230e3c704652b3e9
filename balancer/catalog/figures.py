"""The main figure of a run, in words, from the file that its command wrote for later reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balancer.core.jsonl import scan_jsonl
from balancer.core.marker import MARKER
from balancer.core.sealed import read_json
from balancer.core.shapes import parse
from balancer.gan.class_runs import runs_of
from balancer.gan.snapshot import Snapshot, read_history
from balancer.reporting.numbers import bounds, fixed, mean_sd, plural, short


@dataclass(frozen=True)
class _Finding:
    metric: str
    figure: str
    real_baseline: str = ""
    floor: str = ""  # the same in files of earlier versions


@dataclass(frozen=True)
class _Quality:
    interpretation: list[_Finding] = field(default_factory=list)
    readings: list[_Finding] = field(default_factory=list)  # the same in files of earlier versions
    verdict: str = ""


@dataclass(frozen=True)
class _OfClass:
    n: int
    interpretation: list[_Finding]


@dataclass(frozen=True)
class _Report:
    n: int
    quality: _Quality
    classes: dict[str, _OfClass] = field(default_factory=dict)  # of a synthesis of several classes


@dataclass(frozen=True)
class _Analysis:
    verdict: str
    headline: list[str]


@dataclass(frozen=True)
class _Fold:
    auroc: float


@dataclass(frozen=True)
class _Trial:
    regime: str
    test: _Fold


@dataclass(frozen=True)
class _Best:
    value: float


@dataclass(frozen=True)
class _Search:
    trials: dict[str, int]
    best: _Best


@dataclass(frozen=True)
class _Pooled:
    mean: float
    sd: float | None
    pooled: float
    low: float
    high: float


@dataclass(frozen=True)
class _Folds:
    folds: int
    figures: dict[str, _Pooled]


@dataclass(frozen=True)
class _Entry:
    error: str | None = None


@dataclass(frozen=True)
class _Entries:
    entries: list[_Entry]


@dataclass(frozen=True)
class _Study:
    verdict: str


@dataclass(frozen=True)
class _Audit:
    leaks: list[str]


def _of_gan(path: Path, values: Any) -> str:
    if "classes" in values:
        return "; ".join(f"{of_class['class']}: {_of_gan(path, of_class)}" for of_class in values["classes"])
    if not values.get("chosen"):
        return "no snapshot was measured"
    return _of_snapshot(Snapshot.from_json(values["chosen"], path, "chosen"))


def _of_snapshot(snapshot: Snapshot) -> str:
    """Return the distance of a snapshot beside its real baseline."""
    quality, at = snapshot.quality, f"at step {snapshot.step:,}"
    if quality is None:
        return f"not measured {at}"
    return f"KID {fixed(quality.kid, 3)} {at} (real against real {fixed(quality.kid_real_baseline, 3)})"


def _of_report(path: Path, values: Any) -> str:
    report = parse(_Report, values, path)
    if report.classes:
        return "; ".join(f"{name}, {_first_of(of.interpretation, of.n, '')}" for name, of in report.classes.items())
    return _first_of(report.quality.interpretation or report.quality.readings, report.n, report.quality.verdict)


def _first_of(findings: list[_Finding], n: int, verdict: str) -> str:
    """Return the first finding on some images; without any, the verdict."""
    images = plural(n, "image")
    if not findings:
        return f"{images}: {verdict}" if verdict else images
    first = findings[0]
    return f"{images}: {first.metric} {first.figure} (real against real {first.real_baseline or first.floor})"


def _of_analysis(path: Path, values: Any) -> str:
    analysis = parse(_Analysis, values, path)
    return analysis.headline[0] if analysis.headline else analysis.verdict


def _of_trial(path: Path, values: Any) -> str:
    trial = parse(_Trial, values, path)
    return f"test AUROC {short(trial.test.auroc)}, regime {trial.regime}"


def _of_search(path: Path, values: Any) -> str:
    search = parse(_Search, values, path)
    return f"validation NLL {fixed(search.best.value, 4)}, the best of {plural(sum(search.trials.values()), 'trial')}"


def _of_folds(path: Path, values: Any) -> str:
    folds = parse(_Folds, values, path)
    auroc = folds.figures["auroc"]
    pooled = f"{short(auroc.pooled)} {bounds(auroc.low, auroc.high)}"
    return f"AUROC {mean_sd(auroc.mean, auroc.sd)} over {folds.folds} folds, pooled {pooled}"


def _of_entries(path: Path, values: Any) -> str:
    entries = parse(_Entries, values, path).entries
    failed = sum(entry.error is not None for entry in entries)
    return f"a table of {len(entries)}" + (f", {failed} failed" if failed else "")


def _of_study(path: Path, values: Any) -> str:
    return parse(_Study, values, path).verdict


def _of_audit(path: Path, values: Any) -> str:
    leaks = parse(_Audit, values, path).leaks
    return f"leaks: {'; '.join(leaks)}" if leaks else "no leak was found"


# By command: the file, and what it says in a line.
READERS: dict[str, tuple[str, Callable[[Path, Any], str]]] = {
    "gan-train": ("summary.json", _of_gan),
    "synthesize": ("report.json", _of_report),
    "import": ("report.json", _of_report),
    "evaluate": ("report.json", _of_report),
    "audit": ("audit.json", _of_audit),
    "ablate": ("analysis.json", _of_analysis),
    "train": ("result.json", _of_trial),
    "tune": ("tune.json", _of_search),
    "crossvalidate": ("table.json", _of_folds),
    "components": ("table.json", _of_entries),
    "reproduce": ("table.json", _of_entries),
    "reproduce-smoke": ("table.json", _of_entries),
    "study": ("study.json", _of_study),
    "federate": ("federation.json", _of_study),
    "federate-serve": ("federation.json", _of_study),
    "federate-join": ("result.json", _of_trial),
}


def main_figure(command: str, run: Path, finished: bool) -> str:
    """Return the main figure of a finished run; of another one, how far it is.

    Raises:
        DamagedFile: the file is not what was written.
        OSError: a finished run lacks its file.
    """
    name, words = READERS[command]
    file = run / name
    if file.exists() or finished:
        return words(file, read_json(file, f"continue with --resume {run}"))
    if command == "gan-train" and (parts := runs_of(run)):
        return f"{sum((part / MARKER).exists() for part in parts)} of {len(parts)} classes begun are finished"
    if command == "gan-train":
        snapshots = read_history(run / "metrics.jsonl").snapshots
        return _of_snapshot(snapshots[-1]) if snapshots else "no snapshot yet"
    results = next((run / name for name in ("results.jsonl", "folds.jsonl") if (run / name).exists()), None)
    return f"{plural(len(scan_jsonl(results).rows), 'trial')} so far" if results else ""
