"""Number formats: one place for how figures are written in tables, sentences and pages."""

from __future__ import annotations


def short(value: float) -> str:
    """``.934``, without a zero before the point."""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0 makes a rounded -0 a 0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def signed(value: float) -> str:
    """``+.012``, as differences are written."""
    text = short(value)
    return text if text.startswith("-") else f"+{text}"


def bounds(low: float, high: float) -> str:
    """``[.004, .020]``."""
    return f"[{short(low)}, {short(high)}]"


def p_value(p: float | None) -> str:
    """``.03``, ``.004``, ``< .001``; a dash where a test was not made."""
    if p is None:
        return "–"
    return "< .001" if p < 0.001 else f"{p:.{3 if p < 0.01 else 2}f}".removeprefix("0")


def p_equals(p: float) -> str:
    """``p = .41``, ``p = .008``, ``p < .001``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def percent(share: float) -> str:
    """``83 %`` for a share in [0, 1]; ``under 1 %`` and ``over 99 %`` keep what is not quite 0 or 1 apart from them."""
    if 0 < share <= 0.005 or 0.995 <= share < 1:
        return "under 1 %" if share < 0.5 else "over 99 %"
    return f"{100 * share:.0f} %"


def plural(n: int, noun: str) -> str:
    """``1 trial seed``, ``3 trial seeds``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
