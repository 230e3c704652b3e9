"""A data audit in words, tables and pictures: audit.json, audit.md, audit.html and the PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from balancer.audit import figures as audit_figures
from balancer.audit.findings import caveats, leaks, open_questions
from balancer.audit.grade import DOCS, grade
from balancer.audit.properties import measure
from balancer.audit.results import (
    Audit,
    IdenticalFiles,
    NearDuplicates,
    PatientKey,
    Patients,
    PropertyResult,
    SharedFiles,
    SharedPairs,
    SharedPatients,
    Shortcuts,
    Sources,
)
from balancer.core.config import flatten
from balancer.core.files import JsonObject
from balancer.core.sealed import DamagedFile, read_json, write_json
from balancer.core.settings import Settings
from balancer.core.shapes import parse
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.metrics.resampling import AurocInterval
from balancer.reporting.document import Document, Figure, Section, Table
from balancer.reporting.links import documentation
from balancer.reporting.numbers import DASH, listed, percent, plural, short, with_interval
from balancer.reporting.pages import write_document

FOLLOWING = ("leaks", "caveats", "grade")  # keys of audit.json that follow from the others
LISTED_SOURCES = 30  # rows of a table; audit.json has all
LISTED = 10  # groups and pairs that are named; audit.json has all
FIGURES = {  # name: how to read it, what it shows
    "closest": (
        "The most similar pairs, without identical files, the most similar on the left. Bottom: where the two "
        "differ once brightness and contrast are removed, black where they agree. In a copy every detail fits.",
        "The most similar pairs of images.",
    ),
    "histograms": (
        "Properties that need no look at the anatomy, by class, in the official training split. Where the two "
        "outlines part, a classifier can tell the classes without knowing any medicine.",
        "Histograms of image properties by class.",
    ),
    "extremes": (
        "The training images with the least and the most of a property, for each class. Blurred, cropped or "
        "inverted images show up here.",
        "The training images with the least and the most of four properties.",
    ),
}
CALIBRATION = (
    "Chest X-rays look alike, so the threshold was set on pairs of different children. On the set of Kermany et al. "
    "2018 these end at .87, but for one pair at .92. Copies that are re-encoded, brightened, equalised, blurred or "
    "trimmed by 2 % a side reach .96. Mirrored, rotated or inverted copies are not found, nor a fifth of those after "
    "local equalisation (CLAHE)."
)
ELSEWHERE = " On images of another kind these limits were not measured: look at the pairs."
REFERENCES = (
    "Shortcuts: Geirhos et al. 2020, doi:10.1038/s42256-020-00257-z; on radiographs: DeGrave et al. 2021, "
    "doi:10.1038/s42256-021-00338-7.",
    "Sharpness: Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548.",
    "Perceptual hash: Zauner 2010, Implementation and Benchmarking of Perceptual Image Hash Functions.",
)


def write_audit(folder: Path, data: Dataset, config: Settings, audit: Audit) -> None:
    """Write audit.json, audit.md, audit.html and the pictures into ``folder``.

    Args:
        folder: made if need be.
        data: what was audited.
        config: the settings that the report names.
        audit: of :func:`balancer.audit.findings.audit`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw(data, audit)
    write_json(folder / "audit.json", to_json(audit))
    write_document(as_document(audit, config, set(figures)), folder, "audit", figures)


def to_json(audit: Audit) -> JsonObject:
    """Return the content of audit.json: what follows from the audit, leaks first, and all of it."""
    return {"leaks": leaks(audit), "caveats": caveats(audit), "grade": grade(audit).to_json(), **asdict(audit)}


def read_audit(folder: Path) -> Audit:
    """Return the audit that :func:`write_audit` wrote into ``folder``.

    Raises:
        DamagedFile: audit.json is missing, damaged or of another shape.
    """
    file = folder / "audit.json"
    try:
        content = read_json(file)
    except OSError as error:
        raise DamagedFile(file, str(error.strerror)) from error
    return parse(Audit, {key: value for key, value in content.items() if key not in FOLLOWING}, file)


def draw(data: Dataset, audit: Audit) -> dict[str, bytes]:
    """Return the pictures by name."""
    measured, near = measure(data), audit.near
    pairs = audit_figures.closest_pairs(data, near.shown(LISTED), near.threshold)
    drawn = {"closest": pairs, "histograms": audit_figures.histograms(data, measured)}
    drawn["extremes"] = audit_figures.extremes(data, measured)
    return {name: png for name, png in drawn.items() if png}


