"""A data audit in words, tables and pictures: audit.json, audit.md, one self-contained audit.html, and the PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from balancer.audit import figures as audit_figures
from balancer.audit.findings import Findings, caveats, leaks, short
from balancer.audit.properties import measure
from balancer.core.config import flatten
from balancer.core.files import write_json
from balancer.core.settings import Settings
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.folder import CLASSES
from balancer.reporting.document import Document, Figure, Section, Table
from balancer.reporting.pages import write_document

LISTED = 10  # groups and pairs that are named; audit.json has all
FIGURES = {
    figure.name: figure
    for figure in (
        Figure(
            "closest",
            "The most similar pairs, without identical files, the most similar on the left. Bottom: where the two differ once "
            "brightness and contrast are removed, black where they agree. In a copy every rib fits.",
            "The most similar pairs of images.",
        ),
        Figure(
            "histograms",
            "Properties that need no look at the lungs, by class, in the official training split. Where the two outlines part, "
            "a classifier can tell the classes without knowing any medicine.",
            "Histograms of image properties by class.",
        ),
        Figure(
            "extremes",
            "The training images with the least and the most of a property, for each class. Blurred, cropped or inverted images "
            "show up here.",
            "The training images with the least and the most of four properties.",
        ),
    )
}
CALIBRATION = (
    "Chest X-rays look alike, so the threshold was set on pairs of different patients: on the set of Kermany et al. 2018 they end at .87, "
    "but for one pair at .92, while copies that are re-encoded, brightened, blurred or trimmed by 2 % a side reach .96. "
    "Mirrored or rotated copies are not found."
)
TURNED = {"auroc": "auroc", "low": "high", "high": "low"}  # of an AUROC with the groups exchanged
REFERENCES = (
    "Shortcuts: Geirhos et al. 2020, doi:10.1038/s42256-020-00257-z; on radiographs: DeGrave et al. 2021, doi:10.1038/s42256-021-00338-7.",
    "Sharpness: Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.",
    "Perceptual hash: Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions.",
)


def write_audit(folder: Path, data: Dataset, config: Settings, findings: Findings) -> None:
    """Write audit.json, audit.md, audit.html and the pictures into ``folder``.

    Args:
        folder: made if need be.
        data, config: what was audited, and the settings that the report is to name.
        findings: of :func:`balancer.audit.findings.audit`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw(data, findings)
    write_json(folder / "audit.json", as_json(findings))
    write_document(as_document(findings, config, set(figures)), folder, "audit", figures)


def as_document(findings: Findings, config: Settings, shown: set[str]) -> Document:
    """Return the audit as it is shown; ``shown`` are the names of its figures."""
    return Document(
        f"Audit of {findings['data']['source']}",
        [PHANTOM_NOTICE] if PHANTOM_NOTICE in findings["data"]["notes"] else [],
        verdict(findings),
        sections=sections(findings, config, shown),
        alarm=bool(leaks(findings)),
    )


def as_json(findings: Findings) -> dict[str, Any]:
    """The findings with what follows from them, leaks first."""
    return {"leaks": leaks(findings), "caveats": caveats(findings), **findings}


def draw(data: Dataset, findings: Findings) -> dict[str, bytes]:
    """The pictures by name."""
    measured, near = measure(data), findings["near"]
    pairs = audit_figures.closest_pairs(data, [*near["copies"], *near["closest"]], near["threshold"])
    drawn = {"closest": pairs, "histograms": audit_figures.histograms(data, measured)}
    drawn["extremes"] = audit_figures.extremes(data, measured)
    return {name: png for name, png in drawn.items() if png}


def verdict(findings: Findings) -> str:
    """What leaks, or that nothing does that could be looked for."""
    found = leaks(findings)
    if found:
        return f"Leaks: {'; '.join(found)}."
    if findings["patients"]["named"]:
        return (
            "No leak found: no two folds share an identical file, a near duplicate or a patient (by kind and number)."
        )
    return "No leak found: no two folds share an identical file or a near duplicate. Whether they share patients is not known."


def summary(findings: Findings) -> str:
    """The verdict and the caveats, for the terminal."""
    return "\n".join([verdict(findings), *(f"  - {caveat}" for caveat in caveats(findings))])


def sections(findings: Findings, config: Settings, shown: set[str]) -> list[Section]:
    """The report below its title and verdict."""
    data = findings["data"]
    made = [
        ["settings", ", ".join(f"`{k}={v}`" for k, v in flatten(config.model_dump(mode="json")).items())],
        ["data", f"fingerprint `{data['fingerprint']}`, split `{data['split_hash']}`"],
    ]
    page = [
        Section("Before any figure is believed", bullets=caveats(findings)),
        _counts(findings),
        _patients(findings["patients"]),
        _identical(findings["identical"]),
        _near(findings["near"], "closest" in shown),
        _shortcuts(findings["shortcuts"]),
        _shift(findings["shortcuts"]),
        Section("Extremes", figure=FIGURES["extremes"]),
        Section("How this was made", table=Table(["", ""], made, numeric=2)),
        Section("References", bullets=list(REFERENCES)),
    ]
    return [section for section in page if not section.is_empty]


