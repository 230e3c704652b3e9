"""What may be said about an analysed contrast: a verdict, a sentence, and the answer to "did GAN balancing help?"."""

from __future__ import annotations

from collections.abc import Sequence

from balancer.reporting.numbers import bounds, p_equals, plural, short, signed
from classifier.analysis.contrasts import INTERACTION, ContrastResult
from classifier.analysis.statistics import ALPHA, FEWEST_GAN_SEEDS, FEWEST_TRIAL_SEEDS, Estimate

MARGIN = 0.01  # of the endpoint, an AUROC; a smaller effect is of no use
UNSETTLED = "not settled"
NO_SCATTER = "the trials show no scatter"
# What the checks of a study must find, and what to say otherwise: a second run of the same must differ by nothing,
# wrong labels must hurt.
CHANCE = "NOT as it must be, which chance does to one sound study in twenty"
FAULT = "NOT as it must be: wrong labels should hurt, look for a fault in the study"
CHECKS = {
    "baseline_again": (("no benefit", UNSETTLED), CHANCE),
    "flipped": (("hurts",), FAULT),
    "permuted": (("hurts",), FAULT),
}
NOT_ASKED = "Not asked: no regime with synthetic images was run beside the same regime without them."
# Synthetic images, the same regime without them, and the same with as many duplicates, by what the answer calls the
# pair.
QUESTIONS = {
    "without augmentation": ("gan", "baseline", "duplicate"),
    "with augmentation": ("combined", "augment", "duplicate_augment"),
}


def verdict_of(estimate: Estimate, p: float | None) -> str:
    """Return the verdict on an effect.

    Args:
        estimate: of the effect.
        p: decides whether there is an effect; Holm-adjusted for a confirmatory contrast, None if no test was made.

    Returns:
        ``helps`` or ``hurts``: there is an effect. ``no benefit``: the interval lies inside the margin. ``small``:
        both. ``not settled``: neither.
    """
    if p is None:
        return UNSETTLED
    inside, differs = max(-estimate.low, estimate.high) < MARGIN, p < ALPHA
    if inside:
        return "small" if differs else "no benefit"
    if differs:
        return "helps" if estimate.value > 0 else "hurts"
    return UNSETTLED


def sentence(result: ContrastResult) -> str:
    """Return ``combined - augment: +.012 AUROC [.004, .020], Holm p = .01: helps``."""
    effect = f"{result.name}: {_effect(result)}"
    if result.p is None:
        alone = " over the test set alone" if result.estimate.n_trial_seeds == 1 else ""
        return f"{effect}{alone}: {too_few_seeds(result.estimate.n_trial_seeds)}"
    adjusted = result.p_holm if result.contrast.is_adjusted else None
    test = f"unadjusted {p_equals(result.p)}" if adjusted is None else f"Holm {p_equals(adjusted)}"
    return f"{effect}, {test}: {_in_words(result)}"


def too_few_seeds(trial_seeds: int) -> str:
    """Return why no claim can rest on so few trial seeds; nothing if there are enough."""
    if trial_seeds >= FEWEST_TRIAL_SEEDS:
        return ""
    if trial_seeds == 1:
        return "one trial seed, no claim can rest on it"
    return f"exploratory: {trial_seeds} trial seeds, a verdict takes {FEWEST_TRIAL_SEEDS}"


def over_seeds(trial_seeds: int) -> str:
    """Return what the figures of so many trial seeds are, for the text above a table."""
    if trial_seeds == 1:
        return "one trial seed: no SD, and no claim can rest on it"
    few = too_few_seeds(trial_seeds)
    return f"mean ± SD over trial seeds ({few})" if few else "mean ± SD over trial seeds"


def _effect(result: ContrastResult) -> str:
    e = result.estimate
    return f"{signed(e.value)} {result.endpoint} {bounds(e.low, e.high)}"


