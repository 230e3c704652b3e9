"""The report on a set of synthetic images: report.json, and the same figures as Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from balancer.core.config import flatten
from balancer.core.device import peak_memory_mb
from balancer.core.files import JsonObject
from balancer.core.run import RunDir
from balancer.core.saved_runs import read_environment
from balancer.core.sealed import write_json
from balancer.core.settings import Settings
from balancer.metrics.chest import NAME
from balancer.metrics.feature_response import DEGRADATIONS
from balancer.metrics.features import is_untrained
from balancer.metrics.manifold import NEIGHBOURS, Manifold
from balancer.metrics.memorization import PAIRS, Memorization
from balancer.metrics.own_features import OWN, OwnNetwork
from balancer.metrics.trend import Trend
from balancer.quality.grade import DOCS, grade, training_advice
from balancer.quality.interpretation import interpret, verdict
from balancer.quality.results import DistanceRow, QualityReport, ShiftRow, SpectrumComparison, TwoSampleRow
from balancer.reporting.document import Document, Figure, Link, Section, Table, part_notes
from balancer.reporting.links import documentation
from balancer.reporting.numbers import (
    decibels,
    fixed,
    listed,
    megabytes,
    p_equals,
    plural,
    seconds,
    short,
    with_interval,
)
from balancer.reporting.pages import write_document

BASELINE = "real against real"  # the heading of every real baseline
FIGURES = {  # name: how to read it, what it shows
    "grid": (
        "Both sides are drawn at random; none is picked.",
        "Synthetic images beside real images.",
    ),
    "closest": (
        "Top: the synthetic images nearest to a training image. Middle: that training image. Bottom: their "
        "absolute difference on the same grey scale, black where the two agree.",
        "The closest pairs of a synthetic and a training image.",
    ),
    "spectrum": (
        "Power at each spatial frequency, averaged over directions. At the right end, a synthetic curve below the "
        "real one means blur; above it, noise or a checkerboard.",
        "Radial power spectra of synthetic and real images.",
    ),
    "training": (
        "Distances to images of the training fold while the generator was trained.",
        "KID and Fréchet distance over the training steps.",
    ),
}
CAVEATS = (
    "A distance has a meaning only beside its real baseline, at the same number of images and on the same feature "
    "network. Do not compare it with figures computed in another way.",
    "Finding no copy does not prove privacy. A person may be recognised from less than a copy.",
    "This report does not say whether the images help a classifier. `classifier ablate` measures that on real "
    "test images.",
    "No figure here replaces a radiologist's judgement of the anatomy.",
)
REFERENCES = (
    "Fréchet distance, FID: Heusel et al. 2017, arXiv:1706.08500; bias with the count: Chong & Forsyth 2020, "
    "arXiv:1911.07023.",
    "Kernel distance (KID): Bińkowski et al. 2018, arXiv:1801.01401.",
    "Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991; density and coverage, and features of random "
    "networks: Naeem et al. 2020, arXiv:2002.09797.",
    "Classifier two-sample tests: Lopez-Paz & Oquab 2017, arXiv:1610.06545.",
    "Nearest training neighbours against held-out ones: Meehan et al. 2020, arXiv:2004.05675.",
    "Spectra of generated images: Durall et al. 2020, arXiv:2003.01826; checkerboards: Odena et al. 2016, "
    "doi:10.23915/distill.00003.",
)


@dataclass(frozen=True)
class NamedPair:
    """A synthetic image and the training image nearest to it, by file name."""

    synthetic: str
    training: str
    distance: float


@dataclass(frozen=True)
class Report:
    """What report.json holds.

    Attributes:
        about: paragraphs on where the images come from.
        n: number of synthetic images.
        data: facts on the real images as in env.json; its ``notes`` are the report's warnings.
        closest: the pairs that the figure shows.
        made: how to make the report again, by heading.
        generator: facts on the generator by key, empty where it is not known.
        figures: names of the pictures beside the report.
        trend: how KID moved at the end of training; None where the training is not known.
        links: pages of the runs that the images came from.
    """

    title: str
    about: list[str]
    n: int
    seed: int
    data: JsonObject
    quality: QualityReport
    closest: list[NamedPair]
    seconds: dict[str, float]
    made: dict[str, str]
    generator: JsonObject = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)
    trend: Trend | None = None
    links: list[Link] = field(default_factory=list)

    @property
    def advice(self) -> list[str]:
        """Return what to do next: for the images, then for the training."""
        return [*grade(self.quality).advice, *training_advice(self.trend)]

    def to_json(self) -> JsonObject:
        """Return the content of report.json, the generator's facts at its top level."""
        facts = asdict(replace(self, links=[]))
        del facts["links"]  # these stand on the page alone
        quality = facts["quality"] | {
            "interpretation": [asdict(finding) for finding in interpret(self.quality)],
            "verdict": verdict(self.quality),
            "grade": {**grade(self.quality).to_json(), "advice": self.advice},
        }
        return facts | facts.pop("generator") | {"quality": quality}

    def describe(self) -> str:
        """Return grade, verdict and advice, then a line per finding, for the terminal."""
        findings = [
            f"  {f.metric}: {f.figure} ({BASELINE} {f.real_baseline}; n = {f.n_real}, {f.n_fake}). {f.interpretation}"
            for f in interpret(self.quality)
        ]
        advice = [f"  - {sentence}" for sentence in self.advice]
        answer = [grade(self.quality).words, verdict(self.quality), *advice]
        return "\n".join([self.title, *answer, *findings, *self.quality.notes])


