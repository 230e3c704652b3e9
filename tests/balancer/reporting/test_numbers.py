"""Number formats."""

from collections.abc import Callable

import pytest

from balancer.reporting import numbers


@pytest.mark.parametrize(
    ("form", "values", "text"),
    [
        (numbers.short, (0.9341,), ".934"),
        (numbers.short, (-0.5, 1), "-.5"),
        (numbers.short, (1.0,), "1.000"),
        (numbers.short, (10.25, 2), "10.25"),
        (numbers.short, (-0.0001,), ".000"),
        (numbers.signed, (0.012,), "+.012"),
        (numbers.signed, (-0.0004,), "+.000"),
        (numbers.short, (None,), "–"),
        (numbers.fixed, (0.934,), "0.93"),
        (numbers.fixed, (-0.0004, 3), "0.000"),
        (numbers.fixed, (None,), "–"),
        (numbers.bounds, (-0.004, 0.02), "[-.004, .020]"),
        (numbers.with_interval, (0.934, 0.91, 0.952), ".934 [.910, .952]"),
        (numbers.with_interval, (1.0, 1.0, 1.0), "1.000"),
        (numbers.with_interval, (0.934, None, None), ".934"),
        (numbers.mean_sd, (0.934, 0.012), ".934 ± .012"),
        (numbers.mean_sd, (0.934, None), ".934 ± n/a"),
        (numbers.p_value, (None,), "–"),
        (numbers.p_value, (0.0312,), ".03"),
        (numbers.p_value, (0.0099,), ".010"),
        (numbers.p_value, (0.0009,), "< .001"),
        (numbers.p_value, (0.0475,), ".048"),
        (numbers.p_value, (0.0549,), ".055"),
        (numbers.p_value, (0.04996,), ".0500"),
        (numbers.p_equals, (0.41,), "p = .41"),
        (numbers.p_equals, (0.0001,), "p < .001"),
        (numbers.p_equals, (1.0,), "p = 1.00"),
        (numbers.percent, (0.834,), "83 %"),
        (numbers.percent, (0.0,), "0 %"),
        (numbers.percent, (1e-9,), "under 1 %"),
        (numbers.percent, (0.005,), "under 1 %"),
        (numbers.percent, (0.0051,), "1 %"),
        (numbers.percent, (0.9949,), "99 %"),
        (numbers.percent, (0.995,), "over 99 %"),
        (numbers.percent, (1 - 1e-9,), "over 99 %"),
        (numbers.percent, (1.0,), "100 %"),
        (numbers.percent, (0.405,), "41 %"),  # short() writes .41
        (numbers.percent, (0.1234, 1), "12.3 %"),
        (numbers.percent, (0.9999, 1), "over 99.9 %"),
        (numbers.decibels, (9.14,), "9.1 dB"),
        (numbers.decibels, (-0.001, 2, True), "+0.00 dB"),
        (numbers.times, (1.44,), "1.4 times"),
        (numbers.times, (38.2,), "38 times"),
        (numbers.times, (2e3,), "over 1,000 times"),
        (numbers.seconds, (1234.4,), "1,234 s"),
        (numbers.megabytes, (2048.3,), "2,048 MB"),
        (numbers.plural, (1, "trial seed"), "1 trial seed"),
        (numbers.plural, (1200, "trial seed"), "1,200 trial seeds"),
    ],
)
def test_formats(form: Callable[..., str], values: tuple[object, ...], text: str) -> None:
    assert form(*values) == text


@pytest.mark.parametrize("digits", [0, 1])
def test_a_share_and_its_percentage_are_rounded_alike(digits: int) -> None:
    for thousandth in range(10, 990):
        share = thousandth / 1000
        assert float(numbers.percent(share, digits).removesuffix(" %")) == pytest.approx(
            100 * float(numbers.short(share, digits + 2))
        )
