"""The page of a study: the answer, the contrasts at each size, the GANs behind them, and links to every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from balancer.core.files import JsonObject, write_text
from balancer.core.run import RunDir
from balancer.core.sealed import read_json, write_json
from balancer.metrics.chest import NAME as CHEST
from balancer.reporting.document import Document, Figure, Link, Section, Table, csv_text, part_notes, to_markdown
from balancer.reporting.links import documentation
from balancer.reporting.numbers import DASH, bounds, p_value, short, signed, with_interval
from balancer.reporting.pages import to_html
from balancer.reporting.plots import save_figure
from classifier.analysis import pretraining
from classifier.analysis.analyse import endpoint_of
from classifier.analysis.verdicts import notes_on_tables, short_margin
from classifier.experiments.study import computing_notes
from classifier.learning_curve import figures
from classifier.learning_curve.comparison import Curve
from classifier.learning_curve.plan import OtherClass
from classifier.learning_curve.steps import FinishedPoint
from classifier.report import meter
from classifier.report.page import PICTURES
from classifier.report.samples import set_grade

# What no reader of a learning curve may miss. Each note is a caveat of the whole page.
_OF_A_CURVE = (
    "Each size is one draw of the smallest class's images{by_patients}, the smaller draws within the larger. No"
    " interval holds what another draw would change, which may be most with few images. `--split-seed` draws again, and"
    " validation with it.",
    "Holm's correction is over all sizes of this page. The page of each ablation corrects for its own tests: where both"
    " differ, this page counts.",
)
_INTERVALS = (
    'Each interval is of its difference alone. The verdicts "helps" and "hurts" go by Holm\'s p. "No benefit" goes by'
    " the interval, without a correction."
)
OF_SIZES = "Notes on single sizes"
SUMMARY = "summary.json"  # in the run of a GAN, or of each class below it
QUICK = "A quick study: the sizes of a demonstration. Its figures are no result."


@dataclass(frozen=True)
class StudyResult:
    """A finished study and its page."""

    curve: Curve
    notes: list[str]
    page: Path

    def to_json(self) -> JsonObject:
        """Return the content of study.json."""
        return {**self.curve.to_json(), "notes": self.notes}

    def describe(self) -> str:
        """Return the answer and its reasons, for a terminal."""
        worth = [worth.describe() for worth in self.curve.worth]
        reasons = [f"  {line}" for line in [*self.curve.headline, *worth]]
        return "\n".join([*self.curve.answer, *reasons, *self.notes])


def write_study(points: Sequence[FinishedPoint], curve: Curve, run: RunDir, quick: bool) -> StudyResult:
    """Write study.json, study.csv, report.md and report.html with its figures into the run's folder."""
    of_all, of_sizes = _notes(points, curve)
    of_all = [*([QUICK] if quick else []), *of_all]
    result = StudyResult(curve, [*of_all, *of_sizes], run / "report.html")
    warnings, caveats = part_notes(of_all)
    several = len(curve.sizes) > 1
    verdict, *more = curve.answer
    drawn = {"endpoint": figures.endpoint(curve)} if several else {}
    drawn |= {"differences": figures.differences(curve)} if several and curve.contrast_names else {}
    (run / PICTURES).mkdir(exist_ok=True)
    pictures = {name: save_figure(figure, run / PICTURES, name) for name, figure in drawn.items()}
    document = Document(
        _title(points, curve),
        warnings,
        verdict,
        more if several else curve.headline,  # the table has the headline, size by size
        [*_sections(points, curve, run.path), *([Section(OF_SIZES, bullets=of_sizes)] if of_sizes else [])],
        links=[*_links(points, run.path), *documentation("ablation", "statistics")],
        caveats=caveats,
    )
    write_text(run / "report.md", to_markdown(document, PICTURES))
    write_text(run / "report.html", to_html(document, pictures, {name: f"{PICTURES}/{name}.svg" for name in pictures}))
    write_text(run / "study.csv", _csv(curve))
    write_json(run / "study.json", result.to_json())
    return result


def _title(points: Sequence[FinishedPoint], curve: Curve) -> str:
    source = Path(points[0].ablation.results.source).name
    if len(curve.sizes) == 1:
        return f"Does GAN balancing help on {source}?"
    return f"Does GAN balancing help on {source}, and with how many images?"