def provenance(run: RunDir, config: Settings, device: torch.device, took: dict[str, float]) -> dict[str, str]:
    """Return what a reader needs to make the report again, from the run's env.json and settings."""
    env = read_environment(run.path)
    versions = {"balancer": env.balancer, "python": env.python, **env.versions}
    hashes = {key.replace("_", " "): env.data.get(key) for key in ("split_hash", "fingerprint")}
    code = env.git_commit or "of no known commit"
    times = ", ".join(f"{what} {seconds(s)}" for what, s in took.items())
    peak = peak_memory_mb(device)
    return {
        "command": f"`balancer {env.command}`, code {code}, started {env.started}",
        "settings": ", ".join(f"`{k}={v}`" for k, v in flatten(config.model_dump(mode="json")).items()),
        "data": ", ".join(f"{key} `{value}`" for key, value in hashes.items() if value),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "device": f"{env.device}, {env.platform}",
        "took": times if peak is None else f"{times}; peak memory {megabytes(peak)}",
    }


def closest_pairs(quality: QualityReport, fake: Sequence[str], train: Sequence[str]) -> list[NamedPair]:
    """Return the pairs that the figure shows by file name, so that a reader can find them."""
    pairs = quality.memorization.closest[:PAIRS] if quality.memorization else ()
    return [NamedPair(fake[pair.synthetic], train[pair.training], pair.distance) for pair in pairs]


def publish(folder: Path, report: Report, figures: Mapping[str, bytes]) -> Report:
    """Write report.json, report.md, report.html and the figures; return the report with the names of its figures."""
    report = replace(report, figures=sorted(figures))
    write_json(folder / "report.json", report.to_json())
    write_document(as_document(report), folder, "report", figures)
    return report


def as_document(report: Report) -> Document:
    """Return the report as it is shown; sections with no content are left out."""
    quality = report.quality
    warnings, caveats = part_notes(report.data["notes"])
    figures = {name: Figure(name, *FIGURES[name]) for name in report.figures}
    sections = [
        grade(quality).section(DOCS),
        findings_section(quality),
        Section("Synthetic beside real", figure=figures.get("grid")),
        _copies(quality.memorization, quality.unit, report.closest, figures.get("closest")),
        _spectrum(quality.spectrum, figures.get("spectrum")),
        Section("Over training", figure=figures.get("training")),
        _distances(quality.distances, quality.unit),
        _own_network(quality.own_network),
        _overlap([row for row in quality.distances if row.overlap]),
        _two_sample(quality.two_sample, quality.unit),
        _shift(quality.shift),
        Section("Notes", bullets=quality.notes),
        Section("How this was made", table=Table(["", ""], [[k, v] for k, v in report.made.items()], numeric=2)),
        Section("Caveats", bullets=list(CAVEATS)),
        Section("References", bullets=list(REFERENCES), folded=True),
    ]
    return Document(
        report.title,
        warnings,
        verdict(quality),
        report.advice,
        grade=grade(quality).words,
        caveats=caveats,
        introduction=report.about,
        links=[*report.links, *documentation("gan")],
        alarm=grade(quality).is_unfit,
        sections=[section for section in sections if section and not section.is_empty],
    )