def _counts(findings: Findings) -> Section:
    counts, bad = findings["counts"], findings["data"]["unreadable"]
    names = {"splits": "official", "folds": "in use:"}
    rows = [
        [f"{names[kind]} {fold}", *(f"{n:,}" for n in found.values()), f"{sum(found.values()):,}"]
        for kind in names
        for fold, found in counts[kind].items()
    ]
    text = (
        "Official splits as they lie on disk, and the folds in use once validation was carved out of train and val by patient. Test stays "
        f"as it is. {len(bad)} unreadable files."
    )
    bullets = [f"unreadable: `{name}` ({reason})" for name, reason in bad[:LISTED]]
    return Section("Counts", [text], Table(["", *CLASSES, "both"], rows), bullets=bullets)


def _patients(found: Findings) -> Section:
    narrow, cautious = found["narrow"], found["cautious"]
    if narrow is None:
        return Section("Patients", ["No name tells a patient: nothing can be said, and splits are at image level."])
    fraction = f"{100 * narrow['image_level']['fraction']:.0f} %"
    text = (
        f"Read off {found['named']:,} of {found['images']:,} file names. The narrow key is kind and number (`bacteria`, `virus`, or the source "
        "prefix of a normal image): the same child. The cautious key is the number within the class: perhaps the same child, since numbers "
        "restart. Splits are grouped by the cautious key."
    )
    figures = {
        "patients": "patients",
        "train_patients": "patients in the official train split",
        "train_several": "of these, with more than one image",
        "train_images_of_several": "images of those",
        "train_most": "most images of one",
    }
    rows = [[words, f"{narrow[key]:,}", f"{cautious[key]:,}"] for key, words in figures.items()]
    kinds = (("splits", "official"), ("folds", "in use:"))
    for kind, name in kinds:
        for a, b in zip(narrow[kind], cautious[kind], strict=True):
            rows.append([f"{name} both in {a['left']} and in {a['right']}", _shared(a), _shared(b)])
    expected = [key["image_level"]["expected"] for key in (narrow, cautious)]
    rows.append(
        [
            f"if images of train were split at random: share of the {fraction} held out that lie beside an image of the same patient",
            *("–" if share is None else f"{100 * share:.1f} %" for share in expected),
        ]
    )
    return Section("Patients", [text], Table(["", "narrow key", "cautious key"], rows))


def _shared(across: dict[str, Any]) -> str:
    found = [
        f"{n} {cls} ({' + '.join(str(k) for k in across['images'][cls])} images)"
        for cls, n in across["patients"].items()
        if n
    ]
    return ", ".join(found) or "none"


def _identical(found: Findings) -> Section:
    if not found["groups"]:
        return Section("Identical files", ["No two files are identical, byte by byte."])
    where = ", ".join(f"{n} within {split}" for split, n in found["in_split"].items() if n) or "none within one split"
    text = (
        f"{found['groups']} groups of identical files, {found['files']} files in all: {where}, {found['across_splits']} across official "
        f"splits; in the folds in use {_crossing(found['folds'], 'groups')}. {found['label_conflicts']} under both classes, "
        f"{found['across_patients']} under several patient numbers. Copies are kept together when validation is carved."
    )
    telling = [
        g for g in found["list"] if len(g["patients"]) > 1 or len(set(g["splits"])) > 1 or len(set(g["classes"])) > 1
    ]
    listed = (telling + [g for g in found["list"] if g not in telling])[:LISTED]
    rows = [
        [" = ".join(f"`{name}`" for name in group["names"]), " and ".join(sorted(set(group["folds"])))]
        for group in listed
    ]
    if len(found["list"]) > LISTED:
        rows.append([f"and {len(found['list']) - LISTED} more: audit.json", ""])
    return Section("Identical files", [text], Table(["files", "fold"], rows, numeric=2))