def verdict(audit: Audit) -> str:
    """Return what leaks, or that no leak is proven and what is not settled."""
    if leaking := leaks(audit):
        return f"Leaks: {'; '.join(leaking)}."
    known = [
        "identical file",
        "near duplicate",
        *(["patient (kind and number)"] if audit.patients.named else []),
    ]
    text = f"No proven leak: no {', '.join(known[:-1])} or {known[-1]} was found in two folds."
    return " ".join([text, *(f"Not settled: {question}." for question in open_questions(audit)[:1])])


def summary(audit: Audit) -> str:
    """Return grade, verdict and caveats, for the terminal."""
    return "\n".join([f"{grade(audit).words} {verdict(audit)}", *(f"  - {caveat}" for caveat in caveats(audit))])


def as_document(audit: Audit, config: Settings, shown: set[str]) -> Document:
    """Return the audit as it is shown; ``shown`` are the names of its figures."""
    figures = {name: Figure(name, *FIGURES[name]) for name in shown}
    settings = ", ".join(f"`{k}={v}`" for k, v in flatten(config.model_dump(mode="json")).items())
    hashes = f"fingerprint `{audit.data['fingerprint']}`, split `{audit.data['split_hash']}`"
    unit = "patient" if audit.patients.named else "image"
    sections = [
        grade(audit).section(DOCS),
        Section("What to know before using any figure", bullets=caveats(audit)),
        _counts(audit),
        *([_sources(audit.sources, unit)] if audit.sources else []),
        _patients(audit.patients),
        _identical(audit.identical, unit),
        _near(audit.near, audit.data.get("reader", "chest") == "chest", unit, figures.get("closest")),
        _shortcuts(audit.shortcuts, audit.classes, unit, figures.get("histograms")),
        _shift(audit.shortcuts, audit.classes),
        Section("Extremes", figure=figures.get("extremes")),
        Section("How this was made", table=Table(["", ""], [["settings", settings], ["data", hashes]], numeric=2)),
        Section("References", bullets=list(REFERENCES), folded=True),
    ]
    return Document(
        f"Audit of {audit.data['source']}",
        [note for note in audit.data["notes"] if note == PHANTOM_NOTICE],
        verdict(audit),
        grade(audit).advice,
        grade=grade(audit).words,
        links=documentation("ablation"),
        sections=[section for section in sections if not section.is_empty],
        alarm=bool(leaks(audit)),
    )


def _counts(audit: Audit) -> Section:
    bad, classes = audit.data["unreadable"], audit.classes
    carved = bool(audit.data.get("carved"))
    rows = [
        [f"{name} {fold}", *(f"{n:,}" for n in of_class.values()), f"{sum(of_class.values()):,}"]
        for name, folds in (("official", audit.counts.splits), ("in use:", audit.counts.folds))
        for fold, of_class in folds.items()
        if name != "official" or not carved
    ]
    unit = "patient" if audit.patients.named else "image"
    on_disk = "The official splits are those on disk. " + (
        "Validation and test are used as they are."
        if audit.counts.folds["val"] == audit.counts.splits["val"]
        else f"For the folds in use, validation is carved out of train and val by {unit}, and test stays as it is."
    )
    here = f"Test and validation are carved by {unit}. Below, the official train split means all images but test."
    text = f"{here if carved else on_disk} {len(bad)} files are unreadable."
    bullets = [f"unreadable: `{name}` ({reason})" for name, reason in bad[:LISTED]]
    return Section(
        "Counts", [text], Table(["", *classes, "both" if len(classes) == 2 else "all"], rows), bullets=bullets
    )


def _sources(sources: Sources, unit: str) -> Section:
    """Say where the images come from, and whether that alone tells the class."""
    classes = list(next(iter(sources.counts.values())))
    text = f"Where the images of the official train split come from, by {sources.name}. "
    if sources.told is None:
        text += f"Whether the source tells the class cannot be measured: there is one source, or too few {unit}s."
    else:
        text += (
            f"The class by the source alone, without the image ({sources.folds}-fold cross-validation by {unit}): "
            f"AUROC {_interval(sources.told)}. An interval that holds .5 shows no such shortcut. Above .5, a network "
            "that knows the source knows more of the class than the image tells."
        )
    rows = [
        [source, *(f"{n:,}" for n in of.values()), f"{sum(of.values()):,}"] for source, of in sources.counts.items()
    ]
    return Section("Sources", [text], Table(["", *classes, "all"], rows[:LISTED_SOURCES]))