def findings_section(quality: QualityReport) -> Section:
    """Return the main figures, each beside its real baseline, with what the two say."""
    rows = [[str(value) for value in asdict(finding).values()] for finding in interpret(quality)]
    reference = f" The real images here: {quality.reference}." if quality.reference else ""
    text = f"Real against real is the same figure between two sets of real images of the same size.{reference}"
    header = ["metric", "figure", "n real", "n synthetic", BASELINE, "meaning"]
    return Section("Main figures", [text] if rows else [], Table(header, rows, words=True) if rows else None)


def _copies(m: Memorization | None, unit: str, pairs: list[NamedPair], figure: Figure | None) -> Section | None:
    if not m:
        return None
    usual = f"{plural(m.n_baseline, f'training {unit}')}, each compared with the others"
    if m.baseline == "held-out":
        usual = f"{plural(m.n_baseline, 'held-out real image')}" + (", one per patient" if unit == "patient" else "")
    text = [
        f"{m.verdict} Each of the {m.n_fake:,} synthetic images was compared with all {m.n_train:,} training images. "
        f"The usual distance comes from {usual}. Distances are RMS differences in standard deviations of an image, "
        "after blurring and the best shift; unrelated images lie about 1.4 apart.",
    ]
    if m.baseline == "held-out":
        text.append(
            "If the held-out images come from another source, they lie farther off, which can look like copying."
        )
    rows = [
        ["exact copies", str(m.exact_copies)],
        [f"near copies (distance under {fixed(m.near_threshold)}, or by perceptual hash)", str(m.near_copies)],
        ["synthetic images that copy another synthetic image", str(m.duplicates_within)],
        ["median distance to the nearest training image", fixed(m.median_fake)],
        ["the same for real images", fixed(m.median_baseline)],
        [
            "probability that a synthetic image is nearer than a real one (.5 expected)",
            f"{short(m.nearer_probability, 2)}, {p_equals(m.nearer_p)}",
        ],
    ]
    if m.membership_auroc is not None and m.membership_p is not None:
        rows.append(
            [
                f"probability that a training {unit} is nearer to the synthetic images than an unseen one (.5 "
                "expected)",
                f"{short(m.membership_auroc, 2)}, {p_equals(m.membership_p)}",
            ]
        )
    names = [
        f"Pair {i}: `{p.synthetic}` and `{p.training}`, distance {fixed(p.distance, 3)}" for i, p in enumerate(pairs, 1)
    ]
    return Section("Copies", text, Table(["", ""], rows), figure, names)


def _spectrum(s: SpectrumComparison | None, figure: Figure | None) -> Section | None:
    if not s:
        return None
    rows = [
        ["RMS difference over all frequencies", decibels(s.rms_db, 2), decibels(s.rms_db_real_baseline, 2)],
        [
            "mean difference over the top third of frequencies",
            decibels(s.high_db, 2, sign=True),
            decibels(s.high_db_real_baseline, 2, sign=True),
        ],
        [
            "checkerboard: excess at the worst grid point of up-convolutions",
            decibels(s.checkerboard_db, 2, sign=True),
            decibels(s.checkerboard_db_real_baseline, 2, sign=True),
        ],
    ]
    return Section("Spectrum", [], Table(["", "synthetic against real", BASELINE], rows), figure)


def _distances(distances: list[DistanceRow], unit: str) -> Section | None:
    if not distances:
        return None
    rows = [
        [
            f"{r.features} (FID)" if r.frechet_name == "FID" else r.features,
            r.reference,
            str(r.n_real),
            str(r.n_fake),
            fixed(r.frechet),
            fixed(r.frechet_real_baseline),
            f"{fixed(r.kid, 4)} ± {fixed(r.kid_sd, 4)}",
            fixed(r.kid_real_baseline, 4),
        ]
        for r in distances
    ]
    # a small validation fold makes for smaller subsets there; dict.fromkeys: each size once, in the table's order
    sizes = " and ".join(dict.fromkeys(str(r.kid_subset_size) for r in distances))
    by = "patient as far as patients are known" if unit == "patient" else "image"
    text = [
        "Lower is closer. Both sides of every comparison hold the same number of images. Real against real is the "
        f"same distance between two real sets of that size, split by {by}. A "
        "generator that copies its training images can fall below this baseline when compared with them: there, a "
        "low figure is a warning.",
        f"KID is the mean ± SD over {distances[0].kid_subsets} subsets of {sizes} images, with a cubic kernel. "
        f"{_networks([r.features for r in distances])}",
    ]
    header = ["features", "reference", "n real", "n synthetic", "Fréchet", BASELINE, "KID ± SD", BASELINE]
    return Section("Distances", text, Table(header, rows, numeric=2))


