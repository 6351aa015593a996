"""What a teacher's pseudo-labels are worth to a vertical model: their lead in normalized entropy, on recent windows.

Legend: N examples with both a label and a pseudo-label.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from exfm.events.examples import Floats
from exfm.metrics.quality import entropy

NUM_WINDOWS = 4
"""Finished windows that a lead is found on, at least."""

NUM_POSITIVES = 400
"""Positives until which earlier windows count too."""

MAX_EXAMPLES = 100_000
"""Examples up to which earlier windows count, which bounds memory where positives are rare."""

MIN_POSITIVES = 100
"""Positives that a lead needs; on fewer it is not known."""

STD_ERRORS = 2.0
"""Standard errors by which a lead has to exceed 0 before it counts, and a scale has to be below 1."""

SCALE_STD_ERRORS = 4.0
"""Standard errors by which a calibrated teacher's scale has to exceed 0, or else it knows nothing."""

SHIFT_STD_ERRORS = 4.0
"""Standard errors by which a teacher's label rate has to be wrong before pseudo-labels are shifted, by the excess."""

MAX_DISTANCE = 5.0
"""Most that a logit counts as away from the base rate's in a calibration: so a few probabilities near 0 or 1 do not
decide it."""

_LEAST = 1e-6
"""Least probability that has a logit of its own; a smaller one counts as this, so that logits are finite."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The scale and shift of logits that fit labels best, where logits count from the base rate's."""

    base: float
    """Logit of the base rate."""
    scale: float
    shift: float
    std_error: float
    """Of the scale, from the fit's Fisher information, in which each example counts once."""

    @classmethod
    def of(cls, logits_N: Doubles, labels_N: Doubles, weights_N: Doubles) -> Self:
        """Return the best one for labels of both classes."""
        from sklearn.linear_model import LogisticRegression  # takes a second

        base = float(logit(np.average(labels_N, weights=weights_N)))
        from_base_N = _from(base, logits_N)
        fit = LogisticRegression().fit(from_base_N[:, None], labels_N, sample_weight=weights_N / weights_N.mean())
        scale, shift = float(fit.coef_[0, 0]), float(fit.intercept_[0])
        certainties_N = 1 / (2 + 2 * np.cosh(scale * from_base_N + shift))  # p (1 - p)
        centred_N = from_base_N - np.average(from_base_N, weights=certainties_N)
        information = float((certainties_N * centred_N**2).sum())
        std_error = 1 / math.sqrt(information) if information > 0 else math.inf
        return cls(base=base, scale=scale, shift=shift, std_error=std_error)

    def beyond_chance(self, logits_N: Doubles, weights_N: Doubles) -> Self:
        """Return a calibration that changes the fitted logits by no more than chance does not explain.

        It never draws logits apart. Its shift is at the logits' mean, by the standard error of a label rate.
        """
        mean = float(np.average(_from(self.base, logits_N), weights=weights_N))
        scale = min(1.0, self.scale + STD_ERRORS * self.std_error)
        wrong = self.scale * mean + self.shift - (self.base + mean)
        chance = SHIFT_STD_ERRORS / math.sqrt(len(logits_N) * expit(self.base) * expit(-self.base))
        beyond = wrong - float(np.clip(wrong, -chance, chance))
        return replace(self, scale=scale, shift=self.base + (1 - scale) * mean + beyond)

    def logits(self, logits_N: Doubles) -> Doubles:
        """Return calibrated logits."""
        return self.scale * _from(self.base, logits_N) + self.shift

    def probabilities(self, probabilities_N: Floats) -> Floats:
        """Return calibrated probabilities; NaN stays NaN."""
        calibrated_N: Floats = expit(self.logits(_logits(probabilities_N.astype(np.float64)))).astype(np.float32)
        return calibrated_N


