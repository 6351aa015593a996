"""How far a model's predictions are drawn to the base rate: the farther, the less the model has shown to know.

Legend: B examples, H hidden units, T tasks.
"""

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from exfm.events.examples import Examples, Floats
from exfm.metrics.quality import log_losses
from exfm.training.base_rate import BaseRate, Doubles

LEAST_EVIDENCE = -3.0
"""In nats. A model that was worse for long still has 5 % of the logit, and comes back within a few good windows."""


class Shrinkage:
    """Serves a share of the model's logit, and of the base rate's the rest: base + share (own - base), for each task.

    The share is sigmoid(evidence). The evidence is the log loss of the base rate less that of the model, in nats, over
    all windows, each before it was learned. By Bayes' rule this is the probability that the model is right, if the base
    rate was as likely at first. So a model that knows something gets the whole share after a few windows, and one that
    knows nothing loses little.
    """

    def __init__(self, num_tasks: int) -> None:
        self._base_rate = BaseRate(num_tasks)
        self._evidence_T = np.zeros(num_tasks)

    def share(self) -> Doubles:
        """Return the share of each task; 1 where no label was learned yet."""
        return np.where(self._base_rate.is_known(), expit(self._evidence_T), 1.0)

    def served(self, own_BT: Floats) -> Floats:
        """Return the probabilities to be served, given the model's own logits."""
        share_T, base_T = self.share().astype(np.float32), self._base_rate.logits().astype(np.float32)
        served_BT: Floats = expit(share_T * own_BT + (1 - share_T) * base_T)
        return served_BT

    def fold(self, head: nn.Linear) -> dict[str, Tensor]:
        """Return the weight and bias of a head that gives the logits to be served."""
        every = (self.share(), self._base_rate.logits())
        share_T, base_T = (torch.from_numpy(values).float().to(head.weight.device) for values in every)
        with torch.no_grad():
            return {"weight": share_T[:, None] * head.weight, "bias": share_T * head.bias + (1 - share_T) * base_T}

    def learn(self, examples: Examples, own_BT: Floats) -> None:
        """Take a window into account, given the model's logits from before it learned the window."""
        rates_T = self._base_rate.rates()
        for task in np.flatnonzero(self._base_rate.is_known()):
            labels_B, weights_B = examples.labels_BT[:, task], examples.weights_BT[:, task]
            counted_B = ~np.isnan(labels_B) & (weights_B > 0)
            if counted_B.any():
                labels_N, weights_N = labels_B[counted_B], weights_B[counted_B]
                of_base_N = log_losses(np.full_like(labels_N, rates_T[task]), labels_N)
                gains_N = of_base_N - log_losses(expit(own_BT[counted_B, task]), labels_N)
                gain = float(weights_N @ gains_N / weights_N.mean())
                self._evidence_T[task] = max(self._evidence_T[task] + gain, LEAST_EVIDENCE)
        self._base_rate.learn(examples)

    def state(self) -> dict[str, Doubles]:
        """Return all that was learned; writing to it changes it."""
        return {"evidence": self._evidence_T, **self._base_rate.state()}
