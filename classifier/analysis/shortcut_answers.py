"""The shortcut meter in one sentence: which regimes read being synthetic as which class, and at which sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from balancer.reporting.numbers import listed
from classifier.analysis.shortcuts import MeterResult
from classifier.analysis.verdicts import too_few_seeds

UNJUDGED = "Whether classifiers read being synthetic cannot be judged without a regime on real images alone."


def brief(rows: Sequence[MeterResult]) -> str:
    """Return one sentence for the answer: which regimes read being synthetic as which class; empty without a meter."""
    synthetic, rows = [row for row in rows if row.is_synthetic], [row for row in rows if row.is_judged]
    if not rows:
        return UNJUDGED if synthetic else ""
    few = too_few_seeds(min(row.trial_seeds for row in rows))
    limit = f" ({few})" if few else ""
    regimes = {row.class_name: list[str]() for row in rows}
    for row in rows:
        regimes[row.class_name] += [row.regime + " (slightly)" * row.is_slight] if row.reads else []
    clauses = [f"{listed(of)} as {name}" for name, of in regimes.items() if of]
    if not clauses:
        return f"No shortcut was seen: no classifier reads being synthetic as {' or '.join(regimes)}{limit}."
    first, *others = clauses
    first = f"The classifiers of {first.replace(' as ', ' read being synthetic as ', 1)}"
    return f"{'; '.join([first, *(f'those of {clause}' for clause in others)])}{limit}."


def along_sizes(by_size: Mapping[int, Sequence[MeterResult]]) -> str:
    """Return one sentence for a learning curve: at which sizes regimes read being synthetic as which class.

    ``The classifiers of gan read being synthetic as NORMAL at every size; those of gan_both ... at 50 images.``

    Args:
        by_size: results at each number of real images of the smallest class; sizes without a meter are left out.

    Returns:
        The sentence; empty if no size has the meter.
    """
    measured = {size: rows for size, of in by_size.items() if (rows := [row for row in of if row.is_judged])}
    if not measured:
        return UNJUDGED if any(row.is_synthetic for of in by_size.values() for row in of) else ""
    few = too_few_seeds(min(row.trial_seeds for rows in measured.values() for row in rows))
    limit = f" ({few})" if few else ""
    reading: dict[tuple[str, str], dict[int, bool]] = {}  # regime and class: the sizes where it reads, and if slightly
    for size, rows in measured.items():
        for row in rows:
            if row.reads:
                reading.setdefault((row.regime, row.class_name), {})[size] = row.is_slight
    if not reading:
        names = dict.fromkeys(row.class_name for rows in measured.values() for row in rows)
        return f"No shortcut was seen at any size: no classifier reads being synthetic as {' or '.join(names)}{limit}."
    alike: dict[tuple[str, str], list[str]] = {}  # class and sizes: the regimes that read it there
    for (regime, class_name), slight in reading.items():
        alike.setdefault((class_name, _at_sizes(slight, everywhere=len(measured))), []).append(regime)
    clauses = [
        f"of {listed(regimes)} read being synthetic as {class_name} at {sizes}"
        for (class_name, sizes), regimes in alike.items()
    ]
    return f"The classifiers {'; those '.join(clauses)}{limit}."


def _at_sizes(slight: Mapping[int, bool], everywhere: int) -> str:
    """Return ``every size``, ``50 images (slightly)``, or ``50 and 100 images (slightly at 100)``."""
    sizes = "every size" if len(slight) == everywhere else f"{listed([f'{size:,}' for size in slight])} images"
    slightly = [f"{size:,}" for size, is_slight in slight.items() if is_slight]
    if not slightly:
        return sizes
    where = "" if len(slightly) == len(slight) else f" at {listed(slightly)}"
    return f"{sizes} (slightly{where})"
