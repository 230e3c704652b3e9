"""What the figures of a quality report mean, in plain words, each beside what real images reach.

Readings are rows for the report's main table; the verdict is a few sentences built from the same figures. Nothing is computed
here but ratios, and the thresholds between one wording and the next are the constants below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from balancer.reporting.numbers import percent

Quality = dict[str, Any]
ALIKE = 1.5  # a Fréchet distance up to this many floors reads as what real sets of this size differ by
HARD_TO_TELL = 0.6  # AUROC that no classifier's interval may exceed for images to be called hard to tell
COLLAPSED = 0.1  # recall below this share of its floor, with poor coverage, reads as a collapsed generator
POOR = 0.5  # recall or coverage below this share of its floor reads as little
HALF_SIZE = "pixels at half size"  # what tells whether fine detail alone gives images away
REPEATED = 0.1  # share of synthetic images that repeat one another from which the verdict says so


def times(ratio: float) -> str:
    if ratio > 1000:
        return "over 1,000 times"
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def readings(quality: Quality) -> list[dict[str, Any]]:
    """Rows of metric, figure, n_real, n_fake, floor, reading."""
    rows = [*_distance_rows(quality), *_overlap_rows(quality), *_two_sample_rows(quality)]
    return [*rows, *_memorization_rows(quality), *_spectrum_rows(quality)]


def verdict(quality: Quality) -> str:
    """The report in a few sentences: copies first, then likeness, then variety."""
    if quality["same_images"]:
        return f"The synthetic images are the very images of the {quality['same_images']}: nothing new is in them."
    sentences = [_on_copies(quality["memorization"]), _on_likeness(quality), _on_variety(quality)]
    return " ".join(s for s in sentences if s) or "Too few images for a verdict."


def main_rows(quality: Quality) -> list[Quality]:
    """The distances that readings go by: those to the main reference, on networks that were trained.

    Where the synthetic images are the real ones, the whole sets are compared, so that the distance is the 0 that it should be.
    """
    rows = [r for r in quality["distances"] if r["reference"] == quality["reference"]]
    if quality["same_images"]:
        rows = [r for r in quality["distances"] if r["frechet_floor"] is None] or rows
    return [r for r in rows if r["features"] != "random-conv-128"] or rows


def _row(metric: str, figure: str, n_real: int, n_fake: int, floor: str, reading: str) -> dict[str, Any]:
    return {"metric": metric, "figure": figure, "n_real": n_real, "n_fake": n_fake, "floor": floor, "reading": reading}


def _distance_rows(quality: Quality) -> Iterator[dict[str, Any]]:
    for r in main_rows(quality):
        counts = r["n_real"], r["n_fake"]
        name = "FID" if r["frechet_name"] == "FID" else f"Fréchet distance ({r['features']})"
        figure = f"{r['frechet']:.2f}"
        if r["frechet_floor"] is None:  # the same images; KID, unbiased for independent sets, would even be below 0
            yield _row(name, figure, *counts, "–", "no difference: they are the same images")
            continue
        yield _row(name, figure, *counts, f"{r['frechet_floor']:.2f}", _read_frechet(r))
        kid = f"{r['kid']:.4f} ± {r['kid_sd']:.4f}"
        yield _row(f"KID ({r['features']})", kid, *counts, f"{r['kid_floor']:.4f}", _read_kid(r))


def _read_frechet(r: Quality) -> str:
    ratio = _over_floor(r)
    size = f"sets of {r['n_real']} real images"
    if ratio > ALIKE:
        return f"{times(ratio)} what two {size} differ by"
    if ratio < 1 / ALIKE:
        return f"less than two {size} differ by: expected of copies, not of new images"
    return f"about what two {size} differ by, of which small sets say little"


def _over_floor(r: Quality) -> float:
    ratio: float = r["frechet"] / max(r["frechet_floor"], 1e-9)  # real sets of equal blank images lie 0 apart
    return ratio


def _read_kid(r: Quality) -> str:
    excess = (r["kid"] - r["kid_floor"]) / max(r["kid_sd_floor"], 1e-9)
    if abs(excess) <= 2:
        return "within what subsets of real images scatter by"
    side = "above" if excess > 0 else "below"
    return f"{side} the floor by {times(abs(excess))} what subsets of real images scatter by"


def _overlap_rows(quality: Quality) -> Iterator[dict[str, Any]]:
    r = next(iter(main_rows(quality)), None)
    if r is None or not r["overlap"]:
        return
    words = {
        "precision": "{} of the synthetic images look like some real one",
        "recall": "they show {} of the variety of real images",
        "coverage": "{} of the real images have a synthetic one near by",
    }
    for key, phrase in words.items():
        value, floor = r["overlap"][key], r["overlap_floor"][key] if r["overlap_floor"] else None
        against = "" if floor is None else f"; other real images: {percent(floor)}"
        yield _row(
            f"{key.capitalize()} ({r['features']})",
            f"{value:.2f}",
            r["n_real"],
            r["n_fake"],
            "–" if floor is None else f"{floor:.2f}",
            phrase.format(percent(value)) + against,
        )


def _two_sample_rows(quality: Quality) -> Iterator[dict[str, Any]]:
    floors = _two_sample_floors(quality)
    for t in quality["two_sample"]:
        if t["compared"] == "synthetic" and t["on"] != "random-conv-128":
            floor = floors.get(t["on"])
            yield _row(
                f"Two-sample AUROC ({t['classifier']}, {t['on']})",
                f"{t['auroc']:.2f} [{t['low']:.2f}, {t['high']:.2f}]",
                t["n_real"],
                t["n_fake"],
                f"{floor['auroc']:.2f}" if floor else "–",
                t["reading"],
            )


def _two_sample_floors(quality: Quality) -> dict[str, Quality]:
    """Real against real, by what the classifier looks at."""
    return {t["on"]: t for t in quality["two_sample"] if t["compared"] != "synthetic"}


def _memorization_rows(quality: Quality) -> Iterator[dict[str, Any]]:
    m = quality["memorization"]
    if m:
        figure = f"{m['exact_copies']} exact, {m['near_copies']} near"
        yield _row("Copies of training images", figure, m["n_train"], m["n_fake"], "–", m["verdict"])


def _spectrum_rows(quality: Quality) -> Iterator[dict[str, Any]]:
    s = quality["spectrum"]
    if s:
        figure, floor = f"{s['rms_db']:.1f} dB", f"{s['rms_db_real_baseline']:.1f} dB"
        yield _row("Power spectrum, rms difference", figure, s["n_real"], s["n_fake"], floor, s["reading"])


def _on_copies(m: Quality | None) -> str:
    if m is None:
        return ""
    said: str = m["verdict"]
    return "No copy of a training image was found." if m["status"] == "none" else said


def _on_likeness(quality: Quality) -> str:
    """What classifiers say, which have an interval; a ratio of distances goes to 1 in small sets whatever the images."""
    told = [t for t in quality["two_sample"] if t["compared"] == "synthetic"]
    rows = [r for r in main_rows(quality) if r["frechet_floor"] is not None]
    findings = []
    chance = {on: max(t["high"], 0.5) for on, t in _two_sample_floors(quality).items()}
    apart = {t["on"]: t for t in told if t["low"] > chance.get(t["on"], 0.5)}
    if told:
        best = max(told, key=lambda t: t["auroc"])
        coarse = apart.get(HALF_SIZE)
        more = (
            f" (at half size in {percent(coarse['auroc'])}: by more than fine detail)"
            if coarse and best["on"] == "pixels"
            else ""
        )
        findings.append(f"a classifier on {best['on']} tells them apart in {percent(best['auroc'])} of pairs{more}")
    if rows:
        r = rows[0]
        findings.append(
            f"the {r['frechet_name']} is {times(_over_floor(r))} what two sets of {r['n_real']} real images differ by"
        )
    if not findings:
        return ""
    evidence = ", and ".join(findings)
    if not told:
        return f"No classifier was asked whether they can be told from real images; {evidence}."
    if apart:
        return f"They can be told from real images: {evidence}."
    if all(t["high"] <= HARD_TO_TELL for t in told):
        return f"They are hard to tell from real images: {evidence}."
    return f"Whether they can be told from real images is not settled at this number: {evidence}."


def _on_variety(quality: Quality) -> str:
    rows = [r for r in main_rows(quality) if r["overlap"] and r["overlap_floor"]]
    m = quality["memorization"]
    if not rows:
        return ""
    found, floor = rows[0]["overlap"], rows[0]["overlap_floor"]
    share = {key: found[key] / max(floor[key], 1e-9) for key in found}
    repeated = m is not None and m["duplicates_within"] >= REPEATED * m["n_fake"]
    against = f"{percent(found['recall'])} of the variety of real images, where other real images show {percent(floor['recall'])}"
    # Recall alone is as low where all images are a little off; images that are far off cover nothing, however varied they are.
    if share["recall"] < COLLAPSED and share["coverage"] < POOR and (repeated or share["precision"] >= POOR):
        said = f"The generator has collapsed: they show {against}."
    else:
        said = f"They show {'only ' if share['recall'] < POOR else ''}{against}."
    if m and repeated:
        said += f" {m['duplicates_within']:,} of the {m['n_fake']:,} images repeat another one."
    return said
