"""How good predicted probabilities are."""

import math

import numpy as np
import numpy.typing as npt

from exfm.config import Config

Floats = npt.NDArray[np.float32]


class Quality(Config):
    """Quality of one task's predictions on one set of examples. A figure is None if the set does not define it."""

    num_examples: int
    """Examples with a known label."""
    base_rate: float | None = None
    """Weighted share of positives; 0 to 1."""
    normalized_entropy: float | None = None
    """Log loss over the entropy of the base rate: 1 is what always answering the base rate gives; lower is better."""
    auc: float | None = None
    """Chance that a positive is scored above a negative; 0 to 1."""
    calibration: float | None = None
    """Sum of predictions over number of positives; 1 is right."""


FIGURES = {"normalized_entropy": "NE", "auc": "AUC", "calibration": "calibration"}
"""What people read of the figures of a quality, by field."""


def quality(probabilities_B: Floats, labels_B: Floats, weights_B: Floats) -> Quality:
    """Return the quality of predictions; examples whose label is NaN do not count.

    Shapes: [B] each.
    """
    from sklearn.metrics import roc_auc_score  # takes a second, and most importers want the type alone

    known_B = ~np.isnan(labels_B)
    probabilities, labels, weights = (
        values[known_B].astype(np.float64) for values in (probabilities_B, labels_B, weights_B)
    )
    if not len(labels):
        return Quality(num_examples=0)
    base_rate = float(np.average(labels, weights=weights))
    if base_rate == 0:
        return Quality(num_examples=len(labels), base_rate=base_rate)
    calibration = float(np.average(probabilities, weights=weights)) / base_rate
    if base_rate == 1:  # one class only: neither entropy nor order is defined
        return Quality(num_examples=len(labels), base_rate=base_rate, calibration=calibration)
    return Quality(
        num_examples=len(labels),
        base_rate=base_rate,
        normalized_entropy=normalized_entropy(probabilities_B, labels_B, weights_B),
        auc=float(roc_auc_score(labels, probabilities, sample_weight=weights)),
        calibration=calibration,
    )


def normalized_entropy(probabilities_B: Floats, labels_B: Floats, weights_B: Floats) -> float | None:
    """Return log loss over the entropy of the base rate, as `quality` has it; None if labels are not of both classes.

    Source: He et al., "Practical lessons from predicting clicks on ads at Facebook" (doi:10.1145/2648584.2648589).
    """
    known_B = ~np.isnan(labels_B)
    losses_B, weights = log_losses(probabilities_B, labels_B)[known_B], weights_B[known_B].astype(np.float64)
    base_rate = float(np.average(labels_B[known_B], weights=weights)) if len(weights) else 0.0
    return float(np.average(losses_B, weights=weights)) / entropy(base_rate) if 0 < base_rate < 1 else None


def entropy(rate: float) -> float:
    """Return the entropy of outcomes that are positive at this rate, in nats; the rate is between 0 and 1."""
    return -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def log_losses(probabilities_B: Floats, labels_B: Floats) -> npt.NDArray[np.float64]:
    """Return the log loss of each prediction, in nats, bounded as in `quality`: none is infinite."""
    smallest = np.finfo(np.float64).eps
    bounded_B = probabilities_B.astype(np.float64).clip(smallest, 1 - smallest)
    losses_B: npt.NDArray[np.float64] = -np.where(labels_B > 0, np.log(bounded_B), np.log1p(-bounded_B))
    return losses_B