def _patients(patients: Patients) -> Section:
    narrow, cautious = patients.narrow, patients.cautious
    if narrow is None:
        return Section(
            "Patients", ["No file name tells a patient. Leaks by patient cannot be checked; splits are by image."]
        )
    if cautious is None:
        known = f"{patients.named:,} of {patients.images:,}"
        text = f"The patients of {known} images are known. Splits that are carved keep patients together."
        return Section("Patients", [text], Table(["", "patients"], _patient_rows([narrow])))
    text = (
        f"Patients are read off {patients.named:,} of {patients.images:,} file names. The narrow key is kind and "
        "number (`bacteria`, `virus`, or the source prefix of a normal image): the same child. The cautious key is "
        "the number within the class: perhaps the same child, since numbers restart. Splits are grouped by the "
        "cautious key."
    )
    return Section("Patients", [text], Table(["", "narrow key", "cautious key"], _patient_rows([narrow, cautious])))


def _patient_rows(keys: Sequence[PatientKey]) -> list[list[str]]:
    names = {
        "patients": "patients",
        "train_patients": "patients in the official train split",
        "train_several": "of these, with more than one image",
        "train_images_of_several": "images of those",
        "train_most": "most images of one patient",
    }
    rows = [[text, *(f"{getattr(key, name):,}" for key in keys)] for name, text in names.items()]
    for name, columns in (("official:", [key.splits for key in keys]), ("in use:", [key.folds for key in keys])):
        for row in zip(*columns, strict=True):
            rows.append([f"{name} both in {row[0].left} and in {row[0].right}", *map(_shared, row)])
    split = f"if images of train were split at random: share of the {percent(keys[0].image_level.fraction)} held out"
    expected = [key.image_level.expected for key in keys]
    rows.append(
        [
            f"{split} that lie beside an image of the same patient",
            *(DASH if e is None else percent(e, 1) for e in expected),
        ]
    )
    return rows


def _shared(shared: SharedPatients) -> str:
    images = {cls: " + ".join(str(n) for n in sides) for cls, sides in shared.images.items()}
    return ", ".join(f"{n} {cls} ({images[cls]} images)" for cls, n in shared.patients.items() if n) or "none"


def _identical(identical: IdenticalFiles, unit: str) -> Section:
    if not identical.groups:
        return Section("Identical files", ["No two files are identical, byte by byte."])
    within = ", ".join(f"{n} within {split}" for split, n in identical.in_split.items() if n) or "none within one split"
    numbers = f", {identical.across_patients} under several patient numbers" if unit == "patient" else ""
    text = (
        f"Groups of identical files: {identical.groups}, with {identical.files} files in all: {within}, "
        f"{identical.across_splits} across official splits; in the folds in use {_crossing(identical.folds)}. "
        f"Groups under two classes: {identical.label_conflicts}{numbers}. "
        "Copies are kept together when validation is carved."
    )
    groups = sorted(identical.list, key=lambda group: not group.crosses)  # stable: those that cross a border first
    rows = [
        [" = ".join(f"`{name}`" for name in group.names), " and ".join(sorted(set(group.folds)))]
        for group in groups[:LISTED]
    ]
    if len(groups) > LISTED:
        rows.append([f"and {len(groups) - LISTED} more: audit.json", ""])
    return Section("Identical files", [text], Table(["files", "fold"], rows, numeric=2))


def _near(near: NearDuplicates, is_chest: bool, unit: str, figure: Figure | None) -> Section:
    copies = "No pair of files was found to show one exposure twice"
    if near.copies:
        verb = "shows" if len(near.copies) == 1 else "show"
        of_one = f"{near.same_patient} of one patient, " if unit == "patient" else ""
        copies = (
            f"{plural(len(near.copies), 'pair')} of files {verb} one exposure twice: {of_one}"
            f"{near.across_classes} under two classes, {_crossing(near.folds)}"
        )
    blank = f"; {near.blank} blank ones left out" if near.blank else ""
    text = [
        f"{copies} (correlation of {short(near.threshold, 2)} or more once aligned).",
        f"Of {near.compared:,} images (one of each group of identical files{blank}), the perceptual hashes "
        f"of {plural(near.candidates, 'pair')} are similar; {near.verified:,} of these were compared by their pixels. "
        f"{CALIBRATION}{'' if is_chest else ELSEWHERE}",
    ]
    if near.unrelated_most is not None:
        n, least = len(near.suspects), short(near.suspect_threshold, 2)
        beside = f", except {plural(n, 'pair')} of {least} or more, to be looked at" if n else ""
        text.append(f"In this data, pairs of different patients end at {short(near.unrelated_most)}{beside}.")
    rows = [
        [
            str(i),
            " ~ ".join(f"`{name}`" for name in pair.names),
            " and ".join(dict.fromkeys(pair.folds)),
            *([{True: "same", False: "different", None: "not known"}[pair.same_patient]] if unit == "patient" else []),
            str(pair.bits),
            short(pair.correlation),
        ]
        for i, pair in enumerate(near.shown(LISTED), 1)
    ]
    known = ["patient"] if unit == "patient" else []
    header = ["pair", "files", "fold", *known, "bits that differ", "correlation"]
    return Section("Near duplicates", text, Table(header, rows, numeric=3 + len(known)) if rows else None, figure)


