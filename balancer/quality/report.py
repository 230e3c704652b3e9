"""The report on a set of synthetic images, as Markdown and as one self-contained HTML file.

Both are renderings of the same :class:`Section` list, so that a figure in one cannot differ from the other. Text may hold
`code` in backticks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from balancer.core.config import flatten
from balancer.core.device import peak_memory_mb
from balancer.core.files import write_json
from balancer.core.run import RunDir
from balancer.core.settings import Settings
from balancer.metrics.manifold import NEIGHBOURS
from balancer.metrics.memorization import PAIRS
from balancer.reporting.document import Document, Figure, Section, Table
from balancer.reporting.numbers import p_equals
from balancer.reporting.pages import write_document

Report = dict[str, Any]
FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "grid",
            "Both sides are drawn at random; none is chosen.",
            "Synthetic images beside real images.",
        ),
        Figure(
            "closest",
            "Top: the synthetic images nearest to a training image. Middle: that training image. Bottom: their absolute difference on "
            "the same grey scale, black where the two agree.",
            "The closest pairs of a synthetic and a training image.",
        ),
        Figure(
            "spectrum",
            "Power at each spatial frequency, averaged over directions. At the right end, a synthetic curve below the real one "
            "means blur; above it, noise or a checkerboard.",
            "Radial power spectra of synthetic and real images.",
        ),
        Figure(
            "training",
            "Distances to images of the training fold while the generator was trained.",
            "KID and Fréchet distance over the training steps.",
        ),
    )
}
CAVEATS = (
    "A distance means something only beside its floor, at its count and on its named feature network: compare it with no figure that "
    "was computed otherwise.",
    "No copy found is no proof of privacy: a patient may be recognised from less than a copy.",
    "Nothing here says whether the images help a classifier: that is for `classifier ablate` to say, on real test images.",
    "Nothing here replaces a radiologist's eye on anatomy.",
)
REFERENCES = (
    "Fréchet distance, FID: Heusel et al. 2017, arXiv:1706.08500; bias with the count: Chong & Forsyth 2020, arXiv:1911.07023.",
    "Kernel distance (KID): Bińkowski et al. 2018, arXiv:1801.01401.",
    "Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991; density and coverage, and features of random networks: "
    "Naeem et al. 2020, arXiv:2002.09797.",
    "Classifier two-sample tests: Lopez-Paz & Oquab 2017, arXiv:1610.06545.",
    "Nearest training neighbours against held-out ones: Meehan et al. 2020, arXiv:2004.05675.",
    "Spectra of generated images: Durall et al. 2020, arXiv:2003.01826; checkerboards: Odena et al. 2016, doi:10.23915/distill.00003.",
)


def sections(report: Report) -> list[Section]:
    """The report below its title, data notes and verdict; parts that have nothing to say are left out."""
    quality, shown = report["quality"], report["figures"]
    made = [
        _main_part(quality),
        Section("Synthetic beside real", figure=FIGURES["grid"]),
        _memorization_part(quality, "closest" in shown, report["closest"]),
        _spectrum_part(quality, "spectrum" in shown),
        Section("Over training", figure=FIGURES["training"]) if "training" in shown else None,
        _distance_part(quality),
        _overlap_part(quality),
        _two_sample_part(quality),
        _shift_part(quality),
        Section("Notes", bullets=quality["notes"]) if quality["notes"] else None,
        Section(
            "How this was made", table=Table(["", ""], [[k, str(v)] for k, v in report["made"].items()], numeric=2)
        ),
        Section("Caveats", bullets=list(CAVEATS)),
        Section("References", bullets=list(REFERENCES)),
    ]
    return [part for part in made if part]


def provenance(run: RunDir, config: Settings, device: torch.device, seconds: dict[str, float]) -> dict[str, str]:
    """What a reader needs to make the report again, from the run's env.json and settings."""
    env = json.loads((run / "env.json").read_text(encoding="utf-8"))
    versions = {"balancer": env["balancer"], "python": env["python"], **env["versions"]}
    data = {key: value for key in ("split_hash", "fingerprint") if (value := env["data"].get(key))}
    return {
        "command": f"`balancer {env['command']}`, code {env['git_commit'] or 'of no known commit'}, started {env['started']}",
        "settings": ", ".join(f"`{k}={v}`" for k, v in flatten(config.model_dump(mode="json")).items()),
        "data": ", ".join(f"{key.replace('_', ' ')} `{value}`" for key, value in data.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "device": f"{env['device']}, {env['platform']}",
        "took": ", ".join(f"{what} {s:.0f} s" for what, s in seconds.items())
        + f"; peak memory {peak_memory_mb(device):.0f} MB",
    }


def closest_pairs(quality: dict[str, Any], fake: Sequence[str], train: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs that the figure shows, by file name, so that a reader can find them."""
    pairs = quality["memorization"]["closest"][:PAIRS] if quality["memorization"] else []
    return [{"synthetic": fake[i], "training": train[j], "distance": distance} for i, j, distance in pairs]


def publish(run: RunDir, report: Report, figures: Mapping[str, bytes]) -> Report:
    """Write report.json, report.md, report.html and the figures; returns the report with the names of its figures."""
    report = report | {"figures": sorted(figures)}
    write_json(run / "report.json", report)
    write_document(as_document(report), run.path, "report", figures)
    return report


def as_document(report: Report) -> Document:
    """Return the report as it is shown."""
    return Document(
        report["title"],
        report["data"]["notes"],
        report["quality"]["verdict"],
        introduction=report["about"],
        sections=sections(report),
    )


def summary(report: Report) -> str:
    """The verdict and a line a figure, for the terminal."""
    lines = [report["title"], report["quality"]["verdict"]]
    for r in report["quality"]["readings"]:
        lines.append(
            f"  {r['metric']}: {r['figure']} (floor {r['floor']}; n = {r['n_real']} and {r['n_fake']}): {r['reading']}"
        )
    return "\n".join([*lines, *report["quality"]["notes"]])


def _main_part(quality: dict[str, Any]) -> Section | None:
    header = ["metric", "figure", "n_real", "n_fake", "floor", "reading"]
    rows = [[str(r[key]) for key in header] for r in quality["readings"]]
    if not rows:
        return None
    against = f" Real side: {quality['reference']}." if quality["reference"] else ""
    text = f"The floor is the same figure between two sets of real images of that size.{against}"
    return Section("In short", [text], Table(header, rows, words=True))


def _memorization_part(quality: dict[str, Any], shown: bool, pairs: list[dict[str, Any]]) -> Section | None:
    m = quality["memorization"]
    if not m:
        return None
    against = (
        f"{m['n_baseline']:,} held-out real images, one a patient"
        if m["baseline"] == "held-out"
        else f"{m['n_baseline']:,} training patients, each compared with the others"
    )
    text: str = (
        f"{m['verdict']} Each of the {m['n_fake']:,} synthetic images was compared with all {m['n_train']:,} training images; "
        f"what is usual is taken from {against}. Distances are RMS differences in standard deviations of an image, blurred and shifted "
        "to fit; unrelated images lie about 1.4 apart."
    )
    if m["baseline"] == "held-out":
        text += (
            " Held-out images from elsewhere than the training images lie farther off, which can pass for memorising."
        )
    rows = [
        ["exact copies", str(m["exact_copies"])],
        [f"near copies (nearer than {m['near_threshold']:.2f}, or by perceptual hash)", str(m["near_copies"])],
        ["synthetic images that copy another synthetic one", str(m["duplicates_within"])],
        ["median distance to the nearest training image", f"{m['median_fake']:.2f}"],
        ["the same of real images", f"{m['median_baseline']:.2f}"],
        ["synthetic nearer than real (0.5 expected)", f"{m['nearer_probability']:.2f}, {p_equals(m['nearer_p'])}"],
    ]
    if m["membership_auroc"] is not None:
        rows.append(
            [
                "training patients nearer to synthetic images than unseen ones (0.5 expected)",
                f"{m['membership_auroc']:.2f}, {p_equals(m['membership_p'])}",
            ]
        )
    named = [f"pair {i}: `{p['synthetic']}` and `{p['training']}`, {p['distance']:.3f}" for i, p in enumerate(pairs, 1)]
    return Section("Copies", [text], Table(["", ""], rows), FIGURES["closest"] if shown else None, named)


def _spectrum_part(quality: dict[str, Any], shown: bool) -> Section | None:
    s = quality["spectrum"]
    if not s:
        return None
    rows = [
        ["rms difference over all frequencies", f"{s['rms_db']:.2f}", f"{s['rms_db_real_baseline']:.2f}"],
        ["difference over the top third of frequencies", f"{s['high_db']:+.2f}", f"{s['high_db_real_baseline']:+.2f}"],
        [
            "checkerboard: excess at the worst grid point of up-convolutions",
            f"{s['checkerboard_db']:+.2f}",
            f"{s['checkerboard_db_real_baseline']:+.2f}",
        ],
    ]
    return Section("Spectrum", [], Table(["", "dB", "floor"], rows), FIGURES["spectrum"] if shown else None)


def _distance_part(quality: dict[str, Any]) -> Section | None:
    rows = quality["distances"]
    if not rows:
        return None
    cells = [
        [
            f"{r['features']} (FID)" if r["frechet_name"] == "FID" else r["features"],
            r["reference"],
            str(r["n_real"]),
            str(r["n_fake"]),
            f"{r['frechet']:.2f}",
            _number(r["frechet_floor"], ".2f"),
            f"{r['kid']:.4f} ± {r['kid_sd']:.4f}",
            _number(r["kid_floor"], ".4f"),
        ]
        for r in rows
    ]
    # a small validation fold makes for smaller subsets there; dict.fromkeys: each size once, in the table's order
    sizes = " and ".join(dict.fromkeys(str(r["kid_subset_size"]) for r in rows))
    text = [
        "Lower is closer; both sides of every comparison hold the same number of images. The floor is the same distance between two "
        "real sets of that size, split by patient as far as patients are known. Against the images it was trained on, a generator that "
        "copies them can fall below the floor: there, below is a warning and not a success.",
        f"KID: mean ± SD over {rows[0]['kid_subsets']} subsets of {sizes} images, cubic kernel. `chest-xray-128` is a small network trained "
        "on chest X-rays that ships with this package; `random-conv-128` is a fixed network with seeded random weights. "
        "Figures on them are not FIDs.",
    ]
    header = ["features", "reference", "n_real", "n_fake", "Fréchet", "floor", "KID ± SD", "floor"]
    return Section("Distances", text, Table(header, cells, numeric=2))


def _overlap_part(quality: dict[str, Any]) -> Section | None:
    """Precision, recall, density and coverage, each with what real images reach in brackets."""
    shown = [r for r in quality["distances"] if r["overlap"]]
    if not shown:
        return None
    names = list(shown[0]["overlap"])

    def cell(r: dict[str, Any], name: str) -> str:
        floor = f" ({r['overlap_floor'][name]:.2f})" if r["overlap_floor"] else ""
        return f"{r['overlap'][name]:.2f}{floor}"

    rows = [
        [r["features"], r["reference"], str(r["n_real"]), str(r["n_fake"]), *(cell(r, name) for name in names)]
        for r in shown
    ]
    text = (
        "In brackets, what as many other real images reach. Precision and density ask whether synthetic images look real, recall and "
        f"coverage whether they show the variety of the real ones (k = {NEIGHBOURS} nearest neighbours)."
    )
    return Section("Overlap", [text], Table(["features", "reference", "n_real", "n_fake", *names], rows, numeric=2))


def _two_sample_part(quality: dict[str, Any]) -> Section | None:
    tests = quality["two_sample"]
    if not tests:
        return None
    rows = [
        [
            t["classifier"],
            t["on"],
            t["compared"],
            str(t["n_real"]),
            str(t["n_fake"]),
            f"{t['auroc']:.3f} [{t['low']:.3f}, {t['high']:.3f}]",
        ]
        for t in tests
    ]
    text = (
        f"A classifier is trained to tell real images ({tests[0]['reference']}) from the others and is asked about images and patients that "
        f"it was not trained on (at most {max(t['folds'] for t in tests)}-fold cross-validation). The AUROC is the share of pairs it orders "
        "rightly: 0.5 is chance, and what is left after that is what any classifier trained on these images could take as a shortcut. "
        "95 % intervals."
    )
    header = ["classifier", "on", "real against", "n_real", "n_other", "AUROC [95 %]"]
    return Section("Two-sample tests", [text], Table(header, rows, numeric=3))


def _shift_part(quality: dict[str, Any]) -> Section | None:
    rows = [
        [
            r["features"],
            r["reference"],
            str(r["n"]),
            f"{r['frechet']:.2f}",
            f"{r['frechet_floor']:.2f}",
            f"{r['kid']:.4f}",
            f"{r['kid_floor']:.4f}",
        ]
        for r in quality["shift"]
    ]
    if not rows:
        return None
    text = "Real against real: how far the parts of the data set lie apart by themselves. The floor is two halves of the training images."
    header = ["features", "compared", "n, each side", "Fréchet", "floor", "KID", "floor"]
    return Section("The data set's own shift", [text], Table(header, rows, numeric=2))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
