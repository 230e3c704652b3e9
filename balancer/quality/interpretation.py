"""What the figures of a quality report mean, in plain words, each beside its real baseline.

The findings are rows of the report's main table; the verdict is a few sentences on the same figures. Nothing is
computed here but ratios. The constants below part one wording from the next. A difference is called one only where
chance hardly gives as much at this number of images (:mod:`balancer.metrics.chance`).
"""

from __future__ import annotations

from collections.abc import Iterator

from scipy.stats import fisher_exact

from balancer.metrics.chance import ALPHA, FEWEST
from balancer.metrics.manifold import NEIGHBOURS
from balancer.metrics.memorization import Memorization
from balancer.metrics.two_sample import chance_level
from balancer.quality.results import (
    HALF_SIZE,
    PIXELS,
    SYNTHETIC,
    UNTRAINED,
    DistanceRow,
    Finding,
    QualityReport,
    TwoSampleRow,
)
from balancer.reporting.numbers import DASH, decibels, fixed, percent, short, times, with_interval

ALIKE = 1.5  # a Fréchet distance up to this many real baselines counts as equal to the baseline
HARD_TO_TELL = 0.6  # images are hard to tell from real ones if no AUROC's interval exceeds this
COLLAPSED = 0.1  # recall below this share of its real baseline, with poor coverage, means a collapsed generator
POOR = 0.5  # recall or coverage below this share of its real baseline is little
FEW = 10 * NEIGHBOURS  # images a side: among fewer, the neighbourhoods that recall counts by overlap widely
REPEATED = 0.1  # share of synthetic images that repeat one another from which the verdict says so


def interpret(quality: QualityReport) -> list[Finding]:
    """Return each main figure with its real baseline and what the two say."""
    rows = [*_distance_findings(quality), *_overlap_findings(quality), *_two_sample_findings(quality)]
    return [*rows, *_memorization_findings(quality), *_spectrum_findings(quality)]


def verdict(quality: QualityReport) -> str:
    """Return the report in a few sentences: copies first, then likeness, then variety."""
    if quality.same_images:
        return f"The synthetic images are identical to a real set ({quality.same_images}). Nothing in them is new."
    sentences = [_on_held_out(quality), _on_copies(quality.memorization), _on_likeness(quality), _on_variety(quality)]
    return " ".join(s for s in sentences if s) or "Too few images for a verdict."


def main_rows(quality: QualityReport) -> list[DistanceRow]:
    """Return the distances that the interpretation goes by: to the main reference, on trained networks.

    Where the synthetic images are the real ones, the full sets are compared, so that the distance is 0 as it should be.
    """
    rows = [r for r in quality.distances if r.reference == quality.reference]
    if quality.same_images:
        rows = [r for r in quality.distances if r.frechet_real_baseline is None] or rows
    return [r for r in rows if r.features != UNTRAINED] or rows


def _distance_findings(quality: QualityReport) -> Iterator[Finding]:
    for r in main_rows(quality):
        name = "FID" if r.frechet_name == "FID" else f"Fréchet distance ({r.features})"
        baseline = fixed(r.frechet_real_baseline)
        yield Finding(name, fixed(r.frechet), r.n_real, r.n_fake, baseline, _frechet_words(r))
        if r.kid_real_baseline is not None and r.kid_sd_real_baseline is not None:
            excess = (r.kid - r.kid_real_baseline) / max(r.kid_sd_real_baseline, 1e-9)
            kid, baseline = f"{fixed(r.kid, 4)} ± {fixed(r.kid_sd, 4)}", fixed(r.kid_real_baseline, 4)
            yield Finding(f"KID ({r.features})", kid, r.n_real, r.n_fake, baseline, _kid_words(r, excess))


def _frechet_words(r: DistanceRow) -> str:
    if r.frechet_real_baseline is None:  # KID, unbiased for independent sets, would even be below 0
        return "No difference: these are the same images."
    if _too_few(r):
        return _too_few_words(r)
    ratio = _over(r.frechet, r.frechet_real_baseline)
    sets = f"two sets of {r.n_real} real images"
    # The kernel distance on the same features stands in: a Fréchet distance for each draw of sides would take hours.
    if ratio > ALIKE:
        chance = "" if _is_beyond_chance(r, higher=True) else ", which chance can do at this n"
        return f"{times(ratio).capitalize()} the distance between {sets}{chance}."
    if ratio < 1 / ALIKE and _is_beyond_chance(r, higher=False):
        return f"Less than the distance between {sets}: expected of copies, not of new images."
    return f"About the distance between {sets}; with small sets this says little."


