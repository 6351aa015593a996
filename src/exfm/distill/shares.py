"""How much of a teacher's weight reaches a vertical model: all of it, or what its pseudo-labels are worth.

Legend: B examples, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from exfm.artifact.manifest import Window
from exfm.distill.lead import LeadOfTask, Softening
from exfm.events.examples import Examples, Floats
from exfm.training.manifest import TeacherWeight

FULL_LEAD = 0.01
"""Lead in normalized entropy from which a teacher gets the whole weight."""

STALE_WINDOWS = 2
"""Windows from which a snapshot is old enough for an adapter."""


@dataclass(frozen=True)
class Share:
    """The part of one teacher's weight that is in use."""

    trunk_T: Floats
    """Part of the gradient that an auxiliary head sends into the trunk, by task; 0 to 1."""
    is_adapted: bool
    """Whether the student adapter takes part."""
    softenings: tuple[Softening, ...] = ()
    """Softening of the targets of the auxiliary head without adapter, by task; empty: none."""

    @classmethod
    def whole(cls, num_tasks: int) -> Self:
        """Return the share of a method that is not `auto`."""
        return cls(trunk_T=np.ones(num_tasks, dtype=np.float32), is_adapted=True)

    def targets(self, probabilities_BT: Floats) -> Floats:
        """Return pseudo-labels as an auxiliary head learns them."""
        if not self.softenings:
            return probabilities_BT
        return np.stack([soft.of(probabilities_BT[:, task]) for task, soft in enumerate(self.softenings)], axis=1)


class AutoShares:
    """The shares of method `auto`: for each teacher and task, computed before each window that is learned.

    The more a teacher leads, the larger its share. The adapter takes part only where the snapshot that scored the
    window was old. What is known of the windows before is in no checkpoint, because vertical models are trained from
    the first window on.
    """

    def __init__(self, teachers: Sequence[str], tasks: Sequence[str], *, weight: float) -> None:
        """Compute the shares of these teachers, whose weight is `weight` each."""
        self._tasks = tasks
        self._weight = weight
        self._leads = {teacher: [LeadOfTask() for _ in tasks] for teacher in teachers}
        self.recorded: list[TeacherWeight] = []

    def update(self, window: Window, examples: Examples, scores_BT: Floats) -> dict[str, Share]:
        """Return the shares for a window whose labels are known, by teacher; `scores_BT` are the model's own."""
        return {teacher: self._of_teacher(teacher, window, examples, scores_BT) for teacher in self._leads}

    def _of_teacher(self, teacher: str, window: Window, examples: Examples, scores_BT: Floats) -> Share:
        pseudo = examples.pseudo[teacher]
        is_stale = is_old(pseudo.ages_B, window)
        trunk_T, softenings = np.zeros(len(self._tasks), dtype=np.float32), []
        for place, (task, lead_of_task) in enumerate(zip(self._tasks, self._leads[teacher], strict=True)):
            lead = lead_of_task.after(
                labels_B=examples.labels_BT[:, place],
                weights_B=examples.weights_BT[:, place],
                own_B=scores_BT[:, place],
                pseudo_B=pseudo.probabilities_BT[:, place],
            )
            trunk_T[place] = np.clip(lead.at_least / FULL_LEAD, 0, 1) if lead else 0
            softenings.append(lead.softening if lead else Softening())
            self.recorded.append(
                TeacherWeight(
                    window=window.index,
                    teacher=teacher,
                    task=task,
                    weight=self._weight * float(trunk_T[place]),
                    lead=lead.lead if lead else None,
                    lead_std_error=lead.std_error if lead else None,
                    is_adapted=is_stale,
                )
            )
        return Share(trunk_T=trunk_T, is_adapted=is_stale, softenings=tuple(softenings))


def is_old(ages_B: npt.NDArray[np.float64], window: Window) -> bool:
    """Return whether the snapshot that scored a window's examples was older than STALE_WINDOWS; unscored: not."""
    known_B = ages_B[~np.isnan(ages_B)]
    return bool(len(known_B)) and float(known_B.min()) > STALE_WINDOWS * (window.end - window.start)