def _in_words(result: ContrastResult) -> str:
    """Return the verdict with what limits it."""
    contrast, verdict = result.contrast, result.verdict
    if contrast.left in CHECKS:
        sound, otherwise = CHECKS[contrast.left]
        if verdict == UNSETTLED and verdict not in sound and result.estimate.low < -MARGIN:
            return f"{UNSETTLED} at this n: wrong labels should hurt, and may do so"
        if verdict not in sound:
            return otherwise
        return "as it must be" if result.estimate.se > 0 else f"as it must be ({NO_SCATTER})"
    if verdict == UNSETTLED:
        power = (
            NO_SCATTER
            if result.mde is None
            else f"an effect of {short(result.mde)} would have been found in 80 % of such studies"
        )
        return "; ".join([f"{UNSETTLED} at this n ({power})", *_ruled_out(result)])
    words = {
        "small": f"a difference, but smaller than the margin of {short_margin()}",
        "no benefit": f"no effect larger than {short_margin()} either way",
    }.get(verdict, verdict)
    if contrast.name == INTERACTION and verdict in ("helps", "hurts"):
        words = f"both together do {'more' if verdict == 'helps' else 'less'} than the sum of their effects"
    limits = [] if contrast.is_adjusted else ["exploratory"]
    if contrast.uses_synthetic and not result.claims_the_gan:
        limits.append(f"for {sets_in_words(result.gan_seeds)}")
    return f"{words} ({', '.join(limits)})" if limits else words


def _ruled_out(result: ContrastResult) -> list[str]:
    """Return what the interval of an unsettled contrast excludes: a gain, or a loss, as large as the margin."""
    gain, loss = result.estimate.high < MARGIN, result.estimate.low > -MARGIN
    return [f"a {what} of {short_margin()} is ruled out" for what, out in (("gain", gain), ("loss", loss)) if out]


def short_margin() -> str:
    """Return ``.01``."""
    return f"{MARGIN:g}".removeprefix("0")


def sets_in_words(gan_seeds: int) -> str:
    """Return ``this synthetic set`` or ``these 2 synthetic sets``."""
    return "this synthetic set" if gan_seeds < 2 else f"these {gan_seeds} synthetic sets"


def answer(results: Sequence[ContrastResult]) -> str:
    """Return one paragraph: did GAN balancing help, and did it do more than as many copies of real images?

    What the regimes showed in which being synthetic tells little of the class comes last, where they were run.
    """
    return " ".join([_of_balancing(results), *on_the_shortcut(results)])


def _of_balancing(results: Sequence[ContrastResult]) -> str:
    by_name = {result.name: result for result in results}
    effects = {
        words: effect
        for words, (regime, reference, _) in QUESTIONS.items()
        if (effect := by_name.get(f"{regime} - {reference}")) is not None
    }
    if not effects:
        return NOT_ASKED
    fewest_sets = min(effect.gan_seeds for effect in effects.values())
    claims_the_gan = all(effect.claims_the_gan for effect in effects.values())
    subject = "GAN balancing" if claims_the_gan else sets_in_words(fewest_sets)
    clauses = "; ".join(_clause(words, effect) for words, effect in effects.items())
    sentences = [f"{_yes_or_no([e.verdict for e in effects.values()])} {subject[0].upper()}{subject[1:]} {clauses}."]
    for words, effect in effects.items():
        if effect.verdict == "helps":
            regime, _, duplicate = QUESTIONS[words]
            sentences.append(_against_copies(words, by_name.get(f"{regime} - {duplicate}")))
    return " ".join([*sentences, *limits(list(effects.values()))])


def limits(results: Sequence[ContrastResult]) -> list[str]:
    """Return what limits every claim of contrasts with synthetic images: too few trial seeds, or too few GAN seeds."""
    said = []
    if any(result.p is None for result in results):
        fewest_seeds = min(result.estimate.n_trial_seeds for result in results)
        said.append(
            f"With {plural(fewest_seeds, 'trial seed')} no claim can rest on it: a verdict takes {FEWEST_TRIAL_SEEDS}."
        )
    if not all(result.claims_the_gan for result in results):
        fewest_sets = min(result.gan_seeds for result in results)
        said.append(f"A claim about the GAN itself takes {FEWEST_GAN_SEEDS} GAN seeds or more; here: {fewest_sets}.")
    return said


def on_the_shortcut(results: Sequence[ContrastResult], where: Sequence[str] = ()) -> list[str]:
    """Return what the contrasts say of regimes in which being synthetic tells little of the class; none if untested.

    Args:
        results: of which others than these are passed over.
        where: words for each result, such as ``at 50 images``; none if all are of one study.
    """
    places = [f" {words}" for words in where] or [""] * len(results)
    tested = [
        (r, at, r.p_holm)
        for r, at in zip(results, places, strict=True)
        if r.contrast.family == "shortcut" and r.p_holm is not None
    ]
    if not tested:
        return []
    differing = [of for of in tested if of[2] < ALPHA]
    named = "; ".join(f"{r.name}{at} {_effect(r)}, Holm {p_equals(p)}" for r, at, p in differing)
    return [
        f"Where being synthetic tells little of the class, {len(differing) or 'none'} of"
        f" {plural(len(tested), 'comparison')} {'differ' if len(differing) > 1 else 'differs'} after Holm's correction"
        f"{': ' if named else ''}{named}."
    ]


