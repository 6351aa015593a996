"""What a teacher's pseudo-labels are worth to a vertical model: their lead in normalized entropy, on recent windows.

Legend: N examples with both a label and a pseudo-label.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from exfm.events.examples import Floats
from exfm.metrics import entropy

NUM_WINDOWS = 4
"""Finished windows that a lead is found on."""

MIN_POSITIVES = 100
"""Positives that these windows must have; a lead on fewer is not known."""

STD_ERRORS = 2.0
"""Standard errors by which a lead has to exceed 0 before it counts, and a scale has to be below 1."""

SCALE_STD_ERRORS = 4.0
"""Standard errors by which a calibrated teacher's scale has to exceed 0, or else it knows nothing."""

MAX_DISTANCE = 5.0
"""Most that a logit counts as away from the base rate's in a calibration: so a few probabilities near 0 or 1 do not
decide it."""

_LEAST = 1e-6
"""Least probability that has a logit of its own; a smaller one counts as this, so that logits are finite."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Softening:
    """Draws targets of a head together: each logit becomes centre + factor (logit - centre)."""

    centre: float = 0.0
    factor: float = 1.0
    """0 to 1; 1 changes nothing."""

    def of(self, probabilities_B: Floats) -> Floats:
        """Return softer probabilities; NaN stays NaN."""
        if self.factor == 1:
            return probabilities_B
        logits_B = _logits(probabilities_B.astype(np.float64))
        softer_B: Floats = expit(self.centre + self.factor * (logits_B - self.centre)).astype(np.float32)
        return softer_B


@dataclass(frozen=True)
class Lead:
    """By how much less normalized entropy a teacher predicts a task than the better of model and base rate."""

    lead: float
    std_error: float
    softening: Softening = Softening()
    """Softening of the pseudo-labels, which are farther apart than what the teacher knows if the factor is below 1."""

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
            self._finished.append(_Finished(labels_N, weights_N, _logits(own_N), _logits(pseudo_N)))
        return self._lead()

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
        own_N, pseudo_N = (np.clip(of_N - logit(rate), -MAX_DISTANCE, MAX_DISTANCE) for of_N in (own_N, pseudo_N))
        own, teacher = (_Calibration.of(logits_N, labels_N, weights_N) for logits_N in (own_N, pseudo_N))
        if teacher.scale <= SCALE_STD_ERRORS * teacher.std_error:
            return Lead(lead=0.0, std_error=0.0)
        losses_N = own.losses(own_N, labels_N) if own.scale > 0 else _log_losses(logit(rate), labels_N)
        leads_N = (losses_N - teacher.losses(pseudo_N, labels_N)) / entropy(rate)
        lead = float(np.average(leads_N, weights=weights_N))
        return Lead(
            lead=lead,
            std_error=float(np.sqrt((weights_N**2 * (leads_N - lead) ** 2).sum()) / weights_N.sum()),
            softening=Softening(
                centre=float(logit(rate) + np.average(pseudo_N, weights=weights_N)),
                factor=min(1.0, teacher.scale + STD_ERRORS * teacher.std_error),
            ),
        )


@dataclass(frozen=True)
class _Calibration:
    """The scale and shift of logits that fit labels best."""

    scale: float
    shift: float
    std_error: float
    """Of the scale, from the fit's Fisher information, in which each example counts once."""

    @classmethod
    def of(cls, logits_N: Doubles, labels_N: Doubles, weights_N: Doubles) -> "_Calibration":
        from sklearn.linear_model import LogisticRegression  # takes a second

        fit = LogisticRegression().fit(logits_N[:, None], labels_N, sample_weight=weights_N / weights_N.mean())
        scale, shift = float(fit.coef_[0, 0]), float(fit.intercept_[0])
        certainties_N = 1 / (2 + 2 * np.cosh(scale * logits_N + shift))  # p (1 - p)
        centred_N = logits_N - np.average(logits_N, weights=certainties_N)
        information = float((certainties_N * centred_N**2).sum())
        return cls(scale=scale, shift=shift, std_error=1 / math.sqrt(information) if information > 0 else math.inf)

    def losses(self, logits_N: Doubles, labels_N: Doubles) -> Doubles:
        """Return the log losses of calibrated logits."""
        return _log_losses(self.scale * logits_N + self.shift, labels_N)


def _logits(probabilities: Doubles) -> Doubles:
    logits: Doubles = logit(np.clip(probabilities, _LEAST, 1 - _LEAST))
    return logits


def _log_losses(logits: Doubles | float, labels_N: Doubles) -> Doubles:
    losses_N: Doubles = np.logaddexp(0, logits) - labels_N * logits
    return losses_N
