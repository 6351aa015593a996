"""Whether a candidate may become champion: both are compared on the windows that both were tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import Annotated

from pydantic import Field

from exfm.config import Config

Figures = Mapping[str, Mapping[int, float]]
"""By task: a figure of each window, by the window's index."""


class PromotionRule(Config):
    """How much worse than the champion a candidate may be."""

    max_ne_increase: Annotated[float, Field(ge=0, le=1)] = 0.002
    """Normalized entropy over the champion's, as a fraction of it; 0 to 1. Below the spread of seeds alone a rule is a
    lottery: a standard deviation of 0.002 to 0.008 for the demo's models (8 seeds of each, 2026-11), less with more
    data. The default is at the lower end: a wrong refusal costs a training run, a wrong pass revenue."""
    max_calibration_error: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Distance of calibration (sum of predictions over sum of labels) from 1; 0 to 10. A candidate that is farther
    passes only if it is no farther than the champion."""


@dataclass(frozen=True)
class TestedVersion:
    """What the windows' tests found of a version."""

    __test__ = False  # no test of pytest's

    version: int
    normalized_entropy: Figures
    calibration: Figures


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes, and what speaks for or against it."""

    passed: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line."""
        return "; ".join(self.reasons)


def judge(candidate: TestedVersion, champion: TestedVersion | None, rule: PromotionRule) -> Verdict:
    """Return whether a candidate may take the champion's place; without a champion any may that is calibrated."""
    tasks = set(candidate.normalized_entropy) | set(champion.normalized_entropy if champion else ())
    against: list[str] = []
    figures: list[str] = []
    if not tasks:
        against.append("no window of the candidate was tested")
    for task in sorted(tasks):
        found = candidate.normalized_entropy.get(task, {})
        before = champion.normalized_entropy.get(task, {}) if champion else {}
        windows = sorted(set(found) & set(before) if before else found)
        if not windows:
            against.append(f"{task}: no window that both were tested on")
            continue
        span = f"windows {windows[0]} to {windows[-1]}"
        if champion and before:
            entropy, entropy_before = _mean(found, windows), _mean(before, windows)
            text = f"{task}: NE {entropy:.5f} against {entropy_before:.5f} of v{champion.version} ({span})"
            (figures if entropy <= entropy_before * (1 + rule.max_ne_increase) else against).append(text)
        error = abs(_mean(candidate.calibration.get(task, {}), windows) - 1)
        error_before = abs(_mean(champion.calibration.get(task, {}), windows) - 1) if champion and before else inf
        allowed = max(rule.max_calibration_error, error_before if error_before < inf else 0.0)
        text = f"{task}: calibration is off by {error:.3f}, allowed {allowed:.3f} ({span})"
        (figures if error <= allowed else against).append(text)
    return Verdict(passed=not against, reasons=tuple(against or figures))


def _mean(values: Mapping[int, float], windows: list[int]) -> float:
    """Return a figure's mean over windows; infinite where one of them lacks it, so that nothing passes by a gap."""
    return fmean(values.get(window, inf) for window in windows)