@dataclass(frozen=True)
class Lead:
    """By how much less normalized entropy a teacher predicts a task than the better of model and base rate."""

    lead: float
    std_error: float
    reliability: float
    """The scale of the teacher's best calibration, 0 to 1: its share of the pseudo-labels that is no noise."""
    calibration: Calibration
    """Of the pseudo-labels that are learned."""

    @property
    def at_least(self) -> float:
        """Return the lead less what chance may give."""
        return self.lead - STD_ERRORS * self.std_error


@dataclass(frozen=True)
class _Finished:
    """One window's examples of a task; [N] each."""

    labels_N: Doubles
    weights_N: Doubles
    own_N: Doubles
    """Logits of the model."""
    pseudo_N: Doubles
    """Logits of the teacher."""


class LeadOfTask:
    """One teacher's lead in one task, window by window.

    Model and teacher are both calibrated on the windows that they are compared on, by a scale and a shift of the logit.
    So a label rate that moves from window to window does not count as the teacher's fault.
    """

    def __init__(self) -> None:
        self._finished: deque[_Finished] = deque()

    def after(self, *, labels_B: Floats, weights_B: Floats, own_B: Floats, pseudo_B: Floats) -> Lead | None:
        """Return the lead on the last windows, this one among them, or None where they are too few to tell.

        A label or pseudo-label that is NaN takes its example out. `own_B` are the model's probabilities.
        """
        known_B = ~(np.isnan(labels_B) | np.isnan(pseudo_B))
        labels_N, weights_N, own_N, pseudo_N = (
            values_B[known_B].astype(np.float64) for values_B in (labels_B, weights_B, own_B, pseudo_B)
        )
        if len(labels_N):
            self._finished.append(_Finished(labels_N, weights_N, _logits(own_N), _logits(pseudo_N)))
        while self._is_first_too_many():
            self._finished.popleft()
        return self._lead()

    def _is_first_too_many(self) -> bool:
        if len(self._finished) <= NUM_WINDOWS:
            return False
        without_first = list(self._finished)[1:]
        num_positives = sum(window.labels_N.sum() for window in without_first)
        return num_positives >= NUM_POSITIVES or sum(len(window.labels_N) for window in without_first) >= MAX_EXAMPLES

    def _lead(self) -> Lead | None:
        if sum(window.labels_N.sum() for window in self._finished) < MIN_POSITIVES:
            return None
        labels_N, weights_N, own_N, pseudo_N = (
            np.concatenate([getattr(window, name) for window in self._finished])
            for name in ("labels_N", "weights_N", "own_N", "pseudo_N")
        )
        rate = float(np.average(labels_N, weights=weights_N))
        if rate == 1:  # one class only: there is no entropy
            return None
        own, teacher = (Calibration.of(logits_N, labels_N, weights_N) for logits_N in (own_N, pseudo_N))
        if teacher.scale <= SCALE_STD_ERRORS * teacher.std_error:
            return Lead(lead=0.0, std_error=0.0, reliability=0.0, calibration=teacher)
        own_losses_N = _log_losses(own.logits(own_N) if own.scale > 0 else logit(rate), labels_N)
        leads_N = (own_losses_N - _log_losses(teacher.logits(pseudo_N), labels_N)) / entropy(rate)
        lead = float(np.average(leads_N, weights=weights_N))
        return Lead(
            lead=lead,
            std_error=float(np.sqrt((weights_N**2 * (leads_N - lead) ** 2).sum()) / weights_N.sum()),
            reliability=min(1.0, teacher.scale),
            calibration=teacher.beyond_chance(pseudo_N, weights_N),
        )


def _from(base: float, logits_N: Doubles) -> Doubles:
    from_base_N: Doubles = np.clip(logits_N - base, -MAX_DISTANCE, MAX_DISTANCE)
    return from_base_N


def _logits(probabilities: Doubles) -> Doubles:
    logits: Doubles = logit(np.clip(probabilities, _LEAST, 1 - _LEAST))
    return logits


def _log_losses(logits: Doubles | float, labels_N: Doubles) -> Doubles:
    losses_N: Doubles = np.logaddexp(0, logits) - labels_N * logits
    return losses_N
