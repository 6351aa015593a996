"""How much of a teacher's weight reaches a vertical model: all of it, or what its pseudo-labels are worth.

Legend: B examples, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from exfm.artifact.manifest import Window
from exfm.distill.lead import Calibration, LeadOfTask
from exfm.events.examples import Examples, Floats
from exfm.training.manifest import TeacherWeight

FULL_LEAD = 0.01
"""Lead in normalized entropy from which a teacher gets the whole weight."""


@dataclass(frozen=True)
class Share:
    """The part of one teacher's weight that is in use."""

    weights_T: Floats
    """Part by task; 0 to 1."""
    calibrations: tuple[Calibration | None, ...] = ()
    """Of the pseudo-labels, by task; None, or empty: they are learned as they are."""

    @classmethod
    def whole(cls, num_tasks: int) -> Self:
        """Return the share of a method that is not `auto`."""
        return cls(weights_T=np.ones(num_tasks, dtype=np.float32))

    def targets(self, probabilities_BT: Floats) -> Floats:
        """Return pseudo-labels as they are learned."""
        if not self.calibrations:
            return probabilities_BT
        columns = zip(self.calibrations, probabilities_BT.T, strict=True)
        return np.stack([own.probabilities(of_B) if own else of_B for own, of_B in columns], axis=1)


class AutoShares:
    """The shares of method `auto`: for each teacher and task, computed before each window that is learned.

    The more a teacher leads and the less of its pseudo-labels is noise, the larger its share. What is known of the
    windows before is in no checkpoint: a model that goes on is told of them again.
    """

    def __init__(self, teachers: Sequence[str], tasks: Sequence[str], *, weight: float) -> None:
        """Compute the shares of these teachers, whose weight is `weight` each."""
        self._tasks = tasks
        self._weight = weight
        self._leads = {teacher: [LeadOfTask() for _ in tasks] for teacher in teachers}
        self.recorded: list[TeacherWeight] = []

    def update(self, window: Window, examples: Examples, scores_BT: Floats) -> dict[str, Share]:
        """Return the shares for a window whose labels are known, by teacher; `scores_BT` are the model's own.

        A teacher that leads in no task has none.
        """
        shares = {teacher: self._of_teacher(teacher, window, examples, scores_BT) for teacher in self._leads}
        return {teacher: share for teacher, share in shares.items() if share.weights_T.any()}

    def _of_teacher(self, teacher: str, window: Window, examples: Examples, scores_BT: Floats) -> Share:
        weights_T, calibrations = np.zeros(len(self._tasks), dtype=np.float32), []
        for place, (task, lead_of_task) in enumerate(zip(self._tasks, self._leads[teacher], strict=True)):
            lead = lead_of_task.after(
                labels_B=examples.labels_BT[:, place],
                weights_B=examples.weights_BT[:, place],
                own_B=scores_BT[:, place],
                pseudo_B=examples.pseudo[teacher].probabilities_BT[:, place],
            )
            weights_T[place] = lead.reliability * np.clip(lead.at_least / FULL_LEAD, 0, 1) if lead else 0
            calibrations.append(lead.calibration if lead else None)
            self.recorded.append(
                TeacherWeight(
                    window=window.index,
                    teacher=teacher,
                    task=task,
                    weight=self._weight * float(weights_T[place]),
                    lead=lead.lead if lead else None,
                    lead_std_error=lead.std_error if lead else None,
                )
            )
        return Share(weights_T=weights_T, calibrations=tuple(calibrations))