def _notes(points: Sequence[FinishedPoint], curve: Curve) -> tuple[list[str], list[str]]:
    """Return the caveats of the whole page, each once, and the notes on some sizes alone, which say on which."""
    by_note: dict[str, list[str]] = {}
    for point, size in zip(points, curve.sizes, strict=True):
        results = point.ablation.results
        of_columns = notes_on_tables(results.unit == "patient")  # columns that this page has not
        of_analysis = [note for note in size.analysis.notes if note not in of_columns]
        for note in [*results.notes, *pretraining.notes(results.trials), *of_analysis]:
            by_note.setdefault(note, []).append(f"{size.minority:,}")
    patients = all(point.ablation.results.unit == "patient" for point in points)
    by_patients = ", by whole patients" if patients else ""
    of_all = [
        *(note for note, at in by_note.items() if len(at) == len(points)),
        *(note.format(by_patients=by_patients) for note in _OF_A_CURVE if len(points) > 1),
        *_seen_by_the_features(points),
        *computing_notes(trial for point in points for trial in point.ablation.results.trials),
    ]
    return of_all, [f"At {', '.join(at)} images: {note}" for note, at in by_note.items() if len(at) < len(points)]


def _seen_by_the_features(points: Sequence[FinishedPoint]) -> list[str]:
    """Return the note that a curve needs whose feature network knows more images than its smaller sizes."""
    thinned = [gan for point in points if point.point.minority is not None for gan in point.gans]
    summaries = [file for gan in thinned for file in gan.rglob(SUMMARY)]
    if CHEST not in {read_json(file).get("features") for file in summaries}:
        return []
    return [
        f"The feature network `{CHEST}` learnt from the whole training fold of the official chest set, more images than"
        " the smaller sizes keep. It chose the snapshot of each GAN, and what `gan_filtered` leaves out."
    ]


def _sections(points: Sequence[FinishedPoint], curve: Curve, run: Path) -> list[Section]:
    name = endpoint_of(curve.sizes[0].analysis.classes)
    several = len(curve.sizes) > 1
    sections = [
        Section(
            f"Test {name} of each regime",
            ["Means over trial seeds and GANs, with 95 % intervals."],
            regime_table(curve),
            Figure(
                "endpoint",
                "Intervals of two regimes may overlap though their paired difference is clear.",
                f"Test {name} of each regime against the number of real images",
            )
            if several
            else None,
        ),
    ]
    if planned := curve.contrast_names:
        method = (
            f"Differences in test {name}, paired by trial seed. {_holm(curve, 'confirmatory')} Margin:"
            f" ±{short_margin()}, below which a difference is of no use. {_INTERVALS}"
        )
        caption = "A point inside the band is of no use. Of intervals that clear 0, the table's verdicts count."
        drawn = Figure("differences", caption, f"Differences in test {name} against the number of real images")
        table = contrast_table(curve, planned)
        sections.insert(0, Section("Planned differences", [method], table, drawn if several else None))
    if names := curve.names_of("shortcut"):
        about = "Each regime against the usual one, and against no synthetic images at all."
        text = [f"{about} {_holm(curve, 'shortcut')}"]
        sections.append(Section("Where being synthetic tells little of the class", text, contrast_table(curve, names)))
    if (read := meter_table(curve)) is not None:
        sections.append(Section(meter.TITLE, meter.method(curve.sizes[0].analysis.meter), read))
    if curve.worth:
        sections.append(
            Section(
                "What the synthetic images are worth",
                [
                    "How many real images of the smallest class would give the same, read off the curve of the regime "
                    "without synthetic images. Each interval says what it is over. The choice of the images is in none."
                ],
                bullets=[worth.describe() for worth in curve.worth],
            )
        )
    return [*sections, Section("The GANs", table=_gan_table(points, curve, run))]


def _holm(curve: Curve, family: str) -> str:
    tests = sum(c.p_holm is not None for s in curve.sizes for c in s.analysis.contrasts if c.contrast.family == family)
    of_sizes = " of all sizes" if len(curve.sizes) > 1 else ""
    return f"Holm's correction is over all {tests} tests of this table{of_sizes}."


