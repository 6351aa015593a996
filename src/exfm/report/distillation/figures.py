"""A comparison's figures as text."""

from exfm.metrics.intervals import Interval
from exfm.training.manifest import BASE_RATE, LOGISTIC

DASH = "–"  # noqa: RUF001 - an undefined figure

MINUS = "−"  # noqa: RUF001 - as the report has it

METHODS = {"label": "label-only", "self": "self-distillation"}
"""Names of methods for people, where these are not the settings' own."""


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number as text; a dash if there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def line_name(line: str) -> str:
    """Return a reference line's name for people."""
    return {BASE_RATE: "base rate", LOGISTIC: "logistic regression"}[line]


def method_name(method: str) -> str:
    """Return a method's name for people."""
    return METHODS.get(method, method)


def number(value: float) -> str:
    """Return a setting's value as text."""
    return f"{value:g}"


def change(interval: Interval | None, *, unit: float = 1.0, digits: int = 2) -> str:
    """Return a signed figure in multiples of a unit, with its interval; a dash if there is none."""
    if interval is None:
        return DASH
    value, low, high = (
        _signed(end / unit, digits if abs(end) < 100 * unit else 0)
        for end in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def share(interval: Interval | None, *, digits: int = 2) -> str:
    """Return a figure with its interval; a dash if there is none."""
    if interval is None:
        return DASH
    value, low, high = (
        f"{end:.{digits}f}".replace("-", MINUS) for end in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def judged(interval: Interval | None, *, less_is_better: bool) -> str:
    """Return `better` or `worse` of a difference whose interval excludes 0, and else nothing."""
    if interval is None or not interval.excludes_zero:
        return ""
    return "better" if (interval.value < 0) == less_is_better else "worse"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS)