def _near(found: Findings, shown: bool) -> Section:
    copies = "No pair of files shows one exposure twice"
    if found["copies"]:
        copies = (
            f"{len(found['copies'])} pairs of files show one exposure twice: {found['same_patient']} of one patient, "
            f"{found['across_classes']} under both classes, {_crossing(found['folds'], 'pairs')}"
        )
    blank = f"; {found['blank']} blank ones left out" if found["blank"] else ""
    text = [
        f"{copies} (correlation {short(found['threshold'], 2)} or more, laid over one another).",
        f"Of {found['compared']:,} images (one of each group of identical files{blank}), {found['candidates']:,} pairs have like perceptual "
        f"hashes, and {found['verified']:,} of them were compared by their pixels. {CALIBRATION}",
    ]
    if found["unrelated_most"] is not None:
        n, least = len(found["suspects"]), short(found["suspect_threshold"], 2)
        beside = f", but for {n} from {least} up, which want a look" if n else ""
        text.append(f"In this data, pairs of different patients end at {short(found['unrelated_most'])}{beside}.")
    rows = [
        [
            str(i),
            " ~ ".join(f"`{name}`" for name in pair["names"]),
            " and ".join(dict.fromkeys(pair["folds"])),
            {True: "same", False: "different", None: "not known"}[pair["same_patient"]],
            str(pair["bits"]),
            short(pair["correlation"]),
        ]
        for i, pair in enumerate([*found["copies"], *found["closest"]][:LISTED], 1)
    ]
    header = ["pair", "files", "fold", "patient", "bits that differ", "correlation"]
    return Section(
        "Near duplicates", text, Table(header, rows, numeric=4) if rows else None, FIGURES["closest"] if shown else None
    )


def _crossing(folds: list[dict[str, Any]], what: str) -> str:
    return ", ".join(f"{a[what]} between {a['left']} and {a['right']}" for a in folds)


def _shortcuts(found: Findings) -> Section:
    size, n = found["image_size"], " and ".join(f"{found['n'][cls]:,} {cls}" for cls in CLASSES)
    where = "the files at their own size" if found["from_files"] else f"the {size} px images, since there are no files"
    text = [
        f"Each number is measured on {where} and asked alone how well it tells the classes of the official train split ({n}, "
        f"{found['patients']:,} patients): the AUROC and the class in which it is larger. At .5 it says nothing, at 1 all. 95 % intervals "
        f"from {found['resamples']:,} resamples of patients. A network takes whatever tells the classes, so its figures are to be read "
        "beside these.",
        _together(found),
    ]
    header = ["", *(f"median {cls}" for cls in CLASSES), "tells the classes"]
    keys = ["classes"]
    if found["from_files"]:
        header.append(f"the same at {size} px")
        keys.append("working")
    rows = [
        [
            row["words"],
            *("–" if median is None else f"{median:.4g}" for median in row["medians"].values()),
            *(_auroc(row[key], CLASSES) for key in keys),
        ]
        for row in found["properties"]
    ]
    return Section("Shortcuts", [t for t in text if t], Table(header, rows), FIGURES["histograms"])


def _shift(found: Findings) -> Section:
    n, n_test = (" and ".join(f"{found[key][cls]:,} {cls}" for cls in CLASSES) for key in ("n", "n_test"))
    if not any(found["n_test"].values()):
        return Section("From train to test", ["There are no test images."])
    text = (
        f"The same numbers, train ({n}) against test ({n_test}) within one class: how far the data have moved, and the split in which "
        "the number is larger. This reads test images; no label of test and no figure from here chooses anything."
    )
    rows = [
        [row["words"], *(_auroc(row["shift"][cls], ("train", "test")) for cls in CLASSES)]
        for row in found["properties"]
    ]
    return Section("From train to test", [text], Table(["", *CLASSES], rows))


def _together(found: Findings) -> str:
    """What a logistic regression on all properties reaches; empty where there are too few patients."""
    whole, seen = found["together"], found["together_working"]
    if not seen:
        return ""
    on_files = f"{_interval(whole)} on the files, and " if found["from_files"] else ""
    return (
        f"All of them together, by logistic regression ({seen['folds']}-fold cross-validation by patient): AUROC {on_files}{_interval(seen)} "
        f"on the {found['image_size']} px images, which are all that a classifier sees. So far the classes can be told without a look at the "
        "lungs; a network can make more of it than this straight line. Standardising each image takes brightness and contrast away, "
        "not sharpness or border."
    )


def _auroc(found: dict[str, Any] | None, names: tuple[str, ...]) -> str:
    """The AUROC on its larger side, and the group in which the values are larger; a dash where nothing varies."""
    if found is None:
        return "–"
    if found["auroc"] >= 0.5:
        return f"{_interval(found)} {names[1]}"
    turned = {key: None if (value := found[source]) is None else 1 - value for key, source in TURNED.items()}
    return f"{_interval(turned)} {names[0]}"


def _interval(found: dict[str, Any]) -> str:
    between = "" if found["low"] is None else f" [{short(found['low'])}, {short(found['high'])}]"
    return f"{short(found['auroc'])}{between}"