def _networks(names: Sequence[str]) -> str:
    """Return what the networks of the distances are, in words."""
    sentences = {
        NAME: f"`{NAME}` is a small network trained on chest X-rays that ships with this package.",
        **{name: f"`{name}` is a small network trained for these images." for name in names if name.startswith(OWN)},
        **{name: f"`{name}` is a fixed network with seeded random weights." for name in names if is_untrained(name)},
    }
    present = [sentence for name, sentence in sentences.items() if name in names]
    return f"{' '.join(present)} Figures on {'these two' if len(present) > 1 else 'it'} are not FIDs."


def _own_network(own: OwnNetwork | None) -> Section | None:
    """Return how a network was trained for the images, and what it responds to."""
    if own is None:
        return None
    rows = [
        [
            r.degradation,
            DEGRADATIONS[r.degradation].label if r.degradation in DEGRADATIONS else "",
            ", ".join(f"{level:g}" for level in r.levels),
            ", ".join(fixed(v) for v in r.frechet),
            ", ".join(fixed(v, 3) for v in r.kid),
            "yes" if r.rises else "no",
        ]
        for r in own.response
    ]
    text = [own.describe()]
    if rows:
        text.append(
            f"Its response: {own.side} real images a side, of other patients, damaged step by step at 64 px. The first "
            "figure is real against real. A network is used only if the kernel distance rises with each step of every "
            f"damage, in all by more than random halves of the real images ever differ ({own.response[0].chance:.3f})."
        )
        if hidden := [r.degradation for r in own.response if not r.frechet_rises]:
            text.append(
                f"The Fréchet distance does not rise with each step of {listed(hidden)}: with {own.side} images a side "
                "its bias hides them. Judge images of this data set by the kernel distance."
            )
    header = ["damage", "level", "levels", "Fréchet", "KID", "rises"]
    return Section("Feature network", text, Table(header, rows, numeric=6) if rows else None)


def _overlap(distances: list[DistanceRow]) -> Section | None:
    """Return precision, recall, density and coverage, each with its real baseline in brackets."""
    if not distances:
        return None
    names = list(Manifold.__dataclass_fields__)

    def cell(row: DistanceRow, name: str) -> str:
        baseline = f" ({short(getattr(row.overlap_real_baseline, name), 2)})" if row.overlap_real_baseline else ""
        return f"{short(getattr(row.overlap, name), 2)}{baseline}"

    rows = [
        [r.features, r.reference, str(r.n_real), str(r.n_fake), *(cell(r, name) for name in names)] for r in distances
    ]
    text = (
        "Precision and density say whether synthetic images look real, recall and coverage whether they show the "
        f"variety of the real images (k = {NEIGHBOURS} nearest neighbours). In brackets: the same number of other "
        "real images."
    )
    header = ["features", "reference", "n real", "n synthetic", *names]
    return Section("Overlap", [text], Table(header, rows, numeric=2))


def _two_sample(tests: list[TwoSampleRow], unit: str) -> Section | None:
    if not tests:
        return None
    rows = [
        [*(t.classifier, t.on, t.compared), str(t.n_real), str(t.n_fake), with_interval(t.auroc, t.low, t.high)]
        for t in tests
    ]
    others = "images of other patients" if unit == "patient" else "other images"
    text = (
        f"A classifier is trained to separate real images ({tests[0].reference}) from the others, and tested on "
        f"{others} (cross-validation with at most {max(t.folds for t in tests)} folds). The AUROC is "
        "the share of pairs that it orders correctly; .5 is chance. Any excess can serve another classifier as a "
        "shortcut. Brackets: 95 % intervals; at an AUROC of 1 there is no error to resample, so they are none."
    )
    header = ["classifier", "on", "real against", "n real", "n other", "AUROC [95 %]"]
    return Section("Two-sample tests", [text], Table(header, rows, numeric=3))


def _shift(shift: list[ShiftRow]) -> Section | None:
    if not shift:
        return None
    rows = [
        [*(r.features, r.reference, str(r.n)), *(fixed(v) for v in (r.frechet, r.frechet_real_baseline))]
        + [fixed(v, 4) for v in (r.kid, r.kid_real_baseline)]
        for r in shift
    ]
    text = (
        "How far the parts of the real data lie apart, beside the distance between two halves of the training images."
    )
    header = ["features", "compared", "n, each side", "Fréchet", "two halves", "KID", "two halves"]
    return Section("Shift within the real data", [text], Table(header, rows, numeric=2))
