"""The report of an ablation: tables, figures, report.md and one self-contained report.html, the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from balancer.core import progress
from balancer.core.files import write_bytes, write_text
from balancer.core.sealed import write_json
from balancer.data.dataset import Dataset
from balancer.reporting.document import Document, Figure, Link, Section, Table, part_notes, to_markdown
from balancer.reporting.links import documentation
from balancer.reporting.numbers import p_value, plural, short, signed
from balancer.reporting.pages import to_html
from balancer.reporting.plots import save_figure
from classifier.analysis.analyse import Analysis, endpoint_of
from classifier.analysis.contrasts import ContrastResult
from classifier.analysis.results import StudyResults
from classifier.analysis.verdicts import short_margin
from classifier.evaluation.thresholds import BOUND_NOTE, is_at_bound
from classifier.report import figures, meter, samples, tables
from classifier.report.failures import SHOWN, Failure, Failures, find_failures
from classifier.training.synthetic import SyntheticSet

PICTURES = "figures"  # folder
# Figures by title: the file, what it shows, how to read it. In braces: the endpoint, and the positive class of two.
_CAPTIONS = {
    "Differences": (
        "forest",
        "Forest plot of the differences in test {endpoint} with their 95 % intervals",
        "A square is an estimate, its line the 95 % interval. A line inside the band says that no effect matters. A "
        "line that clears 0 shows a difference, which chance does to one line in twenty, and not why. An arrow: the "
        "line goes on outside.",
    ),
    "Every trial": (
        "seeds",
        "Test {endpoint} of every trial by regime",
        "A point is a trial, the bar the mean, the pale bar its 95 % interval. Look at how far trials of one regime "
        "lie apart before believing any single run. The green band is the mean of the regime's reference, with the "
        "margin within which a difference is of no use. Overlapping bars do not mean that nothing differs: trials of "
        "one seed are pairs, and the forest plot compares pairs.",
    ),
    "Dose of synthetic images": (
        "dose",
        "Test {endpoint} against the number of synthetic images",
        "Left: test {endpoint}, a point per trial. Right: the difference from the same regime without synthetic "
        "images. Inside the bands a difference is of no use. "
        "These doses were not planned as tests: a peak here is a lead, no finding.",
    ),
    meter.TITLE: (meter.NAME, meter.ALT, meter.CAPTION),
    "ROC": (
        "roc",
        "ROC curves on test by regime",
        "The thick line is the mean over trials, a thin line is a trial. The band is the pointwise 95 % interval of "
        "the mean over the test set and seeds, or over the test set alone with one seed. Bands of two regimes may "
        "overlap though their paired difference is clear.",
    ),
    "Precision and recall": (
        "precision_recall",
        "Precision against recall on test by regime",
        "Drawn as ROC; the dotted line is the share of {positive} in test. Precision depends on that share. Precision "
        "would be lower where the share is.",
    ),
    "Validation against test": (
        "gap",
        "Metrics on validation beside those on test, trial by trial",
        "Each line joins a trial's metric on validation (hollow) and on test (filled). Green: the mean test {endpoint} "
        "of the regime's reference, with the margin within which a difference is of no use. A long line means that "
        "validation, carved from train, is easier than test. It does not say whether patients, machines or labels "
        "differ.",
    ),
    "How the threshold carries over": (
        "thresholds",
        "Balanced accuracy on test against the threshold by regime",
        "A dot is the threshold that validation chose. The top of its line is the best threshold, which is known in "
        "hindsight only. The difference is what is lost on the way; nothing was chosen by it.",
    ),
    "Reliability": (
        "reliability",
        "Observed against stated share of {positive} by regime",
        "On the diagonal a stated probability is true. Vertical lines: Wilson's 95 % interval for the images of one "
        "trial, taken as independent. Below: images per bin. A temperature chosen on validation cannot mend a shift "
        "between validation and test.",
    ),
    "Recall by class": (
        "recall",
        "Recall of each class on test by regime, with 95 % intervals",
        "Recall is the share of the images of a class that are called so, by the most likely class. A point is the "
        "mean over trials, its line the 95 % interval. Regimes differ in class prior, which by itself moves recall "
        "from one class to another.",
    ),
    "Confusion matrices": (
        "confusion",
        "Confusion matrices on test by regime",
        "Counts averaged over trials, in brackets the share of the true class. At .5 the class prior of a regime "
        "moves the counts by itself: compare regimes at validation's threshold.",
    ),
    "What goes wrong": (
        "failures",
        "Test images that most trials get wrong",
        "Look for what a person would see: a tube, a turned patient, a faint finding, a wrong label. The images are "
        "few and no physician has read them. They raise questions about the classifier, and answer none.",
    ),
    "Training": (
        "training",
        "Training loss and validation NLL against steps by regime",
        "Grey: training loss. Colour: validation NLL, with a dot at the step kept. A dot at the right end may mean "
        "that training was too short. Losses of weighted and focal regimes are on scales of their own.",
    ),
}
# The same where there are more than two classes, as far as it is another.
_SEVERAL = {
    "ROC": (
        "roc",
        "ROC curves of each class against the rest, on test, by regime",
        "A line is the mean over trials for one class against the rest, by the probability of the class. The dotted "
        "diagonal is what a blind classifier gives.",
    ),
    "Reliability": (
        "reliability",
        "Share of right calls against the stated probability of the most likely class, by regime",
        "On the diagonal a stated probability is true. Vertical lines: Wilson's 95 % interval for the images of one "
        "trial, taken as independent. Below: images per bin. A temperature chosen on validation cannot mend a shift "
        "between validation and test.",
    ),
    "Confusion matrices": (
        "confusion",
        "Confusion matrices on test by regime",
        "Counts averaged over trials, in brackets the share of the true class. The decision is for the most likely "
        "class.",
    ),
}
_IN_TABLES = ("forest", meter.NAME)  # figures whose sections stand in table.md
_OF_TWO, _OF_SEVERAL = ("Precision and recall", "How the threshold carries over"), ("Recall by class",)


def figures_of(classes: Sequence[str]) -> dict[str, tuple[str, Figure]]:
    """Return the title of each figure, and how to read it, by the name of its file."""
    several = len(classes) > 2
    left_out = _OF_TWO if several else _OF_SEVERAL
    captions = {title: c for title, c in _CAPTIONS.items() if title not in left_out} | (_SEVERAL if several else {})
    words = {"endpoint": endpoint_of(classes), "positive": classes[1]}
    return {
        name: (title, Figure(name, caption.format(**words), alt.format(**words)))
        for title, (name, alt, caption) in captions.items()
    }


REFERENCES = (
    "Several tests: Holm 1979, Scand. J. Stat. 6; crossed random factors: Owen 2007, Ann. Appl. Stat. 1; clusters: "
    "Cameron, Gelbach & Miller 2011, JBES 29.",
    "Image-level references: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44; McNemar 1947, Psychometrika 12.",
    "ECE: Naeini et al. 2015, AAAI; temperature: Guo et al. 2017, arXiv:1706.04599; Wilson's interval: Wilson 1927, "
    "JASA 22.",
    "The controls: Buda et al. 2018, arXiv:1710.05381; focal loss: Lin et al. 2017, arXiv:1708.02002.",
)


def write_outputs(
    results: StudyResults,
    analysis: Analysis,
    data: Dataset,
    run: Path,
    note: str,
    notes: Sequence[str],
    synthetic: Sequence[SyntheticSet] = (),
    links: Sequence[Link] = (),
) -> None:
    """Write table.md, .csv, .json and .tex, report.md, report.html, and figures/*.png and *.svg into the run's folder.

    Args:
        results: the trials with their predictions.
        analysis: of these trials.
        data: what the trials were trained and tested on.
        run: the folder.
        note: how all this was made, in a sentence or two.
        notes: what a reader must know. Caveats of the analysis stand at the end, all others below the answer.
        synthetic: the sets of synthetic images, of which the page shows the first images.
        links: pages in the run's folder.
    """
    rows, failures = tables.regime_rows(results, analysis), find_failures(results.main, data)
    (run / PICTURES).mkdir(exist_ok=True)
    drawn = figures.draw_all(results, analysis, data, failures)
    pictures = {
        name: save_figure(figure, run / PICTURES, name)
        for name, figure in progress.each(list(drawn.items()), "drawing", "figure")
    }
    first = [samples.section(synthetic, data)] if synthetic else []
    if synthetic:
        pictures[samples.NAME] = samples.draw(synthetic, data)
        write_bytes(run / PICTURES / f"{samples.NAME}.png", pictures[samples.NAME])
    of_analysis = [n for n in notes if n in analysis.notes]
    warnings, caveats = part_notes([n for n in notes if n not in analysis.notes])
    document = Document(
        f"Did balancing help? {plural(len(rows), 'regime')} on {figures.data_name(data)}",
        warnings,
        analysis.verdict,
        analysis.headline,
        [*first, *sections(results, rows, analysis, failures, set(pictures), note, of_analysis)],
        links=[*links, *documentation("ablation", "statistics")],
        caveats=caveats,
    )
    write_text(run / "report.md", to_markdown(document, PICTURES))
    files = {name: f"{PICTURES}/{name}.{'svg' if name in drawn else 'png'}" for name in pictures}
    write_text(run / "report.html", to_html(document, pictures, files))
    write_text(run / "table.md", to_markdown(_tables_of(document)))
    write_text(run / "table.csv", tables.csv_table(rows, analysis.meter))
    write_text(run / "table.tex", tables.latex_tables(rows, analysis))
    regimes = [row.to_json() for row in rows]
    write_json(run / "table.json", {**analysis.to_json(), "regimes": regimes, "notes": notes, "source": note})


def _tables_of(document: Document) -> Document:
    """Return the document without figures and the sections that illustrate them."""
    sections = [replace(s, figure=None) for s in document.sections if s.figure is None or s.figure.name in _IN_TABLES]
    return replace(document, sections=sections, links=[])


def sections(
    results: StudyResults,
    rows: Sequence[tables.RegimeRow],
    analysis: Analysis,
    failures: Failures,
    shown: set[str],
    note: str,
    notes: Sequence[str],
) -> list[Section]:
    """Return the report below its verdict; a section with nothing to say is left out.

    Args:
        results: the trials.
        rows: of the tables.
        analysis: of the trials.
        failures: images that most trials get wrong.
        shown: names of the figures that were drawn.
        note: how the report was made.
        notes: caveats.
    """
    first, *blocks = [
        Section(title, [], tables.regime_table(rows, columns)) for title, columns in rows[0].layout.blocks.items()
    ]
    first.paragraphs.append(tables.caption(rows, analysis))
    more = {
        "forest": _differences(analysis),
        meter.NAME: meter.text_and_table(analysis.meter),
        "reliability": (_at_bound(results), tables.calibration_table(results, results.regimes)),
        "failures": _failures(failures, results.classes),
    }
    illustrated = {}
    for name, (title, figure) in figures_of(results.classes).items():
        paragraphs, table = more.get(name, ([], None))
        if name in shown or paragraphs:
            bullets = meter.sentences(analysis.meter) if name == meter.NAME else []
            illustrated[name] = Section(title, paragraphs, table, figure if name in shown else None, bullets)
    return [
        *([Section("What would settle it", bullets=analysis.advice)] if analysis.advice else []),
        first,
        *(illustrated.pop(name) for name in ("forest", "seeds", "dose", meter.NAME) if name in illustrated),
        *blocks,
        *illustrated.values(),
        Section("What the regimes were trained on", [], tables.training_table(rows)),
        *_references(tables.by_family(analysis), analysis.unit),
        *([Section("Notes", bullets=list(notes))] if notes else []),
        Section("How this was made", [note]),
        Section("References", bullets=list(REFERENCES), folded=True),
    ]


def _differences(analysis: Analysis) -> tuple[list[str], Table | None]:
    """Return every contrast; the sentences of the confirmatory contrasts stand on top of the page."""
    if not analysis.contrasts:
        return ["No two regimes here make a pair that would answer a question."], None
    text = (
        f"Differences in test {endpoint_of(analysis.classes)}, paired by trial seed. Only the families confirmatory "
        "and shortcut are adjusted for several tests (Holm), each by itself. Detectable: the effect that such a study "
        f"finds in 80 % of cases. Margin: ±{short_margin()}, below which an effect is of no use."
    )
    return [text], tables.contrast_table(analysis)


def _at_bound(results: StudyResults) -> list[str]:
    """Return the sentence on temperatures that validation could not tell; nothing if there is none."""
    trials = [trial for trial in results.main.trials if is_at_bound(trial.test.temperature)]
    if not trials:
        return []
    names = ", ".join(dict.fromkeys(trial.regime for trial in trials))
    return [
        f"The temperature of {len(trials)} of {plural(len(results.main.trials), 'trial')} ({names}) lies {BOUND_NOTE}."
    ]


def _failures(failures: Failures, classes: Sequence[str]) -> tuple[list[str], Table | None]:
    """Return how many test images most trials get wrong, and the names of the images that the figure shows."""
    counts, two = [len(of_class) for of_class in failures.of_class], len(classes) == 2
    who = "its only trial gets" if failures.trials == 1 else f"more than half of its {failures.trials} trials get"
    where = f"at validation's threshold: {counts[0]} {classes[0]} called {classes[1]}, {counts[1]} the other way round."
    if not two:
        where = f"by the most likely class: {', '.join(f'{n} {c}' for n, c in zip(counts, classes, strict=True))}."
    text = f"Regime `{failures.regime}`: {who} {sum(counts)} of {failures.tested} test images wrong {where}"
    rows = [
        [f"`{f.name}`", classes[f.label], *([] if two else [f.called]), short(f.probability), _of_trials(f, failures)]
        for of_class in failures.of_class
        for f in of_class[:SHOWN]
    ]
    header = ["file", "true class", f"mean probability of {classes[1]}", "trials that err"]
    if not two:
        header[2:3] = ["called", "its mean probability"]
    return [text], Table(header, rows, numeric=2 if two else 3) if rows else None


def _of_trials(failure: Failure, failures: Failures) -> str:
    return f"{failure.wrong} of {failures.trials}"


def _references(contrasts: Sequence[ContrastResult], unit: str) -> list[Section]:
    """Return where the intervals come from, and what tests that know neither patients nor seeds would say."""
    if not contrasts:
        return []
    variances = []
    for c in contrasts:
        e = c.estimate
        roots = (max(v, 0) ** 0.5 for v in (e.patients, e.trial_seeds, e.gan_seeds, e.counted_twice))
        seeds = f"{e.n_trial_seeds} x {max(c.gan_seeds, 1)}"
        variances.append([c.name, f"{e.se:.4f}", f"{e.df:.1f}", *(f"{root:.4f}" for root in roots), seeds])
    compared = [
        [
            c.name,
            signed(c.delong.estimate),
            p_value(c.delong.p),
            f"{c.mcnemar.n10} / {c.mcnemar.n01}",
            p_value(c.mcnemar.p),
        ]
        for c in contrasts
        if c.delong and c.mcnemar
    ]
    text = (
        "Standard errors of the differences and their parts. The square of the standard error is the sum of the "
        "squares of the parts, less the part counted twice: scatter over seeds was measured on "
        f"these {unit}s. "
        "Method and calibration: `docs/statistics.md`."
    )
    warning = (
        "DeLong's test on scores averaged over trials, and McNemar's exact test on majority decisions: images that "
        "only the first, and only the second, decides rightly. Both take images as independent and trainings as "
        "given. So both are too sure, and decide nothing here."
    )
    header = ["difference", "standard error", "df", f"{unit}s", "trial seeds", "GAN seeds", "counted twice"]
    made = [Section("Where the uncertainty comes from", [text], Table([*header, "trial x GAN seeds"], variances))]
    if compared:
        header = ["difference", "DeLong", "p", "McNemar", "p"]
        made.append(Section("Image-level references", [warning], Table(header, compared)))
    return made
