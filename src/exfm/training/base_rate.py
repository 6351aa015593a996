"""The base rate of each task: the simplest prediction.

Legend: B examples, T tasks.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from exfm.events.examples import Examples, Floats

Doubles = npt.NDArray[np.float64]


class BaseRate:
    """Predicts each task's label rate in the examples learned until now: (positives + 1/2) / (examples + 1), weighted.

    The halves keep the rate from 0 and 1. It is 1/2 before anything is learned.
    """

    def __init__(self, num_tasks: int) -> None:
        self._positives_T = np.zeros(num_tasks)
        self._totals_T = np.zeros(num_tasks)

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """Return the rate in these examples."""
        rate = cls(examples.labels_BT.shape[1])
        rate.learn(examples)
        return rate

    def rates(self) -> Doubles:
        """Return the rate of each task."""
        return (self._positives_T + 0.5) / (self._totals_T + 1)

    def logits(self) -> Doubles:
        """Return the rates' logits."""
        logits_T: Doubles = logit(self.rates())
        return logits_T

    def is_known(self) -> npt.NDArray[np.bool_]:
        """Return of which tasks a label was learned."""
        return self._totals_T > 0

    def test(self, examples: Examples) -> Floats:
        """Return the rates, once for each example; [B, T]."""
        return np.tile(self.rates().astype(np.float32), (len(examples), 1))

    def learn(self, examples: Examples) -> None:
        """Count the examples by their weights."""
        weights_BT = np.where(np.isnan(examples.labels_BT), 0, examples.weights_BT).astype(np.float64)
        self._positives_T += (weights_BT * np.nan_to_num(examples.labels_BT)).sum(axis=0)
        self._totals_T += weights_BT.sum(axis=0)

    def state(self) -> dict[str, Doubles]:
        """Return the counts; writing to them changes them."""
        return {"positives": self._positives_T, "totals": self._totals_T}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the counts."""
        self._positives_T, self._totals_T = (state[name].astype(np.float64) for name in ("positives", "totals"))
