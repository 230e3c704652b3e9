"""Settings with which a table can be used that cannot be used as it stands: tried, not guessed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from balancer.core.errors import BalancerError
from balancer.core.settings_base import DataConfig
from balancer.data.column_guesses import NOBODY
from balancer.data.dataset import Dataset, load_dataset
from balancer.data.label_spellings import only_common, pairs, sizes_of, spellings
from balancer.data.labels import MOST_CLASSES
from balancer.data.records import SPLITS
from balancer.data.table import MissingFiles, UnknownSplits

log = logging.getLogger("balancer")
TRIES = 6
RARE = 20  # rows: only a class of fewer is left out without anybody saying so
MOST_MISSING = 0.5  # share of files beyond which the table is another one, and nothing should go on


@dataclass(frozen=True)
class Mended:
    """Settings with which the data were read, and what they gave."""

    config: DataConfig
    data: Dataset


def mended(config: DataConfig, error: BalancerError, labels: Mapping[str, int]) -> Mended | None:
    """Return settings with which the data can be used after an error; None if no change helps.

    Args:
        config: the settings that gave the error.
        error: why the data cannot be used.
        labels: of the table, and how many rows each has.
    """
    with _quiet():
        for _ in range(TRIES):
            changed = _changed(config, error, labels)
            if changed is None:
                return None
            config = changed
            try:
                return Mended(config, load_dataset(config, require=SPLITS))
            except BalancerError as another:
                error = another
    return None


def merged(config: DataConfig, labels: Mapping[str, int]) -> Mended | None:
    """Return the settings that merge labels of one meaning; None if there are none, or the merging does not help."""
    if config.classes or not spellings(labels):
        return None
    config = config.model_copy(update={"classes": pairs(only_common(labels, 1))})
    try:
        with _quiet():
            return Mended(config, load_dataset(config, require=SPLITS))
    except BalancerError:
        return None


def _changed(config: DataConfig, error: BalancerError, labels: Mapping[str, int]) -> DataConfig | None:
    """Return the settings with the one change that the error asks for."""
    if isinstance(error, MissingFiles):
        enough = config.max_bad < error.allowing <= MOST_MISSING
        return config.model_copy(update={"max_bad": error.allowing}) if enough else None
    if isinstance(error, UnknownSplits):
        return config.model_copy(update={"columns": config.columns.model_copy(update={"split": NOBODY})})
    names = _fewer(config, labels)
    return config.model_copy(update={"classes": pairs(names)}) if len(set(names.values())) > 1 else None


def _fewer(config: DataConfig, labels: Mapping[str, int]) -> dict[str, str]:
    """Return labels with new names: spellings merged and the rarest left out; empty if there is nothing to change."""
    if len(labels) > MOST_CLASSES:
        return {}
    if not config.classes:
        names = only_common(labels, len(SPLITS))  # a class needs an image in every fold
        if names != {label: label for label in labels}:
            return names
    else:
        split = (pair.rsplit("=", 1) if "=" in pair else [pair, pair] for pair in config.classes)
        names = {old.strip(): new.strip() for old, new in split}
    sizes = sizes_of(Counter(labels), names)
    smallest = min(sizes, key=lambda name: (sizes[name], name))
    return {label: name for label, name in names.items() if name != smallest} if sizes[smallest] < RARE else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of a trial from standard error."""
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