def contrast_table(curve: Curve, names: Sequence[str]) -> Table:
    """Return the contrasts of these names, size by size, with what Holm's correction over all sizes leaves."""
    rows = [
        [
            name,
            f"{size.minority:,}",
            f"{signed(c.estimate.value)} {bounds(c.estimate.low, c.estimate.high)}",
            p_value(c.p_holm) if c.p_holm is not None else DASH,
            short(c.mde) if c.mde is not None else DASH,
            c.verdict,
        ]
        for name in names
        for size in curve.sizes
        if (c := size.contrast(name)) is not None
    ]
    header = ["difference", "real images", "estimate, 95 % interval", "Holm p", "detectable", "verdict"]
    return Table(header, rows, words=True)


def regime_table(curve: Curve) -> Table:
    """Return the endpoint of every regime along the sizes, with intervals."""
    regimes = [r.regime for r in curve.sizes[0].analysis.regimes]
    rows = []
    for regime in regimes:
        metrics = [size.analysis.metric(regime, "auroc") for size in curve.sizes]
        rows.append([regime, *(DASH if m is None else with_interval(m.mean, m.low, m.high) for m in metrics)])
    return Table(["regime", *(f"{size.minority:,} images" for size in curve.sizes)], rows)


def meter_table(curve: Curve) -> Table | None:
    """Return what the shortcut meter measured, regime by regime along the sizes; None for a study without it."""
    measured = [(size.minority, meter.table(size.analysis.meter)) for size in curve.sizes if size.analysis.meter]
    if not measured:
        return None
    names, header = measured[0][1].numeric, measured[0][1].header
    keys = dict.fromkeys(tuple(row[:names]) for _, table in measured for row in table.rows)
    rows = [
        [*key, f"{minority:,}", *row[names:]]
        for key in keys
        for minority, table in measured
        for row in table.rows
        if tuple(row[:names]) == key
    ]
    return Table([*header[:names], "real images", *header[names:]], rows, numeric=names, words=True)


def _gan_table(points: Sequence[FinishedPoint], curve: Curve, run: Path) -> Table:
    rows = [
        [f"{size.minority:,}", str(k), f"{size.added:,}", set_grade(images) or DASH]
        for point, size in zip(points, curve.sizes, strict=True)
        for k, images in enumerate(point.syntheses)
    ]
    rows += [
        [
            f"{other.name}{other.at}" if other.at else f"all {other.name}",
            str(k),
            f"{other.n:,}",
            set_grade(images) or DASH,
        ]
        for other, sets in _others(points, run)
        for k, images in enumerate(sets)
    ]
    return Table(["real images", "GAN", "images", "grade of the images"], rows, words=True)


def _others(points: Sequence[FinishedPoint], run: Path) -> list[tuple[OtherClass, list[Path]]]:
    """Return each class that lacks no image and was synthesized, once for each place, and its images' folders."""
    others = {other.place: (other, len(point.syntheses)) for point in points for other in point.others}
    return [(other, [other.synthesis_folder(run, k) for k in range(gans)]) for other, gans in others.values()]


def _links(points: Sequence[FinishedPoint], run: Path) -> list[Link]:
    several = len(points) > 1
    links = []
    for point in points:
        at, folder = (f" at size {point.point.name}" if several else ""), f"size-{point.point.name}"
        links.append(Link(f"ablation{at}", f"{folder}/ablation/report.html"))
        links += [
            Link(f"images of GAN {k}{at}", f"{folder}/{images.name}/report.html")
            for k, images in enumerate(point.syntheses)
        ]
    return links + [
        Link(f"{other.name} images of GAN {k}{other.at}", f"{other.place}/{images.name}/report.html")
        for other, sets in _others(points, run)
        for k, images in enumerate(sets)
    ]


def _csv(curve: Curve) -> str:
    header = ["contrast", "minority", "added", "estimate", "low", "high", "p", "p_holm", "verdict"]
    rows = [
        [name, size.minority, size.added, e.value, e.low, e.high, c.p, c.p_holm, c.verdict]
        for name in [*curve.contrast_names, *curve.names_of("shortcut")]
        for size in curve.sizes
        if (c := size.contrast(name)) is not None and (e := c.estimate)
    ]
    return csv_text(header, [["" if cell is None else str(cell) for cell in row] for row in rows])
