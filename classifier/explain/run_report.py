"""The page of `classifier explain RUN`: the comparison of regimes, right beside wrong for each, and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from balancer.data.dataset import Dataset
from balancer.data.listing import printable
from balancer.data.sampling import evenly
from balancer.reporting.document import Document, Figure, Section, Table, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import short
from classifier.explain.checks import METHOD_PIXELS, METHOD_WEIGHTS
from classifier.explain.faithfulness import DRAWS
from classifier.explain.pictures import Tile, grid, overlay, png
from classifier.explain.report import method_table, reading
from classifier.explain.results import Example, RegimeView, RunExplanation, StudyMaps
from classifier.report.failures import short_name
from classifier.report.model_card import RESEARCH_ONLY

SIDE_BY_SIDE = 6  # images whose maps by two regimes are shown
COMPARISON = (
    "Agreement is Spearman's rank correlation of two maps of one image, for its true class, always between trainings of"
    " different seeds: first of one regime, then of two regimes. The test: a regime looks at other places than its"
    " reference if the 95 % interval of the difference lies above 0. The intervals resample patients, and from 3"
    " seeds on hold the scatter over seeds."
)


def document(result: RunExplanation, data: Dataset, maps: StudyMaps) -> tuple[Document, dict[str, bytes]]:
    """Return the page and its pictures."""
    pictures: dict[str, bytes] = {}
    sections = []
    if result.comparisons:
        gallery = _side_by_side(result, data, maps, pictures)
        sections.append(
            Section("Do regimes look at different places?", [COMPARISON], _comparison_table(result), gallery=gallery)
        )
    for view in result.regimes:
        paragraphs = [
            f"Test images by the first training (seed {view.seed}), each above the same under its heat map for the"
            " class that was called. The mistakes are the most confident ones; the right calls are evenly spread.",
        ]
        if not any(not example.is_right for example in view.examples):
            paragraphs.append("This training calls no test image wrongly.")
        sections.append(
            Section(f"{view.regime}: right and wrong", paragraphs, gallery=_right_and_wrong(view, data, pictures))
        )
    if any(view.checks for view in result.regimes):
        method = [METHOD_PIXELS, METHOD_WEIGHTS.format(draws=DRAWS)]
        sections.append(Section("Do the maps mean something?", method, _check_table(result.regimes)))
    sections.append(Section("How the maps were made", table=method_table(result.method, result.layer, result.cells)))
    title = f"Where the classifiers look: {Path(result.run).name}"
    headline = [*result.check_sentences, result.counts]
    warnings, caveats = part_notes(result.notes)
    page = Document(
        title,
        [*warnings, RESEARCH_ONLY],
        result.verdict,
        headline,
        sections,
        [reading(result.method)],
        result.fails,
        documentation("explain"),
        caveats=caveats,
    )
    return page, pictures


def _comparison_table(result: RunExplanation) -> Table:
    rows = [
        [
            f"{c.regime} beside {c.reference}",
            str(c.seeds),
            str(c.n),
            c.within.text,
            c.between.text,
            c.difference.signed_text,
            {"elsewhere": "other places", "not shown": "not shown", "too few": "too few to say"}[c.verdict],
        ]
        for c in result.comparisons
    ]
    header = ["regimes", "seeds", "images", "within a regime [95 %]", "between them [95 %]", "difference [95 %]", ""]
    return Table(header, rows, words=True)


def _check_table(views: Sequence[RegimeView]) -> Table:
    rows = []
    for view in views:
        if view.checks is not None:
            pixels, weights = view.checks.pixels, view.checks.weights
            gains = [curve.gain.signed_text for curve in (pixels.deletion, pixels.insertion)]
            last = weights.stages[-1].correlation
            others = "better" if pixels.is_specific else "not shown"
            rows.append([view.regime, *gains, pixels.verdict, others, last.text, weights.verdict])
    gains = ["gain in deletion [95 %]", "gain in insertion [95 %]", "than random maps", "than other images' maps"]
    return Table(["regime", *gains, "correlation, untrained [95 %]", "on the weights, they"], rows)


def _right_and_wrong(view: RegimeView, data: Dataset, pictures: dict[str, bytes]) -> list[Figure]:
    """Draw pairs of a right and a wrong image of one class, each above its map; add the pictures."""
    figures = []
    heat = dict(zip((example.position for example in view.examples), view.heat.maps, strict=True))
    for label, truth in enumerate(data.classes):
        for number, pair in enumerate(_pairs([e for e in view.examples if e.truth == truth]), 1):
            pixels = [data.images[example.position] for example in pair]
            above = [Tile(image, _lines(example, data)) for image, example in zip(pixels, pair, strict=True)]
            below = [Tile(overlay(image, heat[e.position])) for image, e in zip(pixels, pair, strict=True)]
            name = f"{view.regime}_{label}_{number}"
            pictures[name] = png(grid([above, below] if len(pair) > 1 else [[*above, Tile(below[0].picture)]]))
            named = ", ".join(printable(short_name(example.file)) for example in pair)
            figures.append(Figure(name, f"{truth}: {named}", f"{truth}: images above their heat maps"))
    return figures


def _pairs(examples: Sequence[Example]) -> list[list[Example]]:
    """Return right beside wrong ones; what is left of either kind in pairs of its own."""
    right, wrong = [e for e in examples if e.is_right], [e for e in examples if not e.is_right]
    pairs = [list(pair) for pair in zip(right, wrong, strict=False)]
    rest = (right if len(right) > len(wrong) else wrong)[len(pairs) :]
    return pairs + [list(rest[i : i + 2]) for i in range(0, len(rest), 2)]


def _lines(example: Example, data: Dataset) -> tuple[str, ...]:
    of = data.classes[1] if len(data.classes) == 2 else example.called
    verdict = "right" if example.is_right else "wrong"
    return f"{verdict}: called {example.called}", f"p({of}) = {short(example.probability)}"


def _side_by_side(result: RunExplanation, data: Dataset, maps: StudyMaps, pictures: dict[str, bytes]) -> list[Figure]:
    """Draw a few images under the maps of two seeds of the reference and of one seed of the regime."""
    figures = []
    shown = evenly(len(maps.positions), SIDE_BY_SIDE)
    for c in result.comparisons:
        seeds = sorted(set(maps.by_regime[c.regime]) & set(maps.by_regime[c.reference]))[:2]
        for number, i in enumerate(shown, 1):
            position = int(maps.positions[i])
            pixels, truth = data.images[position], data.classes[int(data.labels[position])]
            columns = [(c.reference, seeds[0]), (c.reference, seeds[1]), (c.regime, seeds[1])]
            tiles = [
                Tile(overlay(pixels, maps.by_regime[regime][seed][i]), (f"{regime}, seed {seed}",))
                for regime, seed in columns
            ]
            name = f"{c.regime}_beside_{c.reference}_{number}"
            pictures[name] = png(grid([[Tile(pixels, (truth,)), tiles[0]], tiles[1:]]))
            caption = f"{printable(short_name(data.records[position].name))}; maps for {truth}"
            figures.append(Figure(name, caption, f"One image and its maps by {c.reference} and {c.regime}"))
    return figures
