"""What a teacher's pseudo-labels are worth to a vertical model: their lead in normalized entropy, on recent windows.

Legend: N examples with both a label and a pseudo-label.
"""

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.events.examples import Floats
from exfm.metrics import entropy

NUM_WINDOWS = 4
"""Finished windows that a lead is found on, and before each of them those that its pseudo-labels are calibrated on."""

MIN_POSITIVES = 100
"""In these windows; fewer tell no lead."""

STD_ERRORS = 2.0
"""Standard errors by which a lead has to exceed 0 before it counts."""

SCALE_STD_ERRORS = 4.0
"""Standard errors by which a calibrated teacher's scale has to exceed 0, or else it knows nothing."""

_LEAST = 1e-6
"""Probability from which a logit is finite enough."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lead:
    """By how much less normalized entropy a teacher predicts a task than the better of model and base rate."""

    lead: float
    std_error: float

    @property
    def at_least(self) -> float:
        """Return the lead less what chance may give."""
        return self.lead - STD_ERRORS * self.std_error


@dataclass(frozen=True)
class _Finished:
    """One window's examples of a task; [N] each."""

    labels_N: Doubles
    weights_N: Doubles
    pseudo_logits_N: Doubles
    losses: "_Losses | None"
    """None where the windows before could not tell how to calibrate the teacher."""


@dataclass(frozen=True)
class _Losses:
    """Log losses of examples; [N] each."""

    own_N: Doubles
    base_rate_N: Doubles
    """Of the base rate of the windows that the teacher is calibrated on."""
    teacher_N: Doubles


class LeadOfTask:
    """One teacher's lead in one task, window by window."""

    def __init__(self) -> None:
        self._finished: deque[_Finished] = deque(maxlen=NUM_WINDOWS)

    def after(self, *, labels_B: Floats, weights_B: Floats, own_B: Floats, pseudo_B: Floats) -> Lead | None:
        """Return the lead on the last windows, this one among them, or None where they are too few to tell.

        A label or pseudo-label that is NaN takes its example out. `own_B` are the model's probabilities.
        """
        known_B = ~(np.isnan(labels_B) | np.isnan(pseudo_B))
        labels_N, weights_N, own_N, pseudo_N = (
            values_B[known_B].astype(np.float64) for values_B in (labels_B, weights_B, own_B, pseudo_B)
        )
        if len(labels_N):
            self._finished.append(self._judged(labels_N, weights_N, own_N, _logits(pseudo_N)))
        return _lead([window for window in self._finished if window.losses is not None])

    def _judged(self, labels_N: Doubles, weights_N: Doubles, own_N: Doubles, logits_N: Doubles) -> _Finished:
        losses, calibration = None, _calibrated_on(self._finished)
        if calibration is not None:
            base_rate, scale, shift = calibration
            losses = _Losses(
                own_N=_log_losses(_logits(own_N), labels_N),
                base_rate_N=_log_losses(np.full_like(labels_N, _logit(base_rate)), labels_N),
                teacher_N=_log_losses(scale * logits_N + shift, labels_N),
            )
        return _Finished(labels_N=labels_N, weights_N=weights_N, pseudo_logits_N=logits_N, losses=losses)


def _calibrated_on(windows: Collection[_Finished]) -> tuple[float, float, float] | None:
    """Return the base rate, and the scale and shift of the pseudo-labels' logits, that fit these windows best.

    A teacher whose scale is less than chance may give counts as one that knows the base rate only: its scale is 0.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second

    if not windows:
        return None
    labels_N, weights_N, logits_N = (
        np.concatenate([getattr(window, name) for window in windows])
        for name in ("labels_N", "weights_N", "pseudo_logits_N")
    )
    if not 0 < labels_N.sum() < len(labels_N):
        return None
    base_rate = float(np.average(labels_N, weights=weights_N))
    fit = LogisticRegression().fit(logits_N[:, None], labels_N, sample_weight=weights_N / weights_N.mean())
    scale, shift = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if scale <= SCALE_STD_ERRORS * _std_error_of_scale(scale, shift, logits_N):
        return base_rate, 0.0, _logit(base_rate)
    return base_rate, scale, shift


def _std_error_of_scale(scale: float, shift: float, logits_N: Doubles) -> float:
    """Return it from the fit's Fisher information, in which each example counts once."""
    certainties_N = 1 / (2 + 2 * np.cosh(scale * logits_N + shift))  # p (1 - p)
    centred_N = logits_N - np.average(logits_N, weights=certainties_N)
    information = float((certainties_N * centred_N**2).sum())
    return 1 / math.sqrt(information) if information > 0 else math.inf


def _lead(windows: Sequence[_Finished]) -> Lead | None:
    if sum(window.labels_N.sum() for window in windows) < MIN_POSITIVES:
        return None
    weights_N = np.concatenate([window.weights_N for window in windows])
    rate = float(np.average(np.concatenate([window.labels_N for window in windows]), weights=weights_N))
    if rate == 1:  # one class only: there is no entropy
        return None
    own_N, base_rate_N, teacher_N = (
        np.concatenate([getattr(window.losses, name) for window in windows])
        for name in ("own_N", "base_rate_N", "teacher_N")
    )
    better_N = min(own_N, base_rate_N, key=lambda losses_N: float(np.average(losses_N, weights=weights_N)))
    leads_N = (better_N - teacher_N) / entropy(rate)
    lead = float(np.average(leads_N, weights=weights_N))
    std_error = float(np.sqrt((weights_N**2 * (leads_N - lead) ** 2).sum()) / weights_N.sum())
    return Lead(lead=lead, std_error=std_error)


def _logits(probabilities: Doubles) -> Doubles:
    inside = np.clip(probabilities, _LEAST, 1 - _LEAST)
    logits: Doubles = np.log(inside / (1 - inside))
    return logits


def _logit(rate: float) -> float:
    return math.log(rate / (1 - rate))


def _log_losses(logits_N: Doubles, labels_N: Doubles) -> Doubles:
    losses_N: Doubles = np.logaddexp(0, logits_N) - labels_N * logits_N
    return losses_N
