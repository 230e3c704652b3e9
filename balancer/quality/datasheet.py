"""The datasheet of a synthesis (Gebru et al. 2021, doi:10.1145/3458723): what the images are, and what they are for.

The datasheet says no more than the report on the images: its grade, verdict and figures are those of the report.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from balancer.core.files import write_text
from balancer.core.pixels import COLOUR, GREY
from balancer.data.chest import KIND_WORDS
from balancer.data.dataset import PHANTOM_NOTICE, Dataset
from balancer.data.manifest import MANIFEST
from balancer.data.records import count_units
from balancer.quality.grade import DOCS, grade
from balancer.quality.interpretation import verdict
from balancer.quality.report import CAVEATS, Report, findings_section
from balancer.reporting.document import Document, Section, Table, to_markdown

DATASHEET = "DATASHEET.md"
PNG_KINDS = {GREY: "grey", COLOUR: "RGB"}
RESEARCH_ONLY = "Synthetic images, for research only. No image shows a person, and none may pass for a real one."
USES = (
    "To add images to the training fold of a classifier, and to measure whether that helps: `classifier ablate`.",
    "To study generators and the figures by which images are judged.",
)
NOT_USES = (
    "Not for validation or test: a figure on synthetic images says nothing about real ones.",
    "Not with another split: validation or test images of that split may have taught the generator.",
    "Not for diagnosis, for teaching radiology, or as an example of a finding.",
    "Not as anonymous stand-ins for the real images: finding no copy does not prove privacy.",
)
ANSWERS = "Whoever runs the command answers for the set."
REFERENCE = "Datasheets: Gebru et al. 2021, doi:10.1145/3458723."


@dataclass(frozen=True)
class Words:
    """What a datasheet says that depends on what made the images."""

    labels: str
    seeds: str
    left_out: str  # which images were removed after they were made
    learning: str  # what the generator did with the training fold, before its size: "learnt from"
    maintenance: str  # a sentence on how the images are made again


def write_datasheet(folder: Path, report: Report, data: Dataset, label: int, manifest_hash: str, words: Words) -> None:
    """Write the datasheet of a synthesis into its folder.

    Args:
        folder: of the synthesis.
        report: on the images.
        data: the real images, of which the generator learnt the training fold.
        label: the class of the synthetic images.
        manifest_hash: SHA-256 of the manifest, which has that of each image.
        words: on what made the images.
    """
    write_text(folder / DATASHEET, to_markdown(datasheet(report, data, label, manifest_hash, words)))


def datasheet(report: Report, data: Dataset, label: int, manifest_hash: str, words: Words) -> Document:
    """Return the datasheet; arguments as for :func:`write_datasheet`."""
    top = [note for note in data.notes if note == PHANTOM_NOTICE]
    sections = [
        Section("Motivation", [_motivation(data, label)]),
        _composition(report, data, label, manifest_hash, words),
        Section("How the images were made", [*report.about, *_kinds(data, label)]),
        Section("Preprocessing", [_preprocessing(data, label, words)]),
        grade(report.quality).section(DOCS),
        findings_section(report.quality),
        Section("Uses", bullets=[*USES, *NOT_USES]),
        Section("Distribution", [_distribution(data)]),
        Section("Maintenance", [f"The set is not maintained. {words.maintenance} {ANSWERS}"]),
        Section(
            "Caveats", bullets=[*(note for note in data.notes if note not in top), *report.quality.notes, *CAVEATS]
        ),
        Section("How this was made", table=Table(["", ""], [[k, v] for k, v in report.made.items()], numeric=2)),
        Section("References", bullets=[REFERENCE]),
    ]
    shown = [section for section in sections if not section.is_empty]
    return Document(
        f"Datasheet: {report.title}",
        [*top, RESEARCH_ONLY],
        verdict(report.quality),
        report.advice,
        shown,
        grade=grade(report.quality).words,
    )


def _motivation(data: Dataset, label: int) -> str:
    """Return why the images were made."""
    counts = ", ".join(f"{name} {n:,}" for name, n in zip(data.classes, data.counts("train"), strict=True))
    return (
        f"The training fold of `{data.source}` is imbalanced ({counts}). These images were made to add to its "
        f"{data.classes[label]} images, and to measure whether a classifier gains by that."
    )


def _composition(report: Report, data: Dataset, label: int, manifest_hash: str, words: Words) -> Section:
    """Return what the set consists of."""
    size = data.images.shape[1]
    rows = [
        ["images", f"{report.n:,}, all of class {data.classes[label]}"],
        ["form", f"8-bit {PNG_KINDS[data.channels]} PNG, {size} px square"],
        ["labels", words.labels],
        ["listed in", f"`{MANIFEST}`, with index, seed and SHA-256 of each image"],
        ["seed", words.seeds],
        ["split", f"`{data.split_hash}`: for training with this split alone"],
        ["hashes", f"manifest `{manifest_hash}`, data `{data.fingerprint}`"],
        ["left out", words.left_out],
    ]
    return Section("Composition", table=Table(["", ""], rows, numeric=2))


def _kinds(data: Dataset, label: int) -> list[str]:
    """Return which kinds, by their file names, or which sources the generator learnt from."""
    index = data.indices("train", label)
    counts = Counter(data.records[i].source for i in index)
    if len(counts) < 2:
        return []
    if data.source_name:
        sources = " and ".join(f"{source or 'unknown'} ({n:,})" for source, n in counts.most_common())
        return [f"By {data.source_name} these come from {sources}. A synthetic image comes from none of these."]
    words = [f"{KIND_WORDS.get(kind, kind) or 'unknown'} ({n:,})" for kind, n in sorted(counts.items())]
    return [f"By their file names these are of the kinds {' and '.join(words)}. A synthetic image is of no kind."]


def _preprocessing(data: Dataset, label: int, words: Words) -> str:
    """Return what was done to the real images before the generator saw them."""
    size = data.images.shape[1]
    left_out = len(data.bad) + sum(item.files for item in data.left_out)
    dropped = f" {left_out:,} files of the folder were not read." if left_out else ""
    made = "made grey and " if data.channels == GREY else ""
    return (
        f"The real images were {made}resized to {size} px. The generator {words.learning} "
        f"{count_units([data.groups[i] for i in data.indices('train', label)])}, all of the training fold.{dropped}"
    )


def _distribution(data: Dataset) -> str:
    """Return on which terms the images may be passed on."""
    if data.is_phantom:
        return "The generator learnt from drawings of this toolkit, which are under its MIT licence."
    return (
        "The terms of the real data hold for what was learnt from these data, unless their owner says otherwise. Pass "
        "the images on together with this datasheet and the manifest."
    )