def _too_few(r: DistanceRow) -> bool:
    """Return whether no difference could show at this number of images; reports of earlier versions did not ask."""
    return r.kid_chance is not None and r.n_real < FEWEST


def _too_few_words(r: DistanceRow) -> str:
    return f"{r.n_real} images a side are too few to tell."


def _is_beyond_chance(r: DistanceRow, higher: bool) -> bool:
    """Return whether chance hardly gives a kernel distance so high, or so low."""
    if r.kid_chance is None:
        return True
    return r.kid_chance.is_high if higher else r.kid_chance.is_low


def _over(value: float, baseline: float) -> float:
    return value / max(baseline, 1e-9)  # real sets of equal blank images lie 0 apart


def _kid_words(r: DistanceRow, excess: float) -> str:
    """Describe KID's excess over its real baseline, in SDs over subsets of real images."""
    if _too_few(r):
        return _too_few_words(r)
    if abs(excess) <= 2:
        return "Within the scatter of subsets of real images."
    if not _is_beyond_chance(r, higher=excess > 0):
        return "Within what chance does at this n."
    side = "Above" if excess > 0 else "Below"
    return f"{side} real against real by {times(abs(excess))} the scatter of subsets of real images."


def _overlap_findings(quality: QualityReport) -> Iterator[Finding]:
    r = next(iter(main_rows(quality)), None)
    if r is None or not r.overlap:
        return
    words = {
        "precision": "{} of the synthetic images look like some real image{}.",
        "recall": "The synthetic images show {} of the variety of the real images{}.",
        "coverage": "{} of the real images have a synthetic image near by{}.",
    }
    for name, sentence in words.items():
        value, baseline = getattr(r.overlap, name), getattr(r.overlap_real_baseline, name, None)
        against = "" if baseline is None else f"; other real images: {percent(baseline)}"
        text = _capitalised(sentence.format(percent(value), against))
        title = f"{name.capitalize()} ({r.features})"
        yield Finding(title, short(value, 2), r.n_real, r.n_fake, short(baseline, 2), text)


def _two_sample_findings(quality: QualityReport) -> Iterator[Finding]:
    controls = _controls(quality)
    for t in quality.two_sample:
        if t.compared == SYNTHETIC and t.on != UNTRAINED:
            control = controls.get(t.on)
            yield Finding(
                f"Two-sample AUROC ({t.classifier}, {t.on})",
                with_interval(t.auroc, t.low, t.high, 2),
                t.n_real,
                t.n_fake,
                short(control.auroc, 2) if control else DASH,
                f"{_capitalised(t.interpretation)}.",
            )


def _controls(quality: QualityReport) -> dict[str, TwoSampleRow]:
    """Return the tests of real against real by what the classifier sees."""
    return {t.on: t for t in quality.two_sample if t.compared != SYNTHETIC}


def _memorization_findings(quality: QualityReport) -> Iterator[Finding]:
    m = quality.memorization
    if m:
        figure = f"{m.exact_copies} exact, {m.near_copies} near"
        yield Finding("Copies of training images", figure, m.n_train, m.n_fake, DASH, m.verdict)


def _spectrum_findings(quality: QualityReport) -> Iterator[Finding]:
    s = quality.spectrum
    if s:
        figure, baseline = decibels(s.rms_db), decibels(s.rms_db_real_baseline)
        words = f"{_capitalised(s.interpretation)}."
        if quality.memorization and _repeats(quality.memorization):
            words += " Images that repeat one another count as many: this may be the mark of a single image."
        yield Finding("Power spectrum, RMS difference", figure, s.n_real, s.n_fake, baseline, words)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _on_held_out(quality: QualityReport) -> str:
    """Return the warning that synthetic images are the very images that they are compared with."""
    if not quality.held_out_copies:
        return ""
    return (
        f"{quality.held_out_copies:,} of the {quality.n_fake:,} synthetic images are identical to held-out images, so "
        "no figure of likeness counts."
    )


def _on_copies(m: Memorization | None) -> str:
    if m is None:
        return ""
    return "No copy of a training image was found." if m.status == "none" else m.verdict