def _yes_or_no(verdicts: Sequence[str]) -> str:
    if "helps" in verdicts and "hurts" in verdicts:
        return "Yes and no."
    if "helps" in verdicts:
        return "Yes." if set(verdicts) == {"helps"} else "In part."
    if "hurts" in verdicts and UNSETTLED in verdicts:
        return "No, as far as it is settled."
    if "hurts" in verdicts or UNSETTLED not in verdicts:
        return "No."
    return f"{UNSETTLED.capitalize()}."


def _clause(words: str, result: ContrastResult) -> str:
    effect = f"({_effect(result)})"
    return {
        "helps": f"helped {words} {effect}",
        "hurts": f"hurt {words} {effect}",
        "small": f"changed something {words}, but less than {short_margin()} {effect}",
        "no benefit": f"made no difference larger than {short_margin()} {words} {effect}",
        UNSETTLED: f"{_undecided(result)} {words} {effect}",
    }[result.verdict]


def _undecided(result: ContrastResult) -> str:
    if result.p is None:  # too few trial seeds: the interval is that of the test set alone, and may lie beside 0
        return "cannot be judged"
    if result.estimate.high < MARGIN:
        return f"did not help by {short_margin()}, and may or may not have done harm,"
    return "may or may not have helped"


def _against_copies(words: str, result: ContrastResult | None) -> str:
    if result is None:
        return (
            f"It was not compared with as many copies of real images {words}: the gain may be that of balancing alone "
            "(--regimes all,controls compares)."
        )
    same = (
        f"As many copies of real images did the same {words}, within {short_margin()}: the gain is that of balancing."
    )
    return {
        "helps": f"It did more than as many copies of real images {words}.",
        "hurts": f"As many copies of real images did better {words}.",
        "small": same,
        "no benefit": same,
        UNSETTLED: f"Whether it did more than as many copies of real images {words} is {UNSETTLED}.",
    }[result.verdict]


def notes_on_tables(patients_known: bool) -> list[str]:
    """Return the caveats about columns that only the tables of a single ablation have."""
    known = "neither patients nor" if patients_known else "no"
    return [
        f"DeLong and McNemar are image-level references: they know {known} seeds.",
        "ECE is biased upwards at such an n; its interval is not corrected for the bias.",
    ]


def notes(
    n_test: int, n_patients: int, trial_seeds: int, gan_seeds: int, left_out: int, unit: str = "patient"
) -> list[str]:
    """Return the caveats that a reader must have beside the metrics.

    Args:
        n_test: test images.
        n_patients: test patients.
        trial_seeds: trial seeds of the study.
        gan_seeds: synthetic sets of the study.
        left_out: trials of trial seeds that lack a synthetic set.
        unit: what intervals resample, "patient" or "image".
    """
    known = unit == "patient"
    caveats = [
        f"Intervals are over test {unit}s like these and over trainings. "
        "The training images, their split and the recipe are held fixed.",
        "The confirmatory and the shortcut contrasts are adjusted for their number (Holm), each family by itself. "
        "Exploratory contrasts are leads, not findings.",
        *notes_on_tables(known),
    ]
    if known and n_patients == n_test:
        caveats.append("No two test images are known to show the same patient: every image counts as a patient.")
    if trial_seeds == 1:
        caveats.append(f"One trial seed: intervals are over {unit}s alone, and no claim can rest on them.")
    elif trial_seeds < FEWEST_TRIAL_SEEDS:
        caveats.append(f"Everything here is {too_few_seeds(trial_seeds)}.")
    if 0 < gan_seeds < FEWEST_GAN_SEEDS:
        caveats.append(
            f"{plural(gan_seeds, 'synthetic set')}: verdicts hold for {sets_in_words(gan_seeds)}, not for the GAN."
        )
    if left_out:
        caveats.append(f"{plural(left_out, 'trial')} left out: trials of a seed that lacks a synthetic set.")
    return caveats
