"""From the labels that a reader finds to the classes of the task: renamed, merged, dropped, one against the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from balancer.core.errors import BalancerError, UsageError, nearest
from balancer.core.settings_base import DataConfig
from balancer.data.images import named
from balancer.data.listing import Chosen, Listing, natural
from balancer.data.records import Record

SHOWN = 12  # names of classes in a message
MOST_CLASSES = 200  # beyond, a column of free text was taken for the labels


def settle_classes(listing: Listing, config: DataConfig) -> Listing:
    """Return the listing with the classes of the task, in label order: of two, the positive one is last.

    Raises:
        UsageError: the settings name a class that the data do not have, or the task needs other settings.
        BalancerError: the data have one class alone.
    """
    listing = _renamed(listing, config)
    if len(listing.classes) < 2:
        raise BalancerError(
            f"{listing.root} has {len(listing.classes)} class{'es' * (not listing.classes)}"
            f"{f' ({listing.classes[0]})' if listing.classes else ''}; expected two or more to compare"
        )
    if len(listing.classes) > MOST_CLASSES:
        raise BalancerError(
            f"{listing.root} has {len(listing.classes):,} classes ({named(listing.classes, 3)}); expected at most"
            f" {MOST_CLASSES}: name another column with --columns label=NAME, or merge labels with --classes"
        )
    if config.positive is not None:
        positive = _known(config.positive, listing, "positive")
        return _against(listing, positive)
    if len(listing.classes) == 2:
        if config.task == "multiclass":
            raise UsageError(
                f"{listing.root} has two classes, {' and '.join(listing.classes)}; leave out --task multiclass"
            )
        return _against(listing, listing.positive or _rarer(listing))
    if config.task == "binary":
        raise UsageError(
            f"task is binary and {listing.root} has {len(listing.classes)} classes ({named(listing.classes, SHOWN)});"
            " give --positive CLASS for one against the rest, or leave out --task"
        )
    return listing


def _known(name: str, listing: Listing, setting: str) -> str:
    """Return a class as the data spell it."""
    if name in listing.classes:
        return name
    matching = [cls for cls in listing.classes if cls.casefold() == name.casefold()]
    if len(matching) != 1:
        raise UsageError(f"{setting} is {name!r}, no class of {listing.root}; {nearest(name, listing.classes)}")
    return matching[0]


def _rarer(listing: Listing) -> str:
    """Return the class of two with fewer images to train on; of equal ones the later name."""
    counts = Counter(record.label for record in listing.records if record.split != "test")
    return min(listing.classes, key=lambda cls: (counts[listing.classes.index(cls)], -listing.classes.index(cls)))


def _against(listing: Listing, positive: str) -> Listing:
    """Return the listing with two classes: all others merged, then the positive one."""
    others = [cls for cls in listing.classes if cls != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    return _relabelled(listing, {cls: positive if cls == positive else negative for cls in listing.classes}, positive)


def _renamed(listing: Listing, config: DataConfig) -> Listing:
    """Return the listing with the classes that the settings name, under their new names; the others are left out."""
    if not config.classes:
        return listing
    pairs = [pair.rsplit("=", 1) if "=" in pair else [pair, pair] for pair in config.classes]
    names = {_known(old.strip(), listing, "classes"): new.strip() for old, new in pairs}
    return _relabelled(listing, names, names.get(listing.positive or ""))


def _with_label(record: Record, index: dict[int, int]) -> Record:
    """Return a record with its class's new number: the record itself where the number stays, which holds no copy."""
    label = index[record.label]
    return record if label == record.label else replace(record, label=label)


def _relabelled(listing: Listing, names: dict[str, str], positive: str | None) -> Listing:
    """Return the listing with classes renamed; records of classes without a new name are left out and counted."""
    new = sorted(set(names.values()), key=natural)
    if positive in new and len(new) == 2:
        new = [*(cls for cls in new if cls != positive), str(positive)]
    elif list(names.values()) == list(names):  # nothing renamed: the order of the data stays
        new = [cls for cls in listing.classes if cls in names]
    index = {label: new.index(names[cls]) for label, cls in enumerate(listing.classes) if cls in names}
    positions = [i for i, r in enumerate(listing.records) if r.label in index]
    records = [_with_label(listing.records[i], index) for i in positions]
    images, notes = listing.images, list(listing.notes)
    if dropped := len(listing.records) - len(records):
        images = None if images is None else Chosen(images, positions)
        without = [cls for cls in listing.classes if cls not in names]
        notes.append(f"{dropped:,} images of other classes are left out by --classes: {named(without, SHOWN)}.")
    kept = positive if positive in new else None
    return replace(listing, classes=tuple(new), records=records, images=images, notes=notes, positive=kept)