def _on_likeness(quality: QualityReport) -> str:
    """Go by classifiers, which have an interval; a ratio of distances goes to 1 in small sets whatever the images."""
    tests = [t for t in quality.two_sample if t.compared == SYNTHETIC]
    controls = _controls(quality)
    apart = {t.on: t for t in tests if t.low > chance_level(controls.get(t.on))}
    evidence = [*_classifier_evidence(tests, apart), *_distance_evidence(main_rows(quality))]
    if not evidence:
        return ""
    if not tests:
        return f"No classifier was trained to tell the synthetic images from real ones. {' '.join(evidence)}"
    if apart:
        claim = "The synthetic images can be told from real ones."
        evidence += [quality.format_caveat] if quality.format_caveat else []
    elif any(t.high < 0.5 for t in tests):
        claim = (
            "A classifier does worse than a coin, as where synthetic images are copies of the real ones beside them."
        )
    elif all(t.high <= HARD_TO_TELL for t in tests):
        claim = "The synthetic images are hard to tell from real ones."
    else:
        claim = "Whether the synthetic images can be told from real ones is not settled at this number of images."
    return " ".join([claim, *evidence])


def _classifier_evidence(tests: list[TwoSampleRow], apart: dict[str, TwoSampleRow]) -> Iterator[str]:
    if tests:
        best = max(apart.values() or tests, key=lambda t: t.auroc)
        if not apart:
            yield f"The best classifier, on {best.on}, orders {percent(best.auroc)} of pairs correctly."
            return
        sentence = f"A classifier on {best.on} tells them apart in {percent(best.auroc)} of pairs"
        if HALF_SIZE in apart and best.on == PIXELS:
            share = percent(apart[HALF_SIZE].auroc)
            sentence += f", and at half size in {share}, so not by fine detail alone"
        yield f"{sentence}."


def _distance_evidence(rows: list[DistanceRow]) -> Iterator[str]:
    r = next((r for r in rows if r.frechet_real_baseline is not None), None)
    if r and r.frechet_real_baseline is not None:
        if _too_few(r):
            yield f"{r.n_real} images a side are too few for a distance."
            return
        ratio = _over(r.frechet, r.frechet_real_baseline)
        chance = ", which chance can do at this n" if ratio > ALIKE and not _is_beyond_chance(r, higher=True) else ""
        yield f"The {r.frechet_name} is {times(ratio)} that between two sets of {r.n_real} real images{chance}."


def _repeats(m: Memorization) -> bool:
    """Return whether many synthetic images repeat one another, and more than training patients do.

    Repetitions come in pairs, so half of them are independent: the test is Fisher's, on pairs.
    """
    if m.duplicates_within < REPEATED * m.n_fake:
        return False
    if m.train_duplicates is None or m.train_units is None:
        return True
    fake, real = m.duplicates_within // 2, m.train_duplicates // 2
    table = [[fake, m.n_fake // 2 - fake], [real, m.train_units // 2 - real]]
    return bool(fisher_exact(table, alternative="greater").pvalue <= ALPHA)


def _on_variety(quality: QualityReport) -> str:
    r, m = next((r for r in main_rows(quality) if r.overlap and r.overlap_real_baseline), None), quality.memorization
    if r is None or r.overlap is None or r.overlap_real_baseline is None:
        return ""
    overlap, baseline = r.overlap, r.overlap_real_baseline
    recall, coverage = _over(overlap.recall, baseline.recall), _over(overlap.coverage, baseline.coverage)
    repeated = m is not None and _repeats(m)
    little = recall < POOR and (r.recall_chance is None or r.recall_chance.is_low)
    # Recall alone is as low where all images are a little off; images that are far off cover nothing, however varied
    # they are.
    collapsed = little and recall < COLLAPSED and coverage < POOR
    collapsed = collapsed and (repeated or _over(overlap.precision, baseline.precision) >= POOR)
    text = (
        "The generator has collapsed: its images show"
        if collapsed
        else f"The synthetic images show{' only' if little else ''}"
    )
    text += (
        f" {percent(overlap.recall)} of the variety of real images; other real images show {percent(baseline.recall)}."
    )
    if recall < POOR and not little:
        text += " Chance can do that at this n."
    if recall >= POOR and r.n_real < FEW:
        text += f" With {r.n_real} images a side this says little."
    if m and repeated:
        text += f" {m.duplicates_within:,} of the {m.n_fake:,} images repeat another image."
        text += " Tests count each of them, so their p-values and intervals are too sure."
    return text
