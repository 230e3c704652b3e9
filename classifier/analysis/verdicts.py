"""What may be said of an analysed contrast: a verdict, a sentence, and the plain answer to "did GAN balancing help?"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from balancer.reporting.numbers import bounds, p_value, plural, short, signed
from classifier.analysis.statistics import ALPHA, FEWEST_GAN_SEEDS, Estimate
from classifier.training.regimes import REGIMES

MARGIN = 0.01  # AUROC; a smaller effect is of no use
UNSETTLED = "not settled"
# What the checks of a study must find, and what else to say: no difference from a second run of the same, harm from wrong labels.
CHANCE = "NOT as it must be, which chance does to one sound study in twenty"
FAULT = "NOT as it must be: wrong labels should hurt, look for a fault in the study"
CHECKS = {
    "baseline_again": (("no benefit", UNSETTLED), CHANCE),
    "flipped": (("hurts",), FAULT),
    "permuted": (("hurts",), FAULT),
}
INTERACTION = "interaction"
WITHOUT, WITH = ("gan", "baseline", "duplicate"), ("combined", "augment", "duplicate_augment")
Contrast = dict[str, Any]


def verdict_of(estimate: Estimate, p: float | None) -> str:
    """``helps``, ``hurts``, ``no benefit`` (surely inside the margin), ``small`` (a difference, surely inside it) or ``not settled``.

    Args:
        p: what decides whether there is a difference, Holm-adjusted where the contrast is confirmatory; None where no
            test was made, of which nothing is claimed.
    """
    if p is None:
        return UNSETTLED
    inside, differs = max(-estimate.low, estimate.high) < MARGIN, p < ALPHA
    if inside:
        return "small" if differs else "no benefit"
    if differs:
        return "helps" if estimate.value > 0 else "hurts"
    return UNSETTLED


def sentence(contrast: Contrast) -> str:
    """``combined - augment: +.012 AUROC [.004, .020], Holm p = .01: helps``."""
    c = contrast
    found = f"{c['name']}: {signed(c['estimate'])} AUROC {bounds(c['low'], c['high'])}"
    if c["p"] is None:
        return f"{found} over patients alone: one trial seed, no claim can rest on it"
    confirmatory = c["family"] == "confirmatory"
    tested = f"Holm p {_equals(c['p_holm'])}" if confirmatory else f"unadjusted p {_equals(c['p'])}"
    return f"{found}, {tested}: {_reading(c)}"


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _reading(c: Contrast) -> str:
    """The verdict in words, with what limits it."""
    verdict = c["verdict"]
    if c["left"] in CHECKS:
        sound, otherwise = CHECKS[c["left"]]
        return "as it must be" if verdict in sound else otherwise
    if verdict == UNSETTLED:
        found = f"an effect of {short(c['mde'])} would have been found in 80 % of such studies"
        return "; ".join([f"not settled at this n ({found})", *_ruled_out(c)])
    words = {
        "small": f"a difference, but smaller than the margin of {short_margin()}",
        "no benefit": f"no effect larger than {short_margin()} either way",
        "helps": "helps",
        "hurts": "hurts",
    }[verdict]
    if c["name"] == INTERACTION and verdict in ("helps", "hurts"):
        words = f"both together do {'more' if verdict == 'helps' else 'less'} than the sum of their effects"
    limits = [] if c["family"] == "confirmatory" else ["exploratory"]
    if uses_synthetic(c["coefficients"]) and c["gan_seeds"] < FEWEST_GAN_SEEDS:
        limits.append(f"for {sets_in_words(c['gan_seeds'])}")
    return f"{words} ({', '.join(limits)})" if limits else words


def _ruled_out(c: Contrast) -> list[str]:
    """What the interval of an unsettled contrast excludes all the same: a gain, or a loss, as large as the margin."""
    if c["p"] is None:  # over patients alone
        return []
    gain, loss = c["high"] < MARGIN, c["low"] > -MARGIN
    return [f"a {what} of {short_margin()} is ruled out" for what, out in (("gain", gain), ("loss", loss)) if out]


def short_margin() -> str:
    """``.01``."""
    return f"{MARGIN:g}".removeprefix("0")


def uses_synthetic(arms: Iterable[str]) -> bool:
    """Whether one of the arms, ``gan`` or ``gan@0.5``, has synthetic images."""
    return any(REGIMES[arm.split("@")[0]].synthetic for arm in arms)


def sets_in_words(gan_seeds: int) -> str:
    """``this synthetic set``, ``these 2 synthetic sets``."""
    return "this synthetic set" if gan_seeds < 2 else f"these {gan_seeds} synthetic sets"


def answer(contrasts: Sequence[Contrast]) -> str:
    """One paragraph: did GAN balancing help, and did it do more than as many copies of real images?"""
    by_name = {c["name"]: c for c in contrasts}
    effects = [
        (words, c, by_name.get(f"{regime} - {copies}"))
        for words, (regime, reference, copies) in (("without augmentation", WITHOUT), ("with augmentation", WITH))
        if (c := by_name.get(f"{regime} - {reference}")) is not None
    ]
    if not effects:
        return "Not asked: no regime with synthetic images was run beside the same regime without them."
    verdicts = [c["verdict"] for _, c, _ in effects]
    fewest_sets = min(c["gan_seeds"] for _, c, _ in effects)
    the_gan = fewest_sets >= FEWEST_GAN_SEEDS
    subject = "GAN balancing" if the_gan else sets_in_words(fewest_sets)
    said = [
        f"{_yes_or_no(verdicts)} {subject[0].upper()}{subject[1:]} {'; '.join(_effect(w, c) for w, c, _ in effects)}."
    ]
    said += [_against_copies(w, copies) for w, c, copies in effects if c["verdict"] == "helps"]
    if any(c["p"] is None for _, c, _ in effects):
        said.append("With one trial seed no claim can rest on it.")
    if not the_gan:
        said.append(f"A claim about the GAN itself takes {FEWEST_GAN_SEEDS} GAN seeds or more; here: {fewest_sets}.")
    return " ".join(said)


def _yes_or_no(verdicts: Sequence[str]) -> str:
    if "helps" in verdicts and "hurts" in verdicts:
        return "Yes and no."
    if "helps" in verdicts:
        return "Yes." if set(verdicts) == {"helps"} else "In part."
    if "hurts" in verdicts or UNSETTLED not in verdicts:
        return "No."
    return "Not settled."


def _effect(words: str, c: Contrast) -> str:
    figures = f"({signed(c['estimate'])} AUROC {bounds(c['low'], c['high'])})"
    return {
        "helps": f"helped {words} {figures}",
        "hurts": f"hurt {words} {figures}",
        "small": f"changed something {words}, but less than {short_margin()} {figures}",
        "no benefit": f"made no difference larger than {short_margin()} {words} {figures}",
        UNSETTLED: f"{_undecided(c)} {words} {figures}",
    }[c["verdict"]]


def _undecided(c: Contrast) -> str:
    if c["p"] is not None and c["high"] < MARGIN:
        return f"did not help by {short_margin()}, and may or may not have done harm,"
    return "may or may not have helped"


def _against_copies(words: str, copies: Contrast | None) -> str:
    if copies is None:
        return (
            f"It was not compared with as many copies of real images {words}: the gain may be that of balancing alone "
            "(--regimes all,controls compares)."
        )
    return {
        "helps": f"It did more than as many copies of real images {words}.",
        "hurts": f"As many copies of real images did better {words}.",
        "small": f"As many copies of real images did the same {words}, within {short_margin()}: the gain is that of balancing.",
        "no benefit": f"As many copies of real images did the same {words}, within {short_margin()}: the gain is that of balancing.",
        UNSETTLED: f"Whether it did more than as many copies of real images {words} is not settled.",
    }[copies["verdict"]]


def notes(n_test: int, n_patients: int, trial_seeds: int, gan_seeds: int, left_out: int) -> list[str]:
    """The caveats that a reader must have beside the figures."""
    found = [
        "Intervals are over test patients like these and over trainings; the training images, their split and the recipe are held fixed.",
        "DeLong and McNemar are image-level references: they know neither patients nor seeds.",
        "Only confirmatory contrasts are adjusted for their number: Holm's p, made of more cautious p than the unadjusted one "
        "beside it (docs/statistics.md). Exploratory ones are leads, not findings.",
        "ECE is biased upwards at such an n; its interval is not corrected for that.",
    ]
    if n_patients == n_test:
        found.append("No two test images are known to show the same patient: every image counts as a patient.")
    if trial_seeds == 1:
        found.append("One trial seed: intervals are over patients alone, and no claim can rest on them.")
    if 0 < gan_seeds < FEWEST_GAN_SEEDS:
        found.append(
            f"{plural(gan_seeds, 'synthetic set')}: what is said holds for {sets_in_words(gan_seeds)}, not for the GAN."
        )
    if left_out:
        found.append(f"{plural(left_out, 'trial')} left out: of a seed that is not complete over the synthetic sets.")
    return found
