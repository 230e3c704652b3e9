"""The fold of every image: what the source fixed, and what is carved where the source fixed nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from balancer.core.errors import BalancerError, UsageError
from balancer.core.settings_base import DataConfig
from balancer.data.images import named
from balancer.data.listing import Listing
from balancer.data.records import Record, sampling_unit
from balancer.data.split import carve_validation, hold_out_sources, merge_groups

DEFAULT_VAL_FRACTION, DEFAULT_TEST_FRACTION = 0.15, 0.2
TEST_STREAM = "test"  # of the seeds that choose the test images


def carved_folds(records: Sequence[Record], config: DataConfig, listing: Listing) -> tuple[float, float]:
    """Return the shares that are carved for test and for validation; 0 where the source's own images are used."""
    splits = {record.split for record in records}
    test, val = config.test_fraction, config.val_fraction
    if config.split_by == "source":
        return test if test is not None else DEFAULT_TEST_FRACTION, DEFAULT_VAL_FRACTION if val is None else val
    if "test" in splits:
        if test is not None:
            raise UsageError(
                f"test_fraction is {test:g}, and {listing.root} has its own test images; leave out --test-fraction"
            )
        test = 0.0
    elif test is None:
        test = DEFAULT_TEST_FRACTION if splits == {""} else 0.0
    if val is None:
        val = 0.0 if "val" in splits and listing.keeps_val else DEFAULT_VAL_FRACTION
    return test, val


def assign_folds(
    records: Sequence[Record],
    groups: Sequence[str],
    shares: tuple[float, float],
    config: DataConfig,
    listing: Listing,
) -> tuple[np.ndarray, list[str]]:
    """Return the folds (n,) and what a reader must know of them. Test images of the source stay test images.

    Args:
        records: the readable images.
        groups: what must not be parted.
        shares: of test and of validation, as :func:`carved_folds` returns them.
        config: its ``split_seed`` decides, and ``split_by``.
        listing: the rules of the data.

    Raises:
        BalancerError: a class has too few images or patients for the folds, or there are too few sources.
    """
    test, val = shares
    folds = np.array([r.split or "train" for r in records], dtype="<U5")
    has_val = bool((folds == "val").any())
    by_source = config.split_by == "source"
    if by_source:
        folds[:] = np.where(_sources_for_test(records, groups, test, config.split_seed, listing), "test", "train")
    if not listing.plain_split:
        _refuse_rare_classes(records, groups, folds, (0.0 if by_source else test, val), listing)
    if test > 0 and not by_source:
        _carve(folds, "test", records, groups, test, config.split_seed, listing, left=2, stream=TEST_STREAM)
    notes = []
    if val > 0:
        _carve(folds, "val", records, groups, val, config.split_seed, listing, left=1, stream="split")
    elif has_val and not (listing.keeps_val or by_source):
        n = (folds == "val").sum()
        notes.append(f"No validation was carved: the source's own {n} validation images are used.")
    return folds, [*notes, *(_carved_note(records, folds, shares, config, listing) if test > 0 else [])]


def _carve(
    folds: np.ndarray,
    fold: str,
    records: Sequence[Record],
    groups: Sequence[str],
    share: float,
    seed: int,
    listing: Listing,
    left: int,
    stream: str,
) -> None:
    """Move images that are no test images into a fold; the others of them stay where they are, or leave validation."""
    pool = np.flatnonzero(folds != "test").tolist()
    chosen = carve_validation(
        [records[i].label for i in pool],
        [groups[i] for i in pool],
        share,
        seed,
        None if listing.plain_split else left,
        stream,
    )
    folds[pool] = np.where(chosen, fold, folds[pool] if fold == "test" else "train")


def _sources_for_test(
    records: Sequence[Record], groups: Sequence[str], share: float, seed: int, listing: Listing
) -> np.ndarray:
    """Return the images of the sources held out; sources that share a patient or a copy count as one."""
    if not listing.source_name:
        raise UsageError(
            f"split_by is source and {listing.root} names no sources; give --columns source=NAME, or leave out"
            " --split-by"
        )
    sources = merge_groups([record.source or "unknown" for record in records], groups)
    if len(set(sources)) < 2:
        names = sorted({record.source or "unknown" for record in records})
        raise BalancerError(
            f"split_by is source and all images count as one source: {listing.source_name} holds {named(names)}, and"
            " sources that share patients or copies count as one; leave out --split-by"
        )
    return hold_out_sources(sources, share, seed)


def _refuse_rare_classes(
    records: Sequence[Record],
    groups: Sequence[str],
    folds: np.ndarray,
    shares: tuple[float, float],
    listing: Listing,
) -> None:
    """Refuse a class that cannot have an image in each fold that is carved."""
    needed = 1 + sum(share > 0 for share in shares)
    if needed == 1:
        return
    of_class: dict[int, set[str]] = defaultdict(set)
    for record, group, fold in zip(records, groups, folds, strict=True):
        if fold != "test":
            of_class[record.label].add(group)
    images = Counter(record.label for record, fold in zip(records, folds, strict=True) if fold != "test")
    rare = [label for label in range(len(listing.classes)) if len(of_class[label]) < needed]
    if rare:
        unit = sampling_unit(record.patient for record in records)
        counts = [f"{listing.classes[k]} {images[k]} of {len(of_class[k])} {unit}s" for k in rare]
        raise BalancerError(
            f"{listing.root} has classes too small for {needed} folds: {named(counts)}; expected {needed} {unit}s or"
            " more of each; merge or drop these classes with --classes"
        )


def _carved_note(
    records: Sequence[Record], folds: np.ndarray, shares: tuple[float, float], config: DataConfig, listing: Listing
) -> list[str]:
    n = len(records)
    carved = [fold for fold, share in zip(_CARVED, shares, strict=True) if share > 0]
    sizes = " and ".join(f"{(folds == fold).sum():,} for {_CARVED[fold]}" for fold in carved)
    kept = (folds == "val").sum() if "val" not in carved and listing.keeps_val else 0
    if config.split_by == "source":
        held = sorted({r.source or "unknown" for r, fold in zip(records, folds, strict=True) if fold == "test"})
        return [
            f"Test is of sources that training never sees ({listing.source_name}: {named(held)}); any split of the data"
            f" is not used: {sizes} of {n:,} images (seed {config.split_seed}; split.csv)."
        ]
    unit = sampling_unit(record.patient for record in records)
    return [
        f"The data name no test split: {sizes} were carved from {n:,} images, by {unit} (seed {config.split_seed};"
        f" split.csv has them).{f' {kept:,} of their validation images stay validation images.' * bool(kept)}"
    ]


_CARVED = {"test": "test", "val": "validation"}
