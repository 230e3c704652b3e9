"""What the figures of a quality report mean, in plain words, each beside its real baseline.

The findings are rows of the report's main table; the verdict is a few sentences on the same figures. Nothing is
computed here but ratios. What the figures decide stands in :mod:`balancer.quality.judgement`. A difference is called
one only where chance hardly gives as much at this number of images (:mod:`balancer.metrics.chance`).
"""

from __future__ import annotations

from collections.abc import Iterator

from balancer.metrics.chance import FEWEST, MOST
from balancer.metrics.features import is_untrained
from balancer.metrics.frechet import ALIKE
from balancer.metrics.memorization import Memorization
from balancer.quality.judgement import (
    POOR,
    Likeness,
    LikenessClaim,
    controls,
    is_beyond_chance,
    likeness,
    main_rows,
    over,
    repeats,
    variety,
)
from balancer.quality.results import (
    HALF_SIZE,
    PIXELS,
    SYNTHETIC,
    DistanceRow,
    Finding,
    QualityReport,
)
from balancer.reporting.numbers import DASH, decibels, fixed, percent, short, times, with_interval

LIKENESS_CLAIMS: dict[LikenessClaim, str] = {
    "not tested": "No classifier was trained to tell the synthetic images from real ones.",
    "apart": "The synthetic images can be told from real ones.",
    "below chance": (
        "A classifier does worse than a coin, as where synthetic images are copies of the real ones beside them."
    ),
    "hard to tell": "The synthetic images are hard to tell from real ones.",
    "not settled": "Whether the synthetic images can be told from real ones is not settled at this number of images.",
}


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
    ratio = over(r.frechet, r.frechet_real_baseline)
    sets = f"two sets of {r.n_real} real images"
    # The kernel distance on the same features stands in: a Fréchet distance for each draw of sides would take hours.
    if ratio > ALIKE:
        chance = "" if is_beyond_chance(r, higher=True) else f", which chance can do {_at(r.n_real)}"
        return f"{times(ratio).capitalize()} the distance between {sets}{chance}."
    if ratio < 1 / ALIKE and is_beyond_chance(r, higher=False):
        return f"Less than the distance between {sets}: expected of copies, not of new images."
    return f"About the distance between {sets}; with small sets this says little."


def _too_few(r: DistanceRow) -> bool:
    """Return whether no difference could show at this number of images; reports of earlier versions did not ask."""
    return r.kid_chance is not None and r.n_real < FEWEST


def _at(n: int) -> str:
    """Return the number of images a side that chance was asked with, where there are n."""
    return "at this n" if n <= MOST else f"with {MOST} images a side"


def _too_few_words(r: DistanceRow) -> str:
    return f"{r.n_real} images a side are too few to tell."


def _kid_words(r: DistanceRow, excess: float) -> str:
    """Describe KID's excess over its real baseline, in SDs over subsets of real images."""
    if _too_few(r):
        return _too_few_words(r)
    if abs(excess) <= 2:
        return "Within the scatter of subsets of real images."
    if not is_beyond_chance(r, higher=excess > 0):
        return f"Within what chance does {_at(r.n_real)}."
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
    real = controls(quality)
    for t in quality.two_sample:
        if t.compared == SYNTHETIC and not is_untrained(t.on):
            control = real.get(t.on)
            yield Finding(
                f"Two-sample AUROC ({t.classifier}, {t.on})",
                with_interval(t.auroc, t.low, t.high, 2),
                t.n_real,
                t.n_fake,
                short(control.auroc, 2) if control else DASH,
                f"{_capitalised(t.interpretation)}.",
            )


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
        if quality.memorization and repeats(quality.memorization):
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
    judged = likeness(quality)
    evidence = [*_classifier_evidence(judged), *_distance_evidence(main_rows(quality))]
    if not evidence:
        return ""
    if judged.claim == "apart" and quality.format_caveat:
        evidence.append(quality.format_caveat)
    return " ".join([LIKENESS_CLAIMS[judged.claim], *evidence])


def _classifier_evidence(judged: Likeness) -> Iterator[str]:
    best = judged.best
    if best is None:
        return
    if not judged.apart:
        yield f"The best classifier, on {best.on}, orders {percent(best.auroc)} of pairs correctly."
        return
    sentence = f"A classifier on {best.on} tells them apart in {percent(best.auroc)} of pairs"
    if HALF_SIZE in judged.apart and best.on == PIXELS:
        share = percent(judged.apart[HALF_SIZE].auroc)
        sentence += f", and at half size in {share}, so not by fine detail alone"
    yield f"{sentence}."


def _distance_evidence(rows: list[DistanceRow]) -> Iterator[str]:
    r = next((r for r in rows if r.frechet_real_baseline is not None), None)
    if r and r.frechet_real_baseline is not None:
        if _too_few(r):
            yield f"{r.n_real} images a side are too few for a distance."
            return
        ratio = over(r.frechet, r.frechet_real_baseline)
        doubted = ratio > ALIKE and not is_beyond_chance(r, higher=True)
        chance = f", which chance can do {_at(r.n_real)}" if doubted else ""
        yield f"The {r.frechet_name} is {times(ratio)} that between two sets of {r.n_real} real images{chance}."


def _on_variety(quality: QualityReport) -> str:
    v, m = variety(quality), quality.memorization
    if v is None:
        return ""
    text = (
        "The generator has collapsed: its images show"
        if v.collapsed
        else f"The synthetic images show{' only' if v.little else ''}"
    )
    text += (
        f" {percent(v.overlap.recall)} of the variety of real images; other real images show {percent(v.real.recall)}."
    )
    if v.recall_share < POOR and not v.little:
        text += f" Chance can do that {_at(v.n)}."
    if v.recall_share >= POOR and v.coverage_share < POOR and not v.collapsed:
        # Images that are off in every direction spread wide: they raise recall and lie near no real image.
        text += (
            f" But {percent(v.overlap.coverage)} of the real images have a synthetic one near them, where other real"
            f" images give {percent(v.real.coverage)}: so recall alone is no sign of variety."
        )
    if v.recall_share >= POOR and v.few:
        text += f" With {v.n} images a side this says little."
    if m and v.repeated:
        text += f" {m.duplicates_within:,} of the {m.n_fake:,} images repeat another image."
        text += " Tests count each of them, so their p-values and intervals are too sure."
    return text
