"""Labels that differ by spelling alone, and the setting `classes` that merges them or leaves rare ones out."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def spellings(labels: Iterable[str]) -> dict[str, str]:
    """Return the labels that have another spelling, each with the most frequent one of these.

    >>> spellings(["ill", "Ill", "ill", "well"])
    {'ill': 'ill', 'Ill': 'ill'}
    """
    counts = Counter(labels)
    alike: dict[str, list[str]] = {}
    for label in counts:
        alike.setdefault(_sounds(label), []).append(label)
    several = [sorted(group, key=lambda label: (-counts[label], label)) for group in alike.values() if len(group) > 1]
    return {label: group[0] for group in several for label in group}


def _sounds(label: str) -> str:
    """Return a label without case, accents and blanks; signs stay, since `T1+` is not `T1-`."""
    letters = unicodedata.normalize("NFKD", label.casefold())
    return "".join(c for c in letters if not c.isspace() and not unicodedata.combining(c)) or label


def merged_already(alike: Mapping[str, str], classes: Sequence[str]) -> bool:
    """Return whether the setting `classes` gives one name to all spellings of a label that it names."""
    names = dict(_pair(text) for text in classes)
    targets: dict[str, set[str]] = {}
    for label, spelling in alike.items():
        if label in names:
            targets.setdefault(spelling, set()).add(names[label])
    return bool(classes) and all(len(of) == 1 for of in targets.values())


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.rpartition("=")
    return (old.strip(), new.strip()) if old else (text.strip(), text.strip())


def pairs(names: Mapping[str, str]) -> tuple[str, ...]:
    """Return labels with their new names as the setting `classes`; a new name cannot have `=` in it."""
    return tuple(
        label if label == name and "=" not in label else f"{label}={name.replace('=', ' ')}"
        for label, name in names.items()
    )


def pairs_text(names: Mapping[str, str]) -> str:
    """Return labels with their new names as ``--classes`` reads them."""
    return joined(pairs(names))


def joined(parts: Sequence[str]) -> str:
    """Return a list as one argument; a part with a comma in it stands in double quotes."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(parts)
    return buffer.getvalue()


def only_common(counts: Mapping[str, int], least: int) -> dict[str, str]:
    """Return the labels that have, with their other spellings, at least so many rows, each with its common spelling."""
    alike = spellings(label for label, n in counts.items() for _ in range(n))
    names = {label: alike.get(label, label) for label in counts}
    sizes = sizes_of(counts, names)
    return {label: name for label, name in names.items() if sizes[name] >= least}


def sizes_of(counts: Mapping[str, int], names: Mapping[str, str]) -> Counter[str]:
    """Return how many rows each new name has."""
    sizes = Counter[str]()
    for label, name in names.items():
        sizes[name] += counts[label]
    return sizes
