"""Number formats: the one place for how figures are written in tables, sentences and pages."""

from __future__ import annotations

from collections.abc import Sequence

DASH = "–"  # in a cell that has no figure


def fixed(value: float | None, digits: int = 2) -> str:
    """Return ``0.93``: a figure that can exceed 1, such as a distance; a dash for None."""
    return DASH if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 makes a rounded -0 a 0


def short(value: float | None, digits: int = 3) -> str:
    """Return ``.934``: a share, probability or correlation without the zero before its point; a dash for None."""
    text = fixed(value, digits)
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float, digits: int = 3) -> str:
    """Return ``+.012``, as differences are written."""
    text = short(value, digits)
    return text if text.startswith("-") else f"+{text}"


def bounds(low: float, high: float, digits: int = 3) -> str:
    """Return the interval ``[.004, .020]``."""
    return f"[{short(low, digits)}, {short(high, digits)}]"


def with_interval(value: float, low: float | None, high: float | None, digits: int = 3) -> str:
    """Return ``.934 [.910, .952]``; the value alone where no resample differs: that is no interval."""
    if low is None or high is None or low == high:
        return short(value, digits)
    return f"{short(value, digits)} {bounds(low, high, digits)}"


def mean_sd(mean: float, sd: float | None, digits: int = 3) -> str:
    """Return ``.934 ± .012``; ``n/a`` stands for the SD of a single value."""
    return f"{short(mean, digits)} ± {'n/a' if sd is None else short(sd, digits)}"


def p_value(p: float | None) -> str:
    """Return ``.03``, ``.004`` or ``< .001`` for a cell; a dash where no test was made.

    More digits tell on which side of the usual level, .05, a p lies that would round to it.
    """
    if p is None:
        return DASH
    if p < 0.001:
        return "< .001"
    return short(p, 3 if p < 0.01 else next((digits for digits in (2, 3) if round(p, digits) != 0.05), 4))


def p_equals(p: float) -> str:
    """Return ``p = .03`` or ``p < .001`` for a sentence."""
    value = p_value(p)
    return f"p {value}" if value.startswith("<") else f"p = {value}"


def percent(share: float, digits: int = 0) -> str:
    """Return ``83 %`` for 0.834; what is not quite nothing or everything does not read as such."""
    least = 0.005 * 0.1**digits
    if 0 < share <= least or 1 - least <= share < 1:
        smallest = f"{0.1**digits:.{digits}f}"
        return f"under {smallest} %" if share < 0.5 else f"over {100 - float(smallest):.{digits}f} %"
    return f"{100 * round(share, digits + 2):.{digits}f} %"  # rounded as short() rounds, so that .405 is .41 and 41 %


def decibels(value: float, digits: int = 1, sign: bool = False) -> str:
    """Return ``9.1 dB``, or ``+9.1 dB`` with ``sign``."""
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f} dB"


def times(ratio: float) -> str:
    """Return ``1.4 times``, ``38 times`` or ``over 1,000 times``."""
    if ratio > 1000:
        return "over 1,000 times"
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def seconds(value: float) -> str:
    """Return ``12 s``."""
    return f"{value:,.0f} s"


def megabytes(value: float) -> str:
    """Return ``2,048 MB``."""
    return f"{value:,.0f} MB"


def plural(n: int, noun: str) -> str:
    """Return ``1 trial seed`` or ``3 trial seeds``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def listed(words: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
