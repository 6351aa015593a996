"""How strongly a vertical model learns from its teachers: by setting, or by what their pseudo-labels are worth.

Legend: B examples, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.artifact.manifest import Window
from exfm.distill.config import Method
from exfm.distill.lead import LeadOfTask
from exfm.events.examples import Examples, Floats
from exfm.training.manifest import TeacherWeight

FULL_LEAD = 0.01
"""Of normalized entropy: the lead from which a teacher gets the whole weight."""

STALE_WINDOWS = 2
"""Windows from which a snapshot is old enough for an adapter."""


@dataclass(frozen=True)
class Weights:
    """How strongly each task learns from one teacher, [T] each; 0: not at all."""

    plain_T: Floats
    """From its pseudo-labels as they are."""
    adapted_T: Floats
    """From what the student adapter makes of them."""


def fixed_weights(method: Method, weight: float, *, num_tasks: int) -> Weights:
    """Return the weights of a method that is not `auto`."""
    return Weights(
        plain_T=np.full(num_tasks, weight if method in ("kd", "ah", "ah+sa") else 0, dtype=np.float32),
        adapted_T=np.full(num_tasks, weight if method in ("sa", "ah+sa") else 0, dtype=np.float32),
    )


class AutoWeights:
    """The weights of method `auto`: for each teacher and task, computed before each window that is learned.

    The more a teacher leads, the more its auxiliary head weighs. The head that learns by an adapter takes part only
    where the snapshot that scored the window was old. What is known of the windows before is in no checkpoint, because
    vertical models are trained from the first window on.
    """

    def __init__(self, teachers: Sequence[str], tasks: Sequence[str], *, weight: float) -> None:
        """Give each of these teachers `weight` at most."""
        self._tasks = tasks
        self._weight = weight
        self._leads = {teacher: [LeadOfTask() for _ in tasks] for teacher in teachers}
        self.recorded: list[TeacherWeight] = []

    def update(self, window: Window, examples: Examples, scores_BT: Floats) -> dict[str, Weights]:
        """Return the weights for a window whose labels are known, by teacher; `scores_BT` are the model's own."""
        return {teacher: self._of_teacher(teacher, window, examples, scores_BT) for teacher in self._leads}

    def _of_teacher(self, teacher: str, window: Window, examples: Examples, scores_BT: Floats) -> Weights:
        pseudo = examples.pseudo[teacher]
        is_stale = is_old(pseudo.ages_B, window)
        weights_T = np.zeros(len(self._tasks), dtype=np.float32)
        for place, (task, lead_of_task) in enumerate(zip(self._tasks, self._leads[teacher], strict=True)):
            lead = lead_of_task.after(
                labels_B=examples.labels_BT[:, place],
                weights_B=examples.weights_BT[:, place],
                own_B=scores_BT[:, place],
                pseudo_B=pseudo.probabilities_BT[:, place],
            )
            weights_T[place] = self._weight * float(np.clip(lead.at_least / FULL_LEAD, 0, 1)) if lead else 0
            self.recorded.append(
                TeacherWeight(
                    window=window.index,
                    teacher=teacher,
                    task=task,
                    weight=float(weights_T[place]),
                    lead=lead.lead if lead else None,
                    lead_std_error=lead.std_error if lead else None,
                    is_adapted=is_stale,
                )
            )
        return Weights(plain_T=weights_T, adapted_T=weights_T if is_stale else np.zeros_like(weights_T))


def is_old(ages_B: npt.NDArray[np.float64], window: Window) -> bool:
    """Return whether the snapshot that scored a window's examples was older than STALE_WINDOWS; unscored: not."""
    known_B = ages_B[~np.isnan(ages_B)]
    return bool(len(known_B)) and float(known_B.min()) > STALE_WINDOWS * (window.end - window.start)
