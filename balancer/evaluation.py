"""`balancer evaluate`: the quality report on any two folders of images, whatever made them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from balancer.core.errors import BalancerError, UsageError
from balancer.core.files import JsonObject
from balancer.core.pixels import COLOUR, GREY, channels_of
from balancer.core.preview import Undecoded, together
from balancer.core.run import RunDir
from balancer.core.settings import EvaluateConfig
from balancer.data.channels import AUTO
from balancer.data.coding import read_coding
from balancer.data.dataset import PHANTOM_NOTICE
from balancer.data.image_folder import Folder, Scan, decode_folder, images_folder, scan_folder, tell_patients
from balancer.data.images import named
from balancer.data.phantom import STAMP
from balancer.data.split import merge_groups
from balancer.metrics.feature_choice import choose_for_folders
from balancer.metrics.features import inception_weights
from balancer.quality import figures
from balancer.quality.assess import assess, report_seconds
from balancer.quality.report import Report, closest_pairs, provenance, publish
from balancer.quality.sides import ImageSet
from balancer.reporting.numbers import plural

Array = np.ndarray
SMALLEST, LARGEST = 16, 256  # working sizes taken by default lie between these
OTHER_LOSSY = {"WEBP", "JPEG2000", "AVIF"}  # formats whose marks cannot be laid on other images here
NAMED = 3  # unreadable files that the report names
ROLES = {"real": "real images", "training": "training images", "fake": "synthetic images"}


@dataclass(frozen=True)
class Inputs:
    """The folders of one evaluation by flag, and notes for the report."""

    folders: dict[str, Folder]
    size: int
    notes: list[str]
    caveat: str | None = None  # on classifiers, where file formats differ and were not brought together
    as_read: dict[str, Array] = field(default_factory=dict)  # images by flag, before they were brought to one format

    @property
    def undecoded(self) -> Undecoded | None:
        """Return what a dry run has left to the run."""
        return together(folder.undecoded for folder in self.folders.values())

    @property
    def channels(self) -> int:
        """Return the channels in which all folders were read."""
        return channels_of(self.folders["real"].images)

    @property
    def are_chest(self) -> bool:
        """Return whether the real images are known to be chest X-rays: by a file name of that set, or drawings."""
        return self.folders["real"].named > 0 or PHANTOM_NOTICE in self.notes

    def describe(self) -> JsonObject:
        """Return the facts about the folders that env.json and report.json hold."""
        digests = "\n".join(d for folder in self.folders.values() for d in folder.digests)
        return {
            "folders": {flag: str(f.scan.path) for flag, f in self.folders.items()},
            "counts": {flag: len(f.images) for flag, f in self.folders.items()},
            "patients": {
                flag: len(set(f.groups)) if f.named or f.by_header or f.told else None
                for flag, f in self.folders.items()
            },
            "image_size": self.size,
            "channels": self.channels,
            "fingerprint": hashlib.sha256(digests.encode()).hexdigest()[:16],
            "unreadable": [list(b) for f in self.folders.values() for b in f.bad],
            "ignored_files": {flag: f.scan.strays.total() for flag, f in self.folders.items()},
            "formats": {flag: dict(f.scan.formats) for flag, f in self.folders.items()},
            "notes": self.notes,
        }


def open_inputs(config: EvaluateConfig, decode: bool = True) -> Inputs:
    """Find, check and decode the folders; only the cache is written. ``decode`` is False for a dry run.

    Raises:
        UsageError: no --real or no --fake.
        BalancerError: a folder is missing, empty, inside another, too damaged, or of images too small.
    """
    if not config.real or not config.fake:
        raise UsageError(f"evaluate got no --{'fake' if config.real else 'real'}; give --real DIR and --fake DIR")
    if config.inception not in ("auto", "off"):
        inception_weights(config.inception)  # a wrong file is refused before anything is read
    paths = {flag: images_folder(f"--{flag}", Path(path)) for flag in ROLES if (path := getattr(config, flag))}
    _check_apart(paths)
    scans = {flag: scan_folder(f"--{flag}", path) for flag, path in paths.items()}
    size = working_size(list(scans.values()), config.image_size)
    number = _channels(scans, config.channels)
    folders = {
        flag: decode_folder(scan, size, config.resize, config.max_bad, decode, number=number)
        for flag, scan in scans.items()
    }
    if config.patients is not None or config.patient_pattern is not None:
        real = [flag for flag in ("real", "training") if flag in folders]
        folders |= {flag: tell_patients(folders[flag], config.patients, config.patient_pattern) for flag in real}
    if len(folders["real"].images) < 2:
        raise BalancerError(f"--real {paths['real']} holds 1 image; a comparison needs at least 2")
    notes, as_read = _notes(folders), {flag: f.images for flag, f in folders.items()}
    caveat = _bring_to_one_coding(folders, size, notes)
    if "training" in folders:
        folders |= _separate_patients(folders["real"], folders["training"], notes)
    return Inputs(folders, size, notes, caveat, as_read)


def _check_apart(paths: dict[str, Path]) -> None:
    for (flag, path), (other, second) in combinations(paths.items(), 2):
        if path == second:
            raise BalancerError(f"--{flag} and --{other} are the same folder, {path}; give two")
        inner, outer = (flag, other) if path.is_relative_to(second) else (other, flag)
        if paths[inner].is_relative_to(paths[outer]):
            raise BalancerError(
                f"--{inner} {paths[inner]} lies inside --{outer} {paths[outer]}, whose images would hold its own; "
                "move it out"
            )


def working_size(scans: list[Scan], image_size: int | None) -> int:
    """Return the side that images are brought to: ``image_size``, else the smallest, since enlarging invents detail.

    Raises:
        BalancerError: an image is smaller than ``image_size``, or than any network could use.
    """
    sides = {file: min(size) for scan in scans for file, size in scan.sizes.items()}
    smallest = min(sides, key=lambda file: (sides[file], file))
    if sides[smallest] < (image_size or SMALLEST):
        width, height = next(scan.sizes[smallest] for scan in scans if smallest in scan.sizes)
        needed = f"--image-size asks for {image_size}" if image_size else f"at least {SMALLEST} px a side are needed"
        raise BalancerError(
            f"{smallest} is {width} x {height} px and {needed}; "
            + (f"give --image-size {sides[smallest]} or less" if sides[smallest] >= SMALLEST else "remove it")
        )
    return image_size or min(sides[smallest], LARGEST)


def _notes(folders: dict[str, Folder]) -> list[str]:
    """Return what a reader must know before reading any figure."""
    notes = []
    parents = {parent for f in folders.values() for parent in (f.scan.path, *f.scan.path.parents)}
    if any((parent / STAMP).is_file() for parent in parents):
        notes.append(PHANTOM_NOTICE)
    notes += _ranges_note(folders)
    for flag, f in folders.items():
        notes += _colour_note(ROLES[flag], f)
        notes += [f"The {ROLES[flag]}: {note}" for note in f.notes]
        if f.bad:
            names = named([name for name, _ in f.bad], NAMED)
            notes.append(f"{len(f.bad)} of the {ROLES[flag]} could not be read and were left out ({names}).")
        if f.scan.strays:
            kinds = ", ".join(f"{n} {suffix}" for suffix, n in f.scan.strays.most_common())
            notes.append(f"--{flag} holds {plural(f.scan.strays.total(), 'other file')}, left out: {kinds}.")
    return notes


def _channels(scans: dict[str, Scan], setting: int | str) -> int:
    """Return the channels of all folders: those of the setting, else 3 if any image is truly coloured."""
    if setting != AUTO:
        return int(setting)
    return COLOUR if any(scan.colour.coloured for scan in scans.values()) else GREY


def _colour_note(role: str, folder: Folder) -> list[str]:
    """Return a sentence on images that lost their colours, or on images without any among those in colour."""
    seen, n, without = folder.scan.colour, len(folder.images), folder.without_colour
    if channels_of(folder.images) == GREY and seen.coloured:
        which = f"{seen.coloured} of the {seen.looked} looked at {'is' if seen.coloured == 1 else 'are'} coloured"
        return [f"{seen.of} of the {role} are stored in colour, and {which}; all were read in grey (luminance)."]
    if not without:
        return []
    have = "have no colour and three equal channels: a classifier can tell them by that"
    return [f"{len(without) if len(without) < n else 'All'} of the {role} {have}."]


def _ranges_note(folders: dict[str, Folder]) -> list[str]:
    """Return a sentence if images of more than 8 bits have another range in each folder: brightness may differ."""
    ranges = {flag: sorted({white for white in f.ranges.values() if white != 1}) for flag, f in folders.items()}
    deep = {flag: whites for flag, whites in ranges.items() if whites}
    if len({tuple(whites) for whites in deep.values()}) < 2:
        return []
    words = ", ".join(f"{ROLES[f]} 0 to {' and 0 to '.join(f'{w:.0f}' for w in ws)}" for f, ws in deep.items())
    return [
        f"Images of more than 8 bits were read in the range of each folder ({words}): brightness may differ for it."
    ]


def _bring_to_one_coding(folders: dict[str, Folder], size: int, notes: list[str]) -> str | None:
    """Give all folders the marks of JPEG that one of them bears; return a caveat where that cannot be done."""
    codings = {flag: read_coding(f.scan.files, size, channels_of(f.images)) for flag, f in folders.items()}
    seen = {flag: coding for flag, coding in codings.items() if coding.is_seen}
    other = _other_lossy(folders, size)
    if not seen and not other:
        return None
    apart = [coding for coding in seen.values() if set(coding.tables) != set(next(iter(seen.values())).tables)]
    if not seen or apart or other:
        notes.append(
            f"The folders differ in file format at the size at which the images are used, {size} px "
            f"({describe_formats(folders)}), and the formats leave other marks: what tells the images apart may be the "
            "format. Store all of them in one format, or give a smaller --image-size."
        )
        return "The file formats differ, too, and may be all that the classifier sees."
    source, coding = next(iter(seen.items()))
    plain = [flag for flag in folders if flag not in seen]
    for flag in (flag for flag in plain if folders[flag].undecoded is None):
        folders[flag] = replace(folders[flag], images=coding.of(folders[flag].images))
    if plain:
        names = " and the ".join(ROLES[flag] for flag in plain)
        notes.append(
            f"The folders differ in file format ({describe_formats(folders)}): the {ROLES[source]} are JPEG at the "
            f"size at which they are used, {size} px, so the {names} were coded in the same way before all comparisons."
        )
    return None


def _other_lossy(folders: dict[str, Folder], size: int) -> bool:
    """Return whether only some folders hold images of another lossy format at the size at which they are used."""
    lossy = [
        set(f.scan.formats) & OTHER_LOSSY if (size, size) in f.scan.sizes.values() else set() for f in folders.values()
    ]
    return any(formats != lossy[0] for formats in lossy)


def describe_formats(folders: dict[str, Folder]) -> str:
    """Return the formats of all folders: ``real images JPEG, synthetic images PNG``."""
    return ", ".join(f"{ROLES[flag]} {f.scan.format_names}" for flag, f in folders.items())


def _separate_patients(real: Folder, training: Folder, notes: list[str]) -> dict[str, Folder]:
    """Return both folders with new patient names, equal only where the folders share a file, byte by byte.

    The same number in both need not be the same patient (it is not in Kaggle's train and test); a note says so. Numbers
    that settings tell are of one patient.
    """
    patients = [f"held out: {g}" for g in real.groups] + [f"training: {g}" for g in training.groups]
    if real.told:
        patients = [*real.groups, *training.groups]
    merged = merge_groups(patients, [*real.digests, *training.digests])
    held_out, trained_on = merged[: len(real.groups)], merged[len(real.groups) :]
    known = set(trained_on)
    shared = {number for number, group in zip(real.groups, held_out, strict=True) if group in known}
    unknown = set() if real.told else (set(real.groups) & set(training.groups)) - shared
    if unknown:
        notes.append(
            f"{plural(len(unknown), 'patient number')} in both --real and --training; whether the patients are the "
            "same is not known."
        )
    return {"real": replace(real, groups=held_out), "training": replace(training, groups=trained_on)}


def describe_size(inputs: Inputs) -> str:
    """Describe the working size, and whether only some of the sets had to be reduced to it."""
    colour = "grey" if inputs.channels == GREY else "in colour"
    text = f"Every image was brought to {inputs.size} x {inputs.size} px, {colour}."
    sides = {flag: set(f.scan.sizes.values()) for flag, f in inputs.folders.items()}
    reduced = [ROLES[flag] for flag, sizes in sides.items() if sizes != {(inputs.size, inputs.size)}]
    if reduced and len(reduced) < len(sides):
        names = " and the ".join(reduced)
        text += f" Only the {names} had to be reduced. This smooths them, which the spectrum and classifiers can see."
    return text


def describe_folder(flag: str, folder: Folder) -> str:
    """Describe a folder in one sentence: place, counts, sizes, patients."""
    n, sizes = len(folder.images), folder.scan.sizes.values()
    ranges = [sorted({s[axis] for s in sizes}) for axis in (0, 1)]
    shape = " x ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in ranges)
    patients = ""
    if flag != "fake":
        count = len(set(folder.groups))
        places = {"file names": folder.named, "DICOM headers": folder.by_header}
        patients = " and ".join(f"{n} {place}" for place, n in places.items() if n)
        patients = f"the table or pattern for {folder.told} images" if folder.told else patients
        if patients:
            patients = f", {count:,} patients (read off {patients})"
        else:
            patients = "; file names tell no patients, so each image counts by itself, and real baselines can be "
            patients += "too low"
    kind = f"{shape} px, {folder.scan.format_names}"
    return f"{ROLES[flag].capitalize()}: `{folder.scan.path}`, {n:,} images of {kind}{patients}."


def evaluate(config: EvaluateConfig, inputs: Inputs, run: RunDir, device: torch.device) -> Report:
    """Write the report and its figures into ``run``; return the report.

    Without training images the real ones take their place: copies are searched for there, and its halves by patient
    give the real baseline.
    """
    begin = time.perf_counter()
    folders, as_read = inputs.folders, inputs.as_read
    real = ImageSet(folders["real"].images, folders["real"].groups, "real images", as_read.get("real"))
    fake = folders["fake"].images
    train, held_out = real, None
    learnt = (
        "The generator's training images were not given (`--training`): copies were searched for among the real images."
    )
    if "training" in folders:
        training = folders["training"]
        train = ImageSet(training.images, training.groups, "training images", as_read.get("training"))
        held_out = replace(real, name="held-out real images")  # those also in training are left out
        learnt = "Copies were searched for among the training images."
    choice = choose_for_folders(config.features, inputs.are_chest, device)
    quality = assess(config, train, held_out, fake, device, choice=choice, as_read=as_read.get("fake"))
    quality = replace(quality, format_caveat=inputs.caveat)
    took = {"assess": time.perf_counter() - begin}
    sets = " ".join(describe_folder(flag, folder) for flag, folder in folders.items())
    report = Report(
        title=f"{len(fake):,} synthetic images against {len(real.images):,} real ones",
        about=[sets, f"{describe_size(inputs)} {learnt}"],
        n=len(fake),
        seed=config.seed,
        data=inputs.describe(),
        quality=quality,
        closest=closest_pairs(quality, folders["fake"].names, folders["training" if held_out else "real"].names),
        seconds={what: round(s, 1) for what, s in took.items()},
        made=provenance(run, config, device, took),
    )
    drawn = figures.of_quality(quality, train.images, fake)
    drawn["grid"] = figures.beside(fake, real.images, ("Synthetic", "Real"), config.seed)
    return publish(run.path, report, drawn)


def estimate_seconds(config: EvaluateConfig, inputs: Inputs) -> float:
    """Return a rough estimate; see :func:`balancer.quality.assess.report_seconds`."""
    return report_seconds(config, inputs.size, sum(len(f.images) for f in inputs.folders.values()))
