"""How figures are written."""

import pytest

from balancer.reporting.numbers import p_equals, percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "under 1 %"),
        (0.005, "under 1 %"),
        (0.0051, "1 %"),
        (0.834, "83 %"),
        (0.9949, "99 %"),
        (0.995, "over 99 %"),
        (1 - 1e-9, "over 99 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(share: float, text: str) -> None:
    """Neither 0 % nor 100 % where that is not so."""
    assert percent(share) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.41, "p = .41"), (0.00841, "p = .008"), (0.0004, "p < .001"), (1.0, "p = 1.00")]
)
def test_p_equals(p: float, text: str) -> None:
    assert p_equals(p) == text