def _crossing(folds: Sequence[SharedFiles | SharedPairs]) -> str:
    return ", ".join(
        f"{s.groups if isinstance(s, SharedFiles) else s.pairs} between {s.left} and {s.right}" for s in folds
    )


def _shortcuts(result: Shortcuts, classes: Sequence[str], unit: str, figure: Figure | None) -> Section:
    size, n = result.image_size, listed([f"{result.n[cls]:,} {cls}" for cls in classes])
    of = f", {result.patients:,} patients" if unit == "patient" else ""
    where = "the files at their own size" if result.from_files else f"the {size} px images, since there are no files"
    text = [
        f"Each property is measured on {where}. The table says how well it alone separates the classes of the "
        f"official train split ({n}{of}): the AUROC, and the class in which the property is "
        f"larger. At .5 it tells nothing, at 1 everything. Brackets: 95 % intervals from {result.resamples:,} "
        f"resamples of {unit}s. A network uses whatever separates the classes, so read its figures beside these.",
        *_joint(result, unit),
    ]
    medians = [f"median {cls}" for cls in classes]
    if len(classes) > 2:
        text.insert(1, "Each class is compared with all others; the table names the classes that stand out most.")
    header = ["", *medians, "separates the classes"]
    rows = [
        [
            row.words,
            *(DASH if median is None else f"{median:.4g}" for median in row.medians.values()),
            _most(row.one_against_rest) if len(classes) > 2 else _auroc(row.classes, classes),
            *([_on_working(row, classes)] if result.from_files else []),
        ]
        for row in result.properties
    ]
    table = Table([*header, f"the same at {size} px"] if result.from_files else header, rows)
    return Section("Shortcuts", text, table, figure)


def _on_working(row: PropertyResult, classes: Sequence[str]) -> str:
    return _most(row.working_against_rest) if len(classes) > 2 else _auroc(row.working, classes)


def _most(by_class: Mapping[str, AurocInterval | None]) -> str:
    """Return the AUROC of the class that stands out most from the rest, with its name; a dash where nothing varies."""
    present = {cls: interval for cls, interval in by_class.items() if interval}
    if not present:
        return DASH
    cls = max(present, key=lambda name: abs(present[name].auroc - 0.5))
    return _auroc(present[cls], (f"all but {cls}", cls))


def _joint(result: Shortcuts, unit: str) -> list[str]:
    """Say what a logistic regression on all properties reaches; nothing where there are too few patients."""
    on_working = result.together_working
    if not on_working:
        return []
    on_files = f"{_interval(result.together)} on the files, and " if result.from_files and result.together else ""
    meaning = "An interval that holds .5 shows no shortcut."
    if (on_working.low or 0.0) > 0.5:
        meaning = (
            "This much needs no look at the anatomy, and a network can make more of it than a linear model. "
            "Standardising each image removes brightness and contrast, not sharpness or border."
        )
    return [
        f"All properties together, by logistic regression ({on_working.folds}-fold cross-validation by {unit}): "
        f"AUROC {on_files}{_interval(on_working)} on the {result.image_size} px images, which are all that a "
        f"classifier sees. {meaning}"
    ]


def _shift(result: Shortcuts, classes: Sequence[str]) -> Section:
    n, n_test = (listed([f"{counts[cls]:,} {cls}" for cls in classes]) for counts in (result.n, result.n_test))
    if not any(result.n_test.values()):
        return Section("From train to test", ["There are no test images."])
    text = (
        f"The same properties, train ({n}) against test ({n_test}) within one class: how far the data have moved, and "
        "the split in which the property is larger. This reads test images; no test label and no figure from here "
        "chooses anything."
    )
    rows = [[row.words, *(_auroc(row.shift[cls], ("train", "test")) for cls in classes)] for row in result.properties]
    return Section("From train to test", [text], Table(["", *classes], rows))


def _auroc(interval: AurocInterval | None, names: Sequence[str]) -> str:
    """Return the AUROC on its larger side and the group in which the values are larger; a dash where nothing varies."""
    if interval is None:
        return DASH
    if interval.auroc >= 0.5:
        return f"{_interval(interval)} {names[1]}"
    low, high = (None if bound is None else 1 - bound for bound in (interval.high, interval.low))
    return f"{with_interval(1 - interval.auroc, low, high)} {names[0]}"


def _interval(interval: AurocInterval) -> str:
    return with_interval(interval.auroc, interval.low, interval.high)
