"""The report of an ablation: tables, figures, report.md and one self-contained report.html, the verdict first.

Both forms of the report are renderings of the same parts. Text may hold `code` in backticks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from balancer.core.files import atomic_file, write_json, write_text
from balancer.data.dataset import Dataset
from balancer.data.folder import CLASSES
from balancer.reporting.document import Section, Table
from balancer.reporting.numbers import p_value, plural, short, signed
from balancer.reporting.pages import render_page
from balancer.reporting.plots import png, svg
from classifier.analysis.results import main_rows, read_predictions, regimes_in, values
from classifier.analysis.verdicts import short_margin
from classifier.report import figures, tables
from classifier.report.failures import SHOWN, Failures, find_failures
from classifier.report.tables import Analysis, Row

FIGURES = "figures"
VARIANCES = {
    "patients": "patients",
    "trial_seeds": "trial seeds",
    "gan_seeds": "GAN seeds",
    "counted_twice": "counted twice",
}


@dataclass(frozen=True)
class Legend:
    """The heading above a figure, and how to read it."""

    title: str
    caption: str


LEGENDS = {
    "forest": Legend(
        "Differences",
        "A square is an estimate, its line the 95 % interval; a line that stays inside the band says that no effect matters, "
        "one that clears 0 that there is a difference. An arrow: the line goes on outside. It cannot say why a difference is there.",
    ),
    "seeds": Legend(
        "Every trial",
        "A point is a trial, the bar the mean, the pale bar its 95 % interval. Look at how far trials of one regime lie apart "
        "before believing any single run. Overlapping bars do not mean that nothing differs: trials of one seed are pairs, and "
        "the forest compares pairs.",
    ),
    "dose": Legend(
        "Dose of synthetic images",
        "Left, test AUROC with a point per trial; right, the difference from the same regime without synthetic images. These "
        "doses were not planned as tests: a peak here is a lead, no finding.",
    ),
    "roc": Legend(
        "ROC",
        "The thick line is the mean over trials, thin ones are trials, the band is the pointwise 95 % interval of the mean over"
        " patients and seeds (over patients alone with one seed). Bands of two regimes may overlap though their paired "
        "difference is clear.",
    ),
    "precision_recall": Legend(
        "Precision and recall",
        "Drawn as ROC; the dotted line is the share of PNEUMONIA in test. Precision depends on that share and would be another "
        "in a clinic where fewer children are ill.",
    ),
    "gap": Legend(
        "Validation against test",
        "Each line joins what validation promised (hollow) to what test gave (filled). A long line means that validation, "
        "carved from train, is easier than test; it cannot say whether patients, machines or labels differ.",
    ),
    "thresholds": Legend(
        "How the threshold carries over",
        "A dot is the threshold that validation chose; the top of its line is what the best threshold would have given. The "
        "best one is known in hindsight only: it measures what is lost on the way, and was used for nothing.",
    ),
    "reliability": Legend(
        "Reliability",
        "On the diagonal a stated probability is true. Lines: Wilson's 95 % interval for the images of one trial, taken as "
        "independent; below, images per bin. A temperature chosen on validation cannot mend a shift between validation and "
        "test.",
    ),
    "confusion": Legend(
        "Confusion matrices",
        "Counts averaged over trials, in brackets the share of the true class. At .5 a regime's class prior moves the counts by"
        " itself; compare regimes at validation's threshold.",
    ),
    "failures": Legend(
        "What goes wrong",
        "Look for what a person would see: a tube, a turned child, a faint opacity, a wrong label. Few images and no "
        "radiologist: they raise questions about the classifier, and answer none.",
    ),
    "training": Legend(
        "Training",
        "Grey: training loss; colour: validation NLL, a dot at the step kept. A dot at the right end may mean that training was"
        " too short. Losses of weighted and focal regimes are on scales of their own.",
    ),
}
REFERENCES = (
    "Several tests: Holm 1979, Scand. J. Stat. 6; crossed random factors: Owen 2007, Ann. Appl. Stat. 1; clusters: Cameron, Gelbach & "
    "Miller 2011, JBES 29.",
    "Image-level references: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; McNemar 1947, Psychometrika 12.",
    "ECE: Naeini et al. 2015, AAAI; temperature: Guo et al. 2017, arXiv:1706.04599; Wilson's interval: Wilson 1927, JASA 22.",
    "The controls: Buda et al. 2018, arXiv:1710.05381; focal loss: Lin et al. 2017, arXiv:1708.02002.",
)


@dataclass(frozen=True)
class Page:
    """What stands above the parts, and the parts."""

    title: str
    warnings: list[str]
    verdict: str
    headline: list[str]
    parts: list[Section]


def write_outputs(rows: list[Row], analysis: Analysis, data: Dataset, run: Path, note: str, notes: list[str]) -> None:
    """Write table.md, .csv, .json and .tex, report.md, report.html, and figures/*.png and *.svg into the run's folder.

    Args:
        rows: of ``results.jsonl``; each trial's folder in ``run`` holds its predictions.
        analysis: of these rows, by :func:`classifier.analysis.contrasts.analyse`.
        data: what the trials were trained and tested on.
        note: where all this comes from, in a sentence or two.
        notes: what a reader must know; caveats of the analysis stand below, all others on top.

    Raises:
        BalancerError: a trial's predictions are missing or damaged.
    """
    predictions, entries = read_predictions(rows, run), tables.summarise(rows)
    failures = find_failures(main_rows(rows), predictions, data)
    pictures = _write_figures(figures.draw_all(rows, analysis, predictions, data, failures), run / FIGURES)
    page = Page(
        f"Did balancing help? {plural(len(entries), 'regime')} on {figures.data_name(data)}",
        [n for n in notes if n not in analysis["notes"]],
        analysis["verdict"],
        analysis["headline"],
        parts(rows, entries, analysis, failures, set(pictures), note, [n for n in notes if n in analysis["notes"]]),
    )
    write_text(run / "report.md", render_markdown(page))
    write_text(run / "report.html", render_html(page, pictures))
    write_text(run / "table.md", render_markdown(_tables_of(page)))
    write_text(run / "table.csv", tables.csv_table(entries, analysis))
    write_text(run / "table.tex", tables.latex_tables(entries, analysis))
    write_json(
        run / "table.json",
        {**analysis, "regimes": tables.with_intervals(entries, analysis), "notes": notes, "source": note},
    )


def _write_figures(drawn: Mapping[str, Any], folder: Path) -> dict[str, bytes]:
    """Write each figure as PNG and SVG; returns the PNGs by name."""
    folder.mkdir(exist_ok=True)
    pictures = {}
    for name, figure in drawn.items():
        pictures[name] = png(figure, dpi=150)
        figure.set_layout_engine("none")  # the SVG keeps the places that were found for the PNG
        for suffix, content in ((".png", pictures[name]), (".svg", svg(figure))):
            with atomic_file(folder / f"{name}{suffix}") as handle:
                handle.write(content)
    return pictures


def _tables_of(page: Page) -> Page:
    """The page without figures and what belongs to them."""
    kept = [p for p in page.parts if p.figure is None or p.title == LEGENDS["forest"].title]
    return Page(page.title, page.warnings, page.verdict, page.headline, [_bare(p) for p in kept])


def _bare(part: Section) -> Section:
    return Section(part.title, part.paragraphs, part.table, None, part.bullets)


def parts(
    rows: list[Row],
    entries: list[dict[str, Any]],
    analysis: Analysis,
    failures: Failures,
    shown: set[str],
    note: str,
    notes: Sequence[str],
) -> list[Section]:
    """The report below its verdict; a part that has nothing to say is left out."""
    main = main_rows(rows)
    blocks = [
        Section(title, [], Table(*tables.regime_table(entries, analysis, c))) for title, c in tables.BLOCKS.items()
    ]
    blocks[0] = Section(blocks[0].title, [tables.caption(entries, analysis)], blocks[0].table)
    more = {"forest": _differences(analysis), "reliability": ([], _calibration(main)), "failures": _failures(failures)}
    illustrated = {}
    for name, legend in LEGENDS.items():
        paragraphs, table = more.get(name, ([], None))
        if name in shown or paragraphs:
            illustrated[name] = Section(legend.title, paragraphs, table, name if name in shown else None)
    return [
        blocks[0],
        *(illustrated.pop(name) for name in ("forest", "seeds", "dose") if name in illustrated),
        *blocks[1:],
        *illustrated.values(),
        Section("What the regimes were trained on", [], Table(*tables.training_table(entries))),
        *_references(analysis),
        *([Section("Notes", bullets=list(notes))] if notes else []),
        Section("How this was made", [note]),
        Section("References", bullets=list(REFERENCES)),
    ]


def _differences(analysis: Analysis) -> tuple[list[str], Table | None]:
    """Every contrast in figures; the sentences of the confirmatory ones stand on top of the page."""
    if not analysis["contrasts"]:
        return ["No two regimes here make a pair that would answer a question."], None
    header, rows = tables.contrast_table(analysis)
    text = (
        f"Differences in test AUROC, paired by trial seed. Only the confirmatory family is adjusted for several tests (Holm). "
        f"Detectable: the effect that such a study finds in 80 % of cases. Margin: ±{short_margin()}, below which an effect is of no use."
    )
    return [text], Table(header, rows, numeric=2, words=True)


def _calibration(rows: list[Row]) -> Table:
    """Temperature, and ECE and NLL on test before and after it, averaged over trials."""
    header = ["regime", "temperature", "ECE before", "ECE after", "NLL before", "NLL after"]
    paths = (
        ("temperature",),
        *(path for m in ("ece", "nll") for path in (("uncalibrated", m), (m,))),
    )
    cells = []
    for name in regimes_in(rows):
        found = [np.mean(list(values(rows, name, ("test", *path)).values())) for path in paths]
        cells.append([name, f"{found[0]:.2f}", *(short(float(v)) for v in found[1:])])
    return Table(header, cells)


def _failures(failures: Failures) -> tuple[list[str], Table | None]:
    """How many test images most trials get wrong, and the names of those that the figure shows."""
    false, missed = (len(found) for found in failures.of_class)
    text = (
        f"Regime `{failures.regime}`: {false + missed} of {failures.tested} test images are decided wrongly, at validation's threshold, by more "
        f"than half of its {plural(failures.trials, 'trial')}: {false} {CLASSES[0]} called {CLASSES[1]}, {missed} the other way round."
    )
    rows = [
        [f"`{f.name}`", CLASSES[f.label], short(f.probability), f"{f.wrong} of {failures.trials}"]
        for found in failures.of_class
        for f in found[:SHOWN]
    ]
    header = ["file", "true class", f"mean probability of {CLASSES[1]}", "trials that err"]
    return [text], Table(header, rows, numeric=2) if rows else None


def _references(analysis: Analysis) -> list[Section]:
    """Where the intervals come from, and what tests that know neither patients nor seeds would say."""
    contrasts = tables.by_family(analysis)
    if not contrasts:
        return []
    spread = [
        [
            c["name"],
            f"{c['se']:.4f}",
            f"{c['df']:.1f}",
            *(f"{max(c['variance'][part], 0) ** 0.5:.4f}" for part in VARIANCES),
            f"{c['trial_seeds']} x {max(c['gan_seeds'], 1)}",
        ]
        for c in contrasts
    ]
    compared = [
        [
            c["name"],
            signed(c["delong"]["estimate"]),
            p_value(c["delong"]["p"]),
            f"{c['mcnemar']['n10']} / {c['mcnemar']['n01']}",
            p_value(c["mcnemar"]["p"]),
        ]
        for c in contrasts
        if c["delong"] and c["mcnemar"]
    ]
    text = (
        "Standard errors of the differences and their parts. The square of the whole is the sum of the squares of the parts, less what two "
        "of them show of the same: scatter over seeds was measured on these patients. Method and calibration: `docs/statistics.md`."
    )
    warning = (
        "DeLong's test on scores averaged over trials, and McNemar's exact test on majority decisions (images that only the first, only the "
        "second decides rightly). Both take images as independent and trainings as given: they are too sure, and decide nothing here."
    )
    header = ["difference", "standard error", "df", *VARIANCES.values(), "trial x GAN seeds"]
    made = [Section("Where the uncertainty comes from", [text], Table(header, spread))]
    if compared:
        header = ["difference", "DeLong", "p", "McNemar", "p"]
        made.append(Section("Image-level references", [warning], Table(header, compared)))
    return made


def render_markdown(page: Page) -> str:
    """report.md, with the figures as files in the folder beside it."""
    lines = [f"# {page.title}", "", *(f"> **{warning}**\n" for warning in page.warnings), f"**{page.verdict}**", ""]
    lines += [*(f"- {sentence}" for sentence in page.headline), ""]
    for part in page.parts:
        lines += [f"## {part.title}", ""]
        for paragraph in part.paragraphs:
            lines += [paragraph, ""]
        if part.figure:
            lines += [f"![{part.title}]({FIGURES}/{part.figure}.png)", "", LEGENDS[part.figure].caption, ""]
        if part.table:
            lines += [*_markdown_table(part.table), ""]
        if part.bullets:
            lines += [*(f"- {bullet}" for bullet in part.bullets), ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '&#124;').replace(chr(10), ' ') for cell in cells)} |"

    ruler = ["---:" if table.is_numeric(i) else "---" for i in range(len(table.header))]
    return [row(table.header), row(ruler), *map(row, table.rows)]


def render_html(page: Page, pictures: Mapping[str, bytes]) -> str:
    """report.html: one file, figures (PNG by name) inside it; no script, nothing fetched."""
    return render_page("report.html", pictures, "classifier", page=page, legends=LEGENDS)
